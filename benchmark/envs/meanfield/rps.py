"""Rock, paper, scissors among N agents, with stakes that differ.

One step: with mu the distribution of all agents' choices,

    rock pays 2 mu(s) - mu(p)    paper pays 4 mu(r) - 2 mu(s)    scissors pay 6 mu(p) - 3 mu(r)

The game is that of Cui and Koeppl (arXiv:2102.01585); here the one move is the step. Its only
equilibrium is in closed form. It is not monotone, mirror descent circles it, and uniform play earns
more than the equilibrium does: it is exploitability that ranks, never the return.
"""

from __future__ import annotations

import re

import numpy as np

from benchmark.envs.meanfield.game import MAX_AGENTS, MeanFieldTask
from benchmark.task import Array, Family, Task

# Pay of the row's choice against a population of the column's: rock, paper, scissors
PAY = np.array([[0.0, -1.0, 2.0], [4.0, 0.0, -2.0], [-3.0, 6.0, 0.0]])


class RockPaperScissorsModel:
    """Limit N -> infinity."""

    n_obs, n_actions, horizon = 1, 3, 1

    def __init__(self) -> None:
        self.mu0 = np.ones(1)  # [O]

    def kernel(self, t: int, xi: Array) -> Array:
        return np.ones((1, self.n_actions, 1))  # [O, A, O]

    def reward(self, t: int, xi: Array) -> Array:
        return (PAY @ xi[0])[None]  # [O, A]

    def solve(self) -> Array:
        """The mixture against which all three choices pay the same."""
        mixture = np.linalg.solve(PAY, np.ones(3))
        return (mixture / mixture.sum())[None, None]  # [H, O, A]


def _build(match: re.Match[str]) -> Task:
    model = RockPaperScissorsModel()
    return MeanFieldTask(match[0], int(match["n"]), model, metric="exploitability")


FAMILY = Family(
    pattern=rf"meanfield/rps-n(?P<n>{MAX_AGENTS})-v1",
    examples=("meanfield/rps-n256-v1",),
    build=_build,
)
