"""Verification of a submission, levels 0 and 1: what can be told without playing an episode.

Level 0 is `leaderboard.submission.read`: names, limits, hashes, strict schema. Level 1 holds every
record against the suite (protocol, seeds, tasks, datasets, references), computes aggregates again,
and compares checkpoints and traces with the records. `leaderboard.replay` has level 2.

Everything here reads data. Code is looked at only where it is the checkout's own.
"""

from __future__ import annotations

import json
import math
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import files, provenance, registry, trace
from benchmark.algorithm import Algorithm, Variant
from benchmark.errors import UserError
from benchmark.evaluate import exact
from benchmark.protocol import PROTOCOL_VERSION, protocol
from benchmark.record import Record
from benchmark.task import Task
from benchmark.trace import Trace
from leaderboard import submission as form
from leaderboard.rows import FLOORS
from leaderboard.submission import Submission

ULPS = 8 * np.finfo(np.float64).eps  # rounding of a mean of means


@dataclass(frozen=True)
class Suite:
    """What a submission is held against: this checkout."""

    algorithms: registry.Algorithms  # of the checkout: without plug-ins
    card: Callable[[str], Mapping[str, Any]]  # dataset id -> its committed card
    checkpoints: Mapping[str, str] = field(default_factory=dict)  # sha256 -> whose it is

    def own(self, item: Record) -> tuple[type[Algorithm], Variant] | None:
        """Class and variant of a record, where this checkout has the very code that made it."""
        name, _, variant = item.algo.partition(".")
        if not self.algorithms.shipped(name):
            return None
        cls = self.algorithms.cls(name)
        if provenance.code_sha256(cls) != item.code_sha256:
            return None
        if (variant or "default") not in cls.variants:
            return None
        return cls, cls.variants[variant or "default"]


def faults(submission: Submission, suite: Suite) -> list[str]:
    """What keeps a submission from level 1, one sentence each; empty where nothing does."""
    found = [*_file_faults(submission), *_manifest_faults(submission)]
    if found:
        return found
    for name, item in submission.records.items():
        source = submission.folder / name
        # The first fault of a record: what follows from a wrong task or seed says nothing more.
        for check in RECORD_CHECKS:
            if fault := next(iter(_told(check, submission, item, suite)), None):
                found.append(f"{source}: {fault}")
                break
    if not found:
        found += _group_faults(submission)
    return found


def flags(submission: Submission, suite: Suite) -> list[str]:
    """What a maintainer should look at; it is written beside the level and keeps nothing back."""
    found = []
    for name, item in submission.records.items():
        whose = suite.checkpoints.get(item.checkpoint_sha256)
        if whose is not None:
            found.append(f"{name}: its checkpoint is the very file of {whose}")
        if suite.algorithms.shipped(item.algo.split(".")[0]) and suite.own(item) is None:
            found.append(f"{name}: {item.algo} of this checkout has other code than the record's")
    if any(item.provenance.dirty for item in submission.records.values()):
        found.append("made from a checkout with changes of its own")
    keys = defaultdict(set)
    for item in submission.records.values():
        keys[item.checkpoint_sha256].add(item.key)
    found += [
        f"{len(runs)} runs have one checkpoint, {digest[:12]}..."
        for digest, runs in keys.items()
        if len(runs) > 1
    ]
    return found


def result_faults(item: Record, suite: Suite) -> Iterator[str]:
    """What is wrong with a record of leaderboard/results, which has no checkpoint beside it."""
    alone = Submission(Path(), form.Manifest("", "", "", item.protocol, "", {}, {}))
    if item.level != 0:
        yield f"level is {item.level}: a level is given by make verify, a record claims 0."
    for check in (check_data, check_returns, check_numbers):
        yield from _told(check, alone, item, suite)


Check = Callable[[Submission, Record, Suite], Iterator[str]]


