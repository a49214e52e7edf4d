"""Where datasets lie, and opening one: guarded, then compared with its hash and its card."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import psutil

from benchmark import registry
from benchmark.errors import UserError, unknown_name
from benchmark.files import write_json
from benchmark.task import TaskSpec
from datasets import cardfile
from datasets.loader import Dataset, Shuffled, read
from datasets.open import mapped, memory_map, open_dataset, stored
from datasets.samplers import Columns
from datasets.schema import Meta, check_index, content_sha256

BACKENDS = ("auto", "ram", "mmap", "shuffle")
SETTLED = 2.0  # seconds since its last change after which a file's verification is remembered
RAM_SHARE = 0.25  # of the free memory that "auto" gives a table


def path(dataset_id: str) -> FilePath:
    """Where a dataset lies: under $OFFLINE_MARL_DATA, else under `data` in the checkout."""
    root = os.environ.get("OFFLINE_MARL_DATA") or FilePath(__file__).parent.parent / "data"
    return FilePath(root) / f"{dataset_id}.hdf5"


def card(dataset_id: str) -> dict[str, Any]:
    """The committed card, else the one beside the file; {} where there is none."""
    committed = cardfile.read_card(cardfile.card_path(dataset_id))
    return committed or cardfile.read_card(path(dataset_id).with_suffix(".toml"))


def committed() -> list[str]:
    """The ids of all datasets with a committed card, superseded ones included."""
    return [cardfile.read_card(file)["id"] for file in sorted(cardfile.CARDS.glob("*.toml"))]


def mean_return(dataset_id: str) -> float | None:
    """Mean team return of a dataset's episodes, from its card; None where there is no card."""
    return card(dataset_id).get("statistics", {}).get("return_mean")


def mean_value(dataset_id: str) -> float | None:
    """The mean that a dataset's floor stands at: of the margin where that ranks its task's board,
    else of the team return; None where there is no card, or the task is not the suite's.
    """
    found = card(dataset_id)
    if not found:
        return None
    try:
        metric = registry.task(found["task"]).spec.metric
    except UserError:
        return None
    name = "margin_mean" if metric == "margin" else "return_mean"
    return found["statistics"].get(name)


def rankable(dataset: Dataset) -> bool:
    """Whether results on this dataset may be ranked.

    Its content must be listed in the committed card, or come from the same recipe with statistics
    within 3 standard errors.
    """
    committed = cardfile.read_card(cardfile.card_path(dataset.id))
    if not committed or committed["task"] != dataset.spec.id:
        return False
    if dataset.content_sha256 in committed["content_sha256"]:
        return True
    found = cardfile.measure(dataset.spec, dataset.arrays)
    return not cardfile.mismatch(committed, dataset.recipe_sha256, found)


def load_file(
    file: FilePath | str, backend: str = "auto", card: Mapping[str, Any] | None = None
) -> Dataset:
    """A dataset from any file of the format `offmarl/1`, with the card beside it, if there is one.

    backend: auto, ram, mmap or shuffle. Raises UserError where the file is not what it says, or
    its values do not match their hash or the card.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    path = FilePath(file)
    opened, meta = open_dataset(path)
    memory = memory_map(opened)
    arrays: dict[str, Any] = {}
    for name, dataset in stored(opened).items():
        view = mapped(dataset, memory)
        arrays[name] = dataset if view is None else view
    contiguous = all(isinstance(array, np.ndarray) for array in arrays.values())
    found = dict(card) if card is not None else cardfile.read_card(path.with_suffix(".toml"))
    n_steps = len(arrays[f"steps/{meta.spec.groups[0].name}/obs"])
    index = {name: read(array) for name, array in arrays.items() if name.startswith("index/")}
    check_index(index, n_steps, str(path))
    _verify(path, meta, arrays, found)
    if successor := found.get("superseded_by"):
        _say_superseded(meta.id, successor)
    spec = _spec(meta, path)
    backend = _choose(backend, spec, arrays, contiguous, path)
    if contiguous:
        opened.close()
    elif backend == "ram":
        arrays = {name: read(array) for name, array in arrays.items()}
        opened.close()
    kind = Shuffled if backend == "shuffle" else Dataset
    return kind(path, meta, spec, arrays, backend, found)


@functools.cache
def _say_superseded(dataset_id: str, successor: str) -> None:
    """One line on stderr, once per process."""
    print(f"warning: {dataset_id} is superseded by {successor}; use that one.", file=sys.stderr)


def _spec(meta: Meta, path: FilePath) -> TaskSpec:
    """The registry's task where it knows the id, else what the file says, used for data only."""
    try:
        known = registry.task(meta.spec.id).spec
    except UserError:
        return meta.spec
    for name in ("groups", "horizon", "n_actions", "n_obs", "exchangeable"):
        if getattr(known, name) != getattr(meta.spec, name):
            raise UserError(
                f"{path} says that {name} of {known.id} is {getattr(meta.spec, name)}, the suite's"
                f" task has {getattr(known, name)}; the data belong to another version of the task."
            )
    return known


def _choose(
    backend: str, spec: TaskSpec, arrays: Mapping[str, Any], contiguous: bool, path: FilePath
) -> str:
    if backend == "mmap" and not contiguous:
        raise UserError(
            f"{path} is stored in chunks and cannot be mapped into memory; use the backend ram or"
            " shuffle."
        )
    if backend != "auto":
        return backend
    n_rows = int(arrays["index/start"][-1]) + len(arrays["index/start"]) - 1
    table = 4 * n_rows * spec.n_agents * Columns(spec, arrays).total
    if table < RAM_SHARE * psutil.virtual_memory().available:
        return "ram"
    return "mmap" if contiguous else "shuffle"


def _verify(path: FilePath, meta: Meta, arrays: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Compare the values with the file's own hash and with the card; the result is remembered
    until the file changes.
    """
    status = path.stat()
    state = {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "inode": status.st_ino,
        "content_sha256": meta.content_sha256,
        "card": list(card.get("content_sha256", [])),
        "recipe": card.get("recipe_sha256", ""),
    }
    remembered = path.with_name(f".{path.stem}.verified.json")
    try:
        if json.loads(remembered.read_text()) == state:
            return
    except (OSError, ValueError):
        pass
    content = content_sha256(meta.spec.id, arrays)
    if content != meta.content_sha256:
        raise UserError(
            f"{path} is damaged: its values have the hash {content}, the file says"
            f" {meta.content_sha256 or 'none'}; make or copy it again."
        )
    if card and content not in card["content_sha256"]:
        why = cardfile.difference(card, meta.recipe_sha256, meta.spec, arrays)
        if why:
            raise UserError(
                f"{path} is not the dataset of its card: its values have the hash {content}, the"
                f" card lists {', '.join(card['content_sha256'])}, and {why}; make it again with"
                f" `make data DATASET={meta.id} ARGS=--force`."
            )
    if time.time() - status.st_mtime > SETTLED:
        with contextlib.suppress(UserError):  # a read-only data folder: verify again next time
            write_json(remembered, state)
