"""Minari 0.5: a dataset folder; agents are the keys of Dict spaces.

    <root>/<namespace>/<name>-vK/data/{main_data.hdf5, metadata.json}
    /episode_k   attribute seed; rewards [T] or [T, N], terminations and truncations [T],
                 observations/<agent> [T + 1, ...], actions/<agent> [T, ...]

PATH is the dataset's folder or its `data`. Spaces are JSON in the metadata: Dict spaces with equal
keys are agents, in the order of the numbers in their names; any other space is one agent. Boxes of
one axis are read, and Discrete (a finite observation is one integer). A reward without an axis of
agents is every agent's.

Checked: spaces against arrays, flags (the last row ends the episode, no other does), lengths. A
Minari file is read without Minari; the guards of `datasets.open` apply to every array.

Lost: infos, options, images and the environment's spec, which is never built.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array
from datasets.importers.hdf5 import Foreign
from datasets.importers.source import Options, Source, flags
from datasets.importers.zarr import MAX_METADATA, parse_json
from datasets.open import open_regular

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Space:
    """A Box of one axis, or Discrete."""

    width: int  # of a Box; 1
    n: int | None = None  # of Discrete
    start: int = 0


def read(path: Path, options: Options) -> Source:
    """One dataset's folder."""
    folder = path / "data" if (path / "data").is_dir() else path
    text = folder / "metadata.json"
    with open(open_regular(text), "rb") as handle:
        metadata = parse_json(handle.read(MAX_METADATA + 1), str(text))
    if metadata.get("data_format", "hdf5") != "hdf5":
        raise UserError(f"{text}: data_format {metadata['data_format']!r}, expected hdf5.")
    count = metadata.get("total_episodes")
    if type(count) is not int or count < 1:
        raise UserError(f"{text}: total_episodes is {count!r}, expected at least one.")
    seen = _agents(metadata, "observation_space", text)
    done = _agents(metadata, "action_space", text)
    if list(seen) != list(done):
        raise UserError(
            f"{text}: observation_space has the agents {list(seen)}, action_space {list(done)}."
        )
    n_obs = _discrete(list(seen.values()), f"{text}: observation_space")
    n_actions = _discrete(list(done.values()), f"{text}: action_space")
    main = folder / "main_data.hdf5"
    with Foreign(main) as file:
        episodes = [_episode(file, f"episode_{k}", seen, done) for k in range(count)]
    agents = range(len(seen))
    obs = [
        np.concatenate([e.obs[i][:-1] for e in episodes]) - _start(space)
        for i, space in enumerate(seen.values())
    ]
    final = [
        np.stack([e.obs[i][-1] for e in episodes]) - _start(space)
        for i, space in enumerate(seen.values())
    ]
    act = [np.concatenate([e.act[i] for e in episodes]) for i in agents]
    if n_actions is not None:
        act = [part - space.start for part, space in zip(act, done.values(), strict=True)]
    lengths = np.array([len(e.rew) for e in episodes])
    name, tier = _name(path)
    return Source(
        where=path,
        name=name,
        tier=tier,
        obs=obs,
        act=act,
        rew=np.concatenate([e.rew for e in episodes]),
        lengths=lengths,
        terminated=np.array([e.terminated for e in episodes]),
        final=final,
        horizon=options.horizon or int(lengths.max()),
        files=[text, main],
        n_actions=n_actions,
        n_obs=n_obs,
        seeds=np.array([max(e.seed or 0, 0) for e in episodes]),
        allow=("horizon",),
    )


@dataclass
class Episode:
    """One group of the file."""

    obs: list[Array]  # [T + 1, D] per agent
    act: list[Array]  # [T, A] or [T] per agent
    rew: Array  # [T, N]
    terminated: bool
    seed: int | None


