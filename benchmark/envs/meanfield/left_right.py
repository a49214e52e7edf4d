"""Left-right: N agents go left or right, and the crowd on the right counts double.

One step: an agent who goes left is paid -mu(left), one who goes right -2 mu(right), where mu is the
distribution of all agents' choices. In equilibrium both pay alike, so that two thirds go left.

The game is that of Cui and Koeppl (arXiv:2102.01585), whose start, left and right are states there:
here the one move is the step, which is the same game.
"""

from __future__ import annotations

import re

import numpy as np

from benchmark.envs.meanfield.game import MAX_AGENTS, MeanFieldTask
from benchmark.task import Array, Family, Task

CROWDING = np.array([1.0, 2.0])  # cost of a whole population to the left, to the right


class LeftRightModel:
    """Limit N -> infinity. Strictly monotone: the equilibrium is unique."""

    n_obs, n_actions, horizon = 1, 2, 1

    def __init__(self) -> None:
        self.mu0 = np.ones(1)  # [O]

    def kernel(self, t: int, xi: Array) -> Array:
        return np.ones((1, self.n_actions, 1))  # [O, A, O]

    def reward(self, t: int, xi: Array) -> Array:
        return -CROWDING * xi  # [O, A]

    def solve(self) -> Array:
        """Equal costs on both sides: shares in proportion to 1 / CROWDING."""
        shares = 1 / CROWDING
        return (shares / shares.sum())[None, None]  # [H, O, A]


def _build(match: re.Match[str]) -> Task:
    return MeanFieldTask(match[0], int(match["n"]), LeftRightModel(), metric="exploitability")


FAMILY = Family(
    pattern=rf"meanfield/left-right-n(?P<n>{MAX_AGENTS})-v1",
    examples=("meanfield/left-right-n256-v1",),
    build=_build,
)
