"""The guarded open: every malformed file is refused with one sentence, quickly and in little
memory; odd but sound files are accepted; and no guard is there for nothing.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets
import datasets.open
from benchmark.errors import UserError
from benchmark.files import sha256_file
from tests import guards
from tests.conftest import TINY, bench
from tests.dataset_files import write
from tests.guards import holds, impatient
from tests.malformed import bad, good

ROOT = Path(__file__).parents[1]
SECONDS, MEGABYTES = 1.0, 200  # of a whole process that refuses a file
Files = dict[str, Path]


def build(cases: dict[str, Any], folder: Path) -> Files:
    files = {}
    for number, (name, case) in enumerate(cases.items()):
        path = folder / str(number) / "a.hdf5"
        path.parent.mkdir()
        write(path)
        (case[0] if isinstance(case, tuple) else case)(path)
        files[name] = path
    return files


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return build(bad.CASES, tmp_path_factory.mktemp("bad"))


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return build(good.CASES, tmp_path_factory.mktemp("good"))


# ---------------------------------------------------------------------------------------- bad files
def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(bad.CASES) >= 100
    assert len(good.CASES) >= 20


@pytest.mark.parametrize("case", bad.CASES)
def test_a_malformed_file_is_refused_with_one_sentence(case: str, corpus: Files) -> None:
    with pytest.raises(UserError, match=bad.CASES[case][1]) as caught:
        datasets.load_file(corpus[case])
    assert str(corpus[case]) in str(caught.value)
    assert "\n" not in str(caught.value)


OPEN_EACH = """
import json, os, signal, sys, time
from benchmark.errors import UserError
from datasets.open import open_dataset

def kilobytes(name):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status[name].split()[0])

start, most = time.process_time(), kilobytes("VmHWM")
for path in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    signal.alarm(10)  # a file that is waited for has no answer
    before = kilobytes("VmRSS")
    try:
        open_dataset(path)
        said = "accepted"
    except UserError as error:
        said = str(error)
    grown = kilobytes("VmHWM") - before
    print(json.dumps([path, start + time.process_time(), (most + grown) / 1024, said]), flush=True)
    os._exit(0)
"""


def opened(*paths: Path) -> dict[str, tuple[float, float, str]]:
    """For each file, processor seconds and peak MB of a process that opens it and no other, and
    what it says.
    """
    done = subprocess.run(
        [sys.executable, "-c", OPEN_EACH, *map(str, paths)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {path: (seconds, megabytes, said) for path, seconds, megabytes, said in answers}


def test_a_refusal_takes_little_time_and_memory(corpus: Files, odd: Files) -> None:
    """Start and imports included. On a crowded machine even a sound file takes longer; a refusal
    may take three times as long as that.
    """
    sound = str(odd["as written"])
    found = opened(odd["as written"], *corpus.values())
    accepted = 0
    for case, path in corpus.items():
        assert str(path) in found, f"{case} is waited for"
        seconds, megabytes, said = found[str(path)]
        assert megabytes < MEGABYTES, case
        assert seconds < max(SECONDS, 3 * found[sound][0]), case
        assert said == "accepted" or re.search(bad.CASES[case][1], said), case
        accepted += said == "accepted"  # only its values are wrong, which no opening reads
    assert accepted < 12


# --------------------------------------------------------------------------------------- good files
@pytest.mark.parametrize("case", good.CASES)
def test_an_odd_but_sound_file_is_accepted(case: str, odd: Files) -> None:
    for backend in ("auto", "ram", "shuffle"):
        data = datasets.load_file(odd[case], backend)
        batch = data.transitions([np.random.default_rng(0)], 8)
        assert batch.obs.shape[:2] == (1, 8)
        assert batch.next_obs is not None
        assert np.isfinite(batch.rew.numpy()).all()


def test_the_same_data_in_any_storage_give_the_same_batches(odd: Files) -> None:
    plain = datasets.load_file(odd["as written"])
    same = 0
    for case, path in odd.items():
        data = datasets.load_file(path)
        if data.content_sha256 != plain.content_sha256:
            continue
        same += 1
        batches = [d.windows([np.random.default_rng(3)], 16, 4, align=False) for d in (plain, data)]
        for name, value in vars(batches[0]).items():
            if value is not None:
                assert (value == getattr(batches[1], name)).all(), (case, name)
    assert same >= 15


def test_only_a_contiguous_file_can_be_mapped(odd: Files) -> None:
    with pytest.raises(UserError, match="stored in chunks"):
        datasets.load_file(odd["gzip"], "mmap")
    assert datasets.load_file(odd["unused bytes"], "mmap").n_steps == 23


# -------------------------------------------------------------------------- each guard is needed
def said(path: Path) -> str:
    """What loading a file says."""
    try:
        datasets.load_file(path)
    except UserError as error:
        return str(error)
    return "accepted"


# What these sides of a condition refuse, the next side refuses too or a foreign error ends.
DOUBLED = ["or dtype.metadata", "or info.byte_offset is None"]


def test_without_any_one_guard_some_malformed_file_goes_unrefused_or_unnamed(
    corpus: Files,
) -> None:
    def refused(case: str) -> bool:
        return bool(re.search(bad.CASES[case][1], said(corpus[case])))

    cases = {case: functools.partial(refused, case) for case in corpus}
    assert len(guards.guards(datasets.open)) >= 35
    assert guards.unnoticed(datasets.open, cases) == DOUBLED


@pytest.mark.parametrize(
    ("flag", "case"), [("O_NOFOLLOW", "symbolic link"), ("O_NONBLOCK", "fifo")]
)
def test_the_flags_of_open_are_needed(
    flag: str, case: str, corpus: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, flag, 0)
    with impatient(0.5):
        assert not holds(lambda: bad.CASES[case][1] in said(corpus[case]))


def test_filter_plug_ins_are_switched_off() -> None:
    assert os.environ["HDF5_PLUGIN_PRELOAD"] == "::"


def test_no_use_of_a_dataset_opens_it_for_writing_or_changes_it(
    odd: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[str] = []

    class Recorded(datasets.open.h5py.File):  # type: ignore[misc, name-defined]
        def __init__(self, name: str, mode: str, **options: Any) -> None:
            modes.append(mode)
            super().__init__(name, mode, **options)

    monkeypatch.setattr(datasets.open.h5py, "File", Recorded)
    for case in ("as written", "shuffle, gzip and fletcher32"):
        path = odd[case]
        before, status = path.read_bytes(), path.stat()
        for backend in ("ram", "shuffle"):
            data = datasets.load_file(path, backend)
            data.windows([np.random.default_rng(0)], 8, 3)
        datasets.lint(path)
        assert path.read_bytes() == before
        assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert set(modes) == {"r"}
    assert not data.obs.flags.writeable


@pytest.mark.slow
def test_a_grid_of_runs_changes_no_dataset(data_root: Path, tmp_path: Path) -> None:
    before = {path: sha256_file(path) for path in data_root.rglob("*.hdf5")}
    assert before
    options = ("--datasets", TINY, "--protocol", "smoke", "--out", tmp_path)
    done = bench("grid", "--algos", "bc", "mfdiffuser", *options)
    assert done.returncode == 0, done.stderr
    assert {path: sha256_file(path) for path in data_root.rglob("*.hdf5")} == before
