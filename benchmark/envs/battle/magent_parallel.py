"""The PettingZoo side of magent2's battle: the same game played through its dictionaries.

This module imports PettingZoo, so the task imports it inside `Task.parallel_env` only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark.envs.battle.fighter import Fighter
from benchmark.envs.battle.magent import OBS_DIM, Battle, MagentArrays
from benchmark.envs.parallel import ArrayParallelEnv
from benchmark.task import Array, Task

COLOURS = ("red", "blue")


class DictBattle(Battle):
    """One battle through magent2's own ParallelEnv: its agents, observations and rewards."""

    def reset(self, seed: int) -> None:
        self.view, _ = self.outer.reset(seed=seed)
        # magent2 0.3.4 counts its armies before it places them, and would let blue repeat red's
        # actions in the first step.
        self.outer.team_sizes = [self.n_agents, self.n_agents]
        self.t = 0
        self._enlist()

    def step(self, act: Sequence[Array]) -> Array:
        actions = {
            f"{COLOURS[k]}_{i}": int(act[k][i]) for k in (0, 1) for i in self.members[k].tolist()
        }
        self.view, rewards, _, _, _ = self.outer.step(actions)
        self.t += 1
        rew = np.zeros(self.n_agents)
        rew[self.members[0]] = [rewards[f"red_{i}"] for i in self.members[0].tolist()]
        self._enlist()
        return rew

    def _enlist(self) -> None:
        """The living, who are the agents that take part in the next step, or won this one."""
        ids = [self.engine.get_agent_id(handle) for handle in self.handles]
        self.members = [own - k * self.n_agents for k, own in enumerate(ids)]

    def observe(self, k: int) -> Array:
        obs = np.zeros((self.n_agents, OBS_DIM), np.float32)
        if len(self.members[k]):
            names = [f"{COLOURS[k]}_{i}" for i in self.members[k].tolist()]
            view = np.stack([self.view[name] for name in names])
            obs[self.members[k]] = self.features(k, view)
        return obs


class MagentParallelEnv(ArrayParallelEnv):
    def __init__(
        self, task: Task, map_size: int, opponent: Fighter, render_mode: str | None = None
    ) -> None:
        super().__init__(task, render_mode)
        self._env = MagentArrays(task.spec, map_size, opponent, DictBattle)
