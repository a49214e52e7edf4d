"""Data on a device: the batches of the host, bit for bit, and nothing that waits.

No GPU is needed. A device "cpu:0" is a CPU whose data go the way of a GPU's, and tensors of a GPU
that have shapes and no numbers show where each one is and what would ask for its value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

import datasets
from benchmark import online, registry, runner
from benchmark.batch import Batch
from benchmark.checks.fixtures import POPULATION, TEAM
from benchmark.train import Progress, Run, Trainer
from datasets.resident import Resident, size
from datasets.samplers import Sampler
from datasets.writer import Writer
from tests import test_online
from tests.dataset_files import episodes
from tests.perf.bench_device import Waits
from tests.test_loader import NUMBERED, QUICK, REQUEST, draw, equal, numbered
from tests.test_runner import final, make_run, same

GPU, HERE = "cuda:0", "cpu:0"
SPECS = {
    "agents": NUMBERED,
    "crowd": POPULATION,
    "tag": registry.task("mpe/tag-flee-v1").spec,
    "battle": replace(TEAM, id="toy/battle-v1", can_die=True),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """With behaviour's probabilities, populations, agents of two widths, and agents that die."""
    folder = tmp_path_factory.mktemp("resident")
    found = {kind: folder / f"{kind}.hdf5" for kind in SPECS}
    numbered(found["agents"], NUMBERED)
    numbered(found["crowd"], POPULATION, (4, 1, 3, 4))
    for kind in ("tag", "battle"):
        spec, rng = SPECS[kind], np.random.default_rng(0)
        with Writer(found[kind], spec, id=spec.id.replace("-v", "/any-v")) as writer:
            for n, length in ((3, spec.horizon), (2, 2)):
                rows = episodes(spec, n, length)
                if spec.can_die:
                    for name in ("alive", "active"):
                        rows[name] = rng.random(rows["rew"].shape) < 0.7
                writer.append(**rows)
    return found


def moved(path: Path) -> datasets.Dataset:
    data = datasets.load_file(path, "ram").to(HERE)
    assert isinstance(data._sampler, Resident)
    return data


@settings(QUICK, max_examples=120)
@given(**REQUEST, agents=st.sampled_from([None, 1, 3, 8]), kind=st.sampled_from(sorted(SPECS)))
def test_a_device_gives_the_batches_of_the_host(
    files: dict[str, Path],
    seeds: list[int],
    size: int,
    length: int,
    align: bool,
    agents: int | None,
    kind: str,
) -> None:
    options = {"align": align, "agents": agents if kind == "crowd" else None}
    host = draw(datasets.load_file(files[kind], "ram"), seeds, size, length, options)
    equal(host, draw(moved(files[kind]), seeds, size, length, options))
    fields = {"agents": "logp", "crowd": "mu", "battle": "alive active"}.get(kind, "")
    assert all(getattr(host, name) is not None for name in fields.split())


@pytest.mark.parametrize("row", ["plain_net", "macql", "tmfpg"])
def test_training_on_it_ends_with_the_bits_of_the_host(
    row: str, files: dict[str, Path], tmp_path: Path
) -> None:
    made = make_run(tmp_path, row, seeds=(0, 1) if row == "plain_net" else (0,), steps=12)
    path = tmp_path / "squeeze.hdf5"
    with Writer(path, made.task.spec, id="meanfield/squeeze-n16/any-v1") as writer:
        writer.append(**episodes(made.task.spec, 20))
    ends = []
    for device in ("cpu", HERE):
        run = replace(made, data=datasets.load_file(path, "ram"), device=device)
        runner.execute(run, tmp_path / f"records {device}")
        end = final(run)  # all but the device, and the run's key that it is a part of
        ends.append({name: end[name] for name in ("group", "rngs", "curves", "failed")})
    assert same(*ends) == []


def test_a_run_from_data_to_play_may_have_both_on_the_device(tmp_path: Path) -> None:
    """And either one alone, where there is room for no more."""
    made = test_online.make_run(tmp_path, row="walker.o2o")
    path = tmp_path / "toy.hdf5"
    with Writer(path, made.task.spec, id="toy/ending/any-v1") as writer:
        writer.append(**episodes(made.task.spec, 20))

    def batches(device: str, backend: str, where: str) -> list[Batch]:
        run = replace(made, data=datasets.load_file(path, backend), device=device)
        trainer = test_online.trainer_of(run)
        buffer = trainer.buffer
        assert buffer.where == device
        buffer.where = where
        return [trainer._batch() for trainer.step in range(6)]

    wanted = batches("cpu", "ram", "cpu")
    for backend, where in (("ram", HERE), ("mmap", HERE), ("ram", "cpu")):
        for one, two in zip(wanted, batches(HERE, backend, where), strict=True):
            equal(one, two)


