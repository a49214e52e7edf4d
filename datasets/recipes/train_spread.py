"""Train the behaviours of `mpe/spread-v1`: `python -m datasets.recipes.train_spread mappo|replay --work FOLDER`.

`mappo` trains the shared actor whose checkpoints become the behaviours `medium` and `expert` (MAPPO, arXiv:2103.01955);
`replay` trains MATD3 (arXiv:1910.01465) and keeps its actor's snapshots, from which the medium-replay tier is rolled.
Both run on one torch thread, take every random number from their recipe seed, select by environment steps and never by
time, and so end with the same bits on equal hardware. A killed run goes on from its checkpoint in FOLDER. What is
committed in `datasets/behaviours/mpe-spread` is exactly what these two commands write there.
"""

from __future__ import annotations

import csv
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import checkpoint, files
from benchmark.envs.spread import BEHAVIOURS, HORIZON, N, OBS_DIM, Actor, Spread, SpreadArrays
from benchmark.evaluate import rollout
from benchmark.protocol import RECIPE_SEEDS

TASK = Spread()
EVALUATION = [2**41 + i for i in range(1_000)]  # episodes of the learning curve
ACT_DIM = 2


def mlp(*sizes: int) -> nn.Sequential:
    """ReLU layers with orthogonal weights and zero biases."""
    layers: list[nn.Module] = []
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
        linear = nn.Linear(before, after)
        nn.init.orthogonal_(linear.weight, 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def weights(net: nn.Sequential, std: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a `benchmark.envs.spread.Actor`."""
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    arrays = {"std": std.astype(np.float32)}
    for k, linear in enumerate(linears):
        arrays[f"w{k}"] = linear.weight.detach().numpy().T.copy()
        arrays[f"b{k}"] = linear.bias.detach().numpy().copy()
    return arrays


def team_return(actor: Actor, deterministic: bool) -> tuple[float, float]:
    """Mean team return over the curve's episodes, and its standard error."""
    returns = TASK.spec.team(rollout(TASK, actor, EVALUATION, deterministic))  # [E]
    return float(returns.mean()), float(returns.std(ddof=1) / len(returns) ** 0.5)


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    files.write_text(path, text.getvalue())


def reset(env: SpreadArrays, rng: np.random.Generator) -> np.ndarray:
    """Fresh episodes from the learner's own generator (seeding each like mpe2 would cost more than its steps)."""
    points = rng.uniform(-1, 1, (2, env.n_envs, N, 2))
    return env.place(points[0], points[1])


@dataclass(frozen=True)
class Mappo:
    """One actor shared by all agents, on the agent's own observation; one value of the joint observation and time."""

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
    std: float = 0.6  # of the Gaussian at the start
    snapshot_growth: float = (
        1.06  # snapshots at env steps that grow by this factor, at least one iteration apart
    )


def joint(obs: Tensor, t: Tensor) -> Tensor:
    """Input of the value: all agents' observations without the silent messages, and time: [..., 3 * 14 + 1]."""
    return torch.cat([obs[..., :14].flatten(-2), t[..., None] / HORIZON], -1)


class MappoLearner:
    def __init__(self, config: Mappo) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.rng = np.random.default_rng(config.seed)
        self.env = SpreadArrays(config.n_envs)
        self.actor = mlp(OBS_DIM, config.width, config.width, ACT_DIM)
        self.value = mlp(N * 14 + 1, config.width, config.width, 1)
        with torch.no_grad():
            self.actor[-1].weight.mul_(0.01)  # starts near the zero force
        self.log_std = nn.Parameter(torch.full((ACT_DIM,), float(np.log(config.std))))
        parameters = [*self.actor.parameters(), self.log_std, *self.value.parameters()]
        self.optimiser = torch.optim.Adam(parameters, lr=config.lr, eps=1e-5)
        self.iteration, self.rows = 0, []  # type: int, list[dict[str, float]]

    def log_prob(self, mean: Tensor, act: Tensor) -> Tensor:
        return (-0.5 * ((act - mean) / self.log_std.exp()) ** 2 - self.log_std).sum(-1)

    def collect(self) -> tuple[Tensor, Tensor, Tensor]:
        """25 steps of every environment: obs [T, E, N, D], unclipped act [T, E, N, A], team reward [T, E]."""
        obs, act, rew = [], [], []
        now = reset(self.env, self.rng)
        std = self.log_std.detach().exp().numpy()
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
        return weights(self.actor, self.log_std.detach().exp().numpy())

    def env_steps(self) -> int:
        return self.iteration * self.config.n_envs * HORIZON

    def state_dict(self) -> dict[str, Any]:
        return {
            "actor": self.actor.state_dict(),
            "value": self.value.state_dict(),
            "log_std": self.log_std.data,
            "optimiser": self.optimiser.state_dict(),
            "torch": torch.get_rng_state(),
            "numpy": self.rng.bit_generator.state,
            "iteration": self.iteration,
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.actor.load_state_dict(state["actor"])
        self.value.load_state_dict(state["value"])
        self.log_std.data.copy_(state["log_std"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch"])
        self.rng.bit_generator.state = state["numpy"]
        self.iteration, self.rows = state["iteration"], state["rows"]


def train_mappo(config: Mappo) -> None:
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
            files.write_bytes(
                config.work / f"mappo-{learner.env_steps()}.safetensors", to_bytes(arrays)
            )
            greedy, greedy_sem = team_return(Actor(arrays), True)
            sampled, sampled_sem = team_return(Actor(arrays), False)
            row = {"env_steps": learner.env_steps(), "return": greedy, "sem": greedy_sem}
            row |= {"sampled_return": sampled, "sampled_sem": sampled_sem}
            learner.rows.append(row)
            checkpoint.save(saved, learner.state_dict())
            cpu = time.process_time() - start
            print(
                f"{cpu:.0f} s", *(f"{k} {v:.6g}" for k, v in row.items()), arrays["std"], flush=True
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_mappo(tyro.cli(Mappo))
