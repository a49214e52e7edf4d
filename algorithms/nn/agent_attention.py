"""Attention between the agents of a team, over features of whole trajectories."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 4


class AgentAttention(nn.Module):
    """h + gamma attention(h): every agent reads the others' features of all steps at once.

    Queries and keys have C / 16 channels a step and head, values C / 4; each head flattens steps
    and channels, so that scores are [N, N] per head. gamma starts at 0: an untrained layer changes
    nothing. From arXiv:2305.17330, whose released code has the same sizes.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        narrow = channels // 16 * HEADS
        self.widths = [narrow, narrow, channels]
        self.read = nn.Linear(channels, sum(self.widths))  # queries, keys and values in one
        self.shift = nn.Linear(embedding, sum(self.widths))  # by noise level, return and agent
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """h [B, N, T, C], embedding [B, N, E] -> [B, N, T, C]."""
        read = self.read(h) + self.shift(F.mish(embedding)).unsqueeze(2)
        query, key, value = (self._by_head(x) for x in read.split(self.widths, -1))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # [B, heads, N, N]
        seen = scores.softmax(-1) @ value  # [B, heads, N, T C / heads]
        steps = h.shape[2]
        return h + self.gamma * seen.unflatten(-1, (steps, -1)).permute(0, 2, 3, 1, 4).flatten(3)

    @staticmethod
    def _by_head(x: Tensor) -> Tensor:
        """[B, N, T, heads c] -> [B, heads, N, T c]."""
        return x.unflatten(-1, (HEADS, -1)).permute(0, 3, 1, 2, 4).flatten(3)
