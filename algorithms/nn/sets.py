"""A denoiser of sets: any number of exchangeable particles, cost linear in that number.

DeepSets (Zaheer et al., arXiv:1703.06114) in the reducible form of MF-CDM (arXiv:2406.05396),
s(k, x, nu) = A(k, x) + B[nu](x): A is the path of one particle, B is one learned mean per block,
over a representative subset of the population.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from algorithms.nn.diffusion import time_features

FREQUENCIES = 16


class SetBlock(nn.Module):
    """h + MLP(LN(h + time + U m)), m the population's mean message; without interaction U m = 0."""

    def __init__(self, width: int, interaction: bool) -> None:
        super().__init__()
        self.message = nn.Linear(width, width) if interaction else None
        self.receive = nn.Linear(width, width, bias=False) if interaction else None
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def field(self, h: Tensor) -> Tensor | None:
        """What a population [B, C, W] exerts on every particle: [B, 1, W]."""
        if self.message is None or self.receive is None:
            return None
        return self.receive(torch.relu(self.message(h)).mean(1, keepdim=True))

    def forward(self, h: Tensor, time: Tensor, field: Tensor | None) -> Tensor:
        shift = time if field is None else time + field
        return h + self.mlp(self.norm(h + shift))


class SetDenoiser(nn.Module):
    """Predicts clean particles [B, M, D] from noisy ones; permutation-equivariant, for any M.

    interaction = False drops every B[nu]: the particles are then denoised independently.
    """

    def __init__(self, dim: int, width: int, blocks: int, interaction: bool = True) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.time = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.blocks = nn.ModuleList([SetBlock(width, interaction) for _ in range(blocks)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, dim))

    def forward(self, x: Tensor, k: Tensor, context: Tensor | None = None) -> Tensor:
        """x: [B, M, D] at times k [B]. context [B, C, D]: stands for the population; None: x."""
        time = self.time(time_features(k, FREQUENCIES))[:, None]  # [B, 1, W]
        h = self.embed(x)  # [B, M, W]
        c = h if context is None else self.embed(context)  # [B, C, W]
        for block in self.blocks:
            assert isinstance(block, SetBlock)
            field = block.field(c)
            h = block(h, time, field)
            c = h if context is None else block(c, time, field)
        return self.head(h)
