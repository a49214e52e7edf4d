"""Boards across datasets: only what all rows have, failures in, the same bytes in any order."""

from __future__ import annotations

import csv
import io
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark import cli
from benchmark.errors import UserError
from benchmark.files import sha256
from benchmark.record import to_json
from leaderboard import aggregate, formats, scores
from leaderboard.aggregate import Summary
from leaderboard.summarise import summarise
from tests.conftest import ROOT
from tests.records import record, runs, scale

A, B, C = (f"mpe/spread/{tier}-v1" for tier in ("expert", "medium", "random"))


def on(algo: str, means: dict[str, float], n: int = 3, **changes: object) -> list:
    return [
        item
        for dataset, mean in means.items()
        for item in runs(algo, [mean + seed for seed in range(n)], dataset=dataset, **changes)
    ]


def example(n: int = 3, **changes: object) -> list:
    return [
        *on("bc", {A: 40, B: 30, C: 0}, n, **changes),
        *on("omar", {A: 90, B: 60}, n, **changes),
        *on("td3bc", {A: 80, B: 50}, n, **changes),
        *on("madiff", {A: 70, B: 90, C: 10}, n, execution="joint", **changes),
        *on("late", {B: 99}, n, **changes),
    ]


def summary(records: list) -> Summary:
    (found,) = aggregate.summaries(summarise(records, {A: 50.0, B: 40.0}, scale))
    return found


def test_rows_are_compared_only_on_datasets_that_all_of_them_have() -> None:
    found = summary(example())
    assert found.datasets == (A, B)
    assert {line.row.label for line in found.lines} == {
        "omar", "td3bc", "madiff", "bc", "dataset mean", "random",
    }  # fmt: skip
    assert found.left_out == ("late",)
    text = formats.write(aggregate.sheets([found]))
    assert f"Only the 2 datasets that all these rows have: {A}, {B}." in " ".join(text.split())
    assert "left out, for lack of one of the datasets: late" in text


def test_a_row_on_one_dataset_takes_no_dataset_from_the_others() -> None:
    assert summary([*example(), *on("new", {C: 1})]).datasets == (A, B)
    with_many = [*example(), *on("x", {A: 1, B: 2, C: 3}), *on("y", {A: 1, B: 2, C: 3})]
    with_many = [*with_many, *on("z", {A: 1, B: 2, C: 3})]
    assert summary(with_many).datasets == (A, B, C)  # 4 rows x 3 beat 6 rows x 2
    assert summary([*with_many, *on("w", {A: 1, B: 1})]).datasets == (A, B)


def test_ranks_are_within_an_execution_and_floors_have_none() -> None:
    ranks = {line.row.label: line.rank for line in summary(example()).lines}
    assert ranks == {
        "omar": 1, "td3bc": 2, "madiff": 1, "bc": None, "dataset mean": None, "random": None,
    }  # fmt: skip


def test_few_seeds_have_welchs_interval_of_the_mean_and_no_other() -> None:
    (line,) = (x for x in summary(example()).lines if x.row.label == "omar")
    assert line.estimates["mean"].value == pytest.approx(76, abs=1e-3)
    assert line.estimates["mean"].low is not None
    assert line.estimates["IQM"].low is None
    assert line.over_bc.value == 1.0
    assert line.over_bc.low is None
    text = " ".join(formats.write(aggregate.sheets([summary(example())])).split())
    assert "Welch's 95% interval" in text
    assert "significan" not in text


def test_from_five_seeds_every_statistic_has_the_stratified_bootstraps_interval() -> None:
    (line,) = (x for x in summary(example(5)).lines if x.row.label == "omar")
    for name, statistic in aggregate.STATISTICS.items():
        assert line.estimates[name] == scores.bootstrap(line.strata, statistic)
    assert line.over_bc.low == 1.0


def test_a_failed_seed_is_a_score_and_a_row_that_lacks_seeds_has_no_part() -> None:
    records = example()
    index = next(i for i, r in enumerate(records) if r.algo == "omar")
    failed = replace(
        records[index], status="failed", reason="x", returns=[], team_returns=[], curve={}
    )
    changed = summary([*records[:index], failed, *records[index + 1 :]])
    (line,) = (x for x in changed.lines if x.row.label == "omar")
    assert line.strata[0].min() == 0.0
    gone = summary(records[:index] + records[index + 1 :])
    assert "omar" not in {x.row.label for x in gone.lines}


