"""Working through many jobs: claim, run, try again, give up; and the board that shows it.

Several grids may work on one folder, on one machine or on many: a job is claimed before it runs
(`benchmark.leases`), its records are published if they are absent (`benchmark.runner.publish`), and
one whose records are there is done, whoever made them. A grid that is killed leaves nothing but
stale claims, and the same command goes on.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmark.errors import BusyError, UserError
from benchmark.executors import TICK, Ended, Executor, Step
from benchmark.leases import Claim, Leases

TRIES = 3  # of a job that fails without getting further
LATER = 5.0  # seconds until a job that another process holds is looked at again
REDRAW = 0.5  # seconds


@dataclass(frozen=True)
class Job:
    """One group of seeds of one row on one dataset."""

    name: str  # from the hash of its run key: equal jobs of two grids have equal names
    label: str
    arguments: tuple[str, ...]  # of `python -m benchmark`
    folder: Path  # of its checkpoints
    finished: Callable[[], bool]  # whether its records are there
    fail: Callable[[str], None] | None = None  # publishes failed records with a reason


@dataclass
class Running:
    job: Job
    claim: Claim
    begun: float
    step: Step | None = None


@dataclass
class Tally:
    done: int = 0  # here or by another grid
    failed: dict[str, str] = field(default_factory=dict)  # label -> reason of what was given up
    refused: dict[str, str] = field(default_factory=dict)  # label -> the user's mistake; not run


class Grid:
    """Runs jobs; `tally` says what came of them."""

    def __init__(
        self, jobs: Sequence[Job], leases: Leases, executor: Executor, tries: int = TRIES
    ) -> None:
        self.leases, self.executor, self.board, self.tries = leases, executor, Board(), tries
        self.waiting = {job.name: job for job in jobs}
        self.total = len(self.waiting)
        self.later: dict[str, float] = {}  # name -> when to look again
        self.running: dict[str, Running] = {}
        self.tally = Tally()
        self.begun = self._renewed = time.monotonic()
        self._told = False

    def run(self) -> Tally:
        """Work until every job is done, failed or refused. Ctrl-C lets the running ones save their
        state, and goes on as KeyboardInterrupt.
        """
        try:
            while self.waiting or self.running:
                self._renew()
                self._start()
                self._tell_if_held()
                for name, event in self.executor.poll():
                    running = self.running.get(name)
                    if running and isinstance(event, Step):
                        running.step = event
                    elif running and isinstance(event, Ended):
                        del self.running[name]
                        self._ended(running.job, event)
                        self.leases.release(running.claim)
                self.board.draw(self)
                time.sleep(TICK)
        finally:
            self.board.clear()
            self.executor.close()
            for running in self.running.values():
                self.leases.release(running.claim)
            self.leases.close()
        return self.tally

    def _renew(self) -> None:
        """Keep the claims; a job that another grid has taken over is left to it."""
        if time.monotonic() - self._renewed < self.leases.lease / 4:
            return
        self._renewed = time.monotonic()
        for name, running in list(self.running.items()):
            if not self.leases.renew(running.claim):
                self.executor.cancel(name)
                self._wait(self.running.pop(name).job, LATER)

    def _start(self) -> None:
        for name, job in list(self.waiting.items()):
            if len(self.running) >= self.executor.slots:
                return
            if self.later.get(name, 0.0) > time.monotonic():
                continue
            claim = None if job.finished() else self.leases.take(name)
            if job.finished():  # looked at again: it may have been finished before it was claimed
                self._close(job, "done elsewhere")
                if claim:
                    self.leases.release(claim)
                self.leases.clear(name)
            elif claim is None:
                self.later[name] = time.monotonic() + min(LATER, self.leases.lease / 4)
            elif len(tries := self.leases.tries(name)) >= self.tries:
                self._give_up(job, tries[-1])
                self.leases.release(claim)
            else:
                del self.waiting[name]
                self.running[name] = Running(job, claim, time.monotonic())
                self.executor.start(name, job.arguments, job.folder)

    def _tell_if_held(self) -> None:
        """Once, where others hold all that is left: a log would stand still without a word."""
        if self.waiting and not self.running and not self._told:
            self._told, count = True, len(self.waiting)
            self.board.log(f"{count} run{'s' * (count > 1)} left, which other processes work on")

    def _ended(self, job: Job, end: Ended) -> None:
        killed = end.code in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGINT)
        if job.finished():
            failed = end.code > 0  # seeds are recorded as failed; a signal came after the records
            if failed:
                self.tally.failed[job.label] = end.reason
            self._close(job, "failed" if failed else "done")
        elif killed and end.advanced:
            self._wait(job, 0.0)  # interrupted: it goes on from its newer checkpoint
        elif end.code == BusyError.code:
            self._wait(job, LATER)
        elif end.code == UserError.code:
            self.tally.refused[job.label] = end.reason
            self._close(job, "refused", done=False)
        else:
            reason = end.reason or "it ended without its records"
            reason += ", before it had saved any further step" if killed else ""
            if (tried := self.leases.note(job.name, reason)) >= self.tries:
                self._give_up(job, reason)
            else:
                self.board.say(f"{job.label}: {reason}; try {tried + 1} of {self.tries} follows")
                self._wait(job, 0.0)

    def _give_up(self, job: Job, reason: str) -> None:
        try:
            if job.fail:
                job.fail(f"{reason} (tried {self.tries} times)")
        except UserError as error:  # the disk is full, say
            self.tally.refused[job.label] = str(error)
            self._close(job, "refused", done=False)
            return
        self.leases.forget(job.name)
        self.tally.failed[job.label] = reason
        self._close(job, "failed")

    def _wait(self, job: Job, seconds: float) -> None:
        """Put a job back, behind the others."""
        self.waiting[job.name] = job
        self.later[job.name] = time.monotonic() + seconds

    def _close(self, job: Job, word: str, done: bool = True) -> None:
        self.waiting.pop(job.name, None)
        self.tally.done += done
        if word.startswith("done"):
            self.leases.forget(job.name)
        ended = self.total - len(self.waiting) - len(self.running)
        self.board.log(f"{job.label}: {word}, {ended} of {self.total}")


class Board:
    """What is going on: a few lines that are drawn over on a terminal, a line an event in a log."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self._lines, self._drawn = 0, 0.0

    def say(self, line: str) -> None:
        """A line that stays."""
        self.clear()
        print(line, file=self.stream, flush=True)

    def log(self, line: str) -> None:
        """A line that a live board has no need of."""
        if not self.live:
            self.say(line)

    def clear(self) -> None:
        if self._lines:
            self.stream.write(f"\x1b[{self._lines}F\x1b[J")
            self._lines = 0

    def draw(self, grid: Grid) -> None:
        if not self.live or time.monotonic() - self._drawn < REDRAW:
            return
        width, height = shutil.get_terminal_size()
        lines = [line[: width - 1] for line in board_lines(grid)[: height - 2]]
        self.clear()
        self.stream.write("".join(line + "\n" for line in lines))
        self.stream.flush()
        self._lines, self._drawn = len(lines), time.monotonic()


