"""Published numbers: read strictly, put beside ours, and flagged by rule, not by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import registry
from benchmark.errors import UserError
from leaderboard import published
from leaderboard.rows import Row, Scale
from leaderboard.summarise import summarise
from leaderboard.table import render
from tests.records import reference, runs, scale

TASK, DATASET = "mpe-omar/spread-v1", "mpe-omar/spread/medium-v1"
LIBRARY = published.load()


def omar(task: str = TASK) -> Scale:
    """The task with ends that are not the published ones, 159.8 and 516.8."""
    return Scale(scale(task).spec, reference(task, random=160.0, expert=560.0))


def rows_on(dataset: str = DATASET, task: str = TASK, **changes: object) -> list[Row]:
    records = runs("omar", [300, 310, 290], dataset=dataset, task=task, **changes)
    return published.beside(summarise(records, {dataset: 270.0}, omar), LIBRARY, omar)


def numbers(rows: list[Row], algorithm: str, source: str = "madiff") -> Iterator[Row]:
    for row in rows:
        number = row.printed and row.printed.number
        if number and (number.algorithm, number.source) == (algorithm, source):
            yield row


def test_every_committed_number_has_a_source_a_known_task_or_none_and_a_unit() -> None:
    assert len(LIBRARY.numbers) > 500
    cells = [(n.source, n.benchmark, n.task, n.tier, n.algorithm, n.unit) for n in LIBRARY.numbers]
    assert len(cells) == len(set(cells))
    assert {n.source for n in LIBRARY.numbers} == set(LIBRARY.sources)
    assert {s.read for s in LIBRARY.sources.values()} <= set(published.READ)
    assert set(LIBRARY.tasks) <= {(n.benchmark, n.task) for n in LIBRARY.numbers}
    for task in LIBRARY.tasks.values():
        for name in filter(None, (task.program, *task.namesakes)):
            assert registry.task(name).spec.team_return == "mean"
        assert task.program or task.differs, "another program must say in what it differs"
    assert set(LIBRARY.rows) <= {n.algorithm for n in LIBRARY.numbers}


def test_names_of_rows_are_rows_that_the_suite_has() -> None:
    import algorithms

    for names in LIBRARY.rows.values():
        for name in set(names) - {"dataset mean"}:
            algorithms.registry().row(name)


def test_a_published_score_stands_for_its_return_on_the_boards_own_scale() -> None:
    (row,) = numbers(rows_on(), "OMAR")
    assert row.printed is not None
    assert row.printed.number.mean == 47.9
    raw = 159.8 + 0.479 * (516.8 - 159.8)
    assert row.team_return.value == pytest.approx(raw)
    assert row.score.value == pytest.approx(100 * (raw - 160) / 400)
    assert row.printed.same_scale.value == pytest.approx(100 * (300 - 159.8) / 357, abs=1e-3)
    assert row.rank is None


def test_a_failed_seed_counts_in_the_number_that_stands_beside_the_papers() -> None:
    whole = next(numbers(rows_on(), "OMAR")).printed
    records = runs("omar", [300, 310, 290], dataset=DATASET, task=TASK)
    records[1] = replace(
        records[1], status="failed", reason="x", returns=[], team_returns=[], curve={}
    )
    rows = published.beside(summarise(records, {}, omar), LIBRARY, omar)
    assert next(numbers(rows, "OMAR")).printed.same_scale.value < whole.same_scale.value - 10


@pytest.mark.parametrize(
    ("dataset", "task", "protocol", "flag", "why"),
    [
        ("mpe-omar/spread/omar-medium-seed0-v1", TASK, "full", "yes", ""),
        ("mpe-omar/spread/omar-medium-seed0-v1", TASK, "quick", "budget", "budget: the quick"),
        (DATASET, TASK, "full", "scale only", "data: mpe-omar/spread/medium-v1 is another"),
        (DATASET, TASK, "quick", "scale only", "budget: the quick"),
        ("mpe/spread/medium-v1", "mpe/spread-v1", "full", "no", "another program than mpe/spread"),
    ],
)
def test_the_flag_is_computed_from_program_scale_data_and_budget(
    dataset: str, task: str, protocol: str, flag: str, why: str
) -> None:
    (row,) = numbers(rows_on(dataset, task, protocol_name=protocol), "OMAR")
    assert row.printed.comparable == flag
    assert why in " ".join(row.printed.reasons)
    assert bool(row.printed.reasons) == (flag != "yes")
    assert (row.score is None) == (flag == "no")


def test_another_team_return_or_unknown_constants_are_another_scale() -> None:
    (row,) = numbers(rows_on(), "OMAR")
    number, task = row.printed.number, LIBRARY.tasks["mpe-omar", "spread"]
    assert published.judge(number, replace(task, team_return="sum"), row.board)[0] == "no"
    assert published.judge(number, replace(task, random=None), row.board)[0] == "no"


def test_numbers_stand_on_the_boards_of_their_tier_only() -> None:
    found = {row.printed.number.tier for row in rows_on() if row.printed}
    assert found == {"medium"}
    assert not [row for row in rows_on(track="model") if row.printed]


def test_tables_show_comparable_numbers_and_say_how_many_are_not() -> None:
    text = " ".join(render(rows_on()).split())
    assert "OMAR, MADiff" in text
    assert "scale only" in text
    assert "another collection than the paper's" in text
    other = " ".join(render(rows_on("mpe/spread/medium-v1", "mpe/spread-v1")).split())
    assert "OMAR, MADiff" not in other
    assert "published numbers that cannot be compared (another program than mpe/spread-v1" in other


def test_csv_and_json_hold_every_published_number_with_its_flag() -> None:
    rows = rows_on("mpe/spread/medium-v1", "mpe/spread-v1")
    expected = sum(row.kind == "published" for row in rows)
    lines = list(csv.DictReader(io.StringIO(render(rows, "csv"))))
    assert sum(x["kind"] == "published" and x["comparable"] == "no" for x in lines) == expected > 9
    items = json.loads(render(rows, "json"))
    assert sum(item["comparable"] == "no" for item in items) == expected


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("madif,mpe-omar,spread,medium,BC,score,1,,", "did you mean 'madiff'"),
        ("madiff,mpe-omar,spread,medium,BC,scores,1,,", "did you mean 'score'"),
        ("madiff,mpe-omar,spread,medium,BC,score,high,,", "line 2: .*'high'"),
        ("madiff,mpe-omar,spread", "has 3 cells, expected 9"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, why: str) -> None:
    for name in ("sources.toml", "benchmarks.toml"):
        (tmp_path / name).write_text((published.FOLDER / name).read_text())
    (tmp_path / "results.csv").write_text(",".join(published.COLUMNS) + "\n" + line + "\n")
    with pytest.raises(UserError, match=why):
        published.load(tmp_path)
