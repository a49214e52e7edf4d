"""What can be read off an algorithm without running it: its config, its variants, its imports."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import get_args

from benchmark.algorithm import Algorithm, Execution, Track
from benchmark.checks import CheckFailed
from benchmark.protocol import PROTOCOLS

PROPERTIES = {"continuous", "discrete", "finite", "exchangeable", "logp"}
FORBIDDEN = (  # what reaches an environment, a run or the board
    "benchmark.envs",
    "benchmark.registry",
    "benchmark.runner",
    "benchmark.online",
    "benchmark.tracking",
    "leaderboard",
    "pettingzoo",
    "mpe2",
    "gymnasium",
    "gym",
)


def config_errors(cls: type[Algorithm]) -> None:
    """Config is a frozen dataclass whose fields have plain defaults and say what they are."""
    config = cls.Config
    name = f"{cls.__name__}.Config"
    if not dataclasses.is_dataclass(config) or not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise CheckFailed(f"{name} is no frozen dataclass; put @dataclass(frozen=True) on it")
    try:
        values = dataclasses.asdict(config())
    except TypeError as error:
        raise CheckFailed(f"{name}() fails ({error}); give every field a default") from error
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckFailed(
            f"{name} has a default that JSON cannot hold ({error}); use numbers, text, lists"
        ) from error
    silent = [field for field in values if not _is_documented(config, field)]
    if silent:
        raise CheckFailed(
            f"{name}.{silent[0]} is not explained; put a comment with its unit or source beside it,"
            " or name it in the class's docstring"
        )


def _is_documented(config: type, field: str) -> bool:
    """A comment on the field's line or above it, or its name in the docstring."""
    if re.search(rf"\b{field}\b", _own_docstring(config)):
        return True
    lines = textwrap.dedent(inspect.getsource(config)).splitlines()
    start = next((i for i, x in enumerate(lines) if re.match(rf"\s+{field}\s*:", x)), None)
    if start is None:  # inherited from another dataclass
        return any(_is_documented(base, field) for base in config.__mro__[1:-1])
    # A default may run over several lines; the field ends where the next one starts.
    end = start + 1
    while end < len(lines) and not re.match(r"\s+\w+\s*:|\s*#|\s*def |\s*@", lines[end]):
        end += 1
    above = start > 0 and lines[start - 1].strip().startswith("#")
    return above or any("#" in line or '"""' in line for line in lines[start:end])


def _own_docstring(config: type) -> str:
    """The docstring that was written: a dataclass without one is given its signature."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    assert isinstance(tree, ast.ClassDef)
    return ast.get_docstring(tree) or ""


def class_errors(cls: type[Algorithm]) -> None:
    """paper, requires and variants say what the board needs."""
    if not isinstance(getattr(cls, "paper", None), str) or not cls.paper:
        raise CheckFailed(f"{cls.__name__}.paper is empty; set it to arXiv:... or to 'none'")
    if unknown := set(cls.requires) - PROPERTIES:
        raise CheckFailed(
            f"{cls.__name__}.requires names {sorted(unknown)}; use some of {sorted(PROPERTIES)}"
        )
    if "default" not in cls.variants:
        raise CheckFailed(f"{cls.__name__}.variants lacks 'default'; add it")
    fields = {field.name for field in dataclasses.fields(cls.Config)}
    for name, variant in cls.variants.items():
        where = f"variant {name!r} of {cls.__name__}"
        steps = [variant.steps, *(f["steps"] for f in variant.families.values() if "steps" in f)]
        if any(set(table) != set(PROTOCOLS) for table in steps):
            raise CheckFailed(f"{where}: steps must have exactly the keys {sorted(PROTOCOLS)}")
        used = {*variant.config, *(key for f in variant.families.values() for key in f)}
        if wrong := used - fields - {"steps"}:
            raise CheckFailed(
                f"{where} sets {sorted(wrong)}, which Config lacks; its fields: {sorted(fields)}"
            )
        if variant.track not in get_args(Track):
            raise CheckFailed(f"{where}: track {variant.track!r}; use one of {get_args(Track)}")
        if variant.execution not in get_args(Execution):
            raise CheckFailed(
                f"{where}: execution {variant.execution!r}; use one of {get_args(Execution)}"
            )


def import_errors(cls: type[Algorithm]) -> None:
    """The file of an algorithm names no environment, also not inside a function."""
    source = inspect.getsourcefile(cls)
    assert source is not None
    named: set[str] = set()
    for node in ast.walk(ast.parse(Path(source).read_text())):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    bad = sorted(x for x in named if any(x == f or x.startswith(f + ".") for f in FORBIDDEN))
    if bad:
        raise CheckFailed(
            f"{source} imports {bad[0]}; an algorithm knows its TaskSpec and its batches only"
        )
