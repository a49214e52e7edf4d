"""Random records, checkpoints and traces: refused in one sentence or accepted, never a crash.

`OFFLINE_MARL_FUZZ=20000 pytest -m slow tests/test_verify_fuzz.py` tries 20,000 records (100 s).
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark import record, registry, trace
from benchmark.errors import UserError
from leaderboard import blobs, submission, verification, verify
from tests import records as made_up
from tests.submitting import suite

COUNT = int(os.environ.get("OFFLINE_MARL_FUZZ", "3000"))  # records, in the slow test
COMMON: dict[str, Any] = {
    "database": None,
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}
SMALL = made_up.record(protocol_name="smoke")
PLAIN = json.loads(record.to_json(SMALL))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "bc", "quick", "a/b/c-v1", "meanfield/squeeze-n9999999999-v1", "../x"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(value, dict):
        return found + [place for key in value for place in places(value[key], (*path, key))]
    if isinstance(value, list):
        return found + [p for i in range(min(len(value), 3)) for p in places(value[i], (*path, i))]
    return found


PLACES = places(PLAIN)


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """A record's JSON in which some places hold something else, or a character does."""
    values = copy.deepcopy(PLAIN)
    for path in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
        inner = values
        try:
            for part in path[:-1]:
                inner = inner[part]
            inner[path[-1]] = draw(VALUES)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    text = json.dumps(values)
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + draw(st.text(max_size=3)) + text[at + draw(st.integers(0, 3)) :]
    return text


def check_sentence(text: str) -> None:
    assert "mine.json" in text
    assert "\n" not in text


def look(text: str) -> None:
    try:
        item = record.parse(text, "mine.json")
    except UserError as error:
        check_sentence(str(error))
        return
    again = record.to_json(item)
    assert record.to_json(record.parse(again)) == again
    try:
        submission.check_texts(json.loads(again), "mine.json")
        item.path(Path("/nowhere"))
    except (UserError, TypeError):
        return
    own = submission.Submission(
        Path("/nowhere/bc-v1"),
        submission.Manifest("bc-v1", "", "", item.protocol, "", {}, {}),
        {submission.record_name(item): item},
    )
    assert verify.first_fault(own, item, SUITE), "it has no checkpoint"


SUITE = suite()


@settings(max_examples=300, **COMMON)
@given(mutants())
def test_a_random_record_is_refused_or_is_one(text: str) -> None:
    look(text)


@pytest.mark.slow
@settings(max_examples=COUNT, **COMMON)
@given(mutants())
def test_many_random_records_are_refused_or_are_some(text: str) -> None:
    look(text)


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes of a file changed, or its end taken away."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        # Half of the changes in the header, where most of what can go wrong is said
        at = int(rng.integers(min(len(data), 300) if rng.random() < 0.5 else len(data)))
        changed[at] = int(rng.integers(256))
    return bytes(changed[: int(rng.integers(len(data)))] if rng.random() < 0.1 else changed)


def test_random_bytes_in_traces_and_checkpoints_are_refused_or_are_some(
    foreign: Path, shipped: Path
) -> None:
    rng = np.random.default_rng(0)
    own = submission.read(shipped)
    (item,) = own.records.values()
    spec = registry.task(item.task).spec
    traced = own.blob(submission.trace_name(item))
    held = own.blob(submission.checkpoint_name(item))
    verified = json.dumps({"submission": "a-v1", "history": [], "schema": 1}).encode()
    for _ in range(500):
        for read, data in (
            (lambda x: trace.unpack(x, spec, len(item.team_returns), "mine.json"), traced),
            (lambda x: blobs.header(x, "mine.json"), held),
            (lambda x: list(blobs._not_finite(x, "mine.json")), held),
            (lambda x: verification.parse(x, "mine.json"), verified),
        ):
            try:
                read(flipped(data, rng))
            except UserError as error:
                check_sentence(str(error))


def test_absurd_but_well_typed_records_are_refused(foreign: Path) -> None:
    own = submission.read(foreign)
    name, item = next(iter(own.records.items()))
    for change in (
        {"team_returns": [1e308] * 100},
        {"returns": [[1e308]] * 100, "team_returns": [-1e308] * 100},
        {"seed": 10**30},
        {"steps": 10**30},
        {"group": []},
        {"task": "meanfield/squeeze-n99999999999999999999-v1"},
        {"dataset": "a" * 400},
        {"config": {"width": 10**12}},
    ):
        bad = replace(item, **change)  # type: ignore[arg-type]
        own.records[name] = bad
        assert verify.first_fault(own, bad, SUITE), change
