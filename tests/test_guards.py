"""Taking guards out: what is idle is named, what is needed is not; afterwards a module is whole."""

from __future__ import annotations

import importlib.util
import time
import types
from pathlib import Path

import pytest

from benchmark.errors import UserError
from tests.guards import WaitedError, guards, impatient, instead, refused, unnoticed

SOURCE = """
import functools
from benchmark.errors import UserError

class Number:
    @functools.cached_property
    def other(self): return 1

    @staticmethod
    def check(x):
        if x < 0 or x < -5:
            raise UserError("negative")
        try:
            1 / x
        except ZeroDivisionError as error:
            raise UserError("zero") from error
        if x > 99:
            raise UserError("large")

def faults(x):
    yield from more(x)
    if x == 3:
        yield "three"

def more(x):
    if x == 4:
        yield f"four {x}"
    if x == 5:
        yield x
"""


@pytest.fixture
def module(tmp_path: Path) -> types.ModuleType:
    (tmp_path / "made.py").write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("made", tmp_path / "made.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_idle_guards_are_named_and_the_others_are_not(module: types.ModuleType) -> None:
    check, faults = module.Number.check, module.faults  # as another module would import them
    cases = {
        "negative": refused(lambda: check(-9), "negative"),
        "zero": refused(lambda: check(0), "zero"),
        "three": lambda: list(faults(3)) == ["three"],
    }
    idle = ["or x < 0", "or x < -5", 'raise UserError("large")', "yield from more(x)"]
    idle.append('yield f"four {x}"')
    assert len(guards(module)) == 8
    assert unnoticed(module, cases) == idle
    cases["one"] = refused(lambda: check(-1), "negative")
    cases["four"] = lambda: list(faults(4)) == ["four 4"]
    assert unnoticed(module, cases) == ["or x < -5", 'raise UserError("large")']
    with pytest.raises(AssertionError, match="wrong"):
        unnoticed(module, cases | {"wrong": lambda: list(faults(3)) == []})
    assert list(faults(3)) == ["three"]
    with pytest.raises(UserError, match="negative"):
        check(-1)


def test_other_words_hold_for_a_while(module: types.ModuleType) -> None:
    faults = module.faults
    with instead(module, "x == 3", "x == 33"):
        assert list(faults(33)) == ["three"]
    assert list(faults(33)) == []
    with pytest.raises(AssertionError, match="does not stand in made"), instead(module, "zzz", ""):
        pass


def test_what_waits_for_ever_is_interrupted() -> None:
    with pytest.raises(WaitedError), impatient(0.05):
        time.sleep(60)
