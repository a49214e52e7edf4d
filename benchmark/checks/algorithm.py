"""What every algorithm must keep. For each check, tests/test_algorithms.py has one that breaks it.

A user checks an algorithm of their own so:

    from benchmark.checks.algorithm import AlgorithmSubject, check_algorithm
    for result in check_algorithm(AlgorithmSubject("mine", Mine)):
        print(result.line())
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from benchmark.checks import Result, acting, run_checks, source, training
from benchmark.checks.subject import AlgorithmSubject


def check_algorithm(
    subject: AlgorithmSubject, expected: Mapping[str, str] | None = None
) -> list[Result]:
    """Run all of CHECKS; `expected`: names of checks that must fail -> the reason."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # bits are promised for one thread
    try:
        return run_checks(CHECKS, subject, expected)
    finally:
        torch.set_num_threads(threads)


def check_config(subject: AlgorithmSubject) -> None:
    """Config is a frozen dataclass with plain, explained defaults."""
    source.config_errors(subject.cls)


def check_class(subject: AlgorithmSubject) -> None:
    """paper, requires and variants are well formed."""
    source.class_errors(subject.cls)


def check_imports(subject: AlgorithmSubject) -> None:
    """The file imports no environment."""
    source.import_errors(subject.cls)


CHECKS = (
    check_config,
    check_class,
    check_imports,
    training.check_seeds,
    training.check_update,
    training.check_learning,
    training.check_group,
    training.check_state,
    acting.check_actions,
    acting.check_begin,
    acting.check_execution,
    acting.check_policy_table,
)
