"""Pictures of tasks: plays an episode, draws it, and writes a GIF, a PNG or a contact sheet.

Nothing here needs a display or a graphics library of the system: frames are made by
`benchmark.rendering` from the state of the array environment, and the same episode gives the same
bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark import registry
from benchmark.envs.actor import BEHAVIOURS, load_actor
from benchmark.errors import UserError, unknown_name
from benchmark.evaluate import POLICY_STREAM, Policy, check_actions
from benchmark.reference import UniformPolicy
from benchmark.rendering import KINDS, frame, scene
from benchmark.rendering.canvas import PALE, THEME
from benchmark.task import Array, Task

FRAMES = 50  # of one GIF at most
SEED = 1_000_000_044  # of the first episode: far above the seeds of any protocol
COLOURS = 64  # of a GIF's palette
COLUMNS = 6  # of a contact sheet
TILE = 0.75  # size of a tile of the contact sheet, in frames
GAP = 6  # pixels between tiles
DRAWN = 1024  # agents of a task in the gallery, at most: more look no different


@dataclass(frozen=True)
class Film:
    """Frames [F, H, W, 3] uint8, and the seconds that each is shown."""

    frames: Array
    seconds: float

    def still(self) -> Array:
        """The frame that stands for all: late enough that something has happened."""
        frame: Array = self.frames[len(self.frames) * 3 // 5]
        return frame

    def gif(self) -> bytes:
        """One palette for all frames, no dithering, played for ever."""
        from PIL import Image

        palette, indices = self._indexed()
        images = []
        for index in indices:
            images.append(Image.fromarray(index))
            images[-1].putpalette(palette.tobytes())
        milliseconds = [round(1e3 * self.seconds)] * len(images)
        milliseconds[-1] += 800  # a pause before it begins again
        buffer = io.BytesIO()
        images[0].save(
            buffer, "GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0
        )
        return buffer.getvalue()

    def _indexed(self) -> tuple[Array, Array]:
        """Palette [C, 3] uint8 of the drawings' own colours and others of some frames, and the
        nearest of them for every pixel: [F, H, W] uint8.
        """
        from PIL import Image

        some = self.frames[:: max(1, len(self.frames) // 8)]
        mosaic = Image.fromarray(some.reshape(-1, *some.shape[2:]))
        others = mosaic.quantize(COLOURS - len(THEME), method=Image.Quantize.MEDIANCUT)
        rest = np.array(others.getpalette(), np.uint8).reshape(-1, 3)
        palette = np.concatenate([np.array(THEME, np.uint8), rest])
        codes = self.frames.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        there = np.zeros(1 << 24, bool)
        there[codes] = True
        used = np.flatnonzero(there)  # every colour of the film, once
        colours = np.stack([used >> 16, used >> 8 & 255, used & 255], 1)
        apart = ((colours[:, None] - palette.astype(int)) ** 2).sum(-1)  # [used, C]
        nearest = np.zeros(1 << 24, np.uint8)
        nearest[used] = apart.argmin(1)
        return palette, nearest[codes]


def png(picture: Array) -> bytes:
    """picture [H, W, 3] uint8 as a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def sheet(stills: Sequence[Array]) -> Array:
    """Frames [H, W, 3] side by side, COLUMNS in a row, made smaller by TILE."""
    from PIL import Image

    height, width = (round(n * TILE) for n in stills[0].shape[:2])
    rows = math.ceil(len(stills) / COLUMNS)
    step = (width + GAP, height + GAP)
    picture = Image.new("RGB", (COLUMNS * step[0] + GAP, rows * step[1] + GAP), PALE)
    for k, still in enumerate(stills):
        tile = Image.fromarray(still).resize((width, height), Image.Resampling.LANCZOS)
        picture.paste(tile, (GAP + k % COLUMNS * step[0], GAP + k // COLUMNS * step[1]))
    return np.asarray(picture)


def games() -> list[str]:
    """One task of each game, that of most agents up to DRAWN: members of a family look the same."""
    largest: dict[str, str] = {}
    for name in (name for name in registry.task_ids() if _size(name) <= DRAWN):
        game = re.sub(r"-[nb]\d+(?=-)", "", name)
        if game not in largest or _size(name) > _size(largest[game]):
            largest[game] = name
    order = {kind: k for k, kind in enumerate(KINDS)}
    return sorted(largest.values(), key=lambda name: order.get(name.split("/")[0], len(order)))


def _size(task_id: str) -> int:
    """N of a task's name; 0 where it names none."""
    found = re.search(r"-n(\d+)-", task_id)
    return int(found[1]) if found else 0


def policies(task: Task) -> tuple[str, ...]:
    """What to show of a task: its expert, and uniform play too where an episode is one step."""
    try:
        task.expert()
    except UserError:
        return ("random",)
    return ("random", "expert") if task.spec.horizon == 1 else ("expert",)


def policy(task: Task, name: str) -> Policy:
    """`random`, `expert`, a reference line such as `assignment-controller`, or a committed
    behaviour of the task's folder such as `medium`.
    """
    lines = {line.replace(" ", "-"): line for line in task.reference_lines()}
    stem = task.spec.id.replace("/", "-").rsplit("-v", 1)[0]
    if name == "random":
        return UniformPolicy(task.spec)
    if name == "expert":
        expert: Policy = task.expert()
        return expert
    if name in lines:
        line: Policy = task.reference_lines()[lines[name]]
        return line
    folder = BEHAVIOURS / stem
    actors = {
        path.stem: path for path in sorted(folder.glob("*.safetensors")) if path.stem != "replay"
    }
    if name in actors:
        return load_actor(actors[name])
    raise unknown_name(f"policy of {task.spec.id}", name, {"random", "expert", *lines, *actors})


def film(
    task: Task,
    names: Sequence[str] = ("expert",),
    seed: int = SEED,
    trained: Mapping[str, Policy] | None = None,
) -> Film:
    """An episode of each policy, one after the other; of a task of one step, several episodes.

    A name is one that `policy` knows, or one of `trained`, policies from checkpoints.
    """
    most = max(2, FRAMES // len(names))
    frames: list[Array] = []
    for name in names:
        found = (trained or {}).get(name) or policy(task, name)
        frames += _Reel(task, name, found, most).episodes(seed)
    seconds = 0.15 if task.spec.horizon == 1 else min(max(2.5 / len(frames), 0.04), 0.3)
    return Film(np.stack(frames), seconds)


class _Reel:
    """The frames of one policy, `most` at most."""

    def __init__(self, task: Task, name: str, played: Policy, most: int) -> None:
        self.task, self.name, self.policy, self.most = task, name, played, most
        self.env = task.arrays(1)
        self.scene = scene(task, self.env)
        self.frames: list[Array] = []

    def episodes(self, seed: int) -> list[Array]:
        if self.task.spec.horizon > 1:
            self.play(seed, "step {} of " + f"{self.task.spec.horizon:,}")
        else:
            for k in range(self.most):
                self.play(seed + k, f"episode {k + 1}")
        return self.frames

    def play(self, seed: int, clock: str) -> None:
        """One episode, drawn at its start (unless that is all there is before its end), at every
        step and at its end; where that is too much, at every second, fourth, ... step.
        """
        spec, stride = self.task.spec, self.scene.stride or 1
        obs = self.env.reset([seed])  # [1, N, D]
        self.scene.see(obs[0], None, None)
        self.policy.begin(1, POLICY_STREAM + seed)
        returns, alive, mask = np.zeros(spec.n_agents), None, None
        tail = (spec.n_agents,) if spec.discrete else (spec.n_agents, spec.act_dim)
        if spec.horizon > 1:
            self.draw(clock.format(0), returns)
        for t in range(1, spec.horizon + 1):
            act = self.policy.act(obs, alive, mask, t - 1, spec.deterministic_eval)
            step = self.env.step(check_actions(act, (1, *tail), spec))
            returns += step.rew[0] if alive is None else np.where(alive[0], step.rew[0], 0.0)
            obs, alive, mask = step.obs, step.alive, step.mask
            self.scene.see(obs[0], act[0], step)
            ended = bool(step.terminated[0] or step.truncated[0])
            if ended or t % stride == 0:
                self.draw(clock.format(t), returns)
            if ended or (self.scene.stride and len(self.frames) == self.most):
                break
            if len(self.frames) == self.most:
                self.frames, stride = self.frames[::2], 2 * stride

    def draw(self, clock: str, returns: Array) -> None:
        spec, left = self.task.spec, f"{self.name}, {clock}"
        self.frames.append(frame(self.scene, spec.id, left, f"return {spec.team(returns):,.2f}"))
