"""Data in another order give other bits: a run on shuffled data is a run of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import datasets
from benchmark import checkpoint, files, runner
from benchmark.cli import retrain
from benchmark.cli.options_runs import Train, Verify
from benchmark.cli.train import plan
from benchmark.record import Record
from benchmark.train import Run
from leaderboard import blobs, verify
from leaderboard.soundness import identity
from leaderboard.summarise import labelled
from tests.conftest import TINY
from tests.records import record
from tests.submitting import suite


def run_of(backend: Any, out: Path) -> Run:
    return plan("bc", TINY, Train("bc", TINY, protocol="smoke", out=out, backend=backend))[0]


@pytest.fixture(scope="module")
def made(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """A record of each order, as if a clean checkout had made it."""
    found = {}
    for backend in ("ram", "shuffle"):
        out = tmp_path_factory.mktemp(backend)
        (item,) = runner.execute(run_of(backend, out), out / "records")
        clean = replace(item.provenance, dirty=False, commit="0" * 40)
        found[backend] = replace(item, provenance=clean, rankable=True)
    return found


def faults(item: Record) -> list[str]:
    """What verify says of a committed record, its data being those of the card."""
    card = datasets.card(TINY) | {"content_sha256": [item.dataset_sha256]}
    return list(verify.result_faults(item, replace(suite(), card=lambda dataset: card)))


def test_only_the_order_is_a_part_of_the_key(data_root: Path, tmp_path: Path) -> None:
    keys = {b: run_of(b, tmp_path).key for b in ("auto", "ram", "mmap", "shuffle")}
    assert keys["auto"] == keys["ram"] == keys["mmap"] != keys["shuffle"]
    assert "backend" not in run_of("ram", tmp_path).identity()


def test_a_record_says_the_order_and_its_key_can_be_computed_again(
    made: dict[str, Record],
) -> None:
    assert made["ram"].notes == {}
    assert made["shuffle"].notes == {"backend": "shuffle"}
    assert made["ram"].team_returns != made["shuffle"].team_returns
    for item in made.values():
        assert item.key == files.sha256(json.dumps(identity(item), sort_keys=True).encode())
        assert faults(item) == []


@pytest.mark.parametrize(
    ("backend", "notes", "words"),
    [
        ("shuffle", {}, "a field of the run was changed"),
        ("ram", {"backend": "shuffle"}, "a field of the run was changed"),
        ("shuffle", {"backend": "mmap"}, "notes.backend is 'mmap', expected shuffle"),
    ],
)
def test_a_changed_note_is_found(
    backend: str, notes: dict[str, str], words: str, made: dict[str, Record]
) -> None:
    assert words in faults(replace(made[backend], notes=notes))[0]


def test_a_checkpoint_says_the_order_that_its_record_hides(data_root: Path, tmp_path: Path) -> None:
    run = run_of("shuffle", tmp_path)
    (item,) = runner.execute(run, tmp_path / "records")
    path = checkpoint.latest(run.where)
    assert path is not None
    submission: Any = SimpleNamespace(blob=lambda name: path.read_bytes())
    assert list(blobs.check_checkpoint(submission, item, suite())) == []
    (fault,) = blobs.check_checkpoint(submission, replace(item, notes={}), suite())
    assert "is of a run with backend 'shuffle', the record says None" in fault


def test_both_orders_are_rows_of_their_own() -> None:
    shuffled = [record(seed=seed, notes={"backend": "shuffle"}) for seed in range(3)]
    usual = [record(seed=seed) for seed in range(3)]
    assert [label for label, _ in labelled(usual)] == ["bc"]
    rows = dict(labelled([*usual, *shuffled]))
    assert set(rows) == {"bc [backend=memory]", "bc [backend=shuffle]"}
    assert rows["bc [backend=shuffle]"] == shuffled


def test_a_retrained_run_reads_the_data_in_the_order_of_its_record(
    made: dict[str, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def note(arguments: list[str], plugin: Path | None, folder: Path, options: Verify) -> None:
        asked.append(arguments)
        runner.publish([made["shuffle"]], folder / "records")

    monkeypatch.setattr(retrain, "_limited", note)
    assert retrain.train(made["shuffle"], None, Verify()).key == made["shuffle"].key
    assert asked[0][asked[0].index("--backend") + 1] == "shuffle"
