"""Records -> rows -> tables: ranking, failures, missing references, escapes of every format."""

import csv
import io
import json
import random
from dataclasses import asdict, replace

import pytest

from benchmark.errors import UserError
from benchmark.record import parse, to_json
from benchmark.task import Group, TaskSpec
from leaderboard.rows import Row, Scale, by_board
from leaderboard.summarise import summarise
from leaderboard.table import FORMATS, number, render
from tests.records import DATASET, TASK, record, reference, runs, scale

FLOORS = {DATASET: 45.0}
GAME = "meanfield/queue-n256-b32-v1"


def by_label(rows: list[Row]) -> dict[str, Row]:
    return {row.label: row for row in rows}


def words(rows: list[Row]) -> str:
    """The terminal table with its line breaks undone."""
    return " ".join(render(rows).split())


def unreferenced(task: str) -> Scale:
    return Scale(scale(task).spec, None)


def game(task: str) -> Scale:
    spec = TaskSpec(task, (Group("agent", 256, 1),), 40, metric="exploitability")
    return Scale(spec, reference(task, expert=3.0, uniform_exploitability=8.0))


def example() -> list:
    return [
        *runs("bc", [50, 52, 47]),
        *runs("omar", [80, 83, 79]),
        *runs("td3bc", [70, 75, 71]),
        *runs("madiff", [95, 96, 97], execution="joint", paper="arXiv:2305.17330 (reconstruction)"),
    ]


def test_the_builder_makes_records_that_the_schema_accepts() -> None:
    for item in (record(), record(failed=True)):
        assert parse(to_json(item)) == item


def test_algorithms_are_ranked_within_their_execution_and_floors_are_not() -> None:
    rows = by_label(summarise(example(), FLOORS, scale))
    assert {label: row.rank for label, row in rows.items()} == {
        "omar": 1,
        "td3bc": 2,
        "madiff": 1,
        "expert": None,
        "bc": None,
        "dataset mean": None,
        "random": None,
    }
    assert rows["omar"].score.value == pytest.approx(80.667, abs=1e-3)
    assert rows["dataset mean"].score.value == 45.0
    assert rows["random"].score.value == 0.0
    assert rows["madiff"].reconstruction


def test_tracks_and_protocols_never_share_a_board() -> None:
    records = [
        *runs("omar", [80, 83, 79]),
        *runs("planner", [99, 99, 99], track="model"),
        *runs("omar", [60], protocol_name="smoke"),
    ]
    boards = by_board(summarise(records, FLOORS, scale))
    assert [(board.track, board.protocol) for board in boards] == [
        ("offline", "quick"),
        ("offline", "smoke"),
        ("model", "quick"),
    ]
    for rows in boards.values():
        assert [row.rank for row in rows if row.kind == "algorithm"] == [1]
        assert {"bc", "random", "dataset mean"} <= set(by_label(rows))


def test_a_failed_seed_is_shown_and_scores_as_random_play() -> None:
    records = [record("omar", 0, 90), record("omar", 1, failed=True), record("omar", 2, 60)]
    row = by_label(summarise(records, FLOORS, scale))["omar"]
    assert row.points == pytest.approx((90, 0, 60), abs=1e-4)
    assert row.score.value == pytest.approx(50, abs=1e-4)
    assert row.team_return.value == pytest.approx(75, abs=1e-4)
    text = render([row])
    assert "2/3, 1 failed" in text
    assert "seed 1 failed: the loss became non-finite at step 400" in text


def test_a_row_whose_seeds_all_failed_stays_on_the_board() -> None:
    records = [record("omar", seed, failed=True) for seed in range(3)]
    row = by_label(summarise(records, FLOORS, scale))["omar"]
    assert (row.score.value, row.team_return, row.rank) == (0.0, None, 1)
    assert "0/3, 3 failed" in render([row])


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (runs("omar", [80, 83]), "wants training seed 2"),
        (runs("omar", [80, 83, 79], rankable=False), "not the listed content"),
    ],
)
def test_what_may_not_be_ranked_is_shown_with_the_reason(records, why) -> None:
    rows = summarise([*records, *runs("worse", [1, 2, 3])], FLOORS, scale)
    assert [row.label for row in rows][:2] == ["worse", "omar"]
    assert by_label(rows)["omar"].rank is None
    assert why in " ".join(by_label(rows)["omar"].notes)


def test_without_a_reference_there_is_no_score_and_the_board_says_why() -> None:
    rows = summarise([*runs("omar", [80, 83, 79]), *runs("bc", [5, 6, 7])], FLOORS, unreferenced)
    row = by_label(rows)["omar"]
    assert row.score is None
    assert row.rank == 1
    assert "No normalised score: no committed reference for" in words(rows)
    assert f"make reference TASK={TASK}" in words(rows)
    header = next(line for line in render(rows).splitlines() if line.startswith("#"))
    assert "score" not in header
    assert "80.67" in words(rows)


