"""Grids: who works on what, what is tried again, and what is given up. No training here."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmark import executors, files, grid, record, runner
from benchmark.cli import main
from benchmark.errors import BusyError, RunError, UserError
from benchmark.executors import Ended, Step, watch
from benchmark.grid import Grid, Job
from benchmark.leases import Leases
from tests.conftest import TINY
from tests.records import record as made_record
from tests.test_runner import make_run

DONE = Ended(0, "", 0.0, True)
OLD = (1.0, 1.0)  # a time of last touch, long ago


# ------------------------------------------------------------------------- grids of pretended jobs
class Pretend:
    """Runs nothing: every job ends at its next poll as `ends` says, and publishes where it is
    DONE.
    """

    def __init__(self, folder: Path, ends: Callable[[str], Ended], slots: int = 2) -> None:
        self.folder, self.ends, self.slots = folder, ends, slots
        self.started: Counter[str] = Counter()
        self.events: list[tuple[str, Step | Ended]] = []
        self.cancelled: list[str] = []

    def start(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self.started[name] += 1
        self.events += [(name, Step("training", 1, 2, "")), (name, self.ends(name))]

    def poll(self) -> list[tuple[str, Step | Ended]]:
        found, self.events = self.events, []
        for name, event in found:
            if event is DONE:
                (self.folder / name).touch()
        return found

    def cancel(self, name: str) -> None:
        self.cancelled.append(name)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "TICK", 0.001)
    monkeypatch.setattr(grid, "LATER", 0.01)


def pretend(folder: Path, count: int = 5) -> tuple[list[Job], dict[str, str]]:
    """Jobs that are finished once a file of their name is there, and the reasons of those that
    were given up.
    """
    failed: dict[str, str] = {}

    def job(name: str) -> Job:
        path = folder / name

        def fail(reason: str) -> None:
            failed[name] = reason
            path.touch()

        return Job(name, f"label {name}", (), folder / "run" / name, path.exists, fail)

    return [job(f"j{i}") for i in range(count)], failed


def test_two_grids_on_one_folder_share_the_work(tmp_path: Path) -> None:
    jobs, _ = pretend(tmp_path, 40)
    places = [Pretend(tmp_path, lambda name: DONE) for _ in range(2)]
    grids = [Grid(jobs, Leases(tmp_path / "claims"), place) for place in places]
    threads = [threading.Thread(target=work.run) for work in grids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert places[0].started + places[1].started == Counter(job.name for job in jobs)
    assert min(len(place.started) for place in places) >= 2
    assert [work.tally.done for work in grids] == [40, 40]
    assert os.listdir(tmp_path / "claims") == []


def test_a_poison_job_is_tried_three_times_and_recorded_as_failed(tmp_path: Path) -> None:
    jobs, failed = pretend(tmp_path)
    crash = Ended(-signal.SIGSEGV, "it was ended by SIGSEGV", 0.0, True)
    place = Pretend(tmp_path, lambda name: crash if name == "j1" else DONE)
    tally = Grid(jobs, Leases(tmp_path / "claims"), place).run()
    assert place.started == Counter({"j0": 1, "j1": 3, "j2": 1, "j3": 1, "j4": 1})
    assert failed == {"j1": "it was ended by SIGSEGV (tried 3 times)"}
    assert tally.failed == {"label j1": "it was ended by SIGSEGV"}
    assert tally.done == 5
    assert os.listdir(tmp_path / "claims") == []  # once its record is deleted it is tried anew


def test_a_job_that_is_tried_once_is_told_and_not_recorded(tmp_path: Path) -> None:
    """As bench does: its user mends the algorithm and runs it again."""
    jobs, _ = pretend(tmp_path)
    jobs = [replace(job, fail=None) for job in jobs]
    crash = Ended(RunError.code, "j1: update raised ValueError: boom", 0.0, True)
    place = Pretend(tmp_path, lambda name: crash if name == "j1" else DONE)
    tally = Grid(jobs, Leases(tmp_path / "claims"), place, tries=1).run()
    assert place.started == Counter(job.name for job in jobs)
    assert tally.failed == {"label j1": "j1: update raised ValueError: boom"}
    assert not (tmp_path / "j1").exists()
    assert os.listdir(tmp_path / "claims") == []


def test_tries_of_a_grid_that_was_killed_count(tmp_path: Path) -> None:
    jobs, failed = pretend(tmp_path, 1)
    own = Leases(tmp_path / "claims")
    for _ in range(3):
        own.note("j0", "boom")
    place = Pretend(tmp_path, lambda name: DONE)
    Grid(jobs, own, place).run()
    assert not place.started
    assert failed == {"j0": "boom (tried 3 times)"}


def test_being_killed_counts_only_where_the_job_got_no_further(tmp_path: Path) -> None:
    jobs, failed = pretend(tmp_path, 2)
    left = {"j0": 5, "j1": 99}  # how often each is killed

    def ends(name: str) -> Ended:
        left[name] -= 1
        return Ended(-signal.SIGKILL, "killed", 0.0, name == "j0") if left[name] >= 0 else DONE

    place = Pretend(tmp_path, ends)
    Grid(jobs, Leases(tmp_path / "claims"), place).run()
    assert place.started == Counter({"j0": 6, "j1": 3})
    assert failed == {"j1": "killed, before it had saved any further step (tried 3 times)"}


def test_a_job_that_is_killed_after_its_last_record_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    jobs, failed = pretend(tmp_path, 1)

    def ends(name: str) -> Ended:
        (tmp_path / name).touch()  # published; then it is killed on its way out
        return Ended(-signal.SIGKILL, "killed", 0.0, False)

    tally = Grid(jobs, Leases(tmp_path / "claims"), Pretend(tmp_path, ends)).run()
    assert tally.done == 1
    assert not tally.failed
    assert not failed
    assert capsys.readouterr().out == "label j0: done, 1 of 1\n"


def test_a_job_that_another_finished_before_it_was_claimed_is_not_run_again(tmp_path: Path) -> None:
    (job, *_), _ = pretend(tmp_path, 1)
    looks = iter([False])  # at the first look only
    place = Pretend(tmp_path, lambda name: DONE)
    jobs = [replace(job, finished=lambda: next(looks, True))]
    assert Grid(jobs, Leases(tmp_path / "claims"), place).run().done == 1
    assert not place.started
    assert os.listdir(tmp_path / "claims") == []


def test_a_users_mistake_is_told_and_neither_tried_again_nor_recorded(tmp_path: Path) -> None:
    jobs, failed = pretend(tmp_path, 2)
    full = Ended(UserError.code, "cannot write x: the disk is full", 0.0, False)
    place = Pretend(tmp_path, lambda name: full if name == "j0" else DONE)
    tally = Grid(jobs, Leases(tmp_path / "claims"), place).run()
    assert place.started == Counter({"j0": 1, "j1": 1})
    assert tally.refused == {"label j0": "cannot write x: the disk is full"}
    assert (tally.done, failed) == (1, {})


def test_a_run_that_another_process_holds_is_tried_until_it_is_free(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    jobs, failed = pretend(tmp_path, 1)
    busy = [Ended(BusyError.code, "another process is working on it", 0.0, False)] * 5
    place = Pretend(tmp_path, lambda name: busy.pop() if busy else DONE)
    assert Grid(jobs, Leases(tmp_path / "claims"), place).run().done == 1
    assert capsys.readouterr().out.count("1 run left, which other processes work on") == 1
    assert (place.started, failed) == (Counter({"j0": 6}), {})


def test_a_grid_that_lost_its_claim_leaves_the_job_to_the_other(tmp_path: Path) -> None:
    jobs, failed = pretend(tmp_path, 1)
    own = Leases(tmp_path / "claims", lease=0.2)
    place = Pretend(tmp_path, lambda name: DONE)
    silent = place.poll
    place.poll = list  # type: ignore[method-assign,assignment]  # it runs for ever
    work = Grid(jobs, own, place)
    thread = threading.Thread(target=work.run)
    thread.start()
    while not place.started:
        time.sleep(0.001)
    (held,) = (tmp_path / "claims").glob("j0.claim-*")
    later = held.with_name("j0.claim-000002.json")
    files.write_json(later, own.owner)
    while not place.cancelled:
        later.touch()
        time.sleep(0.01)
    place.poll = silent  # type: ignore[method-assign]
    (tmp_path / "j0").touch()  # the other has finished it
    thread.join(timeout=10)
    assert work.tally.done == 1
    assert (place.started, place.cancelled, failed) == (Counter({"j0": 1}), ["j0"], {})


def test_ctrl_c_ends_the_jobs_and_gives_the_claims_back(tmp_path: Path) -> None:
    jobs, _ = pretend(tmp_path)

    def ends(name: str) -> Ended:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Grid(jobs, Leases(tmp_path / "claims"), Pretend(tmp_path, ends)).run()
    assert os.listdir(tmp_path / "claims") == []


def test_the_board_shows_what_runs_and_what_is_left(tmp_path: Path) -> None:
    jobs, _ = pretend(tmp_path, 3)
    work = Grid(jobs, Leases(tmp_path / "claims"), Pretend(tmp_path, lambda name: DONE))
    work._start()
    work.running["j0"].step = Step("training", 30, 40, "loss 0.5")
    head, first, second = grid.board_lines(work)
    assert head.startswith("0 of 3 runs ended, 2 running, 1 waiting")
    assert first.startswith("  training  75% [###########    ] 0:00:00  label j0  loss 0.5")
    assert second.strip().startswith("starting 0:00:00  label j1")


def test_the_time_to_go_is_at_least_that_of_the_slowest_run(tmp_path: Path) -> None:
    jobs, _ = pretend(tmp_path, 3)
    work = Grid(jobs, Leases(tmp_path / "claims"), Pretend(tmp_path, lambda name: DONE))
    work._start()
    now = work.begun + 60.0
    assert grid.to_go(work, 0, now) == 0.0  # nothing tells yet
    assert grid.to_go(work, 1, now) == pytest.approx(120.0)
    slow = work.running["j0"]
    slow.begun, slow.step = work.begun, Step("training", 5, 100, "")
    assert grid.to_go(work, 1, now) == pytest.approx(60.0 * 19)
    slow.step = Step("evaluating", 1, 100, "")  # says nothing of the time that training took
    assert grid.to_go(work, 1, now) == pytest.approx(120.0)


# ------------------------------------------------------------------------------------ one real job
@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument of a job is a script."""
    monkeypatch.setattr(executors, "COMMAND", ("-c",))


