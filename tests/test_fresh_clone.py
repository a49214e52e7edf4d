"""The README's first command, typed by a stranger: a fresh clone, no environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What make and pip would inherit from the test's own environment, and a stranger would not have.
INHERITED = (
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "MAKEFLAGS",
    "MAKELEVEL",
    "MFLAGS",
    "ARGS",
    "OFFLINE_MARL_DATA",
)


def clone(folder: Path) -> Path:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    return folder


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in INHERITED}
    env = {name: value for name, value in env.items() if not name.startswith("PYTEST_")}
    return subprocess.run(["make", *words], cwd=folder, env=env, capture_output=True, text=True)


def readme_commands() -> list[list[str]]:
    block = (ROOT / "README.md").read_text().split("```")[1]
    return [line.split("#")[0].split() for line in block.strip().splitlines()]


@pytest.mark.slow
def test_the_readmes_first_command_works_from_a_fresh_clone(tmp_path: Path) -> None:
    bench, test = readme_commands()
    assert bench[:2] == ["make", "bench"]
    assert test == ["make", "test"]  # the command that runs this very test
    folder = clone(tmp_path / "clone")
    done = make(folder, *bench[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mfdiffuser (reconstruction)" in done.stdout
    for floor in ("bc (floor)", "dataset mean (floor)", "random (floor)"):
        assert floor in done.stdout
    assert "estimate:" in done.stdout
    for suffix in ("png", "svg", "html"):
        assert (folder / "runs" / "bench" / f"mfdiffuser.{suffix}").stat().st_size > 1_000
    own = list((folder / "runs" / "records").rglob("quick-seed*.json"))
    assert {path.name[:11] for path in own if path.parent.name == "mfdiffuser"} == {
        "quick-seed0",
        "quick-seed1",
        "quick-seed2",
    }
    installed = (folder / ".venv" / ".installed").stat().st_mtime
    again = make(folder, *bench[1:])
    assert again.returncode == 0
    assert "every run is finished" in again.stdout
    assert (folder / ".venv" / ".installed").stat().st_mtime == installed
    assert make(folder, "bench", "ALGO=mfdiffuer").returncode != 0
    status = ["git", "-C", str(folder), "status", "--porcelain"]
    assert subprocess.run(status, capture_output=True, text=True).stdout == ""


def test_an_older_python_is_refused_in_one_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    run = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{run}" "$2"\n')
    old.chmod(0o755)
    done = make(ROOT, "setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "error: Python 3.9 was found, this suite needs 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_target_without_its_argument_says_which(tmp_path: Path) -> None:
    done = make(ROOT, "bench", "-o", "setup", f"VENV={tmp_path}")
    assert done.returncode != 0
    assert "ALGO is missing" in done.stderr


def test_help_lists_every_target() -> None:
    done = make(ROOT, "help")
    text = (ROOT / "Makefile").read_text()
    phony = text.split(".PHONY:")[1].split("\n\n")[0].replace("\\\n", " ").split()
    for target in phony:
        if target != "help":
            assert f"\n{target} " in done.stdout, target
