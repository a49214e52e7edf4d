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


def scene(task: Task, env: Any) -> Scene:
    """The drawing of a task; raises UserError where its namespace has none."""
    if task.spec.namespace not in KINDS:
        raise UserError(
            f"task {task.spec.id} cannot be drawn: drawings exist for {', '.join(sorted(KINDS))}."
        )
    module = importlib.import_module(f"{__name__}.{KINDS[task.spec.namespace]}")
    drawing: Scene = module.Drawing(task, env)
    return drawing