def ended(script: str, folder: Path, **options: object) -> Ended:
    *_, last = watch((script,), folder, **options)  # type: ignore[arg-type]
    assert isinstance(last, Ended)
    return last


@pytest.mark.usefixtures("scripts")
def test_a_job_tells_its_steps_and_its_end(tmp_path: Path) -> None:
    script = "print('@training 3 4 loss 1, b 2', flush=True); print('noise')"
    step, end = watch((script,), tmp_path)
    assert step == Step("training", 3, 4, "loss 1, b 2")
    assert isinstance(end, Ended)
    assert (end.code, end.reason, end.advanced) == (0, "", False)


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", -11, "it was ended by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", -9, "perhaps for memory"),
        ("raise MemoryError('no 5 GB')", 1, "out of memory: MemoryError: no 5 GB"),
        ("raise SystemExit(7)", 7, "exit code 7"),
        ("import sys; sys.exit('error: bc: update raised X.')", 1, "bc: update raised X"),
    ],
)
def test_why_a_job_failed_is_one_sentence(
    script: str, code: int, words: str, tmp_path: Path
) -> None:
    end = ended(script, tmp_path)
    assert end.code == code
    assert words in end.reason
    assert "\n" not in end.reason


@pytest.mark.usefixtures("scripts")
def test_a_job_that_the_kernel_ended_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr(executors, "_kernel_kills", lambda: next(counts))
    end = ended("import os; os.kill(os.getpid(), 9)", tmp_path)
    assert end.reason.startswith("out of memory: the kernel ended it when it held ")


