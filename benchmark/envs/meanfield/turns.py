"""Games of turns: at each step B of the N agents act, drawn uniformly, and the others wait.

With rho = B / N, a step lasts dt = rho of a round, so that an agent acts once a round on average
whatever B is, and B = N is the synchronous game. All that depends on time is scaled by the step:
running rewards and rates by dt, the discount of a step is discount^dt, and a policy has one table a
round. Else each B would be another game.

A tagged agent acts with probability rho, so its game is a Markov decision process with the averages

    kernel = rho P + (1 - rho) P0            reward = rho r + (1 - rho) r0

of the active parts P, r and the passive parts P0, r0; they depend on the population through mu
alone. `benchmark.envs.meanfield.solve` is exact on it. This is the setting of TMF-PG
(arXiv:2602.18026), except that there the value follows an agent who acts at every step.

What is paid at step t is discounted by the game itself, discount^(t dt): the sum of an episode's
rewards, which the suite reports, is the discounted return.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from benchmark.envs.meanfield.game import MAX_AGENTS, MeanFieldTask, PopulationEnv
from benchmark.errors import UserError
from benchmark.task import Array, ArrayEnv, TaskSpec

SIZES = rf"n(?P<n>{MAX_AGENTS})(-b(?P<b>{MAX_AGENTS}))?"  # of a task's name: N, and B where < N
MAX_STEPS = 1 << 16  # of an episode for which a policy table is solved for


class Turns(ABC):
    """A `benchmark.task.TurnsModel`, whose averages are made of its active and passive parts."""

    n_obs: int
    n_actions: int
    rounds: int
    discount: float  # per round
    mu0: Array  # [O]

    def __init__(self, steps_per_round: int = 1) -> None:
        self.steps_per_round = steps_per_round
        self.horizon = self.rounds * steps_per_round
        self.share = 1 / steps_per_round  # rho = B / N = dt

    @abstractmethod
    def active_kernel(self, mu: Array) -> Array:
        """P [..., O, A, O] for mu [..., O]; without leading axes where it ignores mu."""

    @abstractmethod
    def passive_kernel(self, mu: Array) -> Array:
        """P0 [..., O, O], with leading axes exactly where the active kernel has them."""

    @abstractmethod
    def active_reward(self, mu: Array) -> Array:
        """r [..., O, A] of one step, before the discount."""

    @abstractmethod
    def passive_reward(self, mu: Array) -> Array:
        """r0 [..., O] of one step, before the discount."""

    @abstractmethod
    def solve(self) -> Array:
        """The equilibrium, pi[h, o, a], with one table a round."""

    def weight(self, t: int) -> float:
        """Discount of what is paid at step t."""
        return float(self.discount ** (t * self.share))

    def kernel(self, t: int, xi: Array) -> Array:
        mu, rho = xi.sum(-1), self.share
        return rho * self.active_kernel(mu) + (1 - rho) * self.passive_kernel(mu)[:, None]

    def reward(self, t: int, xi: Array) -> Array:
        mu, rho = xi.sum(-1), self.share
        average = rho * self.active_reward(mu) + (1 - rho) * self.passive_reward(mu)[:, None]
        return self.weight(t) * average

    def check_size(self) -> None:
        """Raise UserError where an episode has too many steps to solve for a policy."""
        if self.horizon > MAX_STEPS:
            raise UserError(
                f"a policy table for {self.horizon} steps is too large to be solved for; expected"
                f" {MAX_STEPS} steps at most: name a task with a larger share B / N."
            )


class TurnsEnv(PopulationEnv):
    """Population of which B agents act at a step; who does is drawn when the step is taken."""

    def __init__(self, spec: TaskSpec, model: Turns) -> None:
        super().__init__(spec, model)
        self.turns = model
        self.turn_rngs: list[np.random.Generator] = []
        self._kernel: Array | None = None  # [O * A + O, O] where it ignores the population

    def reset(self, seeds: Sequence[int]) -> Array:
        # One more stream apart, so that who acts depends on neither the policy nor the moves
        self.turn_rngs = [np.random.default_rng([seed, 0xAC7]) for seed in seeds]
        return super().reset(seeds)

    def _rows(self, act: Array) -> Array:
        """A row per (o, a) for the active, then one per o for the passive."""
        rows = super()._rows(act)
        if self.turns.steps_per_round == 1:
            return rows
        n_agents, n_active = self.spec.n_agents, self.spec.n_agents // self.turns.steps_per_round
        self.active = np.zeros(self.obs.shape, bool)
        for row, rng in zip(self.active, self.turn_rngs, strict=True):
            # Unshuffled, this takes time in proportion to B where B is far below N.
            row[rng.choice(n_agents, n_active, replace=False, shuffle=False)] = True
        return np.where(self.active, rows, self.turns.n_obs * self.turns.n_actions + self.obs)

    def _tables(self, act: Array) -> tuple[Array, Sequence[Array]]:
        model, n_envs = self.turns, len(self.obs)
        counts = np.stack([np.bincount(x, minlength=model.n_obs) for x in self.obs])  # [E, O]
        mu = counts / self.spec.n_agents
        parts = model.active_reward(mu).reshape(n_envs, -1), model.passive_reward(mu)
        rewards = model.weight(self.t) * np.concatenate(parts, axis=1)  # [E, O * A + O]
        if self._kernel is not None:
            return rewards, [self._kernel]
        active, passive = model.active_kernel(mu), model.passive_kernel(mu)
        lead = active.shape[:-3]
        rows = np.concatenate([active.reshape(*lead, -1, model.n_obs), passive], axis=-2)
        if lead:
            return rewards, list(rows)
        self._kernel = rows
        return rewards, [rows]


class TurnsTask(MeanFieldTask):
    """A game of turns, competitive, so that it is ranked by exploitability."""

    def __init__(self, id: str, n_agents: int, model: Turns) -> None:
        super().__init__(id, n_agents, model, metric="exploitability")
        self._turns = model

    def arrays(self, n_envs: int) -> ArrayEnv:
        return TurnsEnv(self.spec, self._turns)


def steps_per_round(match: re.Match[str]) -> int:
    """N / B of a task's name; UserError where B is not a proper divisor of N."""
    n, b = int(match["n"]), match["b"]
    if b is None:
        return 1
    if int(b) == n:
        raise UserError(
            f"task {match[0]!r}: with B = N = {n} all agents act at each step, whose name has no"
            f" B: {match[0].replace(f'-b{b}', '')}."
        )
    if n % int(b):
        divisors = [d for d in range(1, n // 2 + 1) if n % d == 0]
        nearest = min(divisors, key=lambda d: abs(d - int(b)))
        raise UserError(
            f"task {match[0]!r}: B is {b}, expected a divisor of N = {n}; the nearest is {nearest}."
        )
    return n // int(b)
