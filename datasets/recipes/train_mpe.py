"""Train the behaviours `medium` and `expert` of the MPE tasks.

    python -m datasets.recipes.train_mpe --task mpe/spread-v1 --work FOLDER

MAPPO (arXiv:2103.01955) with one actor for all agents, on the agent's own observation. The expert
is the last checkpoint, or the one whose return is nearest to a given goal; medium is the first
whose sampled return is a third to a half of the way from uniform play to the expert. One thread,
every random number from the recipe seed, selection by environment steps and never by time: the same
bits on equal hardware (5 to 15 minutes of one free core). A killed run goes on from its checkpoint
in FOLDER. The files in `datasets/behaviours/mpe*` are what this command and `train_mpe_replay`
wrote.

Differences from the paper: no value normalisation but a fixed unit [OUR CHOICE]; the value knows
the time, so the horizon is exact and nothing is bootstrapped there [OUR CHOICE]; no entropy bonus
and no recurrence [OUR CHOICE]; predators are also paid for coming nearer to the prey, since
contacts are rare at first; returns never include that [OUR CHOICE].
"""

from __future__ import annotations

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

from benchmark import checkpoint, files, registry
from benchmark.envs.actor import Actor
from benchmark.errors import UserError
from benchmark.evaluate import rollout
from benchmark.protocol import RECIPE_SEEDS
from benchmark.reference import UniformPolicy
from datasets.recipes.mpe_learning import (
    EVALUATION,
    advance,
    folder,
    mlp,
    reset,
    returns,
    setting,
    standard_error,
    start_still,
    used_actions,
    weights,
    write_curve,
)


@dataclass(frozen=True)
class Mappo:
    task: str
    work: Path  # folder of the checkpoint and the snapshots
    out: Path | None = None  # None: where the behaviours are committed
    seed: int = RECIPE_SEEDS[0]
    n_envs: int = 256
    iterations: int | None = None  # None: that of the task's setting
    width: int = 128
    epochs: int = 4
    minibatches: int = 16
    lr: float = 1e-3  # annealed linearly to a tenth
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    std: tuple[float, float] = (0.6, 0.2)  # of the Gaussian, first and last; linear between
    snapshot_growth: float = 1.06  # snapshots at env steps that grow by this factor


