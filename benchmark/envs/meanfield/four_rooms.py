"""Four rooms: N agents start in one corner and spread out as evenly as they can.

The map has 13 x 13 cells with its walls, 104 of them free. An agent stays or moves up, down, left
or right (a move into a wall is none), and then noise moves it once more, to a neighbour or not at
all, all that no wall forbids being equally likely. At each of 40 steps it is paid -log mu(cell),
mu being the distribution of all agents at that moment.

Map, moves, noise and reward are those of OpenSpiel's crowd modelling in two dimensions
(arXiv:2103.00623). Differences: observations are the free cells only, and all 40 decisions are
paid. The game is monotone, so that the flow of its equilibrium is unique and mirror descent finds
it.
"""

from __future__ import annotations

import functools
import re

import numpy as np

from benchmark.envs.meanfield.game import MAX_AGENTS, MeanFieldTask
from benchmark.envs.meanfield.solve import mirror_descent
from benchmark.task import Array, Family, Task

SIZE = 13
MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])  # action -> rows down, columns right


def free_cells() -> Array:
    """Which cells are free: [SIZE, SIZE] bool. A cross of walls with a door in each of its arms."""
    free = np.zeros((SIZE, SIZE), bool)
    free[1:-1, 1:-1] = True
    middle = SIZE // 2
    free[middle], free[:, middle] = False, False
    for door in (3, 9):
        free[middle, door] = free[door, middle] = True
    return free


CELLS = np.argwhere(free_cells())  # [O, 2] row and column of each observation


class FourRoomsModel:
    """Limit N -> infinity. Only rewards depend on the population."""

    n_obs, n_actions, horizon = len(CELLS), len(MOVES), 40

    def __init__(self) -> None:
        self.mu0 = np.eye(self.n_obs)[0]  # [O]
        at = np.full((SIZE, SIZE), -1)
        at[tuple(CELLS.T)] = np.arange(self.n_obs)
        reached = CELLS[:, None] + MOVES  # [O, A, 2]
        target = at[reached[..., 0], reached[..., 1]]  # [O, A]; -1: a wall
        noise = np.zeros((self.n_obs, self.n_obs))
        for a in range(self.n_actions):
            inside = np.flatnonzero(target[:, a] >= 0)
            noise[inside, target[inside, a]] += 1
        noise /= noise.sum(1, keepdims=True)
        landing = np.where(target >= 0, target, np.arange(self.n_obs)[:, None])
        self._kernel = noise[landing]  # [O, A, O]

    def kernel(self, t: int, xi: Array) -> Array:
        return self._kernel

    def reward(self, t: int, xi: Array) -> Array:
        # The floor is for estimated populations; true ones are positive wherever anyone stands.
        crowd = np.log(np.maximum(xi.sum(-1, keepdims=True), 1e-10))  # [O, 1]
        return np.repeat(-crowd, self.n_actions, axis=1)

    def solve(self) -> Array:
        return equilibrium().copy()


@functools.cache
def equilibrium() -> Array:
    """pi[h, o, a] of the equilibrium, computed once per process."""
    return mirror_descent(FourRoomsModel(), iterations=200, rate=0.1)


def _build(match: re.Match[str]) -> Task:
    return MeanFieldTask(match[0], int(match["n"]), FourRoomsModel(), metric="exploitability")


FAMILY = Family(
    pattern=rf"meanfield/four-rooms-n(?P<n>{MAX_AGENTS})-v1",
    examples=("meanfield/four-rooms-n256-v1",),
    build=_build,
)
