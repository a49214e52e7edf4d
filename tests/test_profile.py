"""Profiles of an update: the parts are all of it, and the floor is its matrix products."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmark import profile
from benchmark.cli import main
from tests.conftest import TINY
from tests.test_runner import make_run


def test_the_floor_is_the_products_of_forward_and_backward() -> None:
    weight = torch.randn(20, 30, requires_grad=True)
    x = torch.randn(10, 20)
    _, gflop = profile.products(lambda: (x @ weight).relu().sum().backward())
    assert gflop == pytest.approx(2 * (2 * 10 * 20 * 30) / 1e9)  # x needs no gradient


@pytest.mark.parametrize("row", ["bc", "plain_net"])
def test_the_parts_of_an_update_are_all_of_it(tmp_path: Path, row: str) -> None:
    run = make_run(tmp_path, row)
    found = profile.measure(run, seconds=0.05, rounds=2)
    assert sum(found.parts.values()) == pytest.approx(found.update)
    assert all(spent >= 0 for spent in found.parts.values())
    assert found.parts["matrix products"] > 0
    assert found.sample > 0
    assert found.floor > 0
    text = profile.table(found, run.seeds)
    assert f"2 seeds, {found.update / 2:.3f} ms each" in text
    assert "aten::" in text


@pytest.mark.parametrize(
    ("operator", "part"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::_fused_adam_", "optimiser"),
        ("aten::index_select", "copies and look-ups"),
        ("aten::relu", "element by element"),
        ("aten::normal_", "random numbers"),
        ("autograd::engine::evaluate_function: MmBackward0", "Python and dispatch"),
        ("## Call CompiledFxGraph abc ##", "compiled graph"),
        ("Torch-Compiled Region: 0/0", "compiled graph"),
    ],
)
def test_operators_are_known_by_their_names(operator: str, part: str) -> None:
    assert profile.part_of(operator) == part


def test_a_profile_leaves_nothing_behind(data_root: Path, tmp_path: Path, capsys) -> None:
    words = f"profile bc --dataset {TINY} --out {tmp_path} --seconds 0.02"
    assert main(words.split()) == 0
    assert "times that" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("random", "random takes no gradient steps"),
        ("matd3", "matd3 is online"),
        ("matd3b", "did you mean 'matd3bc'?"),
    ],
)
def test_what_has_no_update_to_profile_is_told(row: str, words: str, data_root, capsys) -> None:
    source = [] if row.startswith("matd3") else ["--dataset", TINY]
    assert main(["profile", row, *source]) == 2
    assert words in capsys.readouterr().err


def test_a_compiled_update_keeps_the_floor_of_the_eager_one(tmp_path: Path) -> None:
    run = make_run(tmp_path, "bc", overrides={"compile": "on"})
    assert profile._eager(run.config) == dataclasses.replace(run.config, compile="off")
