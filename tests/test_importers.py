"""Public formats become files of this suite: values, ends, names, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datasets
from benchmark import registry
from benchmark.checks.dataset import check_dataset
from benchmark.cli import main
from benchmark.errors import UserError
from benchmark.files import sha256_file
from datasets.importers import import_dataset, npy
from datasets.importers.source import Options
from tests import foreign
from tests.fixtures import vault


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))


def load(format: str, path: Path, **options: Any) -> datasets.Dataset:
    """Import, and hold the outcome against the linter and the contract of datasets."""
    made = import_dataset(format, path, Options(**options))
    assert datasets.lint(made) == []
    data = datasets.load_file(made)
    failed = [result.line() for result in check_dataset(data) if not result.ok]
    assert not failed
    batch = data.windows([np.random.default_rng(0)], 8, 3)
    assert batch.obs.shape == (1, 8, 3, data.spec.n_agents, data.spec.obs_dim)
    assert data.card["content_sha256"] == [data.content_sha256]
    return data


def ends(data: datasets.Dataset) -> list[tuple[int, int]]:
    """(length, terminated) of each episode."""
    return list(zip(np.diff(data.starts).tolist(), data.terminated.tolist(), strict=True))


def final(data: datasets.Dataset) -> np.ndarray:
    """Final observations of a dataset of one group, [E, N, D]."""
    return np.asarray(data.arrays[f"final/{data.spec.groups[0].name}/obs"])


def single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


# -------------------------------------------------------------------------------------------- omar
def test_omar_rows_become_episodes_of_25_steps(tmp_path: Path) -> None:
    folder, content = foreign.omar(tmp_path)
    data = load("omar", folder)
    assert ends(data) == [(25, 0)] * 3
    assert np.array_equal(data.obs, single(content["obs"]))
    assert np.array_equal(data.act, single(content["act"]))
    assert np.array_equal(data.rew, single(content["rew"]))
    assert np.array_equal(final(data), single(content["next"][24::25]))
    assert data.card["source"] == "omar"
    assert data.card["licence"] == "unknown"
    assert data.card["sources"]["obs_0.npy"] == sha256_file(folder / "obs_0.npy")
    assert len(data.card["sources"]) == 15


def test_omar_spread_is_the_forks_task_and_never_that_of_mpe2(tmp_path: Path) -> None:
    folder, _ = foreign.omar(tmp_path)
    with pytest.raises(UserError, match="not data of mpe/spread-v1, expected mpe-omar/spread-v1"):
        import_dataset("omar", folder, Options(task="mpe/spread-v1"))
    data = load("omar", folder)
    assert data.spec == registry.task("mpe-omar/spread-v1").spec
    assert data.id == "mpe-omar/spread/omar-medium-seed0-v1"


def test_a_folder_of_several_seeds_gives_one_policy_each(tmp_path: Path) -> None:
    foreign.omar(tmp_path, seed=3, lengths=(25,))
    foreign.omar(tmp_path, seed=10)
    for format in ("omar", "madiff"):
        data = load(format, tmp_path / "simple_spread" / "medium")
        assert data.policy.tolist() == [0, 1, 1, 1]
        assert set(data.card["sources"]) >= {"seed_3_data/obs_0.npy", "seed_10_data/dones_2.npy"}


def test_omar_tag_leaves_the_prey_out_and_is_data_only(tmp_path: Path) -> None:
    folder, _ = foreign.omar(tmp_path, "simple_tag", 3, 16, prey=True)
    torch.save({"agent_params": [{"policy": torch.zeros(2)}]}, tmp_path / "prey.pt")
    data = load("omar", folder, prey=tmp_path / "prey.pt")
    assert data.spec.n_agents == 3
    assert data.spec.team_return == "agent_0"  # the project's metric
    assert data.spec.id == "omar/simple-tag-v1"
    assert data.card["sources"]["prey.pt"] == sha256_file(tmp_path / "prey.pt")
    assert any("prey" in note for note in data.card["notes"])


def test_the_preys_network_is_never_unpickled(tmp_path: Path) -> None:
    folder, _ = foreign.omar(tmp_path, "simple_tag", 3, 16)
    torch.save({"agent_params": [Path("x")]}, tmp_path / "prey.pt")
    with pytest.raises(UserError, match="not a torch file of plain tensors"):
        import_dataset("omar", folder, Options(prey=tmp_path / "prey.pt"))


def test_omar_halfcheetah_ends_where_dones_say(tmp_path: Path) -> None:
    folder, content = foreign.omar(
        tmp_path, "HalfCheetah-v2", 2, 11, lengths=(40, 15, 40), dones=True
    )
    data = load("omar", folder, horizon=40)
    assert ends(data) == [(40, 0), (15, 1), (40, 0)]
    assert np.array_equal(final(data), single(content["next"][[39, 54, 94]]))


def test_a_broken_chain_of_rows_is_cut_where_it_breaks(tmp_path: Path) -> None:
    folder, _ = foreign.omar(tmp_path, lengths=(10, 25, 25))
    made = import_dataset("omar", folder, Options())
    data = datasets.load_file(made)
    assert ends(data) == [(10, 0), (25, 0), (25, 0)]
    assert any("cut where next_obs" in note for note in data.card["notes"])


# ------------------------------------------------------------------------------------------ madiff
def test_madiff_agent_ids_are_recognised_and_taken_off(tmp_path: Path) -> None:
    folder, content = foreign.madiff(tmp_path)
    data = load("madiff", folder)
    keep = np.delete(np.arange(72), [29, 71])  # last rows of the cut episodes
    assert np.array_equal(data.obs, single(content["obs"][keep]))
    assert np.array_equal(final(data)[[0, 2]], single(content["obs"][[29, 71]]))
    assert ends(data) == [(29, 0), (12, 1), (29, 0)]
    assert data.obs_transform == "none"
    assert np.array_equal(data.arrays["steps/agents/logp"], single(-abs(content["rew"]))[keep])


def test_madiff_agent_ids_can_stay_and_are_recorded(tmp_path: Path) -> None:
    folder, _ = foreign.madiff(tmp_path)
    data = load("madiff", folder, agent_id="keep")
    assert data.spec.obs_dim == 7
    assert data.obs_transform == data.card["obs_transform"] == "agent_id_prefix"


def test_madiff_without_ids_or_discounts_is_read_too(tmp_path: Path) -> None:
    folder, content = foreign.madiff(tmp_path, ids=False, discrete=True)
    (folder / "discounts.npy").unlink()
    data = load("madiff", folder, horizon=30)
    assert data.spec.obs_dim == 5
    assert data.spec.n_actions == 6  # from the allowed actions, not the largest taken
    assert ends(data) == [(29, 0), (12, 1), (29, 0)]
    assert np.array_equal(data.act[:29], content["taken"][:29])


def test_last_rows_can_be_kept(tmp_path: Path) -> None:
    folder, content = foreign.madiff(tmp_path)
    made = import_dataset("madiff", folder, Options(last_row="keep"))
    data = datasets.load_file(made)
    assert ends(data) == [(30, 0), (12, 1), (30, 0)]
    assert np.array_equal(data.rew, single(content["rew"]))
    assert any("repeat their last row" in note for note in data.card["notes"])


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


# ------------------------------------------------------------------------------- names, evaluation
def test_the_command_imports_says_what_it_did_and_evaluation_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign.omiga(tmp_path / "Hopper-v2-3x1-medium.hdf5")
    arguments = ["data", "import", "omiga", str(tmp_path / "Hopper-v2-3x1-medium.hdf5")]
    assert main([*arguments, "--licence", "MIT"]) == 0
    out = capsys.readouterr().out
    assert "omiga/hopper-v2-3x1/medium-v1: 3 episodes" in out
    assert "licence MIT" in out
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    assert main(["train", "bc", "omiga/hopper-v2-3x1/medium-v1", "--protocol", "smoke"]) == 2
    error = capsys.readouterr().err
    assert "cannot be evaluated" in error
    assert "omiga_standardised" in error


def test_data_that_do_not_fit_the_named_task_are_imported_as_data_only(tmp_path: Path) -> None:
    foreign.d4rl(tmp_path / "hopper-medium-v2.hdf5")
    data = load("d4rl", tmp_path / "hopper-medium-v2.hdf5", task="mpe/spread-v1")
    assert data.spec.id == "d4rl/hopper-v1"
    assert any("not data of mpe/spread-v1: widths" in note for note in data.card["notes"])


def test_the_runner_refuses_transformed_observations_of_any_task(tmp_path: Path) -> None:
    import algorithms
    from benchmark import runner
    from benchmark.protocol import protocol

    folder, _ = foreign.omar(tmp_path)
    data = load("omar", folder)
    cls, _, variant = algorithms.registry().row("bc")
    task = registry.task("mpe-omar/spread-v1")
    planned = runner.plan("bc", cls, variant, task, data, protocol("smoke"), tmp_path)
    assert len(planned) == 1
    data.obs_transform = "something"
    with pytest.raises(UserError, match="observations are something"):
        runner.plan("bc", cls, variant, task, data, protocol("smoke"), tmp_path)
    other, _ = foreign.omar(tmp_path, "simple_tag", 3, 16)
    with pytest.raises(UserError, match="groups of its data"):
        runner.plan("bc", cls, variant, task, load("omar", other), protocol("smoke"), tmp_path)


def test_actions_out_of_range_are_refused_or_clipped(tmp_path: Path) -> None:
    folder, content = foreign.omar(tmp_path)
    acs = content["act"][:, 1].copy()
    acs[7, 1] = 1.5
    np.save(folder / "acs_1.npy", acs)
    with pytest.raises(UserError, match=r"actions of agent 1 hold 1.5 at \(7, 1\).*--clip"):
        import_dataset("omar", folder)
    data = load("omar", folder, clip=True)
    assert data.act[7, 1, 1] == 1
    assert any("1 action values were clipped" in note for note in data.card["notes"])


def test_a_name_of_the_suites_own_datasets_is_not_taken(tmp_path: Path) -> None:
    folder, _ = foreign.omar(tmp_path)
    for name, words in (("mpe/spread/medium-v1", "this suite makes"), ("spread", "tier-vN")):
        with pytest.raises(UserError, match=words):
            import_dataset("omar", folder, Options(id=name))
    made = import_dataset("omar", folder, Options(id="my/own/data-v2", out=tmp_path / "a.hdf5"))
    assert made == tmp_path / "a.hdf5"
    assert datasets.load_file(made).id == "my/own/data-v2"


def test_an_unknown_format_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "import", "minary", "x"]) == 2
    assert "did you mean 'minari'?" in capsys.readouterr().err
    assert main(["data", "export", "omar", "x"]) == 2
    assert "minari" in capsys.readouterr().err


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(st.integers(0, 5), st.integers(1, 4)),
    kind=st.sampled_from(["f2", "f4", "f8", "i4", "u1", "?"]),
    fortran=st.booleans(),
)
def test_npy_arrays_come_back_as_numpy_has_them(
    shape: tuple[int, int], kind: str, fortran: bool, tmp_path: Path
) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    np.save(tmp_path / "a.npy", np.asfortranarray(array) if fortran else array)
    found = npy.read(tmp_path / "a.npy")
    assert np.array_equal(found, array)
    assert found.dtype == (np.float32 if kind.startswith("f") else array.dtype)
