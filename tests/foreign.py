"""Small datasets in other projects' formats, as their own programs write them.

`chain` is the common content: smooth observations, so that rows go on where the ones before end.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmark.task import Array


def chain(n_rows: int, width: int, seed: int = 0) -> Array:
    """A random walk [S, D]."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(scale=0.1, size=(n_rows, width)), 0)


def rows(
    n_agents: int, lengths: Sequence[int], obs_dim: int, act_dim: int, seed: int = 0
) -> dict[str, Array]:
    """Episodes one after the other, [S, N, ...] each, with `next` observations and `last` marks."""
    rng = np.random.default_rng(seed)
    obs, following = [], []
    for e, length in enumerate(lengths):
        walks = [chain(length + 1, obs_dim, 100 * seed + 10 * e + i) for i in range(n_agents)]
        walk = np.stack(walks, 1) + rng.normal(size=obs_dim)
        obs.append(walk[:-1])
        following.append(walk[1:])
    n_rows = sum(lengths)
    last = np.zeros(n_rows, bool)
    last[np.cumsum(lengths) - 1] = True
    return {
        "obs": np.concatenate(obs),
        "next": np.concatenate(following),
        "act": rng.uniform(-1, 1, (n_rows, n_agents, act_dim)),
        "rew": rng.normal(size=(n_rows, n_agents)),
        "last": last,
    }


def omar(
    root: Path,
    env: str = "simple_spread",
    n_agents: int = 3,
    width: int = 18,
    lengths: Sequence[int] = (25, 25, 25),
    seed: int = 0,
    dones: bool = False,
    prey: bool = False,
) -> tuple[Path, dict[str, Array]]:
    """One seed's folder of npy files per agent."""
    content = rows(n_agents, lengths, width, 2, seed)
    folder = root / env / "medium" / f"seed_{seed}_data"
    folder.mkdir(parents=True)
    for i in range(n_agents + prey):
        k = min(i, n_agents - 1)
        flags = content["last"] if dones else np.zeros(len(content["last"]))
        parts = {
            "obs": content["obs"][:, k],
            "acs": content["act"][:, k],
            "rews": content["rew"][:, k],
            "next_obs": content["next"][:, k],
            "dones": flags.astype(float),
        }
        if dones:
            parts |= {"states": content["obs"][:, k], "next_states": content["next"][:, k]}
        for name, array in parts.items():
            np.save(folder / f"{name}_{i}.npy", array)
    return folder, content


