"""Training a group of seeds: the loop, its checkpoints by time, its resume, and seeds that fail."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import checkpoint, files, provenance, rng
from benchmark.algorithm import Algorithm, Variant, build_group
from benchmark.batch import Batch, Dataset
from benchmark.errors import RunError, UserError
from benchmark.protocol import PROTOCOL_VERSION, Protocol
from benchmark.record import Curve, Tuning
from benchmark.task import Array, Task
from benchmark.tracking import Sink, Tracker

THREADS = 1  # per process: bits depend on the count, and small networks gain nothing from a second
LOG_POINTS = 100  # losses are read, and NaN is looked for, this often in a run


@dataclass(frozen=True)
class Run:
    """Everything that decides a group's bits, and where the run keeps its files."""

    row: str  # `algo` or `algo.variant`
    cls: type[Algorithm]
    variant: Variant
    config: Any
    steps: int
    task: Task
    data: Dataset | None
    protocol: Protocol
    seeds: tuple[int, ...]
    folder: Path  # of all runs; this one's is `where`
    device: str = "cpu"
    precision: str = "float32"  # of the products in an update; or bf16, by autocast
    rankable: bool = True
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def key(self) -> str:
        """Hash of the run key: runs with equal keys on equal machines have equal bits."""
        return files.sha256(json.dumps(self.identity(), sort_keys=True).encode())

    def identity(self) -> dict[str, Any]:
        return {
            "algo": self.row,
            "code": provenance.code_sha256(self.cls),
            "config": asdict(self.config),
            "steps": self.steps,
            "seeds": list(self.seeds),
            "task": self.task.spec.id,
            "dataset": self.data.id if self.data else "",
            "content": self.data.content_sha256 if self.data else "",
            "protocol": [self.protocol.name, PROTOCOL_VERSION, self.protocol.episodes],
            "device": self.device,
            **self.notes(),
        }

    def notes(self) -> dict[str, str]:
        """What decides the bits of some runs only, and stands in the notes of their records."""
        order = getattr(self.data, "backend", "")
        notes = {"backend": order} if order == "shuffle" else {}  # others give the same batches
        return notes | ({"precision": self.precision} if self.precision != "float32" else {})

    @property
    def source(self) -> str:
        """The dataset's id, or the task's where there is no dataset."""
        return self.data.id if self.data else self.task.spec.id

    @property
    def where(self) -> Path:
        return self.folder / f"{self.row}-{self.key[:12]}"


def settled(run: Run) -> Run:
    """The run with its data on its device, if it takes steps and they can stand there."""
    data: Any = run.data
    if run.device == "cpu" or not run.steps or not hasattr(data, "to"):
        return run
    return replace(run, data=data.to(run.device))


