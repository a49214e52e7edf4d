"""Data of `skirmish`: a fresh behaviour in every episode, log-probabilities stored.

A *random policy* is a softmax of Gaussian logits: sd 1 for each action, sd 0.5 for each pair of
action and observation feature (densities capped at 1). Episodes differ in it, and so in where the
teams meet, or whether they do. A *trained policy* is a snapshot of the trainer's history, or its
end, the expert, with logits divided by a temperature.

random          a random policy
medium          a snapshot between a third and three quarters of the way from uniform play to the
                expert, temperature 1 to 1.5, mixed with a share of 0 to 0.15 of a random policy
medium-replay   episode k of K plays the snapshot k / K of the way from the first to the first that
                reaches a third: what the learner would have collected
expert          95% the expert, 5% a random policy
mixed           expert or random, by a fair coin

The way from uniform play to the expert is measured by the margin against rush in `training.csv`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmark.envs.actor import load_arrays
from benchmark.envs.battle.fighter import softmax
from benchmark.envs.battle.skirmish import OBS_DIM
from benchmark.envs.battle.skirmish_policies import FOLDER, Network
from benchmark.protocol import RECIPE_SEEDS
from benchmark.task import Array, Task
from datasets.recipes.battles import Behaviour, mixture, roll
from datasets.writer import Writer

TASKS = r"battle/skirmish-n\d+-(random|hold|rush|expert)"
TASK_VERSION = 1
VERSION = 1
TIERS = ("random", "medium", "medium-replay", "expert", "mixed")

AGENTS = 163_840  # agents x episodes of a tier: 160 episodes of 1,024 agents, 0.7 GB
EPISODES = 400  # at most
CHUNK = 65_536  # agents in lockstep
EXPERT_SHARE, MEDIUM_SHARE = 0.95, (0.85, 1.0)
TEMPERATURE = (1.0, 1.5)
MEDIUM = (1 / 3, 3 / 4)  # of the way to the expert


def files(tier: str) -> list[Path]:
    names = {
        "random": (),
        "medium": ("history.safetensors", "training.csv"),
        "medium-replay": ("history.safetensors", "training.csv"),
        "expert": ("expert.safetensors",),
        "mixed": ("expert.safetensors",),
    }
    return [FOLDER / name for name in names[tier]]


def size(task: Task, tier: str) -> int:
    return max(10, min(EPISODES, AGENTS // task.spec.n_agents))


def collect(task: Task, tier: str, writer: Writer, progress: Callable[[int], None]) -> None:
    n = task.spec.n_agents
    # Recipe seeds shifted far above the seeds of training, tuning, evaluation and verification
    first = RECIPE_SEEDS[TIERS.index(tier)] << 40
    episodes, chunk = size(task, tier), max(1, CHUNK // n)
    make = behaviours(tier, episodes)
    for begin in range(0, episodes, chunk):
        numbers = range(begin, min(begin + chunk, episodes))
        streams = [np.random.default_rng([first + e, 1]) for e in numbers]
        played = [make(e, rng) for e, rng in zip(numbers, streams, strict=True)]
        roll(task, played, [first + e for e in numbers], streams, begin, writer)
        progress(len(numbers))


def behaviours(tier: str, episodes: int) -> Callable[[int, np.random.Generator], Behaviour]:
    """Draws the behaviour of episode e of a tier."""
    if tier == "random":
        return lambda e, rng: random_policy(rng)
    if tier in ("expert", "mixed"):
        expert = load_arrays(FOLDER / "expert.safetensors")

        def good(e: int, rng: np.random.Generator) -> Behaviour:
            poor = random_policy(rng)
            if tier == "mixed" and rng.random() < 0.5:
                return poor
            return mixture(trained(expert, 1.0), poor, EXPERT_SHARE)

        return good
    history = load_arrays(FOLDER / "history.safetensors")
    way = progress_of(FOLDER / "training.csv")
    middle = np.flatnonzero((way >= MEDIUM[0]) & (way <= MEDIUM[1]))

    def medium(e: int, rng: np.random.Generator) -> Behaviour:
        if tier == "medium-replay":
            return trained(snapshot(history, int(e * (middle[0] + 1) / episodes)), 1.0)
        policy = trained(snapshot(history, int(rng.choice(middle))), rng.uniform(*TEMPERATURE))
        return mixture(policy, random_policy(rng), rng.uniform(*MEDIUM_SHARE))

    return medium


def snapshot(history: dict[str, Array], k: int) -> dict[str, Array]:
    return {name: stack[k] for name, stack in history.items()}


def progress_of(path: Path) -> Array:
    """Share of the way from the first to the last snapshot, by the margin against rush."""
    with open(path, newline="") as handle:
        margin = np.array([float(row["rush"]) for row in csv.DictReader(handle)])
    return (margin - margin[0]) / (margin[-1] - margin[0])


def random_policy(rng: np.random.Generator) -> Behaviour:
    bias, weight = rng.standard_normal(6), 0.5 * rng.standard_normal((OBS_DIM, 6))
    bias, weight = bias.astype(np.float32), weight.astype(np.float32)
    return lambda obs: softmax(np.minimum(obs, 1) @ weight + bias)


def trained(weights: dict[str, Array], temperature: float) -> Behaviour:
    actor = Network(weights).actor
    return lambda obs: softmax(actor.outputs(obs) / np.float32(temperature))
