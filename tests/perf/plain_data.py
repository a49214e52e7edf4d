"""Plain counterparts of the suite's loader: items read one by one, from a file and from memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmark.task import Array
from datasets.open import h5py

CHUNKS_KEPT = 1 << 20  # bytes an array
KEYS = ("obs", "next_obs", "acs", "rews", "dones")


def write_by_agent(path: Path, data: Any, **options: Any) -> Path:
    """A dataset in the usual layout: an array for each kind and agent, OMAR's names."""
    after = np.concatenate([data.obs[1:], data.obs[-1:]])
    last = np.zeros(data.rew.shape, np.float32)
    last[data.starts[1:] - 1] = 1.0
    arrays = dict(zip(KEYS, (data.obs, after, data.act, data.rew, last), strict=True))
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            for i in range(array.shape[1]):
                file.create_dataset(f"{name}_{i}", data=array[:, i], **options)
    return path


class PlainLoader:
    """Items of a batch read one by one from the arrays of such a file."""

    def __init__(self, path: Path, starts: Array, n_agents: int) -> None:
        # Since HDF5 2.0 eight megabytes of chunks are kept of each array, and would hold all of a
        # small file, unpacked; of a file of a million steps they hold as much as this does here.
        self.file, self.starts = h5py.File(path, "r", rdcc_nbytes=CHUNKS_KEPT), starts
        self.rng = np.random.default_rng(0)
        # opened once: to look a name up costs more than to read a window
        self.stored = [[self.file[f"{key}_{i}"] for i in range(n_agents)] for key in KEYS]

    def item(self, rows: slice | int) -> list[Array]:
        return [np.stack([array[rows] for array in arrays]) for arrays in self.stored]

    def windows(self, size: int, length: int) -> list[Tensor]:
        items = []
        for e in self.rng.integers(len(self.starts) - 1, size=size):
            first, last = int(self.starts[e]), int(self.starts[e + 1]) - length
            at = int(self.rng.integers(first, max(first, last) + 1))
            items.append(self.item(slice(at, at + length)))
        return self._batch(items)

    def transitions(self, size: int) -> list[Tensor]:
        rows = self.rng.integers(int(self.starts[-1]), size=size)
        return self._batch([self.item(int(row)) for row in rows])

    @staticmethod
    def _batch(items: list[list[Array]]) -> list[Tensor]:
        return [torch.from_numpy(np.stack(part)) for part in zip(*items, strict=True)]


class PlainWindows(torch.utils.data.Dataset[dict[str, Array]]):
    """Windows from arrays in memory, padded beyond an episode's end, an item for each step of the
    data as planners' code usually has them: what is planned, which steps count, and the discounted
    return from the first one on.
    """

    def __init__(self, data: Any, length: int, gamma: float) -> None:
        self.length, lengths = length, np.diff(data.starts)
        shape = (len(lengths), int(lengths.max()) + length, data.obs.shape[1])
        self.obs = np.zeros((*shape, data.obs.shape[2]), np.float32)
        self.act = np.zeros((*shape, data.act.shape[2]), np.float32)
        self.rew = np.zeros(shape, np.float32)
        for e, (first, steps) in enumerate(zip(data.starts, lengths, strict=False)):
            for padded, flat in ((self.obs, data.obs), (self.act, data.act), (self.rew, data.rew)):
                padded[e, :steps] = flat[first : first + steps]
        self.places = [(e, t) for e, steps in enumerate(lengths) for t in range(steps)]
        self.lengths, self.discounts = lengths, gamma ** np.arange(shape[1], dtype=np.float32)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Array]:
        e, t = self.places[index]
        rows = slice(t, t + self.length)
        mask = np.zeros((self.length, 1), np.float32)
        mask[: self.lengths[e] - t] = 1.0
        later = self.rew[e, t:]
        returns = (self.discounts[: len(later), None] * later).sum(0)  # [N]
        return {
            "obs": self.obs[e, rows], "act": self.act[e, rows], "rew": self.rew[e, rows],
            "mask": mask, "returns": returns,
        }  # fmt: skip


def batches(windows: PlainWindows, size: int) -> Iterator[dict[str, Tensor]]:
    """Shuffled batches without end, through the library's loader."""
    while True:
        yield from DataLoader(windows, size, shuffle=True, drop_last=True)
