"""Options of the commands that make, bring in and look at datasets; see `options.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Data:
    """Make datasets from their recipes."""

    datasets: tyro.conf.Positional[tuple[str, ...]] = ()
    """Dataset ids, namespace/name/tier-vN."""
    all: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Every dataset of the catalogue that is not larger than the limit."""
    limit_gb: float = 1.0
    """With --all: datasets that may take more are left out; they can be made by name."""
    force: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Make again what is there."""
    record: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the card, or add this machine's content hash to it."""


@dataclass(frozen=True)
class Datasets:
    """Print the catalogue of datasets, one id a row."""

    csv: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The same table as comma-separated values."""


@dataclass(frozen=True)
class Import:
    """Turn a public dataset into one of this suite (also: data import)."""

    format: tyro.conf.Positional[str]
    """omar, madiff, omiga, vault, d4rl or minari."""
    path: tyro.conf.Positional[Path]
    """File or folder of the source."""
    id: str = ""
    """Dataset id, namespace/name/tier-vN; default: from the names of the source."""
    task: str = ""
    """The suite's task whose data these are; default: what the format tells."""
    out: Path | None = None
    """File to write; default: where the suite looks for the id."""
    licence: str = "unknown"
    """Licence of the source, which the data keep."""
    horizon: int = 0
    """Steps of an episode at most; 0: what the format says."""
    last_row: Literal["drop", "keep"] = "drop"
    """Of cut episodes whose next observation is unknown: drop it, or repeat its observation."""
    agent_id: Literal["strip", "keep"] = "strip"
    """One-hot agent ids in front of MADiff's observations."""
    clip: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Cut actions into [-1, 1]."""
    prey: Path | None = None
    """OMAR's frozen prey network, of which the hash is noted."""
    allow: tuple[str, ...] = ()
    """Kinds of the linter's findings to accept, such as duplicates."""
    force: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace a file that is there."""


@dataclass(frozen=True)
class Export:
    """Write a dataset of this suite in a public format (also: data export)."""

    format: tyro.conf.Positional[str]
    """minari."""
    dataset: tyro.conf.Positional[str]
    """Dataset id, namespace/name/tier-vN."""
    out: Path = Path("runs/minari")
    """Folder that holds Minari's datasets."""


@dataclass(frozen=True)
class Lint:
    """Look for the usual faults in a dataset file."""

    file: tyro.conf.Positional[Path]
    """An HDF5 file of this suite's format."""
