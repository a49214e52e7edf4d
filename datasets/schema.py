"""The file format `offmarl/1` on one page, and the check that a file keeps it.

    /                      attrs: format = "offmarl/1" and meta = JSON of `Meta`, as bytes
    /index/start           int64   [E + 1]    first row of each episode; they lie back to back
    /index/terminated      uint8   [E]        1: the last state is final, do not bootstrap
    /index/truncated       uint8   [E]        1: cut by the time limit
    /index/seed            int64   [E]        seed that the episode was reset with
    /index/policy          int32   [E]        id of the behaviour policy
    /index/return          float64 [E, G]     undiscounted return, mean over each group's agents
    /index/<outcome>       float64 [E]        one each for the task's outcomes, such as margin
    /steps/<group>/obs     float32 [S, n, D]  int32 with D = 1 where observations are finite
    /steps/<group>/act     float32 [S, n, A]  int32 [S, n] where actions are discrete
    /steps/<group>/rew     float32 [S, n]
    /steps/<group>/logp    float32 [S, n]     optional: log-probability of the logged action
    /steps/<group>/alive   uint8   [S, n]     where agents can die: 1 at the row's observation; the
                                              dead stay dead, see zeros, do not act and earn 0
    /steps/<group>/active  uint8   [S, n]     optional: 1 where the logged action counted
    /final/<group>/obs     like obs [E, n, D] observation after each episode's last step
    /population/mu         float32 [S, O]     optional: population distribution of a finite game

Everything is contiguous, unfiltered and aligned, so that a reader can map it into memory. A group
is a run of consecutive agents with equal spaces. Where agents are exchangeable they are stored in
a fresh random order in each episode (the seed is `Meta.perm_seed`), so that any contiguous slab
of agents is a uniform subsample without replacement.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array, Group, TaskSpec

FORMAT = "offmarl/1"
OPTIONAL = ("logp", "alive", "active")  # per-agent arrays that all groups have, or none
SLAB_BYTES = 64 << 20  # large arrays are read and written in slabs of about this size
TASK_ID = re.compile(r"[a-z][a-z0-9-]*/[a-z0-9][a-z0-9-]*-v\d+")
DATASET_ID = re.compile(
    r"(?P<namespace>[a-z][a-z0-9-]*)/(?P<name>[a-z0-9][a-z0-9-]*)"
    r"/(?P<tier>[a-z][a-z0-9-]*)-v(?P<version>\d+)"
)


@dataclass(frozen=True)
class Meta:
    """What a file says of itself. It never chooses code: the task's id is only looked up in the
    suite's own registry.
    """

    id: str  # namespace/name/tier-vN
    spec: TaskSpec
    perm_seed: int | None = None  # seed of the agents' order; None: agents keep their places
    recipe_sha256: str = ""  # "": not made by a recipe
    content_sha256: str = ""
    source: str = "generated"
    licence: str = "CC-BY-4.0"
    packages: dict[str, str] = field(default_factory=dict)
    obs_transform: str = "none"  # what was done to observations that no environment here does
    sources: dict[str, str] = field(default_factory=dict)  # imported: file -> sha256
    notes: list[str] = field(default_factory=list)  # imported: what was dropped, split or assumed

    def json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()


def parse_meta(text: bytes, where: str) -> Meta:
    """Meta from its JSON; UserError where a field is missing, unknown or of a wrong type."""
    try:
        value = json.loads(text)
        spec = dict(value.pop("spec"))
        groups = tuple(Group(**group) for group in spec.pop("groups"))
        spec["packages"] = tuple(spec["packages"])
        spec["outcomes"] = tuple(spec.get("outcomes", ()))
        meta = Meta(spec=TaskSpec(groups=groups, **spec), **value)
        _check_meta(meta)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{where}: the attribute 'meta' is not the description of a {FORMAT} file ({error});"
            " write the file with datasets.writer or datasets.recorder."
        ) from error
    return meta


def _check_meta(meta: Meta) -> None:
    """Only the fields that arrays and reading depend on; ValueError says which one is wrong."""
    spec = meta.spec
    names = [group.name for group in spec.groups]
    if not 1 <= len(names) <= 64 or len(set(names)) != len(names):
        raise ValueError("spec.groups must be 1 to 64 groups of different names")
    if not all(re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) for name in names):
        raise ValueError("a group's name must match [a-z][a-z0-9_]*")
    for group in spec.groups:
        _integers("a group's n_agents, obs_dim", 1, group.n_agents, group.obs_dim)
        _integers("a group's act_dim", 0, group.act_dim)
    _integers("spec.horizon", 1, spec.horizon)
    _integers("spec.n_actions, spec.n_obs", 1, spec.n_actions or 1, spec.n_obs or 1)
    if spec.n_actions is None and min(group.act_dim for group in spec.groups) == 0:
        raise ValueError("continuous actions need act_dim > 0")
    if spec.n_obs is not None and any(group.obs_dim != 1 for group in spec.groups):
        raise ValueError("finite observations have obs_dim = 1")
    if not DATASET_ID.fullmatch(meta.id):
        raise ValueError(f"id {meta.id[:80]!r} is not namespace/name/tier-vN")
    if not TASK_ID.fullmatch(spec.id):
        raise ValueError(f"spec.id {spec.id[:80]!r} is not namespace/name-vN")
    if not all(re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) for name in spec.outcomes):
        raise ValueError("an outcome's name must match [a-z][a-z0-9_]*")
    if {"start", "terminated", "truncated", "seed", "policy", "return"} & set(spec.outcomes):
        raise ValueError("an outcome has the name of another array of the index")
    if not isinstance(meta.content_sha256, str) or not isinstance(meta.obs_transform, str):
        raise ValueError("content_sha256 and obs_transform must be text")


def _integers(what: str, low: int, *values: Any) -> None:
    if not all(type(value) is int and low <= value < 2**24 for value in values):
        raise ValueError(f"{what} must be integers from {low} to 2**24 - 1")


@dataclass(frozen=True)
class Field:
    """Shape and type of one stored array. In `shape`, "S" stands for steps and "E" for episodes."""

    shape: tuple[int | str, ...]
    dtype: str
    required: bool = True

    def resolve(self, n_steps: int, n_episodes: int) -> tuple[int, ...]:
        sizes = {"S": n_steps, "E": n_episodes, "E+1": n_episodes + 1}
        return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.shape)


def fields(spec: TaskSpec) -> dict[str, Field]:
    """Every array that a file of this task may hold, by its path in the file."""
    found = {
        "index/start": Field(("E+1",), "<i8"),
        "index/terminated": Field(("E",), "|u1"),
        "index/truncated": Field(("E",), "|u1"),
        "index/seed": Field(("E",), "<i8"),
        "index/policy": Field(("E",), "<i4"),
        "index/return": Field(("E", len(spec.groups)), "<f8"),
    }
    for name in spec.outcomes:
        found[f"index/{name}"] = Field(("E",), "<f8")
    obs_type = "<f4" if spec.n_obs is None else "<i4"
    for group in spec.groups:
        n, at = group.n_agents, f"steps/{group.name}"
        found[f"{at}/obs"] = Field(("S", n, group.obs_dim), obs_type)
        if spec.discrete:
            found[f"{at}/act"] = Field(("S", n), "<i4")
        else:
            found[f"{at}/act"] = Field(("S", n, group.act_dim), "<f4")
        found[f"{at}/rew"] = Field(("S", n), "<f4")
        found[f"{at}/logp"] = Field(("S", n), "<f4", required=False)
        found[f"{at}/alive"] = Field(("S", n), "|u1", required=False)
        found[f"{at}/active"] = Field(("S", n), "|u1", required=False)
        found[f"final/{group.name}/obs"] = Field(("E", n, group.obs_dim), obs_type)
    if spec.n_obs is not None:
        found["population/mu"] = Field(("S", spec.n_obs), "<f4", required=False)
    return found


def optional(spec: TaskSpec, name: str) -> list[str]:
    """Paths of an optional per-agent array, one per group: all of them are there or none."""
    return [f"steps/{group.name}/{name}" for group in spec.groups]


def check_arrays(spec: TaskSpec, arrays: Mapping[str, Any], where: str) -> None:
    """Names, types and shapes of a file's arrays (anything with `shape` and `dtype`); UserError
    names the first fault.
    """
    expected = fields(spec)
    for name in sorted(arrays):
        if name not in expected:
            raise UserError(f"{where}: /{name} is not a name of the format {FORMAT}; remove it.")
    for name, wanted in expected.items():
        if wanted.required and name not in arrays:
            raise UserError(f"{where}: /{name} is missing; the format {FORMAT} needs it.")
    for name in OPTIONAL:
        there = [path in arrays for path in optional(spec, name)]
        if any(there) and not all(there):
            raise UserError(f"{where}: {name} is stored for some groups only, expected all.")
    start, first = arrays["index/start"], arrays[f"steps/{spec.groups[0].name}/obs"]
    n_episodes = (start.shape[0] if len(start.shape) == 1 else 0) - 1
    n_steps = first.shape[0] if first.shape else 0
    if n_episodes < 1 or n_steps < 1:
        raise UserError(f"{where}: the dataset holds no episode; expected at least one.")
    for name, array in arrays.items():
        wanted = expected[name]
        shape = wanted.resolve(n_steps, n_episodes)
        if array.dtype != np.dtype(wanted.dtype):
            raise UserError(
                f"{where}: /{name} has the type {array.dtype}, expected {np.dtype(wanted.dtype)}."
            )
        if tuple(array.shape) != shape:
            raise UserError(f"{where}: /{name} has the shape {array.shape}, expected {shape}.")


def check_index(arrays: Mapping[str, Array], n_steps: int, where: str) -> None:
    """The episode index, which every read relies on."""
    start = arrays["index/start"]
    if start[0] != 0 or start[-1] != n_steps or not (np.diff(start) > 0).all():
        raise UserError(
            f"{where}: /index/start must rise strictly from 0 to the number of steps {n_steps},"
            f" found {start[0]} to {start[-1]}."
        )
    for name in ("index/terminated", "index/truncated"):
        if arrays[name].max() > 1:
            raise UserError(f"{where}: /{name} holds {arrays[name].max()}, expected 0 or 1.")


def slabs(array: Any) -> Any:
    """Slices over the first axis of about SLAB_BYTES each."""
    row = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
    step = max(1, SLAB_BYTES // row)
    return (slice(i, i + step) for i in range(0, array.shape[0], step))


def content_sha256(task: str, arrays: Mapping[str, Any]) -> str:
    """Hash over the task's id and the names, types, shapes and values of all arrays; file bytes do
    not matter.
    """
    digest = hashlib.sha256(f"{FORMAT} {task}\n".encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {tuple(array.shape)}\n".encode())
        for part in slabs(array):
            digest.update(np.ascontiguousarray(array[part]).data)
    return digest.hexdigest()
