"""MuJoCo bodies from the simulator's state alone: every geom a line or a disc, seen from the side.

Colours tell which agent moves a part; parts that no joint of an agent moves are grey. The camera
goes with the body, lines on the ground are one metre apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.rendering.canvas import (
    AGENTS,
    BODY,
    GREY,
    HEIGHT,
    MARGIN,
    TOP,
    WIDTH,
    Canvas,
    Colour,
    Point,
    View,
    tint,
)
from benchmark.task import Array, Step, Task

BOX = (MARGIN, TOP + 22, WIDTH - MARGIN, HEIGHT - MARGIN)  # left, top, right, bottom
FRAME_SECONDS = 0.05  # of the simulation, between two frames
PLANE, SPHERE, CAPSULE = 0, 2, 3  # mujoco.mjtGeom
# Of a body: camera's elevation in degrees, metres across, height of the picture's centre, and how
# far the ground reaches to either side of the middle, in metres
CAMERAS = {
    "halfcheetah": (12, 3.6, 0.6, 1.2),
    "hopper": (12, 3.6, 0.85, 1.2),
    "walker2d": (12, 3.6, 0.85, 1.2),
    "swimmer": (90, 6.0, 0.0, np.inf),
    "ant": (35, 4.5, 0.4, 2.5),
}


class Drawing:
    def __init__(self, task: Task, env: Any) -> None:
        self.env, self.n_agents = env, task.spec.n_agents
        name = task.spec.id.split("/")[1].split("-")[0]
        degrees, self.across, self.height, self.ground = CAMERAS[name]
        self.elevation = np.radians(degrees)
        self.stride: int | None = max(1, round(FRAME_SECONDS / env.dt))
        self.owner = self._owners()

    def see(self, obs: Array, act: Array | None, step: Step | None) -> None:
        """The simulator holds its present state itself."""

    def note(self) -> str:
        return ""

    def draw(self, canvas: Canvas) -> None:
        data, model = self.env.data[0], self.env.model
        entries = [(AGENTS[i % len(AGENTS)], f"agent {i}") for i in range(self.n_agents)]
        canvas.key((MARGIN + 2, TOP + 6), entries, across=True)
        centre = data.xpos[1]  # of the torso
        half = self.across / 2
        tall = half * (BOX[3] - BOX[1]) / (BOX[2] - BOX[0])
        aside = centre[1] if np.isinf(self.ground) else 0.0
        x, y = self._project(np.array([centre[0], aside, self.height]))
        view = View(BOX, (x - half, y - tall), (x + half, y + tall))
        self._ground(canvas, view)
        depth = data.geom_xpos @ self._towards()
        for geom in np.argsort(depth):  # the farthest first
            if model.geom_type[geom] != PLANE:
                self._geom(canvas, view, int(geom))

    def _geom(self, canvas: Canvas, view: View, geom: int) -> None:
        data, model = self.env.data[0], self.env.model
        radius, half = model.geom_size[geom, :2]
        centre, axis = data.geom_xpos[geom], data.geom_xmat[geom].reshape(3, 3)[:, 2]
        reach = half if model.geom_type[geom] == CAPSULE else 0.0
        ends = [view(*self._project(centre + side * reach * axis)) for side in (-1, 1)]
        owner = self.owner[model.geom_bodyid[geom]]
        colour: Colour = AGENTS[owner] if owner >= 0 else GREY
        width = 2 * view.length(radius)
        canvas.line(ends, colour, width, round_ends=True)
        canvas.line(ends, tint(colour, BODY), width - 2.5, round_ends=True)

    def _ground(self, canvas: Canvas, view: View) -> None:
        (left, low), (right, high) = view.low, view.high
        edge = self.ground * float(np.sin(self.elevation))
        near, far = max(low, -edge), min(high, edge)
        canvas.bar((*view(left, far), *view(right, near)), tint(GREY, 0.08))
        for k in range(int(np.ceil(left)), int(np.floor(right)) + 1):
            canvas.line([view(k, near), view(k, far)], tint(GREY, 0.25), 1)
        if np.isinf(self.ground):
            for k in range(int(np.ceil(low)), int(np.floor(high)) + 1):
                canvas.line([view(left, k), view(right, k)], tint(GREY, 0.25), 1)

    def _project(self, point: Array) -> Point:
        """Parallel projection [3] -> right and up in the picture, metres."""
        sine, cosine = np.sin(self.elevation), np.cos(self.elevation)
        return float(point[0]), float(point[1] * sine + point[2] * cosine)

    def _towards(self) -> Array:
        """Direction to the eye, which stands at negative y, above the ground: [3]."""
        return np.array([0.0, -np.cos(self.elevation), np.sin(self.elevation)])

    def _owners(self) -> Array:
        """The agent whose joint moves each body, -1 where none does: [bodies]."""
        model, owner = self.env.model, np.full(self.env.model.nbody, -1)
        joints = model.actuator_trnid[:, 0]
        owner[model.jnt_bodyid[joints]] = self.env.actuators[0]
        return owner
