"""Plays and compares whole episodes of a task's two environments; the task checks run on it."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmark.checks import CheckFailed
from benchmark.evaluate import Policy
from benchmark.reference import UniformPolicy
from benchmark.task import Array, Task

TOLERANCE = 1e-5  # for float32 observations and rewards of two programs that should be equal


@dataclass
class Trace:
    """T steps of E episodes in lockstep; T stops where the last of them ends."""

    obs: list[Array] = field(default_factory=list)  # T + 1 of [E, N, D]
    act: list[Array] = field(default_factory=list)  # T of [E, N, A] or [E, N]
    rew: list[Array] = field(default_factory=list)  # T of [E, N]
    terminated: list[Array] = field(default_factory=list)  # T of [E]
    truncated: list[Array] = field(default_factory=list)  # T of [E]

    def episode(self, e: int) -> Trace:
        """Episode e alone, up to its own end, as a trace with E = 1."""
        ended = np.array(self.terminated)[:, e] | np.array(self.truncated)[:, e]  # [T]
        steps = int(ended.argmax()) + 1 if ended.any() else len(ended)
        own = slice(e, e + 1)
        return Trace(
            [x[own] for x in self.obs[: steps + 1]],
            *([x[own] for x in xs[:steps]] for xs in (self.act, self.rew)),
            *([x[own] for x in xs[:steps]] for xs in (self.terminated, self.truncated)),
        )


def record(
    task: Task,
    seeds: Sequence[int],
    acts: Sequence[Array] | None = None,
    policy: Policy | None = None,
) -> Trace:
    """Play the array environment with `acts` (T of [E, N, ...]), else `policy`, else uniformly."""
    policy = policy or UniformPolicy(task.spec)
    policy.begin(len(seeds), seeds[0])
    env = task.arrays(len(seeds))
    obs, alive, mask = env.reset(list(seeds)), None, None
    trace, running = Trace([obs.copy()]), np.ones(len(seeds), bool)
    for t in range(task.spec.horizon if acts is None else len(acts)):
        act = policy.act(obs, alive, mask, t, False) if acts is None else acts[t]
        step = env.step(act)
        obs, alive, mask = step.obs, step.alive, step.mask
        trace.obs.append(obs.copy())
        trace.act.append(act)
        trace.rew.append(step.rew.copy())
        trace.terminated.append(step.terminated.copy())
        trace.truncated.append(step.truncated.copy())
        running &= ~(step.terminated | step.truncated)
        if not running.any():
            break
    return trace


def replay(task: Task, env: Any, seed: int, acts: Sequence[Array]) -> Trace:
    """Play a PettingZoo environment with given actions (T of [N, ...]), as a trace with E = 1.

    What it says nothing about (padding, agents that are gone) is NaN.
    """
    spec, names = task.spec, list(env.possible_agents)
    if len(names) != spec.n_agents:
        raise CheckFailed(
            f"parallel_env() has {len(names)} agents, the spec {spec.n_agents}; make them equal"
        )
    widths = [group.act_dim for group in spec.groups for _ in range(group.n_agents)]

    def stack(values: dict[str, Any], width: int) -> Array:
        rows = np.full((1, len(names), width), np.nan)
        for i, name in enumerate(names):
            if name in values:
                row = np.atleast_1d(values[name])
                rows[0, i, : len(row)] = row
        return rows

    obs, _ = env.reset(seed=seed)
    trace = Trace([stack(obs, spec.obs_dim)])
    for act in acts:
        chosen = {
            name: int(act[i]) if spec.discrete else act[i, : widths[i]].astype(np.float32)
            for i, name in enumerate(names)
            if name in env.agents
        }
        obs, rew, terminated, truncated, _ = env.step(chosen)
        trace.obs.append(stack(obs, spec.obs_dim))
        trace.act.append(act[None])
        trace.rew.append(stack(rew, 1)[..., 0])
        trace.terminated.append(np.array([all(terminated.values())]))
        trace.truncated.append(np.array([any(truncated.values())]))
        if not env.agents:
            break
    return trace


def compare(first: Trace, second: Trace, what: str, advice: str) -> None:
    """Raise CheckFailed at the first step where two traces differ; NaN stands for anything."""
    if len(first.rew) != len(second.rew):
        raise CheckFailed(f"{what}: {len(first.rew)} steps against {len(second.rew)}; {advice}")
    for t in range(len(first.obs)):
        _equal(first.obs[t], second.obs[t], f"{what}: observations differ at step {t}", advice)
        if t < len(first.rew):
            _equal(first.rew[t], second.rew[t], f"{what}: rewards differ at step {t}", advice)
            for name in ("terminated", "truncated"):
                if (getattr(first, name)[t] != getattr(second, name)[t]).any():
                    raise CheckFailed(f"{what}: {name} differs at step {t}; {advice}")


def _equal(first: Array, second: Array, what: str, advice: str) -> None:
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    gap = np.nan_to_num(np.abs(first - second), nan=0.0)  # [1, N] or [1, N, D]
    if (gap > TOLERANCE * (1 + np.nan_to_num(np.abs(second), nan=0.0))).any():
        agent = int(np.argwhere(gap == gap.max())[0][1])
        raise CheckFailed(f"{what} by {gap.max():.3g} (agent {agent}); {advice}")


def released_test(name: str, subject: Any) -> None:
    """Run PettingZoo's test of that name; its warnings are failures, its printing is dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pettingzoo.test

        test = getattr(pettingzoo.test, name)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("error", UserWarning)
        try:
            test(subject)
        except (AssertionError, UserWarning) as error:
            raise CheckFailed(
                f"PettingZoo's {name} says {str(error) or 'an assertion failed'!r}; mend"
                " parallel_env(), or build it from benchmark.envs.parallel"
            ) from error
