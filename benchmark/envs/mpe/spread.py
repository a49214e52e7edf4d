"""Cooperative navigation, `mpe/spread-v1`: three agents cover three landmarks without colliding.

The game is mpe2's simple_spread_v3 (N = 3, local_ratio = 0.5, continuous actions, 25 steps). mpe2's
action is a box [0, 1]^5 whose first entry is ignored and whose others push left, right, down and
up; only the differences act, so the suite's action is the two-dimensional force u in [-1, 1]^2 that
they span, without loss. `SpreadArrays` repeats mpe2's arithmetic operation by operation for E
episodes at once; the tests hold it equal to mpe2 to the last bit. `Spread(n)` is the same for n
agents and landmarks, for studies: these have no name in the registry and no references.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.envs.actor import BEHAVIOURS as ALL_BEHAVIOURS
from benchmark.envs.actor import Actor, load_actor
from benchmark.envs.mpe.physics import Body, Particles, clipped, draw
from benchmark.task import Array, Family, Group, Step, Task, TaskSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

N = 3  # agents of the task, and landmarks
HORIZON = 25
OBS_DIM = 6 * N  # velocity 2, position 2, landmarks 2 N, others 2 (N - 1), their messages (silent)
BEHAVIOURS = ALL_BEHAVIOURS / "mpe-spread"
RADIUS = 0.15  # of an agent
LOCAL_RATIO = 0.5


class SpreadArrays:
    """E episodes in lockstep. Inside, E is the last axis, as in `Particles`."""

    velocity_first = False

    def __init__(self, n_envs: int, n_agents: int = N) -> None:
        self.n_envs, self.n_agents = n_envs, n_agents
        self.START = ((1.0, n_agents), (1.0, n_agents))  # what `draw` draws and `place` takes
        self.world = Particles([Body(RADIUS)] * n_agents, velocity_first=self.velocity_first)

    def reset(self, seeds: Sequence[int]) -> Array:
        """One episode per seed, from the positions that mpe2 draws: obs [E, N, 6 N] float32."""
        return self.place(*draw(seeds, *self.START))

    def place(self, agents: Array, landmarks: Array) -> Array:
        """Start from given positions [E, N, 2], the agents at rest: obs [E, N, 6 N] float32."""
        self.t, self.n_envs = 0, len(agents)
        self.landmark = np.ascontiguousarray(landmarks.transpose(2, 1, 0))  # [xy, N, E]
        self.world.start(agents)
        return self._observe()

    def step(self, act: Array) -> Step:
        """act [E, N, 2]: force along x and y, clipped to [-1, 1]."""
        self.world.step(clipped(act))
        self.t += 1
        truncated = np.full(self.n_envs, self.t >= HORIZON)
        return Step(self._observe(), self._reward(), np.zeros(self.n_envs, bool), truncated)

    def _observe(self) -> Array:
        n = self.n_agents
        obs = np.zeros((n, 6 * n, self.n_envs), np.float32)  # [N, D, E]
        position = self.world.position
        for i in range(n):
            here = position[:, i]  # [xy, E]
            obs[i, 0:2] = self.world.velocity[:, i]
            obs[i, 2:4] = here
            for k in range(n):
                np.subtract(self.landmark[:, k], here, out=obs[i, 4 + 2 * k : 6 + 2 * k])
            for k, j in enumerate((j for j in range(n) if j != i), start=n):
                np.subtract(position[:, j], here, out=obs[i, 4 + 2 * k : 6 + 2 * k])
        return np.ascontiguousarray(obs.transpose(2, 0, 1))  # [E, N, D]

    def _reward(self) -> Array:
        """Half the coverage (minus each landmark's distance to its nearest agent), half the
        collisions (minus one for each agent that this one touches): [E, N].
        """
        shared = np.zeros(self.n_envs)
        for nearest in self._nearest():
            shared -= nearest
        return (shared * (1 - LOCAL_RATIO) - self._collisions() * LOCAL_RATIO).T.copy()

    def _nearest(self) -> Array:
        """Distance of each landmark to its nearest agent: [landmark, E]."""
        gap = self.world.position[:, :, None] - self.landmark[:, None]  # [xy, agent, landmark, E]
        nearest: Array = np.sqrt(gap[0] ** 2 + gap[1] ** 2).min(0)
        return nearest

    def _collisions(self) -> Array:
        """How many others each agent touches: [N, E]."""
        count = np.zeros((self.n_agents, self.n_envs))
        for hit, (i, j) in zip(self.world.hit, self.world.pairs, strict=True):
            count[i] += hit
            count[j] += hit
        return count


class Controller:
    """Scripted: the assignment of agents to landmarks of least total distance, then a PD law each.

    Every agent could compute it from its own observation. It ignores collisions, and so is a strong
    reference line and no upper bound.
    """

    STIFFNESS, DAMPING = 20.0, 3.5  # u = 20 gap - 3.5 velocity

    def __init__(self, n_agents: int = N) -> None:
        self.permutations = np.array(list(itertools.permutations(range(n_agents))))

    def begin(self, n_envs: int, seed: int) -> None:
        """It has no state and no noise."""

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        n = obs.shape[1]
        gap = obs[..., 4 : 4 + 2 * n].reshape(*obs.shape[:2], n, 2)  # [E, agent, landmark, xy]
        distance = np.linalg.norm(gap, axis=-1)  # [E, agent, landmark]
        total = distance[:, np.arange(n), self.permutations].sum(-1)  # [E, permutation]
        choice = self.permutations[total.argmin(-1)]  # [E, agent]
        target = np.take_along_axis(gap, choice[:, :, None, None], axis=2)[:, :, 0]  # [E, N, xy]
        return np.clip(self.STIFFNESS * target - self.DAMPING * obs[..., 0:2], -1, 1)


class Spread(Task):
    def __init__(self, n_agents: int = N) -> None:
        self.n_agents = n_agents
        self.spec = TaskSpec(
            id="mpe/spread-v1" if n_agents == N else f"mpe/spread-n{n_agents}-v1",
            groups=(Group("agents", n_agents, 6 * n_agents, 2),),
            horizon=HORIZON,
            team_return="mean",
            packages=("mpe2",),
        )

    def arrays(self, n_envs: int) -> SpreadArrays:
        return SpreadArrays(n_envs, self.n_agents)

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """mpe2's own environment behind the suite's action space Box[-1, 1]^2."""
        from mpe2 import simple_spread_v3

        from benchmark.envs.mpe.forces import ForceEnv

        env = simple_spread_v3.parallel_env(
            N=self.n_agents,
            local_ratio=LOCAL_RATIO,
            max_cycles=HORIZON,
            continuous_actions=True,
            render_mode=render_mode,
        )
        return ForceEnv(env, self.spec)

    def expert(self) -> Actor:
        """The committed MAPPO policy; see `datasets/recipes/train_mpe.py`."""
        if self.n_agents != N:
            return super().expert()
        return load_actor(BEHAVIOURS / "expert.safetensors")

    def reference_lines(self) -> dict[str, Any]:
        return {"assignment controller": Controller(self.n_agents)}


def _build(match: re.Match[str]) -> Task:
    return Spread()


FAMILY = Family(pattern=r"mpe/spread-v1", examples=("mpe/spread-v1",), build=_build)
