"""The planar physics of mpe2 for E episodes at once: circles are pushed, collide and are damped.

E is the last axis everywhere, so that every operation is one long loop. The arithmetic is that of
mpe2's World, operation by operation and in its order: results are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.task import Array

DT, DAMPING = 0.1, 0.25
CONTACT_FORCE, CONTACT_MARGIN = 1e2, 1e-3


@dataclass(frozen=True)
class Body:
    """A circle of mass 1 that moves."""

    radius: float
    acceleration: float = 5.0  # under a force of 1
    max_speed: float = np.inf


class Particles:
    """Bodies, and obstacles (circles that stand), of E episodes: `start`, then `step` by step."""

    def __init__(
        self,
        bodies: Sequence[Body],
        obstacles: Sequence[float] = (),
        velocity_first: bool = False,
    ) -> None:
        """obstacles: their radii. velocity_first: positions move with the new velocity, as in the
        first MPE; mpe2 moves them with the old one (PettingZoo, issue 962).
        """
        n = len(bodies)
        radii = [body.radius for body in bodies] + list(obstacles)
        self.pairs = [(a, b) for a in range(n) for b in range(a + 1, len(radii))]
        self.bodies, self.velocity_first = len(bodies), velocity_first
        self.reach = np.array([radii[a] + radii[b] for a, b in self.pairs])[:, None]  # [pair, 1]
        self.acceleration = np.array([body.acceleration for body in bodies])[:, None]  # [N, 1]
        self.max_speed = np.array([body.max_speed for body in bodies])[:, None]  # [N, 1]

    def start(self, position: Array, obstacles: Array | None = None) -> None:
        """Bodies at rest at `position` [E, N, xy], obstacles at [E, M, xy]."""
        self.position = np.ascontiguousarray(position.transpose(2, 1, 0))  # [xy, N, E]
        self.velocity = np.zeros_like(self.position)  # [xy, N, E]
        standing = np.zeros((len(position), 0, 2)) if obstacles is None else obstacles
        self.standing = np.ascontiguousarray(standing.transpose(2, 1, 0))  # [xy, M, E]
        self._measure()

    def step(self, force: Array) -> None:
        """Push each body along x and y, force [xy, N, E] in [-1, 1], for one time step."""
        force = force * self.acceleration
        depth = np.logaddexp(0, -(self.distance - self.reach) / CONTACT_MARGIN)
        depth *= CONTACT_MARGIN  # [pair, E]
        push = CONTACT_FORCE * self.delta / self.distance * depth  # [xy, pair, E]
        for p, (a, b) in enumerate(self.pairs):
            force[:, a] += push[:, p]
            if b < self.bodies:
                force[:, b] -= push[:, p]
        if not self.velocity_first:
            self.position += self.velocity * DT
        self.velocity *= 1 - DAMPING
        self.velocity += force * DT
        self._limit()
        if self.velocity_first:
            self.position += self.velocity * DT
        self._measure()

    def pair(self, a: int, b: int) -> int:
        """Row of two bodies, or of a body and obstacle number b - N, in `distance` and `hit`."""
        return self.pairs.index((a, b))

    def _limit(self) -> None:
        if np.isinf(self.max_speed).all():
            return
        speed = np.sqrt(self.velocity[0] ** 2 + self.velocity[1] ** 2)  # [N, E]
        body, episode = np.nonzero(speed > self.max_speed)
        fast = self.velocity[:, body, episode] / speed[body, episode]
        self.velocity[:, body, episode] = fast * self.max_speed[body, 0]

    def _measure(self) -> None:
        """Separations, distances and contacts of all pairs."""
        entities = np.concatenate([self.position, self.standing], 1)  # [xy, N + M, E]
        first, second = (list(x) for x in zip(*self.pairs, strict=True))
        self.delta = entities[:, first] - entities[:, second]  # [xy, pair, E]
        self.distance = np.sqrt(self.delta[0] ** 2 + self.delta[1] ** 2)  # [pair, E]
        self.hit = self.distance < self.reach  # [pair, E] bool


def draw(seeds: Sequence[int], *blocks: tuple[float, int]) -> list[Array]:
    """The points that mpe2 draws in a reset, for each block (half width, count): [E, count, xy]."""
    drawn: list[list[Array]] = [[] for _ in blocks]
    for seed in seeds:
        rng = np.random.Generator(np.random.PCG64(int(seed)))
        for part, (half, count) in zip(drawn, blocks, strict=True):
            part.append(rng.uniform(-half, half, (count, 2)))
    return [np.stack(part) for part in drawn]


def clipped(act: Array) -> Array:
    """Actions [E, N, A] -> float64 [A, N, E], clipped to [-1, 1] in the precision of mpe2's box."""
    return np.clip(np.asarray(act, np.float32), -1, 1).transpose(2, 1, 0).astype(np.float64)
