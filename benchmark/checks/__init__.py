"""Checks shipped to users: functions `check_<name>(subject)` whose messages say how to mend.

A check raises `CheckFailed`, or returns None, or returns a note (what it ran on, why it did not
apply). Lists of checks stand beside this file, one file per kind of subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.errors import UserError, unknown_name

Check = Callable[[Any], str | None]


class CheckFailed(Exception):
    """A contract is broken. Its text: what is wrong; how to mend it."""


@dataclass(frozen=True)
class Result:
    """Outcome of one check: ok = as expected, so an expected failure that passes is not ok."""

    name: str
    ok: bool
    message: str
    expected_failure: str = ""  # the reason why this check is expected to fail; empty: it is not

    def line(self) -> str:
        mark = "ok  " if self.ok else "FAIL"
        return f"{mark} {self.name}{': ' if self.message else ''}{self.message}"


def name_of(check: Check) -> str:
    """`check_seed_test` -> "seed_test"."""
    return getattr(check, "__name__", repr(check)).removeprefix("check_")


def run_check(check: Check, subject: Any, reason: str = "") -> Result:
    """One check; any exception in it is a failure, so that no check hides the others."""
    try:
        note = check(subject) or ""
    except (CheckFailed, UserError) as error:
        failure = str(error)
    except Exception as error:
        failure = f"{type(error).__name__} was raised: {error}"
    else:
        if reason:
            note = f"passes, but is listed as an expected failure ({reason}); take it off that list"
        return Result(name_of(check), not reason, note, reason)
    if reason:
        return Result(name_of(check), True, f"fails as expected ({reason}): {failure}", reason)
    return Result(name_of(check), False, failure)


def run_checks(
    checks: Iterable[Check], subject: Any, expected: Mapping[str, str] | None = None
) -> list[Result]:
    """All checks on one subject; `expected`: names of checks that must fail -> the reason why."""
    checks, expected = list(checks), expected or {}
    for name, reason in expected.items():
        if name not in map(name_of, checks):
            raise unknown_name("check", name, map(name_of, checks))
        if not reason:
            raise UserError(f"expected failure of check {name!r}: a reason is missing.")
    return [run_check(check, subject, expected.get(name_of(check), "")) for check in checks]