class MappoLearner:
    def __init__(self, config: Mappo) -> None:
        torch.manual_seed(config.seed)
        self.config, self.setting = config, setting(config.task)
        self.task = registry.task(config.task)
        spec = self.task.spec
        self.iterations = config.iterations or self.setting.iterations
        self.rng = np.random.default_rng(config.seed)
        self.env: Any = self.task.arrays(config.n_envs)
        self.actor = mlp(spec.obs_dim, config.width, config.width, spec.act_dim)
        self.value = mlp(spec.n_agents * self.setting.seen + 1, config.width, config.width, 1)
        self.used = used_actions(spec)
        start_still(self.actor)
        parameters = [*self.actor.parameters(), *self.value.parameters()]
        self.optimiser = torch.optim.Adam(parameters, lr=config.lr, eps=1e-5)
        self.iteration = 0
        self.rows: list[dict[str, float]] = []  # the learning curve

    def std(self) -> float:
        """Exploration width of this iteration. A learned one collapses too early."""
        first, last = self.config.std
        return first + (last - first) * self.iteration / self.iterations

    def log_prob(self, mean: Tensor, act: Tensor) -> Tensor:
        """Up to a constant: the width is no parameter."""
        return -0.5 * (((act - mean) / self.std()) ** 2 * self.used).sum(-1)

    def joint(self, obs: Tensor, t: Tensor) -> Tensor:
        """Input of the value, [..., N * seen + 1]: what all agents see, and the time."""
        seen = obs[..., : self.setting.seen].flatten(-2)
        return torch.cat([seen, t[..., None] / self.task.spec.horizon], -1)

    def collect(self) -> tuple[Tensor, Tensor, Tensor]:
        """One episode each: obs [T, E, N, D], unclipped act [T, E, N, A], team reward [T, E]."""
        obs, act, rew = [], [], []
        now = reset(self.env, self.rng)
        std = np.float32(self.std())
        for _ in range(self.task.spec.horizon):
            with torch.no_grad():
                mean = torch.tanh(self.actor(torch.from_numpy(now))).numpy()
            noise = self.rng.standard_normal(mean.shape, dtype=np.float32)
            obs.append(now)
            act.append(mean + std * noise)
            now, reward = advance(self.env, self.setting, act[-1])
            rew.append(reward)
        stacked = np.stack(obs), np.stack(act), np.stack(rew).astype(np.float32)
        return tuple(torch.from_numpy(x) for x in stacked)  # type: ignore[return-value]

    def update(self) -> None:
        c, horizon = self.config, self.task.spec.horizon
        obs, act, rew = self.collect()
        t = torch.arange(horizon, dtype=torch.float32)[:, None].expand(rew.shape)
        state = self.joint(obs, t)
        with torch.no_grad():
            old_logp = self.log_prob(torch.tanh(self.actor(obs)), act)
            value = self.setting.unit * self.value(state).squeeze(-1)  # [T, E]
            advantage = torch.zeros_like(rew)
            ahead = torch.zeros(c.n_envs)
            for k in reversed(range(horizon)):  # nothing lies beyond the horizon
                following = value[k + 1] if k + 1 < horizon else torch.zeros(c.n_envs)
                ahead = rew[k] + c.gamma * following - value[k] + c.gamma * c.lam * ahead
                advantage[k] = ahead
            target = (advantage + value) / self.setting.unit
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
        left = 1 - self.iteration / self.iterations
        self.optimiser.param_groups[0]["lr"] = c.lr * (0.1 + 0.9 * left)

    def actor_weights(self) -> dict[str, np.ndarray]:
        return weights(self.actor, np.full(self.task.spec.act_dim, self.std()))

    def finished(self) -> bool:
        goal = self.setting.expert
        reached = goal is not None and bool(self.rows) and self.rows[-1]["return"] >= goal
        return reached or self.iteration == self.iterations

    def env_steps(self) -> int:
        return self.iteration * self.config.n_envs * self.task.spec.horizon

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
    while not learner.finished():
        learner.update()
        previous = learner.rows[-1]["env_steps"] if learner.rows else 0
        last = learner.iteration == learner.iterations
        if last or learner.env_steps() >= config.snapshot_growth * previous:
            arrays = learner.actor_weights()
            files.write_bytes(snapshot(config, learner.env_steps()), to_bytes(arrays))
            learner.rows.append(
                {"env_steps": learner.env_steps()} | returns(learner.task, Actor(arrays))
            )
            checkpoint.save(saved, learner.state_dict())
            row = " ".join(f"{name} {value:.6g}" for name, value in learner.rows[-1].items())
            print(f"{time.process_time() - start:.0f} s {row}", flush=True)
    publish(config, learner.rows)


def snapshot(config: Mappo, env_steps: int) -> Path:
    return config.work / f"mappo-{env_steps}.safetensors"


def output(config: Mappo) -> Path:
    """Folder of the behaviours and the curve."""
    return config.out or folder(config.task)


def publish(config: Mappo, rows: list[dict[str, float]]) -> None:
    """Write the expert, the medium behaviour and the learning curve to `config.out`."""
    task, out, goal = registry.task(config.task), output(config), setting(config.task).expert
    uniform = task.spec.team(rollout(task, UniformPolicy(task.spec), EVALUATION))  # [E]
    zero, expert = float(uniform.mean()), rows[-1]
    if goal is not None:
        expert = min(rows, key=lambda row: abs(row["return"] - goal))
    shares = [(row["sampled_return"] - zero) / (expert["return"] - zero) for row in rows]
    medium = next((row for row, x in zip(rows, shares, strict=True) if x >= 1 / 3), expert)
    if not 1 / 3 <= shares[rows.index(medium)] <= 1 / 2:
        raise UserError(
            f"{config.work}: no snapshot lies between a third and a half of the expert's score;"
            " expected more --iterations or a smaller --snapshot-growth."
        )
    for name, row in (("medium", medium), ("expert", expert)):
        data = snapshot(config, int(row["env_steps"])).read_bytes()
        files.write_bytes(out / f"{name}.safetensors", data)
    names = {0: "random", medium["env_steps"]: "medium", expert["env_steps"]: "expert"}
    sem = standard_error(uniform)
    start = {"return": zero, "sem": sem, "sampled_return": zero, "sampled_sem": sem}
    curve = [{"env_steps": 0} | start, *rows]
    named = [row | {"name": names.get(row["env_steps"], "")} for row in curve]
    write_curve(out / "mappo.csv", named)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(tyro.cli(Mappo))
