"""The linter: clean files of several kinds give no finding, nor do the suite's datasets, and each
fault, put at a random place, is found with its field and its index.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import datasets
from benchmark import registry
from benchmark.task import Group
from datasets import cardfile, recipe
from datasets.open import h5py, open_dataset, stored
from datasets.writer import Writer
from tests.dataset_files import edit, rehash, set_meta, write
from tests.linter_faults import CROWD, FAULTS, SPECS, clean

ROUNDS = 3  # random places for each fault and kind of file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("linter")
    return {name: clean(folder / f"{name}.hdf5", spec) for name, spec in SPECS.items()}


@pytest.mark.parametrize("name", SPECS)
def test_a_clean_file_has_no_findings(name: str, files: dict[str, Path]) -> None:
    assert datasets.lint(files[name]) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_with_its_field_and_index(
    fault: str, files: dict[str, Path], tmp_path: Path
) -> None:
    tried = 0
    for name, spec in SPECS.items():
        for k in range(ROUNDS):
            rng = np.random.default_rng([k, len(fault), len(name)])
            path = Path(shutil.copyfile(files[name], tmp_path / f"{name}-{k}.hdf5"))
            with h5py.File(path, "a") as file:
                expected = FAULTS[fault](file, spec, rng)
            if expected is None:
                continue
            tried += 1
            rehash(path)
            findings = datasets.lint(path)
            assert any(expected in finding for finding in findings), (name, expected, findings)
            assert all("\n" not in finding and finding[-1] in ".?" for finding in findings)
    assert tried >= 2


@pytest.mark.parametrize("name", SPECS)
def test_a_horizon_that_is_off_by_one_is_found(
    name: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copyfile(files[name], tmp_path / "a.hdf5"))
    horizon = SPECS[name].horizon
    set_meta(path, horizon=horizon - 1)
    assert any("horizon: /index/start at (0)" in finding for finding in datasets.lint(path))
    set_meta(path, horizon=horizon + 1)
    (found,) = (finding for finding in datasets.lint(path) if finding.startswith("horizon"))
    assert "/index/truncated at (0)" in found
    assert f"is {horizon} the horizon?" in found


@pytest.mark.parametrize("name", ["walk", "pair", "battle"])
def test_swapped_columns_are_named_where_a_card_tells(
    name: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copyfile(files[name], tmp_path / "a.hdf5"))
    file, meta = open_dataset(path)
    with file:
        card = cardfile.make_card(replace(meta, recipe_sha256="r"), stored(file))
    cardfile.write_card(path.with_suffix(".toml"), card)
    assert datasets.lint(path) == []
    group = SPECS[name].groups[-1].name
    obs = f"steps/{group}/obs"
    order = np.arange(SPECS[name].groups[-1].obs_dim)
    order[[1, 2]] = 2, 1
    edit(path, lambda file: file[obs].__setitem__(..., file[obs][()][..., order]))
    rehash(path)
    set_meta(path, recipe_sha256="r")  # recipe and statistics agree: only the columns can tell
    (found,) = (finding for finding in datasets.lint(path) if finding.startswith("card"))
    assert found.startswith(f"card: swapped columns: /{obs} column 1 holds what the card lists as")
    assert f"/{obs} column 2" in found
    edit(path, lambda file: file[obs].__setitem__(..., file[obs][()][..., order]))  # back again
    edit(path, lambda file: file[obs].__setitem__((3, 0, 1), 0.125))
    rehash(path)
    set_meta(path, recipe_sha256="s")
    (found,) = (finding for finding in datasets.lint(path) if finding.startswith("card"))
    assert f"card: /{obs} column 1" in found


@pytest.mark.parametrize("name", SPECS)
def test_copies_are_found_whatever_part_of_a_file_is_read_at_a_time(
    name: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copyfile(files[name], tmp_path / "a.hdf5"))
    with h5py.File(path, "a") as file:
        expected = FAULTS["copied episode"](file, SPECS[name], np.random.default_rng(0))
    rehash(path)
    for size in (1, 5_000, 1 << 20):
        monkeypatch.setattr("datasets.linter_episodes.SLAB_BYTES", size)
        assert datasets.lint(files[name]) == []
        assert any(str(expected) in finding for finding in datasets.lint(path))


def test_one_step_episodes_may_be_drawn_twice_with_different_seeds(tmp_path: Path) -> None:
    spec = replace(CROWD, groups=(Group("agents", 2, obs_dim=1),), horizon=1, exchangeable=False)
    with Writer(tmp_path / "a.hdf5", spec, id="toy/any/medium-v1") as writer:
        writer.append(
            obs=np.zeros((20, 1, 2, 1), int),
            act=np.tile(np.eye(2, dtype=int), (10, 1))[:, None],
            rew=np.ones((20, 1, 2)),
            final_obs=np.zeros((20, 2, 1), int),
            terminated=np.ones(20, bool),
            seeds=np.arange(20),
            policy=np.zeros(20, int),
        )
    assert datasets.lint(tmp_path / "a.hdf5") == []
    edit(tmp_path / "a.hdf5", lambda file: file["index/seed"].__setitem__(9, 5))
    rehash(tmp_path / "a.hdf5")
    assert "episode 9 equals episode 5" in datasets.lint(tmp_path / "a.hdf5")[0]


def test_agents_of_a_task_without_deaths_have_no_flag_of_life(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copyfile(files["battle"], tmp_path / "a.hdf5"))
    set_meta(path, can_die=False)
    assert any("cannot die" in finding for finding in datasets.lint(path))


def test_a_compressed_file_is_examined_like_any_other(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copyfile(files["battle"], tmp_path / "a.hdf5"))

    def pack(file: h5py.File) -> None:
        for name, array in stored(file).items():
            values = array[()]
            del file[name]
            file.create_dataset(
                name, data=values, compression="gzip", shuffle=True, fletcher32=True
            )

    edit(path, pack)
    assert datasets.lint(path) == []
    edit(path, lambda file: file["steps/left/rew"].__setitem__((3, 1), np.nan))
    rehash(path)
    assert any("NaN: /steps/left/rew at (3, 1)" in finding for finding in datasets.lint(path))


def test_a_file_that_cannot_be_opened_is_one_finding(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_text("hello")
    (found,) = datasets.lint(tmp_path / "a.hdf5")
    assert "text file" in found


def test_independent_observations_say_nothing_of_boundaries(tmp_path: Path) -> None:
    assert datasets.lint(write(tmp_path / "a.hdf5")) == []


# ------------------------------------------------------------------------ the suite's own datasets
@pytest.mark.parametrize("found", recipe.recipes(), ids=lambda found: found.file.stem)
def test_the_suites_own_datasets_have_no_findings(
    found: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few episodes of every tier of a recipe, on its smallest example task. Tiers whose behaviour
    is not committed cannot be made.
    """
    module = found.module()
    tasks = [registry.task(name) for name in registry.task_ids()]
    tasks = [task for task in tasks if _collects(found, task.spec.id)]
    task = min(tasks, key=lambda task: task.spec.n_agents * task.spec.horizon)
    episodes = 10 if task.spec.horizon < 500 else 2
    monkeypatch.setattr(module, "size", lambda task, tier: episodes)
    made = 0
    for tier in found.tiers:
        if recipe.Plan("own/data/tiny-v1", found, task, tier).missing_files():
            continue
        path = tmp_path / f"{tier}.hdf5"
        with Writer(path, task.spec, id="own/data/tiny-v1", perm_seed=5) as writer:
            module.collect(task, tier, writer, lambda done: None)
        assert datasets.lint(path) == []
        made += 1
    assert made


def _collects(found: recipe.Recipe, task_id: str) -> bool:
    name, _, version = task_id.rpartition("-v")
    return bool(re.fullmatch(found.tasks, name)) and int(version) == found.task_version
