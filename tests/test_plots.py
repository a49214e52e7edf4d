"""Figures: written for every kind of board, the same bytes each time, refused with a sentence."""

import random
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmark.errors import UserError
from leaderboard import plots, published
from leaderboard.rows import Scale
from leaderboard.summarise import summarise
from tests.records import DATASET, record, runs, scale

OMAR = "mpe-omar/spread/medium-v1"


def example() -> list:
    return [
        *runs("bc", [50, 52, 47]),
        *runs("omar", [80, 83, 79]),
        *runs("a_name_$x_{1}$", [-20, 30, 10], execution="joint"),
        record("madiff", 0, 60, execution="mean-field"),
        record("madiff", 1, failed=True, execution="mean-field"),
    ]


def test_a_comparison_names_rows_floors_and_what_is_not_ranked(tmp_path: Path) -> None:
    plots.comparison(summarise(example(), {DATASET: 45.0}, scale), tmp_path / "board.svg")
    text = (tmp_path / "board.svg").read_text()
    for words in ("omar", "a_name_$x_{1}$", "dataset mean 45.0", "random 0", "bc 49.7"):
        assert words in text
    assert "mean-field, 1/2 failed, not ranked" in text
    assert "score: 0 = random play, 100 = expert" in text


def test_a_comparable_published_number_is_a_diamond_on_our_bar(tmp_path: Path) -> None:
    records = runs("omar", [300, 310, 290], task="mpe-omar/spread-v1", dataset=OMAR)
    rows = summarise(records, {}, scale)
    plots.comparison(rows, tmp_path / "without.svg")
    plots.comparison(published.beside(rows, published.load(), scale), tmp_path / "with.svg")
    without, with_ = ((tmp_path / f"{n}.svg").read_text() for n in ("without", "with"))
    assert "#cc79a7" not in without
    assert with_.count("stroke: #cc79a7") >= 3  # OMAR in MADiff, CoFlow, CFCQL, SPaCQL


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_figures_are_the_same_bytes_in_any_order_of_records(tmp_path: Path, suffix: str) -> None:
    def drawn(records: list, name: str) -> tuple[bytes, bytes]:
        board, losses = tmp_path / f"{name}.{suffix}", tmp_path / f"{name}-curves.{suffix}"
        plots.comparison(summarise(records, {DATASET: 45.0}, scale), board)
        plots.curves(records, losses)
        return board.read_bytes(), losses.read_bytes()

    records = example()
    expected = drawn(records, "first")
    random.Random(0).shuffle(records)
    assert drawn(records, "second") == expected
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [f".{suffix}"] * 4


@pytest.mark.parametrize(
    "records",
    [
        runs("bc", [50, 52, 47]),
        runs("omar", [0, 0, 0]),
        [record("omar", seed, failed=True) for seed in range(3)],
        [record("omar", seed, failed=True, curve={}) for seed in range(3)],
        runs("omar", list(range(60, 70)), protocol_name="full"),
        [],
    ],
)
@pytest.mark.parametrize("reference", [True, False])
def test_odd_boards_are_drawn_or_refused_with_a_sentence(
    tmp_path: Path, records: list, reference: bool
) -> None:
    scales = scale if reference else lambda task: Scale(scale(task).spec, None)
    has_curves = any(item.curve for item in records)
    with nullcontext() if records else pytest.raises(UserError, match="there are no rows"):
        plots.comparison(summarise(records, {}, scales), tmp_path / "board.png")
    with nullcontext() if has_curves else pytest.raises(UserError, match="has a curve"):
        plots.curves(records, tmp_path / "curves.png")
    assert (tmp_path / "board.png").exists() == bool(records)
    assert (tmp_path / "curves.png").exists() == has_curves


def test_curves_draw_one_panel_per_loss_and_tell_configurations_apart(tmp_path: Path) -> None:
    records = [
        *runs("omar", [1, 2]),
        *runs("omar", [1, 2], config={"lr": 1e-3, "hidden": 256}, key="f" * 64),
        record("bc", curve={"step": [0.0, 1.0], "bc_loss": [1.0, 0.5]}),
    ]
    plots.curves(records, tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    for words in ("actor_loss", "bc_loss", "omar [lr=0.001]", "omar [lr=0.0003]"):
        assert words in text


def test_a_wrong_suffix_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found suffix '.pdf', expected .png or .svg"):
        plots.comparison(summarise(example(), {}, scale), tmp_path / "board.pdf")


def test_runs_that_play_are_drawn_by_environment_steps_returns_first(tmp_path: Path) -> None:
    curve = {"step": [1.0, 2.0, 3.0], "env_steps": [100.0, 200.0, 300.0]}
    curve |= {"a_loss": [3.0, None, 1.0], "return": [0.0, 1.0, 2.0]}
    plots.curves(runs("omar", [1, 2], curve=curve, track="online"), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "environment steps" in text
    assert "gradient steps" not in text
    assert text.index(">return<") < text.index(">a_loss<")
    plots.curves(runs("omar", [1, 2], curve=curve), tmp_path / "r.svg", only=["return"])
    assert ">a_loss<" not in (tmp_path / "r.svg").read_text()
    rows = summarise(runs("omar", [1, 2], curve=curve, track="online"), {}, scale)
    plots.curves([run for row in rows for run in row.runs], tmp_path / "f.svg", rows)
    assert "random" not in text
    for floor in ("random", "expert"):
        assert f">{floor}<" in (tmp_path / "f.svg").read_text()
    nothing = {"step": [1.0], "a_loss": [None]}  # a loss of which no point was logged
    plots.curves([*runs("omar", [1], curve=nothing), *runs("bc", [1])], tmp_path / "c.svg")
    assert ">a_loss<" not in (tmp_path / "c.svg").read_text()
    mixed = [*runs("omar", [1], curve=curve), *runs("bc", [1])]
    plots.curves(mixed, tmp_path / "b.svg")
    assert "gradient steps" in (tmp_path / "b.svg").read_text()
