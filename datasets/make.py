"""Making datasets from recipes, and loading them by name."""

from __future__ import annotations

import re
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmark.errors import UserError
from benchmark.files import TEMPORARY, atomic_path
from benchmark.provenance import packages
from datasets import cardfile, library
from datasets.loader import Dataset
from datasets.open import open_dataset, stored
from datasets.recipe import Plan, catalogue, plan
from datasets.schema import fields
from datasets.writer import MAX_WAITING, Writer

PERM_SEED = 1_000  # of the agents' order in every dataset of a recipe
SMALL = 10**9  # bytes that a dataset of `make_all` has at most
LEFT_OVER = 86_400  # seconds after which an unfinished file is that of a killed process


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
    dataset_id: str,
    force: bool = False,
    progress: bool = True,
    record: bool = False,
) -> Path:
    """Make a dataset and, where it has none yet, its card; returns the path of the file.

    A file of the same recipe that is there already is left alone unless `force`. Where a card
    exists, the new content must be listed in it, or come from an equal recipe with statistics
    within 3 standard errors; `record` then enters content and recipe into the card.
    """
    planned = plan(dataset_id)
    if not force and not record and is_there(planned):
        print(f"{dataset_id}: there already, {library.path(dataset_id)}")
        return library.path(dataset_id)
    with tqdm(
        total=planned.episodes(), desc=dataset_id, unit="episode", disable=not progress
    ) as bar:
        return _make(planned, record, lambda done: bar.update(done - bar.n))


def make_all(
    dataset_ids: Sequence[str],
    max_bytes: int = SMALL,
    force: bool = False,
    progress: bool = True,
    record: bool = False,
) -> int:
    """Make all of the datasets under one bar, but for those there already, those that may be larger
    than `max_bytes` and those whose packages or weights are missing; returns how many failed.

    Small ones come first. It can be stopped at any moment: each file appears only when it is
    complete, and the next call makes those that are not there.
    """
    plans = [plan(dataset_id) for dataset_id in dataset_ids]
    missing = Counter(why for planned in plans if (why := _missing(planned)))
    for why, count in missing.items():
        print(f"left out {count} datasets: {why}")
    plans = [planned for planned in plans if not _missing(planned)]
    large = [planned for planned in plans if _bytes_of(planned) > max_bytes]
    for planned in large:
        print(
            f"{planned.id}: left out, it may take {_bytes_of(planned) / 1e9:.1f} GB, more than"
            f" {max_bytes / 1e9:g}; make it by its name."
        )
    plans = sorted((planned for planned in plans if planned not in large), key=_bytes_of)
    failed = made = finished = 0
    total = sum(planned.episodes() for planned in plans)
    with tqdm(total=total, unit="episode", disable=not progress) as bar:
        for planned in plans:
            bar.set_description(planned.id)

            def advance(done: int, before: int = finished) -> None:
                bar.update(before + done - bar.n)

            try:
                if force or record or not is_there(planned):
                    _make(planned, record, advance)
                    made += 1
            except UserError as error:
                failed += 1
                tqdm.write(f"{planned.id}: failed, {error}")
            finished += planned.episodes()
            bar.update(finished - bar.n)
    there = len(plans) - made - failed
    print(f"{made} datasets made, {there} there already, {failed} failed")
    return failed


def is_there(planned: Plan) -> bool:
    """Whether file and card are there and of today's recipe; UserError for a damaged file."""
    path, card = library.path(planned.id), library.card(planned.id)
    if not path.exists() or not card or not _is_of(path, planned.sha256()):
        return False
    library.load_file(path, card=card)
    return True


def describe_cost(dataset_id: str) -> str:
    """One line: how much there is to make."""
    planned = plan(dataset_id)
    spec = planned.task.spec
    return (
        f"{dataset_id}: {planned.episodes():,} episodes of at most {spec.horizon} steps x"
        f" {spec.n_agents:,} agents, at most {_bytes_of(planned) / 1e6:,.1f} MB"
    )


