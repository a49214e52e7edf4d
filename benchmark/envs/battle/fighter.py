"""What opponents and experts of battles have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from benchmark.task import Array


class Fighter(ABC):
    """A policy of one agent, the same for all of a team.

    As an opponent it is fed noise from the episode's own stream; as a policy (it keeps the protocol
    `benchmark.evaluate.Policy`) it draws its own.
    """

    looks: ClassVar[bool] = True  # False: acts without an observation

    @abstractmethod
    def choose(self, obs: Array | None, noise: Array) -> Array:
        """obs [..., D], uniform noise [...] in [0, 1) -> actions [...]."""

    def begin(self, n_envs: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        return self.choose(obs, self.rng.random(obs.shape[:-1], np.float32))


class Random(Fighter):
    """Uniform over the actions."""

    looks = False

    def __init__(self, n_actions: int) -> None:
        self.n_actions = n_actions

    def choose(self, obs: Array | None, noise: Array) -> Array:
        return (noise * self.n_actions).astype(np.intp)


def uniform(streams: Sequence[np.random.Generator], n: int) -> Array:
    """One row of noise from each episode's own stream: [E, n] float32 in [0, 1)."""
    noise = np.empty((len(streams), n), np.float32)
    for row, stream in zip(noise, streams, strict=True):
        stream.random(dtype=np.float32, out=row)
    return noise


def softmax(logits: Array) -> Array:
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def pick(probabilities: Array, noise: Array) -> Array:
    """Sample by inversion: probabilities [..., A], noise [...] -> actions [...]."""
    edges = np.cumsum(probabilities, -1)[..., :-1]
    return (noise[..., None] >= edges).sum(-1)