def board_lines(grid: Grid) -> list[str]:
    """The board: how far the grid is, and each running job with its last losses."""
    tally, spent = grid.tally, time.monotonic() - grid.begun
    ended = grid.total - len(grid.waiting) - len(grid.running)
    now = time.monotonic()
    held = sum(when > now for name, when in grid.later.items() if name in grid.waiting)
    parts = [f"{ended} of {grid.total} runs ended", f"{len(grid.running)} running"]
    parts += [f"{len(grid.waiting) - held} waiting"]
    parts += [f"{held} held by others"] if held else []
    parts += [f"{len(tally.failed)} failed"] if tally.failed else []
    parts += [f"{len(tally.refused)} refused"] if tally.refused else []
    parts.append(f"{clock(spent)} gone")
    if left := to_go(grid, ended, now):
        parts.append(f"about {clock(left)} to go")
    lines = [", ".join(parts)]
    for running in grid.running.values():
        step = running.step
        if step is None:
            lines.append(f"{'starting':>33} {clock(now - running.begun)}  {running.job.label}")
            continue
        share = step.done / max(step.total, 1)
        bar = "#" * round(15 * share)
        lines.append(
            f"{step.phase:>10} {share:4.0%} [{bar:15}] {clock(now - running.begun)}"
            f"  {running.job.label}  {step.text}"
        )
    return lines


def to_go(grid: Grid, ended: int, now: float) -> float:
    """Seconds until the last run ends, by how far all are and by how far each running one is; 0
    where nothing tells yet.
    """
    done, longest = float(ended), 0.0
    for running in grid.running.values():
        step = running.step
        if step and step.phase == "training" and step.done:
            done += step.done / step.total
            longest = max(longest, (now - running.begun) * (step.total / step.done - 1))
    return max(longest, (now - grid.begun) * (grid.total / done - 1)) if done else 0.0


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
