"""Verification of a submission, level 2: its episodes are played here.

Traces are played again, which runs nothing of the submission. Where this checkout has the very code
of a record, its checkpoint is evaluated too: on the protocol's seeds, which must give the record's
returns, and on fresh seeds, which rank. Returns must be equal to the last bit on the machine's
equal (processor features and packages), else within 1% of the task's scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmark import checkpoint, policy, provenance, registry, trace
from benchmark.errors import UserError
from benchmark.evaluate import Evaluation, exact
from benchmark.policy import Played
from benchmark.protocol import VERIFICATION_SEEDS, protocol
from benchmark.record import Provenance, Record
from benchmark.task import Task
from benchmark.trace import Trace
from leaderboard import blobs
from leaderboard import submission as form
from leaderboard.soundness import Suite
from leaderboard.submission import Submission
from leaderboard.verification import Seen, Way, checked

TOLERANCE = 0.01  # of the gap between the ends of a task's scale, on another machine


def fresh_seeds(episodes: int, rng: np.random.Generator) -> range:
    """Evaluation seeds that nobody could know: a run of them from a random start."""
    first = int(rng.integers(VERIFICATION_SEEDS.start, VERIFICATION_SEEDS.stop - episodes))
    return range(first, first + episodes)


def same_machine(there: Provenance) -> bool:
    """Whether equal bits are promised between a record's machine and this one."""
    here = (provenance.cpu_fingerprint(), provenance.packages())
    return (there.cpu, there.packages) == here


def verify_episodes(
    submission: Submission, suite: Suite, first: int
) -> tuple[list[str], dict[str, Seen]]:
    """Faults, one sentence each, and what was seen of each record, by its file's name.

    `first`: the first fresh evaluation seed.
    """
    found: list[str] = []
    seen: dict[str, Seen] = {}
    groups: dict[str, list[tuple[str, Record]]] = {}
    for name, item in submission.records.items():
        groups.setdefault(item.key, []).append((name, item))
        try:
            found += [f"{submission.folder / name}: {x}" for x in replay_faults(submission, item)]
            seen[name] = replayed(submission, item)
        except UserError as error:
            found.append(f"{submission.folder / name}: {error}")
    for members in groups.values():
        if found or suite.own(members[0][1]) is None:
            continue
        try:
            faults, again = evaluate_again(submission, suite, members, first)
        except UserError as error:
            faults, again = [f"{submission.folder / members[0][0]}: {error}"], {}
        found += faults
        seen |= again
    return found, seen


# ---------------------------------------------------------------------------------------- traces
def replay_faults(submission: Submission, item: Record) -> Iterator[str]:
    task, kept = registry.task(item.task), blobs.load_trace(submission, item)
    if kept is None:
        return
    seeds = range(item.first_episode_seed, item.first_episode_seed + kept.act.shape[1])
    played = trace.replay(task, kept, seeds)
    for fault in differences(task, item, played, 0, same_machine(item.provenance)):
        yield f"its trace, played again: {fault}"


def replayed(submission: Submission, item: Record) -> Seen:
    """What a replay shows: the returns of the traced episodes, which were found to be right."""
    episodes = trace.length(registry.task(item.task).spec, len(item.team_returns))
    if not episodes and not item.failed:  # too large for a trace
        return checked(item)
    return Seen(
        level=2,
        how="replayed",
        first_episode_seed=item.first_episode_seed,
        returns=item.returns[:episodes],
        team_returns=item.team_returns[:episodes],
        outcomes={name: values[:episodes] for name, values in item.outcomes.items()},
        exact=item.exact,
    )


def seen_in(task: Task, kept: Trace, seeds: range, how: Way) -> Seen:
    """What a trace comes to on the seeds of its episodes."""
    played = trace.replay(task, kept, seeds)
    return _seen(
        task, played, 0, seeds.start, how, {} if kept.table is None else exact(task, kept.table)
    )


def _seen(
    task: Task, played: Evaluation, k: int, first: int, how: Way, metrics: dict[str, float]
) -> Seen:
    returns = played.returns[k]  # [E, N]
    return Seen(
        level=2,
        how=how,
        first_episode_seed=first,
        returns=task.spec.by_group(returns).tolist(),
        team_returns=task.spec.team(returns).tolist(),
        outcomes={name: x[k].tolist() for name, x in played.outcomes.items()},
        exact=metrics,
    )


def differences(
    task: Task, item: Record, played: Evaluation, k: int, exactly: bool
) -> Iterator[str]:
    """How the episodes of seed k that were played here differ from the first ones of a record."""
    spec, returns = task.spec, played.returns[k]  # [E, N]
    columns: dict[str, tuple[list[Any], list[Any]]] = {
        "returns": (spec.by_group(returns).tolist(), item.returns),
        "team_returns": (spec.team(returns).tolist(), item.team_returns),
    }
    for name, values in played.outcomes.items():
        columns[f"outcomes.{name}"] = values[k].tolist(), item.outcomes[name]
    for name, (here, there) in columns.items():
        there = there[: len(here)]
        if here == there or (not exactly and near(task, here, there)):
            continue
        e = next(e for e, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1])
        yield f"{name}.{e} is {there[e]}, here it comes to {here[e]}."


def near(task: Task, here: list[Any], there: list[Any]) -> bool:
    """Whether means agree as well as those of two kinds of machines have to."""
    reference = task.reference()
    gap = 0.0 if reference is None else abs(reference.expert - reference.random)
    size = max(gap, float(np.abs(there).mean()))
    return bool(abs(np.mean(here) - np.mean(there)) <= TOLERANCE * size)


# ----------------------------------------------------------------------------------- checkpoints
def evaluate_again(
    submission: Submission, suite: Suite, members: Sequence[tuple[str, Record]], first: int
) -> tuple[list[str], dict[str, Seen]]:
    """Evaluate the checkpoint of a group's records, on their seeds and on fresh ones."""
    item = members[0][1]
    task, own = registry.task(item.task), suite.own(item)
    assert own is not None
    state = checkpoint.load(submission.folder / form.checkpoint_name(item))
    rule = protocol(item.protocol).on(task.spec)
    played = policy.play(state, own[0], task, rule.evaluation_seeds())
    fresh = policy.play(state, own[0], task, range(first, first + rule.episodes))
    found: list[str] = []
    seen: dict[str, Seen] = {}
    for name, member in members:
        k = member.group.index(member.seed)
        source = f"{submission.folder / name}: its checkpoint, evaluated again"
        found += [f"{source}: {x}" for x in checkpoint_faults(task, member, played, k)]
        if member.failed:
            seen[name] = Seen(2, "re-evaluated", first, [], [], {}, {})
            continue
        seen[name] = _seen(task, fresh.evaluation, k, first, "re-evaluated", fresh.exact[k])
    return found, seen


def checkpoint_faults(task: Task, item: Record, played: Played, k: int) -> Iterator[str]:
    reason = played.failed.get(str(item.seed), "")
    if reason != item.reason:
        yield f"the seed's reason to fail is {reason!r}, the record's {item.reason!r}."
    elif not item.failed:
        exactly = same_machine(item.provenance) and item.cost.device == "cpu"
        yield from differences(task, item, played.evaluation, k, exactly)
        tolerance = blobs.ROUNDING if exactly else TOLERANCE
        yield from blobs.exact_faults(task, item, played.exact[k], tolerance)
