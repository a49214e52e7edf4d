"""Bodies, their joints, and how the joints are shared out: facts of Gymnasium's v5 bodies and of
gymnasium-robotics' mamujoco_v1 (agents see their own joints, those one joint away, and the root).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from benchmark.task import Array


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
