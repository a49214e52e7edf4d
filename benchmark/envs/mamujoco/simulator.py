"""E simulators of one body in lockstep."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.envs.mamujoco.bodies import CONTACT_COST, TORSO, Body, columns
from benchmark.errors import UserError
from benchmark.task import Array, Step, TaskSpec

HORIZON = 1_000
ARENA = 1 << 20  # bytes of MuJoCo's scratch memory for each simulator; 33 kB were the most used
INSTALL = "pip install 'offline-marl-bench[mamujoco]'"


def load_mujoco() -> Any:
    try:
        import mujoco
    except ImportError as error:
        raise UserError(
            f"MAMuJoCo tasks need MuJoCo, which is missing; run `{INSTALL}`."
        ) from error
    return mujoco


@functools.cache
def _model(xml: str) -> Any:
    """Gymnasium's body, compiled once for all simulators."""
    import gymnasium

    mujoco = load_mujoco()
    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    spec = mujoco.MjSpec.from_file(str(assets / xml))
    spec.memory = ARENA
    return spec.compile()


class BodyArrays:
    """E simulators in lockstep. A finished episode stands still and earns nothing more."""

    def __init__(self, spec: TaskSpec, body: Body, agents: Sequence[tuple[str, ...]]) -> None:
        self.spec, self.body, self.mujoco = spec, body, load_mujoco()
        self.model = _model(body.xml)
        self.nq, self.nv = self.model.nq, self.model.nv
        self.dt = self.model.opt.timestep * body.frame_skip
        width = self.nq + self.nv + (6 * self.model.nbody if body.contacts else 0)
        self.columns = np.full((spec.n_agents, spec.obs_dim), width)  # the last column is zero
        for i, own in enumerate(agents):
            seen = columns(body, own, self.nq, self.nv)
            self.columns[i, : len(seen)] = seen
        places = {joint: (i, k) for i, own in enumerate(agents) for k, joint in enumerate(own)}
        order = body.joints[body.first_actuator :] + body.joints[: body.first_actuator]
        self.actuators = tuple(np.array([places[joint] for joint in order]).T)  # agent, entry: [U]
        self.width = width
        self.data: list[Any] = []

    def reset(self, seeds: Sequence[int]) -> Array:
        """One episode per seed, from the state that Gymnasium draws: obs [E, N, D] float32."""
        n_envs = len(seeds)
        if len(self.data) != n_envs:
            self.data = [self.mujoco.MjData(self.model) for _ in seeds]
            self.controls = [data.ctrl for data in self.data]
            self.views = [view for data in self.data for view in (data.qpos, data.qvel)]
            self.forces = [data.cfrc_ext.reshape(-1) for data in self.data]
            self.torsos = [data.xpos[TORSO] for data in self.data]
        self.t = np.zeros(n_envs, np.int64)  # [E]
        self.terminated = np.zeros(n_envs, bool)  # [E]
        self.state = np.zeros((n_envs, self.width + 1))  # [E, qpos | qvel | forces | 0]
        self.x = np.zeros(n_envs)  # [E], what speed is measured on
        return self.restart(np.arange(n_envs), seeds)

    def restart(self, which: Array, seeds: Sequence[int]) -> Array:
        """Start the episodes `which` [k] afresh, and leave the others: obs [k, N, D]."""
        body, model = self.body, self.model
        for e, seed in zip(which, seeds, strict=True):
            rng = np.random.Generator(np.random.PCG64(int(seed)))
            data = self.data[e]
            self.mujoco.mj_resetData(model, data)
            data.qpos += rng.uniform(-body.noise, body.noise, self.nq)
            if body.normal_velocity:
                data.qvel += body.noise * rng.standard_normal(self.nv)
            else:
                data.qvel += rng.uniform(-body.noise, body.noise, self.nv)
            self.mujoco.mj_forward(model, data)
        self.t[which] = 0
        self.terminated[which] = False
        self.x = self._read()
        return self._observe()[which]

    def step(self, act: Array) -> Step:
        """act [E, N, A], clipped to [-1, 1]: torques of each agent's own joints."""
        running = ~self.terminated & (self.t < HORIZON)  # [E]
        if not running.any():
            raise UserError(f"{self.spec.id}: step without a running episode; call reset first.")
        act = np.clip(np.asarray(act, np.float32), -1, 1).astype(np.float64)
        control = act[(slice(None), *self.actuators)]  # [E, U]
        step, model, skip = self.mujoco.mj_step, self.model, self.body.frame_skip
        for e in running.nonzero()[0]:
            self.controls[e][:] = control[e]
            step(model, self.data[e], skip)
        if self.body.contacts:
            for e in running.nonzero()[0]:
                self.mujoco.mj_rnePostConstraint(model, self.data[e])
        before, self.x = self.x, self._read()
        healthy = self._healthy()
        rew = (self.x - before) / self.dt + self.body.alive_bonus * healthy
        cost = self.body.control_cost * np.square(control).sum(1)
        if self.body.contacts:
            cost = cost + CONTACT_COST * np.square(self._forces()).sum(1)
        rew = np.where(running, rew - cost, 0.0)  # [E]
        self.t += running
        self.terminated = np.where(running, ~healthy, self.terminated)
        return Step(
            obs=self._observe(),
            rew=np.repeat(rew[:, None], self.spec.n_agents, 1),
            terminated=self.terminated.copy(),
            truncated=self.t >= HORIZON,
        )

    def _read(self) -> Array:
        """Copy the simulators' states; returns the positions [E] that speed is measured on."""
        n_envs, moving = len(self.data), self.nq + self.nv
        self.state[:, :moving] = np.concatenate(self.views).reshape(n_envs, moving)
        if not self.body.contacts:
            return self.state[:, 0].copy()
        forces = np.concatenate(self.forces).reshape(n_envs, -1)
        self.state[:, moving:-1] = np.clip(forces, -1, 1)
        return np.concatenate(self.torsos).reshape(n_envs, 3)[:, 0]

    def _forces(self) -> Array:
        return self.state[:, self.nq + self.nv : -1]

    def _healthy(self) -> Array:
        qpos, qvel = self.state[:, : self.nq], self.state[:, self.nq : self.nq + self.nv]
        return self.body.healthy(qpos, qvel)

    def _observe(self) -> Array:
        state, limit = self.state, self.body.obs_velocity
        if np.isfinite(limit):
            state = state.copy()
            velocity = slice(self.nq, self.nq + self.nv)
            state[:, velocity] = np.clip(state[:, velocity], -limit, limit)
        return state.astype(np.float32)[:, self.columns]  # [E, N, D]
