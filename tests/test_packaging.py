"""The project's own files install what it needs."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from datasets.open import h5py

ROOT = Path(__file__).parents[1]
HDF5 = (1, 14, 4)  # of the oldest h5py that is taken; before, damaged files could crash its parser


def numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cpu -> 2, 13, 0"""
    return tuple(int(n) for n in re.findall(r"\d+", version.partition("+")[0]))


def too_old(installed: dict[str, str], hdf5: tuple[int, ...]) -> list[str]:
    """What is below the bounds of pyproject.toml, of names and versions."""
    found = ["HDF5"] if hdf5 < HDF5 else []
    for requirement in project()["dependencies"]:
        name, low = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement).groups()  # type: ignore[union-attr]
        if numbers(installed[canonical(name)]) < numbers(low):
            found.append(name)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().split()
    return {canonical(name): version for name, version in (line.split("==") for line in lines)}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_lock_pins_every_dependency_and_every_test_tool() -> None:
    pinned = lock()
    asked = project()["dependencies"] + project()["optional-dependencies"]["test"]
    for requirement in asked:
        name, low = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement).groups()  # type: ignore[union-attr]
        assert canonical(name) in pinned, name
        numbers = [int(n) for n in re.findall(r"\d+", pinned[canonical(name)])]
        assert numbers >= [int(n) for n in low.split(".")], requirement
    assert pinned["torch"] == "2.13.0"  # any other pin takes gigabytes of CUDA


def test_nothing_that_runs_here_is_older_than_what_is_safe() -> None:
    """Loading weights is sound from torch 2.10 on; the library that h5py brings counts too."""
    asked = [re.match(r"[\w-]+", text).group() for text in project()["dependencies"]]  # type: ignore[union-attr]
    here = {canonical(name): importlib.metadata.version(name) for name in asked}
    hdf5 = h5py.version.hdf5_version_tuple
    assert too_old(here, hdf5) == []
    assert too_old(here | {"torch": "2.9.1+cpu"}, hdf5) == ["torch"]
    assert too_old(here | {"h5py": "3.11.0"}, (1, 14, 2)) == ["HDF5", "h5py"]


def test_what_the_lock_installs_needs_nothing_more() -> None:
    """Every dependency of a locked package is locked too (markers and extras apart)."""
    pinned = lock()
    cuda = re.compile(r"nvidia-|triton|cuda")  # the CPU build of torch asks for none of these
    for name in pinned:
        for requirement in importlib.metadata.requires(name) or []:
            if ";" in requirement:
                continue
            needed = canonical(re.match(r"[\w.-]+", requirement).group())  # type: ignore[union-attr]
            assert needed in pinned or cuda.match(needed), f"{name} needs {needed}"


def test_every_package_is_listed_for_installation() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(settings["tool"]["setuptools"]["packages"])
    for part in ("benchmark", "algorithms", "datasets", "leaderboard"):
        for init in (ROOT / part).rglob("__init__.py"):
            assert ".".join(init.parent.relative_to(ROOT).parts) in listed


def test_the_citation_names_the_version_that_is_installed() -> None:
    assert f"version: {project()['version']}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {project()['version']}" in (ROOT / "CHANGELOG.md").read_text()
