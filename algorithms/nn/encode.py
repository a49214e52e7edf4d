"""From a batch to the rows that the networks of a group see, and back.

Rows are [K, M, R, ...]: a team has M = N networks that see R = B rows each; an exchangeable
population has M = 1 network, shared by the agents, that sees R = B N rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.batch import Dataset
from benchmark.task import TaskSpec

STATISTICS_ROWS = 1_000_000  # rows (steps x agents) that means and spreads are taken from, at most


def n_networks(spec: TaskSpec) -> int:
    """M: one network for an exchangeable population, else one for each agent."""
    return 1 if spec.exchangeable else spec.n_agents


def to_rows(x: Tensor, spec: TaskSpec) -> Tensor:
    """[K, B, N, ...] -> [K, M, R, ...]."""
    return x.flatten(1, 2).unsqueeze(1) if spec.exchangeable else x.transpose(1, 2)


def from_rows(x: Tensor, spec: TaskSpec, n_agents: int) -> Tensor:
    """[K, M, R, ...] -> [K, B, N, ...]; `n_agents` is N of this batch."""
    return x.squeeze(1).unflatten(1, (-1, n_agents)) if spec.exchangeable else x.transpose(1, 2)


def action_mask(spec: TaskSpec) -> Tensor:
    """[M, 1, A] float: 1 where an agent has that action dimension, 0 where it is padding."""
    widths = [group.act_dim for group in spec.groups for _ in range(group.n_agents)]
    mask = torch.arange(spec.act_dim) < torch.tensor(widths)[:, None]
    return mask[: n_networks(spec), None].float()


def feature_width(spec: TaskSpec) -> int:
    return spec.n_obs + spec.horizon if spec.n_obs is not None else spec.obs_dim


def sampled_steps(data: Dataset) -> np.ndarray:
    """Indices of steps evenly spaced over the dataset; at least 100 however many the agents."""
    count = min(data.n_steps, max(100, STATISTICS_ROWS // data.spec.n_agents))
    return np.linspace(0, data.n_steps - 1, count).astype(np.int64)


class Encoder(nn.Module):
    """Observations -> network input.

    Vectors: normalised. Integers: one-hot, followed by the one-hot step of the episode.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        self.spec = spec
        shape = (n_networks(spec), 1, spec.obs_dim)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def fit(self, data: Dataset) -> None:
        """Mean and 1 / standard deviation per agent (population: over all agents) of the data."""
        if self.spec.n_obs is not None:
            return
        obs = np.asarray(data.obs[sampled_steps(data)], dtype=np.float64)  # [S, N, D]
        axes = (0, 1) if self.spec.exchangeable else (0,)
        shape = self.mean.shape
        self.mean.copy_(torch.as_tensor(obs.mean(axes).reshape(shape)))
        # A constant feature (padding, say) stays 0 instead of being divided by its rounding error.
        spread = obs.std(axes).reshape(shape)
        scale = np.where(spread > 1e-6, 1.0 / np.maximum(spread, 1e-6), 0.0)
        self.scale.copy_(torch.as_tensor(scale))

    def forward(self, obs: Tensor, step: Tensor) -> Tensor:
        """obs rows [K, M, R, D], step rows [K, M, R] (time inside the episode) -> [K, M, R, F]."""
        if self.spec.n_obs is None:
            return (obs - self.mean) * self.scale
        one_hot = F.one_hot(obs[..., 0], self.spec.n_obs)
        # A step past the horizon can only be a bootstrapped next state: it is the last one's.
        time = F.one_hot(step.clamp(max=self.spec.horizon - 1), self.spec.horizon)
        return torch.cat([one_hot, time], -1).float()


def mean_rows(x: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over rows, [K, M, R] -> [K, M]; `weight` [K, M, R] is 1 for living agents, else 0."""
    if weight is None:
        return x.mean(-1)
    return (x * weight).sum(-1) / weight.sum(-1).clamp(min=1.0)


def step_rows(step: Tensor, spec: TaskSpec, n_agents: int) -> Tensor:
    """Step of each transition [K, B] -> rows [K, M, R]."""
    return to_rows(step.unsqueeze(-1).expand(-1, -1, n_agents), spec)
