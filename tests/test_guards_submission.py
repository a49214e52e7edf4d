"""No guard of a submission's reader, of its manifest and of what all its records share is idle:
each is taken out in turn, and something odd is then refused no more, or by no such name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from benchmark import record, registry
from benchmark.protocol import protocol
from benchmark.record import Record
from leaderboard import submission, verify
from leaderboard.submission import MANIFEST, Ends, File, Manifest, Submission
from tests.guards import guards, refused, unnoticed
from tests.submitting import Change, copied, forged, sign, suite
from tests.test_guards_records import Case, honest, result
from tests.test_verify import MANIFESTS, put, swap

ID = "stranger-v1"
BARE = "meanfield/squeeze-n7-v1"  # no reference is committed
REPORT, PLOT = "report.md", "plot.png"


def items() -> list[Record]:
    """A record for every seed of the protocol."""
    return [replace(honest(group=[seed]), seed=seed) for seed in protocol("quick").seeds()]


def ends(task: str) -> Ends:
    reference = registry.task(task).reference()
    assert reference is not None
    return Ends(**{name: getattr(reference, name) for name in Ends.__dataclass_fields__})


def manifest(of: list[Record], **changes: Any) -> Manifest:
    references = {item.task: ends(item.task) for item in of[:1]}
    return replace(Manifest(ID, "", "", "quick", "2026-01-01", references, {}), **changes)


def written(where: Path) -> Path:
    """A submission of records alone: its reader asks for no more."""
    blobs = {submission.record_name(x): record.to_json(x).encode() for x in items()}
    return submission.write(where, manifest(items()), blobs | {REPORT: b"x"}, lambda folder: None)


# ------------------------------------------------------------------------------------ the folder
def sparse(folder: Path, size: int, count: int = 1) -> None:
    for i in range(count):
        with (folder / f"checkpoint-{i:012}.safetensors").open("wb") as file:
            file.truncate(size)


def without_records(folder: Path) -> None:
    for path in folder.glob("record-*"):
        path.unlink()
    sign(folder)


def in_a_record(change: Change, folder: Path) -> None:
    with forged(next(folder.glob("record-*"))) as values:
        change(values)


def listing(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with forged(folder / MANIFEST) as values:
            values["files"][name] = asdict(File(1, "0" * 64))

    return change


FOLDERS: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: (f / "more").mkdir(), "is no regular file"),
    (lambda f: swap(f, os.symlink), "is no regular file"),
    (lambda f: (f / "mine.py").write_text("1/0"), "is of no kind"),
    (lambda f: (f / REPORT).write_text("x" * 2**20), "bytes long"),
    (lambda f: sparse(f, 2**26, 9), "bytes large"),
    (lambda f: sparse(f, 0, submission.MAX_FILES), "files, at most 1000"),
    (lambda f: (f / MANIFEST).unlink(), "lacks submission.json"),
    (lambda f: (f / PLOT).touch(), "is not listed"),
    (lambda f: (f / REPORT).unlink(), "is listed and not there"),
    (lambda f: next(f.glob("record-*")).write_text("{}"), "is not the file that"),
    (listing(MANIFEST), "lists itself"),
    (listing(submission.VERIFICATION), "lists itself"),
    (without_records, "lists no record"),
    (functools.partial(in_a_record, put("notes", {"x" * 501: ""})), "at most 500 characters"),
    (functools.partial(in_a_record, put("groups", ["\u0430gent"])), "not printable ASCII"),
]


def folder_case(folder: Path, change: Callable[[Path], Any], words: str) -> Case:
    change(folder)
    return refused(lambda: submission.read(folder), words)


def in_the_manifest(change: Change, folder: Path) -> None:
    with forged(folder / MANIFEST) as values:
        change(values)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    where = tmp_path_factory.mktemp("submissions")
    honest_one = written(where / "honest")
    own = submission.read(honest_one)
    changes = FOLDERS + [
        (functools.partial(in_the_manifest, change), words) for change, words in MANIFESTS
    ]
    found: dict[str, Case] = {}
    for i, (change, words) in enumerate(changes):
        case = folder_case(copied(honest_one, where / str(i)), change, words)
        if case():  # what is wrong with a manifest's values is told by the other module
            found[f"folder {i}"] = case
    odd = where / "odd"
    odd.mkdir()
    (odd / "link-v1").symlink_to(honest_one)
    (odd / "Name-v1").mkdir()
    os.mkfifo(odd / REPORT)
    sparse(odd, 2**26 + 1)
    big, record_name = b"x" * 2**19, submission.record_name(items()[0])

    def write(name: str, *parts: tuple[str, bytes]) -> None:
        submission.write(odd / name, manifest(items()), dict(parts), lambda folder: None)

    def write_more(name: str, value: int) -> None:
        with mock.patch.object(submission, name, value):
            write(f"more {name}", (REPORT, b"1234"), (record_name, b"1234"))

    return found | {
        "a file": refused(lambda: submission.names(odd / REPORT), "is no folder"),
        "a link": refused(lambda: submission.names(odd / "link-v1"), "is no folder"),
        "a name": refused(lambda: submission.names(odd / "Name-v1"), "<algorithm>-v<N>"),
        "kind": refused(lambda: submission.read_bytes(odd, "a.py"), "is of no kind"),
        "fifo": refused(lambda: submission.read_bytes(odd, REPORT), "is no regular file"),
        "long": refused(
            lambda: submission.read_bytes(odd, f"checkpoint-{0:012}.safetensors"), "bytes long"
        ),
        "gone": refused(lambda: submission.read_bytes(odd, PLOT), "cannot read"),
        "unlisted": refused(lambda: own.blob(PLOT), "does not list it"),
        "too long": refused(lambda: write("long", (REPORT, big)), "would be 524288 bytes long"),
        "too much": refused(lambda: write_more("MAX_TOTAL", 7), "of 8 bytes"),
        "too many": refused(lambda: write_more("MAX_FILES", 2), "would hold 2 files"),
    }


def test_a_submission_of_records_alone_is_read(tmp_path: Path) -> None:
    assert len(submission.read(written(tmp_path)).records) == len(protocol("quick").seeds())


def test_without_any_one_guard_some_folder_goes_unrefused(folders: dict[str, Case]) -> None:
    assert len(folders) >= 30
    assert len(guards(submission)) >= 25
    assert unnoticed(submission, folders) == []


# ---------------------------------------------------------------- the manifest and all its records
def held(*changes: Callable[[list[Record]], Any], **said: Any) -> Submission:
    """Records, changed in place, under a manifest."""
    of = items()
    for change in changes:
        change(of)
    return Submission(
        Path(ID), manifest(items(), **said), {submission.record_name(x): x for x in of}
    )


def other(name: str, value: Any) -> Callable[[list[Record]], None]:
    """One record that differs from the others."""

    def change(of: list[Record]) -> None:
        of[-1] = replace(of[-1], **{name: value})

    return change


def all_on(task: str) -> Callable[[list[Record]], None]:
    def change(of: list[Record]) -> None:
        of[:] = [replace(item, task=task) for item in of]

    return change


def told(own: Submission, by: Callable[[Submission], Any], words: str) -> Case:
    return lambda: any(words in fault for fault in by(own))


def of_results(words: str, **changes: Any) -> Case:
    return lambda: any(
        words in x for x in verify.result_faults(replace(result(), **changes), SUITE)
    )


def of_records(words: str, **changes: Any) -> Case:
    own = held()
    item = replace(next(iter(own.records.values())), **changes)
    return lambda: words in verify.first_fault(own, item, SUITE)


SUITE = suite()
TASK = items()[0].task
SAME = {
    "config": {"lr": 0.5},
    "steps": 7,
    "paper": "another",
    "track": "model",
    "execution": "joint",
    "rankable": False,
    "dataset_sha256": "1" * 64,
}


def verify_cases(folder: Path) -> dict[str, Case]:
    manifest_faults, group_faults = verify._manifest_faults, verify._group_faults
    right = ends(TASK)
    swapped, wrong = replace(right, random=right.expert, expert=right.random), Ends(0, 1, 2)
    (folder / PLOT).write_text("<svg>")
    sign(folder)
    found: dict[str, Case] = {
        f"{name} differs": told(held(other(name, value)), group_faults, f"{name} is not the same")
        for name, value in SAME.items()
    }
    return found | {
        "a seed": told(held(lambda of: of.pop()), group_faults, "the protocol wants each of"),
        "code": told(held(other("code_sha256", "1" * 64)), group_faults, "code_sha256 is not"),
        "stray": told(
            held(files={f"checkpoint-{1:012}.safetensors": File(1, "")}),
            group_faults,
            "belongs to no record",
        ),
        "protocol": told(held(protocol="best"), manifest_faults, "unknown protocol 'best'"),
        "references": told(held(references={}), manifest_faults, "references are of []"),
        "no task": told(
            held(all_on("mpe/spraed-v1"), references={"mpe/spraed-v1": right}),
            manifest_faults,
            "references: unknown task",
        ),
        "no reference": told(
            held(all_on(BARE), references={BARE: right}), manifest_faults, "no committed reference"
        ),
        "swapped": told(held(references={TASK: swapped}), manifest_faults, "are swapped"),
        "wrong": told(held(references={TASK: wrong}), manifest_faults, "expert 1, expected"),
        "a drawing": told(submission.read(folder), verify.file_faults, "is no PNG file"),
        "level": of_results("level is 2", level=2),
        "result": of_results("a field of the run was changed", steps=1001),
        "record": of_records("level is 2", level=2),
    }


def test_the_honest_records_together_have_no_fault() -> None:
    own = held()
    assert [*verify._manifest_faults(own), *verify._group_faults(own)] == []


def test_without_any_one_guard_some_submission_goes_unrefused(tmp_path: Path) -> None:
    cases = verify_cases(written(tmp_path))
    assert len(guards(verify)) >= 12
    assert unnoticed(verify, cases) == []
