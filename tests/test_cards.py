"""Hashes and cards of dataset files, and the shipped checks of a dataset."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets
from benchmark.checks.dataset import CHECKS, check_dataset
from benchmark.checks.fixtures import POPULATION
from benchmark.errors import UserError
from datasets.cardfile import make_card, measure, mismatch, write_card
from datasets.open import h5py, open_dataset, stored
from datasets.schema import content_sha256
from datasets.writer import Writer
from tests.dataset_files import edit, episodes, rehash, write

REW = "steps/agents/rew"


# ---------------------------------------------------------------------------------- hash, card
def test_a_file_of_another_version_of_a_known_task_is_refused(tmp_path: Path) -> None:
    spec = replace(POPULATION, id="meanfield/beach-bar-n8-v1")
    with Writer(tmp_path / "a.hdf5", spec, id="meanfield/beach-bar-n8/own-v1") as writer:
        writer.append(**episodes(spec))
    with pytest.raises(UserError, match="another version of the task"):
        datasets.load_file(tmp_path / "a.hdf5")


def test_verification_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.hdf5")
    remembered = tmp_path / ".a.verified.json"
    datasets.load_file(path)
    assert not remembered.exists()  # a change in the same tick of the clock would go unseen
    os.utime(path, (1, 1))
    datasets.load_file(path)
    assert remembered.exists()
    monkeypatch.setattr("datasets.library.content_sha256", None)  # not called again
    datasets.load_file(path)
    monkeypatch.undo()
    edit(path, lambda file: file[REW].__setitem__((0, 0), 5.0))
    with pytest.raises(UserError, match="damaged") as caught:
        datasets.load_file(path)
    assert len(set(re.findall(r"\b[0-9a-f]{64}\b", str(caught.value)))) == 2


def test_content_and_not_file_bytes_decide_the_hash(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.hdf5"), write(tmp_path / "b.hdf5", source="other")
    assert one.read_bytes() != two.read_bytes()
    assert datasets.load_file(one).content_sha256 == datasets.load_file(two).content_sha256


def test_hashing_costs_a_second_and_a_400_millionth_of_a_second_a_byte_at_most() -> None:
    values = np.zeros((1_000, 20_000), np.float32)
    begun = time.process_time()
    content_sha256("toy/any-v1", {"steps/agents/obs": values})
    assert time.process_time() - begun < values.nbytes / 400e6 + 1.0


def test_a_damaged_card_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    path.with_suffix(".toml").write_text("[")
    with pytest.raises(UserError, match=r"card .*a\.toml is not valid TOML"):
        datasets.load_file(path)


def test_a_card_of_other_data_is_an_error_that_names_both_hashes(tmp_path: Path) -> None:
    data = datasets.load_file(write(tmp_path / "a.hdf5"))
    found = measure(data.spec, data.arrays)
    card = {"recipe_sha256": "r", "content_sha256": ["f" * 64], **found}
    with pytest.raises(UserError, match=f"{data.content_sha256}.*{'f' * 64}"):
        datasets.load_file(tmp_path / "a.hdf5", card=card)
    card["content_sha256"] = [data.content_sha256]
    assert datasets.load_file(tmp_path / "a.hdf5", card=card).card == card


@pytest.mark.parametrize("name", ["obs", "act", "start"])
def test_data_that_cannot_be_measured_are_refused_by_a_card_and_named_by_the_linter(
    name: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.hdf5", POPULATION)
    file, meta = open_dataset(path)
    with file:
        write_card(path.with_suffix(".toml"), make_card(meta, stored(file)))

    def change(file: h5py.File) -> None:
        if name == "start":
            file["index/start"][1] += 1
        else:
            file[f"steps/agent/{name}"][3] = 7

    edit(path, change)
    rehash(path)
    with pytest.raises(UserError, match=f"not the dataset of its card.*/{name}"):
        datasets.load_file(path)
    assert any(f"/{name} at (" in finding for finding in datasets.lint(path))


def test_data_of_a_recipe_match_within_three_standard_errors() -> None:
    rng = np.random.default_rng(0)

    def found(returns: np.ndarray) -> dict[str, Any]:
        levels = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
        return {
            "counts": {"episodes": len(returns), "agents": 2},
            "statistics": {
                "return_mean": float(returns.mean()),
                "return_sd": float(returns.std(ddof=1)),
                "return_levels": levels,
                "return_quantiles": np.quantile(returns, levels).tolist(),
            },
        }

    card = {"recipe_sha256": "r", **found(rng.normal(size=1000))}
    agree = [not mismatch(card, "r", found(rng.normal(size=1000))) for _ in range(50)]
    assert np.mean(agree) > 0.9
    assert "recipe" in mismatch(card, "s", found(rng.normal(size=1000)))
    assert "mean" in mismatch(card, "r", found(rng.normal(0.3, size=1000)))
    assert "quantile" in mismatch(card, "r", found(rng.normal(0, 1.6, size=1000)))
    assert "episodes" in mismatch(card, "r", found(rng.normal(size=900)))


# -------------------------------------------------------------------------------- shipped checks
class Broken:
    """A dataset with one method or attribute replaced."""

    def __init__(self, data: Any, **changes: Any) -> None:
        self._data, self._changes = data, changes

    def __getattr__(self, name: str) -> Any:
        return self._changes[name] if name in self._changes else getattr(self._data, name)


def spoil(method: Any, **changes: Callable[[Any], Any]) -> Any:
    """The same method with fields of its batches changed."""

    def call(*args: Any, **kwargs: Any) -> Any:
        batch = method(*args, **kwargs)
        return replace(batch, **{name: f(getattr(batch, name)) for name, f in changes.items()})

    return call


def test_each_check_fails_on_a_dataset_that_breaks_it(tmp_path: Path) -> None:
    data = datasets.load_file(write(tmp_path / "a.hdf5"))
    crowd = datasets.load_file(write(tmp_path / "b.hdf5", POPULATION))
    card = {"task": "toy/other-v1"}
    act = np.array(data.act)
    act[0] = 7
    broken = {
        "index": Broken(data, starts=data.starts[::-1]),
        "shapes": Broken(data, rew=data.rew[:, :1]),
        "values": Broken(data, act=act),
        "returns": Broken(data, returns=data.returns + 1),
        "card": Broken(data, card=card),
        "transitions": Broken(data, transitions=spoil(data.transitions, rew=lambda x: x + 1)),
        "ends": Broken(data, transitions=spoil(data.transitions, terminated=lambda x: x + 1)),
        "windows": Broken(data, windows=spoil(data.windows, obs=lambda x: x + 1)),
        "seeds": Broken(
            data, transitions=lambda rngs, n: data.transitions([rngs[0]] * len(rngs), n)
        ),
        "agents": Broken(crowd, transitions=spoil(crowd.transitions, agent=lambda x: (x + 1) % 4)),
    }
    assert set(broken) == {check.__name__.removeprefix("check_") for check in CHECKS}
    for name, subject in broken.items():
        results = {result.name: result.ok for result in check_dataset(subject)}
        assert not results[name], name
