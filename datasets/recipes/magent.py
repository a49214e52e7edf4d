"""Data of magent2's battle: scripts with noise, a fresh behaviour in every episode.

A *random policy* is a softmax of one Gaussian logit, sd 1, for each action. A behaviour plays a
script, and with some probability the episode's random policy instead; log-probabilities are of
the mixture.

random          the random policy alone
medium          rush, a share of 0.1 to 0.4 of random play
medium-replay   rush; the share falls from 1 in the first episode to 0.25 in the last
expert          focus, a share of 0 to 0.1 of random play
mixed           expert or random, by a fair coin
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmark.envs.battle.fighter import softmax
from benchmark.envs.battle.magent import N_ACTIONS
from benchmark.envs.battle.magent_policies import Rush, fighter
from benchmark.protocol import RECIPE_SEEDS
from benchmark.task import Array, Task
from datasets.recipes.battles import Behaviour, mixture, roll
from datasets.writer import Writer

TASKS = r"battle/magent-map(16|40|160)-(random|rush|focus)"
TASK_VERSION = 1
VERSION = 1
TIERS = ("random", "medium", "medium-replay", "expert", "mixed")

EPISODES = {6: 400, 64: 100, 1024: 10}  # by agents: at most 0.6 GB
CHUNK = 1_024  # agents in lockstep


def files(tier: str) -> list[Path]:
    """No behaviour weights: the policies are scripts."""
    return []


def size(task: Task, tier: str) -> int:
    return EPISODES[task.spec.n_agents]


def collect(task: Task, tier: str, writer: Writer, progress: Callable[[int], None]) -> None:
    # Recipe seeds shifted far above the seeds of training, tuning, evaluation and verification
    first = RECIPE_SEEDS[TIERS.index(tier)] << 40
    episodes, chunk = size(task, tier), max(1, CHUNK // task.spec.n_agents)
    for begin in range(0, episodes, chunk):
        numbers = range(begin, min(begin + chunk, episodes))
        streams = [np.random.default_rng([first + e, 1]) for e in numbers]
        played = [
            behaviour(tier, e / (episodes - 1), rng)
            for e, rng in zip(numbers, streams, strict=True)
        ]
        roll(task, played, [first + e for e in numbers], streams, begin, writer)
        progress(len(numbers))


def behaviour(tier: str, late: float, rng: np.random.Generator) -> Behaviour:
    """The policy of one episode; late: 0 in the first episode of the tier, 1 in the last."""
    shares = {
        "random": 1.0,
        "medium": rng.uniform(0.1, 0.4),
        "medium-replay": 1 - 0.75 * late,
        "expert": rng.uniform(0, 0.1),
        "mixed": rng.choice([1.0, rng.uniform(0, 0.1)]),
    }
    script = fighter("focus" if tier in ("expert", "mixed") else "rush", noise=0.0)
    assert isinstance(script, Rush)
    noise = softmax(rng.standard_normal(N_ACTIONS).astype(np.float32))  # [21]

    def scripted(obs: Array) -> Array:
        return np.eye(N_ACTIONS, dtype=np.float32)[script.decide(obs)]

    def poor(obs: Array) -> Array:
        return np.broadcast_to(noise, (len(obs), N_ACTIONS))

    return mixture(scripted, poor, 1 - shares[tier])
