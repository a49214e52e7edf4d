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


def categorical(probabilities: Array, rows: Array, noise: Array) -> Array:
    """One outcome per row of the table probabilities [R, O]: rows, uniform noise [...] -> [...]."""
    n_rows, n_outcomes = probabilities.shape
    # Row r occupies [r, r + 1) of one increasing sequence, so that a single search serves all rows.
    edges = np.cumsum(probabilities, axis=1)[:, :-1]  # [R, O - 1]
    edges = np.arange(n_rows)[:, None] + np.minimum(edges, 1.0)
    found = np.searchsorted(edges.ravel(), rows + noise, side="right")
    return np.clip(found - rows * (n_outcomes - 1), 0, n_outcomes - 1)


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

    def __init__(self, spec: TaskSpec, model: GameModel) -> None:
        self.spec, self.model = spec, model
        self.obs = np.zeros((0, spec.n_agents), np.int64)  # [E, N]
        self.rngs: list[np.random.Generator] = []
        self.t = 0

    def reset(self, seeds: Sequence[int]) -> Array:
        """Independent initial observations from mu0: [E, N, 1] int64."""
        self.t = 0
        # A stream apart: a policy that is seeded with the same number must not see the same draws.
        self.rngs = [np.random.default_rng([seed, 0xE17]) for seed in seeds]
        rows = np.zeros((len(seeds), self.spec.n_agents), np.int64)
        self.obs = self._draw([self.model.mu0[None]] * len(seeds), rows)
        return self.obs[:, :, None].copy()

    def step(self, act: Array) -> Step:
        """act: [E, N] integers. Rewards [E, N] are paid on the population before anyone moves."""
        n_envs, model = len(self.obs), self.model
        if not n_envs or self.t >= self.spec.horizon:
            raise UserError(f"{self.spec.id}: step without a running episode; call reset first.")
        act = np.asarray(act)
        check_actions(self.spec, act, n_envs)
        xi = joint(self.obs, act, model.n_obs, model.n_actions)
        rewards = np.stack([model.reward(self.t, x) for x in xi])  # [E, O, A]
        rew = rewards[np.arange(n_envs)[:, None], self.obs, act]  # [E, N]
        kernels = [model.kernel(self.t, x) for x in xi]
        self.obs = self._draw(kernels, self.obs * model.n_actions + act)
        self.t += 1
        ended = np.full(n_envs, self.t == self.spec.horizon)
        return Step(self.obs[:, :, None].copy(), rew, np.zeros(n_envs, bool), ended)

    def _draw(self, tables: Sequence[Array], rows: Array) -> Array:
        """Next observations: a table [..., O] per episode, rows [E, N] of it -> [E, N] int64."""
        n_obs = self.model.n_obs
        if n_obs == 1:
            return np.zeros(rows.shape, np.int64)
        noise = np.stack([rng.random(rows.shape[1]) for rng in self.rngs])  # [E, N]
        first = tables[0]
        if all(table is first for table in tables):  # a kernel that ignores the population
            return categorical(first.reshape(-1, n_obs), rows, noise)
        each = zip(tables, rows, noise, strict=True)
        return np.stack([categorical(t.reshape(-1, n_obs), r, u) for t, r, u in each])


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
