"""A code may be shown to have the bits of an older one, and then goes by its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import files, provenance, registry, runner
from leaderboard import soundness
from leaderboard.summarise import labelled
from tests.conftest import ROOT
from tests.records import record
from tests.test_runner import make_run

SMALL = "meanfield/squeeze-n100/medium-v1"
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c")


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file of same codes in the place of the committed one."""

    def write(*pairs: tuple[str, str], **more: object) -> None:
        entries = [{"algo": "bc", "code": code, "same_as": old} | more for code, old in pairs]
        files.write_json(tmp_path / "same.json", entries)
        provenance.same_codes.cache_clear()

    monkeypatch.setattr(provenance, "SAME_CODE", tmp_path / "same.json")
    provenance.same_codes.cache_clear()
    yield write
    provenance.same_codes.cache_clear()


def test_a_code_goes_by_the_name_of_the_first_that_it_is_the_same_as(known) -> None:
    assert provenance.first_code("c") == "c"  # without a file
    known(("c", "b"), ("b", "a"), ("x", "y"), ("y", "x"))
    assert [provenance.first_code(code) for code in "abcd"] == ["a", "a", "a", "d"]
    assert provenance.first_code("x") in "xy"  # a circle has an end


def test_the_code_of_another_checkout_has_the_hash_of_this_one() -> None:
    import algorithms

    for name in ("bc", "mfdiffuser", "om2p", "madiff"):
        written = provenance.written_sha256(algorithms.registry().cls(name))
        assert provenance.checkout_sha256(ROOT, name) == written


def test_records_of_same_codes_are_one_row_and_of_this_checkout(known) -> None:
    import algorithms

    made = [record(seed=seed, code_sha256=code * 64) for seed, code in enumerate("abb")]
    assert len(labelled(made)) == 2
    written = provenance.written_sha256(algorithms.registry().cls("bc"))
    suite = soundness.Suite(registry.Algorithms(algorithms), lambda dataset: {})
    assert suite.own(made[0]) is None
    known(("b" * 64, "a" * 64), (written, "b" * 64))
    assert len(labelled(made)) == 1
    assert all(suite.own(item) for item in made)


def test_a_run_is_finished_by_a_record_without_its_later_settings(known, tmp_path: Path) -> None:
    run = make_run(tmp_path, "bc")
    for item in runner.execute(run, tmp_path / "new"):
        config = {name: value for name, value in item.config.items() if name != "compile"}
        old = replace(item, code_sha256="a" * 64, config=config)
        key = files.sha256(json.dumps(soundness.identity(old), sort_keys=True).encode())
        runner.publish([replace(old, key=key)], tmp_path / "old")
    assert runner.find_records(run, [tmp_path / "old"]) is None
    known((provenance.written_sha256(run.cls), "a" * 64), added={"compile": run.config.compile})
    assert runner.find_records(run, [tmp_path / "new", tmp_path / "old"])
    found = runner.find_records(run, [tmp_path / "old"])
    assert found
    assert [item.seed for item in found] == list(run.seeds)
    assert all("compile" not in item.config for item in found)
    assert len(labelled([*found, *runner.execute(run, tmp_path / "new")])) == 1
    for other in (replace(run.config, compile="on"), replace(run.config, lr=0.5)):
        assert runner.find_records(replace(run, config=other), [tmp_path / "old"]) is None


def test_committed_entries_name_what_they_show() -> None:
    entries = json.loads((ROOT / "leaderboard" / "same_code.json").read_text())
    codes = [entry["code"] for entry in entries]
    assert len(set(codes)) == len(codes)
    for entry in entries:
        assert entry["shown"], entry["algo"]
        assert len(entry["commit"]) == 40
        assert entry["code"] != provenance.first_code(entry["code"])


@pytest.mark.slow
def test_a_comment_changes_no_bit_and_a_constant_does(tmp_path: Path, data_root: Path) -> None:
    clone, path = tmp_path / "clone", tmp_path / "clone" / "algorithms" / "bc_table.py"
    environment = os.environ | {"OFFLINE_MARL_DATA": str(data_root), "PYTHONPATH": str(clone)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "-m", "benchmark", *words)
        return subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True)

    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    records = str(tmp_path / "runs" / "records")
    how = ["--protocol", "smoke", "--progress", "none", "--out", str(tmp_path / "runs")]
    made = run("train", "bc_table", SMALL, *how)
    assert made.returncode == 0, made.stderr
    text = path.read_text()
    path.write_text(text + "\n# No bit depends on this line.\n")
    # A row of its own, made before the codes are known to be the same
    subprocess.run([*GIT, "commit", "-qam", "a comment"], cwd=clone, check=True)
    assert run("train", "bc_table.rank", SMALL, *how).returncode == 0
    done = run("same", "bc_table", "--records", records)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"equal bits on bc_table {SMALL}\n" in done.stdout
    assert json.loads((clone / "leaderboard" / "same_code.json").read_text())[-1]["shown"]
    again = run("same", "bc_table", "--records", records)
    assert "no record is by another code" in again.stdout
    path.write_text(text + "\n# Nor on this one.\n")
    done = run("same", "bc_table", "--records", records)  # both rows go by one name now
    assert f"equal bits on bc_table {SMALL}, bc_table.rank {SMALL}\n" in done.stdout, done.stdout

    path.write_text(text.replace("counts += config.smooth", "counts += 2 * config.smooth"))
    assert path.read_text() != text
    done = run("same", "bc_table", "--records", str(tmp_path / "runs" / "records"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"bc_table on {SMALL} ends with another " in done.stdout
