"""What several tests share: a folder of made datasets, and the command line as a process."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import datasets
from datasets import cardfile

ROOT = Path(__file__).parents[1]
TINY = "meanfield/squeeze-n100/medium-v1"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _hear_ctrl_c() -> None:
    """Tests started by a job in the background may have inherited SIGINT as ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder for this session, shared by its worker processes, with TINY in it.

    A copy of the cards lists what this processor made: other matrix kernels, other last bits.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root = shared / "data"
    root.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFLINE_MARL_DATA", str(root))
        with open(shared / "data.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = bench("data", TINY)
            assert done.returncode == 0, done.stderr
        own = shutil.copytree(cardfile.CARDS, tmp_path_factory.mktemp("listed") / "cards")
        patch.setattr(cardfile, "CARDS", own)
        enter(TINY)
        yield root


def enter(dataset: str) -> None:
    """List the made content on the dataset's card, as `make data ARGS=--record` does."""
    data = datasets.load(dataset)
    if data.content_sha256 not in data.card["content_sha256"]:
        listed = [*data.card["content_sha256"], data.content_sha256]
        cardfile.write_card(cardfile.card_path(dataset), data.card | {"content_sha256": listed})


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmark", *map(str, arguments)]


def bench(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`python -m benchmark ...` to its end."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="session")
def foreign(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission of an algorithm from outside of the checkout: three seeds, one run each."""
    from tests.submitting import NAME, stranger, submitted

    where = tmp_path_factory.mktemp("foreign")
    return submitted(NAME, where, "--plugin", str(stranger(where)), protocol="quick")


@pytest.fixture(scope="session")
def shipped(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission of an algorithm whose code this checkout has, with a policy table."""
    from tests.submitting import submitted

    return submitted("bc", tmp_path_factory.mktemp("shipped"))
