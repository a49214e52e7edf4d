"""Predators who talk, `mpe/world-flee-v1`: three predators hunt one prey that forests can hide.

The game is mpe2's simple_world_comm_v3 with one prey and three predators (one obstacle, two foods,
two forests, continuous actions, 25 steps). Who stands in a forest is seen only from inside it, and
by the first predator, the leader, who also sends four numbers that all predators receive a step
later. So the leader's action is wider than the others': a force in [-1, 1]^2 and a message in
[-1, 1]^4, which the game maps to [0, 1]^4. The prey is the fixed function `prey` of its
observation: it flees from the predators that it sees and goes for the nearer food.

Equal to mpe2 to the last bit; scores on OMAR's data cannot be compared: see `tag.py`. That fork's
"world" is another game besides, without messages and with leaders only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.envs.actor import BEHAVIOURS as ALL_BEHAVIOURS
from benchmark.envs.actor import Actor, load_actor
from benchmark.envs.mpe.physics import DT, Body, Particles, clipped, draw
from benchmark.envs.mpe.prey import flee
from benchmark.envs.mpe.tag import PREDATOR, Chase
from benchmark.errors import unknown_name
from benchmark.task import Array, Family, Group, Step, Task, TaskSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

N = 3  # predators; the first is the leader
FOODS, FORESTS = 2, 2
PLACES = 1 + FOODS + FORESTS  # the obstacle first
HORIZON = 25
# velocity 2, position 2, places 5 x 2, others 3 x 2, prey's velocity 2, in forest 2, message 4
OBS_DIM = 28
PREY_OBS_DIM = 22  # velocity, position, places, predators, in forest
MESSAGE = 4
BEHAVIOURS = ALL_BEHAVIOURS / "mpe-world-flee"
PREY = Body(0.045, 4.0, max_speed=1.3)
FOREST_RADIUS = 0.3
CATCH, CLOSER = 5.0, 0.1  # rewards: of all for each contact, of each against its distance
APPETITE = 2.0  # of the prey: its pull to the nearer food, per unit of distance


def prey(obs: Array) -> Array:
    """Force of the prey [..., 2] from its observation [..., 22]."""
    hunters = obs[..., 14:20].reshape(*obs.shape[:-1], N, 2)
    one, other = obs[..., 6:8], obs[..., 8:10]
    nearer = (one**2).sum(-1, keepdims=True) <= (other**2).sum(-1, keepdims=True)
    return flee(obs[..., 2:4], hunters, goal=APPETITE * np.where(nearer, one, other))


class WorldArrays:
    """E episodes in lockstep. Inside, E is the last axis, as in `Particles`."""

    # What `draw` draws and `place` takes; mpe2 draws the foods and forests once more after all
    START = ((1.0, N + 1), (0.9, PLACES), (0.9, FOODS), (0.9, FORESTS))

    def __init__(self, n_envs: int) -> None:
        self.n_envs = n_envs
        self.world = Particles([PREDATOR] * N + [PREY], [0.2])
        radii = np.array([PREDATOR.radius] * N + [PREY.radius])
        self.inside = (radii + FOREST_RADIUS)[:, None, None]  # [agent, 1, 1]

    def reset(self, seeds: Sequence[int]) -> Array:
        """One episode per seed, from the positions that mpe2 draws: obs [E, N, 28] float32."""
        return self.place(*draw(seeds, *self.START))

    def place(self, agents: Array, places: Array, foods: Array, forests: Array) -> Array:
        """Start from given positions [E, ..., 2], the agents at rest: obs [E, N, 28] float32."""
        self.t, self.n_envs = 0, len(agents)
        places = np.concatenate([places[:, :1], foods, forests], 1)  # [E, place, xy]
        self.places = np.ascontiguousarray(places.transpose(2, 1, 0))  # [xy, place, E]
        self.message: Array = np.zeros((MESSAGE, self.n_envs), np.float32)  # mpe2's, in [0, 1]
        self.world.start(agents, places[:, :1])
        return self._observe()

    def step(self, act: Array) -> Step:
        """act [E, N, 6]: force along x and y, then the leader's message, clipped to [-1, 1]."""
        action = clipped(act)  # [A, N, E]
        self.message = (action[2:, 0].astype(np.float32) + 1) / 2  # [4, E]
        self.world.step(np.concatenate([action[:2], clipped(prey(self.prey_obs)[:, None])], 1))
        self.t += 1
        truncated = np.full(self.n_envs, self.t >= HORIZON)
        return Step(self._observe(), self._reward(), np.zeros(self.n_envs, bool), truncated)

    def _reward(self) -> Array:
        """[E, N]"""
        world = self.world
        rows = [world.pair(i, N) for i in range(N)]
        rew: Array = -CLOSER * world.distance[rows]  # [N, E]
        for row in rows:
            rew += CATCH * world.hit[row]
        return np.ascontiguousarray(rew.T)

    def _observe(self) -> Array:
        """The predators' observations [E, N, 28]; keeps the prey's, [E, 22]."""
        world = self.world
        obs = np.zeros((N + 1, OBS_DIM, self.n_envs), np.float32)  # [agent, D, E]
        gap = world.position[:, :, None] - self.places[:, None, 1 + FOODS :]
        within = np.sqrt(gap[0] ** 2 + gap[1] ** 2) < self.inside  # [agent, forest, E]
        outside = ~within.any(1)  # [agent, E]
        for i in range(N + 1):
            here = world.position[:, i]  # [xy, E]
            obs[i, 0:2] = world.velocity[:, i]
            obs[i, 2:4] = here
            for k in range(PLACES):
                np.subtract(self.places[:, k], here, out=obs[i, 4 + 2 * k : 6 + 2 * k])
            for k, j in enumerate(j for j in range(N + 1) if j != i):
                seen = (within[i] & within[j]).any(0) | (outside[i] & outside[j]) | (i == 0)  # [E]
                obs[i, 14 + 2 * k : 16 + 2 * k] = np.where(seen, world.position[:, j] - here, 0)
                if j == N:
                    obs[i, 20:22] = np.where(seen, world.velocity[:, N], 0)
        forest = np.where(within, np.float32(1), np.float32(-1))  # [agent, forest, E]
        obs[:N, 22:24], obs[N, 20:22] = forest[:N], forest[N]
        obs[:N, 24:] = self.message
        self.prey_obs = obs[N, :PREY_OBS_DIM].T
        return np.ascontiguousarray(obs[:N].transpose(2, 0, 1))


