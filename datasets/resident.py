"""Batches of data that stand on a device: what `Sampler` gives from a `Table`, with equal bits.

Steps and agents are drawn on the host as ever, so that every device gets the same batches. What was
drawn goes to the device in one small copy; all else is gathered there, and nothing asks the device
for a number. All of it runs on a CPU too, where the tests hold it against `Sampler`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmark.batch import Batch
from benchmark.device import sent
from benchmark.task import Array
from datasets.samplers import EPISODE, ROW, STEP, Place, Sampler, Table, assemble


class Resident:
    """The sampler of a table, moved to a device."""

    def __init__(self, host: Sampler, device: str) -> None:
        table, index = host.rows, host.index
        assert isinstance(table, Table)
        self.spec, self.columns, self.device = host.spec, table.columns, device
        self.rows = table.rows.to(device)  # [S + E, N, C]
        self.steps = torch.from_numpy(index.steps).to(device)  # [S, 3]
        self.left = torch.from_numpy(index.left).to(device)  # [S]
        self.ends = index.ends.to(device)  # [S, 2]
        self.mu = None if host.mu is None else torch.tensor(host.mu, device=device)  # [S, O]

    def transitions(self, steps: Array, agent: Array | None, m: int) -> Batch:
        """See `Sampler`."""
        shape = (*steps.shape, 1, m)
        at, first = self._sent(steps, agent)
        known = self.steps.index_select(0, at)  # [K * B, 3]
        rows = self._gather(known.select(1, ROW), 2, first, m)
        return assemble(
            self.spec,
            self.columns,
            rows,
            shape,
            self._place(known, first, shape),
            ends=self.ends.index_select(0, at),
            valid=torch.ones(shape[:3], dtype=torch.bool, device=self.device),
            next_obs=self.columns.view(rows, "obs", shape, skip=1),
            mu=None if self.mu is None else self.mu.index_select(0, at).view(*shape[:3], -1),
        )

    def windows(self, steps: Array, agent: Array | None, m: int, length: int) -> Batch:
        """See `Sampler`."""
        shape = (*steps.shape, length, m)
        at, first = self._sent(steps, agent)
        known = self.steps.index_select(0, at)
        rows = self._gather(known.select(1, ROW), length, first, m)
        time = torch.arange(length, device=self.device)
        inside = time < self.left.index_select(0, at).unsqueeze(1)  # [K * B, T]
        outside = inside.logical_not()
        places = (at.unsqueeze(1) + time).clamp_(max=len(self.left) - 1).view(-1)

        def picked(table: Tensor) -> Tensor:
            """Of the steps of each window, 0 past its episode's end: [K * B, T, C]."""
            found = table.index_select(0, places).view(*outside.shape, -1)
            return found.masked_fill_(outside.unsqueeze(-1), 0.0)

        return assemble(
            self.spec,
            self.columns,
            rows.masked_fill_(outside.unsqueeze(-1).unsqueeze(-1), 0.0),
            shape,
            self._place(known, first, shape),
            ends=picked(self.ends),
            valid=inside.view(shape[:3]),
            next_obs=None,
            mu=None if self.mu is None else picked(self.mu).view(*shape[:3], -1),
        )

    def _sent(self, steps: Array, agent: Array | None) -> tuple[Tensor, Tensor]:
        """What was drawn, on the device, [K * B] each: the steps and the first agents."""
        if agent is None:
            at = sent(torch.from_numpy(steps.ravel()), self.device)
            return at, torch.zeros_like(at)
        both = sent(torch.from_numpy(np.stack([steps, agent])), self.device).flatten(1)
        return both.select(0, 0), both.select(0, 1)

    def _gather(self, row: Tensor, length: int, first: Tensor, m: int) -> Tensor:
        """See `Table.gather`: [R, length, m, C] from the rows [R] and agents [R] on."""
        count, n, c = self.rows.shape
        rows = row.unsqueeze(1) + torch.arange(length, device=self.device)
        begin = rows.clamp_(max=count - 1) * n + first.unsqueeze(1)
        slabs = self.rows.as_strided((count * n - m + 1, m * c), (c, 1))
        return slabs.index_select(0, begin.view(-1)).view(-1, length, m, c)

    def _place(self, known: Tensor, first: Tensor, shape: tuple[int, ...]) -> Place:
        columns = (known.select(1, EPISODE), known.select(1, STEP), first)
        episode, step, agent = (column.view(shape[:2]) for column in columns)
        return episode, step, agent


def size(host: Sampler) -> int:
    """Bytes that a `Resident` of it takes."""
    index, mu = host.index, 0 if host.mu is None else host.mu.nbytes
    assert isinstance(host.rows, Table)
    parts = (host.rows.rows, index.steps, index.left, index.ends)
    return mu + sum(int(part.nbytes) for part in parts)
