"""Grids on a real Ray cluster of two nodes with one core each, started here."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, bench, command
from tests.test_grid_real import results, words

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed"),
]
ROWS = ("bc", "plain_net")


class Nodes:
    """The cluster's process."""

    def __init__(self) -> None:
        self.process = psutil.Popen(
            [sys.executable, "-m", "tests.ray_cluster"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        self.address = self.process.stdout.readline().strip()

    def remove_the_second(self) -> None:
        print("remove", file=self.process.stdin, flush=True)
        assert self.process.stdout.readline().strip() == "removed"

    def jobs(self) -> list[psutil.Process]:
        """The runs at work on the cluster."""
        found = []
        for child in self.process.children(recursive=True):
            try:
                if child.cmdline()[1:4] == ["-m", "benchmark", "train"]:
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        everything = [self.process, *self.process.children(recursive=True)]
        self.process.communicate(timeout=60)
        for child in everything:
            if child.is_running():
                child.kill()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, data_root: Path) -> Iterator[Nodes]:
    found = Nodes()
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    yield found
    found.close()


def raylet(process: psutil.Process) -> int:
    """The process of the node on which a job runs."""
    return next(parent.pid for parent in process.parents() if "raylet" in parent.name())


def ray_words(out: Path) -> list[str]:
    given = words(out, *ROWS, more="--executor ray")
    at = given.index("--workers")
    return given[:at] + given[at + 2 :]  # as many as the cluster has cores


def test_a_grid_uses_both_nodes_and_goes_on_after_a_kill(nodes: Nodes, tmp_path: Path) -> None:
    grid = subprocess.Popen(command(*ray_words(tmp_path)), stdout=subprocess.DEVNULL, cwd=ROOT)
    used: set[int] = set()
    while len(used) < 2 and grid.poll() is None:
        for job in nodes.jobs():
            used |= {raylet(job)}
        time.sleep(0.02)
    grid.kill()
    grid.wait()
    assert len(used) == 2
    deadline = time.monotonic() + 20.0
    while nodes.jobs() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert nodes.jobs() == []  # they end with their grid
    done = bench(*ray_words(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [(algo, seed, status) for algo, seed, status, _ in results(tmp_path)] == [
        (row, seed, "ok") for row in ROWS for seed in (0, 1)
    ]
    local = bench(*words(tmp_path / "local", *ROWS))
    assert local.returncode == 0, local.stderr
    assert results(tmp_path) == results(tmp_path / "local")


def test_jobs_of_a_node_that_is_lost_run_on_the_other(nodes: Nodes, tmp_path: Path) -> None:
    grid = subprocess.Popen(
        command(*ray_words(tmp_path)), stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    while len(nodes.jobs()) < 2:
        assert grid.poll() is None
        time.sleep(0.02)
    nodes.remove_the_second()
    said, _ = grid.communicate(timeout=300)
    assert grid.returncode == 0, said
    assert len(results(tmp_path)) == 4


def test_ray_adds_less_than_a_second_to_a_job(nodes: Nodes) -> None:
    words = [sys.executable, "-m", "tests.perf.bench_ray", "--rounds", "3"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1]
    print(said)
    found = re.fullmatch(r"Ray adds (-?[0-9.]+) s to a job \(goal: under 1 s\)", said)
    assert found is not None
    assert float(found[1]) < 1.0


def test_a_cluster_that_does_not_answer_is_named(data_root: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    done = bench(*ray_words(tmp_path))
    assert done.returncode == 2
    assert "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
