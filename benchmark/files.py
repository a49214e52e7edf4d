"""Writing files so that a crash, a full disk or a second writer never leaves half of one.

Every file of the suite is written to a temporary name in its own folder, flushed, fsynced, renamed,
and its folder fsynced.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.errors import UserError

_REASON = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where the file should be",
}

TEMPORARY = (
    ".tmp-"  # prefix of unfinished files; left-overs of killed writers can be deleted at any time
)


def write_error(
    path: Path | str,
    error: OSError,
    then: str = "the old file, if there was one, is untouched",
) -> UserError:
    """The one-sentence form of a failed write."""
    reason = _REASON.get(error.errno or 0, error.strerror or str(error))
    return UserError(f"cannot write {path}: {reason}; {then}.")


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path | str, *, exclusive: bool = False) -> Iterator[Path]:
    """Yield a temporary path; on a clean exit it becomes `path`, on any error it is removed.

    exclusive: publish by link, so that a `path` that exists already is kept and FileExistsError
    is raised.
    Raises UserError where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
    except OSError as error:
        raise write_error(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        if exclusive:
            os.link(temporary, path)
        else:
            os.replace(temporary, path)
        fsync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder of the same name elsewhere; on a clean exit it becomes `path`, on any
    error it is removed.

    Raises UserError where `path` exists, the disk is full or the folder cannot be written.
    """
    if path.exists():
        raise UserError(f"{path} is there already; it was left alone.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        around = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    except OSError as error:
        raise write_error(path, error) from error
    temporary = around / path.name
    try:
        temporary.mkdir(mode=0o755)
        yield temporary
        fsync_folder(temporary)
        os.rename(temporary, path)  # fails where another writer was first
        fsync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(around, ignore_errors=True)


def sweep(folder: Path, older_than: float) -> int:
    """Remove what killed writers left under a folder; returns how many files. Younger ones, in
    seconds, may belong to a writer at work.
    """
    swept = 0
    for path in folder.rglob(TEMPORARY + "*"):
        try:
            if time.time() - path.stat().st_mtime > older_than:
                path.unlink()
                swept += 1
        except OSError:  # its writer has just ended
            continue
    return swept


def write_bytes(path: Path | str, data: bytes, *, exclusive: bool = False) -> None:
    with atomic_path(path, exclusive=exclusive) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str, *, exclusive: bool = False) -> None:
    write_bytes(path, text.encode(), exclusive=exclusive)


def write_json(path: Path | str, value: Any, *, exclusive: bool = False) -> None:
    """Strict JSON (no NaN), keys in the order given, one trailing newline."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n", exclusive=exclusive)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
