"""Gaussian diffusion in time k in [0, 1], for a network that predicts the clean sample x0.

Forward: x_k = sqrt(abar(k)) x0 + sqrt(1 - abar(k)) eps, with the cosine abar of Nichol and
Dhariwal (arXiv:2102.09672, eq. 17).
Reverse: deterministic DDIM (Song, Meng and Ermon, arXiv:2010.02502, eq. 12 with sigma = 0).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

OFFSET = 0.008  # Nichol and Dhariwal, section 3.2: keeps the first noise level above a pixel's bin
FLOOR = 1e-4  # abar(1) is not quite 0, so that eps can be recovered from x and x0 at every level


def alpha_bar(k: Tensor) -> Tensor:
    """Share of signal variance at time k: 1 - FLOOR or less, falling to FLOOR. Any shape."""
    angle = (k + OFFSET) / (1 + OFFSET) * (math.pi / 2)
    start = math.cos(OFFSET / (1 + OFFSET) * (math.pi / 2)) ** 2
    return (torch.cos(angle).square() / start).clamp(FLOOR, 1 - FLOOR)


def snr_weight(k: Tensor, low: float = 0.05, high: float = 5.0) -> Tensor:
    """Weight of an x0 loss: the clipped signal-to-noise ratio (min-SNR, arXiv:2303.09556)."""
    level = alpha_bar(k)
    return (level / (1 - level)).clamp(low, high)


def bell_weight(k: Tensor, low: float = 0.05) -> Tensor:
    """Weight of an x0 loss: 4 abar (1 - abar), at least `low`; 1 at a signal-to-noise ratio of 1.

    That is where the choice between one-hot values is made; a ratio of 5 finds them settled.
    """
    level = alpha_bar(k)
    return (4 * level * (1 - level)).clamp(min=low)


def expand(level: Tensor, x: Tensor) -> Tensor:
    """Noise level [B] (or []) shaped to broadcast against x [B, ...]."""
    return level.reshape(level.shape + (1,) * (x.ndim - level.ndim))


def add_noise(x0: Tensor, eps: Tensor, k: Tensor) -> Tensor:
    """Sample of x_k given x0 [B, ...], standard noise of its shape and times k [B]."""
    level = expand(alpha_bar(k), x0)
    return level.sqrt() * x0 + (1 - level).sqrt() * eps


def amplitudes(k: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of clean samples and of noise, at each of times k [T]."""
    level = alpha_bar(k)
    return list(zip(level.sqrt(), (1 - level).sqrt(), strict=True))


def ddim_step(
    x: Tensor, x0: Tensor, now: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]
) -> Tensor:
    """One deterministic step between two times, given their amplitudes and the predicted clean
    sample.
    """
    eps = (x - now[0] * x0) / now[1]
    return after[0] * x0 + after[1] * eps


def time_grid(steps: int, device: str | torch.device = "cpu") -> Tensor:
    """The steps + 1 times 1, ..., 0 that a sampler of `steps` network calls visits."""
    return torch.linspace(1.0, 0.0, steps + 1, device=device)


def time_features(k: Tensor, frequencies: int = 16) -> Tensor:
    """Sines and cosines of k [B] at log-spaced frequencies from 1 to 1,000: [B, 2 frequencies]."""
    scale = torch.logspace(0, 3, frequencies, device=k.device)
    angle = k[..., None] * scale
    return torch.cat([angle.sin(), angle.cos()], -1)
