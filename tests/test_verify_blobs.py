"""Checkpoints and traces: forged ones are refused, changed scores and actions are found."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from safetensors.torch import load as to_tensors

from benchmark import checkpoint, files, policy, record, registry, trace
from benchmark.envs.meanfield.solve import uniform_policy
from benchmark.errors import UserError
from benchmark.evaluate import exact
from leaderboard import blobs, replay, submission
from tests.conftest import TINY
from tests.records import record as made
from tests.submitting import (
    FIRST,
    copied,
    faults,
    forged,
    record_files,
    sign,
    stranger,
    submitted,
    suite,
)


# ------------------------------------------------------------------------------------ checkpoints
def change_state(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Forge a checkpoint's header, the record's hash of it, and the manifest."""
    (path,) = folder.glob("checkpoint-*")
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    state = json.loads(header["__metadata__"]["state"])
    change(state)
    header["__metadata__"]["state"] = json.dumps(state)
    rewrite(folder, header, data[8 + size :])


def rewrite(folder: Path, header: dict[str, Any], rest: bytes) -> None:
    """Write a checkpoint, whose own hash is right too, and sign it."""
    (path,) = folder.glob("checkpoint-*")

    def packed() -> bytes:
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + rest

    metadata = header["__metadata__"]
    metadata["sha256"] = checkpoint._digest(metadata["state"], to_tensors(packed()))
    path.write_bytes(packed())
    with forged(record_files(folder)[0]) as values:
        values["checkpoint_sha256"] = files.sha256(path.read_bytes())


STATES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda s: s.update(finished=False), "is of a run that is not finished"),
    (lambda s: s["identity"].update(steps=1), "of a run with steps 1"),
    (lambda s: s["identity"].update(extra=1), "and not that of the run in checkpoint-"),
    (
        lambda s: s.update(failed={"0": "its actions were not finite"}),
        "says that seed 0 failed",
    ),
    (lambda s: s.update(identity=[]), "is no checkpoint of this suite"),
    (lambda s: s.pop("failed"), "is no checkpoint of this suite"),
    (lambda s: s.pop("curves"), "curve is not the one in"),
    (lambda s: s.update(padding="x" * 2**20), "its header is"),
]


@pytest.mark.parametrize(("change", "words"), STATES)
def test_a_checkpoint_of_another_run_is_refused(change, words, shipped, tmp_path) -> None:
    folder = copied(shipped, tmp_path)
    change_state(folder, change)
    assert words in faults(folder)[0]


def weights(folder: Path) -> tuple[dict[str, Any], bytearray, str]:
    (path,) = folder.glob("checkpoint-*")
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = next(n for n, x in header.items() if n.startswith("group/") and x.get("dtype") == "F32")
    return header, bytearray(data[8 + size :]), name


def test_weights_that_are_not_finite_are_refused(shipped: Path, tmp_path: Path) -> None:
    folder = copied(shipped, tmp_path)
    header, rest, name = weights(folder)
    start, _ = header[name]["data_offsets"]
    rest[start : start + 4] = np.float32(np.nan).tobytes()
    rewrite(folder, header, bytes(rest))
    assert f"{name} is not finite" in faults(folder)[0]


def test_a_checkpoint_whose_tensors_are_cut_off_is_refused(shipped: Path, tmp_path: Path) -> None:
    folder = copied(shipped, tmp_path)
    (path,) = folder.glob("checkpoint-*")
    path.write_bytes(path.read_bytes()[:-4])
    with forged(record_files(folder)[0]) as values:
        values["checkpoint_sha256"] = files.sha256(path.read_bytes())
    assert f"{path.name} is damaged (" in faults(folder, level=1)[0]


def test_other_weights_do_not_give_the_same_returns(shipped: Path, tmp_path: Path) -> None:
    folder = copied(shipped, tmp_path)
    header, rest, _ = weights(folder)
    for name, entry in header.items():
        if name.startswith("group/") and entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            scaled = 3 * np.frombuffer(bytes(rest[start:end]), np.float32)
            rest[start:end] = scaled.astype(np.float32).tobytes()
    rewrite(folder, header, bytes(rest))
    assert faults(folder, level=1) == []
    found = faults(folder)
    for name in ("returns.", "team_returns.", "exact.value"):
        assert any(f"its checkpoint, evaluated again: {name}" in fault for fault in found)


