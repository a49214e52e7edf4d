"""The board as one HTML file that opens from disk: no network, no framework, under 1 MB.

`build(records, rows)`. Equal records in any order give equal bytes. Names in records are a
stranger's text, so everything is escaped by the template engine, links are made only from arXiv
numbers, and a content security policy admits the one style and the one script by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.files import sha256
from benchmark.protocol import protocol
from benchmark.record import Record
from leaderboard.columns import Column, about, columns, interval, mark, number, plain, seeds
from leaderboard.rows import LEVELS, RAW, Board, Row, by_board

PAGE = Path(__file__).parent / "page"
BAR = 200  # width of a bar's drawing
CURVE_POINTS = 32  # a loss is thinned to this many points
CURVES = 4  # losses drawn for a run, at most
CURVE_SIZE = (180, 56)
HIDDEN = (
    "execution",
    "each seed",
    "params",
    "peak MB",
    "paper",
    "tuning",
)  # columns that a reader may switch on

MEANING = {
    "local": "each agent acts on its own observation",
    "mean-field": "each agent also sees how the population is distributed",
    "joint": "one policy sees the observations of all agents",
}


@dataclass(frozen=True)
class Cell:
    title: str
    text: str
    value: float | str | None  # what the column sorts by
    right: bool


def build(records: Sequence[Record], rows: Sequence[Row]) -> str:
    """The page of `rows`, which were summarised from `records`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain}
    style, script = ((PAGE / name).read_text() for name in ("page.css", "page.js"))
    boards = [_board(board, own) for board, own in by_board(rows).items()]
    levels = [row.level for row in rows if row.kind == "algorithm" and row.level is not None]
    return environment.get_template("index.html.j2").render(
        style=style,
        script=script,
        policy=_policy(style, script),
        boards=boards,
        filters={
            name: sorted({str(board[name]) for board in boards} - {""})
            for name in ("track", "task", "dataset", "protocol")
        },
        titles=list(dict.fromkeys(title for board in boards for title in board["titles"])),
        hidden=HIDDEN,
        meaning=MEANING,
        levels=list(enumerate(LEVELS)),
        level=min(1, max(levels, default=0)),  # self-reported rows are shown on request
        n_algorithms=len({row.algo for row in rows if row.kind == "algorithm"}),
        n_runs=len(records),
        digest=_digest(records),
    )


def _digest(records: Sequence[Record]) -> str:
    """Names the records behind a page: their keys, checkpoints and results, in any order."""
    lines = [
        f"{r.key} {r.seed} {r.checkpoint_sha256} {r.level} {r.status} {sorted(r.exact.items())}"
        f" {list(r.team_returns)}"
        for r in records
    ]
    return sha256("\n".join(sorted(lines)).encode())[:12]


def _policy(style: str, script: str) -> str:
    """Only this style and this script, and nothing from anywhere else."""

    def source(text: str) -> str:
        digest = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return (
        f"default-src 'none'; style-src {source(style)}; script-src {source(script)};"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )


def _board(board: Board, rows: Sequence[Row]) -> dict[str, Any]:
    about_board = about(board, rows)
    rows = [row for row in rows if row.kind != "published"]
    results, costs = columns(board, rows)
    shown = [column for column in (*results[2:], *costs[1:]) if column.title != "level"]
    ranked = [row for row in rows if row.kind == "algorithm"]
    executions = list(dict.fromkeys(row.execution for row in ranked))
    groups = [(name, [r for r in ranked if r.execution == name]) for name in executions]
    fixed = [row for row in rows if row.kind in ("floor", "reference")]
    low, high = _range(rows)
    lines = [_line(row, low, high) for row in fixed if row.value is not None]
    best = "equilibrium" if board.metric == "exploitability" else "expert"

    def shaped(row: Row) -> dict[str, Any]:
        return _row(row, shown, low, high)

    return {
        "title": board.title,
        "track": board.track,
        "task": board.task,
        "dataset": board.dataset,
        "protocol": board.protocol,
        "ranked_by": RAW[board.metric][1],
        "axis": "raw value" if board.unscored else f"0 = random, 100 = {best}",
        "unscored": board.unscored,
        "about": about_board,
        "n_seeds": protocol(board.protocol).n_seeds,
        "titles": [column.title for column in shown],
        "columns": shown,
        "groups": [(name, [shaped(row) for row in own]) for name, own in groups],
        "fixed": [shaped(row) for row in fixed],
        "lines": lines,
    }


def _row(row: Row, shown: Sequence[Column], low: float, high: float) -> dict[str, Any]:
    return {
        "id": "run-" + sha256(repr((row.board.order(), row.label)).encode())[:10],
        "rank": row.rank,
        "label": plain(row.label),
        "mark": mark(row),
        "kind": row.kind,
        "level": row.level,
        "level_name": "" if row.level is None else LEVELS[row.level],
        "cells": [Cell(c.title, c.cell(row), c.value(row), c.right) for c in shown],
        "bar": _bar(row, low, high),
        "search": " ".join((row.label, row.paper, row.board.title, row.execution)).lower(),
        "notes": row.notes,
        "detail": _detail(row) if row.runs else None,
    }


# -------------------------------------------------------------------------------------------- bars
def _range(rows: Sequence[Row]) -> tuple[float, float]:
    """Ends of the axis that all bars of a board share: every seed and fixed line is inside."""
    values = [p for row in rows for p in row.points]
    values += [row.value.value for row in rows if row.value]
    low, high = min([0.0, *values]), max([0.0, *values])
    margin = 0.05 * (high - low or 1.0)
    return low - (margin if low < 0 else 0.0), high + margin


