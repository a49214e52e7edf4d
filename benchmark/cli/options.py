"""The commands and their options, as frozen dataclasses; bases hold what several have. Imports
nothing heavy: `--help` must answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmark.cli.options_data import Data, Datasets, Export, Import, Lint
from benchmark.cli.options_runs import (
    Bench,
    Check,
    Grid,
    New,
    Play,
    Profile,
    ReferenceScores,
    Same,
    Submit,
    Train,
    Verify,
)


@dataclass(frozen=True, kw_only=True)
class Boards:
    records: tuple[Path, ...] = ()
    """Folders of records; default: leaderboard/results."""


@dataclass(frozen=True)
class Where:
    """Which boards and rows; several values of an option are alternatives."""

    track: tuple[str, ...] = ()
    """Tracks: offline, model, o2o, online, oracle."""
    execution: tuple[str, ...] = ()
    """Executions of the ranked rows: local, mean-field, joint."""
    namespace: tuple[str, ...] = ()
    """Namespaces of tasks, such as mpe."""
    tier: tuple[str, ...] = ()
    """Tiers of datasets, such as medium."""
    protocol: tuple[str, ...] = ()
    """Protocols: smoke, quick, full."""


@dataclass(frozen=True)
class Leaderboard(Boards):
    """Print the board of the committed records, or of a folder of records."""

    view: Literal["boards", "summary"] = "boards"
    """A board a dataset, or rows across the datasets of a namespace that all of them have."""
    where: Annotated[Where, tyro.conf.arg(name="")] = Where()
    format: Literal["text", "markdown", "csv", "latex", "json"] = "text"
    """Form of the table."""
    out: Path | None = None
    """File to write instead of printing."""


@dataclass(frozen=True)
class Plots(Boards):
    """Draw the committed records, or a folder of records, as PNG and SVG."""

    kinds: tyro.conf.Positional[
        tuple[
            Literal[
                "bars", "curves", "cost", "exploitability", "flow", "profiles", "size", "tiers",
                "papers", "studies",
            ],
            ...,
        ]
    ] = ()  # fmt: skip
    """Which figures; default: all."""
    where: Annotated[Where, tyro.conf.arg(name="")] = Where()
    checkpoints: tuple[Path, ...] = ()
    """Trained policies of finite games, whose flows are drawn beside the equilibrium's."""
    out: Path = Path("runs/plots")
    """Folder of the PNG and SVG files."""


@dataclass(frozen=True)
class Site(Boards):
    """Build the one-file HTML page of the committed records, or of a folder of records."""

    out: Path = Path("runs/site/index.html")
    """The page."""


@dataclass(frozen=True)
class Claims(Boards):
    """Hold the papers' claims against the committed records and studies."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Claims by the beginning of their names, such as omsd; default: all."""
    format: Literal["text", "markdown", "csv", "json"] = "text"
    """Form of the table."""
    out: Path | None = None
    """File to write instead of printing."""


@dataclass(frozen=True)
class Readme:
    """Fill README and the pages of results, claims and performance from what is committed."""

    check: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write nothing; fail where a page is not what the records say."""


@dataclass(frozen=True)
class Render:
    """Draw a task or a trained policy as a GIF and a PNG, or all games; needs no display."""

    task: tyro.conf.Positional[str] = ""
    """Task id."""
    policy: tuple[str, ...] = ()
    """Who plays, one after the other: random, expert, a reference line or a committed behaviour
    such as medium; default: the expert, after uniform play where an episode is one step."""
    run: str = ""
    """A trained policy instead of a task: a checkpoint, its run's folder or key, or a record."""
    member: int | None = None
    """With --run: the training seed; default: the record's, or the first of the run's."""
    plugin: tuple[str, ...] = ()
    """With --run: the file of an algorithm from outside the checkout."""
    seed: int = 1_000_000_044
    """Seed of the episode."""
    all: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Every game, and all of them on one sheet."""
    page: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fill the tables of docs/tasks.md instead."""
    out: Path | None = None
    """Folder; default: runs/render, with --all leaderboard/figures/tasks."""


@dataclass(frozen=True)
class Respond:
    """Train one agent against all others of a trained policy: a lower bound of exploitability."""

    run: tyro.conf.Positional[str]
    """A checkpoint, its run's folder or key, or a record."""
    member: int | None = None
    """The training seed; default: the record's, or the first of the run's."""
    plugin: tuple[str, ...] = ()
    """The file of an algorithm from outside the checkout."""
    out: Path = Path("runs/responses")
    """Folder of the JSON file."""


# Name of a command -> its options, and the job that runs them: module.function in this package
TABLE: dict[str, tuple[Any, str]] = {
    "bench": (Bench, "bench.run"),
    "train": (Train, "train.run"),
    "grid": (Grid, "grid.run"),
    "profile": (Profile, "profile.run"),
    "data": (Data, "data.make"),
    "import": (Import, "importing.run"),
    "export": (Export, "importing.export"),
    "datasets": (Datasets, "data.catalogue"),
    "lint": (Lint, "data.lint"),
    "new": (New, "new.run"),
    "check": (Check, "check.run"),
    "reference": (ReferenceScores, "check.reference"),
    "play": (Play, "play.run"),
    "same": (Same, "same.run"),
    "submit": (Submit, "submit.run"),
    "verify": (Verify, "verify.run"),
    "leaderboard": (Leaderboard, "board.table"),
    "plots": (Plots, "plots.run"),
    "site": (Site, "board.site"),
    "claims": (Claims, "claims.run"),
    "readme": (Readme, "readme.run"),
    "render": (Render, "render.run"),
    "respond": (Respond, "respond.run"),
}
COMMANDS = {name: options for name, (options, _) in TABLE.items()}
JOBS = {options: job for options, job in TABLE.values()}
