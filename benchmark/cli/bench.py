"""bench and train: from an algorithm's name to records, a table, a plot and a page."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import algorithms
import datasets
from benchmark import launch, registry
from benchmark.cli import ROOT, board, parse_config
from benchmark.cli.options import Bench, Grid, Profile, Train
from benchmark.errors import UserError, unknown_name
from benchmark.protocol import protocol

if TYPE_CHECKING:
    from benchmark.record import Record
    from benchmark.task import Task
    from benchmark.train import Run
    from datasets import Dataset

RESULTS = ROOT / "leaderboard" / "results"
POPULATION = "meanfield/squeeze-n1000/medium-v1"  # main dataset of mean-field methods
TEAM = "mpe/spread/medium-v1"  # and of the others
TIERS = ("medium", "two-mode")  # what a task alone stands for
PLAYED = "mpe/spread-v1"  # main task of online methods
CROWD = "meanfield/queue-n256-v1"  # and of those that play whole populations
FLOORS = ("random", "bc")


def is_task(source: str) -> bool:
    """Whether an id is a task's, namespace/name-vN, and not a dataset's, namespace/name/tier-vN."""
    return bool(re.fullmatch(r"[^/]+/[^/]+-v\d+", source))


def plan(
    row: str, source: str, options: Bench | Train | Grid | Profile, config: Sequence[str] = ()
) -> list[Run]:
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


def default_source(row: str, options: Bench | Profile) -> str:
    """The dataset of a bench: --dataset, else the medium tier of --task, or two modes of a probe,
    else the method's main one. Of an online row, the task.
    """
    if options.dataset and options.task:
        raise UserError("options --dataset and --task were both given, expected one of them.")
    if options.dataset:
        return options.dataset
    cls, _, variant = algorithms.registry(options.plugin).row(row)
    if variant.track == "online":
        return options.task or (CROWD if "exchangeable" in cls.requires else PLAYED)
    if options.task:
        name = registry.task(options.task).spec.id.rsplit("-v", 1)[0]
        for tier in TIERS:
            start = f"{name}/{tier}-v"
            ids = [known for known in datasets.catalogue() if known.startswith(start)]
            if ids:
                return ids[-1]
        raise unknown_name("dataset", f"{name}/{TIERS[0]}-v1", datasets.catalogue())
    return POPULATION if "exchangeable" in cls.requires else TEAM


def train(options: Train) -> int:
    """One row on one dataset in this process."""
    from tqdm import tqdm

    from benchmark import runner
    from benchmark.train import Progress

    lines = options.progress == "lines"
    if lines:
        launch.end_with_parent()
    failed = 0
    for run in plan(options.algo, options.dataset, options, options.config):
        total, episodes = max(run.steps, 1), run.protocol.episodes
        bar = tqdm(total=total, desc=run.row, unit="step", disable=options.progress != "bar")
        done = [0]

        def show(step: int, losses: dict[str, float]) -> None:
            text = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            if lines:
                launch.report("training", step, total, text)  # noqa: B023
            bar.set_postfix_str(text, refresh=False)  # noqa: B023
            bar.update(step - bar.n)  # noqa: B023

        def evaluated(count: int) -> None:
            done[0] += count  # noqa: B023
            bar.set_description_str(f"{run.row} evaluating")  # noqa: B023
            if lines:
                launch.report("evaluating", done[0], episodes)  # noqa: B023

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
                failed += 1
                sentence = f"{item.algo} seed {item.seed} failed: {item.reason}"
                print(f"error: {sentence}.", file=sys.stderr)
            elif options.progress == "bar":
                print(f"{item.algo} seed {item.seed}: mean team return {item.mean_return():.4g}")
    return 1 if failed else 0


def jobs_of(runs: Sequence[Run], options: Bench | Grid, config: Sequence[str]) -> list[launch.Job]:
    """One process a group of seeds."""
    common = ["--protocol", options.protocol, "--progress", "lines"]
    common += ["--out", launch.absolute(options.out)]
    if isinstance(options, Grid) and options.records:
        common += ["--records", launch.absolute(options.records)]
    if options.plugin:
        common += ["--plugin", *(launch.absolute(Path(path)) for path in options.plugin)]
    if isinstance(options, Bench) and options.track:
        common += ["--track", *options.track]
    made = []
    for run in runs:
        seeds = ["--seeds", *map(str, run.seeds)]
        device = ["--device", run.device]
        label = f"{run.row} [{','.join(map(str, run.seeds))}]"
        arguments = ("train", run.row, run.source, *seeds, *device, *common, *config)
        made.append(launch.Job(label, arguments))
    return made


def cost_of(run: Run, known: Sequence[Record]) -> tuple[float, float] | None:
    """Core-seconds and megabytes of disk that a run may take, from records of the same row, on the
    same dataset where there are any; None where there is none at all.
    """
    own = [r for r in known if r.algo == run.row and not r.failed]
    like = [r.cost for r in own if (r.dataset or r.task) == run.source] or [r.cost for r in own]
    if not like:
        return None
    each = sum(c.update_ms * run.steps / 1e3 + c.evaluate_seconds for c in like) / len(like)
    # float32 weights, a target or EMA copy, and two moments of Adam
    megabytes = 16e-6 * like[0].parameters * len(run.seeds)
    return each * len(run.seeds) + 4.0, megabytes  # 4 s: start of a process


def estimate(runs: Sequence[Run], workers: int) -> str:
    """Time and disk from records of the same rows and datasets; says so where there is none."""
    from benchmark import record

    known = record.read_all([RESULTS])
    found = [(run.row, cost_of(run, known)) for run in runs]
    seconds = sum(cost[0] for _, cost in found if cost)
    megabytes = 1.0 + sum(cost[1] for _, cost in found if cost)  # 1 MB: records, plot and page
    missing = {row for row, cost in found if cost is None}
    workers = max(1, min(workers or launch.cores(), len(runs)))
    text = f"about {duration(seconds / workers)} on {workers} processes, {megabytes:.0f} MB of disk"
    if missing:
        names = ", ".join(sorted(missing))
        unknown = f"unknown for {names}, of which there is no record"
        return f"{text}; {unknown}" if seconds else unknown
    return text


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def make_data(ids: Sequence[str]) -> None:
    for dataset in ids:
        if not is_task(dataset) and not datasets.path(dataset).exists():
            datasets.make_dataset(dataset)


def run(options: Bench) -> int:
    """The whole way, on one dataset."""
    from benchmark import runner

    begun = time.perf_counter()
    chosen = default_source(options.algo, options)
    floors = () if is_task(chosen) else FLOORS  # an online board knows random play as it is
    rows = [options.algo, *(floor for floor in floors if floor != options.algo)]
    algorithms.registry(options.plugin).row(options.algo)  # a wrong name is told before any work
    print(f"{options.algo} on {chosen}, protocol {options.protocol}")
    if not is_task(chosen) and not datasets.path(chosen).exists():
        print(f"data: {datasets.describe_cost(chosen)}")
    make_data([chosen])
    runs: dict[str, list[Run]] = {}
    for row in rows:
        runs[row] = plan(row, chosen, options, options.config if row == options.algo else ())
    own, committed = options.out / "records", RESULTS
    ready: list[Record] = []
    todo: list[Run] = []
    for row in rows:
        roots = [own] if row == options.algo else [own, committed]
        for item in runs[row]:
            found = runner.find_records(item, roots)
            if found:
                ready += found
            else:
                todo.append(item)
    main = runs[options.algo][0]
    seeds = ", ".join(str(seed) for item in runs[options.algo] for seed in item.seeds)
    episodes = main.protocol.episodes
    print(f"plan: seeds {seeds}; {main.steps:,} steps each; {episodes} evaluation episodes")
    if todo:
        print(f"estimate: {estimate(todo, options.workers)}, in {options.out}")
    else:
        print("every run is finished; delete its records to run again.")
    jobs = [job for item in todo for job in jobs_of([item], options, main_config(item, options))]
    outcomes = launch.run_jobs(jobs, options.workers)
    for item in todo:
        ready += runner.find_records(item, [own]) or []
    code = report(outcomes)
    if ready:
        board.show(ready, options.out, options.algo)
    print(f"done in {duration(time.perf_counter() - begun)}")
    return code


def main_config(item: Run, options: Bench) -> Sequence[str]:
    return options.config if item.row == options.algo else ()


def report(outcomes: Sequence[launch.Outcome]) -> int:
    """One sentence for each job that failed."""
    bad = [outcome for outcome in outcomes if outcome.code]
    for outcome in bad:
        print(f"error: {outcome.job.label}: {outcome.error or 'it failed'}", file=sys.stderr)
    return 1 if bad else 0
