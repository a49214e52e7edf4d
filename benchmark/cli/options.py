"""The commands and their options, as frozen dataclasses. Imports nothing heavy: `--help` must
answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

SUBMISSIONS = Path(__file__).resolve().parents[2] / "leaderboard" / "submissions"
ProtocolName = Literal["smoke", "quick", "full"]
Config = Annotated[tuple[str, ...], tyro.conf.Suppress]  # `--config.name value` pairs


@dataclass(frozen=True)
class Bench:
    """Make the dataset, train, evaluate, rank against the floors, and draw."""

    algo: tyro.conf.Positional[str]
    """Name of an algorithm, or algorithm.variant."""
    dataset: str = ""
    """Dataset id, namespace/name/tier-vN; default: the algorithm's main one."""
    task: str = ""
    """Task id: an online algorithm plays it, another takes its medium (probes: two-mode) data."""
    seeds: tuple[int, ...] = ()
    """Training seeds; default: the protocol's."""
    protocol: ProtocolName = "quick"
    """How much to run."""
    plugin: tuple[str, ...] = ()
    """Python files with algorithms from outside the checkout."""
    out: Path = Path("runs")
    """Folder of checkpoints and records."""
    workers: int = 0
    """Processes at once; 0: one per core."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Further places for the losses."""
    device: str = "cpu"
    """Where to train."""
    config: Config = ()


@dataclass(frozen=True)
class Train:
    """Train, evaluate and record one row on one dataset, in this process."""

    algo: tyro.conf.Positional[str]
    """Name of an algorithm, or algorithm.variant."""
    dataset: tyro.conf.Positional[str]
    """Dataset id, namespace/name/tier-vN; of an online algorithm a task id, namespace/name-vN."""
    seeds: tuple[int, ...] = ()
    """Training seeds; default: the protocol's."""
    protocol: ProtocolName = "quick"
    """How much to run."""
    plugin: tuple[str, ...] = ()
    """Python files with algorithms from outside the checkout."""
    out: Path = Path("runs")
    """Folder of checkpoints and records."""
    records: Path | None = None
    """Folder of records; default: records under --out."""
    steps: int | None = None
    """Gradient steps; default: the variant's. Such a run is never rankable."""
    checkpoint_seconds: float = 30.0
    """Time between checkpoints."""
    backend: Literal["auto", "ram", "mmap", "shuffle"] = "auto"
    """How the dataset is held."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Further places for the losses."""
    device: str = "cpu"
    """Where to train."""
    progress: Literal["bar", "lines", "none"] = "bar"
    """How progress is shown; lines are for a program that reads them."""
    config: Config = ()


@dataclass(frozen=True)
class Grid:
    """Run many algorithms on many datasets, here or on a Ray cluster; skips what is finished."""

    algos: tuple[str, ...]
    """Rows: algorithm or algorithm.variant."""
    datasets: tuple[str, ...]
    """Dataset ids; task ids for online algorithms."""
    seeds: tuple[int, ...] = ()
    """Training seeds; default: the protocol's."""
    protocol: ProtocolName = "quick"
    """How much to run."""
    plugin: tuple[str, ...] = ()
    """Python files with algorithms from outside the checkout."""
    out: Path = Path("runs")
    """Folder of checkpoints and records."""
    records: Path | None = None
    """Folder of records; default: records under --out."""
    workers: int = 0
    """Processes at once; 0: one per core."""
    executor: Literal["local", "ray"] = "local"
    """Where: this machine, or the Ray cluster at RAY_ADDRESS (none: one is started here)."""
    lease: float = 120.0
    """Seconds after which the jobs of a grid that gives no sign of life are taken over."""
    patience: float = 6.0
    """Hours after which a job that gives no sign of life is ended, and tried again."""
    preview: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say what would be run and what it may cost, and stop."""
    config: Config = ()


@dataclass(frozen=True)
class Profile:
    """Say where the time of an update goes, beside the floor of its matrix products."""

    algo: tyro.conf.Positional[str]
    """Name of an algorithm, or algorithm.variant."""
    dataset: str = ""
    """Dataset id, namespace/name/tier-vN; default: the algorithm's main one."""
    task: str = ""
    """Task id: its medium data are taken."""
    seeds: tuple[int, ...] = ()
    """Training seeds, of which the first group is measured; default: the protocol's."""
    protocol: ProtocolName = "quick"
    """Whose settings."""
    plugin: tuple[str, ...] = ()
    """Python files with algorithms from outside the checkout."""
    out: Path = Path("runs")
    """Folder of checkpoints and records; nothing is written."""
    seconds: float = 2.0
    """Processor time for each of sampling, updates and floor."""
    config: Config = ()


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


@dataclass(frozen=True)
class Check:
    """Hold an algorithm, a task or a dataset against the suite's contracts."""

    algo: str = ""
    """Name of an algorithm."""
    task: str = ""
    """Task id."""
    dataset: str = ""
    """Dataset id."""
    plugin: tuple[str, ...] = ()
    """Python files with algorithms from outside the checkout."""


@dataclass(frozen=True)
class New:
    """Write the start of an algorithm: a file that passes the checks and trains."""

    algo: tyro.conf.Positional[str]
    """Name of the algorithm: lower-case letters, digits and _."""
    plugin: Path | None = None
    """File to write, outside of the checkout; default: algorithms/ALGO.py."""


@dataclass(frozen=True)
class ReferenceScores:
    """Measure the fixed references of a task (random, expert, exact values) and write them."""

    task: tyro.conf.Positional[str]
    """Task id."""


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
class Leaderboard:
    """Print the board of the committed records, or of a folder of records."""

    view: Literal["boards", "summary"] = "boards"
    """A board a dataset, or rows across the datasets of a namespace that all of them have."""
    where: Annotated[Where, tyro.conf.arg(name="")] = Where()
    records: tuple[Path, ...] = ()
    """Folders of records; default: leaderboard/results."""
    format: Literal["text", "markdown", "csv", "latex", "json"] = "text"
    """Form of the table."""
    out: Path | None = None
    """File to write instead of printing."""


