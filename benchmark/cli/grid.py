"""grid: many rows on many datasets, here or on a cluster; what is finished is skipped."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import algorithms
from benchmark import files, launch, record, runner
from benchmark.cli.bench import RESULTS, cost_of, duration, jobs_of, make_data, plan
from benchmark.cli.options import Grid
from benchmark.errors import UserError
from benchmark.executors import EXECUTORS
from benchmark.grid import Grid as Work
from benchmark.grid import Job
from benchmark.leases import Leases

if TYPE_CHECKING:
    from benchmark.record import Record

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
    if options.workers < 0:
        raise UserError(f"option --workers: found {options.workers}, expected 0 or more.")
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
    if todo and not options.preview:
        executor = EXECUTORS[options.executor](options.workers, 3600 * options.patience)
    slots = executor.slots if executor else options.workers or launch.cores()
    print(preview([cost for _, cost in todo], slots))
    if executor is None:
        return 0
    files.sweep(records, options.lease)  # what killed writers left
    leases = Leases(options.out / "claims", options.lease)
    tally = Work([job for job, _ in todo], leases, executor).run()
    for label, reason in tally.failed.items():
        print(f"failed: {label}: {reason}", file=sys.stderr)
    for label, reason in tally.refused.items():
        print(f"error: {label}: {reason}", file=sys.stderr)
    good = tally.done - len(tally.failed)
    print(f"{good} of {len(todo)} runs done; records in {records}")
    return 1 if tally.failed or tally.refused else 0


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
    for item, job in zip(runs, jobs_of(runs, options, options.config), strict=True):
        key, paths = item.key, runner.record_paths(item, records)

        def finished(paths: list[Path] = paths) -> bool:
            return all(path.exists() for path in paths)

        def fail(reason: str, key: str = key) -> None:
            # Planned again: a run holds its dataset, and a thousand of them would fill the memory.
            again = plan(row, source, options, options.config)
            runner.fail(next(run for run in again if run.key == key), reason, records)

        label = f"{row} {source} [{','.join(map(str, item.seeds))}]"
        made.append(
            (
                Job(key[:NAME], label, job.arguments, item.where.resolve(), finished, fail),
                Cost(row, cost_of(item, known)),
            )
        )
    return made


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
