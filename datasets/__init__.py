"""Offline buffers: the file format, its guarded reader and writer, samplers, recipes and cards.

    import datasets
    data = datasets.load("mpe/spread/medium-v1")            # made with `make data DATASET=...`
    batch = data.transitions([np.random.default_rng(0)], 256)

`import datasets` loads nothing heavy; the names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets.library import card, committed, load_file, mean_return, mean_value, path, rankable
    from datasets.linter import lint
    from datasets.loader import Dataset
    from datasets.make import describe_cost, load, make_all, make_dataset
    from datasets.recipe import catalogue
    from datasets.recorder import Recorder
    from datasets.writer import Writer

_HOMES = {
    "Dataset": "loader",
    "Recorder": "recorder",
    "Writer": "writer",
    "card": "library",
    "catalogue": "recipe",
    "committed": "library",
    "describe_cost": "make",
    "lint": "linter",
    "load": "make",
    "load_file": "library",
    "make_all": "make",
    "make_dataset": "make",
    "mean_return": "library",
    "mean_value": "library",
    "path": "library",
    "rankable": "library",
}
__all__ = [  # noqa: RUF022  kept in the order of use
    "catalogue",
    "committed",
    "make_dataset",
    "make_all",
    "load",
    "load_file",
    "Dataset",
    "path",
    "card",
    "mean_return",
    "mean_value",
    "rankable",
    "describe_cost",
    "lint",
    "Recorder",
    "Writer",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'datasets' has no attribute {name!r}")
    return getattr(importlib.import_module(f"datasets.{_HOMES[name]}"), name)