# ------------------------------------------------------------------- tensors without numbers
class Copies(TorchDispatchMode):
    """Notes what goes from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        before = [x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        for x in _pytree.tree_leaves(result):
            if before and isinstance(x, Tensor) and x.device != before[0].device:
                self.found.append((before[0].device.type, x.device.type, x.nbytes))
        return result


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU of 1 GB whose tensors have no numbers: to ask for one is an error."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("length", [0, 1, 4])
def test_what_was_drawn_goes_to_the_device_and_nothing_comes_back(
    kind: str, length: int, files: dict[str, Path], gpu: None
) -> None:
    data = datasets.load_file(files[kind], "ram").to(GPU)
    for agents in (None, 3) if kind == "crowd" else (None,):
        with Copies() as copies, Waits() as waits:
            batch = draw(data, [0, 1], 5, length, {"agents": agents})
        drawn = 1 if agents is None else 2  # steps, and first agents: 2 seeds x 5 of 8 bytes
        assert copies.found == [("cpu", "cuda", drawn * 2 * 5 * 8)]
        assert waits.count == 0
        there = batch.to(GPU)
        for name, value in vars(batch).items():
            assert value is None or str(value.device) == GPU, name
            assert getattr(there, name) is value  # nothing is left to copy


def test_a_number_that_is_asked_for_and_a_copy_back_are_noticed(gpu: None) -> None:
    there = torch.ones(3, device=GPU)
    for wait in (lambda: there.sum().item(), lambda: bool(there.any()), lambda: there[there > 0]):
        with pytest.raises(RuntimeError):
            wait()
    here = torch.ones(3)
    with Copies() as copies, Waits() as waits:
        there.cpu()
        there.to("cpu", non_blocking=True)  # who reads it next waits
        here.to(GPU)
    assert waits.count == 3
    with waits:
        here.to(GPU, non_blocking=True)
    assert waits.count == 3
    assert copies.found == [("cuda", "cpu", 12)] * 2 + [("cpu", "cuda", 12)]


def test_the_buffer_of_an_online_run_stands_there(gpu: None) -> None:
    buffer = online.Buffer(test_online.ENDING, 2, 50, None, GPU)
    rows = {name: torch.zeros(2, 4, *x.shape[2:]) for name, x in buffer.arrays.items()}
    buffer.add(rows)
    with Copies() as copies:
        batch = buffer.transitions([np.random.default_rng(seed) for seed in (0, 1)], 8)
    assert copies.found == [("cpu", "cuda", 2 * 8 * 8)]
    batch.map(lambda x: x.device.type == "cuda" or pytest.fail(f"a field is on {x.device}"))


# --------------------------------------------------------------------------------- no room
def test_data_without_room_stay_on_the_host_with_a_note(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = datasets.load_file(files["tag"], "ram")
    assert isinstance(data._sampler, Sampler)
    needed = size(data._sampler)
    assert needed == sum(
        x.nbytes for x in vars(Resident(data._sampler, HERE)).values() if isinstance(x, Tensor)
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * needed - 1, 10**9))
    for _ in range(2):  # for each group of seeds; said once
        assert data.to(GPU) is data
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"note: {data.id} needs")
    assert f"every batch is copied to {GPU}" in said
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * needed, 10**9))
    monkeypatch.setattr("datasets.loader.Resident", lambda host, device: host)  # no GPU is here
    assert datasets.load_file(files["tag"], "ram").to(GPU) is not data
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("backend", ["mmap", "shuffle"])
def test_data_that_are_read_from_their_file_stay_there_with_a_note(
    backend: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = datasets.load_file(files["crowd"], backend)
    assert data.to("cpu") is data
    assert capsys.readouterr().err == ""
    assert data.to(GPU) is data
    assert f"is held as {backend} and not as ram" in capsys.readouterr().err


def test_a_run_without_steps_moves_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    def data_of(run: Run) -> Any:
        return Trainer(run, (), 30.0, Progress()).run.data

    run = replace(make_run(tmp_path), data=datasets.load_file(files["crowd"], "ram"), device=HERE)
    assert data_of(run) is not run.data
    assert data_of(replace(run, steps=0)) is run.data
    assert data_of(replace(run, device="cpu")) is run.data
