"""Multi-agent MuJoCo: one body, whose joints are shared out among the agents.

The games are those of gymnasium-robotics' mamujoco_v1 (agents see their own joints, those one
joint away and the root), on Gymnasium's v5 bodies: 1,000 steps at most, the same reward for every
agent; Hopper, Walker2d and Ant end when they fall. `BodyArrays` steps E simulators of one shared
model and forms observations and rewards for all of them at once; the tests hold it equal to
gymnasium-robotics to the last bit of float32. MuJoCo is the extra `mamujoco`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.envs.actor import BEHAVIOURS as ALL_BEHAVIOURS
from benchmark.envs.actor import Actor, load_actor
from benchmark.envs.mamujoco.bodies import BODIES, PARTITIONS, Body, columns
from benchmark.envs.mamujoco.simulator import HORIZON, INSTALL, BodyArrays, load_mujoco
from benchmark.errors import UserError
from benchmark.task import Array, Family, Group, Task, TaskSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv


class MaMujoco(Task):
    """A body of BODIES shared out as one of PARTITIONS."""

    def __init__(self, name: str) -> None:
        self.body = BODIES[name.split("-")[0]]
        self.name, self.partition = name, name.split("-")[1]
        self.agents_joints = [tuple(joints.split()) for joints in PARTITIONS[name]]
        self.spec = TaskSpec(
            id=f"mamujoco/{name}-v1",
            groups=_groups(self.body, self.agents_joints),
            horizon=HORIZON,
            team_return="mean",
            packages=("gymnasium", "gymnasium-robotics", "mujoco"),
        )

    def arrays(self, n_envs: int) -> BodyArrays:
        return BodyArrays(self.spec, self.body, self.agents_joints)

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """gymnasium-robotics' own environment, with clipped actions and float32 observations."""
        return _parallel_env(self.body.scenario, self.partition, render_mode)

    def expert(self) -> Actor:
        """The committed MAPPO policy; see `datasets/recipes/train_mamujoco.py`."""
        return load_actor(ALL_BEHAVIOURS / f"mamujoco-{self.name}" / "expert.safetensors")


def _groups(body: Body, agents: Sequence[tuple[str, ...]]) -> tuple[Group, ...]:
    """Runs of consecutive agents of equal widths."""
    widths = [(len(columns(body, own, 99, 99)), len(own)) for own in agents]
    runs = [(width, len(list(run))) for width, run in itertools.groupby(widths)]
    names = ["agents"] if len(runs) == 1 else [f"agents_{k}" for k in range(len(runs))]
    return tuple(Group(name, n, *width) for name, (width, n) in zip(names, runs, strict=True))


def _parallel_env(scenario: str, partition: str, render_mode: str | None) -> ParallelEnv:
    from gymnasium.spaces import Box
    from pettingzoo.utils.wrappers import BaseParallelWrapper

    load_mujoco()
    try:
        # The package prints a notice about other environments when it is imported.
        with contextlib.redirect_stderr(io.StringIO()):
            from gymnasium_robotics import mamujoco_v1
    except ImportError as error:
        raise UserError(
            f"MAMuJoCo's PettingZoo environments need gymnasium-robotics, which is missing; run"
            f" `{INSTALL}`."
        ) from error

    class Clipped(BaseParallelWrapper):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            widths = {name: env.observation_space(name).shape for name in env.possible_agents}
            self._space = {name: Box(-np.inf, np.inf, w, np.float32) for name, w in widths.items()}

        def observation_space(self, agent: str) -> Box:
            return self._space[agent]

        def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            obs, info = super().reset(seed=seed, options=options)
            return {name: x.astype(np.float32) for name, x in obs.items()}, info

        def step(self, actions: dict[str, Array]) -> Any:
            clipped = {name: np.clip(a, -1, 1, dtype=np.float32) for name, a in actions.items()}
            obs, *rest = super().step(clipped)
            return {name: x.astype(np.float32) for name, x in obs.items()}, *rest

    env = mamujoco_v1.parallel_env(scenario, partition, agent_obsk=1, render_mode=render_mode)
    return Clipped(env)


def _build(match: re.Match[str]) -> Task:
    return MaMujoco(match["name"])


RANKED = (  # an expert and a reference are committed
    "halfcheetah-2x3",
    "halfcheetah-6x1",
    "hopper-3x1",
    "walker2d-2x3",
    "ant-2x4",
    "ant-4x2",
    "swimmer-2x1",
)

FAMILY = Family(
    pattern=rf"mamujoco/(?P<name>{'|'.join(PARTITIONS)})-v1",
    examples=tuple(f"mamujoco/{name}-v1" for name in RANKED),
    build=_build,
)
