"""Normalised Gaussian squeeze: N agents cooperate for one step by tuning their mean action.

With m the mean of the N actions in 0 .. 9, everyone is paid r = m exp(-((m - MEAN) / WIDTH)^2) / g,
where g is the highest value of the numerator, so that 1 is the optimum at every N. The game is that
of Yang et al. (arXiv:1802.05438) with its scale taken out: there the best sum of the actions is one
number for every N, and at N = 100 uniform play happens to be near it.
"""

from __future__ import annotations

import math
import re

import numpy as np

from benchmark.envs.meanfield.game import MAX_AGENTS, MeanFieldTask
from benchmark.task import Array, Family, Task

MEAN, WIDTH = 1.0, 0.5  # centre and width of the squeeze, in units of the mean action


def squeeze(m: float) -> float:
    """Unnormalised reward of the mean action m."""
    return m * math.exp(-(((m - MEAN) / WIDTH) ** 2))


def best_mean() -> float:
    """Root of d/dm log squeeze(m) = 1/m - 2 (m - MEAN) / WIDTH^2."""
    return (MEAN + math.sqrt(MEAN**2 + 2 * WIDTH**2)) / 2


class SqueezeModel:
    """Limit N -> infinity: the mean action is the policy's mean, and no agent alone can move it."""

    n_obs, n_actions, horizon = 1, 10, 1

    def __init__(self) -> None:
        self.mu0 = np.ones(1)  # [O]
        self.optimum = squeeze(best_mean())

    def kernel(self, t: int, xi: Array) -> Array:
        return np.ones((1, self.n_actions, 1))  # [O, A, O]

    def reward(self, t: int, xi: Array) -> Array:
        mean = float(xi.sum(0) @ np.arange(self.n_actions))
        return np.full((1, self.n_actions), squeeze(mean) / self.optimum)  # [O, A]

    def solve(self) -> Array:
        """The optimum: of all policies with the best mean, that of least variance, for finite N."""
        low, share = divmod(best_mean(), 1.0)
        pi = np.zeros((1, 1, self.n_actions))  # [H, O, A]
        pi[0, 0, int(low)], pi[0, 0, int(low) + 1] = 1 - share, share
        return pi


def _build(match: re.Match[str]) -> Task:
    return MeanFieldTask(match[0], int(match["n"]), SqueezeModel())


FAMILY = Family(
    pattern=rf"meanfield/squeeze-n(?P<n>{MAX_AGENTS})-v1",
    examples=tuple(f"meanfield/squeeze-n{n}-v1" for n in (1000, 100, 4000, 10_000)),
    build=_build,
)
