"""check and reference: the shipped contracts, and the measured ends of a task's scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import algorithms
import datasets
from benchmark import registry
from benchmark.checks import Result, run_checks
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.cli.options import Check, ReferenceScores


def run(options: Check) -> int:
    """Run the checks of one subject; exit code 1 where one fails."""
    given = [name for name in ("algo", "task", "dataset") if getattr(options, name)]
    if len(given) != 1:
        raise UserError(
            "check wants one of ALGO=, TASK= and DATASET=,"
            f" found {', '.join(given) if given else 'none'}."
        )
    results: list[Result]
    if options.algo:
        from benchmark.checks.algorithm import AlgorithmSubject, check_algorithm

        cls = algorithms.registry(options.plugin).cls(options.algo)
        results = check_algorithm(
            AlgorithmSubject(options.algo, cls, config=cls.small), cls.expected_failures
        )
    elif options.task:
        from benchmark.checks.task import CHECKS as TASK_CHECKS

        results = run_checks(TASK_CHECKS, registry.task(options.task))
    else:
        from benchmark.checks.dataset import CHECKS as DATASET_CHECKS

        results = run_checks(DATASET_CHECKS, datasets.load(options.dataset))
    for result in results:
        print(result.line())
    bad = sum(not result.ok for result in results)
    print(f"{len(results) - bad} checks as expected, {bad} failed")
    return 1 if bad else 0


def reference(options: ReferenceScores) -> int:
    """Measure and write a task's reference."""
    from benchmark.reference import write_reference

    print(f"wrote {write_reference(registry.task(options.task))}")
    return 0