def gone(pid: int) -> bool:
    """Whether a process has ended, or does within ten seconds."""
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.usefixtures("scripts")
def test_a_job_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    end = ended(script, tmp_path, patience=2.0)
    assert end.reason == "it showed no sign of life for 2 s and was ended"
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.usefixtures("scripts")
def test_a_new_checkpoint_is_a_sign_of_life_and_of_progress(tmp_path: Path) -> None:
    script = (
        "import pathlib, time\n"
        "for i in range(8):\n"
        f"    pathlib.Path({str(tmp_path)!r}, f'checkpoint-{{i:09d}}.safetensors').touch()\n"
        "    time.sleep(0.4)\n"
    )
    end = ended(script, tmp_path, patience=2.0)
    assert (end.code, end.advanced) == (0, True)
    assert not ended("pass", tmp_path).advanced


@pytest.mark.usefixtures("scripts")
def test_a_job_that_is_stopped_hears_of_it_politely(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(130))\n"
        "print('@training 1 2', flush=True); time.sleep(600)"
    )
    job = watch((script,), tmp_path, stopped=lambda: heard == [1])
    heard: list[int] = []
    assert isinstance(next(job), Step)
    heard.append(1)
    (end,) = job
    assert isinstance(end, Ended)
    assert end.code == 130


