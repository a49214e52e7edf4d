"""Statistics of scores: aggregates, intervals, comparisons; the order of the scores is no matter.

Scores of one algorithm are *strata*: one array of seeds per dataset. The aggregates and the
stratified bootstrap follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (arXiv:2108.13264). Random numbers are seeded by the scores themselves and
read from the bit generator, whose stream NumPy guarantees: a board built again is the same board.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.task import Array

Strata = Sequence[Array]  # one [..., n_seeds] array per dataset; leading axes are resamples
Statistic = Callable[[Strata], Array]

RESAMPLES = 10_000
BOOTSTRAP_FROM = 5  # seeds; with fewer a percentile bootstrap covers far less than it says
T_975 = (  # Student's t at 97.5% with 1, 2, .. degrees of freedom; with more, the last is too wide
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157,
    2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922,
    2.093024, 2.085963, 2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831,
    2.048407, 2.045230, 2.042272,
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval; low and high are None for a single seed."""

    value: float
    low: float | None
    high: float | None
    method: str  # "IQM, bootstrap", "mean, t" or "one seed"


def mean(strata: Strata) -> Array:
    """Mean over datasets of the mean over seeds."""
    return np.mean([s.mean(-1) for s in strata], axis=0)


def median(strata: Strata) -> Array:
    """Median over datasets of the mean over seeds."""
    return np.median([s.mean(-1) for s in strata], axis=0)


def iqm(strata: Strata) -> Array:
    """Interquartile mean of all runs: a quarter of them, rounded down, is cut from each end."""
    pooled = np.sort(np.concatenate(strata, axis=-1), axis=-1)  # [..., runs]
    cut = pooled.shape[-1] // 4
    return pooled[..., cut : pooled.shape[-1] - cut].mean(-1)


def optimality_gap(strata: Strata, target: float = 100.0) -> Array:
    """Mean shortfall from `target` over all runs; a run above it does not make up for one below."""
    return (target - np.minimum(np.concatenate(strata, axis=-1), target)).mean(-1)


def canonical(strata: Strata) -> list[Array]:
    """The strata sorted within and among themselves: equal scores give equal bytes."""
    runs = [np.sort(np.asarray(s, dtype=np.float64) + 0.0) for s in strata]  # -0.0 becomes 0.0
    for stratum in runs:
        if stratum.ndim != 1 or stratum.size == 0 or not np.isfinite(stratum).all():
            raise ValueError(f"each dataset needs a vector of finite scores, got {stratum!r}")
    return sorted(runs, key=lambda s: s.tolist())


def resample(strata: Strata, resamples: int = RESAMPLES) -> list[Array]:
    """Stratified bootstrap: seeds drawn with replacement within each dataset.

    `strata` must be in a canonical order; equal strata give equal draws, [resamples, n_seeds] each.
    """
    digest = hashlib.sha256(b"".join(s.tobytes() + b"|" for s in strata)).digest()
    bits = np.random.PCG64(int.from_bytes(digest))
    draws = []
    for stratum in strata:
        n = stratum.size
        index = bits.random_raw(resamples * n) % np.uint64(n)  # bias below n / 2^64
        draws.append(stratum[index.reshape(resamples, n).astype(np.intp)])  # [resamples, n]
    return draws


def _percentiles(values: Array) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def bootstrap(strata: Strata, statistic: Statistic, resamples: int = RESAMPLES) -> Estimate:
    """`statistic` with its 95% percentile interval over resampled seeds."""
    runs = canonical(strata)
    low, high = _percentiles(statistic(resample(runs, resamples)))
    return Estimate(float(statistic(runs)), low, high, "bootstrap")


def estimate(seeds: Array) -> Estimate:
    """What a board shows of one dataset.

    From 5 seeds up the IQM with a bootstrap interval, below the mean with a t-interval.
    """
    (runs,) = canonical([seeds])
    if runs.size >= BOOTSTRAP_FROM:
        result = bootstrap([runs], iqm)
        return Estimate(result.value, result.low, result.high, "IQM, bootstrap")
    centre = float(runs.mean())
    if runs.size == 1:
        return Estimate(centre, None, None, "one seed")
    half = T_975[runs.size - 2] * float(runs.std(ddof=1)) / runs.size**0.5
    return Estimate(centre, centre - half, centre + half, "mean, t")


def ordered(strata: Strata, statistic: Statistic, resamples: int = RESAMPLES) -> Estimate:
    """`bootstrap` for a statistic in which each stratum has a part of its own."""
    runs = [canonical([s])[0] for s in strata]
    low, high = _percentiles(statistic(resample(runs, resamples)))
    return Estimate(float(statistic(runs)), low, high, "bootstrap")


def contrast(strata: Strata, weights: Sequence[float]) -> Estimate:
    """Weighted sum of the strata's means: a difference, a mean over datasets, a gain of gains.

    From 5 seeds a stratum up with a bootstrap interval; below, Welch's t-interval; with a single
    seed anywhere none.
    """
    runs = [canonical([s])[0] for s in strata]

    def total(sampled: Strata) -> Array:
        return np.sum([w * s.mean(-1) for w, s in zip(weights, sampled, strict=True)], axis=0)

    if min(s.size for s in runs) >= BOOTSTRAP_FROM:
        return ordered(runs, total)
    value = float(total(runs))
    if min(s.size for s in runs) == 1:
        return Estimate(value, None, None, "one seed")
    parts = [w**2 * s.var(ddof=1) / s.size for w, s in zip(weights, runs, strict=True)]
    if not sum(parts):
        return Estimate(value, value, value, "mean, t")
    freedom = sum(parts) ** 2 / sum(v**2 / (s.size - 1) for v, s in zip(parts, runs, strict=True))
    half = T_975[min(int(freedom + 1e-9), len(T_975)) - 1] * float(sum(parts)) ** 0.5
    return Estimate(value, value - half, value + half, "mean, t")


def improvement(x: Strata, y: Strata, resamples: int = RESAMPLES) -> Estimate:
    """Probability that a run of x beats one of y on the same dataset, averaged over datasets.

    Ties count half. `x` and `y` list the same datasets in the same order.
    """
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} datasets and y has {len(y)}")
    sides = [tuple(canonical([s])[0] for s in pair) for pair in zip(x, y, strict=True)]
    pairs = sorted(sides, key=lambda pair: tuple(s.tolist() for s in pair))
    draws = resample([s for pair in pairs for s in pair], resamples)

    def wins(a: Array, b: Array) -> Array:
        difference = a[..., :, None] - b[..., None, :]  # [..., n_x, n_y]
        return (0.5 * (np.sign(difference) + 1.0)).mean((-2, -1))

    value = np.mean([wins(a, b) for a, b in pairs])
    sampled = np.mean([wins(*draws[i : i + 2]) for i in range(0, len(draws), 2)], axis=0)
    return Estimate(float(value), *_percentiles(sampled), "bootstrap")


def profile(strata: Strata, thresholds: Array) -> Array:
    """Share of runs scoring above each threshold, [T]; datasets weigh alike."""
    return np.mean([(s[:, None] > thresholds).mean(0) for s in canonical(strata)], axis=0)


def with_failures(seeds: Array) -> Array:
    """Scores with each failed seed, NaN, replaced by random play or by the worst seed if lower."""
    return np.where(np.isnan(seeds), np.nanmin(seeds, initial=0.0), seeds)
