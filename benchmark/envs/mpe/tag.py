"""Predator and prey, `mpe/tag-flee-v1`: three predators catch one faster prey among two obstacles.

The game is mpe2's simple_tag_v3 (continuous actions, 25 steps). The task controls the predators.
The prey is the fixed function `flee` of its observation, which the id names: a learnt prey would
have to be kept and trusted, a random one makes the game trivial. The suite's action is the force in
[-1, 1]^2, as in `mpe/spread-v1`. `TagArrays` repeats mpe2's arithmetic for E episodes at once; the
tests hold it equal to mpe2 to the last bit.

Published scores of "tag" and "world" on OMAR's data (arXiv:2111.11188) cannot be set beside these,
nor made again: that fork has another integrator, accelerations (9 against 16) and shaped rewards,
and its prey is a network frozen in a file `pretrained_adv_model.pt`, which is not to be had. Its
data can be imported (`datasets/importers`), and refuse evaluation here. Its spread needs no prey:
see `benchmark/envs/mpe/omar.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.envs.actor import BEHAVIOURS as ALL_BEHAVIOURS
from benchmark.envs.actor import Actor, load_actor
from benchmark.envs.mpe.physics import Body, Particles, clipped, draw
from benchmark.envs.mpe.prey import flee
from benchmark.errors import unknown_name
from benchmark.task import Array, Family, Group, Step, Task, TaskSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

N = 3  # predators
OBSTACLES = 2
HORIZON = 25
OBS_DIM = 16  # velocity 2, position 2, obstacles 2 x 2, other agents 3 x 2, prey's velocity 2
PREY_OBS_DIM = 14  # the same without the last
BEHAVIOURS = ALL_BEHAVIOURS / "mpe-tag-flee"
PREDATOR, PREY = Body(0.075, 3.0, max_speed=1.0), Body(0.05, 4.0, max_speed=1.3)
CATCH = 10.0  # reward of all predators for each one that touches the prey, each step


def prey(obs: Array) -> Array:
    """Force of the prey [..., 2] from its observation [..., 14]."""
    hunters = obs[..., 8:14].reshape(*obs.shape[:-1], N, 2)
    return flee(obs[..., 2:4], hunters)


class TagArrays:
    """E episodes in lockstep. Inside, E is the last axis, as in `Particles`."""

    START = ((1.0, N + 1), (0.9, OBSTACLES))  # what `draw` draws and `place` takes

    def __init__(self, n_envs: int) -> None:
        self.n_envs = n_envs
        self.world = Particles([PREDATOR] * N + [PREY], [0.2] * OBSTACLES)

    def reset(self, seeds: Sequence[int]) -> Array:
        """One episode per seed, from the positions that mpe2 draws: obs [E, N, 16] float32."""
        return self.place(*draw(seeds, *self.START))

    def place(self, agents: Array, obstacles: Array) -> Array:
        """Start from given positions [E, N + 1, 2] and [E, 2, 2], at rest: obs [E, N, 16]."""
        self.t, self.n_envs = 0, len(agents)
        self.world.start(agents, obstacles)
        return self._observe()

    def step(self, act: Array) -> Step:
        """act [E, N, 2]: force along x and y, clipped to [-1, 1]."""
        force = np.concatenate([clipped(act), clipped(prey(self.prey_obs)[:, None])], 1)
        self.world.step(force)
        self.t += 1
        caught = sum(self.world.hit[self.world.pair(i, N)].astype(float) for i in range(N))
        rew = np.repeat((CATCH * caught)[:, None], N, axis=1)  # [E, N]
        truncated = np.full(self.n_envs, self.t >= HORIZON)
        return Step(self._observe(), rew, np.zeros(self.n_envs, bool), truncated)

    def _observe(self) -> Array:
        """The predators' observations [E, N, 16]; keeps the prey's, [E, 14]."""
        world = self.world
        obs = np.zeros((N + 1, OBS_DIM, self.n_envs), np.float32)  # [agent, D, E]
        for i in range(N + 1):
            here = world.position[:, i]  # [xy, E]
            obs[i, 0:2] = world.velocity[:, i]
            obs[i, 2:4] = here
            for k in range(OBSTACLES):
                np.subtract(world.standing[:, k], here, out=obs[i, 4 + 2 * k : 6 + 2 * k])
            for k, j in enumerate(j for j in range(N + 1) if j != i):
                np.subtract(world.position[:, j], here, out=obs[i, 8 + 2 * k : 10 + 2 * k])
            obs[i, 14:16] = world.velocity[:, N]
        self.prey_obs = obs[N, :PREY_OBS_DIM].T
        return np.ascontiguousarray(obs[:N].transpose(2, 0, 1))


class Chase:
    """Scripted: every predator steers at the prey by a PD law, and none thinks of the others."""

    STIFFNESS, DAMPING = 20.0, 3.0  # u = 20 gap - 3 (own velocity - prey's velocity)

    def begin(self, n_envs: int, seed: int) -> None:
        """It has no state and no noise."""

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        return self.steer(obs[..., 12:14], obs[..., 0:2] - obs[..., 14:16])

    def steer(self, gap: Array, velocity: Array) -> Array:
        """Force [..., 2] towards a prey at `gap`, relative to which one moves with `velocity`."""
        return np.clip(self.STIFFNESS * gap - self.DAMPING * velocity, -1, 1)


class Tag(Task):
    spec = TaskSpec(
        id="mpe/tag-flee-v1",
        groups=(Group("predators", N, OBS_DIM, 2),),
        horizon=HORIZON,
        team_return="mean",
        packages=("mpe2",),
    )

    def arrays(self, n_envs: int) -> TagArrays:
        return TagArrays(n_envs)

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """mpe2's own environment, the prey played inside; agents adversary_0 to adversary_2."""
        from mpe2 import simple_tag_v3

        from benchmark.envs.mpe.forces import ForceEnv

        env = simple_tag_v3.parallel_env(
            num_good=1,
            num_adversaries=N,
            num_obstacles=OBSTACLES,
            max_cycles=HORIZON,
            continuous_actions=True,
            render_mode=render_mode,
        )
        return ForceEnv(env, self.spec, prey)

    def expert(self) -> Actor:
        """The committed MAPPO policy; see `datasets/recipes/train_mpe.py`."""
        return load_actor(BEHAVIOURS / "expert.safetensors")

    def reference_lines(self) -> dict[str, Any]:
        return {"chase": Chase()}


def _build(match: re.Match[str]) -> Task:
    if match["prey"] != "-flee":
        raise unknown_name(
            "task", match[0], FAMILY.examples, hint="The prey's behaviour is part of the id."
        )
    return Tag()


FAMILY = Family(
    pattern=r"mpe/tag(?P<prey>-[a-z]+)?-v1", examples=("mpe/tag-flee-v1",), build=_build
)
