"""No guard of a record's reader and of its soundness is idle: each is taken out in turn, and a
malformed or forged record is then refused no more, or by no such name.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import datasets
from benchmark import files, provenance, record, registry, strict
from benchmark.errors import UserError
from benchmark.protocol import protocol
from benchmark.record import Record
from leaderboard import soundness, submission, verify
from leaderboard.soundness import identity
from tests import test_verify
from tests.conftest import TINY
from tests.guards import guards, instead, refused, unnoticed
from tests.records import record as made_record
from tests.submitting import Change, suite
from tests.test_verify import H, put

Case = Callable[[], object]
NAME = "mine.json"
SUITE = suite()
CARD = datasets.card(TINY)


# ------------------------------------------------------------------------------- honest records
def honest(algo: str = "stranger", protocol_name: str = "quick", **changes: Any) -> Record:
    """A record of no run at all that reads like one of a submission."""
    rule = protocol(protocol_name)
    known: dict[str, Any] = {
        "group": list(rule.seeds()[: rule.group]),
        "task": CARD["task"],
        "dataset": TINY,
        "dataset_sha256": CARD["content_sha256"][0],
        "groups": [part.name for part in registry.task(CARD["task"]).spec.groups],
        "config": {"lr": 0.001},
        "curve": {"step": [0.0, 1000.0], "loss": [0.5, 0.25]},
    }
    return made_record(algo, protocol_name=protocol_name, **(known | changes))


def floor() -> Record:
    """Of an algorithm whose very code this checkout has."""
    cls = SUITE.algorithms.cls("bc")
    variant = cls.variants["default"]
    config, steps = variant.resolve(CARD["task"], "quick")
    return honest(
        "bc",
        code_sha256=provenance.code_sha256(cls),
        paper=cls.paper,
        execution=variant.execution,
        config=json.loads(json.dumps(dataclasses.asdict(cls.Config(**config)))),
        steps=steps,
        tuning=variant.tuned(CARD["task"]),
    )


def result() -> Record:
    """A committed one, which has no checkpoint beside it and whose key is its run's."""
    item = honest()
    return dataclasses.replace(
        item, key=files.sha256(json.dumps(identity(item), sort_keys=True).encode())
    )


def submitted(text: str, of: Record) -> str:
    """The first thing that is wrong with a record as part of a submission, under the name that the
    honest one has.
    """
    try:
        item = record.parse(text, NAME)
    except UserError as error:
        return str(error)
    manifest = submission.Manifest(f"{of.algo}-v1", "", "", of.protocol, "", {}, {})
    own = submission.Submission(Path(), manifest, {submission.record_name(of): item})
    told = (verify._told(check, own, item, SUITE) for check in soundness.RECORD_CHECKS)
    return next((fault for faults in told for fault in faults), "accepted")


def committed(text: str, of: Record) -> str:
    return next(verify.result_faults(record.parse(text, NAME), SUITE), "accepted")


@pytest.mark.parametrize("item", [honest(), honest(protocol_name="full"), floor()])
def test_the_honest_records_are_accepted(item: Record) -> None:
    assert submitted(record.to_json(item), item) == "accepted"


def test_the_honest_result_is_accepted() -> None:
    assert committed(record.to_json(result()), result()) == "accepted"


# ------------------------------------------------------------------------------ malformed, forged
def forged(
    change: Change, words: str, item: Record, look: Callable[[str, Record], str] = submitted
) -> Case:
    values = json.loads(record.to_json(item))
    change(values)
    text = json.dumps(values)
    return lambda: words in look(text, item)


def all_of(*changes: Change) -> Change:
    def change(values: dict[str, Any]) -> None:
        for each in changes:
            each(values)

    return change


FAILED = all_of(put("status", "failed"), put("reason", "boom"))
MORE: list[tuple[Change, str]] = [
    (put("team_returns", [1.0]), "1 team returns for 100 episodes"),
    (put("outcomes", {"win": [1.0]}), "its outcomes are not one value for each"),
    (put("code_sha256", "x" * 64), "expected a sha256"),
    (put("dataset", "mpe/spread/medium-v1"), "is data of mpe/spread-v1"),
    (all_of(FAILED, put("returns", [])), "returns are of 0 episodes"),
    (all_of(FAILED, put("team_returns", [])), "returns are of 100 episodes"),
    (put("curve", {"step": [0, 5, 2, 9]}), "curve.step does not rise"),
    (put("curve", {"step": [0, 2000]}), "curve.step does not rise"),
]
COMMITTED: list[tuple[Change, str]] = [
    (put("key", H), "key is '000000000000'"),
    (put("steps", 1001), "a field of the run was changed"),
    (put("protocol_version", 2), "protocol_version is 2"),
    (put("seed", 77), "seed is 77, which is not in its group"),
    (put("provenance.dirty", True), "not that of a commit"),
    (put("provenance.commit", ""), "not that of a commit"),
]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """The malformed and forged records of `test_verify` that no run is needed for, and more."""
    item, whole, where = honest(group=[0]), record.to_json(honest()), tmp_path_factory.mktemp("r")

    def text(change: Callable[[str], str], words: str) -> bool:
        return words in submitted(change(whole), item).lower()

    found: dict[str, Case] = {
        f"text {i}": functools.partial(text, *case) for i, case in enumerate(test_verify.TEXTS)
    }
    every = [forged(change, words, item) for change, words in test_verify.RECORDS]
    found |= {f"record {i}": case for i, case in enumerate(every) if case()}
    found |= {f"more: {i}": forged(x, words, item) for i, (x, words) in enumerate(MORE)}
    found |= {
        f"committed: {i}": forged(x, words, result(), committed)
        for i, (x, words) in enumerate(COMMITTED)
    }
    other = list(protocol("full").seeds())[-protocol("full").group :]
    found |= {
        "a floor": forged(put("code_sha256", H), "a floor of every board", floor()),
        "a budget": forged(put("paper", "none"), "the code of bc says", floor()),
        "group": forged(put("group", other), "group is", honest(protocol_name="full")),
        "no file": refused(lambda: record.read(where / "none"), "cannot read record"),
        "long": refused(
            lambda: record.write(honest(notes={"a": "x" * record.MAX_BYTES}), where), "bytes long"
        ),
    }
    return found


@pytest.mark.parametrize(("module", "least"), [(strict, 7), (record, 5), (soundness, 45)])
def test_without_any_one_guard_some_record_goes_unrefused_or_unnamed(
    module: types.ModuleType, least: int, cases: dict[str, Case]
) -> None:
    assert len(cases) >= 80
    assert len(guards(module)) >= least
    assert unnoticed(module, cases) == []


@pytest.mark.parametrize(
    ("old", "new"), [('extra="forbid"', 'extra="ignore"'), ("strict=True", "strict=False")]
)
def test_the_readers_settings_are_needed(old: str, new: str, cases: dict[str, Case]) -> None:
    record._adapter.cache_clear()
    try:
        with instead(strict, old, new):
            assert not all(case() for case in cases.values())
    finally:
        record._adapter.cache_clear()
