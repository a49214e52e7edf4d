"""Gaussian squeeze with the numbers of Yang et al.: N agents cooperate to reach a given sum.

One step: with x the sum of the N actions in 0 .. 9, everyone is paid x exp(-((x - 400) / 200)^2),
at most 423.03 (at x = 444.95). Rewards are left in the paper's unit (arXiv:1802.05438), so that its
figures can stand beside; `squeeze` is the same game with its scale taken out.

The scale is fixed while the sum grows with N, so that each N is another game. At N = 100, uniform
play happens to sum to 450 and scores 97.8% of the best: no N below 200 is offered, so that the game
cannot be won by doing nothing.
"""

from __future__ import annotations

import math
import re

import numpy as np

from benchmark.envs.meanfield.game import MAX_AGENTS, MeanFieldTask
from benchmark.errors import UserError
from benchmark.task import Array, Family, Task

CENTRE, WIDTH = 400.0, 200.0  # of the squeeze, in units of the sum
FEWEST = 200  # agents


def squeeze(x: float) -> float:
    """Reward of the sum x."""
    return x * math.exp(-(((x - CENTRE) / WIDTH) ** 2))


def best_sum() -> float:
    """Root of d/dx log squeeze(x) = 1/x - 2 (x - CENTRE) / WIDTH^2."""
    return (CENTRE + math.sqrt(CENTRE**2 + 2 * WIDTH**2)) / 2


class YangSqueezeModel:
    """The sum is N times the policy's mean, exactly; no agent alone can move it."""

    n_obs, n_actions, horizon = 1, 10, 1

    def __init__(self, n_agents: int) -> None:
        self.n_agents = n_agents
        self.mu0 = np.ones(1)  # [O]

    def kernel(self, t: int, xi: Array) -> Array:
        return np.ones((1, self.n_actions, 1))  # [O, A, O]

    def reward(self, t: int, xi: Array) -> Array:
        x = self.n_agents * float(xi.sum(0) @ np.arange(self.n_actions))
        return np.full((1, self.n_actions), squeeze(x))  # [O, A]

    def solve(self) -> Array:
        """The optimum: of all policies with the best mean, that of least variance."""
        low, share = divmod(best_sum() / self.n_agents, 1.0)
        pi = np.zeros((1, 1, self.n_actions))  # [H, O, A]
        pi[0, 0, int(low)], pi[0, 0, int(low) + 1] = 1 - share, share
        return pi


def _build(match: re.Match[str]) -> Task:
    n = int(match["n"])
    if n < FEWEST:
        raise UserError(
            f"task {match[0]!r}: N is {n}, expected {FEWEST} or more, since with few agents uniform"
            " play is near the best by chance; meanfield/squeeze has any N."
        )
    return MeanFieldTask(match[0], n, YangSqueezeModel(n))


FAMILY = Family(
    pattern=rf"meanfield/squeeze-yang-n(?P<n>{MAX_AGENTS})-v1",
    examples=("meanfield/squeeze-yang-n500-v1", "meanfield/squeeze-yang-n1000-v1"),
    build=_build,
)
