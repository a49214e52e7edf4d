"""Small dataset files for tests: made with the Writer, then spoilt in one place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.task import Group, TaskSpec
from datasets.open import h5py, stored
from datasets.schema import content_sha256
from datasets.writer import Writer

SPEC = TaskSpec(id="toy/pair-v1", groups=(Group("agents", 2, obs_dim=3, act_dim=2),), horizon=5)


def episodes(
    spec: TaskSpec, n: int = 4, length: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Random arguments of Writer.append."""
    rng = np.random.default_rng(seed)
    t = length or spec.horizon
    shape = (n, t + 1, spec.n_agents)
    if spec.n_obs is not None:
        obs = rng.integers(spec.n_obs, size=(*shape, 1))
    else:
        widths = np.repeat([g.obs_dim for g in spec.groups], [g.n_agents for g in spec.groups])
        obs = rng.normal(size=(*shape, spec.obs_dim)) * (np.arange(spec.obs_dim) < widths[:, None])
    steps = (n, t, spec.n_agents)
    if spec.n_actions is not None:
        act = rng.integers(spec.n_actions, size=steps)
    else:
        widths = np.repeat([g.act_dim for g in spec.groups], [g.n_agents for g in spec.groups])
        act = rng.uniform(-1, 1, (*steps, spec.act_dim)) * (
            np.arange(spec.act_dim) < widths[:, None]
        )
    return {
        "obs": obs[:, :-1],
        "act": act,
        "rew": rng.normal(size=steps),
        "final_obs": obs[:, -1],
        "terminated": np.arange(n) % 2 == 0 if t < spec.horizon else np.zeros(n, bool),
        "seeds": np.arange(n),
        "policy": np.arange(n) % 3,
    }


def write(path: Path, spec: TaskSpec = SPEC, **options: Any) -> Path:
    with Writer(path, spec, id="toy/pair/medium-v1", **options) as writer:
        writer.append(**episodes(spec))
        writer.append(**episodes(spec, 3, 1, seed=1) | {"terminated": np.ones(3, bool)})
    return path


def edit(path: Path, change: Callable[[h5py.File], Any]) -> None:
    with h5py.File(path, "a") as file:
        change(file)


def set_meta(path: Path, **changes: Any) -> None:
    """Rewrite fields of the description; dotted names reach into the spec."""

    def change(file: h5py.File) -> None:
        meta = json.loads(bytes(file.attrs["meta"]))
        for name, value in changes.items():
            (meta["spec"] if name in meta["spec"] else meta)[name] = value
        file.attrs["meta"] = np.bytes_(json.dumps(meta).encode())

    edit(path, change)


def rehash(path: Path) -> None:
    with h5py.File(path, "r") as file:
        spec = json.loads(bytes(file.attrs["meta"]))["spec"]
        content = content_sha256(spec["id"], stored(file))
    set_meta(path, content_sha256=content)


def recreate(name: str, **options: Any) -> Callable[[h5py.File], None]:
    """Store an array again with other options, such as a chunk shape or a filter."""

    def change(file: h5py.File) -> None:
        made = {"data": file[name][()], **options}
        del file[name]
        file.create_dataset(name, **made)

    return change
