"""What the learners of the online tracks share: settings of play, the team as one learner sees it.

A joint critic gets one row for the whole team, and the team's reward: the mean, the sum or the
named agent's, as the task forms its return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from algorithms.nn.encode import Encoder, from_rows, to_rows
from algorithms.nn.stacked import LINE
from algorithms.nn.team import rows_of, side_by_side
from benchmark.batch import Batch
from benchmark.errors import UserError
from benchmark.task import Array, TaskSpec


@dataclass(frozen=True)
class Playing:
    n_envs: int = 8  # episodes that a seed plays side by side
    warmup: int = 1_000  # environment steps of uniform play before the first update
    utd: float = 0.25  # gradient steps per environment step
    capacity: int = 1_000_000  # environment steps that a seed's buffer holds


class Team(NamedTuple):
    """A batch of transitions of a team."""

    features: Tensor  # [K, N, R, F]
    act: Tensor  # [K, N, R, A]
    rew: Tensor  # [K, R] the team's
    after: Tensor  # [K, N, R, F] features of the next observations
    ended: Tensor  # [K, R] float, 1: do not bootstrap
    alive: Tensor | None  # [K, N, R] float

    def joint(self, act: Tensor) -> Tensor:
        """Input of a joint critic: [K, 1, R, N (F + A)]; dead agents are zeros."""
        features = self.features
        if self.alive is not None:
            features, act = features * self.alive[..., None], act * self.alive[..., None]
        return side_by_side(features, act)

    def total(self, x: Tensor) -> Tensor:
        """Sum over living agents: [K, N, R] -> [K, R]."""
        return x.sum(1) if self.alive is None else (x * self.alive).sum(1)


def team_of(batch: Batch, encoder: Encoder, spec: TaskSpec) -> Team:
    rows = rows_of(batch, spec)
    rew = rows.rew if rows.alive is None else rows.rew * rows.alive
    return Team(
        encoder(rows.obs, rows.step),
        rows.act,
        team_reward(rew, spec),
        encoder(rows.next_obs, rows.step + 1),
        rows.ended[:, 0],
        rows.alive,
    )


def team_reward(rew: Tensor, spec: TaskSpec) -> Tensor:
    """[K, N, R] -> [K, R], as `TaskSpec.team` forms the return."""
    if spec.team_return == "mean":
        return rew.mean(1)
    if spec.team_return == "sum":
        return rew.sum(1)
    return rew[:, int(spec.team_return.rsplit("_", 1)[1])]


def heads(x: Tensor, count: int) -> Tensor:
    """The same rows for every head of a critic: [K, 1, R, J] -> [K, 1, count, R, J]."""
    return x.unsqueeze(2).expand(-1, -1, count, -1, -1)


def pad_rows(x: Tensor) -> Tensor:
    """Rows [..., R, C] filled up with zeros to a multiple of LINE, so that seeds do not meet."""
    return F.pad(x, (0, 0, 0, -x.shape[-2] % LINE))


def play_rows(encoder: Encoder, spec: TaskSpec, obs: Array, t: Array, device: str) -> Tensor:
    """Features of running episodes, rows padded: obs [K, E, N, D], t [K, E] -> [K, N, R, F]."""
    rows = to_rows(torch.as_tensor(obs, device=device), spec)
    step = torch.as_tensor(t, device=device)[:, None].expand(rows.shape[:-1])
    return pad_rows(encoder(rows, step))


def played(act: Tensor, spec: TaskSpec, n_envs: int) -> Array:
    """Actions of padded rows [K, N, R, A] -> [K, E, N, A]."""
    return from_rows(act[:, :, :n_envs], spec, spec.n_agents).cpu().numpy()


def clip_by_norm(gradients: Sequence[Tensor], bound: float) -> list[Tensor]:
    """Gradients [K, ...] scaled so that no seed's norm over all of them exceeds `bound`."""
    square = sum(g.flatten(1).square().sum(1) for g in gradients)
    factor = (bound / (torch.as_tensor(square).sqrt() + 1e-6)).clamp(max=1.0)  # [K]
    return [g * factor.reshape(-1, *[1] * (g.ndim - 1)) for g in gradients]


def check_range(config: Any, **limits: tuple[float, float]) -> None:
    """Raise UserError for a field of a Config outside its closed range."""
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise UserError(f"--config.{name} is {value}, expected {low:g} to {high:g}.")
