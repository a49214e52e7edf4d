"""Public datasets as files of this suite: one module per format, each with `read(path, options)`.

    python -m benchmark data import omar datasets/simple_spread/expert/seed_0_data
    python -m benchmark data export minari mpe/spread/medium-v1

Nothing in a foreign file is trusted: arrays are checked before they are read, pickles are refused,
and names in a file choose neither code nor paths. What was read becomes a `Source`; the file and
its card appear only when the linter has found them clean.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from benchmark.errors import unknown_name
from datasets.importers.source import Options

FORMATS = ("d4rl", "madiff", "minari", "omar", "omiga", "vault")  # the modules that have `read`


def import_dataset(format: str, path: Path | str, options: Options | None = None) -> Path:
    """Turn a public dataset into a file of this suite; returns its path.

    Raises UserError where the format is unknown or the files are not what the format says.
    """
    from datasets.importers.publish import publish

    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    chosen = options or Options()
    module = importlib.import_module(f"datasets.importers.{format}")
    return publish(format, module.read(Path(path), chosen), chosen)
