"""Diffusion policies with a bound of their entropy, after DIME (arXiv:2502.02316).

A policy is a controlled diffusion from x_K ~ N(0, prior^2 I) to the action a = tanh(x_0). With
eta_k = dt_k / friction, g(x) = -x / prior^2 the score of the prior, and a network f:

    (1) forward   x_{k-1} = x_k + eta_k (g(x_k) + f(o, x_k, k)) + sqrt(2 eta_k) xi_k
    (2) backward  x_k | x_{k-1} ~ N(x_{k-1} + eta_k g(x_{k-1}), 2 eta_k)            (no network)
    (3) run  = -(log w + sum log |tanh'(x_0)|),
        log w = sum_k log N_backward(x_k | x_{k-1}) - log N_forward(x_{k-1} | x_k)
    (4) term = log N(x_K; 0, prior^2 I)
    (5) entropy of the action >= E[ -(run + term) ]

The two kernels of (3) have one variance, so that their normalisers cancel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algorithms.nn.diffusion import time_features
from algorithms.nn.encode import action_mask, feature_width, n_networks
from algorithms.nn.stacked import LINE, StackedMLP
from benchmark.task import TaskSpec

FREQUENCIES = 4  # of the features of k
COSINE_OFFSET, COSINE_FLOOR = 0.008, 0.001  # of the steps dt_k
LAST_LAYER = 1e-8  # scale of the last layer's first weights: f starts at zero


def cosine_steps(steps: int) -> Tensor:
    """Relative sizes of dt_k in the order of denoising, k = K .. 1: long ones first."""
    phase = (torch.arange(steps) / steps + COSINE_OFFSET) / (1 + COSINE_OFFSET)
    return torch.cos(phase * math.pi / 2).square().clamp(min=COSINE_FLOOR)


def inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))


class DiffusionPolicy(nn.Module):
    """One policy for each network of the stack; rows of features [K, M, R, F] -> actions."""

    mask: Tensor
    dt: Tensor
    times: Tensor

    def __init__(
        self,
        gens: Sequence[torch.Generator],
        spec: TaskSpec,
        hidden: Sequence[int],
        steps: int,
        prior: float,
        scale: float,
    ) -> None:
        super().__init__()
        self.steps, self.prior = steps, prior
        n_in, n_out = feature_width(spec) + spec.act_dim + 2 * FREQUENCIES, spec.act_dim
        # Outputs and step sizes are padded to LINE: a seed's share then fills vector registers,
        # also in the sums of the backward pass, and is the same in a group as alone.
        spare = -n_out % LINE
        sizes = (n_in, *hidden, n_out + spare)
        self.net = StackedMLP(gens, (n_networks(spec),), sizes, activation=F.gelu)
        self.padding = n_networks(spec) * (spare * (sizes[-2] + 1) + 2 * (LINE - 1))
        last = self.net.linears[-1]
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.mul_(LAST_LAYER)
        shape = (len(gens), n_networks(spec), 1, LINE)
        self.scale = nn.Parameter(torch.full(shape, inverse_softplus(scale)))
        self.friction = nn.Parameter(torch.full(shape, inverse_softplus(1.0)))
        self.register_buffer("mask", action_mask(spec), persistent=False)  # [M, 1, A]
        self.register_buffer("dt", cosine_steps(steps), persistent=False)  # [K']
        times = torch.arange(steps, 0, -1) / steps
        self.register_buffer("times", time_features(times, FREQUENCIES), persistent=False)

    def rate(self) -> Tensor:
        """eta of a step of relative size 1: [K, M, 1, 1]."""
        return (F.softplus(self.scale) / F.softplus(self.friction))[..., :1]

    def drift(self, features: Tensor, x: Tensor, step: int | Tensor) -> Tensor:
        """f(o, x, k): [K, M, R, A]; steps are counted in the order of denoising, k = K - step."""
        time = self.times[step].expand(*x.shape[:-1], -1)
        f: Tensor = self.net(torch.cat([features, x, time], -1))
        return f[..., : x.shape[-1]] * self.mask

    def forward(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions [K, M, R, A], run and term [K, M, R].

        noise: [K, steps + 1, M, R, A], standard normal; the first is that of x_K.
        """
        rate = self.rate()
        noise = noise * self.mask
        x = self.prior * noise[:, 0]
        run = torch.zeros_like(x)  # summed over dimensions at the end
        term = -0.5 * noise[:, 0].square() - (math.log(self.prior) + 0.5 * math.log(2 * math.pi))
        pull = 1 / self.prior**2
        for k in range(self.steps):
            eta, xi = rate * self.dt[k], noise[:, k + 1]
            drift = self.drift(features, x, k)
            after = x + eta * (drift - pull * x) + (2 * eta).sqrt() * xi  # (1)
            back = x - after + eta * pull * after  # (2): distance from the backward mean
            run = run + back.square() / (4 * eta) - 0.5 * xi.square()  # (3)
            x = after
        run = run - 2 * (math.log(2) - x - F.softplus(-2 * x))  # log tanh'(x), without underflow
        total = ((part * self.mask).sum(-1) for part in (run, term))
        return torch.tanh(x) * self.mask, *total  # type: ignore[return-value]

    def mean_path(self, features: Tensor) -> Tensor:
        """The action of (1) without noise, from x_K = 0: [K, M, R, A]."""
        x = torch.zeros(*features.shape[:-1], self.mask.shape[-1], device=features.device)
        rate, pull = self.rate(), 1 / self.prior**2
        for k in range(self.steps):
            drift = self.drift(features, x, k)
            x = x + rate * self.dt[k] * (drift - pull * x)
        return torch.tanh(x) * self.mask
