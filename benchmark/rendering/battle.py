"""Battles: two teams on their field, own in blue and the enemy in vermillion, and who is left."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.rendering.canvas import (
    BLUE,
    GREY,
    HEIGHT,
    INK,
    MARGIN,
    PALE,
    TOP,
    VERMILLION,
    WHITE,
    WIDTH,
    Canvas,
    View,
    tint,
)
from benchmark.task import Array, Step, Task

SIDE = HEIGHT - TOP - MARGIN  # pixels of the field
FIELD = (MARGIN, TOP, MARGIN + SIDE, TOP + SIDE)
TEAMS = (BLUE, VERMILLION)
CROWD = 4.0  # agents in a cell, in units of N / 64, whose disc fills it


class Drawing:
    stride: int | None = None

    def __init__(self, task: Task, env: Any) -> None:
        self.env, self.n_agents = env, task.spec.n_agents
        self.opponent = task.spec.id.rsplit("-", 2)[1]
        self.alive: list[tuple[float, float]] = []  # share of each team, at every step

    def see(self, obs: Array, act: Array | None, step: Step | None) -> None:
        if act is None:
            self.alive.clear()
        if hasattr(self.env, "melee"):
            own, enemy = (float(share[0]) for share in self.env.melee.shares())
        else:
            own, enemy = (self.env.battles[0].share(k) for k in (0, 1))
        self.alive.append((own, enemy))

    def note(self) -> str:
        own, enemy = self.alive[-1]
        return f"margin {own - enemy:+.2f}"

    def draw(self, canvas: Canvas) -> None:
        canvas.bar(FIELD, tint(GREY, 0.08))
        if hasattr(self.env, "melee"):
            self._cells(canvas)
        else:
            self._soldiers(canvas)
        self._bars(canvas)

    def _cells(self, canvas: Canvas) -> None:
        """Both teams' discs in every cell, side by side, areas as the numbers alive."""
        side = self.env.melee.rules.side
        view = View(FIELD, (0, 0), (side, side))
        unit = view.length(1)
        for team, (colour, shift) in enumerate(zip(TEAMS, (-0.12, 0.12), strict=True)):
            living = self.env.melee.living[team][0]  # [x, y]
            for x, y in np.argwhere(living):
                full = min(1.0, living[x, y] * 64 / self.n_agents / CROWD)
                radius = max(1.2, 0.5 * unit * np.sqrt(full))
                canvas.disc(view(x + 0.5 + shift, y + 0.5), radius, colour)

    def _soldiers(self, canvas: Canvas) -> None:
        """Every living agent of a magent2 map, where cells hold one agent each."""
        battle = self.env.battles[0]
        view = View(FIELD, (0, 0), (battle.size, battle.size))
        radius = max(1.2, 0.42 * view.length(1))
        for handle, colour in zip(battle.handles, TEAMS, strict=True):
            for x, y in battle.engine.get_pos(handle):
                canvas.disc(view(x + 0.5, y + 0.5), radius, colour)

    def _bars(self, canvas: Canvas) -> None:
        """Shares alive as two columns, and their past as curves below."""
        left, right = FIELD[2] + 20, WIDTH - MARGIN
        names = ("own team", f"enemy: {self.opponent}")
        for team, (colour, name) in enumerate(zip(TEAMS, names, strict=True)):
            y = TOP + 12 + 44 * team
            share = self.alive[-1][team]
            canvas.text((left, y), name, 11, INK)
            canvas.bar((left, y + 10, right, y + 22), PALE)
            canvas.bar((left, y + 10, left + share * (right - left), y + 22), colour)
            words = f"{round(share * self.n_agents):,}"
            inside = share > 0.4
            at = left + share * (right - left) + (-4 if inside else 4)
            anchor, ink = ("rm", WHITE) if inside else ("lm", INK)
            canvas.text((at, y + 16), words, 9, ink, anchor)
        steps = max(len(self.alive) - 1, 5)
        view = View((left, TOP + 130, right, FIELD[3] - 16), (0, 0), (steps, 1))
        for team, colour in enumerate(TEAMS):
            points = [view(t, shares[team]) for t, shares in enumerate(self.alive)]
            if len(points) > 1:
                canvas.line(points, colour, 2)
        canvas.line([view(0, 0), view(steps, 0)], GREY, 1)
        canvas.text((left, TOP + 116), "share alive", 9, GREY)
        canvas.text((right, FIELD[3] - 6), "time", 9, GREY, "rm")
