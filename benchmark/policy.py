"""A trained policy from a checkpoint: begin and act for one seed, for evaluation or a program of
one's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import checkpoint, registry, rng
from benchmark.algorithm import Algorithm, build_group
from benchmark.errors import UserError
from benchmark.evaluate import Evaluation, exact, rollout_group
from benchmark.task import Array, Task
from benchmark.trace import Recorder, Trace, length
from benchmark.train import THREADS, Surviving, blame


class Trained:
    """One seed of a trained group. `task` is the task it was trained for."""

    def __init__(self, group: Algorithm, k: int, task: Task, row: str) -> None:
        self.group, self.k, self.task, self.row = group, k, task, row

    def begin(self, n_envs: int, seed: int) -> None:
        """Before `n_envs` episodes: reset planner, recurrent and noise state from `seed`."""
        self.group.begin(n_envs, seed)

    def act(
        self,
        obs: Array,
        alive: Array | None = None,
        mask: Array | None = None,
        t: int = 0,
        deterministic: bool = True,
    ) -> Array:
        """obs [E, N, D] -> [E, N, A] in [-1, 1], or [E, N] integers; t: step in the episode."""
        k = len(self.group.seeds)

        def stack(x: Array) -> Array:
            return np.repeat(x[None], k, 0)

        stacked_alive = None if alive is None else stack(alive)
        stacked_mask = None if mask is None else stack(mask)
        return self.group.act(stack(obs), stacked_alive, stacked_mask, t, deterministic)[self.k]

    def policy_table(self) -> Array:
        """Finite games: pi[h, o, a]."""
        return self.group.policy_table()[self.k]


@dataclass(frozen=True)
class Played:
    """What a checkpoint's group does, all its seeds together."""

    evaluation: Evaluation
    traces: list[Trace | None]  # one a seed; None where no episode fits
    exact: list[dict[str, float]]  # one a seed, see `benchmark.evaluate.exact`
    failed: dict[str, str]  # seed -> reason


def play(state: Mapping[str, Any], cls: type[Algorithm], task: Task, seeds: range) -> Played:
    """Evaluate a checkpoint as its run was evaluated, with equal bits on an equal machine.

    `state` is a loaded checkpoint, `seeds` are the episodes'. Raises UserError where it does not
    fit `cls`.
    """
    torch.set_num_threads(THREADS)
    identity = state["identity"]
    members = tuple(identity["seeds"])
    with blame(identity["algo"], "load_state_dict"):
        group = build_group(cls, cls.Config(**identity["config"]), task.spec, members)
        group.load_state_dict(state["group"])
    failed, k = dict(state["failed"]), len(members)
    if len(failed) == k:  # then the run was not evaluated
        nothing = Evaluation(np.zeros((k, 0, task.spec.n_agents)), {}, 0.0, 0, 0.0)
        return Played(nothing, [None] * k, [{} for _ in members], failed)
    outside = rng.get_state()
    try:
        with blame(identity["algo"], "load_state_dict"):
            rng.set_state(state["global"])  # a plug-in may draw from the global generators
        traced = length(task.spec, len(seeds))
        recorder = Recorder(Surviving(group, members, failed), task.spec, traced)
        with blame(identity["algo"], "act"):
            evaluation = rollout_group(task, recorder, k, seeds)
            tables = policy_tables(task, group)
            found = [
                {} if table is None or str(seed) in failed else exact(task, table)
                for seed, table in zip(members, tables, strict=True)
            ]
    finally:
        rng.set_state(outside)
    pairs = zip(recorder.traces() or [None for _ in members], tables, strict=True)
    traces = [None if act is None else Trace(act, table) for act, table in pairs]
    return Played(evaluation, traces, found, failed)


def policy_tables(task: Task, group: Algorithm) -> list[Array | None]:
    """pi[h, o, a] of every seed, where the game is finite and the algorithm has one; else None."""
    nothing: list[Array | None] = [None for _ in group.seeds]
    if task.model() is None:
        return nothing
    try:
        return list(np.asarray(group.policy_table()))
    except NotImplementedError:
        return nothing


def load_policy(
    path: Path | str, algorithms: registry.Algorithms, seed: int | None = None, device: str = "cpu"
) -> Trained:
    """See `algorithms.load`."""
    state = checkpoint.load(Path(path))
    try:
        identity = state["identity"]
        row, seeds = identity["algo"], tuple(identity["seeds"])
        settings, task_id = identity["config"], identity["task"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"checkpoint {path} lacks {error}; is it one of this suite's runs?"
        ) from error
    cls, _, _ = algorithms.row(row)
    task = registry.task(task_id)
    chosen = seeds[0] if seed is None else seed
    if chosen not in seeds:
        raise UserError(f"checkpoint {path} has no seed {chosen}; it holds {list(seeds)}.")
    try:
        config = cls.Config(**settings)
        group = build_group(cls, config, task.spec, seeds, device)
        group.load_state_dict(state["group"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"checkpoint {path} does not fit today's {row} ({type(error).__name__}: {error});"
            " use the version of the code that made it."
        ) from error
    return Trained(group, seeds.index(chosen), task, row)
