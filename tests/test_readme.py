"""What the README says: its Python runs, and its numbers are those of the committed records."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from benchmark import checkpoint
from benchmark.cli import readme, readme_perf
from benchmark.errors import UserError
from tests.conftest import ROOT, bench


def test_readme_is_what_the_committed_records_say() -> None:
    done = bench("readme", "--check")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_readmes_python_runs(data_root: Path, tmp_path: Path, monkeypatch) -> None:
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    for tier in ("medium", "random"):
        assert bench("data", f"mpe/spread/{tier}-v1").returncode == 0
    out = tmp_path / "runs"
    options = ["--protocol", "smoke", "--out", out, "--progress", "none"]
    done = bench("train", "bc", "mpe/spread/random-v1", *options)
    assert done.returncode == 0, done.stderr
    (folder,) = (out / "checkpoints").iterdir()
    code, n = re.subn(r"runs/checkpoints/bc-[^\"]*", str(checkpoint.latest(folder)), code)
    assert n == 1
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["returns"].shape == (100, 3)
    assert names["mine"].n_episodes == 10
    assert sorted(path for path in os.listdir(tmp_path) if "mine" in path) == [
        "mine.hdf5",
        "mine.toml",
    ]


def test_the_performance_section_says_what_was_met_and_what_was_missed() -> None:
    row = {"name": "a: b", "sense": ">=", "goal": 2.0, "unit": "x", "floor": None, "note": ""}
    machine = {"processor": "P", "cores": 2, "load_1_5_15_min": [0.5, 0.5, 0.5]}
    found = [row | {"measured": 3.0, "met": True}, row | {"measured": None, "met": False}]
    text = readme_perf.goals({"machine": machine, "goals": found})
    assert "met 1 of 2 goals in one thread on P" in text
    assert "| a: b | ≥ 2 x | 3 x |  | met |" in text
    assert "| a: b | ≥ 2 x |  |  | missed |" in text


def test_the_readme_names_the_same_few_goals_that_the_record_has() -> None:
    found = json.loads((ROOT / "leaderboard/perf/perf.json").read_text())
    text = readme_perf.summary(found)
    assert text in (ROOT / "README.md").read_text()
    for name in readme_perf.FEATURED:
        assert f"| {name} | " in text


def test_a_block_is_filled_in_every_page_that_has_its_marks_and_must_have_one() -> None:
    marks = "<!-- begin:a -->old<!-- end:a -->"
    pages = {Path("x.md"): f"1 {marks} 2", Path("y.md"): "no marks"}
    filled = readme.filled(pages, {"a": r"\1"})
    assert filled[Path("x.md")] == "1 <!-- begin:a -->\n\\1\n<!-- end:a --> 2"
    assert filled[Path("y.md")] == "no marks"
    with pytest.raises(UserError, match=r"none of x\.md, y\.md has the marks <!-- begin:b -->"):
        readme.filled(pages, {"b": ""})


def test_the_performance_section_says_what_has_no_row() -> None:
    machine = {"processor": "P", "cores": 2, "load_1_5_15_min": [0.5, 0.5, 0.5]}
    text = readme_perf.goals({"machine": machine, "goals": [], "left_out": {"a": "b c"}})
    assert text.endswith("What has no row:\n\n- *a*: b c")
    assert "no row" not in readme_perf.goals({"machine": machine, "goals": []})


def test_gpus_are_told_as_not_measured_until_there_is_a_record() -> None:
    committed = (ROOT / "leaderboard/perf/device-cuda.json").exists()
    absent = readme_perf.device(None)
    for said in ("--device cuda", "No GPU has measured this yet", "make perf DEVICE=cuda"):
        assert said in absent
    for name in re.findall(r"\]\((.*?)\)", absent):
        assert (ROOT / "docs" / name).is_file()
    assert (absent in (ROOT / "docs/performance.md").read_text()) != committed
    row = {"algo": "bc", "seeds": 3, "updates_per_second": 1234.5, "peak_mb": 10.0}
    text = readme_perf.device({"device": "G", "rows": [row | {"busy": 0.5, "waits": 0.0}]})
    assert "No GPU" not in text
    assert "On G:" in text
    assert text.endswith("| bc, 3 | 1,234.5 | 10 | 50% | 0.0 |")


def test_what_ray_adds_is_told_with_its_versions_and_counts() -> None:
    found = {
        "machine": {"processor": "P", "load_1_5_15_min": [0.5, 0.5, 0.5]},
        "settings": {"ray": "9.8", "jobs": 6, "workers": 2, "cores_of_nodes": [1.0, 1.0]},
        "seconds_a_job": {"local": 0.25, "ray": 0.5},
        "added_seconds_a_job": 0.24,
        "rounds": {"local": [0.25, 0.25], "ray": [0.5, 0.5]},
    }
    text = readme_perf.ray(found)
    for said in ("Ray (9.8, 2 nodes on P, load 0.5) adds 0.240 s", "0.50 s on it and 0.25 s"):
        assert said in text
    assert "2 rounds of 6 jobs, 2 at a time" in text


def test_a_plan_that_ended_early_says_why_in_its_cell() -> None:
    cells = {
        "1000": {"outcome": "ok", "seconds": 1.2345, "mb": 10.0},
        "10000": {"outcome": "out of memory (8 GB)"},
    }
    rows = {"full": {"cells": cells, "slopes": {"seconds": 1.0, "mb": None}}}
    text = readme_perf.plans({"rows": rows})
    assert "| seconds, MB | 1,000 | 10,000 |" in text
    assert "| full | 1.23, 10 | out of memory (8 GB) | 1.00,  |" in text


def test_soaks_are_told_in_their_counts() -> None:
    one = {
        "settings": {"minutes": 30, "sweep": 60},
        "sweeps": {"kills": 210, "sweeps_with_equal_boards": 7},
        "trainings": {"kills": 90, "runs_with_equal_bits": 31},
        "mutants": {"records": {"mutants": 12_000}, "process": {}},
    }
    text = readme_perf.soak({"soaks": [one, one]})
    for said in ("60 minutes", "60 jobs 420 times", "all 14 sweeps", "180 times", "all 62, of"):
        assert said in text
    assert "24,000 of records, none" in text
