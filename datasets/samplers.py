"""From a draw of steps and agents to a batch: which rows, and the ways of getting at them.

A *row* is one step of all agents, the columns of an agent side by side: [obs | act | rew |
optional arrays]. Every episode has one row more than it has steps; it holds the observation after
the last step, so that the next observation is always the next row. Back-ends differ only in how
they gather:

`Table`   one float32 table in memory, rows picked by one `index_select`: the fastest
`Mapped`  the arrays of the file, mapped into memory: any size, no loading, bitwise the same rows

On a GPU a `Table` moves there as a whole, see `datasets.resident`.

Files that are slow to read in random order go through one `Table` of some episodes at a time, see
`datasets.loader.Shuffled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmark.batch import Batch, Rngs
from benchmark.task import Array, TaskSpec
from datasets.schema import OPTIONAL

EPISODE, STEP, ROW = 0, 1, 2  # columns of Episodes.steps
Place = tuple[Tensor, Tensor, Tensor]  # episode, step and first agent of each window, [K, B]


class Columns:
    """Where the fields of one agent lie in a row."""

    def __init__(self, spec: TaskSpec, arrays: Mapping[str, Array]) -> None:
        at = f"steps/{spec.groups[0].name}"
        self.widths = {"obs": spec.obs_dim, "act": 1 if spec.discrete else spec.act_dim, "rew": 1}
        self.widths |= {name: 1 for name in OPTIONAL if f"{at}/{name}" in arrays}
        firsts = np.cumsum([0, *self.widths.values()]).tolist()
        self.first = dict(zip(self.widths, firsts[:-1], strict=True))
        self.total = firsts[-1]
        self.wide = {"obs": True, "act": not spec.discrete}

    def view(self, rows: Tensor, name: str, shape: tuple[int, ...], skip: int = 0) -> Tensor:
        """View of a field of contiguous rows [K * B, L, m, C], without its width where that is 1.

        shape is the K, B, T, m to take, from row `skip` of each window on.
        """
        _, length, m, total = rows.shape
        window, step = length * m * total, m * total
        stride, offset = (shape[1] * window, window, step, total), skip * step + self.first[name]
        if self.wide.get(name):
            return rows.as_strided((*shape, self.widths[name]), (*stride, 1), offset)
        return rows.as_strided(shape, stride, offset)


class Rows(Protocol):
    """A back-end."""

    columns: Columns

    def gather(self, steps: Array, length: int, agent: Array | None, m: int) -> Tensor:
        """`length` rows on end from each step on, m agents from `agent` on (None: all).

        steps [R, 3] is rows of `Episodes.steps`, agent [R]; returns [R, length, m, C] float32. What
        lies more than one row behind an episode's last step is undefined.
        """
        ...


class Episodes:
    """The index of a set of episodes: what is known of each step."""

    def __init__(self, starts: Array, terminated: Array, truncated: Array) -> None:
        self.starts = starts  # [E + 1] int64
        self.lengths = np.diff(starts)  # [E]
        self.n_steps = int(starts[-1])
        episode = np.repeat(np.arange(len(self.lengths)), self.lengths)
        step = np.arange(self.n_steps)
        # [S, 3]: the episode, the step in it, and the row of a Table
        self.steps = np.stack([episode, step - starts[:-1][episode], step + episode], axis=1)
        self.left = starts[1:][episode] - step  # [S] steps to the episode's end, this one too
        ends = np.zeros((self.n_steps, 2), np.float32)
        ends[starts[1:] - 1] = np.stack([terminated, truncated], 1)
        self.ends = torch.from_numpy(ends)  # [S, 2] terminated, truncated


def fill(
    out: Array,
    spec: TaskSpec,
    columns: Columns,
    arrays: Mapping[str, Array],
    kind: str,
    pick: Array | slice,
) -> None:
    """Copy all agents of the rows `pick` of "steps" or "final" into `out` [R, N, C]."""
    first = 0
    for group in spec.groups:
        part = out[:, first : first + group.n_agents]
        first += group.n_agents
        for name, column in columns.first.items():
            if (array := arrays.get(f"{kind}/{group.name}/{name}")) is not None:
                values = array[pick]
                width = values.shape[2] if values.ndim == 3 else 1
                part[..., column : column + width] = values.reshape(*values.shape[:2], width)


class Table:
    """All rows in one float32 tensor [S + E, N, C]."""

    def __init__(self, spec: TaskSpec, arrays: Mapping[str, Array], starts: Array) -> None:
        self.columns = Columns(spec, arrays)
        self.n_agents = spec.n_agents
        n_steps, n_episodes = int(starts[-1]), len(starts) - 1
        n, c = spec.n_agents, self.columns.total
        # NumPy asks the kernel for huge pages, torch does not
        view = np.zeros((n_steps + n_episodes, n, c), np.float32)
        self.rows = torch.from_numpy(view)
        final = starts[1:] + np.arange(n_episodes)
        is_step = np.ones(len(view), bool)
        is_step[final] = False
        target = np.flatnonzero(is_step)
        block = max(1, (16 << 20) // (4 * n * c))
        for i in range(0, n_steps, block):
            stop = min(i + block, n_steps)
            part = np.zeros((stop - i, n, c), np.float32)
            fill(part, spec, self.columns, arrays, "steps", slice(i, stop))
            view[target[i:stop]] = part
        part = np.zeros((n_episodes, n, c), np.float32)
        fill(part, spec, self.columns, arrays, "final", slice(0, n_episodes))
        view[final] = part
        # Pairs of rows on end, and runs of agents: overlapping views of the same memory.
        self.pairs = self.rows.as_strided((len(view) - 1, 2 * n * c), (n * c, 1))
        self.flat = self.rows.view(-1, n * c)

    def gather(self, steps: Array, length: int, agent: Array | None, m: int) -> Tensor:
        rows, n, c = steps[:, ROW], self.n_agents, self.columns.total
        if agent is None and length == 2:
            found = self.pairs.index_select(0, torch.from_numpy(rows.copy()))
            return found.view(-1, 2, n, c)
        if length > 1:
            rows = rows[:, None] + np.arange(length)
            rows = np.minimum(rows, len(self.rows) - 1)
        if agent is None:
            found = self.flat.index_select(0, torch.from_numpy(rows.ravel()))
        else:
            begin = rows.reshape(len(steps), length) * n + agent[:, None]
            slabs = self.rows.as_strided((len(self.rows) * n - m + 1, m * c), (c, 1))
            found = slabs.index_select(0, torch.from_numpy(begin.ravel()))
        return found.view(-1, length, m, c)


class Mapped:
    """The stored arrays as they lie in the file, mapped into memory."""

    def __init__(self, spec: TaskSpec, arrays: Mapping[str, Array], starts: Array) -> None:
        self.columns = Columns(spec, arrays)
        self.spec, self.arrays = spec, arrays
        self.starts, self.lengths = starts, np.diff(starts)

    def gather(self, steps: Array, length: int, agent: Array | None, m: int) -> Tensor:
        episode = steps[:, EPISODE].repeat(length)
        step = (steps[:, STEP][:, None] + np.arange(length)).ravel()
        out = torch.zeros(len(step), m, self.columns.total)
        inside = step < self.lengths[episode]
        final = step == self.lengths[episode]
        agents = None if agent is None else agent.repeat(length)
        for kind, where, rows in (
            ("steps", inside, self.starts[episode] + step),
            ("final", final, episode),
        ):
            part = np.zeros((int(where.sum()), m, self.columns.total), np.float32)
            if agents is None:
                fill(part, self.spec, self.columns, self.arrays, kind, rows[where])
            else:
                slabs = {
                    name: _slabs(array, m)
                    for name, array in self.arrays.items()
                    if name.startswith(kind)
                }
                pick = rows[where] * self.spec.n_agents + agents[where]
                fill(part, self.spec, self.columns, slabs, kind, pick)
            out.numpy()[where] = part
        return out.view(-1, length, m, self.columns.total)


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

    def transitions(self, steps: Array, agent: Array | None, m: int) -> Batch:
        """Batch of the steps [K, B] of this set, with the m agents from `agent` [K, B] on."""
        k, b = steps.shape
        at = steps.ravel()
        known = self.index.steps.take(at, axis=0)  # [K * B, 3]
        rows = self.rows.gather(known, 2, None if agent is None else agent.ravel(), m)
        return assemble(
            self.spec,
            self.rows.columns,
            rows,
            (k, b, 1, m),
            self._place(known.reshape(k, b, 3), agent),
            ends=self.index.ends.index_select(0, torch.from_numpy(at)),
            valid=torch.ones(k, b, 1, dtype=torch.bool),
            next_obs=self.rows.columns.view(rows, "obs", (k, b, 1, m), skip=1),
            mu=None if self.mu is None else torch.from_numpy(self.mu[at].reshape(k, b, 1, -1)),
        )

    def windows(self, steps: Array, agent: Array | None, m: int, length: int) -> Batch:
        """Batch of windows from the steps [K, B] on."""
        k, b = steps.shape
        at = steps.ravel()
        known = self.index.steps.take(at, axis=0)
        rows = self.rows.gather(known, length, None if agent is None else agent.ravel(), m)
        inside = np.arange(length) < self.index.left.take(at)[:, None]  # [K * B, T]
        places = at[:, None] + np.arange(length)
        ends = self.index.ends.numpy().take(places, axis=0, mode="clip")  # [K * B, T, 2]
        mu = None
        if self.mu is not None:
            places = np.minimum(places, self.index.n_steps - 1)
            mu = torch.from_numpy(self.mu[places] * inside[..., None]).view(k, b, length, -1)
        if not inside.all():
            outside = ~inside
            ends[outside] = 0.0
            rows.numpy()[outside] = 0.0  # just gathered; a masked_fill takes longer
        return assemble(
            self.spec,
            self.rows.columns,
            rows,
            (k, b, length, m),
            self._place(known.reshape(k, b, 3), agent),
            ends=torch.from_numpy(ends),
            valid=torch.from_numpy(inside.reshape(k, b, length)),
            next_obs=None,
            mu=mu,
        )

    def _place(self, known: Array, agent: Array | None) -> Place:
        episode = known[..., EPISODE]
        return (
            torch.from_numpy(episode if self.numbers is None else self.numbers[episode]),
            torch.from_numpy(known[..., STEP]),
            torch.from_numpy(np.zeros(episode.shape, np.int64) if agent is None else agent),
        )


def assemble(
    spec: TaskSpec,
    columns: Columns,
    rows: Tensor,
    shape: tuple[int, ...],
    place: Place,
    *,
    ends: Tensor,
    valid: Tensor,
    next_obs: Tensor | None,
    mu: Tensor | None,
) -> Batch:
    """A batch of the gathered rows, as views of them."""
    obs, act = columns.view(rows, "obs", shape), columns.view(rows, "act", shape)
    if spec.n_obs is not None:
        obs, next_obs = obs.long(), None if next_obs is None else next_obs.long()
    episode, step, agent = place
    terminated, truncated = ends.view(*shape[:3], 2).unbind(-1)
    return Batch(
        obs=obs,
        act=act.long() if spec.discrete else act,
        rew=columns.view(rows, "rew", shape),
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        episode=episode,
        step=step,
        agent=agent,
        next_obs=next_obs,
        logp=columns.view(rows, "logp", shape) if "logp" in columns.first else None,
        alive=columns.view(rows, "alive", shape) > 0 if "alive" in columns.first else None,
        active=columns.view(rows, "active", shape) > 0 if "active" in columns.first else None,
        mu=mu,
    )


def draw(rngs: Rngs, count: int, batch_size: int) -> Array:
    """Uniform integers in [0, count), one generator per seed: [K, B] int64."""
    if len(rngs) == 1:
        return rngs[0].integers(count, size=(1, batch_size))
    return np.stack([rng.integers(count, size=batch_size) for rng in rngs])
