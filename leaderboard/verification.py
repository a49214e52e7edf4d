"""verification.json: what `make verify` found, committed beside a submission by who verified it.

The board believes this file and no claim of a record: a record's level is the one of the last
entry, and what ranks are the episodes seen there (on fresh seeds where the checkpoint was evaluated
again). Entries are only ever appended. They are bound to the submission by its manifest's sha256,
so that a folder that changed since has no level.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmark import files, strict
from benchmark.errors import UserError
from benchmark.record import Provenance, Record
from leaderboard import submission as form
from leaderboard.submission import VERIFICATION, Submission

Way = Literal["checked", "replayed", "re-evaluated", "retrained"]
SCHEMA = 1
MAX_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Seen:
    """What was found of one record. The episodes are those that rank."""

    level: int
    how: Way
    first_episode_seed: int
    returns: list[list[float]]
    team_returns: list[float]
    outcomes: dict[str, list[float]]
    exact: dict[str, float]


def checked(item: Record) -> Seen:
    """A record at level 1: its own episodes, which nobody has played again."""
    first, returns, team = item.first_episode_seed, item.returns, item.team_returns
    return Seen(1, "checked", first, returns, team, item.outcomes, item.exact)


@dataclass(frozen=True)
class Entry:
    """One verification of a whole submission."""

    manifest_sha256: str
    level: int  # 0 where there are faults
    faults: list[str]
    flags: list[str]
    records: dict[str, Seen]  # file name -> what was seen
    provenance: Provenance  # of the verifier


@dataclass(frozen=True)
class Verification:
    submission: str
    history: list[Entry] = field(default_factory=list)
    schema: int = SCHEMA


@functools.cache
def _adapter() -> Any:
    return strict.strictly(Verification, Entry, Seen, Provenance)


def parse(data: bytes, source: str) -> Verification:
    found: Verification = strict.parse(data, _adapter(), source, "verification", MAX_BYTES)
    if found.schema != SCHEMA:
        raise UserError(f"{source} has schema {found.schema}, this suite reads {SCHEMA}.")
    return found


def read(folder: Path) -> Verification:
    """The verification of a submission; one without entries where the file is not there."""
    if not (folder / VERIFICATION).exists():
        return Verification(folder.name)
    found = parse(form.read_bytes(folder, VERIFICATION), str(folder / VERIFICATION))
    if found.submission != folder.name:
        raise UserError(
            f"{folder / VERIFICATION} is of {found.submission!r}, expected {folder.name!r}."
        )
    return found


def current(submission: Submission, known: Verification) -> Entry | None:
    """The last entry, where it is of this very content."""
    entry = known.history[-1] if known.history else None
    return entry if entry and entry.manifest_sha256 == submission.sha256 else None


def append(submission: Submission, entry: Entry) -> Path:
    """Write an entry behind the others; returns the path."""
    known = read(submission.folder)
    path = submission.folder / VERIFICATION
    files.write_json(path, asdict(replace(known, history=[*known.history, entry])))
    return path


# ------------------------------------------------------------------------------------- the board
def accepted(root: Path, minimum: int = 1) -> list[Record]:
    """Records of all submissions at their verified level, from `minimum` up, with the episodes
    that the verification saw. Of several versions the last accepted one counts.
    """
    newest: dict[tuple[str, str, str, str], list[Record]] = {}
    for folder in form.folders(root):  # versions in rising order
        if not (folder / VERIFICATION).exists():
            continue
        own: dict[tuple[str, str, str, str], list[Record]] = {}
        for item in verified(folder, minimum):
            own.setdefault((item.algo, item.task, item.dataset, item.protocol), []).append(item)
        newest |= own
    return [item for items in newest.values() for item in items]


def verified(folder: Path, minimum: int = 1) -> list[Record]:
    """The records of one submission as the board shows them; none where it has no level."""
    submission = form.read(folder)
    entry = current(submission, read(folder))
    if entry is None:
        return []
    found = []
    for name, item in submission.records.items():
        seen = entry.records.get(name)
        if seen is not None and min(seen.level, entry.level) >= minimum:
            found.append(shown(item, seen, min(seen.level, entry.level)))
    return found


def shown(item: Record, seen: Seen, level: int) -> Record:
    return replace(
        item,
        level=level,
        first_episode_seed=seen.first_episode_seed,
        returns=seen.returns,
        team_returns=seen.team_returns,
        outcomes=seen.outcomes,
        exact=seen.exact,
    )


# ---------------------------------------------------------------------------------------- history
def history_faults(
    old: Mapping[str, bytes], new: Mapping[str, bytes], maintainer: bool = False
) -> list[str]:
    """What was changed between two states of leaderboard/submissions, both as path -> content.

    New submissions may be there. Only a maintainer adds to what verifications found: a submission
    that brings its own verification claims its own level.
    """
    found = []
    for path in sorted({*old, *new}):
        if "/" not in path:
            continue  # beside the submissions, a README
        known = any(other.startswith(path.split("/")[0] + "/") for other in old)
        if path.endswith("/" + VERIFICATION) and path in new:
            before = parse(old[path], path).history if path in old else []
            after = parse(new[path], path).history
            if after[: len(before)] != before:
                found.append(f"{path}: its entries were changed; they are only ever appended.")
            elif after != before and not maintainer:
                found.append(f"{path} is written by who verifies, never by who submits.")
        elif path not in new:
            found.append(f"{path} was taken away; a submission stays, a change is a new version.")
        elif path not in old and known:
            found.append(f"{path} was added to a submission; a change is a new version.")
        elif path in old and old[path] != new[path]:
            found.append(f"{path} was changed; a change is a new version.")
    return found
