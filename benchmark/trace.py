"""Traces of actions: what a seed's policy did in the first evaluation episodes, packed small.

With a trace the suite plays the episodes again in its own simulator, without the policy: returns
that were claimed are found to be earned, or not, and nothing of a stranger's is run.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluate import Evaluation, Policy, check_actions, rollout_group
from benchmark.task import Array, Task, TaskSpec

RAW_BYTES = 1_000_000  # of a trace's actions before they are packed; see `length`


@dataclass
class Trace:
    act: Array  # [T, E, N] uint8 or uint16, or [T, E, N, A] float32 or float64
    table: Array | None = None  # pi[h, o, a] of a finite game, where the policy has one


def length(spec: TaskSpec, episodes: int) -> int:
    """How many of an evaluation's episodes a trace holds: all, or the first that fit.

    0 where a single episode is too large. Never more than one chunk of `benchmark.evaluate`.
    """
    # 8 bytes whatever the policy's type, so that the number depends on the task alone
    width = _code(spec).itemsize if spec.discrete else 8 * spec.act_dim
    return min(episodes, RAW_BYTES // (spec.horizon * spec.n_agents * width))


def _code(spec: TaskSpec) -> np.dtype:
    return np.dtype(np.uint8 if (spec.n_actions or 0) <= 256 else np.uint16)


class Recorder:
    """A group of policies that plays on while its actions in the first episodes are kept."""

    def __init__(self, policy: Policy, spec: TaskSpec, episodes: int) -> None:
        self.policy, self.spec, self.episodes = policy, spec, episodes
        self.kept: list[Array] = []  # [K, E, N, ...] each
        self.chunks = 0

    def begin(self, n_envs: int, seed: int) -> None:
        self.chunks += 1
        self.policy.begin(n_envs, seed)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        act = self.policy.act(obs, alive, mask, t, deterministic)
        if self.chunks == 1 and self.episodes:
            shape = (*obs.shape[:3], *(() if self.spec.discrete else (self.spec.act_dim,)))
            checked = check_actions(act, shape, self.spec)[:, : self.episodes]
            self.kept.append(checked.astype(_code(self.spec)) if self.spec.discrete else checked)
        return act

    def traces(self) -> list[Array | None]:
        """Actions [T, E, N, ...] of every policy of the group."""
        if not self.kept:
            return []
        return list(np.stack(self.kept, 1))


class _Replayer:
    def __init__(self, trace: Trace, spec: TaskSpec) -> None:
        self.trace, self.spec = trace, spec
        shape = () if trace.table is None else trace.table.shape
        self.played = np.zeros(shape, np.int64)  # how often each action was chosen, [H, O, A]

    def begin(self, n_envs: int, seed: int) -> None: ...

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        if t >= len(self.trace.act):
            raise UserError(f"the trace ends at step {t}, and its episodes go on.")
        act = self.trace.act[t]
        if self.spec.discrete:
            act = act.astype(np.int64)
            if self.trace.table is not None:
                np.add.at(self.played[t], (obs[0, ..., 0], act), 1)  # type: ignore[arg-type]
        return act[None]


def replay(task: Task, trace: Trace, seeds: Sequence[int]) -> Evaluation:
    """Play a trace's episodes again; K = 1. `seeds` are those of its episodes.

    Raises UserError where the trace ends early, or where it holds actions that its policy table
    hardly ever takes.
    """
    player = _Replayer(trace, task.spec)
    found = rollout_group(task, player, 1, seeds)
    if trace.table is not None:
        _check_frequencies(trace.table, player.played)
    return found


def _check_frequencies(table: Array, played: Array) -> None:
    """Whether actions were drawn from the table: within 6 standard errors at every step and state,
    which honest play misses about once in 10^8 cells.
    """
    p = np.asarray(table, np.float64)
    seen = played.sum(-1, keepdims=True)  # [H, O, 1]
    error = np.abs(played - seen * p)
    # 10: counts of rare actions have a longer tail. 1%: some tables are measured by sampling.
    bad = error > 6 * np.sqrt(seen * p * (1 - p)) + (10 + 0.01 * seen) * (p > 0)
    if bad.any():
        h, o, a = np.argwhere(bad)[0]
        raise UserError(
            f"at step {h}, observation {o}, action {a} was played {played[h, o, a]} times of"
            f" {seen[h, o, 0]}, and the policy table says {p[h, o, a]:.3g}."
        )


def pack(trace: Trace) -> bytes:
    """A safetensors file: the deflated actions, their shape and the policy table."""
    from safetensors.numpy import save

    packed = np.frombuffer(zlib.compress(np.ascontiguousarray(trace.act).tobytes(), 9), np.uint8)
    tensors: dict[str, Array] = {"act": packed, "shape": np.array(trace.act.shape, np.int64)}
    if trace.table is not None:
        tensors["policy_table"] = np.ascontiguousarray(trace.table)
    return save(tensors)


def unpack(data: bytes, spec: TaskSpec, episodes: int, source: str) -> Trace:
    """A trace of `episodes` episodes of a task; nothing larger than it may be is ever inflated.

    Raises UserError that names `source` and what is wrong with it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    def wrong(reason: str) -> UserError:
        return UserError(f"{source} is not a valid trace: {reason}.")

    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise wrong(f"it is no safetensors file ({error})") from error
    if not {"act", "shape"} <= set(tensors) <= {"act", "shape", "policy_table"}:
        raise wrong(f"it holds {', '.join(sorted(tensors))}, expected act, shape and policy_table")
    packed, sizes = tensors["act"], tensors["shape"]
    tail = (spec.n_agents,) if spec.discrete else (spec.n_agents, spec.act_dim)
    if sizes.dtype != np.int64 or sizes.ndim != 1 or packed.dtype != np.uint8 or packed.ndim != 1:
        raise wrong("act is expected as bytes and shape as integers")
    shape = tuple(int(n) for n in sizes)
    if shape[1:] != (episodes, *tail) or not 1 <= shape[0] <= spec.horizon:
        raise wrong(f"its shape is {shape}, expected {(spec.horizon, episodes, *tail)} at most")
    count = int(np.prod(shape))
    types: list[np.dtype] = [np.dtype(np.float32), np.dtype(np.float64)]
    if spec.discrete:
        types = [_code(spec)]
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(packed.tobytes(), types[-1].itemsize * count + 1)
    except zlib.error as error:
        raise wrong(f"its actions cannot be inflated ({error})") from error
    kind = next((kind for kind in types if kind.itemsize * count == len(raw)), None)
    if kind is None or not inflate.eof or inflate.unused_data:
        raise wrong(f"it holds {len(raw)} bytes of actions or more, not one for each of {count}")
    act = np.frombuffer(raw, kind).reshape(shape)
    if spec.discrete and act.max() >= (spec.n_actions or 0):
        raise wrong(f"it holds action {act.max()}, expected 0 to {(spec.n_actions or 0) - 1}")
    if not spec.discrete and not (np.abs(act) <= 1).all():  # NaN is refused too
        raise wrong("it holds actions outside of [-1, 1]")
    table = tensors.get("policy_table")
    if table is not None:
        size = (spec.horizon, spec.n_obs, spec.n_actions)
        if table.shape != size or table.dtype not in (np.float32, np.float64):
            raise wrong(f"its policy_table is {table.dtype} {table.shape}, expected floats {size}")
        if not (table >= 0).all() or not np.allclose(table.sum(-1), 1, rtol=0, atol=1e-5):
            raise wrong("a row of its policy_table is no distribution")
    return Trace(act, table)