@dataclass(frozen=True)
class Plots:
    """Draw the committed records, or a folder of records, as PNG and SVG."""

    kinds: tyro.conf.Positional[
        tuple[
            Literal[
                "bars", "curves", "cost", "exploitability", "flow", "profiles", "size", "tiers",
                "papers",
            ],
            ...,
        ]
    ] = ()  # fmt: skip
    """Which figures; default: all."""
    where: Annotated[Where, tyro.conf.arg(name="")] = Where()
    checkpoints: tuple[Path, ...] = ()
    """Trained policies of finite games, whose flows are drawn beside the equilibrium's."""
    records: tuple[Path, ...] = ()
    """Folders of records; default: leaderboard/results."""
    out: Path = Path("runs/plots")
    """Folder of the PNG and SVG files."""


@dataclass(frozen=True)
class Site:
    """Build the one-file HTML page of the committed records, or of a folder of records."""

    records: tuple[Path, ...] = ()
    """Folders of records; default: leaderboard/results."""
    out: Path = Path("runs/site/index.html")
    """The page."""


@dataclass(frozen=True)
class Claims:
    """Hold the papers' claims against the committed records and studies."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Claims by the beginning of their names, such as omsd; default: all."""
    records: tuple[Path, ...] = ()
    """Folders of records; default: leaderboard/results."""
    format: Literal["text", "markdown", "csv", "json"] = "text"
    """Form of the table."""
    out: Path | None = None
    """File to write instead of printing."""


@dataclass(frozen=True)
class Readme:
    """Fill the README's tables and figures from the committed records."""

    check: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write nothing; fail where the README is not what the records say."""


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
class Play:
    """Evaluate a checkpoint on seeds of your own."""

    checkpoint: tyro.conf.Positional[Path]
    """A run's checkpoint, under runs/checkpoints."""
    first: int = 10_000
    """Seed of the first episode."""
    episodes: int = 100
    """Episodes, one a seed."""
    plugin: tuple[str, ...] = ()
    """Python files with algorithms from outside the checkout."""
    out: Path | None = None
    """Folder for the traces of actions."""


@dataclass(frozen=True)
class Submit:
    """Check an algorithm, run what is missing, and write a submission: records, checkpoints, traces
    of actions, a report.
    """

    algos: tyro.conf.Positional[tuple[str, ...]]
    """One algorithm, or variants of it: algorithm.variant."""
    datasets: tuple[str, ...] = ()
    """Dataset ids; task ids for online algorithms; default: the algorithm's main one."""
    protocol: ProtocolName = "quick"
    """How much to run; the seeds are the protocol's."""
    plugin: tuple[str, ...] = ()
    """Python files with algorithms from outside the checkout."""
    author: str = ""
    """Who submits, as the board may show it."""
    code: str = ""
    """https address of the algorithm's code."""
    submissions: Path = SUBMISSIONS
    """Folder of submissions."""
    out: Path = Path("runs")
    """Folder of checkpoints and records."""
    workers: int = 0
    """Processes at once; 0: one per core."""


@dataclass(frozen=True)
class Verify:
    """Verify submissions and the committed records; exit code 1 where anything is wrong."""

    submissions: tyro.conf.Positional[tuple[str, ...]] = ()
    """Ids, such as mine-v1; default: all, and the committed records."""
    level: Literal[0, 1, 2, 3] = 1
    """1: schema, hashes, sums; 2: play traces and checkpoints; 3: train a seed again."""
    root: Path = SUBMISSIONS
    """Folder of submissions."""
    record: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write what was found to verification.json, from which the board takes levels."""
    base: str = ""
    """A git commit: since then submissions may only have been added."""
    maintainer: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --base: new verifications are allowed."""
    run_code: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Level 3: yes, run the algorithm's code, in a process with limits."""
    plugin: tuple[str, ...] = ()
    """Level 3: the file of an algorithm from outside the checkout."""
    seed: int = 0
    """Level 3: the training seed to train again, with its group."""
    hours: float = 1.0
    """Level 3: processor time of a run at most."""
    memory_gb: float = 16.0
    """Level 3: address space of a run at most."""


# Name of a command -> its options, and the job that runs them: module.function in this package
COMMANDS: dict[str, Any] = {
    "bench": Bench,
    "train": Train,
    "grid": Grid,
    "profile": Profile,
    "data": Data,
    "import": Import,
    "export": Export,
    "datasets": Datasets,
    "lint": Lint,
    "new": New,
    "check": Check,
    "reference": ReferenceScores,
    "play": Play,
    "submit": Submit,
    "verify": Verify,
    "leaderboard": Leaderboard,
    "plots": Plots,
    "site": Site,
    "claims": Claims,
    "readme": Readme,
    "render": Render,
}
JOBS = {
    Bench: "bench.run",
    Train: "bench.train",
    Grid: "grid.run",
    Profile: "profile.run",
    Data: "data.make",
    Import: "importing.run",
    Export: "importing.export",
    Datasets: "data.catalogue",
    Lint: "data.lint",
    New: "new.run",
    Check: "check.run",
    ReferenceScores: "check.reference",
    Play: "play.run",
    Submit: "submit.run",
    Verify: "verify.run",
    Leaderboard: "board.table",
    Plots: "plots.run",
    Site: "board.site",
    Claims: "claims.run",
    Readme: "readme.run",
    Render: "render.run",
}
