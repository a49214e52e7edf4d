"""Guards taken out one at a time: what holds them must notice.

A guard is a statement that refuses: a `raise`, or a `yield` of a fault; and each side of an `or`
that leads to it. A module is changed in place, function by function, so that whoever has imported
from it meets the change too.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import signal
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UserError

Place = tuple[int, int]  # line and column
REACHED = "__reached__"


@dataclass(frozen=True)
class Guard:
    place: Place
    statement: Place  # that it is, or leads to
    text: str


def refuses(node: ast.AST) -> bool:
    """Whether a statement raises an error of its own or tells a fault: a text, or another's."""
    if isinstance(node, ast.Raise):
        return node.exc is not None
    value = node.value if isinstance(node, ast.Expr) else None
    if isinstance(value, ast.Yield):
        text = value.value
        return isinstance(text, ast.JoinedStr) or (
            isinstance(text, ast.Constant) and isinstance(text.value, str)
        )
    return isinstance(value, ast.YieldFrom)


def sides(node: ast.AST) -> list[ast.expr]:
    """Each side of an `or` whose truth alone leads to a guard."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.BoolOp) and refuses(node.body[0]):
        return node.test.values if isinstance(node.test.op, ast.Or) else []
    return []


def place(node: Any) -> Place:
    return node.lineno, node.col_offset


def source(module: types.ModuleType) -> str:
    return Path(module.__file__ or "").read_text()


def guards(module: types.ModuleType) -> list[Guard]:
    lines, found = source(module).splitlines(), []
    for node in ast.walk(ast.parse("\n".join(lines))):
        if refuses(node):
            found.append(Guard(place(node), place(node), lines[place(node)[0] - 1].strip()))
        if isinstance(node, ast.If):
            found += [
                Guard(place(side), place(node.body[0]), f"or {ast.unparse(side)}")
                for side in sides(node)
            ]
    return sorted(found, key=lambda guard: guard.place)


class _Without(ast.NodeTransformer):
    """Takes out the guard at a place; inside `except`, the foreign error goes on."""

    def __init__(self, gone: Place) -> None:
        self.gone, self.handler = gone, False

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        before, self.handler = self.handler, True
        self.generic_visit(node)
        self.handler = before
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        for i, side in enumerate(sides(node)):
            if place(side) == self.gone:
                assert isinstance(node.test, ast.BoolOp)
                node.test.values[i] = ast.Constant(False)
        return self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if not (refuses(node) and place(node) == self.gone):
            return super().generic_visit(node)
        return ast.Raise() if self.handler and isinstance(node, ast.Raise) else ast.Pass()


class _Watched(ast.NodeTransformer):
    """Calls `REACHED` before every guard."""

    def generic_visit(self, node: ast.AST) -> Any:
        super().generic_visit(node)
        if not refuses(node):
            return node
        where = ast.Constant(place(node))  # type: ignore[arg-type]
        return [ast.Expr(ast.Call(ast.Name(REACHED, ast.Load()), [where], [])), node]


def _functions(
    owner: Any, code: types.CodeType
) -> Iterator[tuple[types.FunctionType, types.CodeType]]:
    """The functions and methods that some code defines, each with its code there."""
    for inner in code.co_consts:
        if not isinstance(inner, types.CodeType):
            continue
        found = vars(owner).get(inner.co_name)
        found = inspect.unwrap(getattr(found, "__func__", getattr(found, "fget", found)))
        if isinstance(found, types.FunctionType):
            yield found, inner
        elif isinstance(found, type):
            yield from _functions(found, inner)


@contextlib.contextmanager
def _as(module: types.ModuleType, tree: ast.AST) -> Iterator[None]:
    """Run a module's functions as another tree has them."""
    code = compile(ast.fix_missing_locations(tree), str(module.__file__), "exec")
    before = [(function, function.__code__) for function, _ in _functions(module, code)]
    try:
        for function, changed in _functions(module, code):
            function.__code__ = changed
        yield
    finally:
        for function, own in before:
            function.__code__ = own


@contextlib.contextmanager
def without(module: types.ModuleType, guard: Guard) -> Iterator[None]:
    """A module with one guard taken out."""
    with _as(module, _Without(guard.place).visit(ast.parse(source(module)))):
        yield


@contextlib.contextmanager
def instead(module: types.ModuleType, old: str, new: str) -> Iterator[None]:
    """A module with other words wherever some stand in its source."""
    text = source(module)
    assert old in text, f"{old!r} does not stand in {module.__name__}"
    with _as(module, ast.parse(text.replace(old, new))):
        yield


@contextlib.contextmanager
def watched(module: types.ModuleType) -> Iterator[set[Place]]:
    """The statements that refuse and are reached meanwhile."""
    reached: set[Place] = set()
    vars(module)[REACHED] = reached.add
    try:
        with _as(module, _Watched().visit(ast.parse(source(module)))):
            yield reached
    finally:
        del vars(module)[REACHED]


def holds(case: Callable[[], object]) -> bool:
    """Whether a case ends as it should; an error that is not caught in it is no such end."""
    try:
        return bool(case())
    except Exception:
        return False


def refused(call: Callable[[], object], words: str) -> Callable[[], bool]:
    """The case that a call is refused with these words."""

    def case() -> bool:
        try:
            call()
        except UserError as error:
            return words in str(error)
        return False

    return case


def unnoticed(module: types.ModuleType, cases: Mapping[str, Callable[[], object]]) -> list[str]:
    """The guards without which every case still holds; with all of them, every case must."""
    used: dict[Place, list[Callable[[], object]]] = {}
    with watched(module) as reached:
        for name, case in cases.items():
            reached.clear()
            assert holds(case), name
            for statement in reached:
                used.setdefault(statement, []).append(case)

    def idle(guard: Guard) -> bool:
        with without(module, guard):
            return all(holds(case) for case in used.get(guard.statement, []))

    return [guard.text for guard in guards(module) if idle(guard)]


class WaitedError(Exception):
    """Of no kind that the suite handles: a TimeoutError would be one of the file system."""


@contextlib.contextmanager
def impatient(seconds: float) -> Iterator[None]:
    """What waits for ever is interrupted; 0 seconds: it is not."""

    def wake(*_: Any) -> None:
        raise WaitedError

    before = signal.signal(signal.SIGALRM, wake)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
