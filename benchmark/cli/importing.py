"""data import and data export: public formats to files of this suite, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import datasets
from benchmark.errors import unknown_name

if TYPE_CHECKING:
    from benchmark.cli.options import Export, Import


def run(options: Import) -> int:
    """Read a public dataset, check it, and write it with its card."""
    from datasets.importers import import_dataset
    from datasets.importers.source import Options

    values = asdict(options)
    import_dataset(values.pop("format"), values.pop("path"), Options(**values))
    return 0


def export(options: Export) -> int:
    """Write a dataset of the suite in a public format."""
    from datasets.importers import to_minari

    if options.format != "minari":
        raise unknown_name("format for export", options.format, ["minari"])
    print(to_minari.write(datasets.load(options.dataset), options.out))
    return 0
