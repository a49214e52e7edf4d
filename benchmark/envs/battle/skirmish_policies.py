"""Policies of `skirmish`: the opponents that a task's name can name, and its expert.

Each acts on an agent's own observation, which `benchmark.envs.battle.skirmish` lists.
"""

from __future__ import annotations

import numpy as np

from benchmark.envs.actor import BEHAVIOURS, Actor, load_arrays
from benchmark.envs.battle.fighter import Fighter, Random, pick, softmax
from benchmark.task import Array

NAMES = ("random", "hold", "rush", "expert")
FOLDER = BEHAVIOURS / "battle-skirmish"
STAY, LEFT, RIGHT, DOWN, UP, ATTACK = range(6)


class Hold(Fighter):
    """Attacks when an enemy is in reach, and else stays."""

    def choose(self, obs: Array | None, noise: Array) -> Array:
        assert obs is not None
        return np.where(in_reach(obs), ATTACK, STAY)


class Rush(Fighter):
    """Attacks when an enemy is in reach, and else moves to the nearest, the longer axis first."""

    def choose(self, obs: Array | None, noise: Array) -> Array:
        assert obs is not None
        dx, dy = obs[..., 6], obs[..., 7]
        along_x = np.where(dx > 0, RIGHT, np.where(dx < 0, LEFT, STAY))
        move = np.where(np.abs(dy) > np.abs(dx), np.where(dy > 0, UP, DOWN), along_x)
        return np.where(in_reach(obs), ATTACK, move)


class Network(Fighter):
    """Samples the softmax of a committed network."""

    def __init__(self, weights: dict[str, Array]) -> None:
        """weights: as those of a discrete `benchmark.envs.actor.Actor`."""
        self.actor = Actor(weights)

    def probabilities(self, obs: Array) -> Array:
        """obs [..., 18] -> [..., 6]."""
        return softmax(self.actor.outputs(obs))

    def choose(self, obs: Array | None, noise: Array) -> Array:
        assert obs is not None
        return pick(self.probabilities(obs), noise)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        if deterministic:
            return self.actor.outputs(obs).argmax(-1)
        return super().act(obs, alive, mask, t, deterministic)


def in_reach(obs: Array) -> Array:
    """Whether an enemy is in the own cell or a neighbour's: [..., 18] -> [...] bool."""
    return obs[..., 13:18] @ np.ones(5, np.float32) > 0


def fighter(name: str) -> Fighter:
    """A policy by its name in a task's id."""
    if name == "expert":
        return Network(load_arrays(FOLDER / "expert.safetensors"))
    return {"random": Random(6), "hold": Hold(), "rush": Rush()}[name]
