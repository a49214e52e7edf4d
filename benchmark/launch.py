"""Many runs in local processes, one thread each, with one progress bar a running job.

A child ends by itself when its parent dies (its standard input closes), after saving its state.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from benchmark.provenance import ROOT

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
MARK = "@"  # first character of the lines that a child prints for its parent


@dataclass(frozen=True)
class Job:
    """One `python -m benchmark ...` of its own."""

    label: str
    arguments: tuple[str, ...]


@dataclass
class Outcome:
    job: Job
    code: int
    error: str  # the child's one sentence; "" where it succeeded


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Child:
    job: Job
    process: subprocess.Popen[str]
    bar: tqdm
    threads: list[threading.Thread] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def follow(self) -> None:
        """Read the child's progress lines into its bar, and its errors into a list."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        out, err = self.process.stdout, self.process.stderr

        def progress() -> None:
            for line in out:
                if not line.startswith(MARK):
                    continue
                phase, done, total, *text = line[1:].split(" ", 3)
                self.bar.total = int(total)
                self.bar.set_description_str(f"{self.job.label} {phase}", refresh=False)
                self.bar.set_postfix_str(text[0].strip() if text else "", refresh=False)
                self.bar.n = int(done)
                self.bar.refresh()

        def errors() -> None:
            self.errors.extend(line.rstrip() for line in err)

        self.threads = [threading.Thread(target=f, daemon=True) for f in (progress, errors)]
        for thread in self.threads:
            thread.start()

    def close(self) -> Outcome:
        for thread in self.threads:
            thread.join(timeout=5)
        self.bar.close()
        code = self.process.returncode
        text = next((line for line in reversed(self.errors) if line.strip()), "")
        if code < 0:
            text = f"it was ended by {signal.Signals(-code).name}" + (
                ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
            )
        return Outcome(self.job, code, "" if code == 0 else text.removeprefix("error: "))


def run_jobs(jobs: Sequence[Job], workers: int = 0) -> list[Outcome]:
    """Run every job, `workers` at once (0: one per core); one that fails does not stop the others.

    On Ctrl-C the running children save their state and end, and KeyboardInterrupt goes on.
    """
    waiting = list(jobs)[::-1]
    running: list[_Child] = []
    outcomes: list[Outcome] = []
    limit = workers or cores()
    board = tqdm(
        total=len(jobs),
        desc="runs",
        unit="run",
        position=0,
        leave=False,
        disable=True if len(jobs) < 2 else None,
    )
    free = list(range(limit, 0, -1)) if len(jobs) > 1 else [0]
    places: dict[int, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                job = waiting.pop()
                place = free.pop()
                child = _start(job, place)
                places[id(child)] = place
                running.append(child)
            time.sleep(0.05)
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                free.append(places.pop(id(child)))
                outcomes.append(child.close())
                if not sys.stderr.isatty():  # no bars in a log: a line for each run that ended
                    word = "failed" if outcomes[-1].code else "done"
                    print(f"{child.job.label}: {word}, {len(outcomes)} of {len(jobs)}", flush=True)
                board.update()
    except KeyboardInterrupt:
        for child in running:
            child.process.send_signal(signal.SIGINT)
        for child in running:
            try:
                child.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.process.kill()
            child.close()
        raise
    finally:
        board.close()
    return outcomes


def _start(job: Job, place: int) -> _Child:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", *job.arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C reaches the parent alone, which tells its children
    )
    bar = tqdm(total=1, desc=job.label, position=place, leave=False, unit="step", disable=None)
    child = _Child(job, process, bar)
    child.follow()
    return child


def end_with_parent() -> None:
    """In a child: when standard input closes, the parent is gone; stop as by Ctrl-C."""
    # A shell's background job inherits SIGINT as ignored, and would never hear of it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def watch() -> None:
        sys.stdin.read()
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def report(phase: str, done: int, total: int, text: str = "") -> None:
    """In a child: a line of progress for the parent."""
    print(f"{MARK}{phase} {done} {total} {text}", flush=True)


def absolute(path: Path) -> str:
    return str(path.resolve())
