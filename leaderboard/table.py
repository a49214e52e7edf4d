"""Rows as tables: text for the terminal, Markdown, LaTeX, CSV and JSON.

`render(summarise(records), "text")`. Names in records are a stranger's text: each format shows them
as plain ASCII, escaped for that format.
"""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from benchmark.errors import unknown_name
from leaderboard.columns import Column, about, columns, number, plain, published_columns
from leaderboard.rows import Board, Row, by_board, summarise
from leaderboard.scores import Estimate

__all__ = [
    "FORMATS",
    "Board",
    "Row",
    "about",
    "by_board",
    "columns",
    "number",
    "render",
    "summarise",
]

WIDTH = 110  # characters of a line of text in the terminal


def render(rows: Sequence[Row], kind: str = "text") -> str:
    """The boards of `rows` in one of FORMATS; an unknown format raises UserError."""
    if kind not in FORMATS:
        raise unknown_name("format", kind, FORMATS)
    return FORMATS[kind](rows)


Lines = list[list[str]]


def _tables(board: Board, rows: Sequence[Row]) -> list[tuple[list[Column], list[Lines]]]:
    """(columns, blocks of lines): blocks are ranked rows by execution, then fixed rows."""
    results, costs = columns(board, rows)
    ranked = [row for row in rows if row.kind == "algorithm"]
    executions = dict.fromkeys(row.execution for row in ranked)
    blocks = [[row for row in ranked if row.execution == e] for e in executions]
    blocks.append([row for row in rows if row.kind in ("floor", "reference")])
    ran = [row for row in rows if row.runs]
    tables = [(results, [[[c.cell(r) for c in results] for r in b] for b in blocks if b])]
    if ran:
        tables.append((costs, [[[c.cell(r) for c in costs] for r in ran]]))
    beside = [row for row in rows if row.printed and row.printed.comparable != "no"]
    if beside:
        papers = published_columns()
        tables.append((papers, [[[c.cell(r) for c in papers] for r in beside]]))
    return tables


def _notes(rows: Sequence[Row]) -> list[str]:
    own = [row for row in rows if row.kind != "published"]  # of these `about` says why
    return [f"{plain(row.label)}: {plain(note)}" for row in own for note in row.notes]


# ------------------------------------------------------------------------------------------ formats
def _aligned(cells: Sequence[str], cols: Sequence[Column], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if column.right else cell.ljust(width)
        for cell, column, width in zip(cells, cols, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _text(rows: Sequence[Row]) -> str:
    out: list[str] = []
    for board, own in by_board(rows).items():
        out += [board.title, "=" * len(board.title)]
        out += textwrap.wrap(" ".join(about(board, own)), WIDTH, break_on_hyphens=False)
        for cols, blocks in _tables(board, own):
            lines = [line for block in blocks for line in block]
            widths = [
                max(len(c.title), *(len(line[i]) for line in lines)) for i, c in enumerate(cols)
            ]
            rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
            out += ["", _aligned([c.title for c in cols], cols, widths)]
            for block in blocks:
                out += [rule, *(_aligned(line, cols, widths) for line in block)]
        notes = _notes(own)
        if notes:
            out += ["", "Notes"]
            out += [
                textwrap.fill(
                    n,
                    WIDTH,
                    initial_indent="  ",
                    subsequent_indent="    ",
                    break_on_hyphens=False,
                    break_long_words=False,
                )
                for n in notes
            ]
        out.append("")
    return "\n".join(out) if out else "No records yet.\n"


def _markdown(rows: Sequence[Row]) -> str:
    def escape(text: str) -> str:
        return re.sub(r"([\\`*_\[\]<>|~#@&])", r"\\\1", text).replace("://", ":\\//")

    out: list[str] = []
    for board, own in by_board(rows).items():
        out += [f"### {escape(board.title)}", "", escape(" ".join(about(board, own))), ""]
        for cols, blocks in _tables(board, own):
            out.append("| " + " | ".join(escape(c.title) for c in cols) + " |")
            out.append("|" + "|".join("---:" if c.right else ":---" for c in cols) + "|")
            for line in (line for block in blocks for line in block):
                out.append("| " + " | ".join(map(escape, line)) + " |")
            out.append("")
        notes = [f"- {escape(note)}" for note in _notes(own)]
        out += [*notes, ""] if notes else []
    return "\n".join(out) if out else "No records yet.\n"


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _latex(rows: Sequence[Row]) -> str:
    def escape(text: str) -> str:
        return "".join(_TEX.get(c, c) for c in text)

    out = ["% needs \\usepackage{booktabs}"]
    for board, own in by_board(rows).items():
        for cols, blocks in _tables(board, own):
            out += ["\\begin{table}", "\\centering", "\\small"]
            out.append("\\begin{tabular}{" + "".join("r" if c.right else "l" for c in cols) + "}")
            out += ["\\toprule", " & ".join(escape(c.title) for c in cols) + r" \\"]
            for block in blocks:
                out += ["\\midrule", *(" & ".join(map(escape, line)) + r" \\" for line in block)]
            caption = escape(f"{board.title}. {' '.join(about(board, own))}")
            out += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{caption}}}", "\\end{table}", ""]
    return "\n".join(out) + "\n"


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
        "kind": row.kind,
        "rank": row.rank,
        "algorithm": row.label,
        "paper": row.paper,
        "reconstruction": row.reconstruction,
        "execution": row.execution,
    }
    for name in ("score", "team_return", "exploitability", "margin"):
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


def _csv(rows: Sequence[Row]) -> str:
    def safe(value: Any) -> Any:
        """A text that a spreadsheet would run as a formula gets a leading apostrophe."""
        if isinstance(value, list):
            value = json.dumps(value)
        if isinstance(value, str):
            value = plain(value)
            return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value
        return value

    out = io.StringIO()
    tables = [flat(row) for row in rows]
    if tables:
        writer = csv.DictWriter(out, tables[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: safe(value) for name, value in t.items()} for t in tables)
    return out.getvalue()


def _json(rows: Sequence[Row]) -> str:
    return json.dumps([flat(row) for row in rows], indent=1, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
}