def test_tracks_protocols_and_namespaces_are_never_pooled() -> None:
    records = [
        *example(),
        *on("planner", {A: 1, B: 1}, track="model"),
        *on("quick", {A: 1, B: 1}, 10, protocol_name="full"),
        *on("game", {"probe/a/x-v1": 1, "probe/b/x-v1": 1}, task="probe/a-v1"),
    ]
    found = aggregate.summaries(summarise(records, {}, scale))
    groups = {(s.group.track, s.group.protocol, s.group.namespace) for s in found}
    assert groups == {
        ("offline", "quick", "mpe"), ("model", "quick", "mpe"), ("offline", "full", "mpe"),
        ("offline", "quick", "probe"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", formats.FORMATS)
def test_every_format_is_the_same_bytes_in_any_order_of_records(kind: str) -> None:
    records = example(5)

    def written() -> str:
        found = aggregate.summaries(summarise(records, {A: 50.0, B: 40.0}, scale))
        return formats.write(aggregate.sheets(found), kind)

    expected = written()
    for seed in range(2):
        random.Random(seed).shuffle(records)
        assert written() == expected


def test_a_random_floor_without_runs_stands_at_zero() -> None:
    (line,) = (x for x in summary(example()).lines if x.row.label == "random")
    assert line.estimates["mean"].value == 0.0
    assert line.seeds == 0
    assert np.allclose([s.size for s in line.strata], 1)


def test_the_command_selects_tracks_namespaces_tiers_and_names_the_nearest(capsys) -> None:
    words = ["leaderboard", "--records", str(ROOT / "leaderboard" / "results" / "probe")]
    chosen = ["--format", "csv", "--tier", "mixed", "--execution", "local"]
    assert cli.run(cli.parse([*words, *chosen])) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {line["dataset"] for line in lines} == {"probe/bandit/mixed-v1"}
    with pytest.raises(UserError, match="unknown tier of a board 'mixd'; did you mean 'mixed'"):
        cli.run(cli.parse([*words, "--tier", "mixd"]))


LARGE = """
import sys, time
from pathlib import Path
from benchmark import launch
from benchmark.cli import board
from leaderboard import aggregate, formats, table
begun = time.process_time()
rows = board.rows_of(board.read([Path(sys.argv[1])]))
print(table.render(rows), formats.write(aggregate.sheets(aggregate.summaries(rows))))
print(time.process_time() - begun, launch.peak_mb(), file=sys.stderr)
"""


@pytest.mark.slow
def test_ten_thousand_records_make_a_board_in_a_minute_and_a_gigabyte(tmp_path: Path) -> None:
    """1,000 rows of 10 seeds under the full protocol, 1,000 episodes each."""
    tasks = ("mpe/spread", "mpe/tag-flee", "mpe/world-flee", "mpe-omar/spread", "probe/bandit")
    tiers = ("random", "medium", "medium-replay", "expert")
    names = [(task, f"{task}/{tier}-v1") for task in tasks for tier in tiers]
    for seed in range(10):
        text = to_json(
            record("ALGO", seed, 50.0, protocol_name="full", task="TASK", dataset="DATA")
        )
        for i in range(50):
            for task, dataset in names:
                key = sha256(f"{i} {dataset} {seed // 5}".encode())
                own = text.replace(sha256(b"ALGO full " + b"[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"), key)
                own = own.replace("ALGO", f"algo{i}").replace("DATA", dataset)
                folder = tmp_path / dataset / f"algo{i}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{seed}.json").write_text(own.replace("TASK", f"{task}-v1"))
    command = [sys.executable, "-c", LARGE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    seconds, megabytes = map(float, done.stderr.split()[-2:])
    assert "algo49" in done.stdout
    assert "probe/bandit/random-v1" in done.stdout
    assert seconds < 60
    assert megabytes < 1000