def _make(planned: Plan, record: bool, progress: Callable[[int], None]) -> Path:
    """Collect, compare with the card, publish; `progress` gets the episodes done so far."""
    path, known = library.path(planned.id), library.card(planned.id)
    start = time.perf_counter()
    _sweep(path.parent)
    with atomic_path(path) as temporary:
        _collect(planned, temporary, progress)
        new = _card(temporary)
        _settle(planned, known, new, record)
    counts, mean = new["counts"], new["statistics"]["return_mean"]
    tqdm.write(
        f"{planned.id}: {counts['episodes']:,} episodes, {counts['steps']:,} steps,"
        f" {path.stat().st_size / 1e6:.1f} MB, mean team return {mean:.5g},"
        f" {time.perf_counter() - start:.1f} s, {path}"
    )
    return path


def _collect(planned: Plan, path: Path, progress: Callable[[int], None]) -> None:
    spec, episodes = planned.task.spec, planned.episodes()
    # Too large to wait in memory: fixed sizes, which suit tasks whose episodes all last the horizon
    large = _bytes_of(planned) > MAX_WAITING
    with Writer(
        path,
        spec,
        id=planned.id,
        perm_seed=PERM_SEED,
        n_steps=episodes * spec.horizon if large else None,
        n_episodes=episodes if large else None,
        recipe_sha256=planned.sha256(),
        packages=packages(spec.packages),
    ) as writer:
        planned.recipe.module().collect(
            planned.task, planned.tier, writer, lambda _: progress(writer.appended)
        )


def _sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder."""
    for left_over in folder.glob(TEMPORARY + "*"):
        if time.time() - left_over.stat().st_mtime > LEFT_OVER:
            left_over.unlink(missing_ok=True)


def _missing(planned: Plan) -> str:
    """Why a dataset cannot be made here: packages (and the extra that has them), or behaviour
    weights; "" where it can.
    """
    if planned.missing_files():
        return "their behaviour weights are not in datasets/behaviours."
    wanted = planned.task.spec.packages
    absent = sorted(set(wanted) - set(packages(wanted)))
    if not absent:
        return ""
    project = Path(__file__).parents[1] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    names = [
        extra
        for extra, needs in extras.items()
        if any(re.match(rf"{re.escape(name)}\b", need) for name in absent for need in needs)
    ]
    advice = f"; run `pip install 'offline-marl-bench[{','.join(names)}]'`" if names else ""
    return f"{planned.task.spec.namespace} needs {' and '.join(absent)}{advice}."


def _bytes_of(planned: Plan) -> int:
    """Size of the file if all episodes last the horizon, optional arrays included."""
    spec, episodes = planned.task.spec, planned.episodes()
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
        _supersede(planned)
        return
    listed = content in known["content_sha256"]
    why = "" if listed else cardfile.mismatch(known, new["recipe_sha256"], new)
    if why:
        raise UserError(
            f"{planned.id}: the data just made are not those of the card {home.name}: {why}; if"
            f" the recipe was changed on purpose, raise VERSION in {planned.recipe.file.name}."
        )
    if record and listed:
        # Equal content proves that an edited recipe still makes the same data: measured again, so
        # that an old card gains what cards have learnt to say.
        kept = {name: known[name] for name in ("content_sha256", "superseded_by")}
        cardfile.write_card(home, new | kept)
    elif record:
        cardfile.write_card(home, known | {"content_sha256": [*known["content_sha256"], content]})


def _supersede(planned: Plan) -> None:
    """Committed cards of the dataset's earlier versions name the new one."""
    base = planned.id.rpartition("-v")[0]
    for version in range(1, planned.recipe.version):
        home = cardfile.card_path(f"{base}-v{version}")
        if card := cardfile.read_card(home):
            cardfile.write_card(home, card | {"superseded_by": planned.id})
