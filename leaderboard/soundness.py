"""Level 1 of one record: it is what the suite's protocol, cards and its own sums say.

Each check yields what is wrong, one sentence each, and reads data only. Code is looked at where it
is the checkout's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from benchmark import files, provenance, registry
from benchmark.algorithm import Algorithm, Variant
from benchmark.protocol import PROTOCOL_VERSION, protocol
from benchmark.record import NOTED, Record
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
        if provenance.code_sha256(cls) != provenance.first_code(item.code_sha256):
            return None
        if (variant or "default") not in cls.variants:
            return None
        return cls, cls.variants[variant or "default"]


def identity(item: Record) -> dict[str, Any]:
    """What the key of a record's run is the hash of."""
    return item.identity(protocol(item.protocol).on(registry.task(item.task).spec).episodes)


Check = Callable[[Submission, Record, Suite], Iterator[str]]


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


def check_protocol(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """Seeds are the protocol's: who could choose them would choose lucky ones."""
    rule = protocol(item.protocol)
    if item.protocol != submission.manifest.protocol:
        yield f"protocol is {item.protocol}, the manifest says {submission.manifest.protocol}."
    yield from _version(item)
    if item.seed not in rule.seeds():
        yield f"seed is {item.seed}, the {rule.name} protocol has 0 to {rule.n_seeds - 1}."
    seeds = rule.seeds()
    groups = [list(seeds[i : i + rule.group]) for i in range(0, len(seeds), rule.group)]
    if item.seed not in item.group or item.group not in [*groups, [item.seed]]:
        yield f"group is {item.group}, expected the protocol's {groups} or the seed alone."


def _version(item: Record) -> Iterator[str]:
    """Today's protocol, evaluated on its seeds."""
    first = protocol(item.protocol).evaluation_seeds()[0]
    if item.protocol_version != PROTOCOL_VERSION:
        yield f"protocol_version is {item.protocol_version}, expected {PROTOCOL_VERSION}."
    if item.first_episode_seed != first:
        yield (
            f"first_episode_seed is {item.first_episode_seed}, the protocol evaluates from"
            f" {first} up."
        )


def check_data(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """The task is known, and the dataset's content is one that its committed card lists."""
    registry.task(item.task)
    for name, (usual, other) in NOTED.items():
        if (found := item.notes.get(name, other)) != other:
            yield f"notes.{name} is {found!r}, expected {other}, or none for {usual}."
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


def check_key(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    """Of a record without a checkpoint beside it: its key is the hash of what it says of its run,
    which is of this protocol and of a checkout without changes of its own.
    """
    yield from _version(item)
    said = json.dumps(identity(item), sort_keys=True).encode()
    if item.key != files.sha256(said):
        yield (
            f"key is {item.key[:12]!r}..., what it says of its run gives"
            f" {files.sha256(said)[:12]!r}...; a field of the run was changed."
        )
    if item.seed not in item.group:
        yield f"seed is {item.seed}, which is not in its group {item.group}."
    if item.provenance.dirty or not item.provenance.commit:
        yield "provenance: the code that made it is not that of a commit."


def check_file(submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    if submission.records.get(form.record_name(item)) is not item:
        yield f"it holds the run {item.key[:12]} and seed {item.seed}, which its name does not say."


RECORD_CHECKS: tuple[Check, ...] = (
    check_names,
    check_protocol,
    check_data,
    check_returns,
    check_numbers,
    check_code,
    check_file,
)
# Of a committed record, which has no checkpoint and no manifest beside it
RESULT_CHECKS: tuple[Check, ...] = (check_data, check_returns, check_numbers, check_key)