# ------------------------------------------------------------------------------ records and errors
def test_records_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = made_record("bc", 0, 50.0)
    (kept,) = runner.publish([first], tmp_path)
    assert kept == first
    (kept,) = runner.publish([replace(first, cost=replace(first.cost, act_ms=9.0))], tmp_path)
    assert (kept, capsys.readouterr().err) == (first, "")  # times differ from run to run
    (kept,) = runner.publish([made_record("bc", 0, 51.0)], tmp_path)
    assert kept == first
    assert "was there with other returns, and is kept" in capsys.readouterr().err
    assert record.read_all([tmp_path]) == [first]


def test_a_run_that_is_given_up_has_a_failed_record_for_every_seed(tmp_path: Path) -> None:
    run = make_run(tmp_path, "bc")
    runner.fail(run, "it was ended by SIGSEGV (tried 3 times)", tmp_path / "records")
    found = runner.find_records(run, [tmp_path / "records"])
    assert found
    assert [item.seed for item in found] == [0, 1]
    for item in found:
        assert item.failed
        assert item.reason == "it was ended by SIGSEGV (tried 3 times)"
        assert (item.key, item.group, item.returns) == (run.key, [0, 1], [])


def test_the_records_of_a_run_are_where_it_looks_for_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, "bc")
    made = runner.execute(run, tmp_path / "records")
    paths = [item.path(tmp_path / "records") for item in made]
    assert paths == runner.record_paths(run, tmp_path / "records")


@pytest.mark.parametrize("how", ["RuntimeError", "MemoryError"])
def test_a_run_that_outgrows_memory_says_so(how: str) -> None:
    from benchmark.train import blame

    text = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"
    kinds = {"RuntimeError": RuntimeError(text), "MemoryError": MemoryError()}
    with pytest.raises(RunError, match="bc: out of memory in update"), blame("bc", "update"):
        raise kinds[how]


def test_left_overs_of_killed_writers_are_swept_and_those_at_work_are_not(tmp_path: Path) -> None:
    old, new = tmp_path / "a" / ".tmp-old", tmp_path / "a" / ".tmp-new"
    old.parent.mkdir()
    old.touch()
    new.touch()
    os.utime(old, OLD)
    assert files.sweep(tmp_path, older_than=60.0) == 1
    assert not old.exists()
    assert new.exists()


def test_a_grid_sweeps_up_what_killed_writers_left_even_where_nothing_is_to_do(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    common = ["--protocol", "smoke", "--seeds", "0", "--out", str(tmp_path)]
    assert main(["train", "random", TINY, *common, "--progress", "none"]) == 0
    old, new = (tmp_path / "records" / TINY / f"{files.TEMPORARY}{name}" for name in ("old", "new"))
    old.touch()
    os.utime(old, OLD)
    new.touch()
    assert main(["grid", "--algos", "random", "--datasets", TINY, *common]) == 0
    assert "0 runs to do, 1 finished before" in capsys.readouterr().out
    assert (old.exists(), new.exists()) == (False, True)


def test_a_preview_says_what_a_grid_may_cost_and_runs_nothing(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plugin = str(Path(__file__).parent / "plugins" / "plain_net.py")
    words = f"grid --algos bc plain_net --datasets {TINY} --out {tmp_path} --plugin {plugin}"
    assert main([*words.split(), "--seeds", "0", "1", "--workers", "2", "--preview"]) == 0
    said = capsys.readouterr().out
    assert "grid: 3 runs to do, 0 finished before" in said  # the seeds of bc train together
    assert "on 2 processes" in said
    assert "unknown, for want of records: plain_net" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--workers -1", "option --workers: found -1, expected 0 or more."),
        ("--lease 0", "option --lease: found 0, expected seconds above 0."),
        ("--patience 0", "option --patience: found 0, expected hours above 0."),
        ("--executor slurm", "invalid choice 'slurm'"),
        ("--executor ray", "needs the package ray, which is not installed"),
    ],
)
def test_wrong_options_of_a_grid_are_one_sentence(
    option: str, words: str, data_root: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["grid", "--algos", "bc", "--datasets", TINY, "--protocol", "smoke"]
    assert main([*arguments, "--out", str(tmp_path), *option.split()]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