def _episode(file: Foreign, group: str, seen: dict[str, Space], done: dict[str, Space]) -> Episode:
    rew = file.read(f"{group}/rewards", (1, 2)).astype(np.float32)
    length, n_agents, at = len(rew), len(seen), f"{file.path}: /{group}"
    if rew.ndim == 1:
        rew = np.repeat(rew[:, None], n_agents, 1)
    if not length or rew.shape[1] != n_agents:
        raise UserError(f"{at}/rewards has the shape {rew.shape}, expected {n_agents} agents.")
    terminations, truncations = (
        flags(file.read(f"{group}/{name}", (1, 2)), f"{at}/{name}", length, n_agents)
        for name in ("terminations", "truncations")
    )
    ends = np.flatnonzero(terminations | truncations)
    if list(ends) != [length - 1]:
        raise UserError(
            f"{at} ends at the rows {ends[:5].tolist()} of its flags, expected row {length - 1},"
            " its last."
        )
    return Episode(
        obs=_parts(file, f"{group}/observations", seen, length + 1, discrete_axis=True),
        act=_parts(file, f"{group}/actions", done, length, discrete_axis=False),
        rew=rew,
        terminated=bool(terminations[-1]),
        seed=file.number(group, "seed"),
    )


def _parts(
    file: Foreign, name: str, spaces: dict[str, Space], length: int, discrete_axis: bool
) -> list[Array]:
    found = []
    for agent, space in spaces.items():
        path = f"{name}/{agent}" if agent else name
        array = file.read(path)
        shape = (length,) if space.n is not None else (length, space.width)
        if array.shape != shape:
            raise UserError(f"{file.path}: /{path} has the shape {array.shape}, expected {shape}.")
        if space.n is None:
            found.append(array.astype(np.float32))
        elif array.dtype.kind not in "iu":
            raise UserError(f"{file.path}: /{path} has the type {array.dtype}, expected integers.")
        else:
            found.append(array.reshape(-1, 1) if discrete_axis else array)
    return found


def _agents(metadata: dict[str, Any], name: str, text: Path) -> dict[str, Space]:
    """Agent -> space; one agent without a name where the space is no Dict."""
    value = metadata.get(name)
    where = f"{text}: {name}"
    space = parse_json(value.encode(), where) if isinstance(value, str) else value
    if not isinstance(space, dict):
        raise UserError(f"{where} is missing.")
    if space.get("type") != "Dict":
        return {"": _space(space, where)}
    parts = space.get("subspaces")
    if not isinstance(parts, dict) or not parts:
        raise UserError(f"{where} is a Dict without subspaces, expected one an agent.")
    for key in parts:
        if not re.fullmatch(r"[\w.-]{1,64}", key):
            raise UserError(f"{where} has the key {key[:80]!r}, expected letters and digits.")
    return {key: _space(parts[key], f"{where}.{key}") for key in sorted(parts, key=_natural)}


def _natural(key: str) -> list[tuple[int, str]]:
    """Sorts agent_2 before agent_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", key)]


def _space(space: Any, where: str) -> Space:
    kind = space.get("type") if isinstance(space, dict) else None
    shape = space.get("shape") if isinstance(space, dict) else None
    if kind == "Box" and isinstance(shape, list) and len(shape) == 1 and type(shape[0]) is int:
        return Space(width=shape[0])
    if kind == "Discrete" and type(space.get("n")) is int and type(space.get("start", 0)) is int:
        return Space(width=1, n=space["n"], start=space.get("start", 0))
    raise UserError(f"{where} is {kind} {shape or ''}, expected a Box of one axis or Discrete.")


def _discrete(spaces: Sequence[Space], where: str) -> int | None:
    """The number of values where all are Discrete alike; None where all are Boxes."""
    counts = {space.n for space in spaces}
    if len(counts) > 1:
        raise UserError(
            f"{where}: agents differ in kind or number of values {sorted(map(str, counts))}."
        )
    return counts.pop()


def _start(space: Space) -> Any:
    return space.start if space.n is not None else np.float32(0)


def _name(path: Path) -> tuple[str, str]:
    """Scenario and tier from the folders <...>/<name>/<tier>-vK."""
    whole = path.resolve()
    whole = whole.parent if whole.name == "data" else whole
    return whole.parent.name, re.sub(r"-v\d+$", "", whole.name)
