"""Where a number comes from: code, packages, processor and threads. Also the hash that names an
algorithm's code.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmark import files
from benchmark.errors import UserError
from benchmark.record import Provenance

ROOT = Path(__file__).resolve().parents[1]
SAME_CODE = ROOT / "leaderboard" / "same_code.json"
PACKAGES = ("torch", "numpy", "h5py", "gymnasium", "pettingzoo", "mpe2", "safetensors")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.cache
def packages(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions of the distributions that could change a number."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def cpu_fingerprint() -> str:
    """Hash of the processor's feature flags: equal bits are promised between equal fingerprints
    only.
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
        flags = next(line for line in text.splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    return hashlib.sha256(flags.encode()).hexdigest()[:16]


def machine() -> dict[str, object]:
    """Facts of this machine that a measured time depends on, its load of this moment included."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in reversed(Path("/proc/cpuinfo").read_text().splitlines()):
            name, _, value = line.partition(":")
            facts[name.strip()] = value.strip()
    return {
        "processor": facts.get("model name", platform.processor()),
        # which cores they are, where a cloud's name for them does not say it
        "processor_family_model": f"{facts.get('cpu family')} {facts.get('model')}",
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1_5_15_min": [round(x, 2) for x in os.getloadavg()],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": packages(),
        "commit": _git("rev-parse", "HEAD"),
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def collect(threads: int) -> Provenance:
    return Provenance(
        commit=_git("rev-parse", "HEAD"),
        dirty=bool(_git("status", "--porcelain", "--untracked-files=no")),
        python=platform.python_version(),
        packages=dict(packages()),
        platform=f"{platform.system()}-{platform.machine()}",
        cpu=cpu_fingerprint(),
        threads=threads,
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _code(path: Path) -> bytes:
    """A module's text without the docstring that it opens with."""
    text = path.read_text()
    tree = ast.parse(text)
    if ast.get_docstring(tree) is None:
        return text.encode()
    lines = text.splitlines(keepends=True)
    first = tree.body[0]
    return "".join(lines[: first.lineno - 1] + lines[first.end_lineno :]).encode()


def plugin_sha256(path: Path) -> str:
    """`code_sha256` of the algorithm in a plug-in file, read and never imported."""
    try:
        return files.sha256(f"{path.name} {files.sha256(_code(path))}".encode())
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"plug-in {path} cannot be read as Python: {error}.") from error


def _imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@functools.cache
def same_codes() -> list[dict[str, Any]]:
    """What leaderboard/same_code.json says: codes that were shown to have the bits of older ones,
    by `python -m benchmark same`.
    """
    return json.loads(SAME_CODE.read_text()) if SAME_CODE.is_file() else []


def first_code(code: str) -> str:
    """The oldest code that a code was shown to have the bits of; itself where there is none."""
    older = {entry["code"]: entry["same_as"] for entry in same_codes()}
    seen = {code}
    while (code := older.get(code, code)) not in seen:
        seen.add(code)
    return code


def same_settings(code: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the settings that came with a code of the same bits, where they have
    the value that keeps them.
    """
    first, added = first_code(code), dict[str, Any]()
    for entry in same_codes():
        if first_code(entry["code"]) == first:
            added |= entry.get("added", {})
    return {k: v for k, v in config.items() if k not in added or added[k] != v}


def code_sha256(cls: type) -> str:
    """The name of an algorithm's code: its hash, or that of the first code with the same bits."""
    return first_code(written_sha256(cls))


@functools.cache
def written_sha256(cls: type) -> str:
    """Hash of an algorithm's file and, followed through, of its own modules that it imports.

    Their first docstrings do not count: an algorithm's header may tell what its runs showed.
    """

    def loaded(name: str) -> Path | None:
        file = getattr(sys.modules.get(name), "__file__", None)
        return Path(file) if file else None

    package = (cls.__module__.rsplit(".", 1)[0] + ".") if "." in cls.__module__ else None
    return _followed(Path(inspect.getfile(cls)).resolve(), package, loaded)


def checkout_sha256(folder: Path, name: str) -> str:
    """`written_sha256` of the algorithm of a name in another checkout, of which nothing is run."""

    def there(module: str) -> Path | None:
        path = folder.joinpath(*module.split("."))
        found = (path.with_suffix(".py"), path / "__init__.py")
        return next((file for file in found if file.is_file()), None)

    return _followed(folder / "algorithms" / f"{name}.py", "algorithms.", there)


def _followed(start: Path, package: str | None, find: Callable[[str], Path | None]) -> str:
    seen: dict[str, Path] = {start.name: start}
    waiting = [start]
    while waiting:
        for name in sorted(_imported_modules(waiting.pop())):
            if package is None or not name.startswith((package, "algorithms.")):
                continue
            file = find(name)
            if file and name not in seen:
                seen[name] = file
                waiting.append(file)
    lines = sorted(f"{name} {files.sha256(_code(path))}" for name, path in seen.items())
    return files.sha256("\n".join(lines).encode())
