"""Boards as sheets: their columns and sentences filled in, in the formats of `formats.py`.

`render(summarise(records), "text")`. Names in records are a stranger's text: they are shown as
plain ASCII, and each format escapes them for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leaderboard.columns import Column, about, columns, described, number, plain, published_columns
from leaderboard.formats import FORMATS, Sheet, Table, write
from leaderboard.rows import Board, Row, by_board
from leaderboard.scores import Estimate
from leaderboard.summarise import summarise

__all__ = [
    "FORMATS",
    "Board",
    "Row",
    "about",
    "by_board",
    "columns",
    "number",
    "render",
    "sheets",
    "summarise",
]


def render(rows: Sequence[Row], kind: str = "text") -> str:
    """The boards of `rows` in one of FORMATS; an unknown format raises UserError."""
    return write(sheets(rows), kind)


def sheets(rows: Sequence[Row]) -> list[Sheet]:
    """One sheet a board: results, costs, and published numbers beside ours."""
    result = []
    for board, own in by_board(rows).items():
        said = [row for row in own if row.kind != "published"]  # of these `about` says why
        notes = [f"{plain(row.label)}: {plain(note)}" for row in said for note in row.notes]
        lines = [flat(row) for row in own]
        result.append(Sheet(board.title, about(board, own), _tables(board, own), notes, lines))
    return result


def _tables(board: Board, rows: Sequence[Row]) -> list[Table]:
    """Blocks of the results are ranked rows by execution, then floors and references."""
    results, costs = columns(board, rows)
    ranked = [row for row in rows if row.kind == "algorithm"]
    executions = dict.fromkeys(row.execution for row in ranked)
    blocks = [[row for row in ranked if row.execution == e] for e in executions]
    blocks.append([row for row in rows if row.kind in ("floor", "reference")])
    ran = [row for row in rows if row.runs]
    beside = [row for row in rows if row.printed and row.printed.comparable != "no"]
    parts = [(results, blocks), (costs, [ran]), (published_columns(), [beside])]
    return [_table(cols, own) for cols, own in parts if any(own)]


def _table(cols: Sequence[Column], blocks: Sequence[Sequence[Row]]) -> Table:
    lines = [[[c.cell(row) for c in cols] for row in block] for block in blocks if block]
    return Table([c.title for c in cols], [c.right for c in cols], lines)


def flat(row: Row) -> dict[str, Any]:
    """A row as plain values, unrounded, for CSV and JSON."""
    board = row.board
    values: dict[str, Any] = {
        "track": board.track,
        "task": board.task,
        "dataset": board.dataset,
        "protocol": board.protocol,
        "protocol_version": board.protocol_version,
        "metric": board.metric,
        "team_return": board.team_return,
        **described(row),
    }
    raw = ("team_return", "exploitability", "margin", "population_error", "value_gap")
    for name in ("score", *raw):
        found: Estimate | None = getattr(row, name)
        name = "return" if name == "team_return" else name
        values[name] = None if found is None else found.value
        values[f"{name}_low"] = None if found is None else found.low
        values[f"{name}_high"] = None if found is None else found.high
        values[f"{name}_method"] = None if found is None else found.method
    values |= {"each_seed": list(row.points), "seeds": list(row.seeds), "failed": list(row.failed)}
    costs = ("train_seconds", "update_ms", "act_ms", "peak_mb", "parameters", "sampler_steps")
    others = ("expected", *costs, "configs_tried", "online_episodes", "level")
    values |= {name: getattr(row, name) for name in others}
    printed = row.printed
    values |= {
        "printed": printed and printed.number.mean,
        "printed_std": printed and printed.number.std,
        "printed_unit": printed and printed.number.unit,
        "printed_read": printed and printed.source.read,
        "ours": printed and printed.ours and printed.ours.label,
        "ours_same_unit": printed and printed.same_scale and printed.same_scale.value,
        "comparable": printed and printed.comparable,
    }
    return values | {"unscored": board.unscored, "notes": list(row.notes)}
