"""Where the jobs of a grid run: in processes of this machine, or on a Ray cluster.

A job is a `python -m benchmark train ...` of its own, with one thread, wherever it runs: it can
crash, or be killed for its memory, and harm nobody else. `watch` starts one and tells what it does;
an executor runs `watch` at some place and hands on what it tells.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmark.errors import UserError
from benchmark.launch import MARK, ONE_THREAD, cores
from benchmark.provenance import ROOT

COMMAND = ("-m", "benchmark")  # of the interpreter, before the arguments of a job
PASSED_ON = ("OFFLINE_MARL_", "BENCH_")  # prefixes of environment variables that reach every job
PATIENCE = 6 * 3600.0  # seconds without a sign of life after which a job is given up
GRACE = 30.0  # seconds for a job to save its state
TICK = 0.1  # seconds between two looks at a job


@dataclass(frozen=True)
class Step:
    """A job's progress: `done` of `total` in a phase, and its losses as text."""

    phase: str
    done: int
    total: int
    text: str


@dataclass(frozen=True)
class Ended:
    """How a job's process ended: its exit code, or minus the signal that ended it."""

    code: int
    reason: str  # one sentence; "" where it succeeded
    seconds: float
    advanced: bool  # whether it left a newer checkpoint than it found
    where: str = ""  # the machine


class Executor(Protocol):
    """A place for jobs."""

    @property
    def slots(self) -> int:
        """Jobs that may run at once."""
        ...

    def start(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        """Run `python -m benchmark ARGUMENTS`, whose checkpoints stand in `folder`."""
        ...

    def poll(self) -> list[tuple[str, Step | Ended]]:
        """What happened since the last call, as (name, event)."""
        ...

    def cancel(self, name: str) -> None:
        """Let a job save its state and end; its `Ended` comes later."""
        ...

    def close(self) -> None:
        """End everything, and wait for it."""
        ...


# ----------------------------------------------------------------------------------------------
# one job
def watch(
    arguments: Sequence[str],
    folder: Path,
    patience: float = PATIENCE,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Step | Ended]:
    """Run a job; yields its steps and, last, its end. Closing the generator kills the job."""
    begun, before, kills = time.monotonic(), _newest(folder), _kernel_kills()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    lines: queue.Queue[str | None] = queue.Queue()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, *COMMAND, *arguments],
            stdin=subprocess.PIPE,  # closes when this process dies, and the job ends by itself
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=os.environ | ONE_THREAD | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C reaches the grid alone
        )
        reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
        reader.start()
        seen = psutil.Process(process.pid)
        life, folder_time, megabytes, given_up = time.monotonic(), 0.0, 0.0, False
        try:
            while True:
                line = ""
                with contextlib.suppress(queue.Empty):
                    line = lines.get(timeout=TICK) or ""
                if line.startswith(MARK):
                    phase, done, total, *text = line[1:].rstrip("\n").split(" ", 3)
                    life = time.monotonic()
                    yield Step(phase, int(done), int(total), text[0].strip() if text else "")
                elif process.poll() is not None and lines.empty():
                    break
                with contextlib.suppress(OSError):
                    if folder_time != (folder_time := folder.stat().st_mtime):
                        life = time.monotonic()  # a checkpoint
                with contextlib.suppress(psutil.Error):
                    megabytes = max(megabytes, seen.memory_info().rss / 1e6)
                if stopped():
                    _end(process)
                if time.monotonic() - life > patience:
                    given_up = True
                    process.kill()
                    process.wait()
        except KeyboardInterrupt:  # how Ray cancels
            _end(process)
            raise
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
            reader.join(timeout=1.0)
        said.seek(0)
        reason = ""
        if given_up:
            reason = f"it showed no sign of life for {patience:g} s and was ended"
        elif process.returncode:
            killed = _kernel_kills() > kills
            reason = _reason(process.returncode, said.read(), megabytes, killed)
    advanced = _newest(folder) > before
    seconds = time.monotonic() - begun
    yield Ended(process.returncode, reason, seconds, advanced, os.uname().nodename)


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line)


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _newest(folder: Path) -> str:
    """Name of the last checkpoint in a run's folder; names sort by step."""
    return max((path.name for path in folder.glob("checkpoint-*.safetensors")), default="")


