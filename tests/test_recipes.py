"""Recipes: discovery, hashes, making, and cards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import datasets
from benchmark import registry
from benchmark.errors import UserError
from benchmark.provenance import packages
from datasets import cardfile, recipe
from datasets.recipes import meanfield

SQUEEZE, BEACH = "meanfield/squeeze-n100/medium-v1", "meanfield/beach-bar-n16/medium-v1"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folders of data and cards, and 30 episodes a dataset."""
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cardfile, "CARDS", tmp_path / "cards")
    monkeypatch.setattr(meanfield, "size", lambda task, tier: 30)
    return tmp_path


def make(dataset: str, **options: Any) -> datasets.Dataset:
    datasets.make_dataset(dataset, progress=False, **options)
    return datasets.load(dataset)


# --------------------------------------------------------------------------------- discovery
def test_the_catalogue_is_every_example_task_times_every_tier() -> None:
    found = datasets.catalogue()
    assert SQUEEZE in found
    assert {f"mpe/spread/{tier}-v1" for tier in ("random", "medium", "expert")} <= set(found)
    assert len(found) == len(set(found))
    for dataset in found:
        assert recipe.plan(dataset).id == dataset


def test_reading_the_recipes_imports_none_of_them_and_no_torch() -> None:
    code = (
        "import sys, datasets; datasets.catalogue();"
        "assert not [m for m in sys.modules if m.startswith('datasets.recipes.')];"
        "assert 'torch' not in sys.modules and 'h5py' not in sys.modules"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_member_of_a_family_needs_no_entry() -> None:
    planned = recipe.plan("meanfield/squeeze-n37/random-v1")
    assert planned.task.spec.n_agents == 37


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("mpe/spred/medium-v1", "mpe/spread/medium-v1"),
        ("meanfield/squeeze-n1000/medium-v2", "meanfield/squeeze-n1000/medium-v1"),
        ("meanfield/squeeze-n100/expart-v1", "meanfield/squeeze-n100/expert-v1"),
    ],
)
def test_an_unknown_id_names_the_nearest(wrong: str, right: str, home: Path) -> None:
    with pytest.raises(UserError, match=f"did you mean '{right}'"):
        datasets.load(wrong)


def test_the_recipe_hash_follows_file_behaviours_version_tier_and_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    planned = recipe.plan(SQUEEZE)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"1")
    hashes = [planned.sha256(), replace(planned, tier="random").sha256()]
    hashes.append(replace(planned, task=registry.task("meanfield/squeeze-n7-v1")).sha256())
    hashes.append(replace(planned, recipe=replace(planned.recipe, version=2)).sha256())
    monkeypatch.setattr(meanfield, "files", lambda tier: [weights])
    hashes.append(planned.sha256())
    weights.write_bytes(b"2")
    hashes.append(planned.sha256())
    monkeypatch.setattr(recipe, "packages", lambda names: {"numpy": "0"})
    hashes.append(planned.sha256())
    other = tmp_path / "meanfield.py"
    other.write_text(planned.recipe.file.read_text() + "\n")
    moved = replace(planned.recipe, file=other)
    monkeypatch.setattr(recipe.Recipe, "module", lambda self: meanfield)
    hashes.append(replace(planned, recipe=moved).sha256())
    assert len(set(hashes)) == len(hashes)
    assert planned.sha256() == planned.sha256()


# ------------------------------------------------------------------------------------ making
def test_making_twice_gives_the_same_content_and_leaves_the_card_alone(home: Path) -> None:
    for dataset in (SQUEEZE, BEACH):
        first = make(dataset).content_sha256
        card = datasets.card(dataset)
        assert card["content_sha256"] == [first]
        assert make(dataset, force=True).content_sha256 == first
        assert datasets.card(dataset) == card


def test_only_catalogue_datasets_get_a_committed_card(home: Path) -> None:
    assert datasets.rankable(make(SQUEEZE))
    assert not datasets.rankable(make(BEACH))
    assert [path.name for path in (home / "cards").iterdir()] == [
        "meanfield--squeeze-n100--medium-v1.toml"
    ]
    assert datasets.path(BEACH).with_suffix(".toml").exists()


