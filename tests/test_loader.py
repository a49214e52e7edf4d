"""Samplers: rows, windows, slabs, seeds, and the equality of the back-ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datasets
from benchmark.batch import Batch
from benchmark.checks.fixtures import POPULATION, TEAM
from benchmark.errors import UserError
from benchmark.task import Group, TaskSpec
from datasets import loader
from datasets.writer import Writer

NUMBERED = TaskSpec(
    id="toy/numbered-v1", groups=(Group("agents", 3, obs_dim=2, act_dim=2),), horizon=7
)
LENGTHS = (7, 1, 4, 7, 2, 5)
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def numbered(path: Path, spec: TaskSpec, lengths: tuple[int, ...] = LENGTHS) -> Path:
    """Episodes whose every number says where it belongs: 100 * episode + 10 * step + agent."""
    with Writer(path, spec, id="toy/numbered/medium-v1") as writer:
        for e, length in enumerate(lengths):
            place = 100 * e + 10 * np.arange(length + 1)[:, None] + np.arange(spec.n_agents)
            if spec.n_obs is None:
                obs = np.stack([place, -place], -1)[None].astype(np.float32)
                act = np.stack([place[:-1], place[:-1]], -1)[None] / 1000
            else:
                obs = (place % spec.n_obs)[None, ..., None]
                act = place[None, :-1] % 3
            writer.append(
                obs=obs[:, :-1],
                act=act,
                rew=place[None, :-1],
                final_obs=obs[:, -1],
                terminated=np.array([e % 2 == 1]),
                seeds=np.array([e]),
                policy=np.array([e]),
                logp=-place[None, :-1] / 7,
            )
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("loader")
    crowd = POPULATION
    team = folder / "team.hdf5"
    rng = np.random.default_rng(0)
    with Writer(team, TEAM, id="toy/team/medium-v1") as writer:
        narrow = np.ones((9, 7, 2, 5)) * (np.arange(5) < np.array([5, 3])[:, None])
        obs = rng.normal(size=(9, 7, 2, 5)) * narrow
        act = rng.uniform(-1, 1, (9, 6, 2, 2)) * (np.arange(2) < np.array([2, 1])[:, None])
        writer.append(
            obs=obs[:, :-1],
            act=act,
            rew=rng.normal(size=(9, 6, 2)),
            final_obs=obs[:, -1],
            terminated=np.zeros(9, bool),
            seeds=np.arange(9),
            policy=np.zeros(9, int),
        )
    return {
        "agents": numbered(folder / "agents.hdf5", NUMBERED),
        "crowd": numbered(folder / "crowd.hdf5", crowd, (4, 1, 3, 4)),
        "team": team,
    }


def equal(one: Batch, two: Batch) -> None:
    """Same values, types and memory layout in every field."""
    for name, value in vars(one).items():
        other = getattr(two, name)
        assert (value is None) == (other is None), name
        if value is not None:
            assert value.dtype == other.dtype, name
            assert torch.equal(value, other), name
            assert value.stride() == other.stride(), name


def draw(data: Any, seeds: list[int], size: int, length: int, options: dict[str, Any]) -> Batch:
    rngs = [np.random.default_rng(seed) for seed in seeds]
    if length == 0:
        options = {name: value for name, value in options.items() if name != "align"}
        return data.transitions(rngs, size, **options)
    return data.windows(rngs, size, length, **options)


REQUEST = {
    "seeds": st.lists(st.integers(0, 2**32), min_size=1, max_size=3),
    "size": st.integers(1, 20),
    "length": st.integers(0, 10),
    "align": st.booleans(),
}


@QUICK
@given(**REQUEST, backend=st.sampled_from(["ram", "mmap", "shuffle"]))
def test_windows_never_cross_an_episodes_end(
    files: dict[str, Path], seeds: list[int], size: int, length: int, align: bool, backend: str
) -> None:
    data = datasets.load_file(files["agents"], backend)
    batch = draw(data, seeds, size, length, {"align": align})
    t = max(length, 1)
    assert batch.obs.shape == (len(seeds), size, t, 3, 2)
    lengths = torch.tensor(LENGTHS)[batch.episode][..., None]
    step = batch.step[..., None] + torch.arange(t)
    assert torch.equal(batch.valid, step < lengths)
    if align and length:
        assert (batch.step == 0).all()
    place = (100 * batch.episode[..., None] + 10 * step)[..., None] + torch.arange(3)
    place = place * batch.valid[..., None]
    assert torch.equal(batch.rew, place.float())
    assert torch.equal(batch.obs, torch.stack([place, -place], -1).float())
    assert torch.allclose(batch.act, torch.stack([place, place], -1) / 1000)
    assert batch.logp is not None
    assert torch.allclose(batch.logp, -place / 7)
    last = batch.valid & (step == lengths - 1)
    odd = (batch.episode % 2 == 1)[..., None]
    assert torch.equal(batch.terminated, (last & odd).float())
    assert torch.equal(batch.truncated, (last & ~odd).float())
    assert (batch.agent == 0).all()


@QUICK
@given(seed=st.integers(0, 2**32), backend=st.sampled_from(["ram", "mmap", "shuffle"]))
def test_next_obs_is_the_next_row_or_the_final_observation(
    files: dict[str, Path], seed: int, backend: str
) -> None:
    data = datasets.load_file(files["agents"], backend)
    batch = data.transitions([np.random.default_rng(seed)], 40)
    assert batch.next_obs is not None
    # the final observation of an episode is numbered as the step after its last
    assert torch.equal(batch.next_obs[..., 0], batch.obs[..., 0] + 10)


@QUICK
@given(**REQUEST, agents=st.sampled_from([None, 1, 3, 8]), kind=st.sampled_from(["crowd", "team"]))
def test_ram_and_mmap_give_the_same_bits(
    files: dict[str, Path],
    seeds: list[int],
    size: int,
    length: int,
    align: bool,
    agents: int | None,
    kind: str,
) -> None:
    options = {"align": align, "agents": agents if kind == "crowd" else None}
    ram, mmap = (datasets.load_file(files[kind], backend) for backend in ("ram", "mmap"))
    equal(draw(ram, seeds, size, length, options), draw(mmap, seeds, size, length, options))


@settings(QUICK, max_examples=15)
@given(**REQUEST, agents=st.integers(1, 8))
def test_a_seed_in_a_group_draws_what_it_draws_alone(
    files: dict[str, Path], seeds: list[int], size: int, length: int, align: bool, agents: int
) -> None:
    options = {"align": align, "agents": agents}
    for backend in ("ram", "mmap", "shuffle"):
        group = draw(datasets.load_file(files["crowd"], backend), seeds, size, length, options)
        for k, seed in enumerate(seeds):
            alone = draw(datasets.load_file(files["crowd"], backend), [seed], size, length, options)
            for name, value in vars(group.seed(k)).items():
                assert value is None or torch.equal(value, getattr(alone.seed(0), name)), name


@QUICK
@given(seed=st.integers(0, 2**32), agents=st.integers(1, 7), length=st.integers(1, 5))
def test_a_slab_is_a_run_of_agents(
    files: dict[str, Path], seed: int, agents: int, length: int
) -> None:
    data = datasets.load_file(files["crowd"], "ram")
    batch = data.windows([np.random.default_rng(seed)], 30, length, agents=agents)
    assert batch.obs.shape == (1, 30, length, agents, 1)
    assert batch.obs.dtype == batch.act.dtype == torch.int64
    assert (batch.agent >= 0).all()
    assert (batch.agent <= 8 - agents).all()
    for b in range(30):
        first = int(data.starts[batch.episode[0, b]] + batch.step[0, b])
        n = int(batch.valid[0, b].sum())
        slab = slice(int(batch.agent[0, b]), int(batch.agent[0, b]) + agents)
        for name in ("obs", "act", "rew"):
            stored = torch.from_numpy(getattr(data, name)[first : first + n, slab].copy())
            assert torch.equal(getattr(batch, name)[0, b, :n].to(stored.dtype), stored), name


def test_every_slab_of_agents_is_drawn(files: dict[str, Path]) -> None:
    data = datasets.load_file(files["crowd"], "ram")
    batch = data.transitions([np.random.default_rng(0)], 4000, agents=3)
    counts = np.bincount(batch.agent[0].numpy(), minlength=6)
    assert len(counts) == 6
    assert (abs(counts - 4000 / 6) < 5 * np.sqrt(4000 / 6)).all()


def test_transitions_are_uniform_over_steps(files: dict[str, Path]) -> None:
    data = datasets.load_file(files["agents"], "ram")
    batch = data.transitions([np.random.default_rng(0)], 26_000)
    rows = data.starts[batch.episode[0].numpy()] + batch.step[0].numpy()
    counts = np.bincount(rows, minlength=26)
    assert (abs(counts - 1000) < 5 * np.sqrt(1000)).all()


def test_the_population_comes_with_every_step(files: dict[str, Path]) -> None:
    for backend in ("ram", "mmap", "shuffle"):
        data = datasets.load_file(files["crowd"], backend)
        batch = data.windows([np.random.default_rng(1)], 20, 3)
        assert batch.mu is not None
        whole = torch.nn.functional.one_hot(batch.obs[..., 0], 5).float().mean(3)
        assert torch.allclose(batch.mu, whole * batch.valid[..., None])
        slab = data.transitions([np.random.default_rng(1)], 20, agents=2)
        assert slab.mu is not None
        assert slab.mu.shape == (1, 20, 1, 5)
        assert torch.allclose(slab.mu.sum(-1), torch.ones(1, 20, 1))


def test_shuffle_uses_every_step_once_an_epoch(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "CHUNK_ROWS", 5)
    monkeypatch.setattr(loader, "POOL_CHUNKS", 2)
    for transitions in (True, False):
        data = datasets.load_file(files["agents"], "shuffle")
        rngs = [np.random.default_rng(seed) for seed in (0, 1)]
        orders = []
        for _ in range(2):
            rows: list[np.ndarray] = []
            for _ in range(13):  # 13 batches of 2 are the 26 steps
                batch = data.transitions(rngs, 2) if transitions else data.windows(rngs, 2, 3)
                rows.append(data.starts[batch.episode.numpy()] + batch.step.numpy())
            found = np.concatenate(rows, 1)
            assert (np.sort(found, 1) == np.arange(26)).all()
            orders.append(found)
        assert not np.array_equal(orders[0], orders[1])
        assert not np.array_equal(orders[0][0], orders[0][1])


def test_groups_of_other_widths_are_zero_padded(files: dict[str, Path]) -> None:
    for backend in ("ram", "mmap", "shuffle"):
        data = datasets.load_file(files["team"], backend)
        batch = data.transitions([np.random.default_rng(0)], 50)
        assert batch.obs.shape[-2:] == (2, 5)
        assert (batch.obs[..., 1, 3:] == 0).all()
        assert (batch.act[..., 1, 1:] == 0).all()
        assert (batch.obs[..., 1, :3] != 0).all()
    assert data.obs.shape == (54, 2, 5)
    assert data.act.shape == (54, 2, 2)


def test_agents_that_differ_cannot_be_subsampled(files: dict[str, Path]) -> None:
    data = datasets.load_file(files["agents"])
    with pytest.raises(UserError, match="exchangeable"):
        data.transitions([np.random.default_rng(0)], 4, agents=2)
    with pytest.raises(UserError, match="expected 1 to 8"):
        datasets.load_file(files["crowd"]).windows([np.random.default_rng(0)], 4, 2, agents=9)


def test_auto_takes_ram_where_there_is_room(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert datasets.load_file(files["agents"]).backend == "ram"
    monkeypatch.setattr("datasets.library.RAM_SHARE", 0.0)
    assert datasets.load_file(files["agents"]).backend == "mmap"
    with pytest.raises(UserError, match="did you mean 'ram'"):
        datasets.load_file(files["agents"], "rm")


def test_a_dataset_outlives_its_file(files: dict[str, Path], tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.hdf5", NUMBERED)
    data = datasets.load_file(path, "mmap")
    path.unlink()
    assert float(data.transitions([np.random.default_rng(0)], 100).rew.max()) > 0
