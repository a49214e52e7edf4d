"""bench: from an algorithm's name to records, a table, a plot and a page."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import algorithms
import datasets
from benchmark import launch, registry
from benchmark.cli import board
from benchmark.cli.board import RESULTS
from benchmark.cli.grid import check_workers, cost_of, duration, job_of
from benchmark.cli.options import Bench, Profile
from benchmark.cli.train import PLAYED, TEAM, is_task, make_data, plan
from benchmark.errors import UserError, unknown_name
from benchmark.executors import Local
from benchmark.grid import Grid as Work
from benchmark.leases import Leases

if TYPE_CHECKING:
    from benchmark.record import Record
    from benchmark.train import Run

POPULATION = "meanfield/squeeze-n1000/medium-v1"  # main dataset of mean-field methods
TIERS = ("medium", "two-mode")  # what a task alone stands for
CROWD = "meanfield/queue-n256-v1"  # main task of online methods that play whole populations
FLOORS = ("random", "bc")


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


def run(options: Bench) -> int:
    """The whole way, on one dataset."""
    from benchmark import runner

    begun = time.perf_counter()
    check_workers(options.workers)
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
    code = work(todo, options)
    for item in todo:
        ready += runner.find_records(item, [own]) or []
    if ready:
        board.show(ready, options.out, options.algo)
    print(f"done in {duration(time.perf_counter() - begun)}")
    return code


def work(todo: Sequence[Run], options: Bench) -> int:
    """Run what is missing, and say in one sentence why a run failed; it is not tried again."""
    if not todo:
        return 0
    config = {options.algo: options.config}
    jobs = [job_of(item, options, config.get(item.row, ())) for item in todo]
    executor = Local(options.workers)
    tally = Work(jobs, Leases(options.out / "claims"), executor, tries=1).run()
    bad = tally.failed | tally.refused
    for label, reason in bad.items():
        print(f"error: {label}: {reason}", file=sys.stderr)
    return 1 if bad else 0
