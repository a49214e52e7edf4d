"""Variants that race inside one process, and rows of goals that are met or missed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmark.launch import keep_memory

Times = dict[str, list[float]]  # variant -> milliseconds of CPU time a call, of each round


@dataclass(frozen=True)
class Row:
    """One goal: what was measured beside it, and the best that this machine could give."""

    name: str
    sense: Literal[">=", "<="]
    goal: float
    measured: float | None  # None: it could not be measured, `note` says why
    unit: str = "x"
    floor: float | None = None  # the value if our side took no longer than its own floor
    note: str = ""
    why: str = ""  # where the time goes, from a profile: told where the goal is missed

    @property
    def met(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.goal if self.sense == ">=" else self.measured <= self.goal

    def line(self) -> str:
        measured = "-" if self.measured is None else f"{self.measured:.4g} {self.unit}"
        floor = "-" if self.floor is None else f"{self.floor:.4g} {self.unit}"
        goal = f"{self.sense} {self.goal:g} {self.unit}"
        word = "met" if self.met else "missed"
        note = f"  ({self.note})" if self.note else ""
        why = f"\n    why: {self.why}" if self.why and not self.met else ""
        return f"{self.name:62} {goal:>11} {measured:>12} {floor:>12}  {word}{note}{why}"


def race(
    variants: dict[str, Callable[[], Any]], rounds: int = 5, seconds: float = 1.0, warm: int = 1
) -> Times:
    """CPU milliseconds a call of each variant; they take turns of `seconds / rounds` at least. The
    first `warm` calls of each are left out. All have the memory of a run's process.
    """
    keep_memory()
    for call in variants.values():
        for _ in range(warm):
            call()
    times: Times = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            count, start = 0, time.process_time()
            while count == 0 or time.process_time() - start < seconds / rounds:
                call()
                count += 1
            times[name].append(1e3 * (time.process_time() - start) / count)
    return times


def ratio(times: Times, plain: str, ours: str) -> float:
    """Median over the rounds of how many times longer `plain` takes than `ours`."""
    return float(np.median(np.divide(times[plain], times[ours])))


def faster(
    name: str,
    goal: float,
    times: Times,
    plain: str = "plain",
    ours: str = "ours",
    share: float = 1,
    why: str = "",
) -> Row:
    """The row of a ratio, `share` being ours' calls for one of the plain variant's; its floor is
    the ratio if ours took no longer than the variant "floor", where that raced too.
    """
    least = ratio(times, plain, "floor") * share if "floor" in times else None
    found = ratio(times, plain, ours) * share
    note = f"{np.median(times[plain]) / share:.4g} ms to {np.median(times[ours]):.4g} ms"
    floor = least and round(least, 4)
    return Row(name, ">=", goal, round(found, 4), floor=floor, note=note, why=why)
