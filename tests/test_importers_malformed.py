"""What importers refuse: each fault of a foreign file is one sentence that names file and field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.errors import UserError
from datasets.importers import d4rl, import_dataset, npy
from datasets.importers.source import Options
from tests import foreign
from tests.importing import refused

Change = Callable[[Path], Any]


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))


def replace(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(folder: Path) -> None:
        np.save(folder / name, change(np.load(folder / name)))

    return apply


def put(name: str, row: Any, value: float) -> Change:
    def change(array: np.ndarray) -> np.ndarray:
        array[row] = value
        return array

    return replace(name, change)


def write(name: str, change: Callable[[bytes], bytes]) -> Change:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


def pickled(folder: Path) -> None:
    np.save(folder / "obs_1.npy", np.array([{}, 1], object), allow_pickle=True)


def linked(folder: Path) -> None:
    (folder / "acs_0.npy").rename(folder / "real.npy")
    (folder / "acs_0.npy").symlink_to(folder / "real.npy")


def shuffled(folder: Path) -> None:
    order = np.random.default_rng(0).permutation(75)
    for file in folder.glob("*.npy"):
        np.save(file, np.load(file)[order])


def emptied(folder: Path) -> None:
    for file in folder.glob("*.npy"):
        np.save(file, np.load(file)[:0])


def longer(folder: Path) -> None:
    """The first two episodes become one of 50 steps."""
    for i in range(3):
        following, obs = np.load(folder / f"next_obs_{i}.npy"), np.load(folder / f"obs_{i}.npy")
        following[24] = obs[25]
        np.save(folder / f"next_obs_{i}.npy", following)


OMAR: dict[str, tuple[Change, str]] = {
    "missing file": (lambda f: (f / "rews_2.npy").unlink(), r"rews_2.npy is not there"),
    "wrong length": (replace("acs_1.npy", lambda x: x[:-1]), "acs_1.npy has 74 rows, obs_0.npy"),
    "wrong width": (replace("next_obs_0.npy", lambda x: x[:, 1:]), r"next_obs_0.npy has the shape"),
    "wide rewards": (replace("rews_0.npy", lambda x: np.stack([x, x], 1)), r"rews_0.npy has the"),
    "one axis": (replace("obs_0.npy", lambda x: x[:, 0]), r"obs_0.npy .* expected 2 axes"),
    "pickle": (pickled, r"obs_1.npy holds Python objects \(a pickle\)"),
    "complex": (replace("obs_0.npy", lambda x: x.astype(complex)), "obs_0.npy has the type"),
    "text": (replace("obs_0.npy", lambda x: x.astype("U4")), "obs_0.npy has the type"),
    "big-endian": (replace("obs_0.npy", lambda x: x.astype(">f8")), "obs_0.npy has the type"),
    "records": (
        replace("obs_0.npy", lambda x: np.zeros(75, [("a", "f4")])),
        "obs_0.npy has the type",
    ),
    "truncated": (write("obs_2.npy", lambda b: b[:-7]), "obs_2.npy declares 10800 bytes"),
    "appended": (write("obs_2.npy", lambda b: b + b"x"), "obs_2.npy declares 10800 bytes"),
    "empty file": (write("obs_0.npy", lambda b: b""), "obs_0.npy .* an empty file"),
    "other file": (write("obs_0.npy", lambda b: b"<html>"), "obs_0.npy .* another kind of file"),
    "damaged header": (write("obs_0.npy", lambda b: b[:20] + b"((" + b[22:]), "damaged npy header"),
    "header of code": (
        write("obs_0.npy", lambda b: b[:10] + b"__import__('os')".ljust(118) + b[128:]),
        "damaged npy header",
    ),
    "unknown version": (write("obs_0.npy", lambda b: b[:6] + b"\x09" + b[7:]), "damaged npy"),
    "NaN": (put("obs_0.npy", (30, 4), np.nan), r"observations of agent 0 hold nan at \(30, 4\)"),
    "NaN at the end": (put("next_obs_2.npy", (74, 0), np.nan), r"after an episode of agent 2"),
    "infinite reward": (put("rews_1.npy", 8, np.inf), r"rewards hold inf at \(8, 1\)"),
    "done inside": (
        lambda f: [put(f"dones_{i}.npy", 7, 1)(f) for i in range(3)],
        "dones_0.npy is 1 at row 7, inside an episode of 25 rows",
    ),
    "done of one": (put("dones_2.npy", 24, 1), "dones_2.npy: differs from dones_0.npy at row 24"),
    "done of 2": (put("dones_1.npy", 3, 2), r"dones_1.npy holds \[2.0\] at row 3"),
    "shuffled": (shuffled, "rows are not in order"),
    "longer episodes": (longer, "past row 25 of an episode.*--horizon"),
    "no rows": (emptied, "dones_0.npy holds no rows"),
    "symbolic link": (linked, "acs_0.npy: a symbolic link"),
}


@pytest.mark.parametrize("case", OMAR)
def test_omar(case: str, tmp_path: Path) -> None:
    folder, _ = foreign.omar(tmp_path)
    change, words = OMAR[case]
    change(folder)
    refused("omar", folder, words)


def test_omar_halfcheetah_must_go_on_until_done(tmp_path: Path) -> None:
    folder, _ = foreign.omar(tmp_path, "HalfCheetah-v2", 2, 11, lengths=(20, 20), dones=True)
    put("obs_1.npy", 9, 0.5)(folder)
    refused("omar", folder, "next_obs of row 8 is not the obs of row 9")


def test_omar_folders_must_name_the_environment(tmp_path: Path) -> None:
    folder, _ = foreign.omar(tmp_path, "simple_spraed")
    refused("omar", folder, "did you mean 'simple_spread'")
    (tmp_path / "simple_tag" / "random").mkdir(parents=True)
    refused("omar", tmp_path / "simple_tag" / "random", "no folder seed_<k>_data")
    refused("omar", tmp_path / "nothing", "not a folder")


def test_seeds_of_a_tier_must_be_of_one_program(tmp_path: Path) -> None:
    foreign.omar(tmp_path, seed=0)
    foreign.omar(tmp_path, seed=1, width=14)
    refused("omar", tmp_path / "simple_spread" / "medium", r"seed_1_data: agent 0 .*\(14, 2\)")


def test_only_tag_and_world_have_a_prey(tmp_path: Path) -> None:
    folder, _ = foreign.omar(tmp_path)
    with pytest.raises(UserError, match="simple_spread, which has no prey"):
        import_dataset("omar", folder, Options(prey=tmp_path / "x"))


MADIFF: dict[str, tuple[Change, str]] = {
    "lengths": (replace("path_lengths.npy", lambda x: x - 1), "path_lengths.npy adds up to 69"),
    "no length": (replace("path_lengths.npy", lambda x: x * [1, 0, 1]), "path_lengths.npy adds up"),
    "float lengths": (replace("path_lengths.npy", lambda x: x * 1.0), "positive integers"),
    "missing": (lambda f: (f / "actions.npy").unlink(), "actions.npy is not there"),
    "agents": (replace("rewards.npy", lambda x: x[:, :1]), "rewards.npy has the shape"),
    "actions": (replace("actions.npy", lambda x: x[..., 0]), "actions.npy has the type float"),
    "out of range": (put("actions.npy", (3, 1, 0), -1.5), r"actions of agent 1 hold -1.5"),
}


@pytest.mark.parametrize("case", MADIFF)
def test_madiff(case: str, tmp_path: Path) -> None:
    folder, _ = foreign.madiff(tmp_path)
    change, words = MADIFF[case]
    change(folder)
    refused("madiff", folder, words)


# -------------------------------------------------------------------------------------------- fuzz
def mutants(content: bytes, count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            damaged[rng.integers(len(content))] = int(rng.integers(256))
        made.append(
            bytes(damaged[: rng.integers(1, len(content) + 1)] if rng.random() < 0.2 else damaged)
        )
    return made


def test_damaged_files_raise_nothing_but_user_errors(tmp_path: Path) -> None:
    """Headers are hit often: the files are small."""
    np.save(tmp_path / "a.npy", np.zeros((3, 2), "f4"))
    foreign.d4rl(tmp_path / "a-b.hdf5")
    refusals = 0
    for name, count, read in (
        ("a.npy", 400, npy.read),
        ("a-b.hdf5", 150, lambda path: d4rl.read(path, Options(horizon=30)).check()),
    ):
        for content in mutants((tmp_path / name).read_bytes(), count):
            (tmp_path / name).write_bytes(content)
            try:
                read(tmp_path / name)
            except UserError:
                refusals += 1
    assert refusals > 200