def test_a_made_file_is_left_alone_unless_forced(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = datasets.make_dataset(SQUEEZE, progress=False)
    before = path.stat().st_ino
    datasets.make_dataset(SQUEEZE, progress=False)
    assert path.stat().st_ino == before
    assert "there already" in capsys.readouterr().out
    datasets.make_dataset(SQUEEZE, progress=False, force=True)
    assert path.stat().st_ino != before
    assert "mean team return" in capsys.readouterr().out


def test_a_missing_dataset_says_how_to_make_it(home: Path) -> None:
    with pytest.raises(UserError, match=f"make data DATASET={SQUEEZE}"):
        datasets.load(SQUEEZE)
    assert datasets.load(SQUEEZE, make=True).n_episodes == 30
    assert "30 episodes of at most 1 steps x 100 agents" in datasets.describe_cost(SQUEEZE)


def test_a_recipe_that_fails_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("half way")

    monkeypatch.setattr(meanfield, "tilted", fail)
    with pytest.raises(RuntimeError):
        datasets.make_dataset(SQUEEZE, progress=False)
    assert [path for path in home.rglob("*") if path.is_file()] == []


def reseed(monkeypatch: pytest.MonkeyPatch, shift: float = 0.0) -> None:
    """The same recipe on a processor whose floating point differs, exaggerated."""
    monkeypatch.setattr(meanfield, "RECIPE_SEEDS", range(1500, 1600))
    low, high = meanfield.SQUEEZE_MEANS
    monkeypatch.setattr(meanfield, "SQUEEZE_MEANS", (low + shift, high + shift))


def test_other_bits_of_an_equal_recipe_pass_and_are_listed_when_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(SQUEEZE).content_sha256
    reseed(monkeypatch)
    data = make(SQUEEZE, force=True)
    assert data.content_sha256 != first
    assert datasets.rankable(data)
    assert datasets.card(SQUEEZE)["content_sha256"] == [first]
    data = make(SQUEEZE, record=True)
    assert datasets.card(SQUEEZE)["content_sha256"] == [first, data.content_sha256]


def test_data_that_differ_from_their_card_are_refused_and_not_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make(SQUEEZE).content_sha256
    reseed(monkeypatch, shift=4.0)
    with pytest.raises(UserError, match="3 standard errors"):
        datasets.make_dataset(SQUEEZE, progress=False, force=True)
    assert datasets.load(SQUEEZE).content_sha256 == before
    monkeypatch.setattr(meanfield, "size", lambda task, tier: 20)
    with pytest.raises(UserError, match="episodes are 20, not 30"):
        datasets.make_dataset(SQUEEZE, progress=False, force=True)


def test_a_changed_recipe_asks_for_a_new_version(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(SQUEEZE)
    reseed(monkeypatch)
    monkeypatch.setattr(recipe.Plan, "sha256", lambda self: "0" * 64)
    with pytest.raises(UserError, match=r"raise VERSION in meanfield\.py"):
        datasets.make_dataset(SQUEEZE, progress=False)


def test_an_edit_that_changes_no_data_can_be_recorded(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = make(SQUEEZE).content_sha256
    monkeypatch.setattr(recipe.Plan, "sha256", lambda self: "0" * 64)
    make(SQUEEZE, record=True)
    card = datasets.card(SQUEEZE)
    assert (card["recipe_sha256"], card["content_sha256"]) == ("0" * 64, [content])


COMMITTED = [
    file
    for file in sorted(cardfile.CARDS.glob("*.toml"))
    if not cardfile.read_card(file)["superseded_by"]
]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_card_is_of_todays_recipe(path: Path) -> None:
    card = cardfile.read_card(path)
    planned = recipe.plan(card["id"])
    assert cardfile.card_path(card["id"]).name == path.name
    assert card["task"] == planned.task.spec.id
    assert card["counts"]["episodes"] == planned.episodes()
    if card["packages"] == packages(planned.task.spec.packages):
        assert card["recipe_sha256"] == planned.sha256(), (
            f"{planned.recipe.file.name} was edited; if its data are the same, run"
            f" `make data DATASET={card['id']} ARGS=--record`, else raise its VERSION"
        )


def test_a_file_under_anothers_name_is_refused(home: Path) -> None:
    path = datasets.make_dataset(BEACH, progress=False)
    other = "meanfield/beach-bar-n16/random-v1"
    path.rename(datasets.path(other))
    with pytest.raises(UserError, match=BEACH):
        datasets.load(other)
