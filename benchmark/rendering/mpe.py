"""MPE: a square of the plane with everything that moves or stands in it, and the agents' trails."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from benchmark.envs.mpe.world import FOODS, FOREST_RADIUS
from benchmark.rendering.canvas import (
    AGENTS,
    BODY,
    GREEN,
    GREY,
    HEIGHT,
    INK,
    MARGIN,
    ORANGE,
    PALE,
    TOP,
    WHITE,
    Canvas,
    Colour,
    View,
    tint,
)
from benchmark.task import Array, Step, Task

SIDE = HEIGHT - TOP - MARGIN  # pixels of the square
BOX = (MARGIN, TOP, MARGIN + SIDE, TOP + SIDE)  # left, top, right, bottom
ASIDE = BOX[2] + 14  # left edge of the words
TAIL = 8  # steps of the past that are drawn
ROOM = 1.2  # half the width of the square, unless someone leaves it


class Drawing:
    stride: int | None = None

    def __init__(self, task: Task, env: Any) -> None:
        self.env, self.n_agents = env, task.spec.n_agents
        self.past: list[Array] = []  # positions [bodies, xy] of every step

    def see(self, obs: Array, act: Array | None, step: Step | None) -> None:
        if act is None:
            self.past.clear()
        self.past.append(self.env.world.position[:, :, 0].T.copy())

    def note(self) -> str:
        return ""

    def draw(self, canvas: Canvas) -> None:
        reach = max(ROOM, float(np.abs(self.past[-TAIL:]).max()) + 0.1)
        view = View(BOX, (-reach, -reach), (reach, reach))
        canvas.bar(BOX, PALE)
        canvas.bar((BOX[0] + 1, BOX[1] + 1, BOX[2] - 1, BOX[3] - 1), WHITE)
        entries: list[tuple[Colour, str]] = []
        entries += [(AGENTS[i], f"agent {i}") for i in range(self.n_agents)]
        if len(self.past[-1]) > self.n_agents:
            entries.append((INK, "prey"))
        radii = self._radii()
        entries += self._places(canvas, view, radii)
        self._bodies(canvas, view, radii)
        if hasattr(self.env, "landmark"):
            entries.append((INK, "landmarks"))
            for x, y in (view(*place) for place in self.env.landmark[:, :, 0].T):
                canvas.line([(x - 5, y), (x + 5, y)], INK, 2)
                canvas.line([(x, y - 5), (x, y + 5)], INK, 2)
        canvas.key((ASIDE, TOP + 10), entries)
        if hasattr(self.env, "message"):
            self._message(canvas)

    def _places(self, canvas: Canvas, view: View, radii: Array) -> list[tuple[Colour, str]]:
        """What stands there: forests, foods, obstacles; returns their part of the legend."""
        entries: list[tuple[Colour, str]] = []
        if hasattr(self.env, "places"):
            places = self.env.places[:, 1:, 0].T  # [foods, then forests; xy]
            for x, y in places[FOODS:]:
                canvas.disc(view(x, y), view.length(FOREST_RADIUS), tint(GREEN, 0.3))
            for x, y in places[:FOODS]:
                canvas.disc(view(x, y), 4, ORANGE)
            entries += [(tint(GREEN, 0.4), "forest"), (ORANGE, "food")]
        standing = self.env.world.standing[:, :, 0].T  # [M, xy]
        for (x, y), radius in zip(standing, radii[len(self.past[-1]) :], strict=True):
            canvas.disc(view(x, y), view.length(radius), GREY)
        if len(standing):
            entries.append((GREY, "obstacle"))
        return entries

    def _bodies(self, canvas: Canvas, view: View, radii: Array) -> None:
        tail = self.past[-TAIL:]
        colours = [AGENTS[i] if i < self.n_agents else INK for i in range(len(self.past[-1]))]
        for i, colour in enumerate(colours):
            for k, (old, new) in enumerate(itertools.pairwise(tail)):
                fade = tint(colour, 0.15 + 0.6 * (k + 1) / len(tail))
                canvas.line([view(*old[i]), view(*new[i])], fade, 3, round_ends=True)
        for place, colour, radius in zip(self.past[-1], colours, radii, strict=False):
            canvas.disc(view(*place), view.length(radius), tint(colour, BODY), colour, 1.5)

    def _message(self, canvas: Canvas) -> None:
        """The leader's four numbers in [0, 1], as columns."""
        low = BOX[3] - 16
        canvas.text((ASIDE, BOX[3] - 5), "agent 0 says", 10, GREY)
        for k, value in enumerate(self.env.message[:, 0]):
            left = ASIDE + 14 * k
            canvas.bar((left, low - 40, left + 10, low), PALE)
            canvas.bar((left, low - 40 * float(value), left + 10, low), AGENTS[0])

    def _radii(self) -> Array:
        """Of bodies, then obstacles, from the distances at which pairs of them touch."""
        world = self.env.world
        members = np.zeros((len(world.pairs), world.bodies + world.standing.shape[1]))
        for row, pair in enumerate(world.pairs):
            members[row, list(pair)] = 1
        return np.linalg.lstsq(members, world.reach[:, 0])[0]