class RadioChase(Chase):
    """Scripted: the leader tells where the prey is and how it moves; all steer at it by a PD law.

    A predator who sees the prey goes by its eyes, one who does not by the message, which is a step
    old.
    """

    SCALE = 4.0  # positions and velocities are sent as x / 4

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        own, here, heard = obs[..., 0:2], obs[..., 2:4], obs[..., 24:28]
        said = self.SCALE * (2 * heard - 1)  # the prey's position and velocity a step ago
        seen = obs[..., 18:20].any(-1, keepdims=True)
        gap = np.where(seen, obs[..., 18:20], said[..., 0:2] + DT * said[..., 2:4] - here)
        velocity = np.where(seen, obs[..., 20:22], said[..., 2:4])
        known = seen | heard.any(-1, keepdims=True)
        act = np.zeros((*obs.shape[:-1], 2 + MESSAGE), np.float32)  # [E, N, A]
        act[..., 0:2] = np.where(known, self.steer(gap, own - velocity), 0)
        leader = obs[:, 0]
        act[:, 0, 2:4] = (leader[:, 2:4] + leader[:, 18:20]) / self.SCALE
        act[:, 0, 4:6] = leader[:, 20:22] / self.SCALE
        return np.clip(act, -1, 1)


class World(Task):
    spec = TaskSpec(
        id="mpe/world-flee-v1",
        groups=(
            Group("leader", 1, OBS_DIM, 2 + MESSAGE),
            Group("predators", N - 1, OBS_DIM, 2),
        ),
        horizon=HORIZON,
        team_return="mean",
        packages=("mpe2",),
    )

    def arrays(self, n_envs: int) -> WorldArrays:
        return WorldArrays(n_envs)

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """mpe2's own environment, the prey played inside; agents leadadversary_0, adversary_0 and
        adversary_1.
        """
        from mpe2 import simple_world_comm_v3

        from benchmark.envs.mpe.forces import ForceEnv

        env = simple_world_comm_v3.parallel_env(
            num_good=1,
            num_adversaries=N,
            num_obstacles=1,
            num_food=FOODS,
            num_forests=FORESTS,
            max_cycles=HORIZON,
            continuous_actions=True,
            render_mode=render_mode,
        )
        return ForceEnv(env, self.spec, prey)

    def expert(self) -> Actor:
        """The committed MAPPO policy; see `datasets/recipes/train_mpe.py`."""
        return load_actor(BEHAVIOURS / "expert.safetensors")

    def reference_lines(self) -> dict[str, Any]:
        return {"chase with messages": RadioChase()}


def _build(match: re.Match[str]) -> Task:
    if match["prey"] != "-flee":
        raise unknown_name(
            "task", match[0], FAMILY.examples, hint="The prey's behaviour is part of the id."
        )
    return World()


FAMILY = Family(
    pattern=r"mpe/world(?P<prey>-[a-z]+)?-v1", examples=("mpe/world-flee-v1",), build=_build
)
