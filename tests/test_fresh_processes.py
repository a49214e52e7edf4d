"""Fresh processes with other threads, hash seeds, time zones and orders give the same bits."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import algorithms
from benchmark import checkpoint, registry
from benchmark import record as records
from tests.conftest import ROOT, TINY, bench
from tests.records import record
from tests.test_kill import TEAM, folder
from tests.test_runner import same

pytestmark = pytest.mark.slow

# What a stranger's machine may set; the suite chooses its threads itself.
SETTINGS = (
    {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2", "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8"},
    {"PYTHONHASHSEED": "random", "OMP_NUM_THREADS": "8", "TZ": "America/St_Johns"},
)
INHERITED = {"MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LANG"}.union(*SETTINGS)


TRAIN = """
import sys, algorithms
from benchmark.cli import main
from tests.test_kill import arguments
for row in algorithms.names()[::int(sys.argv[2])]:
    words = arguments(row, sys.argv[1])
    at = words.index("--steps") + 1
    words[at] = "0" if words[at] == "0" else "5"
    assert main(words) == 0, row
"""
PLAY = """
import sys
import numpy as np
from benchmark import files, registry
from benchmark.checks.play import record
from benchmark.checks.task import few
from tests.test_contracts import LONG
order = int(sys.argv[1])
for name in registry.task_ids():
    task, seeds = few(registry.task(name)), range(500, 600)
    if task.spec.horizon < LONG:
        acts = record(task, seeds).act
    else:  # the start of its episodes
        shape = 10, len(seeds), task.spec.n_agents, task.spec.act_dim
        acts = np.random.default_rng(0).uniform(-1, 1, shape)
    trace = record(task, seeds[::order], [act[::order] for act in acts])
    for kind in ("obs", "rew", "terminated", "truncated"):
        values = np.array(getattr(trace, kind))[:, ::order]  # [T, E, ...]
        print(name, kind, values.shape, files.sha256(np.ascontiguousarray(values).tobytes()))
"""
BUILD = """
import contextlib, io, sys
from pathlib import Path
from benchmark.cli import main
for form in ("text", "json"):
    for view in ("boards", "summary"):
        words = ["leaderboard", "--records", sys.argv[1], "--format", form, "--view", view]
        assert main(words) == 0
with contextlib.redirect_stdout(io.StringIO()):  # it says where the page is
    assert main(["site", "--records", sys.argv[1], "--out", sys.argv[2]]) == 0
print(Path(sys.argv[2]).read_text())
"""


def fresh(script: str, setting: dict[str, str], *arguments: object) -> str:
    """What a script prints in a process of its own under a setting."""
    env = {key: value for key, value in os.environ.items() if key not in INHERITED} | setting
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_algorithm_trains_and_plays_alike(data_root: Path, tmp_path: Path) -> None:
    assert bench("data", TEAM, TINY).returncode == 0
    outs = [tmp_path / str(i) for i in range(len(SETTINGS))]
    for i, (out, setting) in enumerate(zip(outs, SETTINGS, strict=True)):
        fresh(TRAIN, setting, out, -1 if i else 1)
    made = [{item.algo: item for item in records.read_all([out / "records"])} for out in outs]
    for row in algorithms.names():
        found = [checkpoint.latest(folder(out, row)) for out in outs]
        first, *others = [checkpoint.load(path) for path in found if path is not None]
        assert len(others) == len(outs) - 1
        for i, other in enumerate(others, 1):
            assert same(first, other) == [], (row, SETTINGS[i])
            assert made[0][row].returns == made[i][row].returns, (row, SETTINGS[i])
            assert made[0][row].curve == made[i][row].curve, (row, SETTINGS[i])


def test_every_task_plays_the_same_episodes_in_any_order() -> None:
    first = fresh(PLAY, SETTINGS[0], 1)
    assert first.count(" rew ") == len(registry.task_ids())
    assert fresh(PLAY, SETTINGS[2], -1) == first


def test_the_board_and_the_page_are_the_same_bytes(tmp_path: Path) -> None:
    made = [
        record(algo, seed, mean, dataset=f"mpe/spread/{tier}-v1", protocol_name="full")
        for algo, mean in (("bc", 40.0), ("omar", 60.0), ("random", 0.0))
        for tier in ("medium", "expert")
        for seed in range(10)
    ]
    said = set()
    for i, setting in enumerate(SETTINGS):
        where = tmp_path / str(i)
        random.Random(i).shuffle(made)
        for item in made:
            records.write(item, where)
        said.add(fresh(BUILD, setting, where, where / "page" / "index.html"))
    (text,) = said
    assert "bootstrap" in text