@dataclass
class Progress:
    """What a caller may show while a run goes on."""

    train: Callable[[int, dict[str, float]], None] = lambda step, losses: None
    evaluate: Callable[[int], None] = lambda episodes: None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after the state was saved."""


class Trainer:
    """The training state of a run: the group, the data generators, the curves. Everything here is
    in the checkpoint.
    """

    def __init__(
        self, run: Run, sinks: Sequence[Sink], checkpoint_seconds: float, progress: Progress
    ) -> None:
        run = settled(run)
        self.run, self.progress, self.checkpoint_seconds = run, progress, checkpoint_seconds
        self.tracker = Tracker(run.where, f"{run.row}-{run.key[:8]}", run.seeds, sinks)
        rng.seed_all(int(run.key[:8], 16))
        with blame(run.row, "__init__"):
            self.group = build_group(run.cls, run.config, run.task.spec, run.seeds, run.device)
        self.rngs = [np.random.default_rng([seed, 0]) for seed in run.seeds]
        self.step, self.train_seconds, self.finished = 0, 0.0, False
        self.env_seconds = 0.0  # of train_seconds, spent in playing; online tracks only
        self.curves: list[Curve] = [{} for _ in run.seeds]
        self.failed: dict[str, str] = {}  # seed -> reason

    def state(self) -> dict[str, Any]:
        with blame(self.run.row, "state_dict"):
            group = self.group.state_dict()
        # Of data that are gone through in an order; the generators alone decide on all others.
        data: Any = self.run.data
        place = {"data": data.position()} if hasattr(data, "position") else {}
        return place | {
            "identity": self.run.identity(),
            "group": group,
            "rngs": [generator.bit_generator.state for generator in self.rngs],
            "global": rng.get_state(),
            "step": self.step,
            "finished": self.finished,
            "train_seconds": self.train_seconds,
            "curves": self.curves,
            "failed": self.failed,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.group.load_state_dict(state["group"])
        for generator, saved in zip(self.rngs, state["rngs"], strict=True):
            generator.bit_generator.state = saved
        self.step, self.finished = state["step"], state["finished"]
        self.train_seconds = state["train_seconds"]
        self.curves, self.failed = state["curves"], state["failed"]
        rng.set_state(state["global"])
        data: Any = self.run.data
        if "data" in state and hasattr(data, "go_to"):
            data.go_to(state["data"])

    @property
    def env_steps(self) -> int:
        """Environment steps of each seed so far; 0 but on the online tracks."""
        return 0

    def _prepare(self) -> None:
        run = self.run
        if run.data is not None:
            model = run.task.model() if run.variant.track in ("model", "oracle") else None
            # A generator of its own, so that a resume may prepare again without moving the sampler.
            rngs = [np.random.default_rng([seed, 1]) for seed in run.seeds]
            with blame(run.row, "prepare"):
                self.group.prepare(run.data, run.steps, rngs, model)

    def _batch(self) -> Any:
        """The batch of the next update."""
        assert self.run.data is not None
        with blame(self.run.row, "sample"):
            return self.group.sample(self.run.data, self.rngs)

    def _every(self) -> int:
        """Steps between two points of the curves."""
        return max(1, self.run.steps // LOG_POINTS)

    def fit(self) -> str:
        """Train to the last step; returns the sha256 of the final checkpoint."""
        run, group = self.run, self.group
        self._prepare()
        path = checkpoint.latest(run.where)
        if path is not None:
            self.load(checkpoint.load(path))
        self.tracker.restore(self.curves)
        try:
            if self.finished and path is not None:
                return files.sha256_file(path)
            self._loop()
            begun = time.perf_counter()
            with blame(run.row, "finish"):
                group.finish()
            self.train_seconds += time.perf_counter() - begun
            self.finished = True
            return checkpoint.save_step(run.where, self.step + 1, self.state())
        finally:
            self.tracker.close()

    def _loop(self) -> None:
        run, group = self.run, self.group
        every = self._every()
        kind, lower = torch.device(run.device).type, run.precision == "bf16"
        precision = torch.autocast(kind, torch.bfloat16, enabled=lower)
        begun = saved = time.perf_counter()
        # the first one early: a run killed often still gets on
        wait = min(5.0, self.checkpoint_seconds)
        with interrupts_kept() as interrupted:
            while self.step < run.steps:
                batch = self._batch()
                if isinstance(batch, Batch):  # plain members get theirs one by one
                    batch = batch.to(run.device)  # of data that do not stand there
                with blame(run.row, "update"), precision:
                    losses = group.update(batch)
                self.step += 1
                if self.step % every == 0 or self.step == run.steps:
                    self._log(losses)
                    if len(self.failed) == len(run.seeds):
                        break
                now = time.perf_counter()
                if interrupted or now - saved > wait:
                    self.train_seconds += now - begun
                    checkpoint.save_step(run.where, self.step, self.state())
                    begun = saved = time.perf_counter()
                    wait = self.checkpoint_seconds
                if interrupted:
                    raise Interrupted(
                        f"interrupted at step {self.step} of {run.steps}; the state is saved, and"
                        " the same command goes on from there."
                    )
        self.train_seconds += time.perf_counter() - begun

    def _log(self, losses: dict[str, torch.Tensor]) -> None:
        """Read the losses (the one host synchronisation), keep the curves, mark seeds that are not
        finite.
        """
        k = len(self.run.seeds)
        values: dict[str, list[float]] = {}
        for name, loss in losses.items():
            if not isinstance(loss, torch.Tensor) or loss.numel() not in (1, k):
                raise UserError(
                    f"{self.run.row}: update returned {name} as {type(loss).__name__} of shape"
                    f" {list(getattr(loss, 'shape', []))}, expected a tensor of shape [] or [{k}]."
                )
            values[name] = loss.detach().float().reshape(-1).expand(k).tolist()
        for i, seed in enumerate(self.run.seeds):
            bad = [name for name, column in values.items() if not np.isfinite(column[i])]
            if bad:
                self.failed.setdefault(str(seed), f"{bad[0]} was not finite at step {self.step}")
                continue
            curve = self.curves[i]
            points = len(curve.setdefault("step", []))
            curve["step"].append(float(self.step))
            for name in dict.fromkeys([*curve, *values]):  # an update need not have every loss
                if name != "step":
                    known = curve.setdefault(name, [None] * points)
                    known.append(values[name][i] if name in values else None)
        self.tracker.log(self.step, values)
        self.progress.train(self.step, {name: column[0] for name, column in values.items()})


class Surviving:
    """A group that plays: seeds that failed act with zeros, so that the others go on."""

    def __init__(self, group: Algorithm, seeds: Sequence[int], failed: dict[str, str]) -> None:
        self.group, self.seeds, self.failed = group, seeds, failed

    def begin(self, n_envs: int, seed: int) -> None:
        self.group.begin(n_envs, seed)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        return self._kept(self.group.act(obs, alive, mask, t, deterministic))

    def explore(self, obs: Array, alive: Array | None, mask: Array | None, t: Array) -> Array:
        return self._kept(self.group.explore(obs, alive, mask, t))

    def _kept(self, act: Array) -> Array:
        act = np.asarray(act)
        if np.issubdtype(act.dtype, np.floating) and act.shape[:1] == (len(self.seeds),):
            for k, seed in enumerate(self.seeds):
                if not np.isfinite(act[k]).all():
                    self.failed.setdefault(str(seed), "its actions were not finite")
                if str(seed) in self.failed:
                    act = act.copy()
                    act[k] = 0.0
        return act


@contextlib.contextmanager
def interrupts_kept() -> Iterator[list[int]]:
    """Signals that ask for an end, SIGINT and SIGTERM, are noted in the list that this yields.

    An exception in the middle of an update would leave a state between two steps, from which no
    run could go on with equal bits. A second signal is not kept: it raises KeyboardInterrupt.
    """
    noted: list[int] = []

    def note(number: int, frame: object) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield noted
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # a background job of a shell ignores Ctrl-C
            signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def blame(row: str, method: str) -> Iterator[None]:
    """An exception inside an algorithm's own code becomes one sentence that names it."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        if out_of_memory(error):
            what = f"{row}: out of memory in {method}; try a smaller batch or N."
            raise RunError(what) from error
        if os.environ.get("BENCH_DEBUG"):
            raise
        text = str(error).splitlines()[0] if str(error) else ""
        raise RunError(
            f"{row}: {method} raised {type(error).__name__}: {text}; --debug shows the traceback."
        ) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch says so of a CPU in the text of a RuntimeError."""
    known = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or "can't allocate memory" in str(error)
