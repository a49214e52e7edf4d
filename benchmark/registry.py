"""Names -> tasks and algorithms, without a central list.

A task family is a module under `benchmark/envs` with a FAMILY. An algorithm is a file of a package
(`algorithms/bc.py` is
`bc`), an installed entry point of the group `offline_marl_bench.algorithms`, or a file given by
`--plugin`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from benchmark.errors import UserError, unknown_name
from benchmark.task import Family, Task

if TYPE_CHECKING:
    from benchmark.algorithm import Algorithm, Variant

ENTRY_POINTS = "offline_marl_bench.algorithms"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


# ----------------------------------------------------------------------------------------------
# tasks
@functools.cache
def families() -> tuple[Family, ...]:
    """Every task family, found by scanning `benchmark/envs`."""
    import benchmark.envs as package

    found = []
    root = Path(package.__path__[0])
    for file in sorted(root.rglob("*.py")):
        # Read before it is imported: modules without tasks may load what a look-up does not need.
        if re.search(r"^FAMILY\b", file.read_text(), re.MULTILINE):
            name = ".".join((package.__name__, *file.relative_to(root).with_suffix("").parts))
            found.append(importlib.import_module(name).FAMILY)
    return tuple(found)


def task_ids() -> list[str]:
    """The tasks that boards and checks go through; parameterised families have more members."""
    return [name for family in families() for name in family.examples]


@functools.lru_cache(maxsize=64)
def task(task_id: str) -> Task:
    """The task of a name; an unknown one raises UserError with the nearest."""
    for family in families():
        if match := re.fullmatch(family.pattern, task_id):
            return family.build(match)
    raise unknown_name("task", task_id, task_ids())


# ----------------------------------------------------------------------------------------
# algorithms
def check_name(name: str, what: str) -> None:
    """Raise UserError, which opens with `what`, for a name that no algorithm may have."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{what}: found {name!r}, expected lower-case letters, digits and _, such as my_algo."
        )


class Algorithms:
    """The algorithms of one package, of installed plug-ins and of plug-in files."""

    def __init__(self, package: ModuleType, plugins: tuple[str, ...] = ()) -> None:
        self.package = package
        self.plugins = {Path(path).stem: Path(path) for path in plugins}
        for path in self.plugins.values():
            if not path.is_file():
                raise UserError(f"plug-in {path} is not there; expected a Python file.")

    def names(self) -> list[str]:
        modules = (info.name for info in pkgutil.iter_modules(self.package.__path__))
        own = {name for name in modules if name != "nn" and not name.startswith("_")}
        installed = {entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
        return sorted(own | installed | set(self.plugins))

    def shipped(self, name: str) -> bool:
        """Whether the package itself has an algorithm of this name; nothing is imported."""
        file = Path(self.package.__path__[0]) / f"{name}.py"
        return bool(_NAME.fullmatch(name)) and file.exists()

    def cls(self, name: str) -> type[Algorithm]:
        """The Algorithm subclass called `name`; the module is imported only now."""
        if name in self.plugins:
            module = self._plugin(name)
        elif self.shipped(name):
            module = importlib.import_module(f"{self.package.__name__}.{name}")
        else:
            entries = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
            if not entries:
                raise unknown_name("algorithm", name, self.names())
            loaded = next(iter(entries)).load()
            module = loaded if isinstance(loaded, ModuleType) else sys.modules[loaded.__module__]
        return _only_algorithm(module, name)

    def row(self, row: str) -> tuple[type[Algorithm], str, Variant]:
        """`algo` or `algo.variant` -> class, variant name, variant."""
        name, _, variant = row.partition(".")
        cls = self.cls(name)
        variant = variant or "default"
        if variant not in cls.variants:
            raise unknown_name(f"variant of {name}", variant, cls.variants)
        return cls, variant, cls.variants[variant]

    def _plugin(self, name: str) -> ModuleType:
        path = self.plugins[name]
        check_name(name, f"plug-in {path}: the file's name is the algorithm's name")
        module_name = f"offline_marl_plugin_{name}"
        if module_name in sys.modules:
            return sys.modules[module_name]
        specification = importlib.util.spec_from_file_location(module_name, path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[module_name] = module
        try:
            specification.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise UserError(
                f"plug-in {path} could not be imported: {type(error).__name__}: {error}."
            ) from error
        return module


def _only_algorithm(module: ModuleType, name: str) -> type[Algorithm]:
    from benchmark.algorithm import Algorithm

    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Algorithm)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    ]
    if len(found) != 1:
        raise UserError(
            f"algorithm {name!r} ({module.__file__}) defines {len(found)} concrete subclasses of"
            " benchmark.algorithm.Algorithm, expected exactly one; does it implement update, act,"
            " state_dict and load_state_dict?"
        )
    cls = found[0]
    for attribute in ("Config", "paper", "variants"):
        if not hasattr(cls, attribute):
            raise UserError(
                f"algorithm {name!r} ({module.__file__}) lacks the attribute {attribute}."
            )
    if "default" not in cls.variants:
        raise UserError(f"algorithm {name!r} ({module.__file__}) has no variant named 'default'.")
    return cls
