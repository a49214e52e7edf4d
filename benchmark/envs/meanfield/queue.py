"""Dynamic queueing: N agents choose among four servers and wait until they are served.

An agent is idle (observation 0) or waits at server k = 1 .. 4. At each step the agents at server k
are served, each with probability 1 - exp(-dt c_k / (mu_k + 0.02)), where mu_k is their share at
that moment; who is served is idle again. An active idle agent joins the queue of its choice; the
actions of others do not count. Waiting costs 0.2 dt, a service pays 1, and an agent is paid what it
expects: its probability of service less the cost. All start idle. There are 10 rounds, and a
round's discount is 0.95; see `turns` for B of N agents.

The game is the second of TMF-PG (arXiv:2602.18026), whose parameters are not public: these are
ours. In its stationary equilibrium all queues serve at one rate: mu_k + 0.02 is proportional
to c_k.
"""

from __future__ import annotations

import functools
import re

import numpy as np

from benchmark.envs.meanfield.solve import solve_turns
from benchmark.envs.meanfield.turns import SIZES, Turns, TurnsTask, steps_per_round
from benchmark.task import Array, Family, Task

CAPACITY = np.array([0.30, 0.20, 0.10, 0.05])  # c, shares of the population served in a round
FLOOR = 0.02  # keeps the rate of an empty queue finite
WAGE, WAITING = 1.0, 0.2  # paid for a service; cost of waiting, per round


class QueueModel(Turns):
    """Limit N -> infinity. Rewards and kernels depend on the population."""

    n_obs, n_actions = len(CAPACITY) + 1, len(CAPACITY)
    rounds, discount = 10, 0.95

    def __init__(self, steps_per_round: int = 1) -> None:
        super().__init__(steps_per_round)
        self.mu0 = np.eye(self.n_obs)[0]  # [O]

    def served(self, mu: Array) -> Array:
        """Probability of service in one step: mu [..., O] -> [..., O]; 0 for the idle."""
        chance = np.zeros(mu.shape)
        chance[..., 1:] = -np.expm1(-self.share * CAPACITY / (mu[..., 1:] + FLOOR))
        return chance

    def active_kernel(self, mu: Array) -> Array:
        kernel = np.repeat(self.passive_kernel(mu)[..., None, :], self.n_actions, axis=-2)
        kernel[..., 0, :, 0] = 0
        kernel[..., 0, :, 1:] = np.eye(self.n_actions)
        return kernel

    def passive_kernel(self, mu: Array) -> Array:
        chance = self.served(mu)[..., None]
        kernel = (1 - chance) * np.eye(self.n_obs)
        kernel[..., :1] += chance
        return kernel

    def active_reward(self, mu: Array) -> Array:
        reward = self.passive_reward(mu)[..., None]
        return np.repeat(reward, self.n_actions, axis=-1)

    def passive_reward(self, mu: Array) -> Array:
        waits = np.arange(self.n_obs) > 0
        return WAGE * self.served(mu) - WAITING * self.share * waits

    def solve(self) -> Array:
        self.check_size()
        return equilibrium(self.steps_per_round).copy()


@functools.cache
def equilibrium(steps_per_round: int) -> Array:
    """pi[h, o, a] of the equilibrium, computed once per process."""
    return solve_turns(QueueModel, steps_per_round, (60, 30), rate=1.0)


def _build(match: re.Match[str]) -> Task:
    return TurnsTask(match[0], int(match["n"]), QueueModel(steps_per_round(match)))


FAMILY = Family(
    pattern=rf"meanfield/queue-{SIZES}-v1",
    examples=("meanfield/queue-n256-v1", "meanfield/queue-n256-b32-v1"),
    build=_build,
)
