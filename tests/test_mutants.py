"""Damaged records and checkpoints, some hundreds of mutants; `make soak` tries many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import checkpoint
from benchmark.errors import UserError
from tests.mutants import Checkpoints, Records


def test_no_mutant_of_a_checkpoint_loads_as_another_state(tmp_path: Path) -> None:
    trial = Checkpoints(tmp_path)
    for number in range(400):
        assert trial.load(number) in ("refused", "same"), f"mutant {number}"
    assert trial.counts["refused"] > 300


def test_a_checkpoint_without_its_hash_is_refused(tmp_path: Path) -> None:
    trial = Checkpoints(tmp_path)
    trial.path.write_bytes(trial.content.replace(b'"sha256"', b'"sha257"'))
    with pytest.raises(UserError, match=r"checkpoint\.safetensors is damaged"):
        checkpoint.load(trial.path)


def test_mutants_of_a_record_are_refused_or_valid_and_written_alike(tmp_path: Path) -> None:
    trial = Records(tmp_path)
    for number in range(300):
        assert trial.load(number) != "refused at length", f"mutant {number}"
    assert trial.counts["refused"] > 150
