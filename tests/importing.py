"""What tests of importers share: import and check, and a look at the outcome."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets
from benchmark.checks.dataset import check_dataset
from benchmark.errors import UserError
from benchmark.task import Array
from datasets.importers import import_dataset
from datasets.importers.source import Options


def load(format: str, path: Path, **options: Any) -> datasets.Dataset:
    """Import, and hold the outcome against the linter and the contract of datasets."""
    made = import_dataset(format, path, Options(**options))
    assert datasets.lint(made) == []
    data = datasets.load_file(made)
    failed = [result.line() for result in check_dataset(data) if not result.ok]
    assert not failed
    batch = data.windows([np.random.default_rng(0)], 8, 3)
    assert batch.obs.shape == (1, 8, 3, data.spec.n_agents, data.spec.obs_dim)
    assert data.card["content_sha256"] == [data.content_sha256]
    return data


def ends(data: datasets.Dataset) -> list[tuple[int, int]]:
    """(length, terminated) of each episode."""
    return list(zip(np.diff(data.starts).tolist(), data.terminated.tolist(), strict=True))


def final(data: datasets.Dataset) -> Array:
    """Final observations of a dataset of one group, [E, N, D]."""
    return np.asarray(data.arrays[f"final/{data.spec.groups[0].name}/obs"])


def single(array: Array) -> Array:
    return array.astype(np.float32)


def refused(format: str, path: Path, words: str) -> None:
    """One sentence, which names the source, and nothing left behind."""
    with pytest.raises(UserError, match=words) as caught:
        import_dataset(format, path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    data = Path(os.environ["OFFLINE_MARL_DATA"])
    assert not [found for found in data.rglob("*") if found.is_file()]
