"""Updates where the device is: without a GPU, on tensors that have shapes and no numbers.

What mixes them with the host's, or must know one of their values, fails here as it would fail or
wait on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

import algorithms
from benchmark import registry
from benchmark.algorithm import build_group
from benchmark.batch import Batch
from benchmark.checks.fixtures import TEAM, toy_dataset

# What counts and solves tables on the host, and takes its batches there
TABLES = {"random", "bc_table", "tmfpg_sim"}
GAME = registry.task("meanfield/queue-n16-b4-v1")
UPDATES = 2  # of these, an actor's delayed ones too
# The first one of an outer iteration; then the population's course is computed, on the host
FIRST_ONLY = {"tmfpg", "offmmd"}
MOVES = {"_to_copy", "copy_"}  # from one device to another, and meant to


class Apart(TorchDispatchMode):
    """Refuses operations on tensors of two devices, and copies to one that the host waits for;
    numbers may stand anywhere.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, given = func.overloadpacket.__name__, _pytree.tree_leaves((args, kwargs))
        found = {x.device.type for x in given if isinstance(x, Tensor) and x.dim()}
        assert name in MOVES or len(found) < 2, f"{name} of tensors on {sorted(found)}"
        result = func(*args, **(kwargs or {}))
        if name in MOVES and result.is_meta and not given[name == "copy_"].is_meta:
            free = any(x is True for x in given)  # non_blocking, alone among their arguments
            assert free, f"the host waits for a copy of {list(result.shape)}"
        return result


class HostGenerator(torch.Generator):
    """There are none for tensors without numbers."""

    def __new__(cls, device: str = "cpu") -> HostGenerator:
        return super().__new__(cls)


class UnfusedAdam(torch.optim.Adam):
    def __init__(self, params: Any, lr: float, **_: Any) -> None:
        super().__init__(params, lr)


def on_the_host(real: Callable[..., Any]) -> Callable[..., Any]:
    """Something for what is read before training, when one may wait."""

    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        parts = list(self.buffers()) if isinstance(self, nn.Module) else [self]
        if any(part.is_meta for part in parts) and args in ((), ("cpu",)):
            if isinstance(self, nn.Module):
                return self.to_empty(device="cpu")
            return torch.zeros(self.shape, dtype=self.dtype)
        return real(self, *args, **kwargs)

    return read


ROWS = [name for name in algorithms.names() if name not in TABLES] + ["tmfpg.mis"]
ROWS += ["mfdiffuser.advantage"]  # whose first updates fit the game


@pytest.mark.parametrize("row", ROWS)
def test_an_update_neither_mixes_devices_nor_waits(
    row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls, _, variant = algorithms.registry().row(row)
    name = row.split(".")[0]
    taken = "finite" in cls.requires or name == "mfdiffuser"
    spec = GAME.spec if taken else TEAM
    values = dict(variant.config) | cls.small
    if hasattr(cls.Config, "compile"):
        values["compile"] = "off"
    monkeypatch.setattr(torch, "Generator", HostGenerator)
    monkeypatch.setattr(torch.optim, "Adam", UnfusedAdam)
    data, rngs = toy_dataset(spec, 30), [np.random.default_rng(0)]
    with monkeypatch.context() as before:
        before.setattr(Tensor, "cpu", on_the_host(Tensor.cpu))
        before.setattr(nn.Module, "to", on_the_host(nn.Module.to))
        group = build_group(cls, cls.Config(**values), spec, (0,), "meta")
        model = GAME.model() if variant.track in ("model", "oracle") else None
        group.prepare(data, 30, rngs, model)
    for _ in range(1 if name in FIRST_ONLY else UPDATES):
        batch = group.sample(data, rngs)
        batch = batch.to("meta") if isinstance(batch, Batch) else batch
        with Apart():
            group.update(batch)


def test_a_mixture_and_a_wait_are_noticed() -> None:
    there, here = torch.ones(3, device="meta"), torch.ones(3)
    with Apart():
        assert (there + torch.tensor(2.0)).shape == (3,)
        for mixture in (lambda: there + here, lambda: here[there.long()], lambda: there[here > 0]):
            with pytest.raises(AssertionError, match="of tensors on"):
                mixture()
        assert here.to("meta", non_blocking=True).is_meta
        for waiting in (lambda: here.to("meta"), lambda: there.copy_(here)):
            with pytest.raises(AssertionError, match="waits for a copy"):
                waiting()
        for wait in (lambda: there.sum().item(), lambda: bool(there.any()), there.cpu):
            with pytest.raises((RuntimeError, NotImplementedError)):
                wait()
