"""mpe2's own environments behind the suite's action space, as PettingZoo ParallelEnvs.

mpe2 takes pushes from a box [0, 1]^5 (the first is ignored; the others push left, right, down, up),
and of an agent that speaks also a message from [0, 1]^4. The suite's action is a force in [-1, 1]^2
and a message in [-1, 1]^4, without loss. Agents beyond those of the task's spec are played by a
fixed function of their observations.

This module imports PettingZoo, so tasks import it inside `Task.parallel_env` only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from pettingzoo import ParallelEnv
from pettingzoo.utils.wrappers import BaseParallelWrapper

from benchmark.task import Array, TaskSpec


class ForceEnv(BaseParallelWrapper):
    """The first agents of an mpe2 environment are the task's; `prey` plays the others. `state()` is
    mpe2's own and holds what the others see as well.
    """

    def __init__(
        self, env: ParallelEnv, spec: TaskSpec, prey: Callable[[Array], Array] | None = None
    ) -> None:
        """prey: observation [D] -> force [2]."""
        super().__init__(env)
        names = list(env.possible_agents)
        self.possible_agents, self._others = names[: spec.n_agents], names[spec.n_agents :]
        self._prey = prey
        self._seen: dict[str, Array] = {}  # by the others: their last observations
        widths = [group.act_dim for group in spec.groups for _ in range(group.n_agents)]
        self._space = {
            name: Box(-1, 1, (width,), np.float32)
            for name, width in zip(self.possible_agents, widths, strict=True)
        }

    @property
    def agents(self) -> list[str]:
        return [name for name in self.env.agents if name not in self._others]

    def action_space(self, agent: str) -> Box:
        return self._space[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._seen, info = super().reset(seed=seed, options=options)
        return self._ours(self._seen), self._ours(info)

    def step(self, actions: dict[str, Array]) -> Any:
        plays = {name: pushes(action) for name, action in actions.items()}
        if self._prey is not None:
            plays |= {name: pushes(self._prey(self._seen[name])) for name in self._others}
        self._seen, *rest = super().step(plays)
        return tuple(self._ours(part) for part in (self._seen, *rest))

    def _ours(self, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in self._others}


def pushes(action: Array) -> Array:
    """Force, and message if any, [2 or 6] -> mpe2's action [5 or 9]; clips, as the array
    environment does.
    """
    (x, y), message = np.split(np.clip(np.asarray(action, np.float32), -1, 1), [2])
    push = [0, max(-x, 0), max(x, 0), max(-y, 0), max(y, 0)]
    return np.array([*push, *(message + 1) / 2], np.float32)
