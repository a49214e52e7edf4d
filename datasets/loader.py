"""The `Dataset` that algorithms sample from; it keeps the protocol of `benchmark.batch`.

Three back-ends with the same batches. "ram" holds everything in one table; "mmap" maps the file,
for data larger than memory; both give the same bits for the same generators. "shuffle" reads runs
of episodes in random order, for compressed files and slow disks: it goes through the data without
replacement and keeps its place between calls, so a killed run that is resumed on it starts a new
epoch.

`Dataset.to` moves a table to the device of a run, where its batches are then gathered.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import device as devices
from benchmark.batch import Batch, Rngs
from benchmark.errors import UserError
from benchmark.task import Array, TaskSpec
from datasets.cardfile import agent_returns
from datasets.resident import Resident, size
from datasets.samplers import Episodes, Mapped, Sampler, Table, draw
from datasets.schema import Meta

CHUNK_ROWS = 8_192  # steps of one run of episodes of the shuffle back-end
POOL_CHUNKS = 8  # runs mixed with each other


class Dataset:
    """An offline buffer; see `benchmark.batch.Dataset`. Arrays are read-only."""

    def __init__(
        self,
        path: Path,
        meta: Meta,
        spec: TaskSpec,
        arrays: Mapping[str, Any],
        backend: str,
        card: dict[str, Any],
    ) -> None:
        self.path, self.spec, self.backend, self.card = path, spec, backend, card
        self.id, self.content_sha256 = meta.id, meta.content_sha256
        self.recipe_sha256, self.obs_transform = meta.recipe_sha256, meta.obs_transform
        self.arrays = arrays
        self.starts = read(arrays["index/start"])  # [E + 1]
        self.policy = read(arrays["index/policy"])  # [E]
        self.terminated = read(arrays["index/terminated"])  # [E]
        self.truncated = read(arrays["index/truncated"])  # [E]
        self.seeds = read(arrays["index/seed"])  # [E]
        self.index = Episodes(self.starts, self.terminated, self.truncated)

    @property
    def n_steps(self) -> int:
        return self.index.n_steps

    @property
    def n_episodes(self) -> int:
        return len(self.starts) - 1

    @functools.cached_property
    def returns(self) -> Array:
        """Undiscounted returns [E, N] float64."""
        return agent_returns(self.spec, self.arrays)

    @property
    def obs(self) -> Array:
        return self._joined("obs", self.spec.obs_dim)

    @property
    def act(self) -> Array:
        return self._joined("act", self.spec.act_dim)

    @property
    def rew(self) -> Array:
        return self._joined("rew", 0)

    @property
    def logp(self) -> Array | None:
        return self._if_stored("logp")

    @property
    def active(self) -> Array | None:
        found = self._if_stored("active")
        return None if found is None else found.astype(bool)

    def _if_stored(self, name: str) -> Array | None:
        stored = all(f"steps/{group.name}/{name}" in self.arrays for group in self.spec.groups)
        return self._joined(name, 0) if stored else None

    def _joined(self, name: str, width: int) -> Array:
        """One array of all groups, zero-padded to `width`; for a single group the stored array
        itself.
        """
        if len(self.spec.groups) == 1:
            return read(self.arrays[f"steps/{self.spec.groups[0].name}/{name}"])
        return self._joined_groups(name, width)

    @functools.lru_cache(maxsize=3)  # noqa: B019  a dataset lives as long as its process
    def _joined_groups(self, name: str, width: int) -> Array:
        parts = [read(self.arrays[f"steps/{group.name}/{name}"]) for group in self.spec.groups]
        if parts[0].ndim == 3:
            parts = [np.pad(p, ((0, 0), (0, 0), (0, width - p.shape[2]))) for p in parts]
        joined = np.concatenate(parts, axis=1)
        joined.setflags(write=False)
        return joined

    # ------------------------------------------------------------------------------------ sampling
    @functools.lru_cache(maxsize=1)  # noqa: B019  a dataset lives as long as its process
    def to(self, device: str) -> Dataset:
        """The same dataset with its rows on a device, where equal batches are gathered. Itself,
        with a note, where they are not in memory or have no room there.
        """
        if device == "cpu":
            return self
        if self.backend != "ram":
            devices.say_copied(self.id, f"is held as {self.backend} and not as ram", device)
            return self
        host = self._on_host()
        if not devices.fits(self.id, size(host), device):
            return self
        moved = copy.copy(self)
        moved._sampler = Resident(host, device)
        return moved

    @functools.cached_property
    def _sampler(self) -> Sampler | Resident:
        return self._on_host()

    def _on_host(self) -> Sampler:
        kind = Table if self.backend == "ram" else Mapped
        rows = kind(self.spec, self.arrays, self.starts)
        mu = self.arrays.get("population/mu")
        return Sampler(self.spec, self.index, rows, None if mu is None else read(mu))

    def transitions(self, rngs: Rngs, batch_size: int, *, agents: int | None = None) -> Batch:
        m = self._slab(agents)
        steps = draw(rngs, self.n_steps, batch_size)
        return self._sampler.transitions(steps, self._first_agents(rngs, batch_size, m), m)

    def windows(
        self,
        rngs: Rngs,
        batch_size: int,
        length: int,
        *,
        agents: int | None = None,
        align: bool = False,
    ) -> Batch:
        m = self._slab(agents)
        if align:
            steps = self.starts[draw(rngs, self.n_episodes, batch_size)]
        else:
            steps = draw(rngs, self.n_steps, batch_size)
        return self._sampler.windows(steps, self._first_agents(rngs, batch_size, m), m, length)

    def _first_agents(self, rngs: Rngs, batch_size: int, m: int) -> Array | None:
        """First agent of each slab of m, [K, B]; None where all agents are taken."""
        slabs = self.spec.n_agents - m + 1
        return None if slabs == 1 else draw(rngs, slabs, batch_size)

    def _slab(self, agents: int | None) -> int:
        n = self.spec.n_agents
        if agents is None or agents == n:
            return n
        if not self.spec.exchangeable or len(self.spec.groups) > 1:
            raise UserError(
                f"agents = {agents} of {self.id}: only exchangeable tasks can be sampled by a"
                f" subset of agents, and the agents of {self.spec.id} differ; leave agents out."
            )
        if not 1 <= agents <= n:
            raise UserError(f"agents = {agents} of {self.id}: expected 1 to {n}.")
        return agents


class Shuffled(Dataset):
    """Reads runs of whole episodes in random order, mixes a few of them in memory, and uses up
    every row once an epoch.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        edges = [0]
        while edges[-1] < self.n_episodes:
            after = np.searchsorted(self.starts, self.starts[edges[-1]] + CHUNK_ROWS, "right") - 1
            edges.append(max(int(after), edges[-1] + 1))
        self.chunks = list(itertools.pairwise(edges))
        self.streams: dict[tuple[int, bool], _Stream] = {}

    def transitions(self, rngs: Rngs, batch_size: int, *, agents: int | None = None) -> Batch:
        return self._take(rngs, batch_size, 1, self._slab(agents), align=False, transitions=True)

    def windows(
        self,
        rngs: Rngs,
        batch_size: int,
        length: int,
        *,
        agents: int | None = None,
        align: bool = False,
    ) -> Batch:
        m = self._slab(agents)
        return self._take(rngs, batch_size, length, m, align=align, transitions=False)

    def _take(
        self, rngs: Rngs, size: int, length: int, m: int, *, align: bool, transitions: bool
    ) -> Batch:
        parts = []
        for k, rng in enumerate(rngs):
            stream = self.streams.setdefault((k, align), _Stream(self, align))
            pieces, left = [], size
            while left:
                sampler, rows = stream.take(rng, left)
                left -= len(rows)
                agent = self._first_agents([rng], len(rows), m)
                if transitions:
                    pieces.append(sampler.transitions(rows[None], agent, m))
                else:
                    pieces.append(sampler.windows(rows[None], agent, m, length))
            parts.append(_concatenate(pieces, 1))
        return _concatenate(parts, 0)

    def position(self) -> dict[str, Any]:
        """How far every seed is in the data, as plain values: a part of a run's state."""
        return {
            f"{k} {'aligned' if align else 'any'}": stream.position()
            for (k, align), stream in self.streams.items()
        }

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Back to what `position` said."""
        self.streams = {}
        for name, saved in position.items():
            k, start = name.split()
            stream = _Stream(self, start == "aligned")
            stream.go_to(saved)
            self.streams[int(k), start == "aligned"] = stream

    def pool(self, chunks: list[tuple[int, int]]) -> Sampler:
        """A table of some runs of episodes."""
        numbers = np.concatenate([np.arange(first, last) for first, last in chunks])
        starts = np.concatenate([[0], np.cumsum(self.index.lengths[numbers])])
        arrays: dict[str, Array] = {}
        for name, array in self.arrays.items():
            if name.startswith(("steps/", "population/")):
                parts = [array[self.starts[first] : self.starts[last]] for first, last in chunks]
            elif name.startswith("final/"):
                parts = [array[first:last] for first, last in chunks]
            else:
                continue
            arrays[name] = np.concatenate(parts)
        index = Episodes(starts, self.terminated[numbers], self.truncated[numbers])
        rows = Table(self.spec, arrays, starts)
        return Sampler(self.spec, index, rows, arrays.get("population/mu"), numbers)


class _Stream:
    """One seed's way through the data: chunks left in this epoch, those in memory, and how many of
    their mixed rows are used up.
    """

    def __init__(self, dataset: Shuffled, align: bool) -> None:
        self.dataset, self.align = dataset, align
        self.left: list[int] = []
        self.pool: list[int] = []
        self.mixed: dict[str, Any] = {}  # state of the generator before the rows were mixed
        self.rows, self.taken = np.empty(0, np.int64), 0

    def take(self, rng: np.random.Generator, size: int) -> tuple[Sampler, Array]:
        """At least one and at most `size` rows of the pool."""
        if self.taken == len(self.rows):
            if not self.left:
                self.left = rng.permutation(len(self.dataset.chunks)).tolist()
            self.pool, self.left = self.left[:POOL_CHUNKS], self.left[POOL_CHUNKS:]
            self.mixed, self.taken = dict(rng.bit_generator.state), 0
            self._fill(rng)
        rows = self.rows[self.taken : self.taken + size]
        self.taken += len(rows)
        return self.sampler, rows

    def _fill(self, rng: np.random.Generator) -> None:
        self.sampler = self.dataset.pool([self.dataset.chunks[i] for i in self.pool])
        index = self.sampler.index
        self.rows = rng.permutation(index.starts[:-1] if self.align else index.n_steps)

    def position(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("left", "pool", "mixed", "taken")}

    def go_to(self, position: Mapping[str, Any]) -> None:
        self.left, self.pool = list(position["left"]), list(position["pool"])
        self.mixed, self.taken = dict(position["mixed"]), int(position["taken"])
        rng = np.random.default_rng()
        rng.bit_generator.state = self.mixed
        self._fill(rng)


def _concatenate(batches: list[Batch], axis: int) -> Batch:
    if len(batches) == 1:
        return batches[0]
    values: dict[str, Any] = {}
    for field in dataclass_fields(Batch):
        parts = [getattr(batch, field.name) for batch in batches]
        values[field.name] = None if parts[0] is None else torch.cat(parts, axis)
    return Batch(**values)


def read(array: Any) -> Array:
    """The values of a stored array, read-only."""
    if isinstance(array, np.ndarray):
        return array
    values = np.asarray(array[()])
    values.setflags(write=False)
    return values
