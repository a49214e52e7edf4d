"""One run: a group of seeds of one algorithm on one dataset. Seed, build, fit, checkpoint, resume,
evaluate, write records.

A killed run started again goes on from its last checkpoint and ends, on CPU, with the same bits as
an unbroken one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import checkpoint, files, launch, online, provenance, record
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Dataset
from benchmark.errors import BusyError, UserError
from benchmark.evaluate import Evaluation, exact, rollout_group
from benchmark.policy import policy_tables
from benchmark.protocol import PROTOCOL_VERSION, Protocol
from benchmark.record import Cost, Record
from benchmark.task import Task, TaskSpec
from benchmark.tracking import Sink
from benchmark.train import THREADS, Progress, Run, Surviving, Trainer, blame

STARTS = 3  # of a run without a newer checkpoint, before it says so
COLUMNS = ("parameters", "sampler_steps")  # costs of an algorithm that have a column of their own


def plan(
    row: str,
    cls: type[Algorithm],
    variant: Variant,
    task: Task,
    data: Dataset | None,
    protocol: Protocol,
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    overrides: dict[str, Any] | None = None,
    steps: int | None = None,
    device: str = "cpu",
    precision: str = "float32",
    rankable: bool = True,
) -> list[Run]:
    """The runs (one per group of seeds) of a row on a dataset; UserError where the task lacks what
    the algorithm requires.
    """
    protocol = protocol.on(task.spec)
    missing = cls.requires - task.spec.properties() - {"logp", "next_obs"}
    if missing:
        raise UserError(
            f"{row} requires a task that is {', '.join(sorted(missing))}; {task.spec.id} is"
            f" {', '.join(sorted(task.spec.properties()))}."
        )
    if data is not None and variant.track == "online":
        raise UserError(
            f"{row} is on the online track and takes no dataset, found {data.id}; give a task."
        )
    if data is None and variant.track == "o2o":
        raise UserError(f"{row} starts from a dataset, and none was given for {task.spec.id}.")
    if data is not None:
        check_data(task.spec, data)
    changes, default_steps = variant.resolve(task.spec.id, protocol.name)
    try:
        config = cls.Config(**(changes | (overrides or {})))
    except (TypeError, ValueError) as error:
        raise UserError(f"configuration of {row}: {error}.") from error
    for name, value in asdict(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"configuration of {row}: {name} is {value}, expected a finite number.")
    chosen = tuple(protocol.seeds() if seeds is None else seeds)
    if len(set(chosen)) != len(chosen) or not chosen or min(chosen) < 0:
        raise UserError(
            f"option SEEDS: found {list(chosen)}, expected different numbers from 0 up."
        )
    if steps is not None and steps < 0:
        raise UserError(f"option --steps: found {steps}, expected 0 or more.")
    if steps and not default_steps:
        raise UserError(f"option --steps: found {steps}, expected 0: {row} takes no such steps.")
    check_device(device)
    # A group pays only where one update serves all of its seeds; else a seed is a run of its own.
    size = protocol.group if cls.stacks_seeds else 1
    groups = [chosen[i : i + size] for i in range(0, len(chosen), size)]
    chosen_steps = default_steps if steps is None else steps
    return [
        Run(
            row,
            cls,
            variant,
            config,
            chosen_steps,
            task,
            data,
            protocol,
            group,
            folder,
            device,
            precision,
            rankable,
            variant.tuned(task.spec.id),
        )
        for group in groups
    ]


def check_data(spec: TaskSpec, data: Dataset) -> None:
    """Raise UserError for data on which a policy of this task cannot be trained: observations that
    the environment does not give, or other shapes.
    """
    transform = getattr(data, "obs_transform", "none")
    if transform != "none":
        raise UserError(
            f"{data.id} cannot be evaluated: its observations are {transform}, which no environment"
            " of this suite gives."
        )
    for name in ("groups", "n_actions", "n_obs"):
        found, wanted = getattr(data.spec, name), getattr(spec, name)
        if found != wanted:
            raise UserError(
                f"{data.id} cannot be evaluated in {spec.id}: {name} of its data is {found}, the"
                f" task has {wanted}."
            )


def check_device(device: str) -> None:
    """Raise UserError for a device that is not there."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = "cpu" + ", cuda" * torch.cuda.is_available()
        raise UserError(
            f"option --device: {device!r} cannot be used here, expected {found}."
        ) from error