def _kernel_kills() -> int:
    """How many processes the kernel has ended for lack of memory since it started."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _reason(code: int, said: str, megabytes: float, killed: bool) -> str:
    """Why a job failed, in one sentence."""
    if code < 0:
        name = signal.Signals(-code).name
        if code == -signal.SIGKILL and killed:
            return f"out of memory: the kernel ended it when it held {megabytes:,.0f} MB"
        if code == -signal.SIGKILL:
            return f"it was ended by {name} when it held {megabytes:,.0f} MB, perhaps for memory"
        return f"it was ended by {name}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    text = lines[-1].removeprefix("error: ").rstrip(".") if lines else f"exit code {code}"
    return f"out of memory: {text}" if text.startswith("MemoryError") else text


# ----------------------------------------------------------------------------------------------
# this machine
class Local:
    """Processes of this machine: a thread watches each."""

    def __init__(self, workers: int = 0, patience: float = PATIENCE) -> None:
        self.slots, self.patience = workers or cores(), patience
        self._events: queue.Queue[tuple[str, Step | Ended]] = queue.Queue()
        self._stops: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def start(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        stop = self._stops[name] = threading.Event()

        def follow() -> None:
            for event in watch(arguments, folder, self.patience, stop.is_set):
                self._events.put((name, event))

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=follow, daemon=True))
        self._threads[-1].start()

    def poll(self) -> list[tuple[str, Step | Ended]]:
        found: list[tuple[str, Step | Ended]] = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._events.get_nowait())
        return found

    def cancel(self, name: str) -> None:
        self._stops[name].set()

    def close(self) -> None:
        for stop in self._stops.values():
            stop.set()
        for thread in self._threads:
            thread.join(timeout=GRACE + 5.0)


# ----------------------------------------------------------------------------------------------
# a Ray cluster
class OnRay:
    """Tasks of a Ray cluster, one core each: RAY_ADDRESS names it, else one is started here.

    Its machines share the folders of data, checkpoints and records, and have the checkout at the
    same path.
    """

    def __init__(self, workers: int = 0, patience: float = PATIENCE) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "option --executor ray needs the package ray, which is not installed: pip install"
                " ray."
            ) from error
        self._ray, self.workers, self.patience = ray, workers, patience
        self._tasks: dict[str, Any] = {}
        self._started: dict[str, tuple[Path, str]] = {}  # folder, and the last checkpoint in it
        address = os.environ.get("RAY_ADDRESS") or "local"
        passed = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
        path = {"PYTHONPATH": str(ROOT)}
        try:
            host, _, port = address.rpartition(":")
            if port.isdecimal() and "//" not in host:  # Ray itself would ask for minutes
                socket.create_connection((host, int(port)), timeout=10.0).close()
            ray.init(
                address=address,
                runtime_env={"env_vars": passed | path},
                log_to_driver=False,
                logging_level="ERROR",
                **({"include_dashboard": False} if address == "local" else {}),
            )
        except Exception as error:
            raise UserError(
                f"no Ray cluster answers at RAY_ADDRESS={address}: {_first_line(error)}."
            ) from error
        self._task = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(watch_here)

    @property
    def slots(self) -> int:
        """One a core of the cluster, which may grow."""
        return self.workers or int(self._ray.cluster_resources().get("CPU", 1))

    def start(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self._started[name] = (folder, _newest(folder))
        self._tasks[name] = self._task.remote(tuple(arguments), str(folder), self.patience)

    def poll(self) -> list[tuple[str, Step | Ended]]:
        found: list[tuple[str, Step | Ended]] = []
        while self._tasks:
            ready, _ = self._ray.wait(list(self._tasks.values()), timeout=0)
            if not ready:
                break
            for task in ready:
                name = next(name for name, known in self._tasks.items() if known is task)
                event = self._event(name, task)
                if isinstance(event, Ended):
                    del self._tasks[name]
                found.append((name, event))
        return found

    def _event(self, name: str, task: Any) -> Step | Ended:
        """The next event of a task; what befell its worker or its machine ends it."""
        errors, (folder, before) = self._ray.exceptions, self._started[name]
        try:
            event: Step | Ended = self._ray.get(next(task))
            return event
        except StopIteration:
            code, reason = 1, "it ended without a word"
        except errors.OutOfMemoryError:
            code, reason = -signal.SIGKILL, "out of memory: Ray ended it"
        except errors.TaskCancelledError:
            code, reason = 130, "it was cancelled"
        except errors.RayError as error:
            code, reason = -signal.SIGTERM, f"Ray lost its worker: {_first_line(error)}"
        return Ended(code, reason, 0.0, _newest(folder) > before)

    def cancel(self, name: str) -> None:
        if name in self._tasks:
            self._ray.cancel(self._tasks[name])

    def close(self) -> None:
        for name in list(self._tasks):
            self.cancel(name)
        end = time.monotonic() + GRACE
        while self._tasks and time.monotonic() < end:
            self.poll()
            time.sleep(TICK)
        self._ray.shutdown()


def watch_here(arguments: Sequence[str], folder: str, patience: float) -> Iterator[Step | Ended]:
    """`watch`, in a task of Ray, which is cancelled by KeyboardInterrupt."""
    yield from watch(arguments, Path(folder), patience)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


EXECUTORS: dict[str, Callable[[int, float], Executor]] = {"local": Local, "ray": OnRay}
