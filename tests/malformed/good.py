"""Odd files that hold a sound dataset all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.checks.fixtures import CHOICE, POPULATION, TEAM
from benchmark.task import Group, TaskSpec
from datasets.open import h5py, stored
from datasets.writer import Writer
from tests.dataset_files import SPEC, edit, episodes, write
from tests.malformed.structure import REW, repack

BATTLE = replace(CHOICE, can_die=True, outcomes=("margin", "win"), metric="margin")


def made(spec: TaskSpec, n: int = 5, length: int | None = None, **options: Any) -> Callable:
    """Written afresh; the functions of `options` get the shape [E, T, N] or [E]."""

    def build(path: Path) -> None:
        given = episodes(spec, n, length)
        steps = given["rew"].shape
        for name, value in options.items():
            given[name] = value(steps)
        with Writer(path, spec, id="toy/any/medium-v1") as writer:
            writer.append(**given)

    return build


def agents(n: int) -> TaskSpec:
    return replace(SPEC, groups=(Group("agents", n, obs_dim=3, act_dim=2),))


def stored_as(**options: Any) -> Callable:
    return lambda path: repack(path, "v110", **options)


def resizable(path: Path) -> None:
    def change(file: h5py.File) -> None:
        for name, array in stored(file).items():
            values = array[()]
            del file[name]
            file.create_dataset(name, data=values, maxshape=(None,) * values.ndim)

    edit(path, change)


def with_a_hole(path: Path) -> None:
    """An array deleted and written again, which leaves unused bytes behind."""

    def change(file: h5py.File) -> None:
        values = file[REW][()]
        del file[REW]
        file.create_dataset(REW, data=values)

    edit(path, change)


def annotated(path: Path) -> None:
    def change(file: h5py.File) -> None:
        file.attrs["note"] = np.bytes_("collected on a Sunday")
        file[REW].attrs["unit"] = 1.5
        file["steps"].attrs["numbers"] = np.arange(20)

    edit(path, change)


def constant(path: Path) -> None:
    """Rewards and observations all zero, which compress a thousandfold."""
    spec = agents(64)
    given = episodes(spec, 400)
    given |= {name: np.zeros_like(given[name]) for name in ("obs", "rew", "final_obs")}
    with Writer(path, spec, id="toy/any/medium-v1") as writer:
        writer.append(**given)
    repack(path, "v110", compression="gzip", compression_opts=9, shuffle=True)


def read_only(path: Path) -> None:
    path.chmod(0o400)


def all_chunked(path: Path) -> bool:
    with h5py.File(path, "r") as file:
        return all(array.chunks for array in stored(file).values())


CASES: dict[str, Callable[[Path], Any]] = {
    "as written": lambda path: None,
    "known sizes": lambda path: write(path, n_steps=23, n_episodes=7),
    "one agent": made(agents(1)),
    "32 agents": made(agents(32)),
    "one step": made(SPEC, 3, 1, terminated=lambda shape: np.ones(shape[0], bool)),
    "one episode": made(SPEC, 1),
    "one row": made(SPEC, 1, 1, terminated=lambda shape: np.ones(1, bool)),
    "two groups of different widths": made(TEAM),
    "discrete actions": made(CHOICE),
    "finite game": made(POPULATION),
    "finite game with log-probabilities": made(
        POPULATION, logp=lambda shape: np.full(shape, -1.0), active=lambda shape: np.ones(shape)
    ),
    "deaths and outcomes": made(
        BATTLE,
        alive=lambda shape: np.ones(shape),
        outcome=lambda shape: {"margin": np.zeros(shape[0]), "win": np.ones(shape[0])},
    ),
    "chunked": stored_as(chunks=True),
    "gzip": stored_as(compression="gzip"),
    "gzip, level 9": stored_as(compression="gzip", compression_opts=9),
    "shuffle and gzip": stored_as(compression="gzip", shuffle=True),
    "fletcher32": stored_as(fletcher32=True),
    "shuffle, gzip and fletcher32": stored_as(compression="gzip", shuffle=True, fletcher32=True),
    "resizable": resizable,
    "some arrays in chunks": lambda path: edit(
        path,
        lambda file: (
            file.move(REW, "old"),
            file.create_dataset(REW, data=file["old"][()], chunks=(5, 1), compression="gzip"),
            file.__delitem__("old"),
        ),
    ),
    "chunks larger than the array": lambda path: edit(
        path,
        lambda file: (
            file.move(REW, "old"),
            file.create_dataset(REW, data=file["old"][()], chunks=(64, 2), maxshape=(None, 2)),
            file.__delitem__("old"),
        ),
    ),
    "zeros, compressed": constant,
    "oldest format": lambda path: repack(path, "earliest"),
    "newest format": lambda path: repack(path, "latest"),
    "unused bytes": with_a_hole,
    "notes": annotated,
    "read-only": read_only,
}
