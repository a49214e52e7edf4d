"""Recipe of the MAMuJoCo tasks: five tiers rolled in the array environment from MAPPO behaviours.

random          uniform torques
medium          the first MAPPO snapshot a third to a half of the way from uniform play to the
                expert, sampled
medium-replay   up to 20 snapshots from the first to medium, an equal share of episodes each,
                sampled with the noise of their time
expert          the last MAPPO snapshot, sampled
mixed           half medium episodes, half expert episodes, with seeds of their own

Behaviours act as in training: Gaussian noise around the mean, then clipped to the box. No
log-probability is stored, since the clipped action has no density on the box's edge. A tier has
1,000 episodes, the field's usual million steps where bodies do not fall. Ant has 200: its simulator
is slow, and a tier should be made within three minutes on one core.

Departure: medium-replay is no learner's buffer but regenerated from snapshots, evenly spaced among
those of the learning curve.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.envs.actor import BEHAVIOURS, Actor, load_actor, load_arrays
from benchmark.protocol import RECIPE_SEEDS
from benchmark.task import Array, Task

TASKS = r"mamujoco/[a-z0-9]+-\d+x\d+"
TASK_VERSION = 1
VERSION = 1
TIERS = ("random", "medium", "medium-replay", "expert", "mixed")
EPISODES, ANT_EPISODES = 1_000, 200

CHUNK = 100  # episodes in lockstep, at most 100 MB of them in memory
FIRST_SEED = 2**40  # recipe episodes lie above every seed of an evaluation

_WEIGHTS = {
    "random": (),
    "medium": ("medium",),
    "medium-replay": ("replay",),
    "expert": ("expert",),
    "mixed": ("medium", "expert"),
}


def task_files(task: Task, tier: str) -> list[Path]:
    """Behaviour weights that a tier is rolled from."""
    folder = BEHAVIOURS / task.spec.id.rpartition("-v")[0].replace("/", "-")
    return [folder / f"{name}.safetensors" for name in _WEIGHTS[tier]]


def size(task: Task, tier: str) -> int:
    """Episodes of a tier, 1,000 steps each unless the body falls."""
    return ANT_EPISODES if "/ant-" in task.spec.id else EPISODES


def seeds(tier: str, episodes: int) -> Array:
    """Reset seed of every episode, int64 [E]; also the seed of its action noise."""
    sequence = np.random.SeedSequence((RECIPE_SEEDS[0], TIERS.index(tier)))
    words = sequence.generate_state(episodes, np.uint64)
    return (words % np.uint64(2**63 - FIRST_SEED) + np.uint64(FIRST_SEED)).astype(np.int64)


def actors(task: Task, tier: str) -> list[Actor | None]:
    """Behaviours of a tier by policy id; each rolls an equal, consecutive share. None: uniform."""
    if tier == "random":
        return [None]
    paths = task_files(task, tier)
    if tier != "medium-replay":
        return [load_actor(path) for path in paths]
    stacked = load_arrays(paths[0])  # every array has a leading axis over snapshots
    count = len(stacked["std"])
    return [Actor({name: array[s] for name, array in stacked.items()}) for s in range(count)]


def roll(task: Task, actor: Actor | None, episode_seeds: Array) -> list[dict[str, Array]]:
    """One behaviour's episodes in lockstep, as `Writer.append` takes them: a part per length."""
    spec, n_envs = task.spec, len(episode_seeds)
    env = task.arrays(n_envs)
    now = env.reset([int(seed) for seed in episode_seeds])
    # A stream apart: the environment's own generator is seeded with the bare number.
    streams = [np.random.default_rng([seed, 1]) for seed in episode_seeds]
    shape = (spec.n_agents, spec.act_dim)
    obs, act, rew = [now], [], []
    ends = np.full(n_envs, spec.horizon)  # [E] steps of each episode
    for t in range(spec.horizon):
        if actor is None:
            force = np.stack([stream.uniform(-1, 1, shape) for stream in streams])  # [E, N, A]
        else:
            noise = np.stack([stream.standard_normal(shape, np.float32) for stream in streams])
            force = actor.mean(now) + actor.std * noise
        act.append(np.clip(force, -1, 1).astype(np.float32))
        step = env.step(act[-1])
        rew.append(step.rew)
        now = step.obs
        obs.append(now)
        over = step.terminated | step.truncated
        ends = np.where(over, np.minimum(ends, t + 1), ends)
        if over.all():
            break
    return [
        {
            "obs": np.stack([x[rows] for x in obs[:length]], 1),  # [E, T, N, D]
            "act": np.stack([x[rows] for x in act[:length]], 1),  # [E, T, N, A]
            "rew": np.stack([x[rows] for x in rew[:length]], 1),  # [E, T, N]
            "final_obs": obs[length][rows],  # [E, N, D]
            "terminated": step.terminated[rows],  # [E]; a finished episode keeps its flag
            "seeds": episode_seeds[rows],
        }
        for length in np.unique(ends)
        for rows in [(ends == length).nonzero()[0]]
    ]


def collect(task: Task, tier: str, writer: Any, progress: Callable[[int], None]) -> None:
    """Roll every episode of a tier into `writer`; `progress` gets the episodes done so far."""
    behaviours, done = actors(task, tier), 0
    for policy, part in enumerate(np.array_split(seeds(tier, size(task, tier)), len(behaviours))):
        for first in range(0, len(part), CHUNK):
            for episodes in roll(task, behaviours[policy], part[first : first + CHUNK]):
                count = len(episodes["seeds"])
                writer.append(**episodes, policy=np.full(count, policy))
                done += count
                progress(done)
