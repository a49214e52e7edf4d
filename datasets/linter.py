"""Findings on a dataset file: what is allowed by the format and still probably a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array, TaskSpec
from datasets import library
from datasets.loader import Dataset
from datasets.schema import slabs

RETURN_TOLERANCE = 1e-4  # relative, declared against measured: rewards are stored as float32


def lint(path: Path | str) -> list[str]:
    """One sentence per finding, each with the first place where it shows; [] is a clean file.

    A file that cannot be opened gives one finding, the reason. A path that is no file is taken as
    a dataset's id.
    """
    if not Path(path).exists() and library.path(str(path)).exists():
        path = library.path(str(path))
    try:
        data = library.load_file(path, "mmap")
    except UserError as error:
        return [str(error)]
    return [
        *_ends(data),
        *_numbers(data),
        *_actions(data),
        *_observations(data),
        *_returns(data),
        *_duplicates(data),
        *_agents(data),
        *_population(data),
    ]


def _ends(data: Dataset) -> list[str]:
    found = []
    lengths, horizon = data.index.lengths, data.spec.horizon
    both = (data.terminated > 0) == (data.truncated > 0)
    if both.any():
        e = int(np.argmax(both))
        state = "both terminated and truncated" if data.terminated[e] else "neither"
        found.append(
            f"done flags: {int(both.sum())} episodes are not exactly one of terminated and"
            f" truncated; episode {e} is {state}."
        )
    if (lengths > horizon).any():
        e = int(np.argmax(lengths > horizon))
        found.append(
            f"horizon: episode {e} has {lengths[e]} steps, the task has at most {horizon}."
        )
    early = (data.truncated > 0) & (lengths < horizon)
    if early.any():
        e = int(np.argmax(early))
        found.append(
            f"horizon: {int(early.sum())} episodes are truncated before the time limit {horizon};"
            f" episode {e} after {lengths[e]} steps."
        )
    return found


def _numbers(data: Dataset) -> list[str]:
    """NaN and infinity, with the index of the first."""
    found = []
    for name, array in data.arrays.items():
        if array.dtype.kind != "f":
            continue
        for rows in slabs(array):
            bad = ~np.isfinite(array[rows])
            if bad.any():
                index = tuple(int(i) for i in np.argwhere(bad)[0])
                index = (index[0] + rows.start, *index[1:])
                found.append(f"NaN or infinity: /{name} at {index} is {array[index]}.")
                break
    return found


def _per_group(data: Dataset, name: str) -> list[tuple[str, Array]]:
    paths = [f"steps/{group.name}/{name}" for group in data.spec.groups]
    return [(path, data.arrays[path]) for path in paths if path in data.arrays]


def _outside(name: str, array: Array, low: float, high: float) -> list[str]:
    for rows in slabs(array):
        bad = (array[rows] < low) | (array[rows] > high)
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            index = (index[0] + rows.start, *index[1:])
            return [f"range: /{name} at {index} is {array[index]}, expected {low} to {high}."]
    return []


def _actions(data: Dataset) -> list[str]:
    spec, found = data.spec, []
    low, high = (0, spec.n_actions - 1) if spec.n_actions is not None else (-1, 1)
    for name, array in _per_group(data, "act"):
        found += _outside(name, array, low, high)
        if not np.diff(array[: 1 << 16], axis=0).any() and len(array) > 1:
            found.append(f"dead actions: /{name} never changes.")
    for name, array in _per_group(data, "logp"):
        if spec.discrete:
            found += _outside(name, array, -np.inf, 1e-6)
    return found


def _observations(data: Dataset) -> list[str]:
    """Ranges of finite observations, and continuity: the final observation must differ from a copy.

    Next observations are not stored, they are the next rows; what can be checked is that the last
    one was not filled in with a copy of the row before it in every episode.
    """
    found = []
    last = data.starts[1:] - 1
    for group in data.spec.groups:
        obs = data.arrays[f"steps/{group.name}/obs"]
        final = data.arrays[f"final/{group.name}/obs"]
        if data.spec.n_obs is not None:
            found += _outside(f"steps/{group.name}/obs", obs, 0, data.spec.n_obs - 1)
            found += _outside(f"final/{group.name}/obs", final, 0, data.spec.n_obs - 1)
        if data.spec.n_obs != 1 and (final == obs[last]).all() and data.n_steps > data.n_episodes:
            found.append(
                f"next observations: /final/{group.name}/obs repeats the last row of every episode;"
                " expected the observation after the last step."
            )
    return found


def _returns(data: Dataset) -> list[str]:
    """Declared against measured returns of each group."""
    declared, first = data.arrays["index/return"], 0
    for g, group in enumerate(data.spec.groups):
        measured = data.returns[:, first : first + group.n_agents].mean(1)
        first += group.n_agents
        gap = np.abs(measured - declared[:, g])
        bad = ~(gap <= RETURN_TOLERANCE * (1 + np.abs(measured)))
        if bad.any():
            e = int(np.argmax(bad))
            return [
                f"returns: episode {e} of group {group.name} declares {declared[e, g]:.6g}, its"
                f" rewards add up to {measured[e]:.6g}."
            ]
    return []


def _duplicates(data: Dataset) -> list[str]:
    """Episodes that are equal to an earlier one, agents in any order."""
    seen: dict[Any, int] = {}
    copies = []
    groups = data.spec.groups
    for e in range(data.n_episodes):
        rows = slice(int(data.starts[e]), int(data.starts[e + 1]))
        key = []
        for group in groups:
            names = [f"steps/{group.name}/{name}" for name in ("obs", "act", "rew", "logp")]
            parts = [data.arrays[name][rows] for name in names if name in data.arrays]
            agents = [part.swapaxes(0, 1).reshape(group.n_agents, -1) for part in parts]
            key.append(hash(tuple(sorted(hash(a.tobytes()) for a in np.hstack(agents)))))
        first = seen.setdefault(tuple(key), e)
        if first != e:
            copies.append((e, first))
    if not copies:
        return []
    return [
        f"duplicates: {len(copies)} episodes repeat an earlier one; episode {copies[0][0]} equals"
        f" episode {copies[0][1]}."
    ]


def _agents(data: Dataset) -> list[str]:
    """Agents that never see anything change."""
    found, spec = [], data.spec
    if data.n_steps < 2 or spec.n_obs == 1:
        return []
    sample = slice(0, min(data.n_steps, 4096))
    first = 0
    for group in spec.groups:
        obs = data.arrays[f"steps/{group.name}/obs"][sample]
        still = (obs == obs[:1]).all(axis=(0, 2))
        found += [
            f"dead agents: agent_{first + int(i)} has the same observation at every step."
            for i in np.flatnonzero(still)[:1]
        ]
        first += group.n_agents
    for name, array in _per_group(data, "alive"):
        if not array[:].any(axis=0).all():
            i = int(np.argmin(array[:].any(axis=0)))
            found.append(f"dead agents: /{name} of agent {i} of the group is never 1.")
    return found


def _population(data: Dataset) -> list[str]:
    """The stored population distribution against the observations."""
    mu, spec = data.arrays.get("population/mu"), data.spec
    if mu is None:
        return []
    for s in np.unique(np.linspace(0, data.n_steps - 1, 64).astype(int)):
        counts = population_of(spec, data, int(s))
        if np.abs(counts - mu[s]).max() > 1e-5:
            return [f"population: /population/mu at step {s} is not the share of agents."]
    return []


def population_of(spec: TaskSpec, data: Dataset, row: int) -> Array:
    """Share of agents in each state at one stored step: [O]."""
    states = np.concatenate([array[row, :, 0] for _, array in _per_group(data, "obs")])
    states = states[(states >= 0) & (states < (spec.n_obs or 1))]
    return np.bincount(states, minlength=spec.n_obs or 1) / spec.n_agents
