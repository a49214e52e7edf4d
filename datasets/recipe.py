"""Recipes: which datasets can be made, and how. A recipe is any file of `datasets/recipes` with

    TASKS = r"mpe/spread"        regular expression of namespace/name
    TASK_VERSION = 1             version of the task that it collects from
    VERSION = 1                  version of its datasets; raise it whenever the data could change
    TIERS = ("random", "expert")
    files(tier) -> list[Path]    behaviour weights, whose bytes belong to the recipe; a recipe of
                                 several tasks has task_files(task, tier) instead
    size(task, tier) -> int      episodes
    collect(task, tier, writer, progress) -> None    calls writer.append and progress(episodes)

There is no list of recipes: the folder is scanned, and a file is imported when it is needed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark import registry
from benchmark.errors import UserError, unknown_name
from benchmark.provenance import packages
from benchmark.task import Task
from datasets.schema import DATASET_ID

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """One file of the folder, read but not yet imported."""

    file: Path
    tasks: str
    task_version: int
    version: int
    tiers: tuple[str, ...]

    def module(self) -> ModuleType:
        return importlib.import_module(f"datasets.recipes.{self.file.stem}")


@dataclass(frozen=True)
class Plan:
    """What one dataset id resolves to."""

    id: str
    recipe: Recipe
    task: Task
    tier: str

    def episodes(self) -> int:
        return self.recipe.module().size(self.task, self.tier)

    def files(self) -> list[Path]:
        """The behaviour weights that this dataset is rolled from."""
        module = self.recipe.module()
        if hasattr(module, "task_files"):
            return module.task_files(self.task, self.tier)
        return module.files(self.tier)

    def missing_files(self) -> list[Path]:
        """Behaviour weights that are not there: such a tier cannot be made (yet)."""
        return [file for file in self.files() if not file.exists()]

    def sha256(self) -> str:
        """Hash over the recipe's file, its behaviours, versions, task, tier and packages."""
        if missing := self.missing_files():
            raise UserError(
                f"dataset {self.id} cannot be made: its behaviour {missing[0]} is missing; train it"
                " with the recipe's training command, or take a tier that needs none (random)."
            )
        digest = hashlib.sha256(self.recipe.file.read_bytes())
        for file in self.files():
            digest.update(f"\n{file.name}\n".encode() + file.read_bytes())
        versions = sorted(packages(self.task.spec.packages).items())
        facts = (self.task.spec.id, self.tier, self.recipe.version, versions)
        digest.update(f"\n{facts!r}".encode())
        return digest.hexdigest()


@functools.cache
def recipes() -> tuple[Recipe, ...]:
    """Every recipe of the folder; files without TASKS are passed over."""
    found = []
    for file in sorted(FOLDER.glob("*.py")):
        constants = _constants(file)
        if "TASKS" in constants:
            found.append(
                Recipe(
                    file=file,
                    tasks=constants["TASKS"],
                    task_version=constants["TASK_VERSION"],
                    version=constants["VERSION"],
                    tiers=tuple(constants["TIERS"]),
                )
            )
    return tuple(found)


def catalogue() -> list[str]:
    """The ids of all datasets of the suite; parameterised tasks have more, by the same names."""
    found = []
    for task_id in registry.task_ids():
        name, _, version = task_id.rpartition("-v")
        for recipe in recipes():
            if re.fullmatch(recipe.tasks, name) and recipe.task_version == int(version):
                found += [f"{name}/{tier}-v{recipe.version}" for tier in recipe.tiers]
    return found


def plan(dataset_id: str) -> Plan:
    """The recipe, task and tier of an id; UserError with the nearest id where there is none."""
    if match := DATASET_ID.fullmatch(dataset_id):
        name = f"{match['namespace']}/{match['name']}"
        for recipe in recipes():
            if (
                re.fullmatch(recipe.tasks, name)
                and match["tier"] in recipe.tiers
                and int(match["version"]) == recipe.version
            ):
                task = registry.task(f"{name}-v{recipe.task_version}")
                return Plan(dataset_id, recipe, task, match["tier"])
    raise unknown_name("dataset", dataset_id, catalogue())


def _constants(file: Path) -> dict[str, Any]:
    """Upper-case constants of a file, without running it."""
    found: dict[str, Any] = {}
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("TASKS", "TASK_VERSION", "VERSION", "TIERS"):
                found[name] = ast.literal_eval(node.value)
    return found
