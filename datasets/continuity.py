"""Where episodes really begin: a reset is a jump that the steps of an episode do not make.

The observation after a step lies near the one before it, and a reset starts elsewhere. So the
largest jumps between rows on end should be the boundaries of the index. Where nearly all of them
are, a boundary without a jump beside a jump without a boundary is one that was shifted. Data whose
jumps say nothing (independent observations, one-step games) are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmark.task import Array
from datasets.loader import Dataset
from datasets.schema import slabs

FEWEST = 8  # boundaries that a file must have for its jumps to be believed
EXPLAINED = 0.98  # share of the largest jumps that must be boundaries, at their place or one beside


def boundaries(data: Dataset) -> Iterator[str]:
    """Shifted boundaries and final observations of another episode."""
    n_resets = data.n_episodes - 1
    if n_resets < FEWEST or data.n_steps < 3 * data.n_episodes:
        return
    scales = _scales(data)
    jump = _jumps(data, scales)  # [S - 1]
    at = data.starts[1:-1] - 1  # the jump from the last row of an episode to the next episode
    large = np.zeros(len(jump) + 2, bool)  # one cell of padding on each side
    large[1 + np.argpartition(jump, -n_resets)[-n_resets:]] = True
    here, before, after = large[1 + at], large[at], large[2 + at]
    is_boundary = np.zeros(len(large), bool)
    is_boundary[1 + at] = True
    before, after = before & ~is_boundary[at], after & ~is_boundary[2 + at]
    shifted = ~here & (before | after)
    if (here | shifted).sum() < EXPLAINED * n_resets:
        return
    inner = jump[~large[1:-1]]
    least = np.quantile(jump[large[1:-1]], 0.05)
    if least < 2 * np.quantile(inner, 0.95):
        return
    # Some steps jump too (a collision): a boundary that is itself unlike a step stands rightly.
    shifted &= jump[at] <= np.quantile(inner, 0.999)
    if shifted.any():
        e = int(shifted.argmax())
        found = int(data.starts[e + 1])
        step = -1 if before[e] else 1
        yield (
            f"boundaries: /index/start at ({e + 1}) is {found}, but observations run on there and"
            f" jump at {found + step} ({int(shifted.sum())} such episodes), expected there:"
            " does a done flag belong to the row before or after it?"
        )
    last = _last_jumps(data, scales)  # [E]
    strange = last > max(np.sqrt(least * inner.max()), 1.5 * inner.max())
    if strange.any():
        e, name = int(strange.argmax()), f"final/{data.spec.groups[0].name}/obs"
        yield (
            f"boundaries: /{name} at ({e}) lies as far from the row before it as a reset"
            f" ({int(strange.sum())} such episodes); expected the observation after the last step."
        )


def copied_finals(data: Dataset) -> Iterator[str]:
    """Next observations are not stored, they are the next rows; the last one of an episode must be
    neither the row before it nor the first row of the next episode in every episode.
    """
    spec, starts = data.spec, data.starts
    if spec.n_obs == 1 or spec.horizon == 1 or data.n_steps == data.n_episodes:
        return
    for group in spec.groups:
        obs, final = data.arrays[f"steps/{group.name}/obs"], data.arrays[f"final/{group.name}/obs"]
        cases = (
            ("the last row of its", starts[1:] - 1, slice(None)),
            ("the first row of the next", starts[1:-1], slice(0, -1)),
        )
        for what, rows, episodes in cases:
            if len(rows) > 1 and _equal(obs, rows, final[episodes]):
                yield (
                    f"next obs: /final/{group.name}/obs at (0) and every episode repeats {what}"
                    " episode; store the observation after the last step."
                )


def _equal(obs: Any, rows: Array, final: Array) -> bool:
    if isinstance(obs, np.ndarray) and obs.nbytes < 1 << 28:
        return bool((obs[rows] == final).all())
    return all(bool((obs[r] == f).all()) for r, f in zip(rows, final, strict=True))


def _scales(data: Dataset) -> list[Array | None]:
    """Spread of each column of each group's observations [D]; None where they are states."""
    if data.spec.n_obs is not None:
        return [None] * len(data.spec.groups)
    scales: list[Array | None] = []
    for group in data.spec.groups:
        obs = data.arrays[f"steps/{group.name}/obs"]
        part = obs[next(slabs(obs))].astype(np.float64)
        spread = part.std(axis=(0, 1))
        scales.append(np.where(spread > 0, spread, np.inf))
    return scales


def _distance(one: Array, two: Array, scale: Array | None) -> Array:
    """Mean distance per agent: [R, n, D] twice -> [R, n]."""
    if scale is None:
        return (one != two)[..., 0].astype(np.float64)
    return (np.abs(one - two) / scale).mean(-1)


def _jumps(data: Dataset, scales: list[Array | None]) -> Array:
    """Mean over living agents of the distance from each row to the next: [S - 1]."""
    total, count = np.zeros(data.n_steps - 1), np.zeros(data.n_steps - 1)
    for group, scale in zip(data.spec.groups, scales, strict=True):
        obs = data.arrays[f"steps/{group.name}/obs"]
        alive = data.arrays.get(f"steps/{group.name}/alive")
        for rows in slabs(obs):
            stop = min(rows.stop, data.n_steps - 1)
            if stop <= rows.start:
                continue
            part = obs[rows.start : stop + 1]
            far = _distance(part[:-1], part[1:], scale)
            weight = np.ones(far.shape)
            if alive is not None:
                living = alive[rows.start : stop + 1] > 0
                weight = (living[:-1] & living[1:]).astype(np.float64)
            total[rows.start : stop] += (far * weight).sum(1)
            count[rows.start : stop] += weight.sum(1)
    return total / np.maximum(count, 1)


def _last_jumps(data: Dataset, scales: list[Array | None]) -> Array:
    """The same from each episode's last row to its final observation, agents that are still there
    only: [E].
    """
    total, count = np.zeros(data.n_episodes), np.zeros(data.n_episodes)
    for group, scale in zip(data.spec.groups, scales, strict=True):
        obs, final = data.arrays[f"steps/{group.name}/obs"], data.arrays[f"final/{group.name}/obs"]
        for episodes in slabs(final):
            rows = data.starts[1:][episodes] - 1
            end = final[episodes]
            far = _distance(obs[rows], end, scale)
            there = np.ones(far.shape, bool) if scale is None else (end != 0).any(-1)
            total[episodes] += (far * there).sum(1)
            count[episodes] += there.sum(1)
    return total / np.maximum(count, 1)
