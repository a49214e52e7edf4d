"""The board as one HTML file that opens from disk: no network, no framework, under 1 MB.

`build(records, rows, findings)`. Equal records in any order give equal bytes. Names in records are
a stranger's text, so everything is escaped by the template engine, links are made only from arXiv
numbers, and a content security policy admits the one style and the one script by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.files import sha256
from benchmark.protocol import protocol
from benchmark.record import Provenance, Record
from leaderboard.claims import Finding
from leaderboard.claims_table import tally
from leaderboard.columns import (
    Column,
    about,
    columns,
    mark,
    number,
    plain,
    published_columns,
)
from leaderboard.rows import LEVELS, RAW, Board, Row, by_board, value_gap
from leaderboard.site_drawings import axis, bar, curves, fixed_line, points_of_a_line

PAGE = Path(__file__).parent / "page"
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
    text: str
    value: str  # what the column sorts by, where that is not the text
    right: bool


@dataclass(frozen=True)
class Whole:
    """What a row's details need to know of the page."""

    environments: dict[str, int]  # a machine and its packages -> their number on the page
    points: int  # of a line of a curve


def build(records: Sequence[Record], rows: Sequence[Row], findings: Sequence[Finding] = ()) -> str:
    """The page of `rows`, which were summarised from `records`, and of claims held against them."""
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
    found = sorted({_environment(run.provenance) for row in rows for run in row.runs})
    whole = Whole({text: i for i, text in enumerate(found, 1)}, points_of_a_line(rows))
    boards = [_board(board, own, whole) for board, own in by_board(rows).items()]
    levels = [row.level for row in rows if row.kind == "algorithm" and row.level is not None]
    runs = environment.get_template("runs.html.j2")
    return environment.get_template("index.html.j2").render(
        packed=_packed([runs.render(board=board) for board in boards]),
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
        claims=_claims(findings, {run_id(row) for row in rows if row.runs}),
        tally=tally(findings),
        environments=found,
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


def _packed(parts: Sequence[str]) -> str:
    """Texts behind each other, compressed; the page's script undoes it."""
    return base64.b64encode(zlib.compress("\0".join(parts).encode(), 9)).decode()


def _policy(style: str, script: str) -> str:
    """Only this style and this script, and nothing from anywhere else."""

    def source(text: str) -> str:
        digest = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return (
        f"default-src 'none'; style-src {source(style)}; script-src {source(script)};"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )


def _board(board: Board, rows: Sequence[Row], whole: Whole) -> dict[str, Any]:
    about_board = about(board, rows)
    beside = [row for row in rows if row.printed and row.printed.comparable != "no"]
    rows = [row for row in rows if row.kind != "published"]
    results, costs = columns(board, rows)
    shown = [column for column in (*results[2:], *costs[1:]) if column.title != "level"]
    ranked = [row for row in rows if row.kind == "algorithm"]
    executions = list(dict.fromkeys(row.execution for row in ranked))
    groups = [(name, [r for r in ranked if r.execution == name]) for name in executions]
    fixed = [row for row in rows if row.kind in ("floor", "reference")]
    low, high = axis(rows)
    lines = [fixed_line(row, low, high) for row in fixed if row.value is not None]
    best = "equilibrium" if board.metric == "exploitability" else "expert"

    def shaped(row: Row) -> dict[str, Any]:
        return _row(row, shown, whole) | {"bar": bar(row, low, high)}

    return {
        "id": "board-" + sha256(repr(board.order()).encode())[:10],
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
        "published": [_cells(row, published_columns()) for row in beside],
        "published_columns": published_columns(),
    }


def run_id(row: Row) -> str:
    """Where a row's runs stand on the page."""
    return "run-" + sha256(repr((row.board.order(), row.label)).encode())[:10]


def _cells(row: Row, shown: Sequence[Column]) -> list[Cell]:
    return [Cell(c.cell(row), _sorted_by(c.value(row), c.cell(row)), c.right) for c in shown]


def _sorted_by(value: float | str | None, text: str) -> str:
    """A number that its text does not show, "12.5 s"; "" where the text sorts as well."""
    if value is None or isinstance(value, str):
        return ""
    try:
        float(text)
    except ValueError:
        return f"{value:.5g}"
    return ""


def _row(row: Row, shown: Sequence[Column], whole: Whole) -> dict[str, Any]:
    return {
        "id": run_id(row),
        "rank": row.rank,
        "label": plain(row.label),
        "mark": mark(row),
        "kind": row.kind,
        "level": row.level,
        "level_name": "" if row.level is None else LEVELS[row.level],
        "cells": _cells(row, shown),
        "notes": row.notes,
        "detail": _detail(row, whole) if row.runs else None,
    }


# ------------------------------------------------------------------------------------------ claims
def _claims(findings: Sequence[Finding], known: set[str]) -> list[dict[str, Any]]:
    """A row a claim, with links to the runs on this page that it was held against."""
    result = []
    for finding in findings:
        card = finding.card
        rows = [row for part in finding.parts for found in part.found for row in found.rows]
        links = {run_id(row): f"{row.label} on {row.board.title}" for row in rows}
        result.append(
            {
                "id": f"claim-{card.name}",
                "paper": card.method,
                "arxiv": _arxiv(card.paper),
                "title": card.title,
                "says": card.says,
                "where": card.where,
                "here": card.protocol,
                "measured": finding.measured or "nothing yet",
                "verdict": finding.verdict,
                "reason": finding.reason,
                "runs": [(name, label) for name, label in links.items() if name in known],
            }
        )
    return result


def _arxiv(paper: str) -> str:
    """The number of an arXiv paper, the only kind of address that a link is made of; else ""."""
    found = re.search(r"arXiv:(\d{4}\.\d{4,5})", paper)
    return found.group(1) if found else ""


# ----------------------------------------------------------------------------------------- details
def _detail(row: Row, whole: Whole) -> dict[str, Any]:
    """What stands behind a row: configuration, seeds, losses, provenance, how to repeat it."""
    first = row.runs[0]
    commits = sorted({run.provenance.commit[:12] or "no checkout" for run in row.runs})
    environments = {whole.environments[_environment(run.provenance)] for run in row.runs}
    return {
        "paper": row.paper,
        "arxiv": _arxiv(row.paper),
        "config": [f"{name} = {json.dumps(value)}" for name, value in sorted(first.config.items())],
        "environments": sorted(environments),
        "command": _command(row),
        "commit": first.provenance.commit[:12],
        "runs": [_run(row, run, i) for i, run in enumerate(row.runs)],
        "curves": curves(row.runs, whole.points),
        "facts": [
            ("gradient steps", f"{first.steps:,}"),
            ("tuning", f"{first.tuning.configs_tried} configurations tried,"
             f" {first.tuning.online_episodes} online episodes"),
            ("algorithm's code", f"sha256 {first.code_sha256[:12]}"),
            ("dataset's content", f"sha256 {first.dataset_sha256[:12]}"),
            ("evaluation seeds", f"from {first.first_episode_seed:,}"),
            ("commit", ", ".join(commits)
             + (" with uncommitted changes" if any(r.provenance.dirty for r in row.runs) else "")),
            ("trained on", f"{first.cost.device}, {first.provenance.threads} thread(s)"),
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
    gap = value_gap(row.board, run)
    measured |= {} if gap is None else {"value gap": gap}
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


def _environment(provenance: Provenance) -> str:
    packages = provenance.packages
    named = ", ".join(f"{name} {packages[name]}" for name in sorted(packages))
    return f"{provenance.platform}, Python {provenance.python}: {named}"
