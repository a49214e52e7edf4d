"""Writing a dataset file: chunks of episodes in, one contiguous aligned file out, or nothing.

    with Writer(path, spec, id="mpe/spread/medium-v1", perm_seed=1000) as writer:
    writer.append(obs=..., act=..., rew=..., final_obs=..., terminated=..., seeds=..., policy=...)

With `n_steps` and `n_episodes` given, chunks go straight to disk, and any size can be written.
Without them they wait in memory until the end, at most 2 GiB. The file appears under its name
only when it is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.files import atomic_path
from benchmark.task import Array, TaskSpec
from datasets.open import h5py, stored
from datasets.schema import FORMAT, OPTIONAL, Meta, content_sha256, fields

MAX_WAITING = 2 << 30  # bytes of episodes kept in memory while the final size is unknown
ALIGNMENT = 64  # bytes; a memory map of an array then starts on a cache line


@dataclass
class Chunk:
    """Equal-length episodes, agents already in the order of the file."""

    obs: Array  # [E, T, N, D]
    act: Array  # [E, T, N, A] or [E, T, N]
    rew: Array  # [E, T, N] float64
    final_obs: Array  # [E, N, D]
    terminated: Array  # [E] bool
    seeds: Array  # [E] int64
    policy: Array  # [E] int32
    logp: Array | None  # [E, T, N]
    alive: Array | None  # [E, T, N]
    active: Array | None  # [E, T, N]
    outcome: dict[str, Array]  # [E] each

    def arrays(self) -> list[Array]:
        return [value for value in vars(self).values() if isinstance(value, np.ndarray)]


class Writer:
    """Context manager; leaving it without an error publishes the file."""

    def __init__(
        self,
        path: Path | str,
        spec: TaskSpec,
        *,
        id: str,
        perm_seed: int = 0,
        n_steps: int | None = None,
        n_episodes: int | None = None,
        recipe_sha256: str = "",
        source: str = "generated",
        licence: str = "CC-BY-4.0",
        packages: dict[str, str] | None = None,
    ) -> None:
        self.path, self.spec = Path(path), spec
        self.meta = Meta(
            id=id,
            spec=spec,
            perm_seed=perm_seed if spec.exchangeable else None,
            recipe_sha256=recipe_sha256,
            source=source,
            licence=licence,
            packages=packages or {},
        )
        self.sizes = None if n_steps is None or n_episodes is None else (n_steps, n_episodes)
        self.waiting: list[Chunk] = []
        self.waiting_bytes = 0
        self.file: Any = None
        self.n_steps = self.n_episodes = self.appended = 0
        self.logged: tuple[str, ...] | None = None  # optional arrays that come with the chunks
        self._stack = ExitStack()

    # ------------------------------------------------------------------------------------ context
    def __enter__(self) -> Writer:
        self.temporary = self._stack.enter_context(atomic_path(self.path))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException as failure:
            self._close()
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._close()
        self._stack.__exit__(kind, error, tb)

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    # -------------------------------------------------------------------------------------- append
    def append(
        self,
        *,
        obs: Array,
        act: Array,
        rew: Array,
        final_obs: Array,
        terminated: Array,
        seeds: Array,
        policy: Array,
        logp: Array | None = None,
        alive: Array | None = None,
        active: Array | None = None,
        outcome: Mapping[str, Array] | None = None,
    ) -> None:
        """Add E episodes of T steps.

        obs [E, T, N, D], act [E, T, N, A] or [E, T, N], rew [E, T, N], final_obs [E, N, D],
        terminated, seeds, policy [E], logp, alive and active [E, T, N], and the task's outcomes [E]
        by name. An episode that is not terminated
        was cut by the time limit. Raises UserError where a shape or a value does not fit the
        task.
        """
        spec = self.spec
        n_envs, length = np.shape(obs)[:2]
        steps = (n_envs, length, spec.n_agents)
        obs_shape = (*steps, spec.obs_dim)
        obs_type = np.float32 if spec.n_obs is None else np.int32
        act_shape = steps if spec.discrete else (*steps, spec.act_dim)
        chunk = Chunk(
            obs=_cast("obs", obs, obs_shape, obs_type),
            act=_cast("act", act, act_shape, np.int32 if spec.discrete else np.float32),
            rew=_cast("rew", rew, steps, np.float64),
            final_obs=_cast("final_obs", final_obs, (n_envs, *obs_shape[2:]), obs_type),
            terminated=_cast("terminated", terminated, (n_envs,), np.bool_),
            seeds=_cast("seeds", seeds, (n_envs,), np.int64),
            policy=_cast("policy", policy, (n_envs,), np.int32),
            logp=None if logp is None else _cast("logp", logp, steps, np.float32),
            alive=None if alive is None else _cast("alive", alive, steps, np.bool_),
            active=None if active is None else _cast("active", active, steps, np.bool_),
            outcome={
                name: _cast(name, value, (n_envs,), np.float64)
                for name, value in (outcome or {}).items()
            },
        )
        if spec.n_obs is not None:
            _within("obs", chunk.obs, spec.n_obs)
            _within("final_obs", chunk.final_obs, spec.n_obs)
        if spec.n_actions is not None:
            _within("act", chunk.act, spec.n_actions)
        if set(chunk.outcome) != set(spec.outcomes):
            raise UserError(
                f"{self.path}: outcomes are {sorted(chunk.outcome)}, the task {spec.id} has"
                f" {sorted(spec.outcomes)}."
            )
        logged = tuple(name for name in OPTIONAL if getattr(chunk, name) is not None)
        if self.logged is None:
            self.logged = logged
        if logged != self.logged:
            raise UserError(
                f"{self.path}: {', '.join(OPTIONAL)} must each come with all chunks or none; the"
                f" first chunk had {self.logged or 'none'}, this one has {logged or 'none'}."
            )
        if spec.exchangeable:
            self._permute(chunk)
        self.appended += n_envs
        if self.sizes is not None:
            self._write(chunk)
            return
        self.waiting.append(chunk)
        self.waiting_bytes += sum(array.nbytes for array in chunk.arrays())
        if self.waiting_bytes > MAX_WAITING:
            raise UserError(
                f"{self.path}: more than {MAX_WAITING >> 30} GiB of episodes wait in memory; give"
                " the Writer n_steps and n_episodes, so that it can write them straight to disk."
            )

    def _permute(self, chunk: Chunk) -> None:
        """Shuffle the agents of each episode; the order depends on the episode's number only."""
        order = np.empty((len(chunk.obs), self.spec.n_agents), np.int64)  # [E, N]
        for e in range(len(order)):
            key = (self.meta.perm_seed or 0, self.appended + e)
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
            first = 0
            for group in self.spec.groups:
                order[e, first : first + group.n_agents] = first + rng.permutation(group.n_agents)
                first += group.n_agents
        rows = np.arange(len(order))[:, None]
        for name in ("obs", "act", "rew", *OPTIONAL):
            if (value := getattr(chunk, name)) is not None:
                for e in range(len(order)):
                    value[e] = value[e][:, order[e]]
        chunk.final_obs = chunk.final_obs[rows, order]

    # --------------------------------------------------------------------------------------- write
    def _begin(self) -> None:
        assert self.sizes is not None
        # "v110": the first format with checksummed metadata; "latest" could write files that only
        # the newest library reads.
        self.file = h5py.File(
            self.temporary,
            "w",
            libver=("v110", "v110"),
            alignment_threshold=1,
            alignment_interval=ALIGNMENT,
        )
        for name, wanted in fields(self.spec).items():
            kept = wanted.required or name.rsplit("/", 1)[1] in (self.logged or ())
            kept |= name == "population/mu" and self.spec.exchangeable
            if kept:
                self.file.create_dataset(name, wanted.resolve(*self.sizes), wanted.dtype)

    def _write(self, chunk: Chunk) -> None:
        if self.file is None:
            self._begin()
        n_envs, length = chunk.obs.shape[:2]
        episodes = slice(self.n_episodes, self.n_episodes + n_envs)
        rows = slice(self.n_steps, self.n_steps + n_envs * length)
        assert self.sizes is not None
        if rows.stop > self.sizes[0] or episodes.stop > self.sizes[1]:
            raise self._wrong_size(rows.stop, episodes.stop)
        file, first = self.file, 0
        for g, group in enumerate(self.spec.groups):
            agents = slice(first, first + group.n_agents)
            first += group.n_agents
            at = f"steps/{group.name}"
            for name in ("obs", "act", "rew", *OPTIONAL):
                if (value := getattr(chunk, name)) is not None:
                    part = value[:, :, agents]
                    if name == "obs" or (name == "act" and not self.spec.discrete):
                        part = part[..., : group.obs_dim if name == "obs" else group.act_dim]
                    file[f"{at}/{name}"][rows] = part.reshape(-1, *part.shape[2:])
            file[f"final/{group.name}/obs"][episodes] = chunk.final_obs[:, agents, : group.obs_dim]
            file["index/return"][episodes, g] = chunk.rew[:, :, agents].sum(1).mean(1)
        if "population/mu" in file:
            file["population/mu"][rows] = population(chunk.obs, self.spec.n_obs or 1)
        starts = self.n_steps + length * np.arange(n_envs + 1)
        file["index/start"][self.n_episodes : self.n_episodes + n_envs + 1] = starts
        file["index/terminated"][episodes] = chunk.terminated
        file["index/truncated"][episodes] = ~chunk.terminated
        file["index/seed"][episodes] = chunk.seeds
        file["index/policy"][episodes] = chunk.policy
        for name, value in chunk.outcome.items():
            file[f"index/{name}"][episodes] = value
        self.n_steps, self.n_episodes = rows.stop, episodes.stop

    def _wrong_size(self, n_steps: int, n_episodes: int) -> UserError:
        return UserError(
            f"{self.path}: the Writer was promised (n_steps, n_episodes) = {self.sizes} and got"
            f" ({n_steps}, {n_episodes}); leave them out where episodes differ in length."
        )

    def _finish(self) -> None:
        if self.sizes is None:
            lengths = [chunk.obs.shape[0] * chunk.obs.shape[1] for chunk in self.waiting]
            self.sizes = (sum(lengths), self.appended)
            for chunk in self.waiting:
                self._write(chunk)
            self.waiting = []
        if self.n_episodes == 0:
            raise UserError(f"{self.path}: no episode was appended; a dataset needs at least one.")
        if (self.n_steps, self.n_episodes) != self.sizes:
            raise self._wrong_size(self.n_steps, self.n_episodes)
        self.file.flush()
        content = content_sha256(self.spec.id, stored(self.file))
        self.meta = replace(self.meta, content_sha256=content)
        self.file.attrs["format"] = np.bytes_(FORMAT)
        self.file.attrs["meta"] = np.bytes_(self.meta.json())


def population(obs: Array, n_obs: int) -> Array:
    """Share of agents in each state: integer obs [E, T, N, 1] -> [E * T, O] float32."""
    states = obs.reshape(-1, obs.shape[2])
    rows = np.arange(len(states))[:, None] * n_obs
    counts = np.bincount((states + rows).ravel(), minlength=len(states) * n_obs)
    return (counts.reshape(-1, n_obs) / obs.shape[2]).astype(np.float32)


def _within(name: str, value: Array, count: int) -> None:
    if value.size and (value.min() < 0 or value.max() >= count):
        raise UserError(
            f"{name} holds {value.min()} to {value.max()}, expected integers in [0, {count})."
        )


def _cast(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """A fresh array of the wanted type; UserError where the shape differs or integers were not
    integers.
    """
    given = np.asarray(value)
    if given.shape != shape:
        raise UserError(f"{name} has the shape {given.shape}, expected {shape}.")
    if given.dtype.kind not in "biuf":
        raise UserError(f"{name} has the type {given.dtype}, expected numbers.")
    array = np.array(given, dtype, order="C")
    if np.issubdtype(dtype, np.integer) and not (array == given).all():
        raise UserError(f"{name} has values that are not integers of the type {np.dtype(dtype)}.")
    return array
