"""Every registered algorithm, task and variant keeps the contract that is shipped to users."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import algorithms
import datasets
from benchmark import registry
from benchmark.checks.algorithm import AlgorithmSubject, check_algorithm
from benchmark.checks.dataset import check_dataset
from benchmark.checks.task import check_task
from benchmark.protocol import LONG
from tests.conftest import TINY

ROWS = [
    (name, variant)
    for name in algorithms.names()
    for variant in algorithms.registry().cls(name).variants
]


@pytest.mark.parametrize(("name", "variant"), ROWS)
def test_every_row_keeps_the_contract_of_algorithms(name: str, variant: str) -> None:
    cls = algorithms.registry().cls(name)
    results = check_algorithm(
        AlgorithmSubject(name, cls, variant, cls.small), cls.expected_failures
    )
    assert all(result.ok for result in results), [r.line() for r in results if not r.ok]


# An episode of a long task takes seconds
TASKS = [
    pytest.param(name, marks=pytest.mark.slow if registry.task(name).spec.horizon >= LONG else ())
    for name in registry.task_ids()
]


@pytest.mark.parametrize("task_id", TASKS)
def test_every_task_keeps_the_contract_of_tasks(task_id: str) -> None:
    results = check_task(registry.task(task_id))
    assert all(result.ok for result in results), [r.line() for r in results if not r.ok]


def test_a_made_dataset_keeps_the_contract_of_datasets(data_root: Path) -> None:
    results = check_dataset(datasets.load(TINY))
    assert all(result.ok for result in results), [r.line() for r in results if not r.ok]
    assert datasets.rankable(datasets.load(TINY))


def test_looking_a_task_up_loads_no_environment_library() -> None:
    code = (
        "import sys; from benchmark import registry; assert len(registry.task_ids()) > 20;"
        "print({'pettingzoo', 'torch', 'mpe2', 'mujoco', 'magent2'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
