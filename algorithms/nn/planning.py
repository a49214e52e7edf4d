"""What a planner by diffusion needs beside a network: noise levels, features of observations,
returns that can be asked for, and actions from plans.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algorithms.nn.stacked import StackedMLP, generators
from benchmark.batch import Dataset
from benchmark.task import Array, TaskSpec

KNOTS = 257  # quantiles of the CDF normaliser
SEEN_ROWS = 200_000  # steps that the normaliser is fitted to, at most
LARGEST = 0.995  # share of the data's steps that are no larger than `stride`


def noise_levels(steps: int) -> Tensor:
    """abar_1 .. abar_K of the capped squared-cosine schedule (arXiv:2102.09672), [K] float64."""
    k = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((k + 0.008) / 1.008 * torch.pi / 2).square()
    return (1 - (1 - f[1:] / f[:-1]).clamp(max=0.999)).cumprod(0)


def step_down(x: Tensor, clean: Tensor, level: float, lower: float, noise: Tensor | None) -> Tensor:
    """x at abar = level -> x at abar = lower, given the clean sample that was predicted from it: by
    the posterior of DDPM with this standard noise, or by DDIM without any. lower = 1 ends both.
    """
    if noise is None:
        eps = (x - level**0.5 * clean) / (1 - level) ** 0.5
        return lower**0.5 * clean + (1 - lower) ** 0.5 * eps
    alpha = level / lower
    mean = lower**0.5 * (1 - alpha) * clean + alpha**0.5 * (1 - lower) * x
    spread = ((1 - alpha) * (1 - lower) / (1 - level)) ** 0.5
    return mean / (1 - level) + spread * noise


def returns_to_go(data: Dataset, gamma: float) -> Array:
    """Discounted return from each step to its episode's end, [S, N] float64."""
    lengths, found = np.diff(data.starts), np.array(data.rew, dtype=np.float64)
    for t in range(int(lengths.max()) - 2, -1, -1):
        rows = data.starts[:-1][lengths > t + 1] + t
        found[rows] += gamma * found[rows + 1]
    return found


def ranks_by_step(values: Array, starts: Array) -> Array:
    """Rank in [0, 1] of each value [S, N] among those of the same step and agent."""
    lengths, ranks = np.diff(starts), np.empty(values.shape, np.float32)
    for t in range(int(lengths.max())):
        rows = starts[:-1][lengths > t] + t
        for i in range(values.shape[1]):
            v = values[rows, i]
            ordered = np.sort(v)
            below = np.searchsorted(ordered, v, "left") + np.searchsorted(ordered, v, "right")
            ranks[rows, i] = below / (2 * len(v))  # equal values have equal ranks
    return ranks


class Normaliser(nn.Module):
    """Observations [..., N, D] -> features [..., N, F] of about [-1, 1]; integers: +-1 one-hot."""

    knots: Tensor
    used: Tensor
    stride: Tensor

    def __init__(self, spec: TaskSpec, kind: str) -> None:
        super().__init__()
        self.n_obs = spec.n_obs
        width, count = spec.n_obs or spec.obs_dim, KNOTS if kind == "cdf" else 2
        ends = torch.linspace(-1, 1, count)
        self.register_buffer("knots", ends.repeat(spec.n_agents, width, 1))  # [N, D, Q] quantiles
        self.register_buffer("used", torch.ones(spec.n_agents, width))  # 0: constant in the data
        self.register_buffer("stride", 2 * self.used)  # [N, F] unit of a feature's change in a step

    def fit(self, data: Dataset) -> None:
        """Quantiles of each agent and dimension, the two limits where Q = 2; then the strides."""
        if self.n_obs is not None:
            return
        inside = np.setdiff1d(np.arange(data.n_steps), data.starts[1:] - 1)  # a next step follows
        pick = np.linspace(0, len(inside) - 1, min(len(inside), SEEN_ROWS)).astype(np.int64)
        obs, after = (np.asarray(data.obs[inside[pick] + i]) for i in (0, 1))  # [S, N, D]
        shares = np.linspace(0, 1, self.knots.shape[-1])
        knots = torch.as_tensor(np.quantile(obs, shares, axis=0)).permute(1, 2, 0)
        self.knots.copy_(knots)
        self.used.copy_(knots[..., -1] - knots[..., 0] > 1e-6)
        change = (self(torch.as_tensor(after)) - self(torch.as_tensor(obs))).abs().numpy()
        self.stride.copy_(torch.as_tensor(np.quantile(change, LARGEST, axis=0)).clamp(min=1e-3))

    def forward(self, obs: Tensor) -> Tensor:
        if self.n_obs is not None:
            return F.one_hot(obs[..., 0], self.n_obs).float() * 2 - 1
        count = self.knots.shape[-1]
        if count == 2:
            low, high = self.knots.unbind(-1)
            share = (obs - low) / (high - low).clamp(min=1e-6)
        else:
            rows = obs.flatten(0, -3).permute(1, 2, 0).contiguous()  # [N, D, R]
            after = torch.searchsorted(self.knots, rows).clamp(1, count - 1)
            low, high = self.knots.gather(-1, after - 1), self.knots.gather(-1, after)
            inside = ((rows - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
            share = ((after - 1 + inside) / (count - 1)).permute(2, 0, 1).view_as(obs)
        return (2 * share - 1) * self.used

    def changes(self, x: Tensor, later: Tensor) -> Tensor:
        """Features x [B, N, T, F] with the change from the step before, in strides and clipped to
        [-1, 1], in the place of each `later` step; later [T] bool, the first one false.
        """
        steps = (x.diff(dim=2) / self.stride[:, None]).clamp(-1, 1)
        return torch.cat([x[:, :, :1], torch.where(later[1:, None], steps, x[:, :, 1:])], 2)


class InverseDynamics(nn.Module):
    """Features of two steps on end, [..., N, F] each -> actions or logits [..., N, A].

    `models` is N, one for each agent, or 1 for all.
    """

    def __init__(self, seed: int, models: int, features: int, width: int, outputs: int) -> None:
        super().__init__()
        self.models = models
        sizes = (2 * features, width, width, outputs)
        self.body = StackedMLP(generators((seed,)), (models,), sizes)

    def forward(self, now: Tensor, after: Tensor) -> Tensor:
        x = torch.cat([now, after], -1)
        rows = x.reshape(-1, self.models, x.shape[-1]).transpose(0, 1)  # [M, R, 2 F]
        y = self.body(rows.unsqueeze(0))[0].transpose(0, 1)  # [R, M, A]
        return y.reshape(*x.shape[:-1], -1)
