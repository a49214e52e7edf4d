"""The dataset file as the writer and the recorder leave it, and as it is read back."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets
from benchmark.checks.dataset import check_dataset
from benchmark.checks.fixtures import CHOICE, POPULATION, TEAM
from benchmark.errors import UserError
from benchmark.files import TEMPORARY
from benchmark.task import Group, TaskSpec
from datasets.open import open_dataset, stored
from datasets.writer import Writer
from tests.dataset_files import SPEC, episodes, write

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("spec", [SPEC, TEAM, CHOICE, POPULATION], ids=lambda spec: spec.id)
def test_what_is_written_is_read_back(spec: TaskSpec, tmp_path: Path) -> None:
    given = episodes(spec, 6)
    with Writer(tmp_path / "a.hdf5", spec, id="toy/pair/medium-v1") as writer:
        writer.append(**given)
    data = datasets.load_file(tmp_path / "a.hdf5")
    assert (data.n_episodes, data.n_steps) == (6, 6 * spec.horizon)
    assert np.allclose(data.spec.team(data.returns), spec.team(given["rew"].sum(1)), atol=1e-5)
    if not spec.exchangeable:
        assert np.array_equal(data.obs, given["obs"].reshape(data.obs.shape).astype(data.obs.dtype))
        assert np.array_equal(data.act, given["act"].reshape(data.act.shape).astype(data.act.dtype))
    assert not data.obs.flags.writeable
    failed = [result.line() for result in check_dataset(data) if not result.ok]
    assert not failed


def test_arrays_are_contiguous_unfiltered_and_aligned(tmp_path: Path) -> None:
    file, _ = open_dataset(write(tmp_path / "a.hdf5"))
    with file:
        for name, array in stored(file).items():
            assert array.chunks is None, name
            assert array.id.get_offset() % 64 == 0, name


def test_exchangeable_agents_are_stored_in_a_fresh_order_in_each_episode(tmp_path: Path) -> None:
    spec = replace(POPULATION, groups=(Group("agent", 50, obs_dim=1),), n_obs=50)
    given = episodes(spec, 8)
    given["obs"][:] = np.arange(50)[:, None]  # each agent shows its own number
    orders = []
    for chunks in ([8], [3, 5]):
        with Writer(tmp_path / "a.hdf5", spec, id="toy/pair/medium-v1", perm_seed=7) as writer:
            begin = 0
            for size in chunks:
                part = {name: value[begin : begin + size] for name, value in given.items()}
                writer.append(**part)
                begin += size
        data = datasets.load_file(tmp_path / "a.hdf5")
        orders.append(np.array(data.obs[data.starts[:-1], :, 0]))
    assert np.array_equal(orders[0], orders[1])  # the order does not depend on the chunks
    assert (np.sort(orders[0], 1) == np.arange(50)).all()
    assert len(np.unique(orders[0], axis=0)) == 8
    reward = np.take_along_axis(given["rew"].sum(1), orders[0], 1)  # rewards moved with the agents
    assert np.allclose(data.returns, reward, atol=1e-5)


def test_known_sizes_give_the_same_content_as_unknown_ones(tmp_path: Path) -> None:
    one = datasets.load_file(write(tmp_path / "a.hdf5"))
    two = datasets.load_file(write(tmp_path / "b.hdf5", n_steps=23, n_episodes=7))
    assert one.content_sha256 == two.content_sha256
    for sizes in ({"n_steps": 24, "n_episodes": 7}, {"n_steps": 22, "n_episodes": 7}):
        with pytest.raises(UserError, match="promised"):
            write(tmp_path / "c.hdf5", **sizes)
    assert not (tmp_path / "c.hdf5").exists()


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        {"act": np.zeros((4, 5, 2, 3))},
        {"rew": np.zeros((4, 5, 3))},
        {"final_obs": np.zeros((4, 2, 4))},
        {"seeds": np.full(4, 0.5)},
        {"obs": np.full((4, 5, 2, 3), "a")},
        {"logp": np.zeros((4, 5))},
        {"outcome": {"win": np.zeros(4)}},
    ]
    for change in bad:
        with pytest.raises(UserError), Writer(tmp_path / "a.hdf5", SPEC, id="a/b/c-v1") as writer:
            writer.append(**episodes(SPEC) | change)
    with (
        pytest.raises(UserError, match=r"\[0, 5\)"),
        Writer(tmp_path / "a.hdf5", POPULATION, id="a/b/c-v1") as writer,
    ):
        writer.append(**episodes(POPULATION) | {"final_obs": np.full((4, 8, 1), 5)})
    with (
        pytest.raises(UserError, match="no episode"),
        Writer(tmp_path / "a.hdf5", SPEC, id="a/b/c-v1"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_writer_wants_logp_with_all_chunks_or_none_and_bounds_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed() -> None:
        with Writer(tmp_path / "a.hdf5", SPEC, id="a/b/c-v1") as writer:
            writer.append(**episodes(SPEC))
            writer.append(**episodes(SPEC), logp=np.zeros((4, 5, 2)))

    with pytest.raises(UserError, match="all chunks or none"):
        mixed()
    monkeypatch.setattr("datasets.writer.MAX_WAITING", 1_000)
    with pytest.raises(UserError, match="n_steps and n_episodes"):
        write(tmp_path / "a.hdf5")
    write(tmp_path / "a.hdf5", n_steps=23, n_episodes=7)


KILLED = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[2])
import numpy as np
from benchmark.task import Group, TaskSpec
from datasets.open import open_dataset
from datasets.writer import Writer

spec = TaskSpec(id="toy/pair-v1", groups=(Group("agents", 2, obs_dim=3, act_dim=2),), horizon=5)
zeros = np.zeros((500, 5, 2, 3))
none = zeros[:, 0, 0, 0]

def write():
    with Writer(sys.argv[1], spec, id="a/b/c-v1", n_steps=50_000, n_episodes=10_000) as writer:
        for _ in range(20):
            writer.append(obs=zeros, act=zeros[..., :2], rew=zeros[..., 0], final_obs=zeros[:, 0],
                          terminated=none, seeds=none, policy=none)

begun = time.perf_counter()
write()
whole = time.perf_counter() - begun
os.unlink(sys.argv[1])
random.seed(0)
counts = {"absent": 0, "complete": 0}
for _ in range(int(sys.argv[3])):
    child = os.fork()
    if child == 0:
        write()
        os._exit(0)
    time.sleep(random.uniform(0, 1.2 * whole))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if os.path.exists(sys.argv[1]):
        open_dataset(sys.argv[1])[0].close()
        os.unlink(sys.argv[1])
        counts["complete"] += 1
    else:
        counts["absent"] += 1
print(counts["absent"], counts["complete"])
"""


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_nothing_or_everything_under_the_name(
    kills: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.hdf5"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(ROOT), str(kills)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    absent, complete = map(int, done.stdout.split())
    assert absent + complete == kills
    assert absent > 0
    for left_over in tmp_path.iterdir():
        assert left_over.name.startswith(TEMPORARY)
    write(path)
    assert datasets.load_file(path).n_episodes == 7


# ------------------------------------------------------------------------------------ recorder
def test_a_recorder_makes_a_dataset_of_ones_own_arrays(tmp_path: Path) -> None:
    given = episodes(SPEC, 3)
    with datasets.Recorder(tmp_path / "a.hdf5", SPEC, id="my/game/best-v1") as recorder:
        for e in range(3):
            recorder.episode(
                **{name: given[name][e] for name in ("obs", "act", "rew", "final_obs")},
                terminated=False,
                seed=e,
            )
    data = datasets.load_file(tmp_path / "a.hdf5")
    assert data.card["counts"]["episodes"] == 3
    assert data.card["content_sha256"] == [data.content_sha256]
    assert not datasets.rankable(data)
    assert datasets.lint(tmp_path / "a.hdf5") == []


def test_a_recorder_refuses_faulty_data_and_leaves_nothing(tmp_path: Path) -> None:
    given = episodes(SPEC, 2)
    given["rew"][1, 2, 0] = np.nan
    with (
        pytest.raises(UserError, match="NaN"),
        datasets.Recorder(tmp_path / "a.hdf5", SPEC, id="my/game/best-v1") as recorder,
    ):
        recorder.writer.append(**given)
    assert list(tmp_path.iterdir()) == []


def test_a_recorder_plays_a_pettingzoo_environment(tmp_path: Path) -> None:
    from benchmark import registry

    task = registry.task("meanfield/beach-bar-n8-v1")
    rng = np.random.default_rng(0)

    def policy(obs: dict[str, Any]) -> dict[str, int]:
        return {agent: int(rng.integers(3)) for agent in obs}

    path = tmp_path / "a.hdf5"
    with datasets.Recorder(path, task.spec, id="meanfield/beach-bar-n8/own-v1") as recorder:
        recorder.rollout(task.parallel_env(), policy, episodes=5, seed=3)
    data = datasets.load_file(path)
    assert (data.n_episodes, data.n_steps) == (5, 50)
    assert data.seeds.tolist() == [3, 4, 5, 6, 7]
    assert data.truncated.all()
    assert all(result.ok for result in check_dataset(data))
    fewer, leaving = task.parallel_env(), task.parallel_env()
    fewer.possible_agents = fewer.possible_agents[1:]
    step = leaving.step

    def leave(actions: dict[str, int]) -> Any:
        after = step(actions)
        leaving.agents = leaving.agents[1:]
        return after

    leaving.step = leave
    for env, words in ((fewer, "the environment has 7 agents"), (leaving, "an agent left")):
        with (
            pytest.raises(UserError, match=words),
            datasets.Recorder(tmp_path / "b.hdf5", task.spec, id="my/game/own-v1") as recorder,
        ):
            recorder.rollout(env, policy, episodes=1)
