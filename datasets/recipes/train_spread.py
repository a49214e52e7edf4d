"""Train the behaviours `medium` and `expert` of `mpe/spread`.

    python -m datasets.recipes.train_spread --work FOLDER

MAPPO (arXiv:2103.01955) with one actor for all agents, on the agent's own observation. The expert
is the last checkpoint; medium is the first whose sampled return is a third to a half of the way
from uniform play to the expert. One torch thread, every random number from the recipe seed,
selection by environment steps and never by time: the same bits on equal hardware (15 minutes of one
free core). A killed run goes on from its checkpoint in FOLDER. The files in
`datasets/behaviours/mpe-spread` are what this command and `train_spread_replay` wrote.

Differences from the paper: no value normalisation but a fixed unit of 10 [OUR CHOICE]; the value
knows the time, so the horizon is exact and nothing is bootstrapped there [OUR CHOICE]; no entropy
bonus and no recurrence [OUR CHOICE].
"""

from __future__ import annotations

import csv
import io
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from safetensors.numpy import save as to_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import checkpoint, files
from benchmark.envs.actor import Actor
from benchmark.envs.mpe.spread import BEHAVIOURS, HORIZON, OBS_DIM, N, Spread, SpreadArrays
from benchmark.errors import UserError
from benchmark.evaluate import rollout
from benchmark.protocol import RECIPE_SEEDS
from benchmark.reference import UniformPolicy

TASK = Spread()
EVALUATION = [2**41 + i for i in range(1_000)]  # episodes of the learning curve
ACT_DIM = 2


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


