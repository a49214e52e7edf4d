"""Finite mean-field games with N agents: what all of them share.

A game is a `benchmark.task.GameModel`, the exact limit of infinitely many agents. The N-agent game
is the same model fed with what the N agents really did: at each step xi[o, a] is the empirical
distribution of observation and action (each agent included), agent i is paid
reward(t, xi)[o_i, a_i] and moves by kernel(t, xi)[o_i, a_i].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array, ArrayEnv, GameModel, Group, Step, Task, TaskSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

MAX_AGENTS = r"[1-9]\d{0,6}"  # N in a task's name: 1 .. 9,999,999, one way to write each


class Sampler:
    """Draws outcomes from the rows of a table [R, O]; only outcomes that can happen cost time."""

    def __init__(self, table: Array) -> None:
        possible = table > 0
        width = int(possible.sum(1).max())
        self.certain = width == 1  # every row has one outcome, and needs no noise
        # The outcomes of each row that are possible, in their order, then others to fill the row
        self.outcomes = np.argsort(~possible, axis=1, kind="stable")[:, :width]  # [R, W]
        left = np.take_along_axis(table, self.outcomes, 1)[:, 1:]  # [R, W - 1]
        edges = np.cumsum(table, axis=1)[np.arange(len(table))[:, None], self.outcomes[:, :-1]]
        # The last possible outcome takes what rounding leaves
        self.edges = np.where(left > 0, edges, np.inf).T.copy()  # [W - 1, R]

    def draw(self, rows: Array, noise: Array | None) -> Array:
        """One outcome per row: rows [...], uniform noise [...] (None: certain) -> [...]."""
        if noise is None:
            return self.outcomes[:, 0].take(rows)
        found = rows * self.outcomes.shape[1]
        for edge in self.edges:
            found += noise >= edge[rows]
        return self.outcomes.ravel().take(found)


def categorical(table: Array, rows: Array, noise: Array) -> Array:
    """One outcome per row of the table [R, O]: rows, uniform noise [...] -> [...]."""
    return Sampler(table).draw(rows, noise)


def joint(obs: Array, act: Array, n_obs: int, n_actions: int) -> Array:
    """Empirical xi[e, o, a] of each population: obs, act [E, N] -> [E, O, A]."""
    n_envs, n_agents = obs.shape
    rows = (np.arange(n_envs)[:, None] * n_obs + obs) * n_actions + act
    counts = np.bincount(rows.ravel(), minlength=n_envs * n_obs * n_actions)
    return counts.reshape(n_envs, n_obs, n_actions) / n_agents


def check_actions(spec: TaskSpec, act: Array, n_envs: int) -> None:
    """Raise UserError unless act is [E, N] integers in [0, n_actions)."""
    if act.shape != (n_envs, spec.n_agents) or act.dtype.kind not in "iu":
        expected = (n_envs, spec.n_agents)
        raise UserError(
            f"{spec.id}: actions are {act.dtype} of shape {act.shape}, expected integers of shape"
            f" {expected} = (episodes, agents)."
        )
    assert spec.n_actions is not None
    if act.min() < 0 or act.max() >= spec.n_actions:
        e, i = np.argwhere((act < 0) | (act >= spec.n_actions))[0]
        raise UserError(
            f"{spec.id}: agent_{i} of episode {e} plays {act[e, i]}, expected an integer from 0 to"
            f" {spec.n_actions - 1}."
        )


class PopulationEnv:
    """N agents of a finite game, E episodes in lockstep, each with a generator of its own."""

    def __init__(self, spec: TaskSpec, model: GameModel, shared_start: bool = False) -> None:
        """shared_start: all agents of an episode share one first observation, drawn from mu0."""
        self.spec, self.model, self.shared_start = spec, model, shared_start
        self.obs = np.zeros((0, spec.n_agents), np.int64)  # [E, N]
        self.active: Array | None = None  # [E, N] whose actions count now; None: everyone's
        self.rngs: list[np.random.Generator] = []
        self.t = 0
        self._first = Sampler(model.mu0[None])
        self._kept: tuple[Array, Sampler] | None = None  # the last kernel of all, and its sampler

    def reset(self, seeds: Sequence[int]) -> Array:
        """Independent first observations from mu0: [E, N, 1] int64."""
        self.t = 0
        # A stream apart: a policy that is seeded with the same number must not see the same draws.
        self.rngs = [np.random.default_rng([seed, 0xE17]) for seed in seeds]
        rows = np.zeros((len(seeds), 1 if self.shared_start else self.spec.n_agents), np.int64)
        first = self._draw(self._first, rows)
        self.obs = np.repeat(first, self.spec.n_agents // rows.shape[1], axis=1)
        return self.obs[:, :, None].copy()

    def step(self, act: Array) -> Step:
        """act: [E, N] integers. Rewards [E, N] are paid on the population before anyone moves."""
        n_envs = len(self.obs)
        if not n_envs or self.t >= self.spec.horizon:
            raise UserError(f"{self.spec.id}: step without a running episode; call reset first.")
        act = np.asarray(act)
        check_actions(self.spec, act, n_envs)
        rows = self._rows(act)
        rewards, kernels = self._tables(act)
        rew = rewards.take(rows + self._offsets(rewards.shape[1]))
        if len(kernels) == 1:
            self.obs = self._draw(self._sampler(kernels[0]), rows)
        else:
            tables = np.stack(kernels).reshape(-1, self.model.n_obs)  # [E * R, O]
            self.obs = self._draw(Sampler(tables), rows + self._offsets(rewards.shape[1]))
        self.t += 1
        ended = np.full(n_envs, self.t == self.spec.horizon)
        obs = self.obs[:, :, None].copy()
        return Step(obs, rew, np.zeros(n_envs, bool), ended, active=self.active)

    def _rows(self, act: Array) -> Array:
        """The row of the tables that each agent is paid and moved by: [E, N]."""
        return self.obs * self.model.n_actions + act

    def _tables(self, act: Array) -> tuple[Array, Sequence[Array]]:
        """Rewards of all rows [E, R]; a kernel [..., O] of R rows per episode, or one of all."""
        model = self.model
        xi = joint(self.obs, act, model.n_obs, model.n_actions)
        rewards = np.stack([model.reward(self.t, x).ravel() for x in xi])
        kernels = [model.kernel(self.t, x) for x in xi]
        if all(kernel is kernels[0] for kernel in kernels):  # it ignores the population
            kernels = kernels[:1]
        return rewards, kernels

    def _offsets(self, n_rows: int) -> Array:
        """First row of each episode where the tables of all lie one after the other: [E, 1]."""
        return n_rows * np.arange(len(self.obs))[:, None]

    def _sampler(self, kernel: Array) -> Sampler:
        if self._kept is None or kernel is not self._kept[0]:
            self._kept = kernel, Sampler(kernel.reshape(-1, self.model.n_obs))
        return self._kept[1]

    def _draw(self, sampler: Sampler, rows: Array) -> Array:
        """Next observations by rows of the sampler's table: [E, N] int64."""
        noise = None
        if not sampler.certain:
            noise = np.stack([rng.random(rows.shape[1]) for rng in self.rngs])  # [E, N]
        return sampler.draw(rows, noise)


