"""Submissions for tests: made once a session, copied and forged by each test."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark import files
from benchmark.cli import board, main, submit
from benchmark.errors import UserError
from leaderboard import replay, submission, verify
from leaderboard.soundness import Suite
from tests.conftest import TINY

FIRST = 5_000_000  # of the fresh evaluation seeds in tests
NAME = "stranger"


def suite() -> Suite:
    return board.suite()


def submitted(
    algo: str, where: Path, *arguments: str, protocol: str = "smoke", dataset: str = TINY
) -> Path:
    """Train in this process, then `submit`, whose contract checks are a test of their own."""
    common = ["--protocol", protocol, "--out", str(where / "runs"), *arguments]
    main(["train", algo, dataset, *common, "--progress", "none"])  # 1 where a seed failed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit, "check_contract", lambda name, options: None)
        folders = ["--datasets", dataset, "--submissions", str(where / "submissions")]
        assert main(["submit", algo, *folders, *common]) == 0
    own = [x for x in submission.folders(where / "submissions") if x.name.startswith(f"{algo}-v")]
    return own[-1]


def stranger(where: Path, steps: int = 20) -> Path:
    """A plug-in as `make new` writes it, with few steps."""
    plugin = where / f"{NAME}.py"
    assert main(["new", NAME, "--plugin", str(plugin)]) == 0
    text = plugin.read_text()
    assert '"quick": 3_000' in text
    plugin.write_text(text.replace('"quick": 3_000', f'"quick": {steps}'))
    return plugin


def copied(folder: Path, where: Path) -> Path:
    return Path(shutil.copytree(folder, where / folder.name))


def record_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("record-*.json"))


def sign(folder: Path) -> None:
    """List what is there, as a forger would: hashes and sizes are right afterwards."""
    path = folder / submission.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"] = {
        file.name: {"bytes": file.stat().st_size, "sha256": files.sha256_file(file)}
        for file in sorted(folder.iterdir())
        if file.name not in (submission.MANIFEST, submission.VERIFICATION)
    }
    path.write_text(json.dumps(manifest))


@contextlib.contextmanager
def forged(path: Path) -> Iterator[dict[str, Any]]:
    """Change the JSON of a file and sign its folder."""
    values = json.loads(path.read_text())
    yield values
    path.write_text(json.dumps(values))
    if path.name != submission.MANIFEST:
        sign(path.parent)


def faults(folder: Path, level: int = 2) -> list[str]:
    """What verify says of a folder."""
    try:
        own = submission.read(folder)
    except UserError as error:
        return [str(error)]
    found = verify.faults(own, suite())
    if found or level < 2:
        return found
    return replay.verify_episodes(own, suite(), FIRST)[0]


Change = Callable[[dict[str, Any]], Any]
