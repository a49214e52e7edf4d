"""Findings on claims as a table: text for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence

from benchmark.errors import unknown_name
from leaderboard.claims import VERDICTS, Finding, flat

WIDTH = 110
PAGE = """# What the papers claim, and what we measured

Written by `make readme` from the cards in `leaderboard/claims`, the committed records and studies;
`make claims` prints the same. A verdict is computed, never typed: *reproduced* and *not reproduced*
are for the published method, budget and data, *supported* and *not supported* for reconstructions,
smaller budgets, other data and studies. A test holds where the whole 95% interval keeps its bound,
so that "no difference" is an equivalence test and a wide interval fails it; fewer than 5 seeds give
no verdict. One failed test fails the claim.
"""


def render(findings: Sequence[Finding], kind: str = "text") -> str:
    """Findings in one of FORMATS; an unknown format raises UserError."""
    if kind not in FORMATS:
        raise unknown_name("format", kind, FORMATS)
    return FORMATS[kind](findings)


def tally(findings: Sequence[Finding]) -> str:
    """ "20 claims: 8 supported, ..." """
    counts = Counter(finding.verdict for finding in findings)
    shown = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    return f"{len(findings)} claim{'s' if len(findings) != 1 else ''}: {shown or 'none'}"


def _text(findings: Sequence[Finding]) -> str:
    out = []
    for finding in findings:
        card = finding.card
        head = f"{card.method}: {card.title}"
        out += [head, "-" * len(head)]
        lines = {
            "paper": f"{card.says} ({card.paper}, {card.where})",
            "here": card.protocol,
            "measured": finding.measured or "nothing yet",
            "verdict": f"{finding.verdict.upper()}: {finding.reason}",
        }
        for name, line in lines.items():
            out.append(
                textwrap.fill(
                    line,
                    WIDTH,
                    initial_indent=f"  {name:9}",
                    subsequent_indent=" " * 11,
                    break_on_hyphens=False,
                )
            )
        out.append("")
    return "\n".join([*out, tally(findings), ""])


def escape(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", text)


def short(findings: Sequence[Finding]) -> str:
    """One line a claim, for the README."""
    lines = ["| paper | claim | verdict |", "|:---|:---|:---|"]
    for finding in findings:
        cells = (finding.card.method, finding.card.title, finding.verdict)
        lines.append("| " + " | ".join(map(escape, cells)) + " |")
    return "\n".join([*lines, "", tally(findings) + "."])


def _markdown(findings: Sequence[Finding]) -> str:
    head = ["claim", "the paper says", "here", "measured", "verdict", "why"]
    out = [PAGE, tally(findings) + "."]
    for method in dict.fromkeys(finding.card.method for finding in findings):
        own = [finding for finding in findings if finding.card.method == method]
        paper = own[0].card.paper.removeprefix("arXiv:")
        out += [f"\n## {method}, [{paper}](https://arxiv.org/abs/{paper})\n"]
        out += ["| " + " | ".join(head) + " |", "|" + ":---|" * len(head)]
        for f in own:
            says = f"{f.card.says} ({f.card.where})"
            cells = [f.card.title, says, f.card.protocol, f.measured, f.verdict, f.reason]
            out.append("| " + " | ".join(map(escape, cells)) + " |")
        for figure in dict.fromkeys(f.card.figure for f in own if f.card.figure):
            titles = "; ".join(f.card.title for f in own if f.card.figure == figure)
            out.append(f"\n![{escape(titles)}](../leaderboard/figures/claims/{figure}.svg)")
    return "\n".join(out) + "\n"


def _csv(findings: Sequence[Finding]) -> str:
    out = io.StringIO()
    rows = [flat(finding) for finding in findings]
    if rows:
        writer = csv.DictWriter(out, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"tests": json.dumps(row["tests"])} for row in rows)
    return out.getvalue()


def _json(findings: Sequence[Finding]) -> str:
    return json.dumps([flat(finding) for finding in findings], indent=1, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Sequence[Finding]], str]] = {
    "text": _text,
    "markdown": _markdown,
    "csv": _csv,
    "json": _json,
}
