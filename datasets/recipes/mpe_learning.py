"""What the learners behind the MPE behaviours share: settings, networks, episodes, curves."""

from __future__ import annotations

import csv
import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import files
from benchmark.envs.actor import BEHAVIOURS, Actor
from benchmark.errors import unknown_name
from benchmark.evaluate import rollout
from benchmark.task import Task, TaskSpec

EVALUATION = [2**41 + i for i in range(1_000)]  # episodes of the learning curve


@dataclass(frozen=True)
class Setting:
    """What differs between tasks."""

    iterations: int  # of 256 x 25 environment steps
    unit: float  # return that a value of 1 stands for
    seen: int  # leading columns of each observation that the value gets
    expert: float | None = None  # return to stop at: the expert is the checkpoint nearest to it
    approach: float = 0  # what the learner is paid for each unit that a predator comes nearer
    level: float = 0  # reward that the replay's learner takes for 0; positive ones make it run away
    replay_updates: int = 1  # gradient steps per lockstep step of the replay's learner


SETTINGS = {
    "mpe/spread-v1": Setting(1_500, unit=10, seen=14),  # what follows are silent messages
    "mpe/tag-flee-v1": Setting(800, unit=10, seen=16, approach=10, replay_updates=2),
    "mpe/world-flee-v1": Setting(600, unit=10, seen=28, approach=5),
    # The published return of the expert behind OMAR's data
    "mpe-omar/spread-v1": Setting(
        1_500, unit=100, seen=14, expert=516.8, level=12, replay_updates=4
    ),
}


def setting(task_id: str) -> Setting:
    if task_id not in SETTINGS:
        raise unknown_name("MPE task", task_id, SETTINGS)
    return SETTINGS[task_id]


def folder(task_id: str) -> Path:
    """Where the behaviours of a task are committed."""
    return BEHAVIOURS / task_id.rsplit("-v", 1)[0].replace("/", "-")


def mlp(*sizes: int) -> nn.Sequential:
    """ReLU layers with orthogonal weights and zero biases."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.orthogonal_(linear.weight, 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def start_still(actor: nn.Sequential) -> None:
    """Scale the last layer down, so that the first policy is near the zero force."""
    last = actor[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(0.01)


def used_actions(spec: TaskSpec) -> Tensor:
    """1 where an action is one, 0 where it is padding: [N, A]."""
    widths = [group.act_dim for group in spec.groups for _ in range(group.n_agents)]
    used = np.arange(spec.act_dim) < np.array(widths)[:, None]
    return torch.from_numpy(used.astype(np.float32))


def weights(net: nn.Sequential, std: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a `benchmark.envs.actor.Actor`."""
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    arrays = {"std": std.astype(np.float32)}
    for k, linear in enumerate(linears):
        arrays[f"w{k}"] = linear.weight.detach().numpy().T.copy()
        arrays[f"b{k}"] = linear.bias.detach().numpy().copy()
    return arrays


def returns(task: Task, actor: Actor) -> dict[str, float]:
    """Mean team return of an actor over the curve's episodes, greedy and sampled."""
    row: dict[str, float] = {}
    for prefix, deterministic in (("", True), ("sampled_", False)):
        team = task.spec.team(rollout(task, actor, EVALUATION, deterministic))  # [E]
        row |= {f"{prefix}return": float(team.mean()), f"{prefix}sem": standard_error(team)}
    return row


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def write_curve(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    files.write_text(path, text.getvalue())


def reset(env: Any, rng: np.random.Generator) -> np.ndarray:
    """Fresh episodes from the learner's own generator: a seed for each would cost as much again."""
    obs: np.ndarray = env.place(
        *(rng.uniform(-half, half, (env.n_envs, count, 2)) for half, count in env.START)
    )
    return obs


def advance(env: Any, setting: Setting, act: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step: next obs [E, N, D], and what the learner is paid, [E]."""
    before = _distance(env) if setting.approach else 0.0
    step = env.step(act)
    after = _distance(env) if setting.approach else 0.0
    return step.obs, step.rew.mean(-1) + setting.approach * (before - after)


def _distance(env: Any) -> np.ndarray:
    """Sum over predators of the distance to the prey, which is the last body: [E]."""
    prey = env.world.bodies - 1
    total: np.ndarray = env.world.distance[[env.world.pair(i, prey) for i in range(prey)]].sum(0)
    return total