def _x(value: float, low: float, high: float) -> float:
    """Horizontal place in a bar's drawing; what lies outside ends at its edge."""
    return round(float(np.clip(BAR * (value - low) / (high - low), 0, BAR)), 1)


def _line(row: Row, low: float, high: float) -> dict[str, Any]:
    assert row.value is not None
    text = f"{plain(row.label)} {number(row.value.value, 3)}"
    kind = "expert" if row.kind == "reference" else row.label.split(" ")[0].split(".")[0]
    return {"x": _x(row.value.value, low, high), "kind": plain(kind), "text": text}


def _bar(row: Row, low: float, high: float) -> dict[str, Any] | None:
    if row.value is None:
        return None
    zero, end = _x(0.0, low, high), _x(row.value.value, low, high)
    ends: tuple[float, float] | None = None
    if row.value.low is not None and row.value.high is not None:
        ends = (_x(row.value.low, low, high), _x(row.value.high, low, high))
    aligned = len(row.points) == len(row.seeds)
    points = [
        (_x(point, low, high), aligned and row.seeds[i] in row.failed)
        for i, point in enumerate(row.points)
    ]
    words = f"{row.value.value:.4g}" + (f", 95% interval {interval(row)}" if ends else "")
    return {
        "x": min(zero, end),
        "width": round(abs(end - zero), 1),
        "interval": ends,
        "points": points,
        "words": words,
    }


# ----------------------------------------------------------------------------------------- details
def _detail(row: Row) -> dict[str, Any]:
    """What stands behind a row: configuration, seeds, losses, provenance, how to repeat it."""
    first = row.runs[0]
    arxiv = re.search(r"arXiv:(\d{4}\.\d{4,5})", row.paper)
    commits = sorted({run.provenance.commit[:12] or "no checkout" for run in row.runs})
    packages = first.provenance.packages
    return {
        "paper": row.paper,
        "arxiv": arxiv.group(1) if arxiv else "",
        "config": [(name, json.dumps(value)) for name, value in sorted(first.config.items())],
        "command": _command(row),
        "commit": first.provenance.commit[:12],
        "runs": [_run(row, run, i) for i, run in enumerate(row.runs)],
        "curves": _curves(row.runs),
        "facts": [
            ("gradient steps", f"{first.steps:,}"),
            ("seeds done", seeds(row)),
            ("track", f"{first.track}, {first.execution} execution"),
            ("tuning", f"{first.tuning.configs_tried} configurations tried,"
             f" {first.tuning.online_episodes} online episodes"),
            ("algorithm's code", f"sha256 {first.code_sha256[:12]}"),
            ("dataset's content", f"sha256 {first.dataset_sha256[:12]}"),
            ("evaluation seeds", f"from {first.first_episode_seed:,}"),
            ("commit", ", ".join(commits)
             + (" with uncommitted changes" if any(r.provenance.dirty for r in row.runs) else "")),
            ("machine", f"{first.cost.device}, {first.provenance.threads} thread(s),"
             f" {first.provenance.platform}, Python {first.provenance.python}"),
            ("packages", ", ".join(f"{name} {packages[name]}" for name in sorted(packages))),
        ],
    }  # fmt: skip


def _command(row: Row) -> str:
    """The make command that repeats the row, at its commit."""
    first = row.runs[0]
    values = {"ALGO": row.algo, "DATASET": first.dataset, "PROTOCOL": first.protocol}
    if row.seeds != protocol(first.protocol).seeds():
        values["SEEDS"] = " ".join(map(str, row.seeds))
    words = [f"{name}={shlex.quote(plain(value))}" for name, value in values.items() if value]
    return " ".join(["make bench", *words])


def _run(row: Row, run: Record, index: int) -> dict[str, Any]:
    scored = row.score is not None and len(row.points) == len(row.seeds)
    measured = run.exact | {name: sum(x) / len(x) for name, x in run.outcomes.items() if x}
    return {
        "seed": run.seed,
        "status": f"failed: {run.reason}" if run.failed else "ok",
        "failed": run.failed,
        "score": f"{row.points[index]:z.1f}" if scored else "",
        "return": "" if run.failed else number(run.mean_return()),
        "exact": ", ".join(f"{name} {number(v)}" for name, v in sorted(measured.items())),
        "episodes": len(run.team_returns),
        "level": LEVELS[run.level],
        "key": run.key[:12],
        "checkpoint": run.checkpoint_sha256[:12],
    }


def _curves(runs: Sequence[Record]) -> list[dict[str, Any]]:
    """Up to CURVES losses as polylines, one per seed, on a scale of their own."""
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
                "lines": [_polyline(steps, v, last, low, high) for steps, v in own],
            }
        )
    return drawn


def _polyline(
    steps: Sequence[float], values: Sequence[float], last: float, low: float, high: float
) -> str:
    length = min(len(steps), len(values))
    index = np.unique(np.linspace(0, length - 1, min(length, CURVE_POINTS)).round().astype(int))
    width, height = CURVE_SIZE
    x = width * np.asarray(steps)[index] / (last or 1.0)
    y = height * (high - np.asarray(values)[index]) / ((high - low) or 1.0)
    return " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(x, y, strict=True))
