"""Making datasets from recipes, and loading them by name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmark.errors import UserError
from benchmark.files import atomic_path
from benchmark.provenance import packages
from benchmark.task import TaskSpec
from datasets import cardfile, library
from datasets.loader import Dataset
from datasets.open import open_dataset, stored
from datasets.recipe import Plan, catalogue, plan
from datasets.schema import fields
from datasets.writer import MAX_WAITING, Writer

PERM_SEED = 1_000  # of the agents' order in every dataset of a recipe


def load(dataset_id: str, backend: str = "auto", make: bool = False) -> Dataset:
    """A dataset of the suite by its id, such as "mpe/spread/medium-v1".

    backend: auto, ram, mmap or shuffle. make: make it first where it is missing. Raises UserError
    where the id is unknown, or the file is missing, damaged or not that of its card.
    """
    path = library.path(dataset_id)
    if not path.exists():
        plan(dataset_id)
        if not make:
            raise UserError(
                f"dataset {dataset_id} is not at {path}; make it with"
                f" `make data DATASET={dataset_id}`."
            )
        make_dataset(dataset_id)
    dataset = library.load_file(path, backend, library.card(dataset_id))
    if dataset.id != dataset_id:
        raise UserError(f"{path} says that it is {dataset.id}, expected {dataset_id}.")
    return dataset


def make_dataset(
    dataset_id: str, force: bool = False, progress: bool = True, record: bool = False
) -> Path:
    """Make a dataset and, where it has none yet, its card; returns the path of the file.

    A file of the same recipe that is there already is left alone unless `force`. Where a card
    exists, the new content must be listed in it, or come from an equal recipe with statistics
    within 3 standard errors; `record` then enters content and recipe into the card.
    """
    planned, path, known = plan(dataset_id), library.path(dataset_id), library.card(dataset_id)
    recipe_sha256 = planned.sha256()
    if path.exists() and not force and not record and _is_of(path, recipe_sha256):
        library.load_file(path, "mmap", known)
        print(f"{dataset_id}: there already, {path}")
        return path
    start = time.perf_counter()
    with atomic_path(path) as temporary:
        _collect(planned, temporary, recipe_sha256, progress)
        new = _card(temporary)
        _settle(planned, known, new, record)
    counts, mean = new["counts"], new["statistics"]["return_mean"]
    print(
        f"{dataset_id}: {counts['episodes']:,} episodes, {counts['steps']:,} steps,"
        f" {path.stat().st_size / 1e6:.1f} MB, mean team return {mean:.5g},"
        f" {time.perf_counter() - start:.1f} s, {path}"
    )
    return path


def describe_cost(dataset_id: str) -> str:
    """One line: how much there is to make."""
    planned = plan(dataset_id)
    spec, episodes = planned.task.spec, planned.episodes()
    size = _bytes(spec, episodes)
    return (
        f"{dataset_id}: {episodes:,} episodes of at most {spec.horizon} steps x {spec.n_agents:,}"
        f" agents, at most {size / 1e6:,.1f} MB"
    )


def _collect(planned: Plan, path: Path, recipe_sha256: str, progress: bool) -> None:
    spec, episodes = planned.task.spec, planned.episodes()
    # Too large to wait in memory: fixed sizes, which suit tasks whose episodes all last the horizon
    large = _bytes(spec, episodes) > MAX_WAITING
    with (
        Writer(
            path,
            spec,
            id=planned.id,
            perm_seed=PERM_SEED,
            n_steps=episodes * spec.horizon if large else None,
            n_episodes=episodes if large else None,
            recipe_sha256=recipe_sha256,
            packages=packages(spec.packages),
        ) as writer,
        tqdm(total=episodes, desc=planned.id, unit="episode", disable=not progress) as bar,
    ):

        def advance(_: int) -> None:
            bar.update(writer.appended - bar.n)

        planned.recipe.module().collect(planned.task, planned.tier, writer, advance)


def _bytes(spec: TaskSpec, episodes: int) -> int:
    """Size of a file whose episodes all last the horizon, optional arrays included."""
    import numpy as np

    total = 0
    for field in fields(spec).values():
        shape = field.resolve(episodes * spec.horizon, episodes)
        total += np.dtype(field.dtype).itemsize * int(np.prod(shape, dtype=np.int64))
    return total


def _is_of(path: Path, recipe_sha256: str) -> bool:
    file, meta = open_dataset(path)
    file.close()
    return meta.recipe_sha256 == recipe_sha256


def _card(path: Path) -> dict[str, Any]:
    file, meta = open_dataset(path)
    try:
        return cardfile.make_card(meta, stored(file))
    finally:
        file.close()


def _settle(planned: Plan, known: dict[str, Any], new: dict[str, Any], record: bool) -> None:
    """Write the first card, or hold new data against the card that is there."""
    home = cardfile.card_path(planned.id)
    if planned.id not in catalogue():
        home = library.path(planned.id).with_suffix(".toml")
    content = new["content_sha256"][0]
    if not known:
        cardfile.write_card(home, new)
        return
    listed = content in known["content_sha256"]
    why = "" if listed else cardfile.mismatch(known, new["recipe_sha256"], new)
    if why:
        raise UserError(
            f"{planned.id}: the data just made are not those of the card {home.name}: {why}; if"
            f" the recipe was changed on purpose, raise VERSION in {planned.recipe.file.name}."
        )
    if record:
        # Equal content proves that an edited recipe still makes the same data.
        known["recipe_sha256"] = new["recipe_sha256"]
        known["packages"] = new["packages"]
        if not listed:
            known["content_sha256"].append(content)
        cardfile.write_card(home, known)
