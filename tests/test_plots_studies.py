"""Figures of studies: what they show is what the committed studies say, and claims name them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmark import cli
from benchmark.cli import claims as command
from benchmark.errors import UserError
from leaderboard import claims, plots_studies
from tests.conftest import ROOT

FIGURES = ROOT / "leaderboard" / "figures" / "claims"
OF_RECORDS = {"sample_efficiency"}


@pytest.mark.parametrize("name", plots_studies.FIGURES)
def test_a_figure_is_the_same_each_time_and_the_committed_one(name: str, tmp_path: Path) -> None:
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        plots_studies.FIGURES[name](command.studies(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert _texts(paths[0]) == _texts(FIGURES / f"{name}.svg")


def _texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_cards_name_figures_that_are_committed_and_every_figure_is_named() -> None:
    named = {card.figure for card in claims.load() if card.figure}
    assert named == OF_RECORDS | set(plots_studies.FIGURES)
    assert {path.stem for path in FIGURES.glob("*.svg")} == named
    page = command.PAGE.read_text()
    for name in named:
        assert page.count(f"(../leaderboard/figures/claims/{name}.svg)") >= 1


def test_a_study_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study agents_cql"):
        plots_studies.FIGURES["agents_cql"]({}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_times_are_marked_with_their_ratio_to_one_step(tmp_path: Path) -> None:
    policies = [{"name": "om2p", "update_ms": 2.0, "act_100_ms": 1.0}]
    policies += [{"name": "diffusion_ql K=5", "update_ms": 9.0, "act_100_ms": 5.0}]
    memory = [
        {"name": name, "size": size, "training_mb": mb}
        for name, mb in (("om2p", 10.0), ("diffusion_ql K=5", 12.0))
        for size in ("suite", "released")
    ]
    path = tmp_path / "a.svg"
    studies = {"perf/om2p": {"policies": policies}, "training_memory": {"rows": memory}}
    plots_studies.one_step(studies, path)
    assert {"4.5x", "5.0x", "1.2x"} <= set(_texts(path))


def test_the_command_draws_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = str(ROOT / "leaderboard" / "results" / "probe")
    words = ["plots", "studies", "--records", few, "--out", str(tmp_path)]
    assert cli.run(cli.parse(words)) == 0
    names = {path.name for path in tmp_path.iterdir()}
    suffixes = ("png", "svg")
    assert names == {f"studies--{name}.{end}" for name in plots_studies.FIGURES for end in suffixes}
