"""How tasks look. One file per kind of task; none of them is known to any environment.

A drawing is a `Scene`: it is shown an episode of one array environment (E = 1) step by step and
draws what it has seen so far when asked. `benchmark.render` plays episodes and writes the files.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from benchmark.errors import UserError
from benchmark.task import Array, Step, Task

if TYPE_CHECKING:
    from benchmark.rendering.canvas import Canvas

# Namespace of a task -> the file here whose class `Drawing` draws it
KINDS = {
    "mpe": "mpe",
    "mpe-omar": "mpe",
    "meanfield": "population",
    "battle": "battle",
    "mamujoco": "mujoco",
    "probe": "matrix",
}


class Scene(Protocol):
    """A picture of one episode, of which E = 1 array environment is played."""

    stride: int | None  # steps between two frames; None: the frames cover the whole episode

    def __init__(self, task: Task, env: Any) -> None: ...

    def see(self, obs: Array, act: Array | None, step: Step | None) -> None:
        """After reset (act and step None) and after every step: obs [N, D], act [N] or [N, A]."""
        ...

    def draw(self, canvas: Canvas) -> None:
        """The present state, below the canvas' title."""
        ...

    def note(self) -> str:
        """What the title says of the present state; may be empty."""
        ...


def kind(task: Task) -> str:
    """The file here that draws a task: by its namespace, or as a population where it has an exact
    model; empty where there is none.
    """
    name = KINDS.get(task.spec.namespace, "")
    return name or ("population" if task.spec.finite and task.model() is not None else "")


def scene(task: Task, env: Any) -> Scene:
    """The drawing of a task; raises UserError where it has none."""
    if not (name := kind(task)):
        raise UserError(
            f"task {task.spec.id} cannot be drawn: drawings exist for {', '.join(sorted(KINDS))}"
            " and for games with an exact model."
        )
    drawing: Scene = importlib.import_module(f"{__name__}.{name}").Drawing(task, env)
    return drawing


def frame(drawing: Scene, name: str, left: str, right: str = "") -> Array:
    """The scene under a title, its second line `left` and the scene's note, or else `right`:
    [H, W, 3] uint8.
    """
    from benchmark.rendering.canvas import Canvas

    canvas = Canvas()
    canvas.title(name, left, drawing.note() or right)
    drawing.draw(canvas)
    return canvas.frame()
