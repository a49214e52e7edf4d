"""What the learners of a team share: a batch as rows, reward scales, joint inputs, checkpoints.

See `encode` for rows [K, M, R, ...]. Nothing here knows a loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from algorithms.nn.encode import sampled_steps, step_rows, to_rows
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.device import sent
from benchmark.errors import UserError
from benchmark.task import TaskSpec

NOISE_SEEDS = 1_000_000_000  # added to a seed for noise that is drawn apart from the weights'


class Rows(NamedTuple):
    """A batch of transitions as the rows that networks see."""

    obs: Tensor  # [K, M, R, D]
    act: Tensor  # [K, M, R, A], or [K, M, R] int64 where actions are discrete
    rew: Tensor  # [K, M, R]
    next_obs: Tensor  # [K, M, R, D]
    ended: Tensor  # [K, M, R] float, 1: do not bootstrap
    step: Tensor  # [K, M, R] int64, time inside the episode
    alive: Tensor | None  # [K, M, R] float


def rows_of(batch: Batch, spec: TaskSpec) -> Rows:
    """Rows of a batch of transitions (T = 1 with next_obs)."""
    assert batch.next_obs is not None
    n_agents = batch.obs.shape[3]
    ended = batch.terminated[:, :, 0, None].expand(-1, -1, n_agents)  # [K, B, N]
    return Rows(
        obs=to_rows(batch.obs[:, :, 0], spec),
        act=to_rows(batch.act[:, :, 0], spec),
        rew=to_rows(batch.rew[:, :, 0], spec),
        next_obs=to_rows(batch.next_obs[:, :, 0], spec),
        ended=to_rows(ended, spec),
        step=step_rows(batch.step, spec, n_agents),
        alive=None if batch.alive is None else to_rows(batch.alive[:, :, 0].float(), spec),
    )


def sample_rows(data: Dataset, rngs: Rngs, spec: TaskSpec, batch_size: int, agents: int) -> Batch:
    """Transitions of all agents of a team, or of a random slab of an exchangeable population."""
    slab = agents if spec.exchangeable and spec.n_agents > agents else None
    return data.transitions(rngs, batch_size, agents=slab)


def no_population(spec: TaskSpec, option: str) -> None:
    """Raise UserError where a critic of all agents side by side is asked for a population."""
    if spec.exchangeable:
        raise UserError(
            f"{option} sees all agents side by side, but the {spec.n_agents:,} agents of {spec.id}"
            " are exchangeable; expected a team."
        )


def side_by_side(*parts: Tensor) -> Tensor:
    """Rows of each agent [K, N, R, F] -> one row of the team [K, 1, R, sum of N F]."""
    return torch.cat([part.transpose(1, 2).flatten(2) for part in parts], -1).unsqueeze(1)


def reward_scale(data: Dataset, spec: TaskSpec) -> Tensor:
    """1 / standard deviation of each agent's reward (population: of all) in the data: [M, 1]."""
    rew = np.asarray(data.rew[sampled_steps(data)], dtype=np.float64)  # [S, N]
    spread = np.atleast_1d(rew.std() if spec.exchangeable else rew.std(0))  # [M]
    scale = np.where(spread > 1e-6, 1.0 / np.maximum(spread, 1e-6), 1.0)
    return torch.as_tensor(scale, dtype=torch.float32).reshape(-1, 1)


def normals(gens: list[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal noise of a group: the shape of `like` [K, ...], slice k from generator k."""
    noise = torch.stack([torch.randn(like.shape[1:], generator=gen) for gen in gens])
    return sent(noise, like.device)


def uniforms(gens: list[torch.Generator], shape: tuple[int, ...], device: str) -> Tensor:
    """Uniform noise in [0, 1): [K, *shape], slice k from generator k."""
    return sent(torch.stack([torch.rand(shape, generator=gen) for gen in gens]), device)


class Parts:
    """What a checkpoint holds, by name: modules, optimisers, tensors, and lists of generators."""

    def __init__(self, **parts: Any) -> None:
        self.parts = parts

    def state_dict(self) -> dict[str, Any]:
        return {name: _state(part) for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self.parts.items():
            if isinstance(part, Tensor):
                part.data.copy_(state[name])
            elif isinstance(part, list):
                for gen, stored in zip(part, state[name], strict=True):
                    gen.set_state(stored)
            else:
                part.load_state_dict(state[name])


def _state(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part
    if isinstance(part, list):
        return [gen.get_state() for gen in part]
    return part.state_dict()
