"""Beach bar: N agents choose where to lie on a beach, near the bar but not in the crowd.

The beach is a torus of 10 places, the bar is at 5. An agent at x who moves by a in {-1, 0, 1} is
paid 1 - |x - 5| / 5 - |a| / 10 - log mu(x), where mu is the distribution of all agents at that
moment, and lands on x + a + noise, noise uniform in {-1, 0, 1}. Agents start uniformly; there are
10 decisions, and all 10 rewards count.

The game is that of Perrin et al. (arXiv:2007.03458) with the sizes of OpenSpiel. Difference: a move
is paid for when it is made, and the last decision is paid too. The game is monotone, so that the
flow of its equilibrium is unique and mirror descent finds it.
"""

from __future__ import annotations

import functools
import re

import numpy as np

from benchmark.envs.meanfield.game import MAX_AGENTS, MeanFieldTask
from benchmark.envs.meanfield.solve import mirror_descent
from benchmark.task import Array, Family, Task

MOVES = np.array([-1, 0, 1])  # action -> displacement
NOISE = np.array([-1, 0, 1])  # equally likely


class BeachBarModel:
    """Limit N -> infinity. The crowd term of the reward is all that depends on the population."""

    n_obs, n_actions, horizon = 10, 3, 10

    def __init__(self) -> None:
        place, bar = np.arange(self.n_obs), self.n_obs // 2
        self.mu0 = np.full(self.n_obs, 1 / self.n_obs)  # [O]
        self._fixed = (1 - np.abs(place - bar) / bar)[:, None] - np.abs(MOVES) / self.n_obs
        self._kernel = np.zeros((self.n_obs, self.n_actions, self.n_obs))  # [O, A, O]
        for a, move in enumerate(MOVES):
            for noise in NOISE:
                self._kernel[place, a, (place + move + noise) % self.n_obs] += 1 / len(NOISE)

    def kernel(self, t: int, xi: Array) -> Array:
        return self._kernel

    def reward(self, t: int, xi: Array) -> Array:
        # The floor is for estimated populations; true ones are positive wherever anyone stands.
        crowd = np.log(np.maximum(xi.sum(-1, keepdims=True), 1e-10))  # [O, 1]
        return self._fixed - crowd

    def solve(self) -> Array:
        return equilibrium().copy()


@functools.cache
def equilibrium() -> Array:
    """pi[h, o, a] of the equilibrium, computed once per process."""
    return mirror_descent(BeachBarModel(), iterations=1000, rate=2.0)


def _build(match: re.Match[str]) -> Task:
    return MeanFieldTask(match[0], int(match["n"]), BeachBarModel(), metric="exploitability")


FAMILY = Family(
    pattern=rf"meanfield/beach-bar-n(?P<n>{MAX_AGENTS})-v1",
    examples=tuple(f"meanfield/beach-bar-n{n}-v1" for n in (256, 1000, 10_000)),
    build=_build,
)
