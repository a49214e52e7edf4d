"""Recipe of the MPE tasks: five tiers rolled in the array environment from committed behaviours.

random          uniform actions
medium          a MAPPO checkpoint at a third to a half of the expert's score, sampled
medium-replay   the replay of an off-policy learner that stops at about the medium level
expert          the last MAPPO checkpoint, sampled (mpe-omar: the one whose return is nearest to
                that of the published expert)
mixed           the first half of the episodes as medium, the second as expert

`medium` and `expert` act as in training: Gaussian noise around the mean, then clipped to the box.
No log-probability is stored, since the clipped action has no density on the box's edge.

Departures: medium-replay is regenerated from snapshots. The learner's 4,000 episodes are not kept;
each of its 40 snapshots is rolled, with the exploration noise of its time, for the 100 episodes
that it collected. Inside those 100 episodes the learner's actor moved and the snapshot does not.
The published files beside which mpe-omar stands hold 40,000 episodes a tier, these 10,000.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.envs.actor import BEHAVIOURS, Actor, load_actor, load_arrays
from benchmark.protocol import RECIPE_SEEDS
from benchmark.task import Array, Task

TASKS = r"mpe/spread|mpe/tag-flee|mpe/world-flee|mpe-omar/spread"
TASK_VERSION = 1
VERSION = 1
TIERS = ("random", "medium", "medium-replay", "expert", "mixed")

SIZES = dict.fromkeys(TIERS, 10_000) | {"medium-replay": 4_000}  # episodes of 25 steps
CHUNK = (
    1_000  # episodes in lockstep; the data depend on it only by rounding in the actor's products
)
SEEDS = {
    "mpe/spread-v1": RECIPE_SEEDS[0],
    "mpe/tag-flee-v1": RECIPE_SEEDS[10],
    "mpe/world-flee-v1": RECIPE_SEEDS[20],
    "mpe-omar/spread-v1": RECIPE_SEEDS[30],
}
FIRST_SEED = 2**40  # recipe episodes lie above every seed of an evaluation

_WEIGHTS: dict[str, tuple[str, ...]] = {
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
    """Episodes of a tier."""
    return SIZES[tier]


def seeds(task: Task, tier: str, episodes: int) -> Array:
    """Reset seed of every episode, int64 [E]; also the seed of its action noise."""
    sequence = np.random.SeedSequence((SEEDS[task.spec.id], TIERS.index(tier)))
    words = sequence.generate_state(episodes, np.uint64)
    return (words % np.uint64(2**63 - FIRST_SEED) + np.uint64(FIRST_SEED)).astype(np.int64)


def actors(task: Task, tier: str) -> list[Actor | None]:
    """Behaviours by policy id, each of which rolls an equal, consecutive share. None: uniform."""
    if tier == "random":
        return [None]
    paths = task_files(task, tier)
    if tier != "medium-replay":
        return [load_actor(path) for path in paths]
    stacked = load_arrays(paths[0])  # every array has a leading axis over snapshots
    count = len(stacked["std"])
    return [Actor({name: array[s] for name, array in stacked.items()}) for s in range(count)]


def roll(task: Task, actor: Actor | None, episode_seeds: Array) -> dict[str, Array]:
    """One behaviour's episodes in lockstep, as `Writer.append` takes them."""
    spec = task.spec
    env = task.arrays(len(episode_seeds))
    now = env.reset([int(seed) for seed in episode_seeds])
    shape = (spec.horizon, spec.n_agents, spec.act_dim)
    # A stream apart: the environment's own generator is seeded with the bare number.
    streams = [np.random.default_rng([seed, 1]) for seed in episode_seeds]
    if actor is None:
        noise = np.stack([stream.uniform(-1, 1, shape) for stream in streams])  # [E, T, N, A]
    else:
        noise = np.stack([stream.standard_normal(shape, np.float32) for stream in streams])
    obs, act, rew = [], [], []
    for t in range(spec.horizon):
        force = noise[:, t] if actor is None else actor.mean(now) + actor.std * noise[:, t]
        obs.append(now)
        act.append(np.clip(force, -1, 1).astype(np.float32))
        step = env.step(act[-1])
        rew.append(step.rew)
        now = step.obs
    return {
        "obs": np.stack(obs, 1),  # [E, T, N, D]
        "act": np.stack(act, 1),  # [E, T, N, A]
        "rew": np.stack(rew, 1),  # [E, T, N]
        "final_obs": now,  # [E, N, D]
        "terminated": step.terminated,  # [E]
        "seeds": episode_seeds,
    }


def collect(task: Task, tier: str, writer: Any, progress: Callable[[int], None]) -> None:
    """Roll every episode of a tier into `writer`; `progress` gets the episodes done so far."""
    behaviours, done = actors(task, tier), 0
    episode_seeds = seeds(task, tier, size(task, tier))
    for policy, part in enumerate(np.array_split(episode_seeds, len(behaviours))):
        for first in range(0, len(part), CHUNK):
            episodes = roll(task, behaviours[policy], part[first : first + CHUNK])
            count = len(episodes["seeds"])
            writer.append(**episodes, policy=np.full(count, policy))
            done += count
            progress(done)
