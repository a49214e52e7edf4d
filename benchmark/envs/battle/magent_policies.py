"""Scripted policies of magent2's battle: the opponents that a task's name can name, and its expert.

They act on the features that `benchmark.envs.battle.magent` lists, so that an agent of the suite
could do the same.
"""

from __future__ import annotations

import numpy as np

from benchmark.envs.battle.fighter import Fighter, Random
from benchmark.task import Array

NAMES = ("random", "rush", "focus")
STAY = 6
N_ACTIONS = 21
NOISE = 0.1  # share of an opponent's actions that are random, as the game itself has no chance


def _disc(radius: float) -> Array:
    """Offsets (dx, dy) within a radius, row by row, which is the order of magent2's actions."""
    reach = range(-int(radius), int(radius) + 1)
    return np.array([(x, y) for y in reach for x in reach if x * x + y * y <= radius * radius])


MOVES = _disc(2)  # [13, 2], of the actions 0 .. 12
OTHERS = np.delete(np.arange(13), STAY)  # the moves but STAY
ATTACKS = np.delete(_disc(1.5), 4, axis=0)  # [8, 2], of the actions 13 .. 20


class Rush(Fighter):
    """Attacks a neighbour, else moves towards the nearest enemy in view, else to their mean."""

    weakest = False  # True: attacks the neighbour with the fewest hit points, else the first

    def __init__(self, noise: float = NOISE) -> None:
        """noise: share of actions that are uniformly random."""
        self.noise = noise

    def choose(self, obs: Array | None, noise: Array) -> Array:
        assert obs is not None
        wild = noise < self.noise
        action = (noise * (N_ACTIONS / max(self.noise, 1e-9))).astype(np.intp, copy=False)
        return np.where(wild, action, self.decide(obs))

    def decide(self, obs: Array) -> Array:
        """The action without noise: obs [..., 32] -> [...]."""
        near, far = obs[..., 6:8], obs[..., 10:12]
        goal = np.where(near.any(-1, keepdims=True), near * 6, far * 1_000)  # [..., 2]
        gap = ((goal[..., None, :] - MOVES) ** 2).sum(-1)  # [..., 13]
        gap[..., OTHERS] += np.where(obs[..., 12:24] == 0, np.inf, 0)
        move = gap.argmin(-1)
        there = obs[..., 24:32]
        worth = (2 - there) * (there > 0) if self.weakest else there > 0
        return np.where(there.any(-1), len(MOVES) + worth.argmax(-1), move)


class Focus(Rush):
    """Rush that attacks the neighbour with the fewest hit points."""

    weakest = True


def fighter(name: str, noise: float = NOISE) -> Fighter:
    """A policy by its name in a task's id."""
    if name == "random":
        return Random(N_ACTIONS)
    return {"rush": Rush, "focus": Focus}[name](noise)
