"""Grids of real runs: poison among sound jobs, two grids at once, kills of everything."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from benchmark import executors, record, runner
from benchmark.executors import Local
from benchmark.grid import Grid, Job
from benchmark.leases import Leases
from leaderboard.summarise import summarise
from tests.conftest import ROOT, TINY, bench, command
from tests.records import record as made_record

pytestmark = pytest.mark.slow

PLUGINS = Path(__file__).parent / "plugins"
ROWS = ("bc", "plain_net")
POISON = ("poison", "poison.segfault", "poison.memory", "poison.hang")


def words(out: Path, *rows: str, seeds: str = "0 1", more: str = "") -> list[str]:
    plugins = [PLUGINS / f"{name}.py" for name in ("plain_net", "poison")]
    options = f"--protocol smoke --seeds {seeds} --workers 2 --out {out} {more}"
    rows_and_data = ["--algos", *rows, "--datasets", TINY]
    return ["grid", *rows_and_data, "--plugin", *map(str, plugins), *options.split()]


def results(out: Path) -> list[tuple[str, int, str, list[list[float]]]]:
    made = record.read_all([out / "records"])
    return [(item.algo, item.seed, item.status, item.returns) for item in made]


def test_poison_jobs_are_recorded_as_failed_and_the_others_finish(
    data_root: Path, tmp_path: Path
) -> None:
    sound = ("bc", "random")
    done = bench(*words(tmp_path, *sound, *POISON, seeds="0", more="--patience 0.002"))
    assert done.returncode == 1
    assert "2 of 6 runs done" in done.stdout
    made = {item.algo: item for item in record.read_all([tmp_path / "records"])}
    assert [made[row].status for row in sound] == ["ok", "ok"]
    reasons = {row: made[row].reason for row in POISON}
    assert all(reason.endswith("(tried 3 times)") for reason in reasons.values())
    expected = ("raised ValueError: boom", "SIGSEGV", "out of memory", "no sign of life")
    for row, said in zip(POISON, expected, strict=True):
        assert said in reasons[row]
        assert f"failed: {row} {TINY} [0]: " in done.stderr
    again = bench(*words(tmp_path, *sound, *POISON, seeds="0"))
    assert "0 runs to do, 6 finished before" in again.stdout  # what failed is on record
    board = bench("leaderboard", "--records", tmp_path / "records")
    assert board.returncode == 0, board.stderr
    assert "poison" in board.stdout


BROKEN = {  # script of a job, and what is said of it
    "raise ValueError('boom')": "ValueError: boom",
    "import os; os.kill(os.getpid(), 11)": "SIGSEGV",
    "bytearray(2**60)": "out of memory",
    "while True: pass": "no sign of life",
}


def test_of_sixty_jobs_the_four_poison_ones_fail_and_the_others_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty rows of three seeds. Each job is a process, of a script that puts its record into
    place: to train sixty runs would take minutes, and the grid sees no difference.
    """
    monkeypatch.setattr(executors, "COMMAND", ("-c",))
    records, poison = tmp_path / "records", dict(enumerate(BROKEN))
    starts = tmp_path / "starts"
    starts.mkdir()

    def job(row: int, seed: int) -> Job:
        name = f"row{row}-{seed}"
        ready = record.write(made_record(f"row{row}", seed, 50.0 + seed), tmp_path / "ready")
        target = records / ready.relative_to(tmp_path / "ready")
        target.parent.mkdir(parents=True, exist_ok=True)
        work = f"os.link({str(ready)!r}, {str(target)!r})"
        work = poison.get(row, work) if seed == 1 else work
        script = f"import os, tempfile; tempfile.mkstemp('.{name}', dir={str(starts)!r})\n{work}"

        def fail(reason: str) -> None:
            runner.publish([made_record(f"row{row}", seed, failed=True, reason=reason)], records)

        return Job(name, name, (script,), tmp_path / "runs" / name, target.exists, fail)

    jobs = [job(row, seed) for row in range(20) for seed in range(3)]
    leases = Leases(tmp_path / "claims")
    tally = Grid(jobs, leases, Local(2, patience=2.0)).run()
    assert (tally.done, len(tally.failed), tally.refused) == (60, 4, {})
    tried = Counter(path.name.rpartition(".")[2] for path in starts.iterdir())
    assert sorted(tried.values()) == [1] * 56 + [3] * 4
    made = record.read_all([records])
    assert len(made) == 60
    failed = {item.algo: item.reason for item in made if item.failed}
    for row, words in enumerate(BROKEN.values()):
        assert words in failed.pop(f"row{row}")
    assert not failed
    for row in summarise(made):  # a seed that failed counts as random play
        if row.kind == "algorithm":
            broken = int(row.algo.removeprefix("row")) in poison
            assert row.failed == ((1,) if broken else ())
            assert len(row.points) == 3
            assert (row.points[1] < row.points[0]) == broken
    assert not list((tmp_path / "claims").iterdir())


def test_a_bench_tells_at_once_what_failed_and_shows_the_rest(
    data_root: Path, tmp_path: Path
) -> None:
    plugin = PLUGINS / "poison.py"
    options = f"--dataset {TINY} --protocol smoke --plugin {plugin} --out {tmp_path}"
    done = bench("bench", "poison", *options.split())
    assert done.returncode == 1
    assert f"error: poison {TINY} [0]: " in done.stderr
    assert "raised ValueError: boom" in done.stderr
    assert "try 2" not in done.stdout
    assert "bc (floor)" in done.stdout
    assert {item.algo for item in record.read_all([tmp_path / "records"])} == {"bc", "random"}
    assert not list((tmp_path / "claims").iterdir())


def test_two_grids_on_one_folder_finish_each_run_once(data_root: Path, tmp_path: Path) -> None:
    rows = ("bc", "random", "plain_net")
    both = [
        subprocess.Popen(
            command(*words(tmp_path, *rows)), stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(results(tmp_path)) == 6
    here = [line for text in said for line in text.splitlines() if ": done, " in line]
    assert len({line.split(":")[0] for line in here}) == len(here)  # none was run by both
    assert not list((tmp_path / "claims").iterdir())


@pytest.fixture(scope="module")
def whole(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of `ROWS` that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert bench(*words(out, *ROWS)).returncode == 0
    return out


@pytest.mark.parametrize("tree", [False, True], ids=["itself", "all its processes"])
def test_a_grid_goes_on_after_kills(tree: bool, whole: Path, tmp_path: Path) -> None:
    rng, out, kills = random.Random(tree), tmp_path / "broken", 0
    for _ in range(3):
        process = psutil.Popen(command(*words(out, *ROWS)), stdout=subprocess.DEVNULL, cwd=ROOT)
        time.sleep(rng.uniform(2.0, 6.0))
        if process.poll() is None:
            for victim in [process, *(process.children(recursive=True) if tree else [])]:
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended with its parent
                    victim.kill()
            kills += 1
        process.wait()
    assert kills >= 1
    done = bench(*words(out, *ROWS))
    assert done.returncode == 0, done.stderr
    assert results(out) == results(whole)
    assert len(results(out)) == 4
    assert "0 runs to do" in bench(*words(out, *ROWS)).stdout
