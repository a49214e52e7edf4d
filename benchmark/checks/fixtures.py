"""Tiny datasets in memory for checks and tests; they keep `benchmark.batch.Dataset`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmark.batch import Batch, Rngs
from benchmark.task import Array, Group, TaskSpec

# Two agents of different widths: the second one's observations and actions are padded.
TEAM = TaskSpec(
    id="toy/team-v1",
    groups=(Group("wide", 1, obs_dim=5, act_dim=2), Group("narrow", 1, obs_dim=3, act_dim=1)),
    horizon=6,
)
# Discrete actions, vector observations.
CHOICE = TaskSpec(
    id="toy/choice-v1", groups=(Group("agent", 2, obs_dim=4),), horizon=6, n_actions=3
)
# A finite mean-field game: the observation is an integer.
POPULATION = TaskSpec(
    id="toy/population-v1",
    groups=(Group("agent", 8, obs_dim=1),),
    horizon=4,
    n_actions=3,
    n_obs=5,
    exchangeable=True,
    metric="exploitability",
    deterministic_eval=False,
)
TOYS = (TEAM, CHOICE, POPULATION)


@dataclass
class ToyDataset:
    """Flat arrays of whole episodes; see `benchmark.batch.Dataset`."""

    id: str
    spec: TaskSpec
    starts: Array
    returns: Array
    obs: Array
    act: Array
    rew: Array
    policy: Array
    next_obs: Array  # [S, N, D]
    logp: Array | None = None  # [S, N]
    active: Array | None = None  # [S, N] bool
    content_sha256: str = ""
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def n_steps(self) -> int:
        return len(self.obs)

    @property
    def n_episodes(self) -> int:
        return len(self.starts) - 1

    def transitions(self, rngs: Rngs, batch_size: int, *, agents: int | None = None) -> Batch:
        rows = [rng.integers(self.n_steps, size=(batch_size, 1)) for rng in rngs]
        batch = self._batch(rngs, np.stack(rows), agents)
        batch.next_obs = self._slab(self.next_obs, np.stack(rows), batch.agent.numpy(), agents)
        return batch

    def windows(
        self,
        rngs: Rngs,
        batch_size: int,
        length: int,
        *,
        agents: int | None = None,
        align: bool = False,
    ) -> Batch:
        starts = [
            rng.choice(self.starts[:-1], batch_size)
            if align
            else rng.integers(self.n_steps, size=batch_size)
            for rng in rngs
        ]
        rows = np.stack(starts)[..., None] + np.arange(length)
        return self._batch(rngs, rows, agents)

    def _slab(self, array: Array, rows: Array, first: Array, agents: int | None) -> torch.Tensor:
        """Rows [K, B, T] of agents first:first + agents, zero past the episode's end."""
        episode = np.searchsorted(self.starts, rows[..., :1], side="right") - 1
        valid = rows < self.starts[episode + 1]
        columns = first[..., None] + np.arange(agents or self.spec.n_agents)  # [K, B, n]
        picked = array[np.where(valid, rows, 0)[..., None], columns[:, :, None]]
        picked = picked * valid.reshape(*valid.shape, *[1] * (picked.ndim - 3)).astype(array.dtype)
        found = torch.from_numpy(picked)
        return found if found.is_floating_point() else found.long()

    def _batch(self, rngs: Rngs, rows: Array, agents: int | None) -> Batch:
        free = self.spec.n_agents - (agents or self.spec.n_agents)
        first = np.stack([rng.integers(free + 1, size=rows.shape[1]) for rng in rngs])  # [K, B]
        episode = np.searchsorted(self.starts, rows[..., 0], side="right") - 1  # [K, B]
        valid = rows < self.starts[episode + 1][..., None]
        last = valid & (rows == self.starts[episode + 1][..., None] - 1)
        arrays = {"obs": self.obs, "act": self.act, "rew": self.rew, "logp": self.logp}
        slabs = {
            name: None if array is None else self._slab(array, rows, first, agents)
            for name, array in arrays.items()
        }
        return Batch(
            **slabs,  # type: ignore[arg-type]
            terminated=torch.zeros(rows.shape),
            truncated=torch.from_numpy(last.astype(np.float32)),
            valid=torch.from_numpy(valid),
            episode=torch.from_numpy(episode),
            step=torch.from_numpy(rows[..., 0] - self.starts[episode]),
            agent=torch.from_numpy(first),
        )


def toy_dataset(spec: TaskSpec, n_episodes: int = 40, seed: int = 0) -> ToyDataset:
    """Random episodes of `spec.horizon` steps; actions follow the observations: can be learned."""
    rng = np.random.default_rng(seed)
    steps, n_agents = n_episodes * spec.horizon, spec.n_agents
    shape = (steps + 1, n_agents)
    if spec.n_obs is not None:
        obs = rng.integers(spec.n_obs, size=(*shape, 1), dtype=np.int32)  # as in a file
    else:
        widths = np.repeat([g.obs_dim for g in spec.groups], [g.n_agents for g in spec.groups])
        obs = rng.normal(size=(*shape, spec.obs_dim)).astype(np.float32)
        obs *= np.arange(spec.obs_dim) < widths[:, None]
    if spec.n_actions is not None:
        wanted = np.floor(obs[:-1].sum(-1)).astype(np.int32) % spec.n_actions
        act = np.where(
            rng.random(wanted.shape) < 0.8, wanted, rng.integers(spec.n_actions, size=wanted.shape)
        ).astype(np.int32)
        logp = np.log(np.where(act == wanted, 0.8, 0.0) + 0.2 / spec.n_actions).astype(np.float32)
    else:
        widths = np.repeat([g.act_dim for g in spec.groups], [g.n_agents for g in spec.groups])
        act = np.tanh(obs[:-1, :, :1] + 0.3 * rng.normal(size=(steps, n_agents, spec.act_dim)))
        act = (act * (np.arange(spec.act_dim) < widths[:, None])).astype(np.float32)
        logp = None
    rew = rng.normal(size=(steps, n_agents)).astype(np.float32)
    return ToyDataset(
        id=spec.id.replace("-v1", "/random-v1"),
        spec=spec,
        starts=np.arange(0, steps + 1, spec.horizon),
        returns=rew.reshape(n_episodes, spec.horizon, n_agents).sum(1, dtype=np.float64),
        obs=obs[:-1],
        act=act,
        rew=rew,
        policy=np.zeros(n_episodes, np.int64),
        next_obs=obs[1:],
        logp=logp,
    )