def test_a_seed_that_fails_here_for_another_reason_is_found(shipped: Path) -> None:
    (item,) = submission.read(shipped).records.values()
    task: Any = registry.task(item.task)
    played: Any = SimpleNamespace(failed={str(item.seed): "its actions were not finite"})
    (fault,) = replay.checkpoint_faults(task, item, played, 0)
    assert "the seed's reason to fail is 'its actions were not finite', the record's ''" in fault


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(group={}),
        lambda state: state.pop("group"),
        lambda state: state.pop("global"),
        lambda state: state.update({"global": {"torch": 1}}),
    ],
)
def test_a_checkpoint_that_does_not_fit_its_code_is_refused(change, shipped, tmp_path) -> None:
    folder = copied(shipped, tmp_path)
    change_state(folder, change)
    assert faults(folder, level=1) == []
    assert "load_state_dict raised" in faults(folder)[0]


# ----------------------------------------------------------------------------------------- traces
def change_trace(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    path = sorted(folder.glob("trace-*"))[0]
    tensors = load(path.read_bytes())
    tensors = {name: value.copy() for name, value in tensors.items()}
    change(tensors)
    path.write_bytes(save(tensors))
    sign(folder)
    return path


def packed(data: bytes) -> np.ndarray:
    return np.frombuffer(zlib.compress(data), np.uint8)


TRACES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda t: t.update(act=packed(bytes(100 * 99))), "not one for each of 10000"),
    (lambda t: t.update(act=packed(bytes(100 * 100 + 1))), "not one for each of 10000"),
    (lambda t: t.update(act=packed(bytes(2**28))), "not one for each of 10000"),
    (lambda t: t.update(act=np.frombuffer(b"abc", np.uint8)), "cannot be inflated"),
    (lambda t: t.update(act=packed(b"\xff" * 10_000)), "holds action 255, expected 0 to 9"),
    (lambda t: t.update(shape=np.array([1, 50, 100])), "its shape is (1, 50, 100)"),
    (lambda t: t.update(shape=np.array([2, 100, 100])), "its shape is (2, 100, 100)"),
    (lambda t: t.update(shape=np.array([0, 100, 100])), "its shape is (0, 100, 100)"),
    (lambda t: t.update(shape=np.ones(3)), "shape as integers"),
    (lambda t: t.update(more=np.ones(3)), "it holds act, more, shape"),
    (lambda t: t.pop("act"), "it holds shape"),
    (lambda t: t.update(policy_table=np.full((1, 1, 10), 0.1)), "exact holds []"),
    (lambda t: t.update(policy_table=np.full((1, 1, 10), 0.2)), "is no distribution"),
    (lambda t: t.update(policy_table=np.full((1, 2, 10), 0.1)), "its policy_table is"),
]


@pytest.mark.parametrize(("change", "words"), TRACES)
def test_a_trace_that_is_none_is_refused(change, words, foreign, tmp_path) -> None:
    folder = copied(foreign, tmp_path)
    path = change_trace(folder, change)
    assert words in faults(folder)[0]
    assert path.name in faults(folder)[0] or "exact" in words


