"""Categorical value distributions (C51, arXiv:1707.06887) on evenly spaced atoms."""

from __future__ import annotations

import torch
from torch import Tensor


def atoms(low: float, high: float, count: int) -> Tensor:
    """The support: [A]."""
    return torch.linspace(low, high, count)


def project(probabilities: Tensor, values: Tensor, support: Tensor) -> Tensor:
    """Mass at moved atoms `values` [..., A], shared by the two nearest atoms of `support` [A] in
    inverse proportion to their distance; what lies outside goes to the outermost: [..., A].
    """
    low, high = support[0], support[-1]
    width = (high - low) / (len(support) - 1)
    place = (values.clamp(low, high) - low) / width  # [..., A], in [0, A - 1]
    below = place.floor().clamp(max=len(support) - 2)
    share = place - below
    index = below.long()
    projected = torch.zeros_like(probabilities)
    projected = projected.scatter_add(-1, index, probabilities * (1 - share))
    return projected.scatter_add(-1, index + 1, probabilities * share)


def mean(logits: Tensor, support: Tensor) -> Tensor:
    """Expected value of the distributions: [..., A] -> [...]."""
    return (logits.softmax(-1) * support).sum(-1)


def cross_entropy(target: Tensor, logits: Tensor, entropy: float) -> Tensor:
    """-sum p_target log p + entropy sum p log p: the second term, DIME's, keeps p broad: [...]."""
    logp = logits.log_softmax(-1)
    return -((target - entropy * logp.exp()) * logp).sum(-1)
