"""Drawings of the page: a bar with seeds and interval for each row, and the losses of a run.

Coordinates are rounded to what can be seen; they are what most of a page's bytes would go into.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmark.record import Record
from leaderboard.columns import number, plain
from leaderboard.rows import Row

BAR = 200  # width of a bar's drawing
CURVES = 4  # losses drawn for a run, at most
CURVE_SIZE = (180, 56)
CURVE_POINTS = (6, 24)  # of a line: so many, the fewer the more lines a page has
PAGE_POINTS = 16_000  # of all lines of a page together, about


# -------------------------------------------------------------------------------------------- bars
def axis(rows: Sequence[Row]) -> tuple[float, float]:
    """Ends of the axis that all bars of a board share: every seed and fixed line is inside."""
    values = [p for row in rows for p in row.points]
    values += [row.value.value for row in rows if row.value]
    low, high = min([0.0, *values]), max([0.0, *values])
    margin = 0.05 * (high - low or 1.0)
    return low - (margin if low < 0 else 0.0), high + margin


def _x(value: float, low: float, high: float) -> str:
    """Horizontal place in a bar's drawing; what lies outside ends at its edge."""
    return f"{np.clip(BAR * (value - low) / (high - low), 0, BAR):.1f}".removesuffix(".0")


def fixed_line(row: Row, low: float, high: float) -> dict[str, Any]:
    """A floor or a reference, drawn through all bars of its board."""
    assert row.value is not None
    text = f"{plain(row.label)} {number(row.value.value, 3)}"
    kind = "expert" if row.kind == "reference" else row.label.split(" ")[0].split(".")[0]
    return {"x": _x(row.value.value, low, high), "kind": plain(kind), "text": text}


def bar(row: Row, low: float, high: float) -> dict[str, Any] | None:
    if row.value is None:
        return None
    zero, end = (float(_x(value, low, high)) for value in (0.0, row.value.value))
    ends: tuple[str, str] | None = None
    if row.value.low is not None and row.value.high is not None:
        ends = (_x(row.value.low, low, high), _x(row.value.high, low, high))
    aligned = len(row.points) == len(row.seeds)
    places: dict[str, list[str]] = {"ok": [], "failed": []}
    for i, point in enumerate(row.points):
        failed = aligned and row.seeds[i] in row.failed
        places["failed" if failed else "ok"].append(_x(point, low, high))
    return {
        "x": f"{min(zero, end):.1f}",
        "width": f"{abs(end - zero):.1f}",
        "interval": ends,
        "seeds": places,
    }


# ------------------------------------------------------------------------------------------ curves
def points_of_a_line(rows: Sequence[Row]) -> int:
    """So many that all lines of a page have about PAGE_POINTS together."""
    lines = sum(min(CURVES, len(run.losses())) for row in rows for run in row.runs)
    return int(np.clip(PAGE_POINTS // max(lines, 1), *CURVE_POINTS))


def curves(runs: Sequence[Record], points: int) -> list[dict[str, Any]]:
    """Up to CURVES losses, the lines of all seeds on a scale of their own."""
    names = sorted({name for run in runs for name in run.losses()})[:CURVES]
    drawn = []
    for name in names:
        own = [run.points("step", name) for run in runs if name in run.losses()]
        values = [v for _, losses in own for v in losses]
        last = max(step for steps, _ in own for step in steps)
        low, high = min(values), max(values)
        drawn.append(
            {
                "name": name,
                "low": number(low, 3),
                "high": number(high, 3),
                "last": f"{last:,.0f}",
                "path": "".join(_line(steps, v, last, low, high, points) for steps, v in own),
            }
        )
    return drawn


def _line(
    steps: Sequence[float],
    values: Sequence[float],
    last: float,
    low: float,
    high: float,
    points: int,
) -> str:
    """Part of an SVG path, in whole units from point to point: "M0 9l7 4 8-2"."""
    index = np.unique(np.linspace(0, len(values) - 1, min(len(values), points)).round().astype(int))
    width, height = CURVE_SIZE
    x = (width * np.asarray(steps)[index] / (last or 1.0)).round().astype(int)
    y = height * (high - np.asarray(values)[index]) / ((high - low) or 1.0)
    y = y.round().astype(int)
    moves = [
        f"{dx}{'' if dy < 0 else ' '}{dy}" for dx, dy in zip(np.diff(x), np.diff(y), strict=True)
    ]
    return f"M{x[0]} {y[0]}" + ("l" + " ".join(moves) if moves else "h0")
