"""What a resume needs: of a checkpoint that lacks any one item, a run ends with other bits.

Without these negative controls the comparisons of killed and unbroken runs would prove nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark import checkpoint, runner
from benchmark.train import Interrupted, Progress, Run, Trainer
from datasets import load_file, loader
from datasets.writer import Writer
from tests.dataset_files import episodes
from tests.test_runner import StopAt, final, make_run, same

STEPS, STOP = 20, 11
PLAIN = "group/0/member/"
# Every item of a checkpoint that training changes, by what it is. plain_net draws from the global
# generators of torch, NumPy and Python, of which each seed has a stream of its own.
ITEMS = {
    "plain_net": {
        "network": PLAIN + "net/0.weight",
        "buffers of batch normalisation": PLAIN + "net/1.running_mean",
        "optimiser": PLAIN + "optimiser/state",
        "schedule": PLAIN + "schedule",
        "torch's generator": "group/0/stream/torch",
        "NumPy's generator": "group/0/stream/numpy",
        "Python's generator": "group/0/stream/python",
        "generator of the data": "rngs",
        "step": "step",
        "curves": "curves",
    },
    "macql": {
        "actor": "group/actor",
        "critic": "group/critic",
        "target of the actor": "group/target_actor",
        "target of the critic": "group/target_critic",
        "optimiser of the actor": "group/actor_optimiser",
        "optimiser of the critic": "group/critic_optimiser",
        "scale of rewards": "group/reward_scale",
        "count of updates": "group/steps",
        "generator of the data": "rngs",
        "step": "step",
        "curves": "curves",
    },
}
SMALL: dict[str, dict[str, Any]] = {"plain_net": {}, "macql": {"width": 8, "batch_size": 8}}


@dataclass
class Stopped:
    """A run as it is at its start, when it is interrupted, and at its end where nothing did."""

    fresh: dict[str, Any]
    halfway: dict[str, Any]
    end: dict[str, Any]


def run_of(row: str, folder: Path) -> Run:
    return make_run(folder, row, seeds=(0,), steps=STEPS, overrides=SMALL[row])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stopped]:
    found = {}
    for row in ITEMS:
        folder = tmp_path_factory.mktemp(row)
        run = run_of(row, folder)
        start = folder / "start.safetensors"
        checkpoint.save(start, Trainer(run, (), 30.0, Progress()).state())
        with pytest.raises(Interrupted):
            runner.execute(run, folder / "records", progress=StopAt(STOP))
        whole = run_of(row, folder / "whole")
        runner.execute(whole, folder / "records of whole")
        found[row] = Stopped(checkpoint.load(start), final(run), final(whole))
    return found


def resumed(row: str, state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The last checkpoint of a run that goes on from a state."""
    run = run_of(row, folder)
    checkpoint.save(checkpoint.path_of(run.where, STOP), state)
    runner.execute(run, folder / "records")
    return final(run)


def replaced(state: Any, path: str, fresh: Any) -> Any:
    """A state with the fresh value at a path."""
    if not path:
        return fresh
    key, _, rest = path.partition("/")
    return state | {key: replaced(state[key], rest, fresh[key])}


@pytest.mark.parametrize("row", ITEMS)
def test_a_run_that_goes_on_ends_with_equal_bits(
    row: str, stopped: dict[str, Stopped], tmp_path: Path
) -> None:
    assert same(resumed(row, stopped[row].halfway, tmp_path), stopped[row].end) == []


@pytest.mark.parametrize(("row", "item"), [(row, item) for row in ITEMS for item in ITEMS[row]])
def test_a_resume_that_lacks_an_item_is_noticed(
    row: str, item: str, stopped: dict[str, Stopped], tmp_path: Path
) -> None:
    known = stopped[row]
    state = replaced(known.halfway, ITEMS[row][item], known.fresh)
    assert same(resumed(row, state, tmp_path), known.end) != []


@pytest.mark.parametrize("row", ITEMS)
def test_the_list_of_items_is_complete(row: str, stopped: dict[str, Stopped]) -> None:
    changed = same(stopped[row].fresh, stopped[row].halfway)
    listed = tuple(f"/{path}" for path in ITEMS[row].values())
    network = (f"/{PLAIN}net", f"/{PLAIN}optimiser")  # other parts of what is listed
    assert [path for path in changed if not path.startswith(listed + network)] == []


def test_draws_from_the_global_generators_go_on(
    stopped: dict[str, Stopped], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a plug-in that stacks its seeds may draw; one that does not has streams of its own."""
    whole, broken = run_of("macql", tmp_path / "whole"), run_of("macql", tmp_path / "broken")
    step = whole.cls.update

    def update(self: Any, batch: Any) -> Any:
        drawn = [torch.rand(()).item(), np.random.rand(), random.random()]  # noqa: NPY002
        losses = {f"drawn {i}": torch.tensor(x) for i, x in enumerate(drawn)}
        return step(self, batch) | losses

    monkeypatch.setattr(whole.cls, "update", update)
    runner.execute(whole, tmp_path / "records of whole")
    with pytest.raises(Interrupted):
        runner.execute(broken, tmp_path / "records", progress=StopAt(STOP))
    runner.execute(broken, tmp_path / "records")
    assert same(final(broken), final(whole)) == []
    assert same(final(whole)["global"], stopped["macql"].end["global"]) != []


def test_a_run_on_shuffled_data_goes_on_where_it_was_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within an epoch and within what is held in memory of it."""
    monkeypatch.setattr(loader, "CHUNK_ROWS", 7)
    monkeypatch.setattr(loader, "POOL_CHUNKS", 2)
    spec, path = run_of("macql", tmp_path).task.spec, tmp_path / "a.hdf5"
    with Writer(path, spec, id="meanfield/squeeze-n16/any-v1") as writer:
        writer.append(**episodes(spec, 50))

    def run(folder: str) -> Run:
        return replace(run_of("macql", tmp_path / folder), data=load_file(path, "shuffle"))

    whole, broken = run("whole"), run("broken")
    runner.execute(whole, tmp_path / "records of whole")
    with pytest.raises(Interrupted):
        runner.execute(broken, tmp_path / "records", progress=StopAt(STOP))
    again = run("broken")
    runner.execute(again, tmp_path / "records")
    assert same(final(again), final(whole)) == []
