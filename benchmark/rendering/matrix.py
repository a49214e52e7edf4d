"""Coordination probes: every joint action played so far, on the payoff that it met.

Two agents are the axes of a map of the payoff; of more agents each episode is a row of actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.rendering.canvas import (
    BLUE,
    GREY,
    HEIGHT,
    INK,
    MARGIN,
    ORANGE,
    TOP,
    VERMILLION,
    WHITE,
    WIDTH,
    Canvas,
    Colour,
    View,
    tint,
)
from benchmark.task import Array, Step, Task

SIDE = HEIGHT - TOP - 50  # pixels of the map
MAP = (40, TOP + 18, 40 + SIDE, TOP + 18 + SIDE)  # left, top, right, bottom
CELLS = 40  # of the map of a continuous payoff, along one axis
ROWS = 10  # last episodes shown where agents are more than two


class Drawing:
    stride: int | None = None

    def __init__(self, task: Task, env: Any) -> None:
        self.task = task
        self.played: list[Array] = []  # [N] of each episode
        self.paid: list[float] = []

    def see(self, obs: Array, act: Array | None, step: Step | None) -> None:
        if act is not None and step is not None:
            self.played.append(act.reshape(-1).astype(float))
            self.paid.append(float(self.task.spec.team(step.rew[0])))

    def note(self) -> str:
        return f"mean return {np.mean(self.paid):.2f}" if self.paid else ""

    def draw(self, canvas: Canvas) -> None:
        if self.task.spec.n_agents > 2:
            self._rows(canvas)
            return
        points = [(x, y) for x, y in self.played]
        if self.task.spec.n_actions is None:
            view = View(MAP, (-1, -1), (1, 1))
            self._surface(canvas, view)
        else:
            view = View(MAP, (-0.5, -0.5), (1.5, 1.5))
            self._table(canvas, view)
            points = [(x + dx, y + dy) for (x, y), (dx, dy) in zip(points, spread(), strict=False)]
        for k, (x, y) in enumerate(points):
            last = k == len(points) - 1
            canvas.disc(view(x, y), 5 if last else 3.5, INK if last else GREY, WHITE, 1)
        self._axes(canvas, view)
        entries: list[tuple[Colour, str]] = [(GREY, "joint actions"), (INK, "the last")]
        canvas.key((MAP[2] + 22, MAP[1] + 8), entries)

    def _surface(self, canvas: Canvas, view: View) -> None:
        ticks = (np.arange(CELLS) + 0.5) / CELLS * 2 - 1
        first, second = np.meshgrid(ticks, ticks[::-1])  # [row, column]
        joint = np.stack([first.ravel(), second.ravel()], 1)[..., None]  # [C, 2, 1]
        paid = self._pay(joint).reshape(CELLS, CELLS)
        canvas.pixels(MAP, np.array([[shade(p) for p in row] for row in paid], np.uint8))

    def _table(self, canvas: Canvas, view: View) -> None:
        joint = np.array([(i, j) for i in (0, 1) for j in (0, 1)])
        for (i, j), paid in zip(joint, self._pay(joint), strict=True):
            left, top = view(i - 0.5, j + 0.5)
            right, bottom = view(i + 0.5, j - 0.5)
            canvas.bar((left + 1, top + 1, right - 1, bottom - 1), shade(float(paid)))
            canvas.text((left + 9, top + 14), f"{paid:g}", 13, INK, "lm", bold=True)

    def _axes(self, canvas: Canvas, view: View) -> None:
        for tick in (0, 1) if self.task.spec.discrete else (-1, 0, 1):
            canvas.text((view(tick, 0)[0], MAP[3] + 9), str(tick), 9, GREY, "mm")
            canvas.text((MAP[0] - 7, view(0, tick)[1]), str(tick), 9, GREY, "rm")
        canvas.text(((MAP[0] + MAP[2]) / 2, MAP[3] + 23), "agent 0", 10, INK, "mm")
        canvas.text((MARGIN, MAP[1] - 10), "agent 1", 10, INK)

    def _rows(self, canvas: Canvas) -> None:
        """The last episodes, the newest at the bottom: one square an agent, then what was paid."""
        n_agents, first = self.task.spec.n_agents, max(0, len(self.played) - ROWS)
        size = (HEIGHT - TOP - 40) / ROWS
        left = (WIDTH - (n_agents + 2) * size) / 2
        for i in range(n_agents):
            canvas.text((left + (i + 0.5) * size, TOP + 10), str(i), 10, GREY, "mm")
        canvas.text((left + (n_agents + 1) * size, TOP + 10), "paid", 10, GREY, "mm")
        for row, (act, paid) in enumerate(zip(self.played[first:], self.paid[first:], strict=True)):
            y = TOP + 20 + row * size
            for i, a in enumerate(act):
                box = (left + i * size + 1, y + 1, left + (i + 1) * size - 1, y + size - 1)
                canvas.bar(box, (BLUE, ORANGE)[int(a)])
            words = f"{paid:g}"
            bold = paid > 0
            canvas.text((left + (n_agents + 1) * size, y + size / 2), words, 11, INK, "mm", bold)
        key: list[tuple[Colour, str]] = [(BLUE, "action 0"), (ORANGE, "action 1")]
        canvas.key((left, HEIGHT - 10), key, across=True)

    def _pay(self, joint: Array) -> Array:
        """Team reward of joint actions [C, N] or [C, N, A], asked of the game itself: [C]."""
        env = self.task.arrays(len(joint))
        env.reset(range(len(joint)))
        paid: Array = self.task.spec.team(env.step(joint).rew)
        return paid


def shade(paid: float) -> Colour:
    """White at 0, towards blue where positive and vermillion where negative."""
    return tint(BLUE if paid > 0 else VERMILLION, 0.75 * abs(paid))


def spread() -> list[tuple[float, float]]:
    """Offsets inside a cell, so that equal joint actions do not hide each other."""
    steps = np.arange(200)
    angle, radius = 2.39996 * steps, 0.3 * np.sqrt((steps % 50) / 50)  # a sunflower's seeds
    return list(zip(radius * np.cos(angle), radius * np.sin(angle) - 0.05, strict=True))
