"""The PettingZoo view of an array environment: one episode, dictionaries keyed by agent.

This module imports PettingZoo, so tasks import it inside `Task.parallel_env` only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from pettingzoo import ParallelEnv

from benchmark import rendering
from benchmark.errors import UserError
from benchmark.task import Array, Group, Step, Task


class ArrayParallelEnv(ParallelEnv):
    """Any task's array environment with E = 1, equal to it under the same seed and actions."""

    def __init__(self, task: Task, render_mode: str | None = None) -> None:
        self.task, self.spec, self.render_mode = task, task.spec, render_mode
        modes = ["rgb_array"] if rendering.kind(task) else []
        if render_mode is not None and render_mode not in modes:
            raise UserError(
                f"{task.spec.id}: render_mode is {render_mode!r}, expected None"
                + "".join(f" or {mode!r}" for mode in modes)
            )
        self.metadata = {"name": task.spec.id, "render_modes": modes, "render_fps": 4}
        self.possible_agents = task.spec.agents()
        self.agents: list[str] = []
        groups = [group for group in task.spec.groups for _ in range(group.n_agents)]
        self._group = dict(zip(self.possible_agents, groups, strict=True))
        self._index = {agent: i for i, agent in enumerate(self.possible_agents)}
        self._spaces: dict[tuple[str, str], Space] = {}  # filled on demand: N can be 10^6
        self._env = task.arrays(1)
        self._fresh_seeds = np.random.default_rng()
        self._obs: Array = np.zeros((0,))  # [N, D]
        self._scene = rendering.scene(task, self._env) if render_mode else None
        self._t = 0

    def observation_space(self, agent: str) -> Space:
        return self._space("obs", agent, self._obs_space)

    def action_space(self, agent: str) -> Space:
        return self._space("act", agent, self._act_space)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """seed None: the next of a sequence of seeds that the last given seed determines."""
        if seed is None:
            seed = int(self._fresh_seeds.integers(2**31))
        else:
            self._fresh_seeds = np.random.default_rng(seed)
        self._obs, self._t = self._env.reset([seed])[0], 0
        if self._scene:
            self._scene.see(self._obs, None, None)
        self.agents = list(self.possible_agents)
        return self._observations(self.agents), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[
        dict[str, Any],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        if not self.agents:
            raise UserError(f"{self.spec.id}: step without a running episode; call reset first.")
        act = self._stack(actions)
        step = self._env.step(act[None])
        acted = self.agents
        self._obs, self._t = step.obs[0], self._t + 1
        if self._scene:
            self._scene.see(self._obs, act, step)
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        alive = self._alive(step, acted)
        over = terminated or truncated
        self.agents = [] if over else [agent for agent in acted if alive[agent]]
        rewards = {agent: float(step.rew[0, self._index[agent]]) for agent in acted}
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in acted}
        if step.mask is not None:
            for agent in acted:
                infos[agent]["action_mask"] = step.mask[0, self._index[agent]].astype(np.int8)
        if step.active is not None:  # whether the action of this step counted
            for agent in acted:
                infos[agent]["active"] = bool(step.active[0, self._index[agent]])
        return (
            self._observations(acted),
            rewards,
            {agent: terminated or not alive[agent] for agent in acted},
            dict.fromkeys(acted, truncated),
            infos,
        )

    def state(self) -> Array:
        """All agents' observations, one after the other: [N * D]."""
        return self._obs.reshape(-1).copy()

    def render(self) -> Array | None:
        """The present state as `benchmark.rendering` draws it: [H, W, 3] uint8."""
        if self._scene is None:
            return None
        if not self._obs.size:
            raise UserError(f"{self.spec.id}: render without an episode; call reset first.")
        return rendering.frame(
            self._scene, self.spec.id, f"step {self._t} of {self.spec.horizon:,}"
        )

    def close(self) -> None:
        """Nothing to release."""

    def _space(self, kind: str, agent: str, make: Any) -> Space:
        """The same object on every call, as seeding a space asks for."""
        if agent not in self._group:
            raise UserError(
                f"{self.spec.id}: no agent is called {agent!r}, expected agent_0 to"
                f" {self.possible_agents[-1]}."
            )
        if (kind, agent) not in self._spaces:
            self._spaces[kind, agent] = make(self._group[agent])
        return self._spaces[kind, agent]

    def _obs_space(self, group: Group) -> Space:
        if self.spec.finite:
            assert self.spec.n_obs is not None
            return Discrete(self.spec.n_obs)
        return Box(-np.inf, np.inf, (group.obs_dim,), np.float32)

    def _act_space(self, group: Group) -> Space:
        if self.spec.n_actions is not None:
            return Discrete(self.spec.n_actions)
        return Box(-1.0, 1.0, (group.act_dim,), np.float32)

    def _observations(self, agents: list[str]) -> dict[str, Any]:
        if self.spec.finite:
            return {agent: int(self._obs[self._index[agent], 0]) for agent in agents}
        return {
            agent: self._obs[self._index[agent], : self._group[agent].obs_dim].astype(np.float32)
            for agent in agents
        }

    def _alive(self, step: Step, agents: list[str]) -> dict[str, bool]:
        if step.alive is None:
            return dict.fromkeys(agents, True)
        return {agent: bool(step.alive[0, self._index[agent]]) for agent in agents}

    def _stack(self, actions: dict[str, Any]) -> Array:
        """Dictionary -> [N] int64 or [N, A] float32; the dead and the padding are zero."""
        if missing := [agent for agent in self.agents if agent not in actions]:
            raise UserError(f"{self.spec.id}: no action for {missing[0]}, expected one per agent.")
        n_agents = len(self.possible_agents)
        if self.spec.discrete:
            stacked = np.zeros(n_agents, np.int64)
            for agent in self.agents:
                action = np.asarray(actions[agent])
                if action.dtype.kind not in "iu" or action.size != 1:
                    raise UserError(
                        f"{self.spec.id}: {agent} plays {actions[agent]!r}, expected an integer"
                        f" from 0 to {(self.spec.n_actions or 0) - 1}."
                    )
                stacked[self._index[agent]] = action.item()
            return stacked
        padded = np.zeros((n_agents, self.spec.act_dim), np.float32)
        for agent in self.agents:
            width = self._group[agent].act_dim
            action = np.asarray(actions[agent], np.float32)
            if action.shape != (width,) or not np.isfinite(action).all():
                raise UserError(
                    f"{self.spec.id}: {agent} plays {actions[agent]!r}, expected {width} finite"
                    " numbers in [-1, 1]."
                )
            padded[self._index[agent], :width] = action
        return padded
