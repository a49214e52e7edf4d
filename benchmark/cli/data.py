"""data, datasets and lint: making, listing and examining buffers."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import datasets
from benchmark import registry
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.cli.options import Data, Datasets, Lint


def make(options: Data) -> int:
    """Make the named datasets, or all small ones; one that is there already is left alone."""
    if bool(options.datasets) == options.all:
        raise UserError(
            "option DATASET or --all: expected one of them, DATASET=namespace/name/tier-vN."
        )
    if options.limit_gb <= 0:
        raise UserError(f"option --limit-gb is {options.limit_gb:g}, expected more than 0.")
    if options.all:
        limit = int(options.limit_gb * 1e9)
        failed = datasets.make_all(
            datasets.catalogue(), limit, force=options.force, record=options.record
        )
        return 1 if failed else 0
    for dataset in options.datasets:
        datasets.make_dataset(dataset, force=options.force, record=options.record)
    return 0


COLUMNS = (
    "dataset",
    "tier",
    "episodes",
    "steps",
    "agents",
    "MB",
    "return",
    "margin",
    "exploitability",
    "score",
    "licence",
    "superseded by",
    "here",
)


def catalogue(options: Datasets) -> int:
    """Every dataset that a recipe makes or a card describes, one a row; numbers from the cards.

    `exploitability` is that of the average behaviour policy, `score` that of the mean behaviour by
    the task's metric: 0 as random play, 100 as the reference.
    """
    ids = datasets.catalogue()
    ids += sorted(set(datasets.committed()) - set(ids))
    rows = [_row(dataset) for dataset in ids]
    if options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        plain = [[cell.replace(",", "") for cell in row] for row in rows]  # 10,000 -> 10000
        writer.writerows([COLUMNS, *plain])
        return 0
    shown = [i for i, name in enumerate(COLUMNS) if any(row[i] for row in rows) or name == "here"]
    table = [[COLUMNS[i] for i in shown], *([row[i] or "-" for i in shown] for row in rows)]
    text = {"dataset", "tier", "licence", "superseded by", "here"}
    widths = [max(len(row[c]) for row in table) for c in range(len(shown))]
    for row in table:
        cells = [
            cell.ljust(width) if table[0][c] in text else cell.rjust(width)
            for c, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    return 0


def _row(dataset: str) -> list[str]:
    """The cells of one dataset, "" where the card does not say."""
    card = datasets.card(dataset)
    counts, statistics = card.get("counts", {}), card.get("statistics", {})

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    size = counts.get("bytes")
    return [
        dataset,
        dataset.rpartition("/")[2].rpartition("-v")[0],
        *(number(counts.get(name), ",") for name in ("episodes", "steps", "agents")),
        number(None if size is None else size / 1e6, ",.1f"),
        number(statistics.get("return_mean"), ".4g"),
        number(statistics.get("margin_mean"), ".4g"),
        number(statistics.get("behaviour_exploitability"), ".4g"),
        number(_score(card), ".1f"),
        card.get("licence", ""),
        card.get("superseded_by", ""),
        "yes" if datasets.path(dataset).exists() else "no",
    ]


def _score(card: Mapping[str, Any]) -> float | None:
    """Normalised score of the mean behaviour; None where card, task or reference lack."""
    names = {"margin": "margin_mean", "exploitability": "behaviour_exploitability"}
    try:
        task = registry.task(card.get("task", ""))
    except UserError:
        return None
    metric, reference = task.spec.metric, task.reference()
    value = card["statistics"].get(names.get(metric, "return_mean"))
    if reference is None or value is None:
        return None
    return float(reference.score(metric, value))


def lint(options: Lint) -> int:
    """Findings, one a line; exit code 1 where there are any."""
    if not options.file.exists():
        raise UserError(f"{options.file} is not there; expected an HDF5 file of this suite.")
    findings = datasets.lint(options.file)
    for finding in findings:
        print(f"{options.file}: {finding}")
    print(f"{len(findings)} findings" if findings else f"{options.file}: no findings")
    return 1 if findings else 0