def _told(check: Check, submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    try:
        yield from check(submission, item, suite)
    except UserError as error:
        yield str(error)


# ------------------------------------------------------------------------------------- a manifest
def _file_faults(submission: Submission) -> Iterator[str]:
    for name in submission.manifest.files:
        try:
            data = submission.blob(name)
        except UserError as error:
            yield str(error)
            continue
        if name == "plot.png" and not data.startswith(b"\x89PNG\r\n\x1a\n"):
            yield f"{submission.folder / name} is no PNG file."


def _manifest_faults(submission: Submission) -> Iterator[str]:
    manifest, source = submission.manifest, submission.folder / form.MANIFEST
    try:
        protocol(manifest.protocol)
    except UserError as error:
        yield f"{source}: {error}"
    tasks = {item.task for item in submission.records.values()}
    if set(manifest.references) != tasks:
        given = sorted(manifest.references)
        yield f"{source}: references are of {given}, expected {sorted(tasks)}."
    for task, ends in manifest.references.items():
        try:
            reference = registry.task(task).reference()
        except UserError as error:
            yield f"{source}: references: {error}"
            continue
        if reference is None:
            yield f"{source}: references: {task} has no committed reference, so nothing is ranked."
        elif (ends.random, ends.expert) == (reference.expert, reference.random):
            yield f"{source}: the references of {task} are swapped."
        elif asdict(ends) != {name: getattr(reference, name) for name in asdict(ends)}:
            yield (
                f"{source}: the references of {task} are random {ends.random:.6g} and expert"
                f" {ends.expert:.6g}, expected {reference.random:.6g} and {reference.expert:.6g}."
            )


# ---------------------------------------------------------------------------------------- records
def check_names(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    if item.level != 0:
        yield f"level is {item.level}: a level is given by make verify, a record claims 0."
    if not form.ROW.fullmatch(item.algo) or item.algo.split(".")[0] != submission.manifest.algo:
        yield f"algo is {item.algo!r}, expected {submission.manifest.algo} or a variant of it."
    if item.algo.split(".")[0] in FLOORS and suite.own(item) is None:
        yield f"algo is {item.algo}, a floor of every board, and its code is not this checkout's."
    hashes = {"key": item.key, "code_sha256": item.code_sha256}
    hashes["checkpoint_sha256"] = item.checkpoint_sha256
    for name, value in hashes.items():
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            yield f"{name} is {value[:70]!r}, expected a sha256 in hexadecimal."
    if submission.records.get(form.record_name(item)) is not item:
        yield f"it holds the run {item.key[:12]} and seed {item.seed}, which its name does not say."


def check_protocol(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """Seeds are the protocol's: who could choose them would choose lucky ones."""
    rule = protocol(item.protocol)
    if item.protocol != submission.manifest.protocol:
        yield f"protocol is {item.protocol}, the manifest says {submission.manifest.protocol}."
    if item.protocol_version != PROTOCOL_VERSION:
        yield f"protocol_version is {item.protocol_version}, expected {PROTOCOL_VERSION}."
    if item.seed not in rule.seeds():
        yield f"seed is {item.seed}, the {rule.name} protocol has 0 to {rule.n_seeds - 1}."
    seeds = rule.seeds()
    groups = [list(seeds[i : i + rule.group]) for i in range(0, len(seeds), rule.group)]
    if item.seed not in item.group or item.group not in [*groups, [item.seed]]:
        yield f"group is {item.group}, expected the protocol's {groups} or the seed alone."
    if item.first_episode_seed != rule.evaluation_seeds()[0]:
        yield (
            f"first_episode_seed is {item.first_episode_seed}, the protocol evaluates from"
            f" {rule.evaluation_seeds()[0]} up."
        )


def check_data(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """The task is known, and the dataset's content is one that its committed card lists."""
    registry.task(item.task)
    if not item.dataset:
        if item.track != "online":
            yield f"dataset is missing, and the track is {item.track}."
        if item.dataset_sha256:
            yield "dataset_sha256 is given without a dataset."
        return
    if not form.DATASET.fullmatch(item.dataset):  # before it becomes part of a path
        yield f"dataset is {item.dataset!r}, expected namespace/name/tier-vN."
        return
    card = suite.card(item.dataset)
    if not card:
        yield f"dataset {item.dataset!r} has no committed card."
    elif card["task"] != item.task:
        yield f"task is {item.task}, {item.dataset} is data of {card['task']}."
    elif item.dataset_sha256 not in card["content_sha256"] or not item.rankable:
        yield (
            f"dataset_sha256 {item.dataset_sha256[:12]}... is not listed on the card of"
            f" {item.dataset}; if its recipe made it here, make data DATASET={item.dataset}"
            " ARGS=--record lists it."
        )


def check_returns(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """One return an episode and group of agents, and team returns that follow from them."""
    spec = registry.task(item.task).spec
    episodes = 0 if item.failed else protocol(item.protocol).on(spec).episodes
    if item.failed == (item.reason == ""):
        yield f"status is {item.status} and reason is {item.reason!r}; a failure has a reason."
    if len(item.returns) != episodes or len(item.team_returns) != episodes:
        yield f"returns are of {len(item.returns)} episodes, the protocol has {episodes}."
    names = [part.name for part in spec.groups]
    if item.groups != names or any(len(row) != len(names) for row in item.returns):
        yield f"groups are {item.groups} and returns are not one for each of {names}."
    if set(item.outcomes) != (set() if item.failed else set(spec.outcomes)):
        yield f"outcomes are {sorted(item.outcomes)}, expected {sorted(spec.outcomes)}."
    sizes = np.array([part.n_agents for part in spec.groups])
    if spec.team_return not in ("mean", "sum") or not item.returns:
        return
    weights = sizes / sizes.sum() if spec.team_return == "mean" else sizes
    rows = np.array(item.returns, np.float64)  # [E, G]
    with np.errstate(over="ignore", invalid="ignore"):  # of absurd returns, which are wrong below
        team = (rows * weights).sum(-1)
        off = np.abs(team - item.team_returns)
        wrong = np.flatnonzero(~(off <= ULPS * (np.abs(rows) * weights).sum(-1)))
    if len(wrong):
        e = int(wrong[0])
        yield (
            f"team_returns.{e} is {item.team_returns[e]!r}, its returns give {float(team[e])!r}."
        )


def check_numbers(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """Costs, counts and curves are possible."""
    cost = asdict(item.cost)
    numbers = {f"cost.{name}": x for name, x in cost.items() if isinstance(x, (int, float))}
    numbers |= {f"cost.extra.{name}": x for name, x in item.cost.extra.items()}
    numbers |= {f"tuning.{name}": x for name, x in asdict(item.tuning).items()}
    numbers |= {"steps": item.steps, "env_steps": item.env_steps}
    for name, value in numbers.items():
        if value < 0:
            yield f"{name} is {value}, expected 0 or more."
    if item.provenance.threads != 1:
        yield f"provenance.threads is {item.provenance.threads}, every run has 1."
    lengths = {name: len(column) for name, column in item.curve.items()}
    if len(set(lengths.values())) > 1:
        yield f"curve has columns of different lengths: {lengths}."
    steps = [step for step in item.curve.get("step", []) if step is not None]
    if steps != sorted(set(steps)) or (steps and not 0 <= steps[0] <= steps[-1] <= item.steps):
        yield f"curve.step does not rise from 0 to the run's {item.steps} steps."


def check_code(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """Where the checkout has the code, the record says what that code says."""
    own = suite.own(item)
    if own is None:
        return
    cls, variant = own
    changes, steps = variant.resolve(item.task, item.protocol)
    said = {
        "paper": cls.paper,
        "track": variant.track,
        "execution": variant.execution,
        "config": json.loads(json.dumps(asdict(cls.Config(**changes)))),
        "steps": steps,
        "tuning": variant.tuned(item.task),
    }
    for name, value in said.items():
        if getattr(item, name) != value:
            yield f"{name} is {getattr(item, name)!r}, the code of {item.algo} says {value!r}."


# ----------------------------------------------------------------------------- checkpoints, traces
def header(data: bytes, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header of a safetensors file, tensors by name, and the state of a checkpoint that it tells.

    Nothing is allocated by what the header claims. Raises UserError that names `source`.
    """
    try:
        (size,) = struct.unpack("<Q", data[:8])
        if size > min(form.MAX_HEADER, len(data)):
            raise UserError(f"{source}: its header is {size} bytes long, too much.")
        tensors = json.loads(data[8 : 8 + size])
        metadata = tensors.pop("__metadata__", {})
        if len(tensors) > form.MAX_TENSORS:
            raise UserError(f"{source} holds {len(tensors)} tensors, at most {form.MAX_TENSORS}.")
        state = json.loads(metadata["state"])
        identity = state["identity"]
        if not isinstance(identity, dict) or not isinstance(state["failed"], dict):
            raise ValueError("its identity is no object")
        return tensors, state
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{source} is no checkpoint of this suite ({type(error).__name__}: {error})."
        ) from error


def check_checkpoint(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """The checkpoint is that of the record: same hash, same run, finished, finite."""
    name = form.checkpoint_name(item)
    data = submission.blob(name)
    if files.sha256(data) != item.checkpoint_sha256:
        yield f"checkpoint_sha256 is {item.checkpoint_sha256[:12]}..., and not that of {name}."
    _, state = header(data, name)
    identity = state["identity"]
    spec = registry.task(item.task).spec
    expected = {
        "algo": item.algo,
        "code": item.code_sha256,
        "config": item.config,
        "steps": item.steps,
        "seeds": item.group,
        "task": item.task,
        "dataset": item.dataset,
        "content": item.dataset_sha256,
        "protocol": [
            item.protocol,
            item.protocol_version,
            protocol(item.protocol).on(spec).episodes,
        ],
        "device": item.cost.device,
    }
    for key, value in expected.items():
        if identity.get(key) != value:
            yield f"{name} is of a run with {key} {identity.get(key)!r}, the record says {value!r}."
    if files.sha256(json.dumps(identity, sort_keys=True).encode()) != item.key:
        yield f"key is {item.key[:12]}..., and not that of the run in {name}."
    if state.get("finished") is not True:
        yield f"{name} is of a run that is not finished."
    reason = state["failed"].get(str(item.seed))
    if reason is not None and reason != item.reason:
        yield f"{name} says that seed {item.seed} failed: {reason}."
    if not item.failed:
        curves = state.get("curves")
        place = item.group.index(item.seed)
        if not isinstance(curves, list) or curves[place:][:1] != [item.curve]:
            yield f"curve is not the one in {name}."
    if not state["failed"]:
        yield from _not_finite(data, name)


def _not_finite(data: bytes, name: str) -> Iterator[str]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        yield f"{name} is damaged ({type(error).__name__}: {error})."
        return
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            yield f"{name}: {key} is not finite."


def load_trace(submission: Submission, item: Record) -> Trace | None:
    """The trace of a record, None where the seed failed or no episode fits in one."""
    spec = registry.task(item.task).spec
    episodes = trace.length(spec, len(item.team_returns))
    name = form.trace_name(item)
    if not episodes:
        return None
    return trace.unpack(submission.blob(name), spec, episodes, name)


def check_trace(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """A trace of as many episodes as fit; exact metrics follow from the policy table in it."""
    task = registry.task(item.task)
    found = load_trace(submission, item)
    if found is None and form.trace_name(item) in submission.manifest.files:
        yield f"{form.trace_name(item)} belongs to no episode."
    table = None if found is None else found.table
    if table is not None and task.model() is None:
        yield f"{form.trace_name(item)} holds a policy table, and {item.task} has no model."
        return
    yield from exact_faults(task, item, {} if table is None else exact(task, table))


def exact_faults(task: Task, item: Record, found: Mapping[str, float]) -> Iterator[str]:
    """Exact metrics of a record against those that were computed here."""
    if set(item.exact) != set(found):
        yield f"exact holds {sorted(item.exact)}, its policy table gives {sorted(found)}."
    for name, value in found.items():
        # Exact in arithmetic, not in rounding: another processor sums in another order.
        if not math.isclose(item.exact.get(name, math.nan), value, rel_tol=1e-12, abs_tol=1e-12):
            yield f"exact.{name} is {item.exact.get(name)!r}, its policy table gives {value!r}."


RECORD_CHECKS: tuple[Check, ...] = (
    check_names,
    check_protocol,
    check_data,
    check_returns,
    check_numbers,
    check_code,
    check_checkpoint,
    check_trace,
)


# ---------------------------------------------------------------------------------- all together
def _group_faults(submission: Submission) -> Iterator[str]:
    """All seeds of the protocol are there, made alike; and no file belongs to nothing."""
    boards: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for item in submission.records.values():
        boards[item.algo, item.task, item.dataset].append(item)
    wanted = list(protocol(submission.manifest.protocol).seeds())
    for (algo, task, dataset), items in boards.items():
        where = f"{submission.folder}: {algo} on {dataset or task}"
        if sorted(item.seed for item in items) != wanted:
            seeds = sorted(item.seed for item in items)
            yield f"{where} has the seeds {seeds}, the protocol wants each of {wanted} once."
        for name in (
            "config",
            "steps",
            "paper",
            "track",
            "execution",
            "rankable",
            "dataset_sha256",
        ):
            if any(getattr(item, name) != getattr(items[0], name) for item in items):
                yield f"{where}: {name} is not the same for all seeds."
    items = list(submission.records.values())
    if len({item.code_sha256 for item in items}) > 1:
        yield f"{submission.folder}: code_sha256 is not the same in all records."
    known = {form.record_name(item) for item in items} | {form.checkpoint_name(x) for x in items}
    known |= {form.trace_name(item) for item in items} | {"report.md", "plot.png"}
    for name in sorted(set(submission.manifest.files) - known):
        yield f"{submission.folder / name} belongs to no record."
