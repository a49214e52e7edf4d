"""From a draw of (episode, step, agent) to a batch: which rows, and the ways of getting at them.

A *row* is one step of all agents, the columns of an agent side by side: [obs D | act A | rew |
logp | alive]. Every episode has one row more than it has steps; it holds the observation after
the last step, so that the next observation is always the next row. Back-ends differ only in how
they gather:

`Table`   one float32 table in memory, rows picked by one `index_select`: the fastest
`Mapped`  the arrays of the file, mapped into memory: any size, no loading, bitwise the same rows

Files that are slow to read in random order go through one `Table` of some episodes at a time, see
`datasets.loader.Shuffled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmark.batch import Batch, Rngs
from benchmark.task import Array, TaskSpec


@dataclass(frozen=True)
class Columns:
    """Where the fields of one agent lie in a row."""

    obs: int  # D
    act: int  # A; 1 where actions are discrete
    logp: bool
    alive: bool

    @classmethod
    def of(cls, spec: TaskSpec, arrays: Mapping[str, Array]) -> Columns:
        at = f"steps/{spec.groups[0].name}"
        width = 1 if spec.discrete else spec.act_dim
        return cls(spec.obs_dim, width, f"{at}/logp" in arrays, f"{at}/alive" in arrays)

    @property
    def width(self) -> int:
        return self.obs + self.act + 1 + self.logp + self.alive

    def at(self, name: str) -> int:
        """First column of a field."""
        after_rew = self.obs + self.act + 1
        firsts = {"obs": 0, "act": self.obs, "rew": after_rew - 1, "logp": after_rew}
        return firsts.get(name, after_rew + self.logp)


class Rows(Protocol):
    """A back-end."""

    columns: Columns

    def gather(self, episode: Array, step: Array, length: int, agent: Array, m: int) -> Tensor:
        """Rows step .. step + length - 1 of each episode, m agents from `agent` on: [R, length, m, C] float32.

        Rows after an episode's last step repeat the observation after it, with zeros in the other
        columns.
        """
        ...


class Episodes:
    """The index of a set of episodes, and the uniform draws over it."""

    def __init__(self, starts: Array, terminated: Array, truncated: Array) -> None:
        self.starts = starts  # [E + 1] int64
        self.lengths = np.diff(starts)  # [E]
        self.n_steps = int(starts[-1])
        # All that is known of a step: [S, 4] episode, step, terminated, truncated.
        episode = np.repeat(np.arange(len(self.lengths)), self.lengths)
        self.steps = np.zeros((self.n_steps, 4), np.int64)
        self.steps[:, 0] = episode
        self.steps[:, 1] = np.arange(self.n_steps) - starts[:-1][episode]
        self.steps[starts[1:] - 1, 2] = terminated
        self.steps[starts[1:] - 1, 3] = truncated


def fill(
    out: Array,
    spec: TaskSpec,
    columns: Columns,
    arrays: Mapping[str, Array],
    pick: Mapping[str, Array | slice],
) -> None:
    """Copy rows of the stored arrays, all agents, into `out` [R, N, C]; `pick` says which rows of
    steps or final.
    """
    first = 0
    for group in spec.groups:
        part = out[:, first : first + group.n_agents]
        first += group.n_agents
        if "final" in pick:
            part[..., : group.obs_dim] = arrays[f"final/{group.name}/obs"][pick["final"]]
            continue
        for name in ("obs", "act", "rew", "logp", "alive"):
            array = arrays.get(f"steps/{group.name}/{name}")
            if array is None:
                continue
            values = array[pick["steps"]]
            if values.ndim == 2:
                part[..., columns.at(name)] = values
            else:
                part[..., columns.at(name) : columns.at(name) + values.shape[2]] = values


class Table:
    """All rows in one float32 tensor [S + E, N, C]."""

    def __init__(self, spec: TaskSpec, arrays: Mapping[str, Array], starts: Array) -> None:
        self.columns = Columns.of(spec, arrays)
        self.n_agents = spec.n_agents
        n_steps, n_episodes = int(starts[-1]), len(starts) - 1
        n_rows = n_steps + n_episodes
        self.first = starts[:-1] + np.arange(n_episodes)  # [E] first rows
        self.last = starts[1:] + np.arange(n_episodes)  # [E] final rows
        self.rows = torch.zeros(n_rows, spec.n_agents, self.columns.width)
        view = self.rows.numpy()
        is_step = np.ones(n_rows, bool)
        is_step[self.last] = False
        target = np.flatnonzero(is_step)
        block = max(1, (16 << 20) // (4 * spec.n_agents * self.columns.width))
        for i in range(0, n_steps, block):
            stop = min(i + block, n_steps)
            part = np.zeros((stop - i, *view.shape[1:]), np.float32)
            fill(part, spec, self.columns, arrays, {"steps": slice(i, stop)})
            view[target[i:stop]] = part
        part = np.zeros((n_episodes, *view.shape[1:]), np.float32)
        fill(part, spec, self.columns, arrays, {"final": slice(0, n_episodes)})
        view[self.last] = part

    def gather(self, episode: Array, step: Array, length: int, agent: Array, m: int) -> Tensor:
        rows = self.first[episode] + step
        if length > 1:
            rows = np.minimum(rows[:, None] + np.arange(length), self.last[episode][:, None])
        width, n = self.columns.width, self.n_agents
        if m == n:
            found = self.rows.view(-1, n * width).index_select(0, torch.from_numpy(rows.ravel()))
        else:
            # A slab of m agents is m * C floats on end, from any agent on: an overlapping view.
            begin = rows.reshape(len(episode), -1) * n + agent[:, None]
            slabs = self.rows.as_strided((len(self.rows) * n - m + 1, m * width), (width, 1))
            found = slabs.index_select(0, torch.from_numpy(begin.ravel()))
        return found.view(len(episode), length, m, width)


class Mapped:
    """The stored arrays as they lie in the file, mapped into memory."""

    def __init__(self, spec: TaskSpec, arrays: Mapping[str, Array], starts: Array) -> None:
        self.columns = Columns.of(spec, arrays)
        self.spec, self.arrays, self.starts = spec, arrays, starts
        self.lengths = np.diff(starts)

    def gather(self, episode: Array, step: Array, length: int, agent: Array, m: int) -> Tensor:
        steps = step[:, None] + np.arange(length)  # [R, length]
        inside = (steps < self.lengths[episode][:, None]).ravel()
        episodes = np.repeat(episode, length)
        agents = np.repeat(agent, length)
        rows = (self.starts[episode][:, None] + steps).ravel()[inside]
        out = torch.zeros(len(episodes), m, self.columns.width)
        view = out.numpy()
        part = np.zeros((len(rows), m, self.columns.width), np.float32)
        self._fill(part, {"steps": rows}, agents[inside], m)
        view[inside] = part
        if not inside.all():
            part = np.zeros((int((~inside).sum()), m, self.columns.width), np.float32)
            self._fill(part, {"final": episodes[~inside]}, agents[~inside], m)
            view[~inside] = part
        return out.view(len(episode), length, m, self.columns.width)

    def _fill(self, out: Array, pick: Mapping[str, Array], agent: Array, m: int) -> None:
        if m == self.spec.n_agents:
            fill(out, self.spec, self.columns, self.arrays, pick)
            return
        # Slabs (one group): start agents become rows of an overlapping view of each array.
        n = self.spec.n_agents
        ((kind, rows),) = pick.items()
        slabs = {
            name: _slabs(array, m)
            for name, array in self.arrays.items()
            if name.startswith(kind + "/")
        }
        fill(out, self.spec, self.columns, slabs, {kind: rows * n + agent})


def _slabs(array: Array, m: int) -> Array:
    """View [S, N, ...] as every run of m consecutive agents: [S * N - m + 1, m, ...]."""
    flat = array.reshape(-1, *array.shape[2:])
    window = np.lib.stride_tricks.sliding_window_view(flat, m, axis=0)
    return np.moveaxis(window, -1, 1)


class Sampler:
    """Batches over one set of episodes, from any back-end."""

    def __init__(
        self,
        spec: TaskSpec,
        index: Episodes,
        rows: Rows,
        mu: Array | None,
        numbers: Array | None = None,
    ) -> None:
        self.spec, self.index, self.rows = spec, index, rows
        self.mu = mu  # [S, O]
        self.numbers = numbers  # [E] the episodes' numbers in their file; None: all, in order

    def batch(self, known: Array, agent: Array, m: int, length: int, transitions: bool) -> Batch:
        """Batch of K seeds from `known` [K, B, 4], rows of `Episodes.steps`, and first agents [K,
        B].
        """
        k, b = agent.shape
        flat = known.reshape(-1, 4)
        episode, step = flat[:, 0], flat[:, 1]
        rows = self.rows.gather(episode, step, length + transitions, agent.ravel(), m)
        rows = rows.view(k, b, length + transitions, m, -1)
        now, columns = rows[:, :, :length], self.rows.columns
        ends = torch.from_numpy(known[..., 2:].astype(np.float32))  # [K, B, 2]
        if length == 1:
            valid = torch.ones(k, b, 1, dtype=torch.bool)
            terminated, truncated = ends[..., :1], ends[..., 1:]
        else:
            left = torch.from_numpy(self.index.lengths[episode] - step).view(k, b, 1)
            place = torch.arange(length)
            valid = place < left
            last = self.index.starts[episode + 1] - 1
            ends = torch.from_numpy(self.index.steps[last, 2:].astype(np.float32)).view(k, b, 2)
            at_end = (place == left - 1).float()
            terminated, truncated = at_end * ends[..., :1], at_end * ends[..., 1:]
            if not bool(valid.all()):
                now = now.masked_fill(~valid[..., None, None], 0.0)
        obs = now[..., : columns.obs]
        act = now[..., columns.obs : columns.obs + columns.act]
        next_obs = rows[:, :, 1:, :, : columns.obs] if transitions else None
        if self.spec.n_obs is not None:
            obs, next_obs = obs.long(), None if next_obs is None else next_obs.long()
        number = known[..., 0].copy() if self.numbers is None else self.numbers[known[..., 0]]
        return Batch(
            obs=obs,
            act=act.squeeze(-1).long() if self.spec.discrete else act,
            rew=now[..., columns.at("rew")],
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            episode=torch.from_numpy(number),
            step=torch.from_numpy(known[..., 1].copy()),
            agent=torch.from_numpy(agent),
            next_obs=next_obs,
            logp=now[..., columns.at("logp")] if columns.logp else None,
            alive=now[..., columns.at("alive")] > 0 if columns.alive else None,
            mu=self._mu(episode, step, length, valid),
        )

    def _mu(self, episode: Array, step: Array, length: int, valid: Tensor) -> Tensor | None:
        if self.mu is None:
            return None
        steps = self.index.starts[episode][:, None] + step[:, None] + np.arange(length)
        found = self.mu[np.minimum(steps, self.index.n_steps - 1)]  # [K * B, T, O]
        return torch.from_numpy(found).view(*valid.shape, -1) * valid[..., None]


def draw(rngs: Rngs, counts: int, batch_size: int, slabs: int) -> tuple[Array, Array]:
    """Uniform rows in [0, counts) and first agents in [0, slabs), one generator per seed: [K, B]
    each.
    """
    rows = np.empty((len(rngs), batch_size), np.int64)
    agent = np.zeros((len(rngs), batch_size), np.int64)
    for k, rng in enumerate(rngs):
        rows[k] = rng.integers(counts, size=batch_size)
        if slabs > 1:
            agent[k] = rng.integers(slabs, size=batch_size)
    return rows, agent