def test_without_a_reference_a_failed_seed_has_no_value_and_the_row_no_rank() -> None:
    records = [*runs("omar", [80, 83]), record("omar", 2, failed=True)]
    row = by_label(summarise(records, FLOORS, unreferenced))["omar"]
    assert row.rank is None
    assert "without a reference a failed seed has no value" in " ".join(row.notes)


def test_exploitability_ranks_and_the_return_does_not() -> None:
    records = []
    for algo, exploitability, mean in (("near", 0.5, 1.0), ("rich", 6.0, 99.0)):
        for seed in range(3):
            exact = {"exploitability": exploitability + 0.1 * seed}
            changes = {"task": GAME, "dataset": f"{GAME[:-3]}/medium-v1", "exact": exact}
            records.append(record(algo, seed, mean, **changes))
    rows = summarise(records, None, game)
    assert [(row.label, row.rank) for row in rows[:2]] == [("near", 1), ("rich", 2)]
    assert rows[0].score.value == pytest.approx(100 * (1 - 0.6 / 8))
    assert by_label(rows)["random"].score.value == 0.0
    assert by_label(rows)["equilibrium"].score.value == 100.0
    assert by_label(rows)["dataset mean"].score is None
    assert "is shown, never ranked" in words(rows)


def test_a_population_error_and_the_value_gap_stand_beside_the_return() -> None:
    records = []
    for algo, errors in (("measured", [0.2, 0.3, 0.4]), ("older", [])):
        for seed in range(3):
            exact = {"exploitability": 1.0, "value": 24.5}
            exact |= {"population_error": errors[seed]} if errors else {}
            changes = {"task": GAME, "dataset": f"{GAME[:-3]}/medium-v1", "exact": exact}
            records.append(record(algo, seed, 24.0, **changes))
    rows = summarise(records, None, game)
    measured, older = by_label(rows)["measured"], by_label(rows)["older"]
    assert measured.population_error.value == pytest.approx(0.3)
    assert measured.value_gap.value == pytest.approx(0.5)
    assert older.population_error is None
    assert "population error  value gap" in render(rows)
    assert "max_t |mu_N(t) - mu(t)|_1" in words(rows)
    assert json.loads(render(rows, "json"))[0]["value_gap"] == pytest.approx(0.5)
    only_older = summarise(records[3:], None, game)
    assert "population error" not in render(only_older)


def test_a_battle_is_ranked_by_its_margin() -> None:
    def battle(task: str) -> Scale:
        spec = TaskSpec(task, (Group("agent", 64, 8),), 500, metric="margin", outcomes=("margin",))
        return Scale(spec, reference(task, random=-0.5, expert=0.5))

    records = []
    for algo, margin, mean in (("strong", 0.25, 1.0), ("busy", -0.25, 99.0)):
        for seed in range(3):
            changes = {"task": "battle/toy-v1", "dataset": "battle/toy/medium-v1"}
            made = record(algo, seed, mean, **changes)
            records.append(replace(made, outcomes={"margin": [margin] * len(made.team_returns)}))
    assert parse(to_json(records[0])) == records[0]
    rows = summarise(records, {"battle/toy/medium-v1": 0.0}, battle)
    assert [(row.label, row.rank) for row in rows[:2]] == [("strong", 1), ("busy", 2)]
    assert rows[0].score.value == pytest.approx(75)
    assert rows[0].margin.value == 0.25
    assert by_label(rows)["dataset mean"].score.value == pytest.approx(50)
    assert "survival margin" in words(rows)
    long = [replace(item, protocol="full", seed=item.seed) for item in records]
    assert summarise(long, None, battle)[0].board.episodes == 100
    without = [replace(item, outcomes={}) for item in records]
    assert "not ranked: its records hold no survival margin" in words(
        summarise(without, None, battle)
    )


def test_two_configurations_of_an_algorithm_are_two_rows_that_say_what_differs() -> None:
    other = runs("omar", [70, 71, 72], config={"lr": 1e-3, "hidden": 256}, key="b" * 64)
    labels = set(by_label(summarise([*runs("omar", [80, 83, 79]), *other], FLOORS, scale)))
    assert {"omar [lr=0.0003]", "omar [lr=0.001]"} <= labels


def test_two_versions_of_the_code_are_named_by_its_hash_not_by_new_fields() -> None:
    new = {"config": {"lr": 3e-4, "hidden": 256, "added": 1}, "code_sha256": "c" * 64}
    other = runs("omar", [70, 71, 72], key="b" * 64, **new)
    labels = set(by_label(summarise([*runs("omar", [80, 83, 79]), *other], FLOORS, scale)))
    assert "omar [code=cccccccc]" in labels
    assert not any("added" in label for label in labels)


def test_of_two_records_of_a_seed_the_better_verified_counts_and_never_the_better_score() -> None:
    lucky = record("omar", 0, 99, key="f" * 64)
    verified = record("omar", 0, 70, key="0" * 64, level=2)
    row = by_label(summarise([lucky, verified], FLOORS, scale))["omar"]
    assert row.points == pytest.approx((70,), abs=1e-4)


