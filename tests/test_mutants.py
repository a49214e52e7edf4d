"""Damaged records and checkpoints, some hundreds of mutants; `make soak` tries many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import checkpoint
from benchmark.errors import UserError
from tests import mutants
from tests.mutants import Checkpoints, Records


@pytest.mark.parametrize("count", [400, pytest.param(3_000, marks=pytest.mark.slow)])
def test_no_mutant_of_a_checkpoint_loads_as_another_state(count: int, tmp_path: Path) -> None:
    trial = Checkpoints(tmp_path)
    for number in range(count):
        assert trial.load(number) in ("refused", "same"), f"mutant {number}"
    assert trial.counts["refused"] > 0.75 * count


def test_without_the_hash_a_flipped_bit_of_a_checkpoint_would_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the test above: safetensors itself notices no changed value."""
    monkeypatch.setattr(checkpoint, "_digest", lambda text, tensors: "any")
    monkeypatch.setattr(mutants, "mutant", lambda data, n: data[:-1] + bytes([data[-1] ^ n]))
    assert Checkpoints(tmp_path).load(1) == "other"


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
