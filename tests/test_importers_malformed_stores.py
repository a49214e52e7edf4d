"""What importers of HDF5 files, vaults and Minari datasets refuse, each in one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests import foreign
from tests.importing import refused

Change = Callable[[Path], Any]


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))


# -------------------------------------------------------------------------------------------- hdf5
def edit(change: Callable[[h5py.File], Any]) -> Change:
    def apply(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return apply


def store(name: str, values: Any, **options: Any) -> Change:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, data=values, **options)

    return edit(change)


def link(name: str, target: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = target

    return edit(change)


def external(file: h5py.File) -> None:
    del file["a"]
    file.create_dataset("a", (2027, 3, 1), "<f4", external=[("/etc/passwd", 0, 24324)])


def row(name: str, index: Any, value: float) -> Change:
    return edit(lambda file: file[name].__setitem__(index, value))


OMIGA: dict[str, tuple[Change, str]] = {
    "missing key": (edit(lambda f: f.__delitem__("d")), "/d is missing"),
    "group": (edit(lambda f: [f.__delitem__("o"), f.create_group("o")]), "/o is a group"),
    "soft link": (link("o", h5py.SoftLink("/s")), "/o is a soft or external link"),
    "external link": (link("o", h5py.ExternalLink("/tmp/x", "o")), "/o is a soft or external"),
    "external storage": (edit(external), "/a stores its values in another file"),
    "text": (store("r", ["a"] * 2027), "/r holds something other than plain numbers"),
    "flag of 2": (row("d", 5, 2), r"/d holds \[2.0\] at row 5"),
    "flag of NaN": (row("d", 5, np.nan), r"/d holds \[nan\] at row 5"),
    "flag shape": (store("d", np.zeros((2027, 2))), "/d has the shape"),
    "agents disagree": (
        store("d", np.eye(2027, 3)),
        "/d: agents disagree at row 0",
    ),
    "never ends": (store("d", np.zeros(2027)), "holds no whole episode"),
    "rewards": (store("r", np.zeros(9)), "/r has the shape"),
    "actions": (store("a", np.zeros((2027, 2, 1))), "/a has the shape"),
    "axes": (store("o", np.zeros(5)), "/o has the shape .* expected 3 axes"),
    "NaN": (row("o", (3, 1, 2), np.nan), r"observations of agent 1 hold nan at \(3, 2\)"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:5000]), "cut short"),
    "no HDF5": (lambda p: p.write_text("<html>404"), "web page"),
    "pickle": (lambda p: p.write_bytes(b"\x80\x04\x95" + bytes(99)), "no known kind"),
}


@pytest.mark.parametrize("case", OMIGA)
def test_omiga(case: str, tmp_path: Path) -> None:
    path = tmp_path / "Hopper-v2-3x1-medium.hdf5"
    foreign.omiga(path)
    change, words = OMIGA[case]
    change(path)
    refused("omiga", path, words)


D4RL: dict[str, tuple[Change, str]] = {
    "missing key": (edit(lambda f: f.__delitem__("terminals")), "/terminals is missing"),
    "no end": (
        lambda p: [store(n, np.zeros(77, bool))(p) for n in ("terminals", "timeouts")],
        "no row of /terminals or /timeouts is set",
    ),
    "shifted ends": (
        lambda p: [
            edit(lambda f, n=n: f[n].__setitem__(slice(1, None), f[n][:-1]))(p)
            for n in ("terminals", "timeouts")
        ],
        "/next_observations at row 11 is not the observation of row 12",
    ),
    "rewards": (store("rewards", np.zeros((77, 2))), "/rewards has the shape"),
    "lengths": (store("actions", np.zeros((76, 2))), "/actions has 76 rows"),
    "integer flags": (store("timeouts", np.full(77, 3)), r"/timeouts holds \[3\] at row 0"),
    "NaN reward": (row("rewards", 4, np.nan), r"rewards hold nan at \(4, 0\)"),
    "lzf": (
        store("observations", np.zeros((77, 4)), chunks=(7, 4), compression="lzf"),
        "uses the filters",
    ),
    "virtual": (
        edit(
            lambda f: [
                f.__delitem__("actions"),
                f.create_virtual_dataset("actions", h5py.VirtualLayout((77, 2), "<f4")),
            ]
        ),
        "/actions is a virtual dataset",
    ),
    "compound": (store("rewards", np.zeros(77, [("a", "<f4")])), "something other than plain"),
}


@pytest.mark.parametrize("case", D4RL)
def test_d4rl(case: str, tmp_path: Path) -> None:
    path = tmp_path / "hopper-medium-v2.hdf5"
    foreign.d4rl(path)
    change, words = D4RL[case]
    change(path)
    refused("d4rl", path, words)


# ------------------------------------------------------------------------------------------- vault
def leaf(name: str, index: Any, value: float) -> dict[str, Any]:
    """A leaf of the usual vault with one value changed."""
    content = foreign.rows(2, [30, 12, 30, 6], 5, 2)
    arrays = {
        "observations.": content["obs"].astype("f4")[None],
        "actions.": content["act"].astype("f4")[None],
        "rewards.": content["rew"].astype("f4")[None],
        "terminals.": np.zeros((1, 78, 2), "f4"),
        "truncations.": np.zeros((1, 78, 2), "f4"),
    }
    arrays[name][index] = value
    return {name: arrays[name]}


ALL = (Ellipsis,)
LEAVES: dict[str, tuple[dict[str, Any], str]] = {
    "padding everywhere": (leaf("observations.", ALL, -np.inf), "agent 0: 5 of 5 columns are -inf"),
    "padding on the left": (
        leaf("observations.", (0, slice(None), 1, 0), -np.inf),
        "agent 1: 1 of 5 columns are -inf, expected padding on the right only",
    ),
    "infinity inside": (
        leaf("observations.", (0, 7, 0, 2), -np.inf),
        r"observations of agent 0 hold -inf at \(7, 2\)",
    ),
    "NaN": (leaf("actions.", (0, 7, 0, 1), np.nan), r"actions of agent 0 hold nan at \(7, 1\)"),
    "flag of 3": (leaf("terminals.", (0, 4), 3), r"terminals holds \[3.0, 3.0\] at row 4"),
    "agents disagree": (leaf("truncations.", (0, 4, 1), 1), "truncations: agents disagree at row"),
    "never ends": (
        leaf("terminals.", (0, 0), 0) | leaf("truncations.", (0, 0), 0),
        "holds no whole episode",
    ),
    "rewards of one agent": (
        {"rewards.": np.zeros((1, 78, 1), "f4")},
        "rewards has the shape .* observations are of 2 agents",
    ),
    "two streams": ({"rewards.": np.zeros((2, 78, 2), "f4")}, "rewards has the shape"),
    "unknown type": ({"rewards.": np.zeros((1, 78, 2), "c8")}, "type '<c8', expected one of"),
    "not in the store": ({"rewards.": None}, "rewards is missing from the store"),
}


@pytest.mark.parametrize("case", LEAVES)
def test_vault_leaves(case: str, tmp_path: Path) -> None:
    change, words = LEAVES[case]
    folder, _ = foreign.vault(tmp_path, widths=(5, 5), change=change)
    refused("vault", folder, words)


def metadata(**changes: Any) -> Change:
    def apply(folder: Path) -> None:
        value = json.loads((folder / "metadata.json").read_text())
        (folder / "metadata.json").write_text(json.dumps(value | changes))

    return apply


FILES: dict[str, tuple[Change, str]] = {
    "no metadata": (lambda f: (f / "metadata.json").unlink(), "metadata.json is not there"),
    "no JSON": (lambda f: (f / "metadata.json").write_text("{"), "metadata.json is not valid"),
    "deep JSON": (lambda f: (f / "metadata.json").write_text("[" * 9_999), "metadata.json is not"),
    "version": (metadata(version=2.0), "version is 2.0, expected 1.x"),
    "structure": (metadata(structure_shape={"observations": "(1,)"}), "no 'actions'"),
    "no manifest": (lambda f: (f / "manifest.ocdbt").unlink(), "manifest.ocdbt is missing"),
    "manifest": (lambda f: (f / "manifest.ocdbt").write_bytes(b"x" * 60), "is damaged"),
    "no data": (lambda f: [p.unlink() for p in (f / "d").iterdir()], "is damaged"),
    "half data": (
        lambda f: [p.write_bytes(p.read_bytes()[:99]) for p in (f / "d").iterdir()],
        "is damaged",
    ),
    "link": (lambda f: (f / "more").symlink_to("/etc/passwd"), "a symbolic link"),
    "pipe": (lambda f: os.mkfifo(f / "more"), "not a regular file"),
}


@pytest.mark.parametrize("case", FILES)
def test_vault_files(case: str, tmp_path: Path) -> None:
    folder, _ = foreign.vault(tmp_path)
    change, words = FILES[case]
    change(folder)
    refused("vault", folder, words)


# ------------------------------------------------------------------------------------------ minari
def space(**changes: Any) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "data" / "metadata.json"
        value = json.loads(path.read_text())
        for name, change in changes.items():
            if name.endswith("_space"):
                change = json.dumps(change)
            value[name] = change
        path.write_text(json.dumps(value))

    return apply


def main_data(change: Callable[[h5py.File], Any]) -> Change:
    return lambda folder: edit(change)(folder / "data" / "main_data.hdf5")


BOX = {"type": "Box", "shape": [3]}
MINARI: dict[str, tuple[Change, str]] = {
    "no metadata": (
        lambda f: (f / "data" / "metadata.json").unlink(),
        "metadata.json is not there",
    ),
    "no data": (lambda f: (f / "data" / "main_data.hdf5").unlink(), "main_data.hdf5 is not there"),
    "arrow": (space(data_format="arrow"), "data_format 'arrow', expected hdf5"),
    "no episodes": (space(total_episodes=0), "total_episodes is 0"),
    "one too many": (space(total_episodes=4), "/episode_3 is missing"),
    "no space": (space(action_space=None), "action_space"),
    "image": (
        space(observation_space={"type": "Box", "shape": [3, 8, 8]}),
        "expected a Box of one axis or Discrete",
    ),
    "other agents": (
        space(observation_space={"type": "Dict", "subspaces": {"a": BOX, "b": BOX}}),
        "observation_space has the agents .*'b'",
    ),
    "path as a key": (
        space(observation_space={"type": "Dict", "subspaces": {"../x": BOX}}),
        "has the key '../x'",
    ),
    "mixed spaces": (
        space(
            action_space={
                "type": "Dict",
                "subspaces": {
                    "agent_0": BOX,
                    "agent_2": BOX,
                    "agent_10": {"type": "Discrete", "n": 2},
                },
            }
        ),
        "action_space: agents differ",
    ),
    "last observation": (
        main_data(lambda f: f["episode_1/observations/agent_2"].resize(6, 0)),
        "/episode_1/observations/agent_2 has the shape",
    ),
    "ends early": (
        main_data(lambda f: f["episode_0/truncations"].__setitem__(3, True)),
        r"/episode_0 ends at the rows \[3, 8\]",
    ),
    "never ends": (
        main_data(lambda f: f["episode_0/truncations"].__setitem__(8, False)),
        r"/episode_0 ends at the rows \[\]",
    ),
    "rewards": (
        main_data(
            lambda f: [
                f.__delitem__("episode_2/rewards"),
                f.create_dataset("episode_2/rewards", data=np.zeros((9, 2))),
            ]
        ),
        "/episode_2/rewards has the shape",
    ),
    "NaN": (
        main_data(lambda f: f["episode_0/actions/agent_10"].__setitem__((2, 1), np.nan)),
        r"actions of agent 2 hold nan at \(2, 1\)",
    ),
}


@pytest.mark.parametrize("case", MINARI)
def test_minari(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = foreign.minari(tmp_path / "minari", monkeypatch)
    change, words = MINARI[case]
    change(folder)
    refused("minari", folder, words)
