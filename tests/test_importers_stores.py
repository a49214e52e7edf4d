"""HDF5 files, vaults and Minari datasets become files of this suite, and Minari datasets again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets
from benchmark import registry
from benchmark.cli import main
from benchmark.errors import UserError
from datasets.importers import import_dataset
from datasets.importers.source import Options
from tests import foreign
from tests.fixtures import vault
from tests.importing import ends, final, load, single


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))


# ------------------------------------------------------------------------------------------- omiga
@pytest.mark.parametrize("shape", ["T", "T1", "Tn", "Tn1"])
def test_omiga_gives_the_transitions_of_its_own_loader(shape: str, tmp_path: Path) -> None:
    content = foreign.omiga(tmp_path / "Hopper-v2-3x1-medium.hdf5", shape)
    data = load("omiga", tmp_path / "Hopper-v2-3x1-medium.hdf5")
    done = np.zeros(2027, bool)
    done[[19, 1019, 2019]] = True
    used = np.flatnonzero(~done)[: 2020 - 3]
    assert np.array_equal(data.obs, single(content["obs"][used]))
    assert np.array_equal(data.rew, np.repeat(single(content["rew"][used, :1]), 3, 1))
    assert np.array_equal(final(data), single(content["obs"][[19, 1019, 2019]]))
    # that loader's mask is 0 where the next row has d = 1
    assert np.array_equal(np.flatnonzero(done[used + 1]), data.starts[1:] - 1)
    assert ends(data) == [(19, 1), (999, 0), (999, 0)]
    assert data.id == "omiga/hopper-v2-3x1/medium-v1"
    assert data.obs_transform == "omiga_standardised"


# -------------------------------------------------------------------------------------------- d4rl
@pytest.mark.parametrize("timeouts", [True, False])
@pytest.mark.parametrize("following", [True, False])
def test_d4rl(timeouts: bool, following: bool, tmp_path: Path) -> None:
    content = foreign.d4rl(tmp_path / "hopper-medium-v2.hdf5", timeouts, following)
    data = load("d4rl", tmp_path / "hopper-medium-v2.hdf5", horizon=30)
    length = 30 if following else 29
    assert ends(data) == [(12, 1), (length, 0), (length, 0)]
    assert data.id == "d4rl/hopper/medium-v2-v1"
    last = single(content["next"][[41, 71], 0] if following else content["obs"][[41, 71], 0])
    assert np.array_equal(final(data)[1:, 0], last)
    assert np.array_equal(data.obs[:12, 0], single(content["obs"][:12, 0]))


# ------------------------------------------------------------------------------------------- vault
def test_a_vault_is_read_without_jax_and_its_padding_taken_off(tmp_path: Path) -> None:
    folder, content = foreign.vault(tmp_path)
    data = load("vault", folder)
    keep = np.delete(np.arange(72), [29, 71])
    assert [group.obs_dim for group in data.spec.groups] == [5, 3]
    assert np.array_equal(data.arrays["steps/group_0/obs"][:, 0], single(content["obs"][keep, 0]))
    assert np.array_equal(
        data.arrays["steps/group_1/obs"][:, 0], single(content["obs"][keep, 1, :3])
    )
    assert np.array_equal(data.act, single(content["act"][keep]))
    assert ends(data) == [(29, 0), (12, 1), (29, 0)]
    assert data.id == "vault/og-marl-mamujoco-2ant/good-v1"
    assert any("infos.state" in note for note in data.card["notes"])


def test_a_vault_that_flashbax_wrote(tmp_path: Path) -> None:
    content, keep = vault.content(), np.delete(np.arange(44), [15, 31])
    data = load("vault", Path(__file__).parent / "fixtures/flashbax/toy/walk.vlt/Good")
    assert ends(data) == [(15, 0), (15, 0), (12, 1)]
    assert [(g.n_agents, g.obs_dim) for g in data.spec.groups] == [(2, 4), (1, 3)]
    obs = content["observations"][keep]
    assert np.array_equal(data.arrays["steps/group_0/obs"], obs[:, :2])
    assert np.array_equal(data.arrays["steps/group_1/obs"], obs[:, 2:, :3])
    assert np.array_equal(data.act, content["actions"][keep])
    assert np.array_equal(data.rew, content["rewards"][keep])


def test_a_vault_of_discrete_actions(tmp_path: Path) -> None:
    folder, content = foreign.vault(tmp_path, widths=(5, 5), discrete=True)
    data = load("vault", folder)
    assert data.spec.n_actions == 6
    assert np.array_equal(data.act[:29], content["taken"][:29])


def test_a_vault_of_omiga_is_recorded_as_standardised(tmp_path: Path) -> None:
    folder, _ = foreign.vault(tmp_path, project="omiga")
    assert load("vault", folder).obs_transform == "omiga_standardised"


def test_without_tensorstore_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = foreign.vault(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "tensorstore", None)
    with pytest.raises(UserError, match=r"offline-marl-bench\[formats\]"):
        import_dataset("vault", folder)


# ------------------------------------------------------------------------------------------ minari
def test_minari_agents_are_the_keys_of_a_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, episodes = foreign.minari(tmp_path / "minari", monkeypatch)
    data = load("minari", folder)
    assert ends(data) == [(9, 0), (6, 1), (9, 0)]
    assert data.seeds.tolist() == [70, 71, 72]
    assert [(g.n_agents, g.obs_dim) for g in data.spec.groups] == [(2, 3), (1, 4)]
    order = ("agent_0", "agent_2", "agent_10")
    for e, episode in enumerate(episodes):
        rows = slice(data.starts[e], data.starts[e + 1])
        for i, agent in enumerate(order):
            seen = episode["observations"][agent]
            assert np.array_equal(data.obs[rows, i, : seen.shape[1]], seen[:-1])
            assert np.array_equal(data.act[rows, i], episode["actions"][agent])
        assert np.array_equal(data.rew[rows], single(episode["rewards"]))
    assert np.array_equal(
        data.arrays["final/group_1/obs"][1, 0], episodes[1]["observations"]["agent_10"][-1]
    )


@pytest.mark.parametrize("task", ["mpe/spread-v1", "probe/xor-v1"])
def test_minari_and_back_keeps_every_value(task: str, tmp_path: Path, capsys: Any) -> None:
    spec = registry.task(task).spec
    rng = np.random.default_rng(0)
    dataset_id = f"{task.removesuffix('-v1')}/mine-v1"
    with datasets.Writer(datasets.path(dataset_id), spec, id=dataset_id) as writer:
        shape = (5, spec.horizon, spec.n_agents)
        taken = (
            rng.uniform(-1, 1, (*shape, spec.act_dim))
            if spec.n_actions is None
            else rng.integers(spec.n_actions, size=shape)
        )
        seen = (*shape, spec.obs_dim)
        writer.append(
            obs=rng.normal(size=seen) if spec.n_obs is None else np.zeros(seen, int),
            act=taken,
            rew=rng.normal(size=shape).astype("f4"),  # equal bits, equal returns
            final_obs=np.zeros((5, *seen[2:]), int),
            terminated=np.zeros(5, bool),
            seeds=np.arange(5),
            policy=np.zeros(5, int),
        )
    before = datasets.load_file(datasets.path(dataset_id))
    assert main(["data", "export", "minari", dataset_id, "--out", str(tmp_path / "out")]) == 0
    import minari

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
        assert minari.load_dataset(dataset_id).total_episodes == 5
    folder = tmp_path / "out" / dataset_id
    back = datasets.load_file(
        import_dataset("minari", folder, Options(task=task, allow=("duplicates", "dead actions")))
    )
    assert back.spec == spec
    assert back.content_sha256 == before.content_sha256
    assert main(["data", "export", "minari", dataset_id, "--out", str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_minari_dataset_of_one_agent_and_shifted_actions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gymnasium import spaces

    last = np.arange(7) == 6
    episodes = [
        {
            "observations": foreign.chain(8, 3, e),
            "actions": np.random.default_rng(e).integers(2, 5, size=7),
            "rewards": np.random.default_rng(e).normal(size=7),
            "terminations": ~last & last,
            "truncations": last,
        }
        for e in range(3)
    ]
    box, taken = spaces.Box(-np.inf, np.inf, (3,), np.float64), spaces.Discrete(3, start=2)
    data = load("minari", foreign.create(tmp_path, monkeypatch, episodes, box, taken))
    assert (data.spec.n_agents, data.spec.n_actions) == (1, 3)
    assert np.array_equal(data.act[:7, 0], episodes[0]["actions"] - 2)
    assert np.array_equal(final(data)[2, 0], single(episodes[2]["observations"])[-1])
