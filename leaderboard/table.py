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
from dataclasses import dataclass
from typing import Any

from benchmark.errors import unknown_name
from benchmark.protocol import protocol
from leaderboard.rows import LEVELS, RAW, Board, Row, by_board, summarise
from leaderboard.scores import BOOTSTRAP_FROM, Estimate

__all__ = ["FORMATS", "Board", "Row", "about", "by_board", "columns", "render", "summarise"]

WIDTH = 110  # characters of a line of text in the terminal


@dataclass(frozen=True)
class Column:
    """A column: its value in a row (sorted by; None: an empty cell), and how that is shown."""

    title: str
    value: Callable[[Row], float | str | None]
    show: Callable[[Any], str] = str
    right: bool = True  # numbers are aligned to the right

    def cell(self, row: Row) -> str:
        value = self.value(row)
        return "" if value is None else self.show(value)


def render(rows: Sequence[Row], kind: str = "text") -> str:
    """The boards of `rows` in one of FORMATS; an unknown format raises UserError."""
    if kind not in FORMATS:
        raise unknown_name("format", kind, FORMATS)
    return FORMATS[kind](rows)


# ------------------------------------------------------------------------------------------- words
def about(board: Board, rows: Sequence[Row]) -> list[str]:
    """What the numbers of a board mean, one sentence each."""
    rule = protocol(board.protocol)
    seeds = f"{rule.n_seeds} training seed{'s' if rule.n_seeds > 1 else ''}"
    sentences = [
        f"{board.track.capitalize()} track, {rule.name} protocol v{board.protocol_version}:"
        f" {seeds}, {board.episodes} evaluation episodes each."
    ]
    team = f"the {board.team_return} of the agents' returns"
    if board.team_return not in ("mean", "sum"):
        team = f"the return of {board.team_return}"
    if board.unscored:
        sentences.append(f"No normalised score: {board.unscored}. Team return: {team}.")
    elif board.metric == "exploitability":
        sentences.append(
            "Score: 100 (1 - E / E_uniform) of the exact exploitability E; 0 = uniform play,"
            f" 100 = equilibrium. The return ({team}) is shown, never ranked."
        )
    elif board.metric == "margin":
        sentences.append(
            "Score: 0 = random play, 100 = expert, from the survival margin (own share alive minus"
            f" the opponent's) at an episode's end. The return ({team}) is shown, never ranked."
        )
    else:
        sentences.append(f"Score: 0 = random play, 100 = expert, from the team return ({team}).")
    counts = [len(row.points) for row in rows if row.points]
    if any(count >= BOOTSTRAP_FROM for count in counts):
        sentences.append("Interquartile mean and 95% bootstrap interval over training seeds.")
    if counts and max(counts) == 1:
        sentences.append("One training seed: no interval.")
    elif any(count < BOOTSTRAP_FROM for count in counts):
        sentences.append(
            f"Fewer than {BOOTSTRAP_FROM} seeds: mean, 95% t-interval and each training seed."
        )
    if board.dataset:
        sentences.append("Intervals are conditional on the collected dataset.")
    if any(row.failed for row in rows):
        sentences.append(
            "A failed seed scores as random play, or as the worst seed if lower; raw columns"
            " average the finished seeds."
        )
    if len({row.execution for row in rows if row.rank}) > 1:
        sentences.append("Ranks are within one execution: what an agent may see differs.")
    levels = ", ".join(f"{level} {name}" for level, name in enumerate(LEVELS))
    sentences.append(f"Levels: {levels}.")
    return sentences


def plain(text: str) -> str:
    """One line of printable ASCII: no control sequence, no look-alike letter, no bidi mark."""
    return re.sub(r"[^ -~]", "?", " ".join(text.split()))


def number(value: float, digits: int = 4) -> str:
    """`digits` significant figures without an exponent for everyday sizes."""
    if abs(value) < 1e-9:  # rounding errors of an exact zero
        return "0"
    if 10**digits - 0.5 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def interval(row: Row) -> str:
    """The 95% interval of what the board ranks by."""
    if row.value is None or row.value.low is None or row.value.high is None:
        return ""
    if row.board.unscored:
        return f"{number(row.value.low)} to {number(row.value.high)}"
    return f"{row.value.low:z.1f} to {row.value.high:z.1f}"


def duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def count(value: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


def seeds(row: Row) -> str:
    """ "3/3", "2/3, 1 failed" or "2/3, 1 missing"; "" for rows without runs."""
    if not row.seeds:
        return ""
    parts = [f"{len(row.seeds) - len(row.failed)}/{max(row.expected, len(row.seeds))}"]
    if row.failed:
        parts.append(f"{len(row.failed)} failed")
    if row.n_missing:
        parts.append(f"{row.n_missing} missing")
    return ", ".join(parts)


def mark(row: Row) -> str:
    """What a reader must know beside the name: floor, reference, reconstruction."""
    if row.kind != "algorithm":
        return row.kind
    return "reconstruction" if row.reconstruction else ""


def _name(row: Row) -> str:
    return f"{plain(row.label)} ({mark(row)})" if mark(row) else plain(row.label)


def _paper(row: Row) -> str:
    return plain(row.paper).replace(" (reconstruction)", "")  # the name says it


def _points(row: Row) -> str:
    if not row.points or len(row.points) >= BOOTSTRAP_FROM:
        return ""
    shown = [f"{p:z.1f}" if row.score else number(p) for p in row.points]
    if len(row.points) == len(row.seeds):
        shown = ["failed" if s in row.failed else p for s, p in zip(row.seeds, shown, strict=True)]
    return ", ".join(shown)


def _of(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


# ------------------------------------------------------------------------------------------ columns
def columns(board: Board, rows: Sequence[Row]) -> tuple[list[Column], list[Column]]:
    """Columns of a board's two tables: results, and what they cost."""
    raw = [Column("return", lambda r: _of(r.team_return), number)]
    if board.metric != "return":
        name = RAW[board.metric][0]
        raw.insert(0, Column(name, lambda r: _of(getattr(r, name)), number))
    main = [Column("95% interval", interval)]
    if any(map(_points, rows)):
        main.append(Column("each seed", _points, right=False))
    if board.unscored:
        main = [raw[0], *main, *raw[1:]]
    else:
        main = [Column("score", lambda r: _of(r.score), "{:z.1f}".format), *main, *raw]
    algorithm = Column("algorithm", _name, right=False)
    results = [
        Column("#", lambda r: r.rank),
        algorithm,
        Column("execution", lambda r: r.execution, right=False),
        *main,
        Column("seeds done", seeds, right=False),
        Column("level", lambda r: r.level),
    ]
    costs = [
        algorithm,
        Column("train/seed", lambda r: r.train_seconds, duration),
        Column("ms/update", lambda r: r.update_ms, lambda ms: number(ms, 3)),
        Column("ms/action", lambda r: r.act_ms, lambda ms: number(ms, 3)),
        Column("peak MB", lambda r: r.peak_mb, "{:.0f}".format),
        Column("params", lambda r: r.parameters, count),
        Column("sampler steps", lambda r: r.sampler_steps),
        Column("paper", _paper, right=False),
    ]
    return results, costs


Lines = list[list[str]]


def _tables(board: Board, rows: Sequence[Row]) -> list[tuple[list[Column], list[Lines]]]:
    """(columns, blocks of lines): blocks are ranked rows by execution, then fixed rows."""
    results, costs = columns(board, rows)
    ranked = [row for row in rows if row.kind == "algorithm"]
    executions = dict.fromkeys(row.execution for row in ranked)
    blocks = [[row for row in ranked if row.execution == e] for e in executions]
    blocks.append([row for row in rows if row.kind != "algorithm"])
    ran = [row for row in rows if row.runs]
    tables = [(results, [[[c.cell(r) for c in results] for r in b] for b in blocks if b])]
    if ran:
        tables.append((costs, [[[c.cell(r) for c in costs] for r in ran]]))
    return tables


def _notes(rows: Sequence[Row]) -> list[str]:
    return [f"{plain(row.label)}: {plain(note)}" for row in rows for note in row.notes]


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
    names = ("expected", "train_seconds", "update_ms", "act_ms", "peak_mb", "parameters")
    values |= {name: getattr(row, name) for name in (*names, "sampler_steps", "level")}
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
