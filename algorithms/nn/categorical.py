"""Sampling discrete actions from probabilities, with one uniform number per agent."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from benchmark.task import Array


def allow(probabilities: Array, mask: Array | None) -> Array:
    """Probabilities [..., A] with forbidden actions at 0.

    Where nothing is left, uniform over the allowed ones.
    """
    if mask is None:
        return probabilities
    kept = np.where(mask, probabilities, 0.0)
    total = kept.sum(-1, keepdims=True)
    uniform = mask / mask.sum(-1, keepdims=True)
    return np.where(total > 0, kept / np.where(total > 0, total, 1.0), uniform)


def draw(probabilities: Array, u: Array) -> Array:
    """Inverse-transform sampling: probabilities [..., A], u [...] in [0, 1) -> actions [...]."""
    bounds = probabilities[..., :-1].cumsum(-1)
    action = (u[..., None] >= bounds).sum(-1)
    # Rounding may leave a gap at the end: never give an action of probability 0.
    last = probabilities.shape[-1] - 1 - (probabilities[..., ::-1] > 0).argmax(-1)
    return np.minimum(action, last)


def draw_table(table: Array, obs: Array, u: Array) -> Array:
    """The same from rows of a table [O, A] picked by obs [...], without an array [..., A]."""
    bounds = table[:, :-1].cumsum(-1)  # [O, A - 1]
    last = table.shape[-1] - 1 - (table[:, ::-1] > 0).argmax(-1)  # [O]
    action = np.zeros(u.shape, np.int64)
    for a in range(bounds.shape[-1]):
        action += u >= bounds[:, a][obs]
    return np.minimum(action, last[obs])


def generators(seed: int, seeds: ArrayLike) -> list[np.random.Generator]:
    """One acting generator per training seed `k`, whatever the group it is in."""
    return [np.random.default_rng((seed, int(k))) for k in np.atleast_1d(seeds)]