class TablePolicy:
    """Samples pi[h, o, a], or takes its argmax; keeps the protocol `benchmark.evaluate.Policy`."""

    def __init__(self, table: Array) -> None:
        self.table = table  # [H, O, A]
        self.rng = np.random.default_rng(0)

    def begin(self, n_envs: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        """obs [E, N, 1] int -> [E, N] int64."""
        if deterministic:
            return self.table[t].argmax(-1)[obs[..., 0]]
        rows = obs[..., 0]
        return categorical(self.table[t], rows, self.rng.random(rows.shape))


class MeanFieldTask(Task):
    """A finite mean-field game played by N exchangeable agents."""

    shared_start = False  # True: the agents of an episode share one first observation

    def __init__(self, id: str, n_agents: int, model: GameModel, **spec: object) -> None:
        """spec: further fields of TaskSpec, such as `metric`."""
        self._model = model
        self.spec = TaskSpec(
            id=id,
            groups=(Group("agents", n_agents, obs_dim=1),),
            horizon=model.horizon,
            n_actions=model.n_actions,
            n_obs=model.n_obs,
            exchangeable=True,
            deterministic_eval=False,
            packages=("numpy",),
            **spec,  # type: ignore[arg-type]
        )

    def arrays(self, n_envs: int) -> ArrayEnv:
        return PopulationEnv(self.spec, self._model)

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        from benchmark.envs.parallel import ArrayParallelEnv

        return ArrayParallelEnv(self, render_mode)

    def model(self) -> GameModel:
        return self._model

    def expert(self) -> TablePolicy:
        """Samples the reference solution: equilibrium (competitive) or optimum (cooperative)."""
        return TablePolicy(self._model.solve())
