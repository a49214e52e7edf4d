"""Diffusion in continuous time, the VP-SDE of Song et al. (arXiv:2011.13456), and noise networks.

(1) x_t = alpha_t x + sigma_t z,  z ~ N(0, I),  t in (0, 1]
(2) log alpha_t = -t^2 (beta_1 - beta_0) / 4 - t beta_0 / 2,  sigma_t^2 = 1 - alpha_t^2
(3) eps(x_t, t | c) = E[z | x_t, c] = -sigma_t * grad log p_t(x_t | c)
(4) for a mixture sum_k w_k N(m_k, s^2 I):  p_t = sum_k w_k N(alpha_t m_k, v I) with
    v = alpha_t^2 s^2 + sigma_t^2, so that eps = sigma_t sum_k P(k | x_t) (x_t - alpha_t m_k) / v
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algorithms.nn.stacked import StackedLinear, StackedNorm

BETA_0, BETA_1 = 0.1, 20.0


def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """(2): shares of signal and of noise at times t, any shape."""
    log_alpha = -t.square() * ((BETA_1 - BETA_0) / 4) - t * (BETA_0 / 2)
    return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()


def add_noise(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """(1): t [...] for x and z [..., A]."""
    alpha, sigma = alpha_sigma(t.unsqueeze(-1))
    return alpha * x + sigma * z


def mixture_noise(x: Tensor, t: Tensor, modes: Tensor, weights: Tensor, spread: float) -> Tensor:
    """(4): the exact eps of a mixture; x [..., A], t [...], modes [k, A], weights [..., k]."""
    alpha, sigma = alpha_sigma(t.unsqueeze(-1))
    variance = alpha.square() * spread**2 + sigma.square()  # [..., 1]
    away = x.unsqueeze(-2) - alpha.unsqueeze(-1) * modes  # [..., k, A]
    fit = weights.log() - 0.5 * away.square().sum(-1) / variance
    share = fit.softmax(-1).unsqueeze(-1)  # P(k | x_t)
    return sigma * (share * away).sum(-2) / variance


class NoiseNetwork(nn.Module):
    """A stack of residual networks for (3): [K, S, R, .] -> [K, S, R, n_out].

    Of t they see alpha and sigma: sines and cosines of it slowed learning. A seed's share of R rows
    and `width` are multiples of 16, as everywhere in a stack.
    """

    def __init__(
        self,
        gens: Sequence[torch.Generator],
        n_stack: int,
        n_condition: int,
        n_out: int,
        width: int,
        blocks: int,
    ) -> None:
        super().__init__()
        stack, n_in = (n_stack,), n_out + n_condition + 2
        self.enter = StackedLinear(gens, stack, n_in, width)
        self.norms = nn.ModuleList(StackedNorm(len(gens), stack, width) for _ in range(blocks))
        self.inner = nn.ModuleList(
            StackedLinear(gens, stack, width, width) for _ in range(2 * blocks)
        )
        self.leave = StackedLinear(gens, stack, width, n_out)

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """noisy [K, S, R, n_out], t [K, S, R], condition [K, S, R, n_condition]."""
        h = self.enter(torch.cat([noisy, condition, *alpha_sigma(t.unsqueeze(-1))], -1))
        for i, norm in enumerate(self.norms):
            h = h + self.inner[2 * i + 1](F.relu(self.inner[2 * i](F.relu(norm(h)))))
        out: Tensor = self.leave(F.relu(h))
        return out
