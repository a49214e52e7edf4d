"""What a claim's card can ask of the studies in leaderboard/studies and leaderboard/perf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from leaderboard import scores
from leaderboard.measures import Evidence, Measured, Missing, Test
from leaderboard.scores import Estimate

Filter = dict[str, Any]


def cells(evidence: Evidence, study: str, table: str, where: Filter) -> list[dict[str, Any]]:
    """Rows of a study's table whose fields have the values, or one of the values, of a filter."""
    if study not in evidence.studies:
        raise Missing(f"there is no study {study}")

    def fits(cell: dict[str, Any]) -> bool:
        return all(cell.get(k) in (v if isinstance(v, list) else [v]) for k, v in where.items())

    found = [cell for cell in evidence.studies[study].get(table, []) if fits(cell)]
    if not found:
        raise Missing(f"the study {study} has no cell with {where}")
    return found


def value_of(cell: dict[str, Any], path: str) -> Any:
    for name in path.split("."):
        cell = cell.get(name, {})
    return cell if cell != {} else None


def estimate_of(cell: dict[str, Any], path: str, study: str) -> tuple[Estimate, int | None]:
    """A number with its `_low` and `_high` (or `low`, `high`) beside it, or the mean of seeds."""
    value = value_of(cell, path)
    if isinstance(value, list):
        return scores.contrast([np.array(value, dtype=float)], [1.0]), len(value)
    low, high = (cell.get(f"{path}_{end}", cell.get(end)) for end in ("low", "high"))
    if value is None or low is None or high is None:
        raise Missing(f"the study {study} has no {path} with an interval")
    return Estimate(float(value), float(low), float(high), "study"), None


@dataclass(frozen=True, kw_only=True)
class Study(Test):
    measure: Literal["study"]
    study: str
    where: Filter
    value: str  # field, with dots for nested ones
    minus: str = ""  # field of what is taken off, a number or other seeds
    table: str = "rows"

    def measured(self, evidence: Evidence) -> list[Measured]:
        result = []
        for cell in cells(evidence, self.study, self.table, self.where):
            found, seeds = estimate_of(cell, self.value, self.study)
            other = value_of(cell, self.minus) if self.minus else None
            if isinstance(other, list):
                both = [np.array(value_of(cell, name)) for name in (self.value, self.minus)]
                found = scores.contrast(both, [1.0, -1.0])
                seeds = min(len(one) for one in both)
            elif self.minus:
                off = float(value_of(cell, self.minus))
                ends = [None if end is None else end - off for end in (found.low, found.high)]
                found = Estimate(found.value - off, ends[0], ends[1], found.method)
            result.append(Measured(found, seeds))
        return result


@dataclass(frozen=True, kw_only=True)
class StudyRatio(Test):
    """The largest ratio of a cell of `top` to the one of `bottom`, with the widest interval."""

    measure: Literal["study-ratio"]
    study: str
    top: Filter
    bottom: Filter
    value: str
    table: str = "rows"

    def measured(self, evidence: Evidence) -> list[Measured]:
        (below,) = cells(evidence, self.study, self.table, self.bottom)[:1]
        under, _ = estimate_of(below, self.value, self.study)
        ratios = []
        for cell in cells(evidence, self.study, self.table, self.top):
            over, _ = estimate_of(cell, self.value, self.study)
            if under.low is None or under.high is None or over.low is None or over.high is None:
                raise Missing(f"the study {self.study} has no interval of {self.value}")
            ends = over.low / under.high, over.high / under.low
            ratios.append(Estimate(over.value / under.value, *ends, "study"))
        return [Measured(max(ratios, key=lambda ratio: ratio.value))]