def find_records(run: Run, roots: Sequence[Path]) -> list[Record] | None:
    """The finished records of a run, one per seed, or None where any is missing."""
    return finished_records(run.identity(), [record_paths(run, root) for root in roots])


def finished_records(
    identity: dict[str, Any], folders: Sequence[Sequence[Path]]
) -> list[Record] | None:
    """`find_records` of what identifies a run and of its `record_paths` under some folders."""
    found = []
    for seed, paths in zip(identity["seeds"], zip(*folders, strict=True), strict=True):
        item = next((record.read(path) for path in paths if path.exists()), None)
        item = item or _same_run(identity, seed, [path.parent for path in paths])
        if item is None:
            return None
        found.append(item)
    return found


def _same_run(identity: dict[str, Any], seed: int, folders: Sequence[Path]) -> Record | None:
    """A record under another key, of a code with the same bits and without its later settings."""

    def plain(run: dict[str, Any]) -> str:
        settings = provenance.same_settings(run["code"], run["config"])
        code = provenance.first_code(run["code"])
        return json.dumps(run | {"code": code, "config": settings}, sort_keys=True)

    wanted, (name, version, episodes) = plain(identity), identity["protocol"]
    for folder in folders:
        for path in sorted(folder.glob(f"{name}-seed{seed}-*.json")):
            item = record.read(path)
            same_version = (item.protocol, item.protocol_version) == (name, version)
            if same_version and plain(item.identity(episodes)) == wanted:
                return item
    return None


def record_paths(run: Run, root: Path) -> list[Path]:
    """Where the records of a run's seeds stand under a folder of records, once it is finished."""
    where = root / (run.data.id if run.data else f"{run.task.spec.id}/none") / run.row
    return [where / f"{run.protocol.name}-seed{seed}-{run.key[:12]}.json" for seed in run.seeds]


def execute(
    run: Run,
    records: Path,
    *,
    progress: Progress | None = None,
    sinks: Sequence[Sink] = (),
    checkpoint_seconds: float = 30.0,
) -> list[Record]:
    """Train, evaluate and record a group; goes on from its last checkpoint where there is one.
    Returns one record a seed.
    """
    torch.set_num_threads(THREADS)
    launch.keep_memory()
    progress = progress or Progress()
    with only_process(run.where):
        finished = find_records(run, [records])
        if finished:
            return finished
        # Only here does a run meet a simulator before its evaluation, and only on these tracks.
        kind = online.OnlineTrainer if run.variant.track in online.TRACKS else Trainer
        trainer = kind(run, sinks, checkpoint_seconds, progress)
        note_start(run, checkpoint_seconds)
        digest = trainer.fit()
        return publish(_evaluate(run, trainer, digest, progress), records)


def note_start(run: Run, checkpoint_seconds: float) -> None:
    """Count the starts of a run since its last checkpoint, and say so where they bring nothing: one
    that is ended before its next checkpoint, each time, would go on for ever without a word.
    """
    path, last = run.where / "starts.json", checkpoint.latest(run.where)
    step = 0 if last is None else checkpoint.step_of(last)
    try:
        found = json.loads(path.read_text())
        starts = found["starts"] + 1 if found["step"] == step else 1
    except (OSError, ValueError, KeyError, TypeError):  # the first start, or no more to be read
        starts = 1
    files.write_json(path, {"step": step, "starts": starts})
    if starts > STARTS:
        print(
            f"note: {run.where.name} has been started {starts - 1} times without saving a step"
            f" after {step}; it has to run for longer at a stretch than its start-up and the time"
            f" between checkpoints, --checkpoint-seconds {checkpoint_seconds:g}.",
            file=sys.stderr,
        )


def publish(made: Sequence[Record], root: Path) -> list[Record]:
    """Write records that are not there yet, and return those that stand there then. A record is
    never replaced: where another process was first, its record is kept.
    """
    kept = []
    for item in made:
        path = item.path(root)
        try:
            record.write(item, root, exclusive=True)
            kept.append(item)
        except FileExistsError:
            kept.append(record.read(path))
            if (kept[-1].status, kept[-1].returns) != (item.status, item.returns):
                print(f"note: {path} was there with other returns, and is kept.", file=sys.stderr)
    return kept


