"""No guard of checkpoints, traces and their replay is idle: each is taken out in turn, and
something forged then passes, or is refused by no such name.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmark import files, registry, trace
from benchmark.evaluate import exact
from leaderboard import blobs, replay, submission
from tests import test_verify, test_verify_blobs
from tests.conftest import TINY
from tests.guards import guards, refused, unnoticed
from tests.submitting import copied, faults, forged, record_files, suite
from tests.test_verify_blobs import change_state, change_trace, rewrite, weights

pytestmark = pytest.mark.slow  # most of it makes the two submissions and forges them
Case = Callable[[], object]
Forge = Callable[[Path], Any]


def changing(change: Callable[[dict[str, Any]], Any]) -> Forge:
    def forge(folder: Path) -> None:
        with forged(record_files(folder)[0]) as values:
            change(values)

    return forge


def table(*first: float) -> np.ndarray:
    """A policy table whose first probabilities are given and whose last one is the rest."""
    return np.array([[[*first, *[0.0] * (9 - len(first)), 1 - sum(first)]]])


# Of the submission without a policy table, beside those of `test_verify_blobs`
TRACES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda t: t.update(shape=np.ones((1, 3), np.int64)), "shape as integers"),
    (lambda t: t.update(act=np.zeros(9, np.float32)), "act is expected as bytes"),
    (lambda t: t.update(act=t["act"].reshape(1, -1)), "act is expected as bytes"),
    (lambda t: t.update(act=t["act"][:-4]), "not one for each of 10000"),
    (lambda t: t.update(act=np.append(t["act"], t["act"][:1])), "not one for each of 10000"),
    (lambda t: t.update(policy_table=table(0.5).astype(np.float16)), "its policy_table is"),
    (lambda t: t.update(policy_table=table(1.5)), "is no distribution"),
]


# ------------------------------------------------------- of the one with a checkpoint that is known
def not_finite(folder: Path) -> None:
    header, rest, name = weights(folder)
    start, _ = header[name]["data_offsets"]
    rest[start : start + 4] = np.float32(np.nan).tobytes()
    rewrite(folder, header, bytes(rest))


def cut_off(folder: Path) -> None:
    (path,) = folder.glob("checkpoint-*")
    path.write_bytes(path.read_bytes()[:-4])
    digest = files.sha256(path.read_bytes())
    changing(lambda values: values.update(checkpoint_sha256=digest))(folder)


def other_weights(folder: Path) -> None:
    header, rest, _ = weights(folder)
    for name, entry in header.items():
        if name.startswith("group/") and entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            scaled = np.float32(3) * np.frombuffer(bytes(rest[start:end]), np.float32)
            rest[start:end] = scaled.tobytes()
    rewrite(folder, header, bytes(rest))


def another_table(folder: Path) -> None:
    other = table(0.0, 0.0, 0.0, 1.0)
    found = exact(registry.task(TINY.replace("/medium", "")), other)
    change_trace(folder, lambda tensors: tensors.update(policy_table=other))
    changing(lambda values: values.update(exact=found))(folder)


KNOWN: list[tuple[Forge, str]] = [
    (not_finite, "is not finite"),
    (cut_off, "is damaged ("),
    (other_weights, "evaluated again: returns."),
    (other_weights, "evaluated again: exact.value"),
    (another_table, "and the policy table says"),
    (changing(lambda values: values["exact"].update(value=0.5)), "exact.value is 0.5"),
    (lambda folder: change_state(folder, lambda s: s.update(failed=[])), "is no checkpoint of"),
]


def direct(shipped: Path) -> dict[str, Case]:
    """What no file of these two submissions comes to."""
    own = submission.read(shipped)
    (item,) = own.records.values()
    task: Any = registry.task(item.task)
    gone = replace(item, status="failed", reason="boom", returns=[], team_returns=[])
    names = {f"t{i}": {} for i in range(submission.MAX_TENSORS + 1)}
    header = json.dumps(names | {"__metadata__": {"state": '{"identity": {}, "failed": {}}'}})
    many = len(header).to_bytes(8, "little") + header.encode()
    team = registry.task("mpe/spread-v1")
    short = trace.Trace(np.zeros((10, 2, 3, 2), np.float32))
    wide = trace.pack(trace.Trace(np.full((25, 2, 3, 2), 2, np.float32)))
    played: Any = SimpleNamespace(failed={str(item.seed): "boom"})

    def without_model() -> bool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(task), "model", lambda self: None)
            return "has no model" in next(blobs.check_trace(own, item, suite()), "")

    return {
        "many tensors": refused(lambda: blobs.header(many, "x"), "holds 4097 tensors"),
        "no tensors": refused(lambda: trace.unpack(b"", team.spec, 2, "x"), "no safetensors file"),
        "wide": refused(lambda: trace.unpack(wide, team.spec, 2, "x"), "outside of [-1, 1]"),
        "short": refused(lambda: trace.replay(team, short, range(2)), "ends at step 10"),
        "no model": without_model,
        "exact of a failure": lambda: any(
            "exact holds" in fault for fault in blobs.check_trace(own, gone, suite())
        ),
        "another reason": lambda: (
            "reason to fail is 'boom'" in next(replay.checkpoint_faults(task, item, played, 0), "")
        ),
    }


@pytest.fixture(scope="module")
def cases(
    foreign: Path, shipped: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Case]:
    forges = [(foreign, changing(change), words) for change, words in test_verify.RECORDS]
    forges += [
        (shipped, functools.partial(change_state, change=change), words)
        for change, words in test_verify_blobs.STATES
    ]
    forges += [
        (foreign, functools.partial(change_trace, change=change), words)
        for change, words in [*test_verify_blobs.TRACES, *TRACES]
    ]
    forges += [(shipped, forge, words) for forge, words in KNOWN]
    found = direct(shipped)

    def told(folder: Path, words: str) -> bool:
        return any(word in fault for fault in faults(folder) for word in words.split("|"))

    for number, (source, forge, words) in enumerate(forges):
        folder = copied(source, tmp_path_factory.mktemp("forged"))
        forge(folder)
        found[f"{number}: {words}"] = functools.partial(told, folder, words)
    return found


def test_without_any_one_guard_something_forged_goes_unrefused_or_unnamed(
    cases: dict[str, Case],
) -> None:
    for module, least in ((blobs, 20), (replay, 5), (trace, 20)):
        assert len(guards(module)) >= least
        assert unnoticed(module, cases) == [], module.__name__
