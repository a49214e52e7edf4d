"""What a claim's card can ask of records and studies: each kind of test with its measurement.

A test is a few lines of TOML, see `leaderboard/claims`. Its `measure` names the kind:

    contrast     weighted sum of rows' scores: a difference, a gain of gains, a distance to 100
    trend        slope of a row's score, less another's, on log10 of the population's size
    relative     percent by which a row's mean score is above that of the best of others
    share        share of datasets on which a row's mean score is above all others'
    speed-up     environment steps of a row over those another takes to reach its last return
    study        cells of leaderboard/studies or leaderboard/perf, each by itself
    study-ratio  ratio of two cells of one study

The last two are in `leaderboard/studies.py`. Seeds are resampled within each row and dataset; below
5 seeds a linear measure has Welch's t-interval, any other its value alone. Failed seeds count, as
on the boards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from benchmark.task import Array
from leaderboard import scores
from leaderboard.rows import Row
from leaderboard.scores import BOOTSTRAP_FROM, Estimate


@dataclass(frozen=True)
class Evidence:
    """What claims are held against."""

    rows: Sequence[Row]
    studies: Mapping[str, Any]  # name, such as "population_error" or "perf/om2p" -> its JSON
    obstacle: Callable[[str, str], str]  # row, dataset or task -> why it cannot run here, or ""

    protocol: str = ""  # of the rows, see `under`

    def under(self, protocol: str) -> Evidence:
        """With the rows of one protocol alone."""
        rows = [row for row in self.rows if row.board.protocol == protocol]
        return replace(self, rows=rows, protocol=protocol)


@dataclass(frozen=True)
class Measured:
    """A value with its interval, the fewest seeds behind it, and the rows that gave it."""

    estimate: Estimate
    seeds: int | None = None  # None: the study's interval is not over training seeds
    rows: tuple[Row, ...] = ()


class Missing(Exception):
    """Why something is not measured; `possible` says whether this suite could measure it."""

    def __init__(self, reason: str, possible: bool = True) -> None:
        super().__init__(reason)
        self.possible = possible


@dataclass(frozen=True, kw_only=True)
class Test:
    """The bound that the whole interval must keep, and what the paper has, if it prints a number.

    `within` is an equivalence test: too wide an interval fails it.
    """

    above: float | None = None
    below: float | None = None
    within: tuple[float, float] | None = None
    paper: float | None = None
    unit: str = ""

    def bounds(self) -> tuple[float, float]:
        if self.within is not None:
            return self.within
        low = -math.inf if self.above is None else self.above
        return low, math.inf if self.below is None else self.below

    def holds(self, found: Estimate) -> bool:
        low, high = self.bounds()
        if found.low is None or found.high is None:
            return False
        return low <= found.low and found.high <= high

    def measured(self, evidence: Evidence) -> list[Measured]:
        """Every value that must keep the bound; raises Missing."""
        raise NotImplementedError


def find(evidence: Evidence, name: str, board: str, config: Mapping[str, Any] | None = None) -> Row:
    """The row of an algorithm on a dataset (or task) with the most seeds; raises Missing."""
    if reason := evidence.obstacle(name, board):
        raise Missing(reason, possible=False)

    def fits(row: Row) -> bool:
        if not row.runs or row.algo != name or row.board.title != board:
            return False
        return all(row.runs[0].config.get(k) == v for k, v in (config or {}).items())

    rows = [row for row in evidence.rows if fits(row)]
    wanted = f" with {dict(config)}" if config else ""
    if not rows:
        raise Missing(f"there are no {evidence.protocol} records of {name}{wanted} on {board}")
    row = max(rows, key=lambda r: (len(r.seeds), r.label))
    if row.score is None:
        raise Missing(f"{name} has no score on {board}: {row.board.unscored or row.notes[0]}")
    for note in row.notes:  # seeds of the protocol that are missing, data that are not the listed
        if note.startswith("not ranked: "):
            raise Missing(
                f"{name} on {board} may not be ranked: {note.removeprefix('not ranked: ')}"
            )
    return row


def points(row: Row) -> Array:
    """Normalised score of each seed, failures as on the board."""
    return np.array(row.points, dtype=np.float64)


def measured(
    rows: Sequence[Row], strata: Sequence[Array], statistic: scores.Statistic
) -> list[Measured]:
    """A statistic of several rows' seeds, with its bootstrap interval from 5 seeds up."""
    fewest = min(s.shape[-1] for s in strata)
    if fewest >= BOOTSTRAP_FROM:
        found = scores.ordered(strata, statistic)
    else:
        found = Estimate(float(statistic(strata)), None, None, "too few seeds")
    return [Measured(found, fewest, tuple(rows))]


