"""MAPPO (arXiv:2103.01955) over the array environment of any task: trains committed behaviours.

    from datasets.recipes.mappo import Mappo, train
    rows = train(Mappo(task="mamujoco/hopper-3x1-v1"), work_folder)

Continuous actions are a Gaussian around tanh of the network, clipped by the environment; discrete
ones a softmax over the allowed actions. Observations are normalised while learning, and the
normaliser is folded into the first layer when weights are saved, so that
`benchmark.envs.actor.Actor` plays them. Every random number comes from the recipe seed, selection
goes by environment steps and never by time. A killed run goes on from its checkpoint, with fresh
episodes: it then ends with other bits than an uninterrupted one.

Differences from the paper: rewards are divided by the running spread of their discounted sum
instead of normalising values [OUR CHOICE]; the noise of continuous actions shrinks on a schedule
[OUR CHOICE]; no recurrence [OUR CHOICE].
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as to_bytes

from benchmark import checkpoint, files, registry
from benchmark.envs.actor import Actor, load_arrays
from benchmark.errors import UserError
from benchmark.evaluate import rollout
from benchmark.reference import UniformPolicy
from benchmark.task import Task
from datasets.recipes.mappo_learner import Learner, Mappo

__all__ = ["Learner", "Mappo", "publish", "returns", "snapshot", "train"]

EVALUATION = 2**41  # first seed of the learning curve's episodes
REPLAY_BYTES = 1_000_000  # of the stacked snapshots at most


def returns(task: Task, policy: Any, episodes: int) -> dict[str, float]:
    """Mean team return over the curve's episodes, greedy and sampled, with standard errors."""
    row: dict[str, float] = {}
    seeds = [EVALUATION + k for k in range(episodes)]
    for prefix, deterministic in (("", True), ("sampled_", False)):
        team = task.spec.team(rollout(task, policy, seeds, deterministic))  # [E]
        sem = float(team.std(ddof=1) / len(team) ** 0.5)
        row |= {f"{prefix}return": float(team.mean()), f"{prefix}sem": sem}
    return row


def snapshot(work: Path, env_steps: float) -> Path:
    """Where the weights after so many environment steps lie."""
    return work / f"mappo-{int(env_steps)}.safetensors"


def train(config: Mappo, work: Path) -> list[dict[str, float]]:
    """Train to the end, or go on from the checkpoint in `work`; returns the learning curve.

    Its last row is the expert; each row has its weights at `snapshot(work, row["env_steps"])`.
    """
    learner, saved = Learner(config), work / "mappo.safetensors"
    if saved.exists():
        learner.load_state_dict(checkpoint.load(saved))
    while learner.env_steps < config.env_steps:
        learner.update()
        rows = learner.rows
        due = config.snapshot_growth * rows[-1]["env_steps"] if rows else config.first_snapshot
        if learner.env_steps >= min(due, config.env_steps):
            arrays = learner.weights()
            files.write_bytes(snapshot(work, learner.env_steps), to_bytes(arrays))
            row = {"env_steps": learner.env_steps, "cpu_seconds": round(learner.cpu_seconds, 1)}
            rows.append(row | returns(learner.task, Actor(arrays), config.episodes))
            checkpoint.save(saved, learner.state_dict())
            text = " ".join(f"{name} {value:.6g}" for name, value in rows[-1].items())
            print(text, flush=True)
    return learner.rows


def publish(
    config: Mappo, work: Path, out: Path, rows: list[dict[str, float]], replays: int = 20
) -> None:
    """Write expert, medium, replay and the curve to `out`.

    Medium is the first snapshot a third to a half of the way from uniform to the expert. Replay is
    the snapshots up to medium, stacked: evenly spaced ones, at most `replays` and as many as fit
    REPLAY_BYTES.
    """
    task = registry.task(config.task)
    start = returns(task, UniformPolicy(task.spec), config.episodes)
    zero, expert = start["return"], rows[-1]
    shares = [(row["sampled_return"] - zero) / (expert["return"] - zero) for row in rows]
    found = [row for row, share in zip(rows, shares, strict=True) if 1 / 3 <= share <= 1 / 2]
    if not found:
        raise UserError(
            f"{work}: no snapshot lies between a third and a half of the expert's score; expected"
            " more environment steps or a smaller snapshot growth."
        )
    medium = found[0]
    up_to = rows[: rows.index(medium) + 1]
    size = snapshot(work, medium["env_steps"]).stat().st_size
    count = min(replays, len(up_to), REPLAY_BYTES // size)
    picked = np.unique(np.linspace(0, len(up_to) - 1, count).round().astype(int))
    stack = [load_arrays(snapshot(work, up_to[k]["env_steps"])) for k in picked]
    replay = {name: np.stack([arrays[name] for arrays in stack]) for name in stack[0]}
    files.write_bytes(out / "replay.safetensors", to_bytes(replay))
    for name, row in (("medium", medium), ("expert", expert)):
        data = snapshot(work, row["env_steps"]).read_bytes()
        files.write_bytes(out / f"{name}.safetensors", data)
    names = {medium["env_steps"]: "medium", expert["env_steps"]: "expert"}
    curve = [{"env_steps": 0, "cpu_seconds": 0} | start | {"name": "random"}]
    curve += [row | {"name": names.get(row["env_steps"], "")} for row in rows]  # type: ignore[misc]
    text = io.StringIO()
    table = csv.DictWriter(text, curve[0].keys(), lineterminator="\n")
    table.writeheader()
    table.writerows(curve)
    files.write_text(out / "mappo.csv", text.getvalue())
