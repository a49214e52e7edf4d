"""Roll-outs of E episodes in lockstep, so that one network call a step serves all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmark.errors import UserError
from benchmark.protocol import POPULATION_SEEDS
from benchmark.task import Array, Task, TaskSpec

POLICY_STREAM = 2**50  # keeps a policy's noise apart from the draws of the episode of that seed
ROWS = 1_000_000  # agents x episodes of one seed in lockstep at most, which bounds memory
POPULATION_STEPS = 4_000_000  # agent-steps that measure a population error, about
POPULATION_EPISODES = (2, 100)  # of them, at least and at most


class Policy(Protocol):
    """What an evaluation asks of a policy: an `Algorithm` keeps it, and so may a class of one's
    own.
    """

    def begin(self, n_envs: int, seed: int) -> None:
        """Before a chunk of `n_envs` episodes; all noise of the chunk comes from `seed`."""
        ...

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        """obs [E, N, D] -> [E, N, A] in [-1, 1], or [E, N] integers."""
        ...


@dataclass(frozen=True)
class Evaluation:
    returns: Array  # [K, E, N] undiscounted per-agent returns, float64
    outcomes: dict[str, Array]  # [K, E] each: what the task's `outcomes` came to
    act_seconds: float  # wall time inside `act`
    joint_actions: int  # K x E x steps
    seconds: float

    @property
    def act_ms(self) -> float:
        return 1e3 * self.act_seconds / max(self.joint_actions, 1)


def check_actions(act: Array, expected: tuple[int, ...], spec: TaskSpec) -> Array:
    """The actions of a policy, refused with one sentence where their shape, type or values are
    wrong.
    """
    act = np.asarray(act)
    if act.shape != expected:
        raise UserError(f"the policy's act returned shape {act.shape}, expected {expected}.")
    if spec.discrete:
        if not np.issubdtype(act.dtype, np.integer):
            raise UserError(f"the policy's act returned {act.dtype}, expected integers.")
        if act.size and (act.min() < 0 or act.max() >= (spec.n_actions or 0)):
            raise UserError(
                f"the policy's act returned action {act.max() if act.min() >= 0 else act.min()},"
                f" expected 0 to {(spec.n_actions or 0) - 1}."
            )
        return act
    if not np.issubdtype(act.dtype, np.floating):
        raise UserError(f"the policy's act returned {act.dtype}, expected floats in [-1, 1].")
    if not np.isfinite(act).all():
        raise UserError("the policy's act returned NaN or infinity, expected values in [-1, 1].")
    return np.clip(act, -1.0, 1.0)


def rollout(
    task: Task,
    policy: Policy,
    seeds: Sequence[int],
    deterministic: bool | None = None,
    progress: Callable[[int], None] | None = None,
) -> Array:
    """Per-agent returns [E, N], one episode per seed; `progress` gets the episodes done."""
    return _roll(task, policy, None, seeds, deterministic, progress).returns[0]


def team_values(
    task: Task,
    policy: Policy,
    seeds: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> Array:
    """What the task's scale measures, one value an episode [E]: the margin where the metric is the
    margin, else the team return.
    """
    found = _roll(task, policy, None, seeds, None, progress)
    if task.spec.metric == "margin":
        return found.outcomes["margin"][0]
    return task.spec.team(found.returns[0])


def rollout_group(
    task: Task,
    group: Policy,
    n_seeds: int,
    seeds: Sequence[int],
    deterministic: bool | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """The same for a group of K policies at once: observations and actions carry a leading K."""
    return _roll(task, group, n_seeds, seeds, deterministic, progress)


def exact(task: Task, table: Array) -> dict[str, float]:
    """Metrics of a finite game's policy pi[h, o, a] against the game's exact limit; the task must
    have a model.

    value: its return in the limit. exploitability: where that ranks. population_error: mean over
    episodes of max_t |mu_N(t) - mu(t)|_1, from 0 to 2, of N agents who play the table; not in
    games of one step, where nobody moves.
    """
    from benchmark.envs.meanfield import solve

    model = task.model()
    assert model is not None
    metrics = {"value": float(solve.policy_value(model, table))}
    if task.spec.metric == "exploitability":
        metrics["exploitability"] = float(solve.exploitability(model, table))
    if model.horizon > 1:
        episodes = POPULATION_STEPS // (task.spec.n_agents * model.horizon)
        seeds = POPULATION_SEEDS[: int(np.clip(episodes, *POPULATION_EPISODES))]
        metrics["population_error"] = float(solve.population_error(task, table, seeds)[0].mean())
    return metrics


def _roll(
    task: Task,
    policy: Policy,
    stack: int | None,
    seeds: Sequence[int],
    deterministic: bool | None,
    progress: Callable[[int], None] | None,
) -> Evaluation:
    spec, k = task.spec, stack or 1
    if deterministic is None:
        deterministic = spec.deterministic_eval
    # The chunk depends on the task alone: a seed sees the same noise in a group as by itself.
    chunk = max(1, ROWS // spec.n_agents)
    parts, outcomes = [], []
    act_seconds, joint, start = 0.0, 0, time.perf_counter()
    for first in range(0, len(seeds), chunk):
        part = list(seeds[first : first + chunk])
        e = len(part)
        env = task.arrays(k * e)
        obs = env.reset(part * k)  # [K * E, N, D]
        policy.begin(e, POLICY_STREAM + part[0])
        returns = np.zeros((k * e, spec.n_agents))
        outcome = {name: np.zeros(k * e) for name in spec.outcomes}
        running = np.ones(k * e, bool)
        alive: Array | None = None
        mask: Array | None = None
        tail = (spec.n_agents,) if spec.discrete else (spec.n_agents, spec.act_dim)
        lead = (e,) if stack is None else (k, e)

        for t in range(spec.horizon):

            def fold(x: Array | None, lead: tuple[int, ...] = lead) -> Array | None:
                return None if x is None else x.reshape(*lead, *x.shape[1:])

            begun = time.perf_counter()
            folded = obs.reshape(*lead, *obs.shape[1:])
            act = policy.act(folded, fold(alive), fold(mask), t, deterministic)
            act_seconds += time.perf_counter() - begun
            act = check_actions(act, (*lead, *tail), spec).reshape(k * e, *tail)
            step = env.step(act)
            rew = step.rew if alive is None else np.where(alive, step.rew, 0.0)
            returns += rew * running[:, None]
            for name, value in outcome.items():
                value[running] = (step.outcome or {})[name][running]
            joint += int(running.sum())
            running &= ~(step.terminated | step.truncated)
            obs, alive, mask = step.obs, step.alive, step.mask
            if not running.any():
                break
        parts.append(returns.reshape(k, e, spec.n_agents))
        outcomes.append({name: value.reshape(k, e) for name, value in outcome.items()})
        if progress:
            progress(e)
    return Evaluation(
        np.concatenate(parts, 1),
        {name: np.concatenate([part[name] for part in outcomes], 1) for name in spec.outcomes},
        act_seconds,
        joint,
        time.perf_counter() - start,
    )
