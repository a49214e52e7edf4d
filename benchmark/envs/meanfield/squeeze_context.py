"""Contextual squeeze: the best mean action depends on a context that all agents see.

Each episode draws one of three centres, 0.5, 1 or 2, and all N agents observe which. They then play
one step of the normalised squeeze (`squeeze`) around that centre: with m their mean action, all are
paid m exp(-((m - centre) / 0.5)^2) over its maximum, so that 1 is the optimum in every context.

In the limit model a third of a population sees each context, and each third is paid for its own
mean action. Its value is the average over the contexts, hence that of the episodes.
"""

from __future__ import annotations

import re

import numpy as np

from benchmark.envs.meanfield.game import MAX_AGENTS, MeanFieldTask, PopulationEnv
from benchmark.task import Array, ArrayEnv, Family, Task

CENTRES = np.array([0.5, 1.0, 2.0])  # by context, in units of the mean action
WIDTH = 0.5


def best_means() -> Array:
    """Best mean action of each context [O]: root of 1/m - 2 (m - centre) / WIDTH^2."""
    return (CENTRES + np.sqrt(CENTRES**2 + 2 * WIDTH**2)) / 2


def squeeze(m: Array) -> Array:
    """Unnormalised reward of the mean action of each context, [O]."""
    return m * np.exp(-(((m - CENTRES) / WIDTH) ** 2))


class ContextModel:
    """Limit N -> infinity, as a mixture of three populations that do not meet."""

    n_obs, n_actions, horizon = 3, 10, 1

    def __init__(self) -> None:
        self.mu0 = np.full(self.n_obs, 1 / self.n_obs)  # [O]
        self.optimum = squeeze(best_means())  # [O]
        stay = np.eye(self.n_obs)[:, None]
        self._kernel = np.repeat(stay, self.n_actions, axis=1)  # [O, A, O]

    def kernel(self, t: int, xi: Array) -> Array:
        return self._kernel

    def reward(self, t: int, xi: Array) -> Array:
        mu = xi.sum(-1)  # [O]
        # A context that nobody sees pays 0: its mean action is not defined.
        mean = xi @ np.arange(self.n_actions) / np.where(mu > 0, mu, 1)
        pay = squeeze(mean) / self.optimum
        return np.repeat(pay[:, None], self.n_actions, axis=1)  # [O, A]

    def solve(self) -> Array:
        """The optimum: of all policies with the best means, that of least variance."""
        pi = np.zeros((1, self.n_obs, self.n_actions))  # [H, O, A]
        low, share = np.divmod(best_means(), 1.0)
        rows = np.arange(self.n_obs)
        pi[0, rows, low.astype(int)], pi[0, rows, low.astype(int) + 1] = 1 - share, share
        return pi


class ContextTask(MeanFieldTask):
    """All agents of an episode see the same context."""

    shared_start = True

    def arrays(self, n_envs: int) -> ArrayEnv:
        return PopulationEnv(self.spec, self._model, shared_start=True)


def _build(match: re.Match[str]) -> Task:
    return ContextTask(match[0], int(match["n"]), ContextModel())


FAMILY = Family(
    pattern=rf"meanfield/squeeze-context-n(?P<n>{MAX_AGENTS})-v1",
    examples=("meanfield/squeeze-context-n1000-v1",),
    build=_build,
)
