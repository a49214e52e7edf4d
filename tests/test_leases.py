"""Claims: who may work on a job, and when another takes it over."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from benchmark import files
from benchmark import leases as leases_module
from benchmark.errors import UserError
from benchmark.leases import Leases
from tests.test_grid import OLD


def test_one_grid_alone_gets_a_claim(tmp_path: Path) -> None:
    a, b = Leases(tmp_path), Leases(tmp_path)
    held = a.take("job")
    assert held
    assert b.take("job") is None
    assert a.renew(held)
    a.release(held)
    assert b.take("job")


def test_a_claim_of_another_machine_is_taken_over_after_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "machine", lambda: "elsewhere")
    other = Leases(tmp_path, lease=60.0)
    monkeypatch.undo()
    other.owner["pid"] = 2**22 + 1  # of no process here, which says nothing of the other machine
    held, own = other.take("job"), Leases(tmp_path, lease=60.0)
    assert held
    assert own.take("job") is None
    os.utime(held.path, OLD)
    taken = own.take("job")
    assert taken
    assert taken.generation == 2
    assert not other.renew(held)  # it wakes up and finds that it has lost the job
    assert own.renew(taken)


def test_a_claim_whose_holder_died_here_is_taken_over_at_once(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys; from benchmark.leases import Leases;"
        "assert Leases(pathlib.Path(sys.argv[1])).take('job'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert Leases(tmp_path, lease=1e6).take("job")


def test_what_a_dead_grid_left_of_a_finished_job_is_removed(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys; from benchmark.leases import Leases;"
        "own = Leases(pathlib.Path(sys.argv[1])); own.note('job', 'why');"
        "assert own.take('job'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    own = Leases(tmp_path, lease=1e6)
    held = Leases(tmp_path, lease=1e6).take("mine")
    assert own.names() == {"job", "mine"}
    for name in own.names():
        own.clear(name)
    own.close()
    assert held
    assert os.listdir(tmp_path) == [held.path.name]  # its holder lives


def test_a_folder_of_claims_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*/file/claims: "):
        Leases(tmp_path / "file" / "claims")


def test_a_process_number_used_again_does_not_keep_a_claim(tmp_path: Path) -> None:
    own = Leases(tmp_path, lease=1e6)
    held = own.take("job")
    assert held
    files.write_json(held.path, own.owner | {"started": 1.0})  # our number, another start
    assert own.take("job")


def test_a_holder_that_waits_to_be_buried_is_dead() -> None:
    with psutil.Popen([sys.executable, "-c", ""]) as child:
        started = child.create_time()
        while child.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert not leases_module.alive(child.pid, started)


def test_a_claim_that_came_since_it_was_looked_for_is_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, late = Leases(tmp_path).take("job"), Leases(tmp_path)
    assert held
    monkeypatch.setattr(late, "_last", lambda name: None)
    assert late.take("job") is None
    assert Leases(tmp_path).renew(held)


def test_a_holder_that_finds_a_newer_claim_stops(tmp_path: Path) -> None:
    own = Leases(tmp_path)
    held = own.take("job")
    assert held
    files.write_json(held.path.with_name("job.claim-000002.json"), own.owner)
    assert not own.renew(held)


def test_tries_that_two_note_at_once_are_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Leases(tmp_path)
    assert own.note("job", "first") == 1
    seen = iter([[], own._failures("job")])
    with monkeypatch.context() as patch:
        patch.setattr(own, "_failures", lambda name: next(seen))
        assert own.note("job", "second") == 2
    assert own.tries("job") == ["first", "second"]


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_ask_at_once_one_gets_the_claim(tmp_path: Path, stale: bool) -> None:
    if stale:
        held = Leases(tmp_path, lease=60.0).take("job")
        assert held
        os.utime(held.path, OLD)
    asking = [Leases(tmp_path, lease=60.0) for _ in range(8)]
    gate, got = threading.Barrier(8), []

    def ask(own: Leases) -> None:
        gate.wait()
        got.append(own.take("job"))

    threads = [threading.Thread(target=ask, args=(own,)) for own in asking]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in got) == 1