@dataclass(frozen=True)
class Term:
    """A row's score, averaged over datasets."""

    row: str
    datasets: list[str]
    weight: float = 1.0
    config: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Contrast(Test):
    measure: Literal["contrast"]
    terms: list[Term]

    def measured(self, evidence: Evidence) -> list[Measured]:
        pairs = [(term, board) for term in self.terms for board in term.datasets]
        rows = [find(evidence, term.row, board, term.config) for term, board in pairs]
        strata = [points(row) for row in rows]
        weights = [term.weight / len(term.datasets) for term, _ in pairs]
        fewest = min(s.size for s in strata)
        return [Measured(scores.contrast(strata, weights), fewest, tuple(rows))]


@dataclass(frozen=True, kw_only=True)
class Trend(Test):
    measure: Literal["trend"]
    row: str
    datasets: list[str]
    sizes: list[int]  # of the population, one a dataset
    minus: str = ""  # a row whose score is taken off

    def measured(self, evidence: Evidence) -> list[Measured]:
        x = np.log10(self.sizes) - np.log10(self.sizes).mean()
        slope = x / (x**2).sum()  # [size]
        rows = [find(evidence, self.row, board) for board in self.datasets]
        weights = [*slope]
        if self.minus:
            rows += [find(evidence, self.minus, board) for board in self.datasets]
            weights += [*-slope]
        strata = [points(row) for row in rows]
        fewest = min(s.size for s in strata)
        return [Measured(scores.contrast(strata, weights), fewest, tuple(rows))]


@dataclass(frozen=True, kw_only=True)
class Against(Test):
    """A row against others on the same datasets."""

    measure: Literal["relative", "share"]
    row: str
    others: list[str]
    datasets: list[str]

    def measured(self, evidence: Evidence) -> list[Measured]:
        names = (self.row, *self.others)
        rows = [find(evidence, name, board) for board in self.datasets for name in names]

        def means(strata: scores.Strata) -> Array:
            """[dataset, name, ...]"""
            values = np.array([s.mean(-1) for s in strata])
            return values.reshape(len(self.datasets), len(names), *values.shape[1:])

        def share(strata: scores.Strata) -> Array:
            found = means(strata)
            return (found[:, 0] > found[:, 1:].max(1)).mean(0)

        def relative(strata: scores.Strata) -> Array:
            found = means(strata).mean(0)  # [name, ...]
            return 100 * (found[0] / found[1:].max(0) - 1)

        statistic = share if self.measure == "share" else relative
        return measured(rows, [points(row) for row in rows], statistic)


@dataclass(frozen=True, kw_only=True)
class SpeedUp(Test):
    measure: Literal["speed-up"]
    row: str
    others: list[str]  # of these the one with the best last return
    task: str

    def measured(self, evidence: Evidence) -> list[Measured]:
        mine = find(evidence, self.row, self.task)
        rivals = [find(evidence, name, self.task) for name in self.others]
        rival = max(rivals, key=lambda row: float(_returns(row)[1][:, -1].mean()))
        (steps, own), (their_steps, theirs) = _returns(mine), _returns(rival)

        def ratio(index: scores.Strata) -> Array:
            curve = own[index[0].astype(int)].mean(-2)  # [..., point]
            goal = theirs[index[1].astype(int), -1].mean(-1)  # [...]
            reached = curve >= goal[..., None]
            first = np.where(reached.any(-1), steps[reached.argmax(-1)], np.inf)
            return their_steps[-1] / first  # 0 where the goal is never reached

        strata = [np.arange(len(own), dtype=float), np.arange(len(theirs), dtype=float)]
        return measured((mine, rival), strata, ratio)


def _returns(row: Row) -> tuple[Array, Array]:
    """Environment steps [point] and the return of each seed while it learned [seed, point]."""
    curves = [run.points("env_steps", "return") for run in row.runs if "return" in run.curve]
    if len(curves) < len(row.runs) or len({tuple(x) for x, _ in curves}) != 1:
        raise Missing(
            f"the records of {row.algo} on {row.board.title} lack whole curves of returns"
        )
    return np.array(curves[0][0]), np.array([y for _, y in curves])
