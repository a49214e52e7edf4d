"""new: the start of an algorithm, a file that passes the checks and trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import algorithms
from benchmark import files, registry
from benchmark.cli import ROOT
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.cli.options import New

START = ROOT / "benchmark" / "start.py"


def run(options: New) -> int:
    """Copy the start under the name of the new algorithm; nothing that is there is replaced."""
    name = options.algo
    registry.check_name(name, "option ALGO")
    path = options.plugin or Path(algorithms.__path__[0]) / f"{name}.py"
    if path.name != f"{name}.py":
        raise UserError(
            f"option PLUGIN: {path} would hold the algorithm {path.stem!r}, expected a path that"
            f" ends in {name}.py."
        )
    if name in algorithms.names():
        raise UserError(f"option ALGO: there is an algorithm {name!r} already; choose a new name.")
    text = START.read_text()
    title = "".join(word.capitalize() for word in name.split("_"))
    while re.search(rf"\b{title}\b", text) and title != "Mine":  # `config` is no class Config
        title += "Method"
    text = re.sub(r"\bMine\b", title, text)
    try:
        files.write_text(path, text, exclusive=True)
    except FileExistsError:
        raise UserError(
            f"{path} is there already and was left alone; choose another name."
        ) from None
    plugin = f" PLUGIN={path}" if options.plugin else ""
    print(f"wrote {path}; next: make check ALGO={name}{plugin}")
    return 0
