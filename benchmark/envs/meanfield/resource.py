"""Resource selection: N agents share five resources and crowd each other out.

An agent's observation is the resource that it uses, its action the one to use next. At each step an
agent on resource o is paid dt (v_o - mu(o)), where mu is the distribution of all agents at that
moment; an active agent who moves pays 0.05 besides, and a passive one stays. All start on the worst
resource. There are 10 rounds, and a round's discount is 0.95; see `turns` for B of N agents.

The game is one of the two of TMF-PG (arXiv:2602.18026), whose parameters are not public: these are
ours. Payment is for the occupied resource: were it for the chosen one at the crowd before the move,
all would hop together onto whichever was empty a step ago, and that would be an equilibrium.

Were moves free, the agents would settle at water-filling: mu_o = max(0, v_o - c) with sum 1. The
crowding term makes the game monotone, so that this flow is unique.
"""

from __future__ import annotations

import functools
import re

import numpy as np

from benchmark.envs.meanfield.solve import solve_turns
from benchmark.envs.meanfield.turns import SIZES, Turns, TurnsTask, steps_per_round
from benchmark.task import Array, Family, Task

VALUES = np.array([1.0, 0.9, 0.8, 0.6, 0.3])  # v, per round
SWITCH = 0.05  # cost of a move


def water_filling() -> Array:
    """The stationary equilibrium without a cost of moves: mu [O]."""
    for k in range(len(VALUES), 0, -1):  # VALUES falls, so that the best k are used
        level = (VALUES[:k].sum() - 1) / k
        if VALUES[k - 1] > level:
            break
    return np.maximum(VALUES - level, 0)


class ResourceModel(Turns):
    """Limit N -> infinity. Only rewards depend on the population."""

    n_obs = n_actions = len(VALUES)
    rounds, discount = 10, 0.95

    def __init__(self, steps_per_round: int = 1) -> None:
        super().__init__(steps_per_round)
        self.mu0 = np.eye(self.n_obs)[-1]  # [O]
        self._move = np.broadcast_to(np.eye(self.n_obs), (self.n_obs,) * 3)  # [O, A, O]: to a
        self._stay = np.eye(self.n_obs)
        self._cost = SWITCH * (1 - np.eye(self.n_obs))  # [O, A]

    def active_kernel(self, mu: Array) -> Array:
        return self._move

    def passive_kernel(self, mu: Array) -> Array:
        return self._stay

    def active_reward(self, mu: Array) -> Array:
        return self.passive_reward(mu)[..., None] - self._cost

    def passive_reward(self, mu: Array) -> Array:
        return self.share * (VALUES - mu)

    def solve(self) -> Array:
        self.check_size()
        return equilibrium(self.steps_per_round).copy()


@functools.cache
def equilibrium(steps_per_round: int) -> Array:
    """pi[h, o, a] of the equilibrium, computed once per process."""
    return solve_turns(ResourceModel, steps_per_round, (500, 30), rate=0.5)


def _build(match: re.Match[str]) -> Task:
    return TurnsTask(match[0], int(match["n"]), ResourceModel(steps_per_round(match)))


FAMILY = Family(
    pattern=rf"meanfield/resource-{SIZES}-v1",
    examples=("meanfield/resource-n256-v1", "meanfield/resource-n256-b32-v1"),
    build=_build,
)
