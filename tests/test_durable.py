"""What is written survives: the order of every write, and full disks at many points of a run."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import checkpoint, files, record, runner
from benchmark.cli import main
from benchmark.errors import UserError
from benchmark.leases import Leases
from benchmark.train import Run
from tests import dataset_files
from tests.test_runner import final, make_run, same

# Held open while it is locked, and lines that are appended: the states that count are elsewhere.
PLAIN = {"lock", "losses.jsonl"}


class Order:
    """Follows what the system is asked: a file gets its name after its content was synced, and the
    folder is synced after the name was given.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.synced: set[tuple[int, int, int]] = set()  # inode, size, time of the last write
        self.named: set[int] = set()  # inodes that were given a name after that
        self.faults: list[str] = []
        self.folders: dict[int, str] = {}  # inode -> what was named in it and is not synced yet
        self.fsync = os.fsync
        patch.setattr(os, "fsync", self.sync)
        for name in ("replace", "rename", "link"):
            patch.setattr(os, name, self.naming(getattr(os, name)))

    @staticmethod
    def content(found: os.stat_result) -> tuple[int, int, int]:
        return found.st_ino, found.st_size, found.st_mtime_ns

    def sync(self, descriptor: int) -> None:
        self.fsync(descriptor)
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self.folders.pop(found.st_ino, None)
        else:
            self.synced.add(self.content(found))

    def naming(self, real: Any) -> Any:
        def call(source: Any, target: Any) -> None:
            found = os.stat(source)
            if not stat.S_ISDIR(found.st_mode):
                if self.content(found) not in self.synced:
                    self.faults.append(f"{target} was named before it was synced")
                self.named.add(found.st_ino)
            real(source, target)
            self.folders[os.stat(Path(target).parent).st_ino] = str(target)

        return call

    def unsafe(self, root: Path) -> list[str]:
        """Everything under a folder that was not written in the right order."""
        plain = [
            f"{path} was written under its own name"
            for path in root.rglob("*")
            if path.is_file() and path.name not in PLAIN and path.stat().st_ino not in self.named
        ]
        late = [f"the folder of {name} was not synced" for name in self.folders.values()]
        return self.faults + plain + late


def test_every_file_is_synced_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    order = Order(monkeypatch)
    run = make_run(tmp_path / "runs", "bc")
    (made, *_) = runner.execute(run, tmp_path / "records", checkpoint_seconds=0.0)
    runner.fail(make_run(tmp_path / "runs", "bc", steps=31), "boom", tmp_path / "records")
    dataset_files.write(tmp_path / "data" / "one.hdf5")
    leases = Leases(tmp_path / "claims")
    assert leases.take("job")
    leases.note("job", "boom")
    leases.close()
    for words in ("leaderboard --format csv --out {}/board.csv", "site --out {}/page/index.html"):
        assert main([*words.format(tmp_path).split(), "--records", str(tmp_path / "records")]) == 0
    with files.atomic_folder(tmp_path / "folder") as folder:
        files.write_bytes(folder / "blob", b"1")
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds >= {".safetensors", ".json", ".hdf5", ".csv", ".html"}
    assert order.unsafe(tmp_path) == []
    (tmp_path / "records" / "by hand.json").write_text(record.to_json(made))
    assert len(order.unsafe(tmp_path)) == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    tmpfs = ["-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if mount is None or subprocess.run([mount, *tmpfs], capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def told(run: Run, records: Path) -> str | None:
    """Why a run could not go on; None where it could."""
    try:
        runner.execute(run, records, checkpoint_seconds=0.0)
    except UserError as error:
        return str(error)
    return None


def test_a_disk_that_gets_full_at_any_point_of_a_run_harms_no_earlier_result(disk: Path) -> None:
    first = make_run(disk / "runs", "bc", steps=3)
    records = disk / "records"
    runner.execute(first, records)
    kept, state = record.read_all([records]), final(first)
    later = make_run(disk / "runs", "bc", steps=4)
    full = 0
    for free in np.linspace(0, 1_500_000, 30).astype(int):
        usage = os.statvfs(disk)
        filler = disk / "filler"
        filler.write_bytes(bytes(max(0, usage.f_bavail * usage.f_frsize - int(free))))
        if (said := told(later, records)) is not None:
            assert "the disk is full" in said
            full += 1
        filler.unlink()
        own = [item for item in record.read_all([records]) if item.key == first.key]
        assert own == kept
        assert same(final(first), state) == []
        assert not list(disk.rglob(files.TEMPORARY + "*"))
        shutil.rmtree(later.where, ignore_errors=True)
        for path in runner.record_paths(later, records):
            path.unlink(missing_ok=True)
    assert 10 <= full < 30
    assert runner.execute(later, records)  # there is room again
    assert checkpoint.latest(later.where)
