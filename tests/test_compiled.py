"""Compiled updates: every algorithm that has them trains as it does without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor

import algorithms
from algorithms.mfdiffuser import MFDiffuser
from algorithms.nn.compiled import MINIMUM_STEPS, resolve_compile
from benchmark import registry
from benchmark.algorithm import PerSeed, build_group
from benchmark.checks.fixtures import POPULATION, TEAM, toy_dataset
from benchmark.checks.subject import tensors
from benchmark.task import TaskSpec

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

UPDATES = 6  # of these, an actor's delayed ones too, and those of a second stage
COMPILED = [
    name
    for name in algorithms.names()
    if hasattr(algorithms.registry().cls(name).Config, "compile")
]
GAME = registry.task("meanfield/queue-n16-b4-v1").spec
BATTLE = registry.task("battle/skirmish-n8-rush-v1").spec
CASES: list[tuple[str, TaskSpec, dict[str, Any]]] = [
    *((name, TEAM, {}) for name in COMPILED if name != "mfdiffuser"),
    ("bc", POPULATION, {}),
    ("madiff.guess", TEAM, {"prediction": "clean"}),
    ("mfdiffuser", GAME, {"see_mu": True, "guidance": "cfg"}),
    ("mfdiffuser.attention", GAME, {"guidance": "classifier"}),
    ("mfdiffuser.inv_dyn", BATTLE, {"weighting": "none", "field": "isab"}),
]


def trained(
    row: str, spec: TaskSpec, settings: dict[str, Any], mode: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a group before and after a few updates."""
    cls, _, variant = algorithms.registry().row(row)
    config = cls.Config(**{**variant.config, **cls.small, **settings, "compile": mode})
    seeds = (0, 1) if cls.stacks_seeds else (0,)  # others compile each seed by itself
    data, rngs = toy_dataset(spec, 30), [np.random.default_rng(seed) for seed in seeds]
    group = build_group(cls, config, spec, seeds)
    group.prepare(data, UPDATES, rngs)
    before = {name: tensor.clone() for name, tensor in tensors(group).items()}
    for _ in range(UPDATES):
        group.update(group.sample(data, rngs))
    alike: list[Any] = group.members if isinstance(group, PerSeed) else [group]
    assert [one.compiled for one in alike] == [mode == "on"] * len(alike)
    return before, tensors(group)


@pytest.mark.parametrize(("row", "spec", "settings"), CASES)
def test_compiled_training_is_eager_training(
    row: str, spec: TaskSpec, settings: dict[str, Any]
) -> None:
    before, eager = trained(row, spec, settings, "off")
    compiled = trained(row, spec, settings, "on")[1]
    assert eager.keys() == compiled.keys()
    for name, wanted in eager.items():
        if name in before and wanted.is_floating_point():
            # Some way apart: Adam makes whole steps of a gradient's last bits
            apart, moved = ((x - wanted).abs().mean() for x in (compiled[name], before[name]))
            assert apart <= 0.1 * moved + 1e-5, f"{name} moved by {moved} and is {apart} away"


def test_a_long_run_of_a_planner_is_compiled_and_a_short_one_is_not() -> None:
    config = MFDiffuser.Config(**MFDiffuser.small)
    data, rngs = toy_dataset(GAME, 30), [np.random.default_rng(0)]
    for steps in (MINIMUM_STEPS - 1, MINIMUM_STEPS):
        planner = MFDiffuser(config, GAME, (0,))
        planner.prepare(data, steps, rngs)
        assert planner.compiled == resolve_compile("auto", steps) == (steps == MINIMUM_STEPS)
