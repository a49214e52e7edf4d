"""Data that another matrix kernel made: other last bits, and records that count all the same.

NumPy's OpenBLAS takes the kernel of the processor that it finds, or of the one that it is told of.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import datasets
from datasets import cardfile
from tests.conftest import TINY, bench, enter
from tests.submitting import faults, submitted

OLDEST = "Nehalem"  # any x86-64 processor runs its kernel; others take their own


@pytest.mark.slow
def test_records_on_data_of_another_kernel_are_accepted_once_the_card_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = Path(shutil.copytree(cardfile.CARDS, tmp_path / "cards"))
    monkeypatch.setattr(cardfile, "CARDS", cards)
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OPENBLAS_CORETYPE", OLDEST)
    done = bench("data", TINY)  # held against the committed card
    assert done.returncode == 0, done.stderr
    card = datasets.card(TINY) | {"content_sha256": ["0" * 64]}  # whatever this kernel makes
    cardfile.write_card(cardfile.card_path(TINY), card)
    assert datasets.rankable(datasets.load(TINY))  # by its recipe and statistics
    with pytest.raises(AssertionError):
        submitted("bc", tmp_path)
    assert f"make data DATASET={TINY} ARGS=--record lists it" in capsys.readouterr().err
    enter(TINY)
    assert faults(submitted("bc", tmp_path)) == []
