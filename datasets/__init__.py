"""Offline buffers: the file format, its guarded reader and writer, samplers, recipes and cards.

    import datasets
    data = datasets.load("mpe/spread/medium-v1")            # made with `make data DATASET=...`
    batch = data.transitions([np.random.default_rng(0)], 256)

`import datasets` loads nothing heavy; the names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets.loader import Dataset, load_file
    from datasets.make import catalogue, load, make_dataset, rankable
    from datasets.recorder import Recorder
    from datasets.writer import Writer

__all__ = [
    "Dataset",
    "Recorder",
    "Writer",
    "catalogue",
    "load",
    "load_file",
    "make_dataset",
    "rankable",
]
_HOMES = {
    "Dataset": "loader",
    "load_file": "loader",
    "catalogue": "make",
    "load": "make",
    "make_dataset": "make",
    "rankable": "make",
    "Recorder": "recorder",
    "Writer": "writer",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'datasets' has no attribute {name!r}")
    return getattr(importlib.import_module(f"datasets.{_HOMES[name]}"), name)
