"""Trajectories of agents as the particles of a diffusion, and back.

A particle is a window of one agent's trajectory, [H, S + A]: at each step features of the state and
the action as a one-hot block of +-1. Finite states are one-hot blocks of +-1 too, none where there
is one state only; vectors are scaled to [-1, 1] by the data's limits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algorithms.nn.encode import sampled_steps
from benchmark.batch import Dataset
from benchmark.task import TaskSpec


class Particles(nn.Module):
    """The code of a task's windows of `steps` steps; without `actions` states alone."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: TaskSpec, steps: int, actions: bool) -> None:
        super().__init__()
        self.finite, self.n_obs, self.n_actions = spec.finite, spec.n_obs or 1, spec.n_actions or 1
        self.states = (0 if self.n_obs == 1 else self.n_obs) if self.finite else spec.obs_dim
        self.shape = (steps, self.states + (self.n_actions if actions else 0))
        self.register_buffer("low", -torch.ones(spec.obs_dim))
        self.register_buffer("high", torch.ones(spec.obs_dim))

    def fit(self, data: Dataset) -> None:
        """The limits of each number of a vector."""
        if self.finite:
            return
        obs = np.asarray(data.obs[sampled_steps(data)], np.float32)
        obs = obs.reshape(-1, obs.shape[-1])
        self.low.copy_(torch.as_tensor(obs.min(0)))
        self.high.copy_(torch.as_tensor(np.maximum(obs.max(0), obs.min(0) + 1e-6)))

    def features(self, obs: Tensor) -> Tensor:
        """States [..., D] -> [..., S] in [-1, 1]."""
        if not self.finite:
            return (2 * (obs - self.low) / (self.high - self.low) - 1).clamp(-1, 1)
        if not self.states:
            return torch.zeros(*obs.shape[:-1], 0, device=obs.device)
        return F.one_hot(obs[..., 0].long(), self.n_obs).float() * 2 - 1

    def encode(self, obs: Tensor, act: Tensor) -> Tensor:
        """States [B, H, M, D] and actions [B, H, M] -> particles [B, M, H, S + A]."""
        parts = [self.features(obs)]
        if self.shape[1] > self.states:
            parts.append(F.one_hot(act, self.n_actions).float() * 2 - 1)
        return torch.cat(parts, -1).transpose(1, 2)

    def state(self, x: Tensor) -> Tensor:
        """States [..., D] of the features [..., S] that particles begin with."""
        x = x[..., : self.states]
        if not self.finite:
            return self.low + (x + 1) / 2 * (self.high - self.low)
        if not self.states:
            return torch.zeros(*x.shape[:-1], 1, dtype=torch.int64, device=x.device)
        return x.argmax(-1, keepdim=True)

    def action(self, x: Tensor) -> Tensor:
        """Actions [...] of particles [..., S + A]: the largest of the block."""
        return x[..., self.states :].argmax(-1)