def test_a_shortened_evaluation_is_announced() -> None:
    item = record("omar", 0, 80)
    short = record("omar", 0, returns=item.returns[:4], team_returns=item.team_returns[:4])
    notes = by_label(summarise([short], FLOORS, scale))["omar"].notes
    assert "evaluated on 4 episodes, the quick protocol has 100" in notes


def test_a_board_without_bc_says_how_to_get_it() -> None:
    text = words(summarise(runs("omar", [80, 83, 79]), FLOORS, scale))
    assert f"make bench ALGO=bc DATASET={DATASET} PROTOCOL=quick" in text


def test_ten_seeds_show_the_iqm_and_no_points() -> None:
    rows = summarise(runs("omar", list(range(60, 80, 2)), protocol_name="full"), FLOORS, scale)
    assert by_label(rows)["omar"].score.method == "IQM, bootstrap"
    assert "Interquartile mean and 95% bootstrap interval" in words(rows)
    assert "each seed" not in words(rows)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_the_same_bytes_in_any_order_of_records(kind: str) -> None:
    other = "mpe/spread/expert-v1"
    records = [*example(), *runs("omar", [60, 61, 62], dataset=other, key="b" * 64)]
    expected = render(summarise(records, FLOORS, scale), kind)
    for seed in range(3):
        random.Random(seed).shuffle(records)
        assert render(summarise(records, FLOORS, scale), kind) == expected


def test_the_terminal_table_fits_its_width_and_says_what_it_shows() -> None:
    text = render(summarise(example(), FLOORS, scale))
    assert max(map(len, text.splitlines())) <= 120
    for shown in (
        "0 = random play, 100 = expert",
        "the mean of the agents' returns",
        "conditional on the collected dataset",
        "madiff (reconstruction)",
        "bc (floor)",
        "75.5 to 85.8",
        "80.0, 83.0, 79.0",
        "71k",
        "8/0",
        "configurations tried / online episodes",
    ):
        assert shown in " ".join(text.split())
    assert "significan" not in text


HOSTILE = (
    "=cmd|'/c calc'!A1 | <img src=x> [x](javascript:0) \x1b[2J $x_{1}$ \\input{/etc/passwd}"
    " \u202emo"
)


def test_no_format_lets_a_name_break_out() -> None:
    rows = summarise([record(HOSTILE, paper=HOSTILE)], FLOORS, scale)
    for kind in FORMATS:
        rendered = render(rows, kind)
        assert "\x1b" not in rendered
        assert "\u202e" not in rendered
    for line in csv.DictReader(io.StringIO(render(rows, "csv"))):
        for cell in line.values():
            assert not cell.startswith(("=", "+", "@", "\t", "\r"))
            assert not cell.startswith("-") or float(cell) < 0
    assert "<img" not in render(rows, "markdown").replace(r"\<img", "")
    table = next(x for x in render(rows, "markdown").splitlines() if "cmd" in x)
    assert table.replace(r"\|", "").count("|") == 10
    assert r"\input" not in render(rows, "latex")


def test_json_and_csv_keep_every_digit() -> None:
    rows = summarise(example(), FLOORS, scale)
    found = {item["algorithm"]: item for item in json.loads(render(rows, "json"))}
    assert found["omar"]["score"] == by_label(rows)["omar"].score.value
    lines = {x["algorithm"]: x for x in csv.DictReader(io.StringIO(render(rows, "csv")))}
    assert float(lines["omar"]["score_low"]) == by_label(rows)["omar"].score.low
    assert json.loads(lines["omar"]["each_seed"]) == list(by_label(rows)["omar"].points)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'markdown'"):
        render([], "markdwon")


def test_no_records_make_an_empty_table_and_no_error() -> None:
    assert render(summarise([])) == "No records yet.\n"
    assert json.loads(render([], "json")) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-2e-13, "0"),
        (80.6667, "80.67"),
        (-1234.5678, "-1235"),
        (0.04, "0.04000"),
        (9999.9, "10000"),
        (3e9, "3.000e+09"),
    ],
)
def test_numbers_keep_four_figures(value, shown) -> None:
    assert number(value) == shown


def test_a_cost_column_is_the_mean_over_seeds_and_memory_the_peak() -> None:
    items = [record("omar", seed) for seed in range(3)]
    items[2] = record(
        "omar", 2, cost=type(items[2].cost)(**(asdict(items[2].cost) | {"peak_mb": 999.0}))
    )
    row = by_label(summarise(items, FLOORS, scale))["omar"]
    assert row.train_seconds == 13.5
    assert row.peak_mb == 999.0


def test_a_single_seed_claims_no_interval() -> None:
    rows = summarise(runs("omar", [-1e-13], protocol_name="smoke"), FLOORS, scale)
    assert "One training seed: no interval." in words(rows)
    assert " to " not in words(rows[:1]).split("Levels")[1]
    assert "-0.0" not in words(rows)
