"""OMAR's variant of cooperative navigation, `mpe-omar/spread-v1`, for scores that can stand beside
the published tables on OMAR's data (arXiv:2111.11188): those of MADiff, for instance.

That fork of the first MPE differs from mpe2, and so from `mpe/spread-v1`, in two things. Positions
move with the new velocity. The reward of an agent is the sum over landmarks of
min(1 / distance of the nearest agent, 10), minus 5 for each agent that it touches: scores are
positive. The observation (18 numbers), the force in [-1, 1]^2 and the 25 steps are the same; the
score is the mean over agents. Uniform play must earn the published 159.8, which a test holds.

The fork cannot be installed, so this module is the task: its PettingZoo environment is a view of
its arrays. The fork's tag and world need a prey network that is not to be had: see `tag.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.envs.actor import BEHAVIOURS as ALL_BEHAVIOURS
from benchmark.envs.actor import Actor, load_actor
from benchmark.envs.mpe.spread import HORIZON, OBS_DIM, Controller, N, SpreadArrays
from benchmark.task import Array, Family, Group, Task, TaskSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

BEHAVIOURS = ALL_BEHAVIOURS / "mpe-omar-spread"
CLOSEST = 10.0  # highest reward of one landmark
COLLISION = 5.0


class OmarSpreadArrays(SpreadArrays):
    """E episodes in lockstep, with that fork's integrator and reward."""

    velocity_first = True

    def _reward(self) -> Array:
        """[E, N]"""
        near = np.minimum(1 / np.maximum(self._nearest(), 1e-9), CLOSEST)  # [landmark, E]
        return (near.sum(0) - COLLISION * self._collisions()).T.copy()


class OmarSpread(Task):
    spec = TaskSpec(
        id="mpe-omar/spread-v1",
        groups=(Group("agents", N, OBS_DIM, 2),),
        horizon=HORIZON,
        team_return="mean",
    )

    def arrays(self, n_envs: int) -> OmarSpreadArrays:
        return OmarSpreadArrays(n_envs)

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        from benchmark.envs.parallel import ArrayParallelEnv

        return ArrayParallelEnv(self, render_mode)

    def expert(self) -> Actor:
        """The committed policy that is nearest to the published expert (`train_mpe.py`)."""
        return load_actor(BEHAVIOURS / "expert.safetensors")

    def reference_lines(self) -> dict[str, Any]:
        return {"assignment controller": Controller()}


def _build(match: re.Match[str]) -> Task:
    return OmarSpread()


FAMILY = Family(pattern=r"mpe-omar/spread-v1", examples=("mpe-omar/spread-v1",), build=_build)
