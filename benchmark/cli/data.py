"""data, datasets and lint: making, listing and examining buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import datasets
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.cli.options import Data, Datasets, Lint


def make(options: Data) -> int:
    """Make the named datasets, or all; one that is there already is left alone."""
    if bool(options.datasets) == options.all:
        raise UserError(
            "option DATASET or --all: expected one of them, DATASET=namespace/name/tier-vN."
        )
    for dataset in options.datasets or datasets.catalogue():
        datasets.make_dataset(dataset, force=options.force, record=options.record)
    return 0


def catalogue(options: Datasets) -> int:
    """Every dataset that a recipe makes, one a line."""
    rows = [("dataset", "episodes", "steps", "agents", "mean return", "here")]
    for dataset in datasets.catalogue():
        card = datasets.card(dataset) or {}
        counts = card.get("counts", {})
        mean = datasets.mean_return(dataset)
        rows.append(
            (
                dataset,
                f"{counts.get('episodes', 0):,}" if counts else "-",
                f"{counts.get('steps', 0):,}" if counts else "-",
                f"{counts.get('agents', 0):,}" if counts else "-",
                "-" if mean is None else f"{mean:.4g}",
                "yes" if datasets.path(dataset).exists() else "no",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells))
    return 0


def lint(options: Lint) -> int:
    """Findings, one a line; exit code 1 where there are any."""
    if not options.file.exists():
        raise UserError(f"{options.file} is not there; expected an HDF5 file of this suite.")
    findings = datasets.lint(options.file)
    for finding in findings:
        print(f"{options.file}: {finding}")
    print(f"{len(findings)} findings" if findings else f"{options.file}: no findings")
    return 1 if findings else 0