def weights(net: nn.Sequential, std: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a `benchmark.envs.actor.Actor`."""
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    arrays = {"std": std.astype(np.float32)}
    for k, linear in enumerate(linears):
        arrays[f"w{k}"] = linear.weight.detach().numpy().T.copy()
        arrays[f"b{k}"] = linear.bias.detach().numpy().copy()
    return arrays


def returns(actor: Actor) -> dict[str, float]:
    """Mean team return of an actor over the curve's episodes, greedy and sampled."""
    row: dict[str, float] = {}
    for prefix, deterministic in (("", True), ("sampled_", False)):
        team = TASK.spec.team(rollout(TASK, actor, EVALUATION, deterministic))  # [E]
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


def reset(env: SpreadArrays, rng: np.random.Generator) -> np.ndarray:
    """Fresh episodes from the learner's own generator: a seed for each would cost as much again."""
    points = rng.uniform(-1, 1, (2, env.n_envs, N, 2))
    return env.place(points[0], points[1])


@dataclass(frozen=True)
class Mappo:
    work: Path  # folder of the checkpoint and the snapshots
    out: Path = BEHAVIOURS
    seed: int = RECIPE_SEEDS[0]
    n_envs: int = 256
    iterations: int = 1_500  # of 256 x 25 environment steps
    width: int = 128
    epochs: int = 4
    minibatches: int = 16
    lr: float = 1e-3  # annealed linearly to a tenth
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    std: tuple[float, float] = (0.6, 0.2)  # of the Gaussian, first and last; linear between
    snapshot_growth: float = 1.06  # snapshots at env steps that grow by this factor


def joint(obs: Tensor, t: Tensor) -> Tensor:
    """Input of the value, [..., 3 * 14 + 1]: all observations without the messages, and time."""
    return torch.cat([obs[..., :14].flatten(-2), t[..., None] / HORIZON], -1)


class MappoLearner:
    def __init__(self, config: Mappo) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.rng = np.random.default_rng(config.seed)
        self.env = SpreadArrays(config.n_envs)
        self.actor = mlp(OBS_DIM, config.width, config.width, ACT_DIM)
        self.value = mlp(N * 14 + 1, config.width, config.width, 1)
        start_still(self.actor)
        parameters = [*self.actor.parameters(), *self.value.parameters()]
        self.optimiser = torch.optim.Adam(parameters, lr=config.lr, eps=1e-5)
        self.iteration = 0
        self.rows: list[dict[str, float]] = []  # the learning curve

    def std(self) -> float:
        """Exploration width of this iteration. A learned one collapses too early."""
        first, last = self.config.std
        return first + (last - first) * self.iteration / self.config.iterations

    def log_prob(self, mean: Tensor, act: Tensor) -> Tensor:
        """Up to a constant: the width is no parameter."""
        return -0.5 * (((act - mean) / self.std()) ** 2).sum(-1)

    def collect(self) -> tuple[Tensor, Tensor, Tensor]:
        """One episode each: obs [T, E, N, D], unclipped act [T, E, N, A], team reward [T, E]."""
        obs, act, rew = [], [], []
        now = reset(self.env, self.rng)
        std = np.float32(self.std())
        for _ in range(HORIZON):
            with torch.no_grad():
                mean = torch.tanh(self.actor(torch.from_numpy(now))).numpy()
            noise = self.rng.standard_normal(mean.shape, dtype=np.float32)
            obs.append(now)
            act.append(mean + std * noise)
            step = self.env.step(act[-1])
            rew.append(step.rew.mean(-1))
            now = step.obs
        stacked = np.stack(obs), np.stack(act), np.stack(rew).astype(np.float32)
        return tuple(torch.from_numpy(x) for x in stacked)  # type: ignore[return-value]

    def update(self) -> None:
        c = self.config
        obs, act, rew = self.collect()
        t = torch.arange(HORIZON, dtype=torch.float32)[:, None].expand(rew.shape)
        state = joint(obs, t)
        with torch.no_grad():
            old_logp = self.log_prob(torch.tanh(self.actor(obs)), act)
            value = 10 * self.value(state).squeeze(-1)  # [T, E]; the net's unit is 10 of return
            advantage = torch.zeros_like(rew)
            ahead = torch.zeros(c.n_envs)
            for k in reversed(range(HORIZON)):  # the horizon is the task's, so nothing lies beyond
                following = value[k + 1] if k + 1 < HORIZON else torch.zeros(c.n_envs)
                ahead = rew[k] + c.gamma * following - value[k] + c.gamma * c.lam * ahead
                advantage[k] = ahead
            target = (advantage + value) / 10
            advantage = (advantage - advantage.mean()) / advantage.std()
        flat = [x.flatten(0, 1) for x in (obs, act, old_logp, advantage, state, target)]
        size = len(flat[0]) // c.minibatches
        for _ in range(c.epochs):
            for index in torch.randperm(len(flat[0])).split(size):
                o, a, before, gain, s, goal = (x[index] for x in flat)
                ratio = (self.log_prob(torch.tanh(self.actor(o)), a) - before).exp()  # [B, N]
                gain = gain[:, None]
                bounded = ratio.clamp(1 - c.clip, 1 + c.clip)
                policy_loss = -torch.minimum(ratio * gain, bounded * gain).mean()
                value_loss = F.mse_loss(self.value(s).squeeze(-1), goal)
                self.optimiser.zero_grad()
                (policy_loss + value_loss).backward()
                nn.utils.clip_grad_norm_(self.actor.parameters(), 0.5)
                self.optimiser.step()
        self.iteration += 1
        left = 1 - self.iteration / c.iterations
        self.optimiser.param_groups[0]["lr"] = c.lr * (0.1 + 0.9 * left)

    def actor_weights(self) -> dict[str, np.ndarray]:
        return weights(self.actor, np.full(ACT_DIM, self.std()))

    def env_steps(self) -> int:
        return self.iteration * self.config.n_envs * HORIZON

    def state_dict(self) -> dict[str, Any]:
        return {
            "actor": self.actor.state_dict(),
            "value": self.value.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "torch": torch.get_rng_state(),
            "numpy": self.rng.bit_generator.state,
            "iteration": self.iteration,
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.actor.load_state_dict(state["actor"])
        self.value.load_state_dict(state["value"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch"])
        self.rng.bit_generator.state = state["numpy"]
        self.iteration, self.rows = state["iteration"], state["rows"]


def train(config: Mappo) -> None:
    learner = MappoLearner(config)
    saved = config.work / "mappo.safetensors"
    if saved.exists():
        learner.load_state_dict(checkpoint.load(saved))
    start = time.process_time()
    while learner.iteration < config.iterations:
        learner.update()
        previous = learner.rows[-1]["env_steps"] if learner.rows else 0
        last = learner.iteration == config.iterations
        if last or learner.env_steps() >= config.snapshot_growth * previous:
            arrays = learner.actor_weights()
            files.write_bytes(snapshot(config, learner.env_steps()), to_bytes(arrays))
            learner.rows.append({"env_steps": learner.env_steps()} | returns(Actor(arrays)))
            checkpoint.save(saved, learner.state_dict())
            row = " ".join(f"{name} {value:.6g}" for name, value in learner.rows[-1].items())
            print(f"{time.process_time() - start:.0f} s {row}", flush=True)
    publish(config, learner.rows)


def snapshot(config: Mappo, env_steps: int) -> Path:
    return config.work / f"mappo-{env_steps}.safetensors"


def publish(config: Mappo, rows: list[dict[str, float]]) -> None:
    """Write the expert, the medium behaviour and the learning curve to `config.out`."""
    uniform = TASK.spec.team(rollout(TASK, UniformPolicy(TASK.spec), EVALUATION))  # [E]
    zero, expert = float(uniform.mean()), rows[-1]
    shares = [(row["sampled_return"] - zero) / (expert["return"] - zero) for row in rows]
    medium = next((row for row, x in zip(rows, shares, strict=True) if x >= 1 / 3), expert)
    if not 1 / 3 <= shares[rows.index(medium)] <= 1 / 2:
        raise UserError(
            f"{config.work}: no snapshot lies between a third and a half of the expert's score;"
            " expected more --iterations or a smaller --snapshot-growth."
        )
    for name, row in (("medium", medium), ("expert", expert)):
        data = snapshot(config, int(row["env_steps"])).read_bytes()
        files.write_bytes(config.out / f"{name}.safetensors", data)
    names = {0: "random", medium["env_steps"]: "medium", expert["env_steps"]: "expert"}
    sem = standard_error(uniform)
    start = {"return": zero, "sem": sem, "sampled_return": zero, "sampled_sem": sem}
    curve = [{"env_steps": 0} | start, *rows]
    named = [row | {"name": names.get(row["env_steps"], "")} for row in curve]
    write_curve(config.out / "mappo.csv", named)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(tyro.cli(Mappo))
