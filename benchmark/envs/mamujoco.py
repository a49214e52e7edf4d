"""Multi-agent MuJoCo: one body, whose joints are shared out among the agents.

The games are those of gymnasium-robotics' mamujoco_v1 (agents see their own joints, those one
joint away and the root), on Gymnasium's v5 bodies: 1,000 steps at most, the same reward for every
agent; Hopper, Walker2d and Ant end when they fall. `BodyArrays` steps E simulators of one shared
model and forms observations and rewards for all of them at once; the tests hold it equal to
gymnasium-robotics to the last bit of float32. MuJoCo is the extra `mamujoco`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.envs.actor import BEHAVIOURS as ALL_BEHAVIOURS
from benchmark.envs.actor import Actor, load_actor
from benchmark.errors import UserError
from benchmark.task import Array, Family, Group, Step, Task, TaskSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

HORIZON = 1_000
ARENA = 1 << 20  # bytes of MuJoCo's scratch memory for each simulator; 33 kB were the most used
INSTALL = "pip install 'offline-marl-bench[mamujoco]'"


@dataclass(frozen=True)
class Body:
    """A Gymnasium v5 body and its joints; the actuated joints are the last in qpos and qvel."""

    scenario: str  # Gymnasium's name
    xml: str
    frame_skip: int  # simulator steps in a step of the game
    joints: tuple[str, ...]  # in the order of qpos
    edges: tuple[tuple[str, ...], ...]  # joints that are neighbours of each other
    root_qpos: tuple[int, ...]  # what every agent sees of the root
    root_qvel: tuple[int, ...]
    control_cost: float
    noise: float  # of the first state
    normal_velocity: bool = False  # first velocities are normal instead of uniform
    alive_bonus: float = 0.0
    obs_velocity: float = np.inf  # observed velocities are clipped to this
    qvel: dict[str, tuple[int, ...]] = field(default_factory=dict)  # velocities seen of a joint
    contacts: dict[str, tuple[int, ...]] = field(default_factory=dict)  # bodies whose forces it has
    first_actuator: int = 0  # joint of actuator 0; actuators go on in the order of joints

    def healthy(self, qpos: Array, qvel: Array) -> Array:
        """qpos [E, nq], qvel [E, nv] -> [E] bool: the body has not fallen."""
        z, angle = qpos[:, 1], qpos[:, 2]
        state = np.concatenate([qpos, qvel], 1)
        if self.scenario == "Hopper":
            inside = (np.abs(state[:, 2:]) < 100).all(1)
            return inside & (z > 0.7) & (np.abs(angle) < 0.2)
        if self.scenario == "Walker2d":
            return (z > 0.8) & (z < 2.0) & (np.abs(angle) < 1.0)
        if self.scenario == "Ant":
            return np.isfinite(state).all(1) & (qpos[:, 2] >= 0.2) & (qpos[:, 2] <= 1.0)
        return np.ones(len(qpos), bool)


def _chain(*joints: str) -> tuple[tuple[str, ...], ...]:
    return tuple(itertools.pairwise(joints))


LEGS = tuple(itertools.product("1234", ("hip", "ankle")))

BODIES = {
    "halfcheetah": Body(
        scenario="HalfCheetah",
        xml="half_cheetah.xml",
        frame_skip=5,
        joints=("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
        edges=_chain("bfoot", "bshin", "bthigh", "fthigh", "fshin", "ffoot"),
        root_qpos=(1, 2),
        root_qvel=(0, 1, 2),
        control_cost=0.1,
        noise=0.1,
        normal_velocity=True,
    ),
    "hopper": Body(
        scenario="Hopper",
        xml="hopper.xml",
        frame_skip=4,
        joints=("thigh", "leg", "foot"),
        edges=_chain("foot", "leg", "thigh"),
        root_qpos=(1, 2),
        root_qvel=(0, 1, 2),
        control_cost=1e-3,
        noise=5e-3,
        alive_bonus=1.0,
        obs_velocity=10.0,
    ),
    "walker2d": Body(
        scenario="Walker2d",
        xml="walker2d_v5.xml",
        frame_skip=4,
        joints=("thigh", "leg", "foot", "thigh_left", "leg_left", "foot_left"),
        edges=_chain("foot", "leg", "thigh", "thigh_left", "leg_left", "foot_left"),
        root_qpos=(1, 2),
        root_qvel=(0, 1, 2),
        control_cost=1e-3,
        noise=5e-3,
        alive_bonus=1.0,
    ),
    "swimmer": Body(
        scenario="Swimmer",
        xml="swimmer.xml",
        frame_skip=4,
        joints=("rot2", "rot3"),
        edges=_chain("rot2", "rot3"),
        root_qpos=(2,),
        root_qvel=(2,),
        control_cost=1e-4,
        noise=0.1,
        qvel={"rot2": (0, 3), "rot3": (1, 4)},
    ),
    "ant": Body(
        scenario="Ant",
        xml="ant.xml",
        frame_skip=5,
        joints=tuple(f"{part}{leg}" for leg, part in LEGS),
        edges=(("hip1", "hip2", "hip3", "hip4"), *((f"hip{k}", f"ankle{k}") for k in "1234")),
        root_qpos=(2, 3, 4, 5, 6),
        root_qvel=(0, 1, 2, 3, 4, 5),
        control_cost=0.5,
        noise=0.1,
        normal_velocity=True,
        alive_bonus=1.0,
        contacts={
            f"{part}{leg}": (1, 3 * k + 2) if part == "hip" else (3 * k + 2, 3 * k + 3, 3 * k + 4)
            for k, leg in enumerate("1234")
            for part in ("hip", "ankle")
        },
        first_actuator=6,  # hip4
    ),
}
CONTACT_COST = 5e-4
TORSO = 1  # the body whose position Ant's speed is measured on

PARTITIONS = {
    "halfcheetah-2x3": ("bthigh bshin bfoot", "fthigh fshin ffoot"),
    "halfcheetah-6x1": ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
    "hopper-3x1": ("thigh", "leg", "foot"),
    "ant-2x4": ("hip1 ankle1 hip2 ankle2", "hip3 ankle3 hip4 ankle4"),
    "ant-4x2": ("hip1 ankle1", "hip2 ankle2", "hip3 ankle3", "hip4 ankle4"),
    "walker2d-2x3": ("foot leg thigh", "foot_left leg_left thigh_left"),
    "swimmer-2x1": ("rot2", "rot3"),
}


def columns(body: Body, own: tuple[str, ...], nq: int, nv: int) -> list[int]:
    """What an agent sees, as columns of the state [qpos | qvel | contact forces].

    Its own joints in alphabetical order (position, velocity, forces on bodies not yet listed), then
    positions of the neighbouring joints, then the root.
    """
    count = len(body.joints)
    place = {joint: k - count for k, joint in enumerate(body.joints)}  # counted from the end
    near = {joint for edge in body.edges if set(edge) & set(own) for joint in edge} - set(own)
    seen: list[int] = []
    for joint in sorted(own):
        seen.append(nq + place[joint])
        seen += [nq + k for k in body.qvel.get(joint, (nv + place[joint],))]
        for part in body.contacts.get(joint, ()):
            force = range(nq + nv + 6 * part, nq + nv + 6 * part + 6)
            if force[0] not in seen:
                seen += force
    seen += [nq + place[joint] for joint in sorted(near)]
    return [*seen, *body.root_qpos, *(nq + k for k in body.root_qvel)]


def _mujoco() -> Any:
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

    mujoco = _mujoco()
    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    spec = mujoco.MjSpec.from_file(str(assets / xml))
    spec.memory = ARENA
    return spec.compile()


class BodyArrays:
    """E simulators in lockstep. A finished episode stands still and earns nothing more."""

    def __init__(self, spec: TaskSpec, body: Body, agents: Sequence[tuple[str, ...]]) -> None:
        self.spec, self.body, self.mujoco = spec, body, _mujoco()
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

    _mujoco()
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


FAMILY = Family(
    pattern=rf"mamujoco/(?P<name>{'|'.join(PARTITIONS)})-v1",
    examples=tuple(f"mamujoco/{name}-v1" for name in PARTITIONS),
    build=_build,
)
