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
from benchmark.cli import main
from benchmark.errors import UserError
from benchmark.files import sha256_file
from datasets.importers import import_dataset, madiff, npy
from datasets.importers.source import Options
from tests import foreign
from tests.importing import ends, final, load, single


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))


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
    assert load("madiff", tmp_path / "simple_spread/medium/seed_3_data").n_episodes == 1
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
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=6),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    over=st.integers(0, 63),
    last_row=st.sampled_from(["drop", "keep"]),
)
def test_any_episodes_keep_their_rows(
    lengths: list[int], shape: tuple[int, int], over: int, last_row: Any, tmp_path: Path
) -> None:
    """Cut episodes give up their last row, or not; ended ones never; no value changes."""
    n_agents, width = shape
    content = foreign.rows(n_agents, lengths, width, 2)
    ended = np.array([over >> e & 1 for e in range(len(lengths))], bool)
    last = np.cumsum(lengths) - 1
    discounts = np.ones((sum(lengths), n_agents))
    discounts[last[ended]] = 0
    eye = np.broadcast_to(np.eye(n_agents), (sum(lengths), n_agents, n_agents))
    arrays = {
        "obs": np.concatenate([eye, content["obs"]], -1),
        "actions": content["act"],
        "rewards": content["rew"],
        "discounts": discounts,
        "path_lengths": np.array(lengths),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    source = madiff.read(tmp_path, Options(last_row=last_row))
    source.check()
    dropped = last[~ended] if last_row == "drop" else []
    keep = np.delete(np.arange(sum(lengths)), dropped)
    assert source.lengths.sum() == len(keep)
    assert np.array_equal(source.terminated, ended)
    for i in range(n_agents):
        assert np.array_equal(source.obs[i], single(content["obs"][keep, i]))
        assert np.array_equal(source.act[i], single(content["act"][keep, i]))
        assert np.array_equal(source.final[i], single(content["obs"][last, i]))
    assert np.array_equal(source.rew, single(content["rew"][keep]))


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
