"""train: a row and a dataset as runs, and those runs in this process."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import algorithms
import datasets
from benchmark import launch, registry
from benchmark.cli import parse_config
from benchmark.cli.options_runs import Runs, Train
from benchmark.errors import UserError
from benchmark.protocol import protocol

if TYPE_CHECKING:
    from benchmark.task import Task
    from benchmark.train import Run
    from datasets import Dataset

TEAM = "mpe/spread/medium-v1"  # main dataset of the methods for teams
PLAYED = "mpe/spread-v1"  # main task of online methods


def run(options: Train) -> int:
    """One row on one dataset in this process."""
    if options.progress == "lines":
        launch.end_with_parent()
    runs = plan(options.algo, options.dataset, options, options.config)
    return 1 if sum(execute(item, options) for item in runs) else 0


def execute(run: Run, options: Train) -> int:
    """Train, evaluate and record one group of seeds; returns how many of them failed."""
    from tqdm import tqdm

    from benchmark import runner
    from benchmark.train import Progress

    lines, done = options.progress == "lines", 0
    total, episodes = max(run.steps, 1), run.protocol.episodes
    bar = tqdm(total=total, desc=run.row, unit="step", disable=options.progress != "bar")

    def show(step: int, losses: dict[str, float]) -> None:
        text = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        if lines:
            launch.report("training", step, total, text)
        bar.set_postfix_str(text, refresh=False)
        bar.update(step - bar.n)

    def evaluated(count: int) -> None:
        nonlocal done
        done += count
        bar.set_description_str(f"{run.row} evaluating")
        if lines:
            launch.report("evaluating", done, episodes)

    with contextlib.closing(bar):
        records = runner.execute(
            run,
            options.records or options.out / "records",
            progress=Progress(show, evaluated),
            sinks=options.track,
            checkpoint_seconds=options.checkpoint_seconds,
        )
    for item in records:
        if item.failed:
            print(f"error: {item.algo} seed {item.seed} failed: {item.reason}.", file=sys.stderr)
        elif options.progress == "bar":
            print(f"{item.algo} seed {item.seed}: mean team return {item.mean_return():.4g}")
    return sum(item.failed for item in records)


def is_task(source: str) -> bool:
    """Whether an id is a task's, namespace/name-vN, and not a dataset's, namespace/name/tier-vN."""
    return bool(re.fullmatch(r"[^/]+/[^/]+-v\d+", source))


def plan(row: str, source: str, options: Runs, config: Sequence[str] = ()) -> list[Run]:
    """The runs of a row on a dataset, which must have been made; of an online row, on a task."""
    from benchmark import runner

    cls, _, variant = algorithms.registry(options.plugin).row(row)
    online = variant.track == "online"
    if online and not is_task(source):
        raise UserError(f"{row} is online and takes a task such as {PLAYED}, found {source!r}.")
    if is_task(source) and not online:
        raise UserError(f"{row} learns from a dataset such as {TEAM}, found the task {source!r}.")
    data = None
    if not online:
        data = datasets.load(source, backend=getattr(options, "backend", "auto"))
    task = registry.task(source) if data is None else task_of(data)
    defaults, _ = variant.resolve(task.spec.id, options.protocol)
    overrides = parse_config(cls.Config, defaults, config, row) if config else {}
    return runner.plan(
        row,
        cls,
        variant,
        task,
        data,
        protocol(options.protocol),
        options.out / "checkpoints",
        seeds=options.seeds or None,
        overrides=overrides,
        steps=getattr(options, "steps", None),
        device=getattr(options, "device", "cpu"),
        precision=getattr(options, "precision", "float32"),
        rankable=data is None or datasets.rankable(data),
    )


def task_of(data: Dataset) -> Task:
    """The task in which what is learnt from a dataset is evaluated; UserError for data only."""
    try:
        return registry.task(data.spec.id)
    except UserError:
        transform = "" if data.obs_transform == "none" else f" ({data.obs_transform})"
        raise UserError(
            f"{data.id} cannot be evaluated: it is data of {data.spec.id}{transform}, for which"
            " this suite has no environment; see the notes on its card."
        ) from None


def make_data(ids: Sequence[str]) -> None:
    for dataset in ids:
        if not is_task(dataset) and not datasets.path(dataset).exists():
            datasets.make_dataset(dataset)
