"""claims: the papers' claims against the committed records and studies."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark import files, registry
from benchmark.cli import ROOT, board
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.cli.options import Claims
    from leaderboard.claims import Finding
    from leaderboard.rows import Row

PAGE = ROOT / "docs" / "claims.md"  # written by `make readme`
STUDIES = {"": ROOT / "leaderboard" / "studies", "perf/": ROOT / "leaderboard" / "perf"}


def studies() -> dict[str, Any]:
    """Every committed study by its name; those of leaderboard/perf are perf/NAME."""
    return {
        prefix + path.stem: json.loads(path.read_text())
        for prefix, folder in STUDIES.items()
        for path in sorted(folder.glob("*.json"))
    }


@functools.cache
def obstacle(row: str, board: str) -> str:
    """Why a row cannot run on a dataset (or task) of this suite; "" where it can."""
    import algorithms

    parts = board.split("/")
    task_id = board if len(parts) == 2 else f"{parts[0]}/{parts[1]}-v{board.rpartition('-v')[2]}"
    try:
        spec = registry.task(task_id).spec
        cls, _, _ = algorithms.registry().row(row)
    except UserError as error:
        return f"the suite has no such row or task: {error}".rstrip(".")
    missing = cls.requires - spec.properties() - {"logp", "next_obs"}
    if missing:
        return f"{row} here requires a task that is {', '.join(sorted(missing))}, {task_id} is not"
    return ""


def findings(rows: Sequence[Row], names: Sequence[str] = ()) -> list[Finding]:
    """The verdicts on all cards, or on those whose name begins with one of `names`."""
    from leaderboard import claims, published
    from leaderboard.measures import Evidence

    cards = claims.load()
    chosen = [card for card in cards if not names or card.name.startswith(tuple(names))]
    if not chosen:
        known = ", ".join(card.name for card in cards)
        raise UserError(f"no claim begins with {' or '.join(names)}; known claims: {known}.")
    library = published.load()
    evidence = Evidence(rows, studies(), obstacle)
    return claims.judge_all(
        chosen, evidence, lambda dataset: published.is_published_data(dataset, library)
    )


def run(options: Claims) -> int:
    from leaderboard.claims_table import render

    rows = board.rows_of(board.read(options.records))
    text = render(findings(rows, options.names), options.format)
    if options.out:
        files.write_text(options.out, text)
        print(f"wrote {options.out}")
    else:
        print(text, end="")
    return 0
