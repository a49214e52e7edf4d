"""Options of the commands that run, check and submit algorithms; see `options.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

SUBMISSIONS = Path(__file__).resolve().parents[2] / "leaderboard" / "submissions"


@dataclass(frozen=True, kw_only=True)
class Plugins:
    plugin: tuple[str, ...] = ()
    """Python files with algorithms from outside the checkout."""


@dataclass(frozen=True, kw_only=True)
class Outputs(Plugins):
    protocol: Literal["smoke", "quick", "full"] = "quick"
    """How much to run."""
    out: Path = Path("runs")
    """Folder of checkpoints and records."""


@dataclass(frozen=True, kw_only=True)
class Runs(Outputs):
    seeds: tuple[int, ...] = ()
    """Training seeds; default: the protocol's."""
    config: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()  # `--config.name value` pairs


@dataclass(frozen=True, kw_only=True)
class Processes:
    workers: int = 0
    """Processes at once; 0: one per core."""


@dataclass(frozen=True, kw_only=True)
class Training:
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Further places for the losses."""
    device: str = "cpu"
    """Where to train."""


@dataclass(frozen=True, kw_only=True)
class Records:
    records: Path | None = None
    """Folder of records; default: records under --out."""


@dataclass(frozen=True)
class Bench(Runs, Processes, Training):
    """Make the dataset, train, evaluate, rank against the floors, and draw."""

    algo: tyro.conf.Positional[str]
    """Name of an algorithm, or algorithm.variant."""
    dataset: str = ""
    """Dataset id, namespace/name/tier-vN; default: the algorithm's main one."""
    task: str = ""
    """Task id: an online algorithm plays it, another takes its medium (probes: two-mode) data."""


@dataclass(frozen=True)
class Train(Runs, Records, Training):
    """Train, evaluate and record one row on one dataset, in this process."""

    algo: tyro.conf.Positional[str]
    """Name of an algorithm, or algorithm.variant."""
    dataset: tyro.conf.Positional[str]
    """Dataset id, namespace/name/tier-vN; of an online algorithm a task id, namespace/name-vN."""
    steps: int | None = None
    """Gradient steps; default: the variant's. Such a run is never rankable."""
    checkpoint_seconds: float = 30.0
    """Time between checkpoints."""
    backend: Literal["auto", "ram", "mmap", "shuffle"] = "auto"
    """How the dataset is held; shuffle reads it in another order, which makes another run."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of matrix products in updates; bf16 pays for the U-Nets of madiff, where the processor has
    it, and makes another run."""
    progress: Literal["bar", "lines", "none"] = "bar"
    """How progress is shown; lines are for a program that reads them."""


@dataclass(frozen=True)
class Grid(Runs, Records, Processes):
    """Run many algorithms on many datasets, here or on a Ray cluster; skips what is finished."""

    algos: tuple[str, ...]
    """Rows: algorithm or algorithm.variant."""
    datasets: tuple[str, ...]
    """Dataset ids; task ids for online algorithms."""
    executor: Literal["local", "ray"] = "local"
    """Where: this machine, or the Ray cluster at RAY_ADDRESS (none: one is started here)."""
    lease: float = 120.0
    """Seconds after which the jobs of a grid that gives no sign of life are taken over."""
    patience: float = 6.0
    """Hours after which a job that gives no sign of life is ended, and tried again."""
    preview: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say what would be run and what it may cost, and stop."""


@dataclass(frozen=True)
class Same:
    """Show that today's code of algorithms has the bits of the code that made their records, after
    a change to shared modules; what is shown is entered in leaderboard/same_code.json.
    """

    algos: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of algorithms; default: all."""
    records: Path = Path("leaderboard/results")
    """Folder of their records."""


@dataclass(frozen=True)
class Profile(Runs):
    """Say where the time of an update goes, beside the floor of its matrix products; of the first
    group of seeds. Nothing is written.
    """

    algo: tyro.conf.Positional[str]
    """Name of an algorithm, or algorithm.variant."""
    dataset: str = ""
    """Dataset id, namespace/name/tier-vN; default: the algorithm's main one."""
    task: str = ""
    """Task id: its medium data are taken."""
    seconds: float = 2.0
    """Processor time for each of sampling, updates and floor."""


@dataclass(frozen=True)
class New:
    """Write the start of an algorithm: a file that passes the checks and trains."""

    algo: tyro.conf.Positional[str]
    """Name of the algorithm: lower-case letters, digits and _."""
    plugin: Path | None = None
    """File to write, outside of the checkout; default: algorithms/ALGO.py."""


@dataclass(frozen=True)
class Check(Plugins):
    """Hold an algorithm, a task or a dataset against the suite's contracts."""

    algo: str = ""
    """Name of an algorithm."""
    task: str = ""
    """Task id."""
    dataset: str = ""
    """Dataset id."""


@dataclass(frozen=True)
class ReferenceScores:
    """Measure the fixed references of a task (random, expert, exact values) and write them."""

    task: tyro.conf.Positional[str]
    """Task id."""


@dataclass(frozen=True)
class Play(Plugins):
    """Evaluate a checkpoint on seeds of your own."""

    checkpoint: tyro.conf.Positional[Path]
    """A run's checkpoint, under runs/checkpoints."""
    first: int = 10_000
    """Seed of the first episode."""
    episodes: int = 100
    """Episodes, one a seed."""
    out: Path | None = None
    """Folder for the traces of actions."""


@dataclass(frozen=True)
class Submit(Outputs, Processes):
    """Check an algorithm, run what is missing, and write a submission: records, checkpoints, traces
    of actions, a report.
    """

    algos: tyro.conf.Positional[tuple[str, ...]]
    """One algorithm, or variants of it: algorithm.variant."""
    datasets: tuple[str, ...] = ()
    """Dataset ids; task ids for online algorithms; default: the algorithm's main one."""
    author: str = ""
    """Who submits, as the board may show it."""
    code: str = ""
    """https address of the algorithm's code."""
    submissions: Path = SUBMISSIONS
    """Folder of submissions."""


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