def test_a_policy_table_for_a_task_without_a_model_is_refused(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = submission.read(shipped)
    (item,) = own.records.values()
    monkeypatch.setattr(type(registry.task(item.task)), "model", lambda self: None)
    (fault,) = blobs.check_trace(own, item, suite())
    assert "holds a policy table, and meanfield/squeeze-n100-v1 has no model" in fault


def test_a_policy_table_that_was_not_played_is_refused(shipped: Path, tmp_path: Path) -> None:
    """Else a submitter would show another policy's exploitability."""
    folder = copied(shipped, tmp_path)
    (path,) = record_files(folder)
    task = registry.task(record.read(path).task)
    table = np.zeros((1, 1, 10))
    table[..., 3] = 1.0
    change_trace(folder, lambda tensors: tensors.update(policy_table=table))
    with forged(path) as values:
        values["exact"] = exact(task, table)
    assert faults(folder, level=1) == []
    assert "and the policy table says" in faults(folder)[0]


def test_of_100_records_every_changed_score_and_action_is_found(foreign: Path) -> None:
    own = submission.read(foreign)
    rng = np.random.default_rng(0)
    items = list(own.records.values())
    spec = registry.task(items[0].task).spec
    missed = 0
    for n in range(100):
        item = items[n % len(items)]
        name = submission.record_name(item)
        assert list(replay.replay_faults(own, item)) == []  # as it is
        if n % 2:  # a score, changed wherever it stands
            e = int(rng.integers(len(item.returns)))
            returns = [list(row) for row in item.returns]
            returns[e][0] += 1e-9 * (-1) ** n
            team = [row[0] for row in returns]
            changed = replace(item, returns=returns, team_returns=team)
            own.records[name] = changed
            missed += not list(replay.replay_faults(own, changed))
            own.records[name] = item
        else:
            kept = trace.unpack(own.blob(submission.trace_name(item)), spec, 100, "trace")
            act = kept.act.copy()
            place = tuple(int(rng.integers(size)) for size in act.shape)
            act[place] = (act[place] + 1 + rng.integers(8)) % 10
            seeds = range(10_000, 10_100)
            played = trace.replay(registry.task(item.task), trace.Trace(act), seeds)
            missed += not list(replay.differences(registry.task(item.task), item, played, 0, True))
    assert missed == 0


def test_a_replay_takes_no_longer_than_an_evaluation(shipped: Path) -> None:
    own = submission.read(shipped)
    (item,) = own.records.values()
    task, cls = registry.task(item.task), suite().algorithms.cls(item.algo)
    state = checkpoint.load(shipped / submission.checkpoint_name(item))
    seeds = range(item.first_episode_seed, item.first_episode_seed + len(item.returns))

    def seconds(call: Callable[[], Any]) -> float:
        begun = time.process_time()
        call()
        return time.process_time() - begun

    replayed = min(seconds(lambda: list(replay.replay_faults(own, item))) for _ in range(5))
    played = min(seconds(lambda: policy.play(state, cls, task, seeds)) for _ in range(5))
    assert replayed < 1.2 * played


def test_a_trace_that_ends_early_is_refused() -> None:
    task = registry.task("mpe/spread-v1")
    short = trace.Trace(np.zeros((10, 2, 3, 2), np.float32))
    with pytest.raises(UserError, match="the trace ends at step 10"):
        trace.replay(task, short, range(10_000, 10_002))


def test_a_trace_holds_what_fits() -> None:
    assert trace.length(registry.task(TINY.replace("/medium-v1", "-v1")).spec, 1000) == 1000
    assert trace.length(registry.task("meanfield/sis-n1000-v1").spec, 100) == 20
    assert trace.length(registry.task("meanfield/queue-n1000000-v1").spec, 100) == 0


# ------------------------------------------------------------------------------- another machine
def test_on_another_machine_small_differences_pass_and_large_ones_do_not(foreign: Path) -> None:
    own = submission.read(foreign)
    item = next(iter(own.records.values()))
    for by, machine, expected in (
        (1e-9, item.provenance.cpu, False),
        (1e-9, "another", True),
        (0.5, "another", False),
    ):
        team = [value + by for value in item.team_returns]
        there = replace(
            item,
            team_returns=team,
            returns=[[value] for value in team],
            provenance=replace(item.provenance, cpu=machine),
        )
        assert (not list(replay.replay_faults(own, there))) == expected, (by, machine)


# ------------------------------------------------------------------------------------ other sizes
def test_of_a_long_task_the_episodes_that_were_seen_count(
    foreign: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(trace, "RAW_BYTES", 5_000)  # 50 of the 100 episodes fit
    folder = copied(foreign, tmp_path)
    assert "its shape is (1, 100, 100), expected (1, 50, 100)" in faults(folder)[0]
    spec = registry.task(TINY.replace("/medium", "")).spec
    monkeypatch.setattr(trace, "RAW_BYTES", 10_000)
    for path in folder.glob("trace-*"):
        act = trace.unpack(path.read_bytes(), spec, 100, "trace").act
        path.write_bytes(trace.pack(trace.Trace(act[:, :50])))
    monkeypatch.setattr(trace, "RAW_BYTES", 5_000)
    sign(folder)
    found, seen = replay.verify_episodes(submission.read(folder), suite(), FIRST)
    assert found == []
    assert {(x.level, x.how, len(x.team_returns)) for x in seen.values()} == {(2, "replayed", 50)}
    with forged(record_files(folder)[0]) as values:
        values["returns"][49][0] += 1e-9
        values["team_returns"][49] = values["returns"][49][0]
    assert "returns.49" in faults(folder)[0]


def test_without_a_trace_foreign_code_stays_at_level_1(
    foreign: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(trace, "RAW_BYTES", 50)  # no episode fits
    folder = copied(foreign, tmp_path)
    assert "belongs to no episode" in faults(folder)[0]
    for path in folder.glob("trace-*"):
        path.unlink()
    sign(folder)
    found, seen = replay.verify_episodes(submission.read(folder), suite(), FIRST)
    assert found == []
    assert {(x.level, x.how, len(x.team_returns)) for x in seen.values()} == {(1, "checked", 100)}


@pytest.mark.parametrize("value", [1.01, -2.0, np.nan, np.inf])
def test_actions_out_of_range_are_refused(value: float) -> None:
    spec = registry.task("mpe/spread-v1").spec
    for kind in (np.float32, np.float64):
        act = np.zeros((25, 4, 3, 2), kind)
        assert trace.unpack(trace.pack(trace.Trace(act)), spec, 4, "trace").act.dtype == kind
        act[3, 2, 1, 0] = value
        with pytest.raises(UserError, match=r"outside of \[-1, 1\]"):
            trace.unpack(trace.pack(trace.Trace(act)), spec, 4, "trace")


def test_too_many_tensors_are_refused() -> None:
    many = {str(n): np.zeros(1) for n in range(submission.MAX_TENSORS + 1)}
    state = json.dumps({"identity": {}, "failed": {}})
    with pytest.raises(UserError, match="holds 4097 tensors, at most 4096"):
        blobs.header(save(many, metadata={"state": state}), "mine")
    del many["0"]
    assert len(blobs.header(save(many, metadata={"state": state}), "mine")[0]) == 4096


# -------------------------------------------------------------------------------- failed seeds
@pytest.mark.slow
def test_a_seed_that_failed_is_submitted_and_counts(data_root: Path, tmp_path: Path) -> None:
    plugin = stranger(tmp_path)
    text = plugin.read_text()
    assert "loss.backward()" in text
    text = text.replace(
        "loss.backward()", "loss = loss / (self.seeds[0] != 1)\n        loss.backward()"
    )
    plugin = tmp_path / "unlucky.py"
    plugin.write_text(text)
    folder = submitted("unlucky", tmp_path, "--plugin", str(plugin), protocol="quick")
    own = submission.read(folder)
    assert [x.failed for x in sorted(own.records.values(), key=lambda x: x.seed)] == [0, 1, 0]
    assert len(list(folder.glob("trace-*"))) == 2
    found, seen = replay.verify_episodes(own, suite(), FIRST)
    assert found == []
    assert {x.level for x in seen.values()} == {2}
    (bad,) = (path for path in record_files(folder) if record.read(path).failed)
    with forged(bad) as values:
        values["reason"] = "bad luck"
    assert "says that seed 1 failed" in faults(folder)[0]
    for path in folder.glob(f"*{bad.name[7:19]}*"):
        path.unlink()
    sign(folder)
    assert "has the seeds [0, 2]" in faults(folder)[0]


def test_records_from_before_a_metric_stay_valid_and_a_wrong_one_is_found() -> None:
    task = registry.task("meanfield/beach-bar-n16-v1")
    model = task.model()
    assert model is not None
    found = exact(task, uniform_policy(model))
    older = {name: x for name, x in found.items() if name != "population_error"}
    for values, words in (
        (found, []),
        (older, []),
        ({**found, "population_error": 0.1}, ["exact.population_error is 0.1"]),
        ({"value": found["value"]}, ["exact holds ['value']"]),
    ):
        item = made(task=task.spec.id, dataset="", exact=values)
        said = list(blobs.exact_faults(task, item, found))
        assert len(said) == len(words)
        assert all(word in one for word, one in zip(words, said, strict=True))


def test_exact_metrics_without_a_trace_wait_for_the_replay() -> None:
    """A million agents: no episode fits in a trace."""
    submitted: Any = SimpleNamespace(manifest=SimpleNamespace(files={}))
    item = made(task="meanfield/resource-n1000000-v1", dataset="", exact={"value": 0.5})
    assert list(blobs.check_trace(submitted, item, suite())) == []
    failed = replace(item, status="failed", reason="it stopped", team_returns=[])
    assert "exact holds ['value']" in next(blobs.check_trace(submitted, failed, suite()))
