"""A denoiser of sets of trajectories: any number of exchangeable particles, cost linear in that.

DeepSets (Zaheer et al., arXiv:1703.06114) in the reducible form of MF-CDM (arXiv:2406.05396),
s(k, x, nu) = A(k, x) + B[nu](x): A is the path of one particle, B its field, what a representative
subset of the population exerts at each block and time step. Fields are

    mean       one learned mean
    isab       attention to a few inducing points that attended to the population, as in the Set
               Transformer (arXiv:1810.00825)
    attention  attention to the population itself, as teams have it; quadratic in the population
    none       no field: particles are denoised independently
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from algorithms.nn.diffusion import time_features

FREQUENCIES = 16
CHUNK = 8_192  # particles denoised at once, where a subset stands for the population: fit a cache


class MeanField(nn.Module):
    """One mean message for everyone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.message = nn.Linear(width, width)
        self.receive = nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """What a population c [B, C, H, W] exerts on particles h [B, M, H, W]: [B, 1, H, W]."""
        field: Tensor = self.receive(torch.relu(self.message(c)).mean(1, keepdim=True))
        return field


class AttentionField(nn.Module):
    """Each particle attends to the population, or to `points` that have attended to it."""

    def __init__(self, width: int, points: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(points, width) / width**0.5) if points else None
        self.collect = nn.Linear(width, 2 * width)  # keys and values of the population
        self.spread = nn.Linear(width, 2 * width) if points else None  # of the points
        self.ask = nn.Linear(width, width)
        self.receive = nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """[B, M, H, W] for particles h [B, M, H, W] in a population c [B, C, H, W]."""
        attend = nn.functional.scaled_dot_product_attention
        key, value = self.collect(c).transpose(1, 2).chunk(2, -1)  # [B, H, C, W]
        if self.points is not None and self.spread is not None:
            points = self.points.expand(*key.shape[:2], *self.points.shape)  # [B, H, I, W]
            key, value = self.spread(attend(points, key, value)).chunk(2, -1)
        found = attend(self.ask(h).transpose(1, 2), key, value)  # [B, H, M, W]
        field: Tensor = self.receive(found.transpose(1, 2))
        return field


FIELDS = ("mean", "isab", "attention", "none")
INDUCING = 16  # points of an isab field


def build_field(kind: str, width: int) -> nn.Module | None:
    if kind == "none":
        return None
    if kind == "mean":
        return MeanField(width)
    return AttentionField(width, INDUCING if kind == "isab" else 0)


class SetBlock(nn.Module):
    """h + MLP(conv(LN(h + time + field))); the field is what the population exerts, if anything.

    The convolution runs over the steps of a trajectory; kernel = 1: a linear map of each step.
    """

    def __init__(self, width: int, kernel: int, field: str) -> None:
        super().__init__()
        self.kernel = kernel
        self.field = build_field(field, width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(kernel * width, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, h: Tensor, time: Tensor, c: Tensor) -> Tensor:
        y = self.norm(h + (time if self.field is None else time + self.field(h, c)))  # [B, M, H, W]
        if self.kernel > 1:
            steps, reach = y.shape[2], self.kernel // 2
            y = nn.functional.pad(y, (0, 0, reach, reach))
            y = torch.cat([y[:, :, i : i + steps] for i in range(self.kernel)], -1)
        return h + self.mlp(y)


class SetDenoiser(nn.Module):
    """Predicts clean particles [B, M, H, D] from noisy ones; permutation-equivariant, for any M.

    starts: absolute steps that a particle can begin at; seen: width of what is known of the whole
    population; asked: width of what is asked of each particle. 0: nothing of that kind.
    """

    def __init__(
        self,
        steps: int,
        dim: int,
        width: int,
        blocks: int,
        field: str = "mean",
        *,
        starts: int = 0,
        seen: int = 0,
        asked: int = 0,
    ) -> None:
        super().__init__()
        kernel = 3 if steps > 1 else 1
        self.embed = nn.Linear(dim, width)
        self.position = nn.Parameter(0.1 * torch.randn(steps, width))
        self.time = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.start = nn.Embedding(starts, width) if starts else None
        self.seen = nn.Linear(seen, width) if seen else None
        self.asked = nn.Linear(asked, width) if asked else None
        self.blocks = nn.ModuleList([SetBlock(width, kernel, field) for _ in range(blocks)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, dim))

    def forward(
        self,
        x: Tensor,
        k: Tensor,
        context: Tensor | None = None,
        *,
        start: Tensor | None = None,
        seen: Tensor | None = None,
        asked: Tensor | None = None,
    ) -> Tensor:
        """x: [B, M, H, D] at times k [B]. context [B, C, H, D]: stands for the population. start
        [B] int64, seen [B, S], asked [B, R] as declared.
        """
        time = self.time(time_features(k, FREQUENCIES))  # [B, W]
        if self.start is not None:
            time = time + self.start(start)
        if self.seen is not None:
            time = time + self.seen(seen)
        if self.asked is not None:
            time = time + self.asked(asked)
        time, own = time[:, None, None], x.shape[1]
        # Those who stand for the population go the same way, behind the particles
        h = self.embed(x if context is None else torch.cat([x, context], 1)) + self.position
        *blocks, last = self.blocks
        for block in blocks:
            h = block(h, time, h if context is None else h[:, own:])  # [B, M + C, H, W]
        return self.head(last(h[:, :own], time, h if context is None else h[:, own:]))
