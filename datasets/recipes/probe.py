"""Data of the coordination probes: draws from known laws of joint actions.

two-mode  one of the task's two modes, equally likely
mixed     a share NOISE of uniform joint actions, else a mode; equally likely, except in mne, where
          the poor equilibrium has the share 0.65 and the best 0.05
random    uniform joint actions

In the bandit a mode is a Gaussian of spread 0.1 around it, clipped to [-1, 1]. `index/policy` is
the mode, 0 or 1, or 2 for a uniform joint action. No log-probability is stored: the agents of a
mode act together, so that none of them has one of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmark.envs.probe import ProbeTask
from benchmark.protocol import RECIPE_SEEDS
from benchmark.task import Array, Task
from datasets.writer import Writer

TASKS = r"probe/(bandit|xor|mne|modes-n[2-6])"
TASK_VERSION = 1
VERSION = 1
TIERS = ("two-mode", "mixed", "random")

EPISODES = 10_000
SPREAD = 0.1  # standard deviation of the bandit's actions around a mode
NOISE = 0.3  # share of uniform joint actions in the mixed tier
FAVOURED = 0.65  # share of the first mode in the mixed tier of mne


def files(tier: str) -> list[Path]:
    """No behaviour weights: the laws are written here."""
    return []


def size(task: Task, tier: str) -> int:
    return EPISODES


def shares(task: Task, tier: str) -> Array:
    """Probability of the first mode, the second, and of a uniform joint action: [3]."""
    if tier == "random":
        return np.array([0.0, 0.0, 1.0])
    if tier == "two-mode":
        return np.array([0.5, 0.5, 0.0])
    first = FAVOURED if task.spec.id == "probe/mne-v1" else (1 - NOISE) / 2
    return np.array([first, 1 - NOISE - first, NOISE])


def law(task: Task, tier: str) -> Array:
    """Probability of each joint action of a discrete probe's tier: [2] * N."""
    assert isinstance(task, ProbeTask)
    *modes, uniform = shares(task, tier)
    n_agents = task.spec.n_agents
    found = np.full((2,) * n_agents, uniform / 2**n_agents)
    for mode, share in zip(task.modes, modes, strict=True):
        found[tuple(mode)] += share
    return found


def draw(task: Task, tier: str, episodes: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Which component each episode is from [E], and its joint action [E, N] or [E, N, 1]."""
    assert isinstance(task, ProbeTask)
    component = rng.choice(3, size=episodes, p=shares(task, tier))  # [E]
    mode = task.modes[np.minimum(component, 1)]  # [E, N]
    is_uniform = component[:, None] == 2
    if task.spec.discrete:
        return component, np.where(is_uniform, rng.integers(2, size=mode.shape), mode)
    around = np.clip(rng.normal(mode, SPREAD), -1, 1)
    act = np.where(is_uniform, rng.uniform(-1, 1, mode.shape), around)
    return component, act[..., None].astype(np.float32)


def collect(task: Task, tier: str, writer: Writer, progress: Callable[[int], None]) -> None:
    seed = RECIPE_SEEDS[TIERS.index(tier)]
    episodes = size(task, tier)
    # Reset seeds shifted far above the seeds of training, tuning, evaluation and verification
    seeds = (seed << 40) + np.arange(episodes)
    component, act = draw(task, tier, episodes, np.random.default_rng([seed, 1]))
    env = task.arrays(episodes)
    obs = env.reset(seeds.tolist())  # [E, N, 1]
    step = env.step(act)
    writer.append(
        obs=obs[:, None],
        act=act[:, None],
        rew=step.rew[:, None],
        final_obs=step.obs,
        terminated=step.terminated,
        seeds=seeds,
        policy=component,
    )
    progress(episodes)
