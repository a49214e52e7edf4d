"""The catalogue of datasets: making all of it, stopping and going on, and printing it."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import datasets
from benchmark import registry
from benchmark.cli import main
from benchmark.errors import UserError
from benchmark.files import TEMPORARY
from datasets import cardfile, library
from datasets import make as making
from datasets.recipes import probe as recipe

IDS = [f"probe/{name}-v1" for name in ("xor/mixed", "xor/random", "mne/mixed")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Empty folders of data and cards, and 40 episodes a dataset."""
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cardfile, "CARDS", tmp_path / "cards")
    monkeypatch.setattr(recipe, "size", lambda task, tier: 40)
    monkeypatch.setattr(recipe, "EPISODES", 40)
    library._say_superseded.cache_clear()
    yield tmp_path
    library._say_superseded.cache_clear()


def made(home: Path) -> list[str]:
    return [dataset for dataset in IDS if datasets.path(dataset).exists()]


# ----------------------------------------------------------------------------- making all of it
def test_all_are_made_under_one_bar_of_all_their_episodes(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Any] = []

    class Bar(making.tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            bars.append(self)

        def set_description(self, desc: str | None = None, refresh: bool | None = True) -> None:
            self.described = [*getattr(self, "described", []), desc]
            super().set_description(desc, refresh)

    monkeypatch.setattr(making, "tqdm", Bar)
    assert datasets.make_all(IDS) == 0
    assert made(home) == IDS
    (bar,) = bars
    assert bar.total == bar.n == 3 * 40
    assert bar.described == IDS
    assert "3 datasets made, 0 there already, 0 failed" in capsys.readouterr().out


def test_what_is_there_is_left_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets.make_all(IDS[:2], progress=False)
    before = [datasets.path(dataset).stat().st_ino for dataset in IDS[:2]]
    datasets.make_all(IDS, progress=False)
    assert [datasets.path(dataset).stat().st_ino for dataset in IDS[:2]] == before
    assert "1 datasets made, 2 there already, 0 failed" in capsys.readouterr().out


def test_an_interrupt_leaves_whole_files_and_the_next_call_goes_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = recipe.draw, []

    def draw(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(recipe, "draw", draw)
    with pytest.raises(KeyboardInterrupt):
        datasets.make_all(IDS, progress=False)
    assert made(home) == IDS[:1]
    assert not list(home.rglob(TEMPORARY + "*"))
    assert datasets.make_all(IDS, progress=False) == 0
    assert made(home) == IDS
    assert len(calls) == 4


KILLED = """
import pathlib, sys, time
import datasets
from datasets import cardfile
from datasets.recipes import probe
cardfile.CARDS = pathlib.Path(sys.argv[1])
whole = probe.draw
def draw(task, tier, *rest):
    if tier == "random":
        print("in the middle", flush=True)
        time.sleep(60)
    return whole(task, tier, *rest)
probe.draw = draw
datasets.make_all(sys.argv[2:], progress=False)
"""


def test_a_killed_process_leaves_nothing_under_a_datasets_name(home: Path) -> None:
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(cardfile.CARDS), *IDS],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        while "in the middle" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert made(home) == IDS[:1]
    left_over = next(home.rglob(TEMPORARY + "*"))
    datasets.make_dataset(IDS[1], progress=False)
    assert left_over.exists()  # it could be that of a living process
    old = time.time() - making.LEFT_OVER - 1
    for path in home.rglob(TEMPORARY + "*"):
        os.utime(path, (old, old))
    datasets.make_dataset(IDS[1], progress=False, force=True)
    assert not list(left_over.parent.glob(TEMPORARY + "*"))


def test_large_datasets_are_left_out_by_name(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert datasets.make_all(IDS, max_bytes=1_000, progress=False) == 0
    said = capsys.readouterr().out
    assert made(home) == []
    for dataset in IDS:
        assert f"{dataset}: left out, it may take 0.0 GB, more than 1e-06" in said


def test_a_missing_package_leaves_its_datasets_out_in_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = registry.task("probe/xor-v1")
    monkeypatch.setattr(task, "spec", replace(task.spec, packages=("numpy", "magent2")))
    monkeypatch.setattr(making, "packages", lambda names: {n: "1" for n in names if n != "magent2"})
    assert datasets.make_all(IDS, progress=False) == 0
    said = capsys.readouterr().out
    assert made(home) == IDS[2:]
    assert said.count("magent2") == 1
    assert "left out 2 datasets: probe needs magent2" in said
    assert "pip install 'offline-marl-bench[battle]'" in said


def test_missing_weights_leave_their_datasets_out_in_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(tier: str) -> list[Path]:
        return [home / "expert.safetensors"] if tier == "mixed" else []

    monkeypatch.setattr(recipe, "files", files)
    assert datasets.make_all(IDS, progress=False) == 0
    assert made(home) == IDS[1:2]
    assert "left out 2 datasets: their behaviour weights are not in" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"its behaviour .*expert\.safetensors is missing"):
        datasets.make_dataset(IDS[0], progress=False)


def test_a_failure_is_told_and_the_others_are_made(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets.make_all(IDS, progress=False)
    path = datasets.path(IDS[1])
    path.write_bytes(path.read_bytes()[:-100])
    datasets.path(IDS[2]).unlink()
    assert datasets.make_all(IDS, progress=False) == 1
    said = capsys.readouterr().out
    assert f"{IDS[1]}: failed, " in said
    assert made(home) == IDS


def test_the_command_makes_all(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets, "catalogue", lambda: IDS)
    assert main(["data", "--all"]) == 0
    assert made(home) == IDS
    assert main(["data", "--all", "--limit-gb", "0"]) == 2
    assert "--limit-gb is 0, expected more than 0" in capsys.readouterr().err
    assert main(["data", "--all", IDS[0]]) == 2


# ------------------------------------------------------------------------------- printing it
def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    capsys.readouterr()
    assert main(["datasets", "--csv"]) == 0
    return {row["dataset"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}


def test_the_table_has_a_row_for_every_dataset(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets.make_dataset(IDS[2], progress=False)
    table = rows(capsys)
    assert set(datasets.catalogue()) == set(table)
    row, data = table[IDS[2]], datasets.load(IDS[2])
    assert (row["tier"], row["episodes"], row["agents"]) == ("mixed", "40", "2")
    mean = float(data.returns.mean())
    assert float(row["return"]) == pytest.approx(mean, abs=1e-3)
    reference = registry.task("probe/mne-v1").reference()
    assert reference is not None
    assert float(row["score"]) == pytest.approx(reference.score("return", mean), abs=0.06)
    assert all("," not in cell for row in table.values() for cell in row.values())
    assert (row["licence"], row["superseded by"], row["here"]) == ("CC-BY-4.0", "", "yes")
    assert (table[IDS[0]]["episodes"], table[IDS[0]]["here"]) == ("", "no")


def test_sizes_are_those_of_the_files() -> None:
    sizes = {}
    for dataset in datasets.committed():
        card = datasets.card(dataset)
        path = datasets.path(dataset)
        if path.exists() and "bytes" in card["counts"]:
            sizes[dataset] = path.stat().st_size / card["counts"]["bytes"]
    assert all(1 <= ratio < 1.1 for ratio in sizes.values()), sizes


def test_the_printed_table_is_aligned(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets.make_dataset(IDS[0], progress=False)
    capsys.readouterr()
    assert main(["datasets"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["dataset", "tier", "episodes"]
    assert "superseded" not in head  # a column that no row needs is not there
    assert len(lines) == len(datasets.catalogue())
    (line,) = [line for line in lines if line.startswith(IDS[0])]
    assert line[head.index("episodes") :].split()[0] == "40"
    assert line.endswith("yes")


def test_a_competitive_dataset_is_scored_by_its_mean_behaviours_exploitability(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = rows(capsys)
    dataset = "meanfield/beach-bar-n256/expert-v1"
    reference = registry.task("meanfield/beach-bar-n256-v1").reference()
    assert reference is not None
    value = datasets.card(dataset)["statistics"]["behaviour_exploitability"]
    assert float(table[dataset]["exploitability"]) == pytest.approx(value, rel=1e-3)
    score = reference.score("exploitability", value)
    assert float(table[dataset]["score"]) == pytest.approx(score, abs=0.06)


# ------------------------------------------------------------------------------- superseding
def test_a_superseded_dataset_names_the_new_one_in_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets.make_dataset(IDS[0], progress=False)
    datasets.load(IDS[0])
    assert capsys.readouterr().err == ""
    planned = making.plan(IDS[0])
    newer = replace(planned, id="probe/xor/mixed-v2", recipe=replace(planned.recipe, version=2))
    monkeypatch.setattr(making, "plan", lambda dataset_id: newer)
    monkeypatch.setattr(making, "catalogue", lambda: [newer.id])
    datasets.make_dataset(newer.id, progress=False)
    assert datasets.card(newer.id)["superseded_by"] == ""
    assert datasets.card(IDS[0])["superseded_by"] == newer.id
    for _ in range(2):
        datasets.load(IDS[0])
    datasets.load(newer.id)
    said = capsys.readouterr().err
    assert said == f"warning: {IDS[0]} is superseded by {newer.id}; use that one.\n"
    assert rows(capsys)[IDS[0]]["superseded by"] == newer.id
