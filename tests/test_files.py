"""Writes that fail leave the old file whole and say why in one sentence."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmark import checkpoint, files
from benchmark.errors import UserError


def test_a_write_that_raises_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})

    def half() -> None:
        with files.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, float("nan"))
    assert path.read_text() == '{\n "old": 1\n}\n'
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "no permission to write there"),
        (errno.EROFS, "the file system is read-only"),
    ],
)
def test_a_failed_fsync_is_told_with_its_reason(tmp_path, monkeypatch, code, words) -> None:
    path = tmp_path / "a"
    files.write_text(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=words):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*/file/a: "):
        files.write_text(tmp_path / "file" / "a", "")


def test_the_order_is_write_fsync_rename_fsync_of_the_folder(tmp_path, monkeypatch) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"
        calls.append(f"fsync {kind}")
        real_fsync(descriptor)

    def replace(a: str, b: str) -> None:
        calls.append("rename")
        assert Path(a).read_text() == "text"
        real_replace(a, b)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    files.write_text(tmp_path / "a", "text")
    assert calls == ["fsync file", "rename", "fsync folder"]


def test_exclusive_writes_never_replace(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "first", exclusive=True)
    with pytest.raises(FileExistsError):
        files.write_text(tmp_path / "a", "second", exclusive=True)
    assert (tmp_path / "a").read_text() == "first"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "a") as folder:
        (folder / "x").touch()
    with pytest.raises(UserError, match="is there already"), files.atomic_folder(tmp_path / "a"):
        pass
    with (
        pytest.raises(UserError, match="a file stands where a folder is needed"),
        files.atomic_folder(tmp_path / "a" / "x" / "b"),
    ):
        pass

    def second(folder: Path) -> None:
        with files.atomic_folder(folder) as temporary:
            (temporary / "mine").touch()
            folder.mkdir()  # another writer was first
            (folder / "theirs").touch()

    with pytest.raises(UserError, match="cannot write"):
        second(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "theirs", "x"]


def test_an_old_checkpoint_stays_until_the_new_one_has_been_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save_step(tmp_path, 1, {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(files, "sha256_file", lambda path: "of other bytes")
        with pytest.raises(UserError, match="does not read back as written"):
            checkpoint.save_step(tmp_path, 2, {"step": 2})
    assert checkpoint.load(checkpoint.path_of(tmp_path, 1)) == {"step": 1}
    checkpoint.save_step(tmp_path, 3, {"step": 3})
    assert list(tmp_path.iterdir()) == [checkpoint.path_of(tmp_path, 3)]


def test_a_really_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    import torch

    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    tmpfs = ["-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if mount is None or subprocess.run([mount, *tmpfs], capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        checkpoint.save_step(disk, 1, {"w": torch.ones(1_000)})
        with pytest.raises(UserError, match="the disk is full"):
            checkpoint.save_step(disk, 2, {"w": torch.ones(100_000)})
        (left,) = disk.iterdir()
        assert checkpoint.load(left)["w"].sum() == 1_000
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_checkpoints_hold_nested_states_bit_by_bit(tmp_path: Path) -> None:
    import numpy as np
    import torch

    state = {
        "optimiser": {"state": {0: {"step": torch.tensor(3.0), "m": torch.randn(2, 3)}}, "lr": 0.1},
        "rng": np.random.default_rng(0).bit_generator.state,
        "list": [1, 2.5, None, "x", True, torch.arange(3)],
        "empty": {},
    }
    path = tmp_path / "checkpoint-000000001.safetensors"
    checkpoint.save(path, state)
    back = checkpoint.load(path)
    assert back["rng"] == state["rng"]
    assert back["list"][:5] == state["list"][:5]
    assert torch.equal(back["optimiser"]["state"][0]["m"], state["optimiser"]["state"][0]["m"])
    assert back["empty"] == {}


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 64, b"<html>404</html>"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.safetensors is damaged or not one of this suite's"):
        checkpoint.load(path)
