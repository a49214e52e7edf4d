"""Figures across boards and of games: what they show, floors always, the same bytes each time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark import cli
from benchmark.cli import plots as command
from benchmark.errors import UserError
from benchmark.task import Group, TaskSpec
from leaderboard import aggregate, plots_across, plots_games, published
from leaderboard.rows import Row, Scale
from leaderboard.summarise import summarise
from tests.conftest import ROOT
from tests.records import DATASET, reference, runs, scale

EXPERT = "mpe/spread/expert-v1"
OMAR = "mpe-omar/spread/medium-v1"
SIZES = ("meanfield/toy-n100/medium-v1", "meanfield/toy-n1000/medium-v1")
MEANS = {DATASET: 45.0, EXPERT: 95.0}


def records() -> list:
    found = []
    for dataset, bonus in ((DATASET, 0), (EXPERT, 20)):
        found += runs("bc", [50 + bonus, 52, 47], dataset=dataset)
        found += runs("omar", [80, 83 - bonus, 79], dataset=dataset)
        found += runs("a_$x_{1}$", [20, 30, 10 + bonus], dataset=dataset, execution="joint")
    for i, dataset in enumerate(SIZES):
        found += runs("omar", [80, 83, 79 + i], dataset=dataset, task="meanfield/toy-v1")
        found += runs("bc", [10, 13, 9 + i], dataset=dataset, task="meanfield/toy-v1")
    found += runs("omar", [300, 310, 290], dataset=OMAR, task="mpe-omar/spread-v1")
    return found


def rows(found: list | None = None) -> list[Row]:
    made = summarise(records() if found is None else found, MEANS, scale)
    return published.beside(made, published.load(), scale)


def game(task: str) -> Scale:
    spec = TaskSpec(task, (Group("agent", 256, 1),), 40, metric="exploitability")
    return Scale(spec, reference(task, expert=3.0, uniform_exploitability=8.0))


def game_rows(curve: bool) -> list[Row]:
    made = [
        replace(item, exact={"exploitability": 1.0 + item.seed / 10})
        for name in ("bc", "tmfpg") for item in runs(name, [1, 2, 3])
    ]  # fmt: skip
    if curve:
        own = {"step": [1.0, 500.0, 1000.0], "exploitability": [7.0, 3.0, 1.0]}
        made = [replace(item, curve=own) for item in made]
    return summarise(made, MEANS, game)


def on(dataset: str) -> list[Row]:
    return [row for row in rows() if row.board.dataset == dataset]


def profiles(path: Path) -> None:
    (found,) = (s for s in aggregate.summaries(rows()) if s.group.namespace == "mpe")
    plots_across.profiles(found, path)


FLOWS = {"equilibrium": np.eye(3)[[0, 1, 2]], "uniform play (floor)": np.full((3, 3), 1 / 3)}
PLANS = {
    "full attention": {
        "cells": {
            "100": {"outcome": "ok", "seconds": 0.1, "mb": 3.0},
            "1000": {"outcome": "out of memory (8 GB)"},
        }
    },
    "sums": {
        "cells": {str(n): {"outcome": "ok", "seconds": n / 1e4, "mb": 0.0} for n in (100, 1000)}
    },
}
DRAWN: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "profiles": (profiles, ("omar", "a_$x_{1}$", "bc (floor)", "dataset mean (floor)",
                            "random (floor)")),
    "cost": (lambda path: plots_across.pareto(on(DATASET), path),
             ("ms per joint action", "training seconds", "omar", "dataset mean", "random",
              "expert")),
    "size": (lambda path: plots_across.by_size(rows(), path),
             ("meanfield/toy-nN/medium-v1", "1,000", "omar", "bc (floor)", "random (floor)")),
    "tiers": (lambda path: plots_across.tiers(rows(), path),
              ("spread/medium", "spread/expert", "bc (floor)", "dataset mean (floor)",
               "random (floor)", "not run")),
    "papers": (lambda path: plots_across.papers(rows(), [], path),
               ("published score", "omar", "random play", "expert")),
    "exploitability": (lambda path: plots_games.exploitability(game_rows(False), path),
                       ("tmfpg", "bc (floor)", "random (floor)", "0 = equilibrium")),
    "flow": (lambda path: plots_games.flows("toy", FLOWS, path),
             ("equilibrium", "uniform play (floor)", "distance 1.33")),
    "plans": (lambda path: plots_games.plans(PLANS, path),
              ("full attention", "sums", "processor seconds", "out of memory (8 GB)")),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_names_its_rows_and_floors_and_is_the_same_bytes_again(
    name: str, tmp_path: Path
) -> None:
    draw, words = DRAWN[name]
    for path in ("a.svg", "b.svg", "c.png"):
        draw(tmp_path / path)
    text = (tmp_path / "a.svg").read_text()
    for word in words:
        assert word in text, word
    assert "mathdefault" not in text
    assert text == (tmp_path / "b.svg").read_text()
    assert (tmp_path / "c.png").stat().st_size > 5_000


def test_the_order_of_records_changes_no_byte(tmp_path: Path) -> None:
    found = records()
    plots_across.tiers(rows(found), tmp_path / "a.svg")
    random.Random(0).shuffle(found)
    plots_across.tiers(rows(found), tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_nothing_beats_what_the_front_joins() -> None:
    points = [(1.0, 10.0), (2.0, 30.0), (3.0, 20.0), (2.0, 30.0)]
    front = [p for p in points if not any(plots_across._beats(q, p) for q in points)]
    assert front == [(1.0, 10.0), (2.0, 30.0), (2.0, 30.0)]


def test_an_exploitability_over_training_is_a_line(tmp_path: Path) -> None:
    plots_games.exploitability(game_rows(False), tmp_path / "a.svg")
    plots_games.exploitability(game_rows(True), tmp_path / "b.svg")
    assert (tmp_path / "b.svg").stat().st_size > (tmp_path / "a.svg").stat().st_size


@pytest.mark.parametrize(
    ("draw", "why"),
    [
        (lambda path: plots_across.by_size(on(DATASET), path), "two sizes of one game"),
        (lambda path: plots_across.tiers([], path), "no row has a score"),
        (lambda path: plots_across.pareto([], path), "no row of the board has a score"),
        (lambda path: plots_across.papers([], [], path), "nothing published"),
        (lambda path: plots_games.exploitability(on(DATASET), path), "has an exploitability"),
    ],
)
def test_what_has_no_data_is_refused_with_a_sentence(draw, why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why):
        draw(tmp_path / "x.svg")
    assert not list(tmp_path.iterdir())


def test_the_equilibriums_flow_is_drawn_beside_uniform_play_of_finite_games_only() -> None:
    named = command.flows("meanfield/queue-n256-v1", ())
    assert list(named) == ["equilibrium", "uniform play (floor)"]
    assert all(np.allclose(mu.sum(-1), 1) for mu in named.values())
    assert command.flows("mpe/spread-v1", ()) == {}


def test_the_command_draws_chosen_kinds_as_png_and_svg(tmp_path: Path, capsys) -> None:
    few = str(ROOT / "leaderboard" / "results" / "probe")
    words = ["plots", "tiers", "size", "--records", few, "--out", str(tmp_path)]
    assert cli.run(cli.parse(words)) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["probe--quick--tiers.png", "probe--quick--tiers.svg"]
    assert "two sizes of one game" in capsys.readouterr().out
