"""Tables of scores for the README and docs/results.md, from the committed records."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from benchmark.cli import board

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmark.record import Record
    from leaderboard.rows import Row

TIERS = ("random", "medium-replay", "mixed", "medium", "expert")
PAPERS = "mpe-omar/spread"  # the program behind the published tables
SHOWN = ("algorithm", "floor")  # neither references nor published numbers
PLAYING = ("online", "o2o")  # tracks


def tiers(records: list[Record], tasks: tuple[str, ...]) -> str:
    """Scores on tasks, a table a task, a column for each tier that has records."""
    tables = []
    for task in tasks:
        rows: dict[str, dict[str, Row]] = defaultdict(dict)  # name, tier
        for tier in TIERS:
            own = [item for item in records if item.dataset == f"{task}/{tier}-v1"]
            for row in board.rows_of([item for item in own if item.track not in PLAYING]):
                if row.value is not None and row.label != "random" and row.kind in SHOWN:
                    rows[_named(row)][tier] = row
        if not rows:
            continue
        found = [tier for tier in TIERS if any(tier in row for row in rows.values())]
        lines = [f"| `{task}` | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
        for name in sorted(rows, key=lambda name: _place(list(rows[name].values()))):
            cells = [cell_of(rows[name][tier]) if tier in rows[name] else "" for tier in found]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def across(records: list[Record], datasets: tuple[str, ...], cell: Callable[[Row], str]) -> str:
    """A table with a column for each dataset; reference lines are left out."""
    rows: dict[str, dict[str, Row]] = defaultdict(dict)  # name, dataset
    for dataset in datasets:
        for row in board.rows_of([item for item in records if item.dataset == dataset]):
            if row.value is not None and row.runs and row.label != "random":
                rows[_named(row)][dataset] = row
    heads = [f"`{name.split('/')[1]}`" for name in datasets]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(datasets)]
    for name in sorted(rows, key=lambda name: _place(list(rows[name].values()))):
        cells = [cell(rows[name][at]) if at in rows[name] else "" for at in datasets]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost(row: Row) -> str:
    """Score, seconds of training and peak megabytes, medians over the seeds."""
    costs = [(run.cost.train_seconds, run.cost.peak_mb) for run in row.runs]
    seconds, megabytes = np.median(costs, axis=0)
    return f"{cell_of(row)}; {seconds:.0f} s, {megabytes:.0f} MB"


def playing(records: list[Record]) -> str:
    """Scores on tracks that play while they learn, and their steps: a table a task or dataset."""
    tables = []
    boards = sorted({(x.track, x.dataset or x.task) for x in records if x.track in PLAYING})
    for track, title in reversed(boards):
        own = [x for x in records if (x.track, x.dataset or x.task) == (track, title)]
        lines = [f"| `{title}`, {track} | score | environment steps |", "|---|---|---|"]
        for row in board.rows_of(own):
            if row.value is not None and row.runs and row.kind == "algorithm":
                lines.append(f"| {_named(row)} | {cell_of(row)} | {row.runs[0].env_steps:,} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def beside_papers(records: list[Record]) -> str:
    """Ours and the published score on the task whose program is the papers', tier by tier."""
    cells: dict[str, dict[str, str]] = defaultdict(dict)  # published name, tier
    flags = set()
    source: dict[str, str] = {}  # of each row of ours: the first that has it
    for tier in TIERS:
        own = [item for item in records if item.dataset == f"{PAPERS}/{tier}-v1"]
        for row in board.rows_of(own):
            printed = row.printed
            if printed is None or printed.same_scale is None or printed.ours is None:
                continue
            chosen = source.setdefault(printed.ours.label, printed.number.source)
            if printed.number.unit != "score" or printed.number.source != chosen:
                continue
            name = f"`{printed.ours.label}`, {printed.number.algorithm} in {printed.source.label}"
            deviation = f" ± {printed.number.std:g}" if printed.number.std else ""
            ours, low, high = (
                printed.same_scale.value, printed.same_scale.low, printed.same_scale.high,
            )  # fmt: skip
            range_ = "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"
            cells[name][tier] = f"{ours:.1f}{range_} / {printed.number.mean:g}{deviation}"
            flags.add(printed.comparable)
    if not cells:
        return f"No records on `{PAPERS}` yet."
    found = [tier for tier in TIERS if any(tier in row for row in cells.values())]
    lines = [
        f"| `{PAPERS}`: ours / published | {' | '.join(found)} |",
        "|---|" + "---|" * len(found),
    ]
    for name in sorted(cells):
        lines.append(f"| {name} | {' | '.join(cells[name].get(tier, '') for tier in found)} |")
    return "\n".join([*lines, "", f"Comparable: {', '.join(sorted(flags))}."])


def _named(row: Row) -> str:
    from leaderboard.columns import mark

    said = [mark(row), "joint" if row.execution == "joint" else ""]
    said.append(row.board.track if row.board.track != "offline" else "")
    return row.label + (f" ({', '.join(filter(None, said))})" if any(said) else "")


def cell_of(row: Row) -> str:
    assert row.value is not None
    text = f"{row.value.value:.1f}"
    if row.value.low is not None:  # two seeds or more
        text += f" [{row.value.low:.1f}, {row.value.high:.1f}]"
    return f"{text} ({len(row.seeds)})" if row.runs else text  # else the dataset's mean


def _place(rows: list[Row]) -> tuple[bool, int, float]:
    """The rows of most tiers first, then by their mean; who knows more than the data comes last."""
    mean = float(np.mean([row.value.value for row in rows if row.value]))
    return rows[0].board.track != "offline", -len(rows), -mean
