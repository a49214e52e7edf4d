"""Verification of a submission, levels 0 and 1: what can be told without playing an episode.

Level 0 is `leaderboard.submission.read`: names, limits, hashes, strict schema. Level 1 holds every
record against the suite (protocol, seeds, tasks, datasets, references), computes aggregates again,
and compares checkpoints and traces with the records. `leaderboard.replay` has level 2.

Everything here reads data. Code is looked at only where it is the checkout's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from benchmark import record, registry
from benchmark.errors import UserError
from benchmark.protocol import protocol
from benchmark.record import Record
from leaderboard import submission as form
from leaderboard.blobs import BLOB_CHECKS
from leaderboard.soundness import (
    RECORD_CHECKS,
    RESULT_CHECKS,
    Check,
    Suite,
)
from leaderboard.submission import Submission

LONGEST = 1_000  # characters of a fault: it may quote what a stranger wrote


def faults(submission: Submission, suite: Suite) -> list[str]:
    """What keeps a submission from level 1, one sentence each; empty where nothing does."""
    found = [*file_faults(submission), *_manifest_faults(submission)]
    if found:
        return found
    for name, item in submission.records.items():
        if fault := first_fault(submission, item, suite):
            found.append(f"{submission.folder / name}: {fault}")
    if not found:
        found += _group_faults(submission)
    return found


def first_fault(submission: Submission, item: Record, suite: Suite) -> str:
    """What is wrong with a record; "" where nothing is. Each check may rely on those before it."""
    for check in RECORD_CHECKS + BLOB_CHECKS:
        for fault in _told(check, submission, item, suite):
            return " ".join(fault.split())[:LONGEST]
    return ""


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
    for check in RESULT_CHECKS:
        yield from _told(check, alone, item, suite)


def results(root: Path, suite: Suite) -> Iterator[tuple[Path, Record | None, list[str]]]:
    """Every record under a folder of committed ones, with what keeps it from level 1; None where it
    cannot be read.
    """
    for path in sorted(root.rglob("*.json")):
        try:
            item = record.read(path)
        except UserError as error:
            yield path, None, [str(error)]
            continue
        found = [" ".join(fault.split())[:LONGEST] for fault in result_faults(item, suite)]
        if item.path(root) != path:
            found.append(f"it is the record {item.path(root)}.")
        yield path, item, found


def _told(check: Check, submission: Submission, item: Record, suite: Suite) -> Iterator[str]:
    try:
        yield from check(submission, item, suite)
    except UserError as error:
        yield str(error)


# ------------------------------------------------------------------------------------- a manifest
def file_faults(submission: Submission) -> Iterator[str]:
    """Files that are not those which the manifest lists."""
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
