"""Tables as text, Markdown, LaTeX, CSV and JSON; each format escapes cells for itself."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmark.errors import unknown_name

WIDTH = 110  # characters of a line of text in the terminal


@dataclass(frozen=True)
class Table:
    """Heads, whether a column is aligned to the right, and blocks of lines of cells."""

    heads: list[str]
    right: list[bool]
    blocks: list[list[list[str]]]

    @property
    def lines(self) -> list[list[str]]:
        return [line for block in self.blocks for line in block]


@dataclass(frozen=True)
class Sheet:
    """A title, what the numbers mean, tables and notes; `flat` is its rows as plain values."""

    title: str
    about: list[str]
    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    flat: list[dict[str, Any]] = field(default_factory=list)


def write(sheets: Sequence[Sheet], kind: str = "text") -> str:
    """The sheets in one of FORMATS; an unknown format raises UserError."""
    if kind not in FORMATS:
        raise unknown_name("format", kind, FORMATS)
    return FORMATS[kind](sheets)


def plain(text: str) -> str:
    """One line of printable ASCII: no control sequence, no look-alike letter, no bidi mark."""
    return re.sub(r"[^ -~]", "?", " ".join(text.split()))


def _aligned(cells: Sequence[str], right: Sequence[bool], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, to_right, width in zip(cells, right, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _text(sheets: Sequence[Sheet]) -> str:
    out: list[str] = []
    for sheet in sheets:
        out += [sheet.title, "=" * len(sheet.title)]
        out += textwrap.wrap(" ".join(sheet.about), WIDTH, break_on_hyphens=False)
        for table in sheet.tables:
            widths = [
                max(len(head), *(len(line[i]) for line in table.lines))
                for i, head in enumerate(table.heads)
            ]
            rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
            out += ["", _aligned(table.heads, table.right, widths)]
            for block in table.blocks:
                out += [rule, *(_aligned(line, table.right, widths) for line in block)]
        if sheet.notes:
            out += ["", "Notes"]
            out += [
                textwrap.fill(
                    note,
                    WIDTH,
                    initial_indent="  ",
                    subsequent_indent="    ",
                    break_on_hyphens=False,
                    break_long_words=False,
                )
                for note in sheet.notes
            ]
        out.append("")
    return "\n".join(out) if out else "No records yet.\n"


def _markdown(sheets: Sequence[Sheet]) -> str:
    def escape(text: str) -> str:
        return re.sub(r"([\\`*_\[\]<>|~#@&])", r"\\\1", text).replace("://", ":\\//")

    out: list[str] = []
    for sheet in sheets:
        out += [f"### {escape(sheet.title)}", "", escape(" ".join(sheet.about)), ""]
        for table in sheet.tables:
            out.append("| " + " | ".join(map(escape, table.heads)) + " |")
            out.append("|" + "|".join("---:" if right else ":---" for right in table.right) + "|")
            out += ["| " + " | ".join(map(escape, line)) + " |" for line in table.lines]
            out.append("")
        notes = [f"- {escape(note)}" for note in sheet.notes]
        out += [*notes, ""] if notes else []
    return "\n".join(out) if out else "No records yet.\n"


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _latex(sheets: Sequence[Sheet]) -> str:
    def escape(text: str) -> str:
        return "".join(_TEX.get(c, c) for c in text)

    out = ["% needs \\usepackage{booktabs}"]
    for sheet in sheets:
        for table in sheet.tables:
            out += ["\\begin{table}", "\\centering", "\\small"]
            out.append("\\begin{tabular}{" + "".join("lr"[right] for right in table.right) + "}")
            out += ["\\toprule", " & ".join(map(escape, table.heads)) + r" \\"]
            for block in table.blocks:
                out += ["\\midrule", *(" & ".join(map(escape, line)) + r" \\" for line in block)]
            caption = escape(f"{sheet.title}. {' '.join(sheet.about)}")
            out += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{caption}}}", "\\end{table}", ""]
    return "\n".join(out) + "\n"


def _csv(sheets: Sequence[Sheet]) -> str:
    def safe(value: Any) -> Any:
        """A text that a spreadsheet would run as a formula gets a leading apostrophe."""
        if isinstance(value, list):
            value = json.dumps(value)
        if isinstance(value, str):
            value = plain(value)
            return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value
        return value

    out = io.StringIO()
    lines = [line for sheet in sheets for line in sheet.flat]
    if lines:
        writer = csv.DictWriter(out, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: safe(value) for name, value in line.items()} for line in lines)
    return out.getvalue()


def _json(sheets: Sequence[Sheet]) -> str:
    lines = [line for sheet in sheets for line in sheet.flat]
    return json.dumps(lines, indent=1, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Sequence[Sheet]], str]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
}
