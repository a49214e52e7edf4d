"""grid: many rows on many datasets, here or on a cluster; what is finished is skipped."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import algorithms
from benchmark import files, launch, record, runner
from benchmark.cli.board import RESULTS
from benchmark.cli.options import Bench, Grid
from benchmark.cli.train import make_data, plan
from benchmark.errors import UserError
from benchmark.executors import EXECUTORS
from benchmark.grid import Grid as Work
from benchmark.grid import Job
from benchmark.leases import Leases

if TYPE_CHECKING:
    from benchmark.record import Record
    from benchmark.train import Run

NAME = 24  # hexadecimal digits of a run key that name a job


@dataclass(frozen=True)
class Cost:
    """What a job of a row may cost, from records."""

    row: str
    found: tuple[float, float] | None  # core-seconds and megabytes; None: there is no record

    @property
    def seconds(self) -> float:
        return self.found[0] if self.found else 0.0


def run(options: Grid) -> int:
    """Every row on every dataset; a job that fails does not stop the others."""
    check_workers(options.workers)
    if options.patience <= 0:
        raise UserError(f"option --patience: found {options.patience:g}, expected hours above 0.")
    for row in options.algos:
        algorithms.registry(options.plugin).row(row)
    records = options.records or options.out / "records"
    make_data(options.datasets)
    known = record.read_all([RESULTS, *([records] if records.is_dir() else [])])
    found = [
        (job, cost)
        for dataset in dict.fromkeys(options.datasets)
        for row in dict.fromkeys(options.algos)
        for job, cost in jobs(row, dataset, options, records, known)
    ]
    todo = [(job, cost) for job, cost in found if not job.finished()]
    print(f"grid: {len(todo)} runs to do, {len(found) - len(todo)} finished before")
    executor = None
    if not options.preview:
        leases = Leases(options.out / "claims", options.lease)
        for name in leases.names() & {job.name for job, _ in found if job.finished()}:
            leases.clear(name)  # a grid was killed after its job's last record
        leases.close()
        files.sweep(records, options.lease)  # what killed writers left
    if todo and not options.preview:
        executor = EXECUTORS[options.executor](options.workers, 3600 * options.patience)
    slots = executor.slots if executor else options.workers or launch.cores()
    print(preview([cost for _, cost in todo], slots))
    if executor is None:
        return 0
    tally = Work([job for job, _ in todo], leases, executor).run()
    for label, reason in tally.failed.items():
        print(f"failed: {label}: {reason}", file=sys.stderr)
    for label, reason in tally.refused.items():
        print(f"error: {label}: {reason}", file=sys.stderr)
    good = tally.done - len(tally.failed)
    print(f"{good} of {len(todo)} runs done; records in {records}")
    return 1 if tally.failed or tally.refused else 0


def check_workers(count: int) -> None:
    if count < 0:
        raise UserError(f"option --workers: found {count}, expected 0 or more.")


def jobs(
    row: str, source: str, options: Grid, records: Path, known: Sequence[Record]
) -> list[tuple[Job, Cost]]:
    """The jobs of a row on a dataset, each with what it may cost; none, and a sentence, where the
    two do not fit.
    """
    try:
        runs = plan(row, source, options, options.config)
    except UserError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return []
    made = []
    for item in runs:

        def fail(reason: str, key: str = item.key) -> None:
            # Planned again: a run holds its dataset, and a thousand of them would fill the memory.
            again = plan(row, source, options, options.config)
            runner.fail(next(run for run in again if run.key == key), reason, records)

        job = job_of(item, options, options.config, fail)
        made.append((job, Cost(row, cost_of(item, known))))
    return made


def job_of(
    run: Run,
    options: Bench | Grid,
    config: Sequence[str],
    fail: Callable[[str], None] | None = None,
) -> Job:
    """A group of seeds as a process of its own."""
    records = getattr(options, "records", None) or options.out / "records"
    identity, paths = run.identity(), runner.record_paths(run, records)
    seeds = [str(seed) for seed in run.seeds]
    arguments = ["train", run.row, run.source, "--seeds", *seeds, "--device", run.device]
    arguments += ["--protocol", options.protocol, "--progress", "lines"]
    arguments += ["--out", str(options.out.resolve()), "--records", str(records.resolve())]
    if options.plugin:
        arguments += ["--plugin", *(str(Path(path).resolve()) for path in options.plugin)]
    if track := getattr(options, "track", ()):
        arguments += ["--track", *track]
    return Job(
        run.key[:NAME],
        f"{run.row} {run.source} [{','.join(seeds)}]",
        (*arguments, *config),
        run.where.resolve(),
        lambda: runner.finished_records(identity, [paths]) is not None,
        fail,
    )


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


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def preview(costs: Sequence[Cost], slots: int) -> str:
    """What the jobs may cost, a line a row: jobs, core-hours, and how long all of it takes."""
    if not costs:
        return "nothing is to be done; delete records to run again."
    rows: dict[str, list[Cost]] = defaultdict(list)
    for cost in costs:
        rows[cost.row].append(cost)
    lines = [f"{'row':28} {'runs':>6} {'core-hours':>11}"]
    for row, own in sorted(rows.items()):
        hours = sum(cost.seconds for cost in own) / 3600
        shown = f"{hours:11.2f}" if all(cost.found for cost in own) else "    unknown"
        lines.append(f"{row:28} {len(own):6d} {shown}")
    seconds = sum(cost.seconds for cost in costs)
    slots = max(1, min(slots, len(costs)))
    longest = max(seconds / slots, max(cost.seconds for cost in costs))
    processes = f"{slots} process" + ("es" if slots > 1 else "")
    lines.append(f"{'all':28} {len(costs):6d} {seconds / 3600:11.2f}")
    if seconds:
        disk = sum(cost.found[1] for cost in costs if cost.found)
        lines[-1] += f"   about {duration(longest)} on {processes}, {disk:.0f} MB of checkpoints"
    unknown = sorted({cost.row for cost in costs if not cost.found})
    if unknown:
        lines.append(f"unknown, for want of records: {', '.join(unknown)}")
    return "\n".join(lines)
