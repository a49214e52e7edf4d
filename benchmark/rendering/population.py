"""Mean-field games: where the agents are, beside where the reference solution would have them.

Bars show the population's distribution over states (over actions, where a game has one state), a
line the reference flow, a strip under the bars every distribution since the start. Few states and
many steps are drawn as curves over time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.envs.meanfield.solve import flow
from benchmark.rendering.canvas import (
    BLUE,
    GREY,
    HEIGHT,
    INK,
    MARGIN,
    ORANGE,
    PALE,
    TOP,
    VERMILLION,
    WIDTH,
    Canvas,
    View,
    tint,
)
from benchmark.task import Array, Step, Task

LEFT, RIGHT = 40, WIDTH - MARGIN  # of the axes
BARS_TOP, STRIP_BOTTOM = TOP + 26, HEIGHT - 26
STRIP = 70  # height of the strip
CURVES = 3  # states at most that are drawn as curves
WALL = (90, 90, 90)
# Words for the states of a game, or for its actions where it has one state, by its name
WORDS = {
    "beach-bar": ("0", "1", "2", "3", "4", "bar", "6", "7", "8", "9"),
    "left-right": ("left", "right"),
    "queue": ("idle", "queue 1", "queue 2", "queue 3", "queue 4"),
    "resource": tuple(f"resource {k}" for k in range(1, 6)),
    "rps": ("rock", "paper", "scissors"),
    "sis": ("susceptible", "infected"),
}


class Drawing:
    stride: int | None = None

    def __init__(self, task: Task, env: Any) -> None:
        model = task.model()
        assert model is not None, f"{task.spec.id} has no exact model"
        self.task, self.model = task, model
        self.solution = model.solve()  # [H, O, A]
        self.flow = flow(model, self.solution)  # [H + 1, O]
        self.past: list[Array] = []  # [O] each
        self.played = np.zeros(model.n_actions)  # shares of the last step's actions
        self.kind = "optimum" if task.spec.metric == "return" else "equilibrium"

    def see(self, obs: Array, act: Array | None, step: Step | None) -> None:
        if act is None:
            self.past.clear()
        self.past.append(self._shares(obs[:, 0], self.model.n_obs))
        if act is not None:
            self.played = self._shares(act, self.model.n_actions)

    def note(self) -> str:
        if self.model.horizon == 1:
            return ""
        if self._is_curves():
            names = words(self.task.spec.id, self.model.n_obs)
            return f"{names[-1]} {self.past[-1][-1]:.2f}"
        gap = np.abs(self.past[-1] - self.flow[len(self.past) - 1]).sum()
        return f"distance to {self.kind} {gap:.2f}"

    def draw(self, canvas: Canvas) -> None:
        people = f"{self.task.spec.n_agents:,} agents"
        if self.task.spec.id.startswith("meanfield/four-rooms-"):
            self._rooms(canvas, people)
            return
        canvas.key((LEFT, TOP + 6), [(BLUE, people), (ORANGE, self.kind)], across=True)
        if self.model.horizon == 1:
            self._actions(canvas)
        elif self._is_curves():
            self._curves(canvas)
        else:
            self._states(canvas)

    # ------------------------------------------------------------------------------- kinds
    def _is_curves(self) -> bool:
        return self.model.n_obs <= CURVES and self.model.horizon >= 10

    def _actions(self, canvas: Canvas) -> None:
        """One step: the shares of the actions, in the state that most agents are in."""
        state = int(self.past[0].argmax())
        names = words(self.task.spec.id, self.model.n_actions)
        box = (LEFT, BARS_TOP, RIGHT, STRIP_BOTTOM)
        self._bars(canvas, box, self.played, self.solution[0, state], names)
        title = f"action, in context {state + 1} of {len(self.past[0])}"
        title = "action" if len(self.past[0]) == 1 else title
        canvas.text(((LEFT + RIGHT) / 2, HEIGHT - 7), title, 10, GREY, "mm")

    def _states(self, canvas: Canvas) -> None:
        names = words(self.task.spec.id, self.model.n_obs)
        strip = (LEFT, STRIP_BOTTOM + 12 - STRIP, RIGHT, STRIP_BOTTOM + 12)
        t = len(self.past) - 1
        top = max(self.flow[1:].max(), self.past[-1].max())
        box = (LEFT, BARS_TOP, RIGHT, strip[1] - 20)
        self._bars(canvas, box, self.past[-1], self.flow[t], names, top)
        shares = np.full((self.model.horizon + 1, self.model.n_obs), np.nan)
        shares[: t + 1] = self.past
        canvas.pixels(strip, ramp(shares / top))
        row = (strip[3] - strip[1]) / len(shares)
        y = strip[1] + (t + 1) * row
        canvas.line([(LEFT, y), (RIGHT, y)], INK, 1)
        canvas.text((LEFT - 6, strip[1] + 5), "start", 9, GREY, "rm")
        canvas.text((LEFT - 6, strip[3] - 5), "end", 9, GREY, "rm")

    def _curves(self, canvas: Canvas) -> None:
        """The share of each state but the first, over time; dashed, the reference."""
        names = words(self.task.spec.id, self.model.n_obs)
        horizon = self.model.horizon
        box = (LEFT, BARS_TOP + 6, RIGHT - 70, STRIP_BOTTOM)
        view = View(box, (0, 0), (horizon, 1))
        self._axis(canvas, view, 1.0)
        past = np.array(self.past)  # [t + 1, O]
        for k, colour in zip(range(1, self.model.n_obs), (BLUE, VERMILLION), strict=False):
            reference = [view(t, y) for t, y in enumerate(self.flow[:, k])]
            canvas.dashes(reference, ORANGE, 2)
            if len(past) > 1:
                canvas.line([view(t, y) for t, y in enumerate(past[:, k])], colour, 2.5)
            here = view(len(past) - 1, past[-1, k])
            canvas.disc(here, 4, colour)
            canvas.text((box[2] + 8, here[1]), names[k], 10, colour)
        canvas.text(((box[0] + box[2]) / 2, HEIGHT - 12), "time", 10, GREY, "mm")

    def _rooms(self, canvas: Canvas, people: str) -> None:
        """The map twice: where the agents are, and where the reference would have them."""
        from benchmark.envs.meanfield.four_rooms import CELLS, SIZE

        side, most = (RIGHT - MARGIN - 16) / 2, 6 / len(CELLS)
        names = (people, self.kind)
        for k, mu in enumerate((self.past[-1], self.flow[len(self.past) - 1])):
            left, top = MARGIN + k * (side + 16), TOP + 36
            colours = np.full((SIZE, SIZE, 3), WALL, np.uint8)
            colours[tuple(CELLS.T)] = ramp(mu / most)
            canvas.pixels((left, top, left + side, top + side), colours)
            canvas.text((left, top - 10), names[k], 10, INK)

    # ------------------------------------------------------------------------------- parts
    def _bars(
        self,
        canvas: Canvas,
        box: tuple[float, float, float, float],
        shares: Array,
        reference: Array,
        names: list[str],
        top: float = 0.0,
    ) -> None:
        top = 1.1 * max(top, shares.max(), reference.max())
        view = View(box, (0, 0), (len(shares), top))
        self._axis(canvas, view, top)
        for k, (own, ideal) in enumerate(zip(shares, reference, strict=True)):
            left, high = view(k + 0.12, own)
            right, low = view(k + 0.88, 0)
            canvas.bar((left, high, right, low), BLUE)
            ends = [view(k + 0.03, ideal), view(k + 0.97, ideal)]
            canvas.line(ends, ORANGE, 3)
            if k % (1 + len(names) // 20) == 0:
                canvas.text((view(k + 0.5, 0)[0], box[3] + 9), names[k], 9, INK, "mm")

    def _axis(self, canvas: Canvas, view: View, top: float) -> None:
        """Horizontal lines at round shares, with their values."""
        unit = next((u for u in (0.05, 0.1, 0.2, 0.25, 0.5) if top / u < 5), 0.5)
        for k in range(int(top / unit) + 1):
            x, y = view(view.low[0], k * unit)
            canvas.line([(x, y), (view.box[2], y)], PALE if k else GREY, 1)
            canvas.text((x - 6, y), f"{k * unit:.2f}".rstrip("0").rstrip("."), 9, GREY, "rm")

    def _shares(self, values: Array, length: int) -> Array:
        return np.bincount(values, minlength=length) / self.task.spec.n_agents


def words(task_id: str, length: int) -> list[str]:
    """What stands under the bars: the game's own words, or else numbers."""
    name = task_id.split("/")[1].split("-n")[0]
    own = WORDS.get(name, ())
    return list(own) if len(own) == length else [str(k) for k in range(length)]


def ramp(shares: Array) -> Array:
    """Shares [...] in [0, 1] -> colours [..., 3] uint8, white to blue; NaN is pale grey."""
    levels = np.array([tint(BLUE, k / 32) for k in range(33)], np.uint8)  # [33, 3]
    known = np.nan_to_num(shares)
    # The square root shows small shares, and few levels keep a GIF small.
    colours = levels[np.round(np.sqrt(np.clip(known, 0, 1)) * 32).astype(int)]
    return np.where(np.isnan(shares)[..., None], np.uint8(244), colours)
