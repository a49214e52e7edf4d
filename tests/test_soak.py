"""The soak's own checks notice what they are for."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import psutil
import pytest

from benchmark import files, record
from tests import soak
from tests.records import runs


def test_a_record_that_is_gone_or_replaced_is_noticed(tmp_path: Path) -> None:
    paths = [record.write(item, tmp_path) for item in runs("bc", [50.0, 51.0])]
    before = soak.state_of(tmp_path)
    assert len(before) == 2
    record.write(runs("omar", [40.0])[0], tmp_path)
    (paths[0].parent / ".tmp-left-over.json").write_text("{")
    assert soak.lost(before, soak.state_of(tmp_path)) == []
    paths[0].write_text(paths[1].read_text())
    paths[1].unlink()
    assert len(soak.lost(before, soak.state_of(tmp_path))) == 2


def test_the_compared_board_shows_returns_and_no_times() -> None:
    first = runs("bc", [50.0, 51.0])
    slower = dataclasses.replace(first[0].cost, update_ms=9.0, peak_mb=1.0)
    same = [dataclasses.replace(first[0], cost=slower), first[1]]
    assert soak.board_text(first) == soak.board_text(same)
    assert soak.essence(first[0]) == soak.essence(same[0])
    other = runs("bc", [50.5, 51.0])
    assert soak.board_text(first) != soak.board_text(other)
    assert soak.essence(first[0]) != soak.essence(other[0])


def test_the_part_that_had_least_time_has_the_next_turn() -> None:
    class Part:
        def __init__(self, seconds: float) -> None:
            self.seconds, self.turns = seconds, 0

        def turn(self) -> None:
            self.turns += 1
            time.sleep(self.seconds)

    parts = [Part(0.03), Part(0.01)]
    for _ in soak.turns(parts, time.monotonic() + 0.4):
        pass
    assert parts[1].turns > 1.5 * parts[0].turns > 0


def test_every_kind_of_file_is_damaged(tmp_path: Path) -> None:
    counts = soak.fuzz(tmp_path, first=0, minutes=0.02)
    assert counts.pop("process") == {}  # of so short a life nothing is said
    assert set(counts) == {"datasets_working", "datasets_shipping", "records", "checkpoints"}
    assert all(found["mutants"] > 0 and found["refused"] > 0 for found in counts.values())


def test_a_finding_ends_the_soak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(soak.Checkpoints, "load", lambda self, number: "other")
    with pytest.raises(SystemExit, match="mutant 0 of checkpoints is other"):
        soak.fuzz(tmp_path, first=0, minutes=1.0)


def test_a_process_that_grows_or_leaves_files_open_is_noticed() -> None:
    def life(memory: list[float], opened: list[int]) -> soak.Life:
        made = soak.Life(psutil.Process())
        made.look()
        assert made.seen[0][0] > 10e6
        assert made.report() == {}  # too short
        made.seen = [(round(1e6 * mb), n) for mb, n in zip(memory, opened, strict=True)]
        return made

    n = 3 * soak.FEW
    found = life([50 + i / n for i in range(n)], [9] * n).report()
    assert found["memory_grew"] == pytest.approx(2 / 3 / 50.3, rel=0.1)
    assert found["open_files"] == 9
    with pytest.raises(SystemExit, match="memory grew by 6"):
        life([50 + 5 * i / n for i in range(n)], [9] * n).report()
    with pytest.raises(SystemExit, match="3 more files are open"):
        life([50.0] * n, [9] * (2 * soak.FEW) + [12] * soak.FEW).report()
    life([50.0] * n, [9] * (2 * soak.FEW) + [11] * soak.FEW).report()
    life([50.0] * n, [9] * (n - 1) + [12]).report()  # open for a moment


def test_temporary_files_are_counted(tmp_path: Path) -> None:
    out, tmp = tmp_path / "out" / "deep", tmp_path / "tmp"
    for folder in (out, tmp):
        folder.mkdir(parents=True)
    (out / "record.json").write_bytes(bytes(100))
    (out / f"{files.TEMPORARY}a").write_bytes(bytes(20))
    (tmp / "any").write_bytes(bytes(3))
    assert soak.temporary_bytes(tmp_path / "out", tmp) == 23
