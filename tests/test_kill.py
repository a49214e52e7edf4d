"""Real runs that are killed: the same command goes on and ends with an unbroken run's bits."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

import algorithms
from benchmark import checkpoint, cli, record
from tests.conftest import ROOT, TINY, bench, command
from tests.test_runner import same

pytestmark = pytest.mark.slow

TEAM = "mpe/spread/random-v1"
CROWD = "meanfield/queue-n16-v1"  # a population that is played
# A second or more each, so that a kill comes before the end; the others have 300, those without
# gradient steps none.
STEPS = {"random": 0, "bc_table": 0, "bc": 1500, "matd3bc": 600}
STEPS |= {"cfcql": 60, "macql": 60, "om2p": 120, "om2p_release": 120, "omar": 150, "comadice": 150}


def dataset_for(row: str) -> str:
    """A small dataset that the row takes (madiff plans for few agents), or an online row's task."""
    cls = algorithms.registry().cls(row)
    if cls.variants["default"].track == "online":
        return CROWD if "exchangeable" in cls.requires else TEAM.replace("/random", "")
    return TEAM if row == "madiff" or "continuous" in cls.requires else TINY


def arguments(row: str, out: Path, times: int = 1) -> list[str]:
    options = f"--protocol smoke --seeds 0 --progress none --checkpoint-seconds 0.2 --out {out}"
    steps = ["--steps", str(times * STEPS.get(row, 300))]
    for name, value in algorithms.registry().cls(row).small.items():
        steps += [f"--config.{name}", str(value)]
    return ["train", row, dataset_for(row), *options.split(), *steps]


def folder(out: Path, row: str) -> Path:
    (found,) = (out / "checkpoints").glob(f"{row}-*")
    return found


def start(*words: object) -> subprocess.Popen[str]:
    def hear_ctrl_c() -> None:  # a job in the background may have inherited it as ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        command(*words), stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=hear_ctrl_c
    )


def kill_after_a_checkpoint(words: list[str], out: Path, row: str, rng: random.Random) -> bool:
    """Start the run, wait for a checkpoint and a moment more, kill -9; False: it ended first."""
    before = set(out.rglob("checkpoint-*.safetensors"))
    process = start(*words)
    while process.poll() is None and set(out.rglob("checkpoint-*.safetensors")) <= before:
        time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 0.4))
    ended = process.poll() is not None
    process.kill()
    process.communicate()
    return not ended


@pytest.fixture(scope="module")
def team(data_root: Path) -> None:
    """The team's dataset, beside TINY."""
    assert bench("data", TEAM).returncode == 0


@pytest.mark.parametrize("row", algorithms.names())
def test_a_killed_run_ends_with_the_bits_of_an_unbroken_one(
    row: str, team: None, tmp_path: Path
) -> None:
    """What is killed is a process; the unbroken run and the end of the killed one are run here."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli.main(arguments(row, whole)) == 0
    rng = random.Random(0)
    kills = sum(
        kill_after_a_checkpoint(arguments(row, broken), broken, row, rng)
        for _ in range(2 if row == "bc" else 1)
    )
    assert kills >= 1 or STEPS.get(row) == 0
    assert cli.main(arguments(row, broken)) == 0
    states = []
    for out in (whole, broken):
        path = checkpoint.latest(folder(out, row))
        assert path is not None
        states.append(checkpoint.load(path))
        assert not list((out / "checkpoints").rglob(".tmp-*"))  # of records, a grid sweeps them
    assert same(*states) == []
    (a,), (b,) = record.read_all([whole / "records"]), record.read_all([broken / "records"])
    assert a.returns == b.returns
    assert a.curve == b.curve


def seconds_of(words: list[str], out: Path, most: float = float("inf")) -> tuple[float, float, int]:
    """Run a command until it has taken `most` seconds of processor time, then kill it; returns the
    seconds until there was a new checkpoint, all of them, and the exit code.
    """
    before = set(out.rglob("checkpoint-*.safetensors"))
    process = psutil.Popen(command(*words), stderr=subprocess.DEVNULL, cwd=ROOT)
    saved = spent = 0.0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):  # it has just ended
            spent = max(spent, sum(process.cpu_times()[:2]))
        if not saved and set(out.rglob("checkpoint-*.safetensors")) - before:
            saved = spent
        if spent > most:
            process.kill()
        time.sleep(0.01)
    return saved, spent, process.wait()


def test_a_run_that_is_killed_all_the_time_gets_on(data_root: Path, tmp_path: Path) -> None:
    """Killed after twice the time of start-up and a checkpoint, it takes at most three times the
    time that it takes alone.
    """
    options = f"bc {TINY} --protocol smoke --seeds 0 --progress none --steps 500"
    words = ["train", *options.split(), "--checkpoint-seconds", "0.5", "--out"]
    start, alone, code = seconds_of([*words, str(tmp_path / "whole")], tmp_path / "whole")
    assert code == 0
    out, all_of_it, codes = tmp_path / "broken", 0.0, [-1]
    while codes[-1] and all_of_it < 3 * alone:
        _, spent, code = seconds_of([*words, str(out)], out, 2 * start)
        all_of_it += spent
        codes.append(code)
    assert all_of_it < 3 * alone, f"{codes}: start {start:.1f} s, alone {alone:.1f} s"
    assert codes[1:] == [-signal.SIGKILL] * (len(codes) - 2) + [0]
    assert len(codes) > 2, f"start {start:.1f} s, alone {alone:.1f} s: too short to be killed"
    assert record.read_all([out / "records"])[0].status == "ok"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_end_says_how_to_go_on(
    how: signal.Signals, data_root: Path, tmp_path: Path
) -> None:
    process = start(*arguments("bc", tmp_path))
    while not list(tmp_path.rglob("checkpoint-*.safetensors")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert bench(*arguments("bc", tmp_path)).returncode == 0