def madiff(root: Path, ids: bool = True, discrete: bool = False) -> tuple[Path, dict[str, Array]]:
    """A folder of npy files of all agents; the second of three episodes ends by itself."""
    lengths = [30, 12, 30]
    content = rows(2, lengths, 5, 2)
    folder = root / "mamujoco" / "2ant" / "Good"
    folder.mkdir(parents=True)
    obs = content["obs"]
    if ids:
        eye = np.broadcast_to(np.eye(2), (len(obs), 2, 2))
        obs = np.concatenate([eye, obs], -1)
    discounts = np.ones((len(obs), 2))
    discounts[41] = 0
    act = content["act"]
    if discrete:
        act = np.random.default_rng(1).integers(4, size=act.shape[:2])
        np.save(folder / "legals.npy", np.ones((*act.shape, 6)))
    arrays = {
        "obs": obs.astype("f4"),
        "actions": act if discrete else act.astype("f4"),
        "rewards": content["rew"].astype("f4"),
        "discounts": discounts.astype("f4"),
        "path_lengths": np.array(lengths),
        "logprobs": -np.abs(content["rew"]).astype("f4"),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder, content | {"taken": act}


def omiga(path: Path, shape: str = "T1") -> dict[str, Array]:
    """One HDF5 file; the last row of each episode has d = 1."""
    content = rows(3, [20, 1000, 1000, 7], 6, 1)
    n_rows = len(content["obs"])
    done = content["last"].astype("f4")
    done[-7:] = 0  # the last episode is not whole
    reshape = {
        "T": lambda x: x,
        "T1": lambda x: x[:, None],
        "Tn": lambda x: np.repeat(x[:, None], 3, 1),
        "Tn1": lambda x: np.repeat(x[:, None], 3, 1)[..., None],
    }[shape]
    with h5py.File(path, "w") as file:
        file["s"] = content["obs"].astype("f4")
        file["o"] = content["obs"].astype("f4")
        file["a"] = content["act"].astype("f4")
        file["r"] = reshape(content["rew"][:, 0].astype("f4"))
        file["d"] = reshape(done)
    assert n_rows == 2027
    return content


def d4rl(path: Path, timeouts: bool = True, following: bool = True) -> dict[str, Array]:
    """One HDF5 file: a fall after 12 steps, two episodes of 30, and 5 rows of a fourth."""
    content = rows(1, [12, 30, 30, 5], 4, 2)
    terminals = np.zeros(77, bool)
    terminals[11] = True
    cut = content["last"] & ~terminals
    cut[-1] = False
    with h5py.File(path, "w") as file:
        for name, key in (("observations", "obs"), ("actions", "act")):
            file.create_dataset(
                name, data=content[key][:, 0].astype("f4"), compression="gzip", chunks=True
            )
        file["rewards"] = content["rew"][:, 0].astype("f4")
        file["terminals"] = terminals
        if timeouts:
            file["timeouts"] = cut
        if following:
            file["next_observations"] = content["next"][:, 0].astype("f4")
        file["infos/qpos"] = np.zeros((77, 3))
        file["metadata/algorithm"] = "SAC"
    return content


def vault(
    root: Path,
    project: str = "og_marl",
    env: str = "mamujoco",
    scenario: str = "2ant",
    n_agents: int = 2,
    widths: Sequence[int] = (5, 3),
    discrete: bool = False,
    change: dict[str, Any] | None = None,
) -> tuple[Path, dict[str, Array]]:
    """A vault as flashbax lays it out: zarr with gzip in an OCDBT store, one array a leaf.

    `change` replaces leaves; None leaves one out of the store.
    """
    import tensorstore

    content = rows(n_agents, [30, 12, 30, 6], max(widths), 2)
    n_rows = len(content["obs"])
    obs = content["obs"].astype("f4")
    for i, width in enumerate(widths):
        obs[:, i, width:] = -np.inf
    last = content["last"].copy()
    last[-1] = False
    terminals = np.arange(n_rows) == 41
    act = content["act"].astype("f4")
    if discrete:
        act = np.random.default_rng(1).integers(4, size=act.shape[:2]).astype("i4")
    per_agent = np.ones((1, 1, n_agents), "f4")
    leaves: dict[str, Any] = {
        "observations.": obs[None],
        "actions.": act[None],
        "rewards.": content["rew"].astype("f4")[None],
        "terminals.": terminals[None, :, None] * per_agent,
        "truncations.": (last & ~terminals)[None, :, None] * per_agent,
        "infos.state.": np.zeros((1, n_rows, 7), "f4"),
        "infos.legals.": np.ones((1, n_rows, n_agents, 6), "f4"),
    }
    leaves |= change or {}
    folder = root / project / env / f"{scenario}.vlt" / "Good"
    folder.mkdir(parents=True)
    tree: dict[str, Any] = {}
    for name, array in leaves.items():
        node = tree
        *parents, leaf = name.rstrip(".").split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = "(1, 10)"
        if array is None:
            continue
        spec = _spec(folder, name) | {"metadata": {"compressor": {"id": "gzip", "level": 5}}}
        shape = (array.shape[0], 10**13, *array.shape[2:])
        store = tensorstore.open(spec, dtype=array.dtype, shape=shape, create=True).result()
        store[:, : array.shape[1]].write(array).result()
    metadata = {"version": 1.2, "structure_shape": tree, "structure_dtype": tree}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    index = tensorstore.open(
        _spec(folder, "vault_index"), dtype=tensorstore.int32, shape=(1,), create=True
    ).result()
    index.write(n_rows).result()
    return folder, content | {"taken": act}


def _spec(folder: Path, name: str) -> dict[str, Any]:
    kvstore = {"driver": "ocdbt", "base": f"file://{folder}", "path": name}
    return {"driver": "zarr", "kvstore": kvstore}


def minari(root: Path, monkeypatch: Any) -> tuple[Path, list[dict[str, Any]]]:
    """A Minari dataset of three agents of different widths, written by Minari."""
    from gymnasium import spaces

    widths = {"agent_2": 3, "agent_10": 4, "agent_0": 3}
    episodes = []
    for e, length in enumerate((9, 6, 9)):
        rng = np.random.default_rng(e)
        episodes.append(
            {
                "seed": 70 + e,
                "observations": {
                    a: chain(length + 1, w, 10 * e + i).astype("f4")
                    for i, (a, w) in enumerate(widths.items())
                },
                "actions": {a: rng.uniform(-1, 1, (length, 2)).astype("f4") for a in widths},
                "rewards": rng.normal(size=(length, 3)),
                "terminations": (np.arange(length) == length - 1) & (length < 9),
                "truncations": (np.arange(length) == length - 1) & (length == 9),
            }
        )
    seen = {a: spaces.Box(-np.inf, np.inf, (w,), np.float32) for a, w in widths.items()}
    done = {a: spaces.Box(-1, 1, (2,), np.float32) for a in widths}
    return create(root, monkeypatch, episodes, spaces.Dict(seen), spaces.Dict(done)), episodes


def create(
    root: Path, monkeypatch: Any, episodes: list[dict[str, Any]], seen: Any, done: Any
) -> Path:
    """Minari's own writer."""
    import minari as library
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    buffers = [EpisodeBuffer(**episode) for episode in episodes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left unsaid
        library.create_dataset_from_buffers(
            "toy/walk-v3", buffers, observation_space=seen, action_space=done
        )
    return root / "toy" / "walk-v3"