def fail(run: Run, reason: str, root: Path) -> list[Record]:
    """Publish the records of a run that never ends: failed, with the reason, for every seed. Seeds
    whose records are there keep theirs.
    """
    base = replace(_blank(run), status="failed", reason=reason)
    return publish([replace(base, seed=seed) for seed in run.seeds], root)


@contextlib.contextmanager
def only_process(folder: Path, patience: float = 10.0) -> Iterator[None]:
    """One process per run folder, and no left-overs of killed writers in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")  # noqa: SIM115
    except OSError as error:
        raise files.write_error(folder, error) from error
    with lock:
        deadline = time.monotonic() + patience  # a killed parent's children need a moment to end
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"another process is working on {folder}; wait for it or end it."
                    ) from error
                time.sleep(0.1)
        for left_over in folder.glob(files.TEMPORARY + "*"):
            left_over.unlink(missing_ok=True)
        yield


def _blank(run: Run) -> Record:
    """The record of a run's first seed with all that is known before it has begun."""
    return Record(
        key=run.key,
        algo=run.row,
        paper=run.cls.paper,
        track=run.variant.track,
        execution=run.variant.execution,
        code_sha256=provenance.code_sha256(run.cls),
        config=asdict(run.config),
        steps=run.steps,
        seed=run.seeds[0],
        group=list(run.seeds),
        compiled=False,
        task=run.task.spec.id,
        dataset=run.data.id if run.data else "",
        dataset_sha256=run.data.content_sha256 if run.data else "",
        rankable=run.rankable,
        protocol=run.protocol.name,
        protocol_version=PROTOCOL_VERSION,
        first_episode_seed=run.protocol.evaluation_seeds()[0],
        status="ok",
        reason="",
        groups=[part.name for part in run.task.spec.groups],
        returns=[],
        team_returns=[],
        curve={},
        exact={},
        cost=Cost(0.0, 0.0, 0.0, 0.0, 0.0, 0, 1, run.device),
        tuning=run.tuning,
        provenance=provenance.collect(THREADS),
        checkpoint_sha256="",
        notes=run.notes(),
    )


def _evaluate(run: Run, trainer: Trainer, digest: str, progress: Progress) -> list[Record]:
    """Roll out the last checkpoint on the protocol's evaluation seeds and make the records."""
    group, failed, spec = trainer.group, trainer.failed, run.task.spec
    k = len(run.seeds)
    seeds = run.protocol.evaluation_seeds()
    if len(failed) == k:
        evaluation = Evaluation(np.zeros((k, 0, spec.n_agents)), {}, 0.0, 0, 0.0)
    else:
        with blame(run.row, "act"):
            policy = Surviving(group, run.seeds, failed)
            evaluation = rollout_group(run.task, policy, k, seeds, progress=progress.evaluate)
    team = spec.team(evaluation.returns)  # [K, E]
    by_group = spec.by_group(evaluation.returns)  # [K, E, G]
    with blame(run.row, "policy_table"):
        tables = policy_tables(run.task, group)
        metrics = [{} if table is None else exact(run.task, table) for table in tables]
    cost = group.cost()
    common = Cost(
        train_seconds=trainer.train_seconds / k,
        update_ms=1e3 * (trainer.train_seconds - trainer.env_seconds) / max(run.steps, 1) / k,
        act_ms=evaluation.act_ms,
        evaluate_seconds=evaluation.seconds / k,
        peak_mb=launch.peak_mb(),
        parameters=int(cost.get("parameters", 0)),
        sampler_steps=int(cost.get("sampler_steps", 1)),
        device=run.device,
        extra={name: float(v) for name, v in sorted(cost.items()) if name not in COLUMNS},
    )
    base = replace(
        _blank(run),
        compiled=bool(getattr(group, "compiled", False)),
        cost=common,
        checkpoint_sha256=digest,
        env_steps=trainer.env_steps,
    )
    made = []
    for i, seed in enumerate(run.seeds):
        if str(seed) in failed:
            made.append(replace(base, seed=seed, status="failed", reason=failed[str(seed)]))
            continue
        made.append(
            replace(
                base,
                seed=seed,
                returns=by_group[i].tolist(),
                team_returns=team[i].tolist(),
                outcomes={name: x[i].tolist() for name, x in evaluation.outcomes.items()},
                curve=trainer.curves[i],
                exact=metrics[i],
            )
        )
    return made
