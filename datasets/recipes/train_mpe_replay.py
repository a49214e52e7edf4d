"""Train the off-policy learner behind the medium-replay tier of an MPE task.

    python -m datasets.recipes.train_mpe_replay --task mpe/spread-v1 --work FOLDER

MATD3 (arXiv:1910.01465) with one shared actor on the agent's own observation and a joint twin
critic. It stops at the medium level after 4,000 episodes, which are the whole of its replay. A
replay of 100,000 steps is not kept in git: the actor and its exploration width are written once per
100 episodes, and the recipe rolls each snapshot for its 100.

Differences from the paper: the actor's loss replaces all agents' actions at once, since they share
one network and one team reward [OUR CHOICE]; Gaussian exploration narrows linearly, so the replay
runs from near-random to near-greedy [OUR CHOICE]; time limits are bootstrapped through
[OUR CHOICE].
"""

from __future__ import annotations

import copy
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
from benchmark.protocol import RECIPE_SEEDS
from datasets.recipes.mpe_learning import (
    advance,
    folder,
    mlp,
    reset,
    returns,
    setting,
    start_still,
    used_actions,
    weights,
    write_curve,
)

UNIT = (
    10.0  # return that 1 of MAPPO's value stands for where this learner takes rewards as they are
)


@dataclass(frozen=True)
class Matd3:
    task: str
    work: Path  # folder of the checkpoint
    out: Path | None = None  # None: where the behaviours are committed
    seed: int = RECIPE_SEEDS[1]
    n_envs: int = 20
    episodes: int = 4_000
    snapshots: int = 40
    updates_per_step: int | None = None  # gradient steps per lockstep step of all environments
    actor_width: int = 64
    critic_width: int = 128
    batch_size: int = 256
    lr: float = 4e-4
    gamma: float = 0.95
    tau: float = 0.01
    noise: tuple[float, float] = (1.0, 0.2)  # exploration width, first and last
    target_noise: float = 0.2
    target_clip: float = 0.5
    delay: int = 2  # critic steps per actor step

    @property
    def rounds(self) -> int:
        """Lockstep episodes of all environments."""
        return self.episodes // self.n_envs


class TwinCritic(nn.Module):
    """Two values of what all agents see (the first columns) and of the joint action."""

    def __init__(self, seen: int, used: Tensor, width: int) -> None:
        super().__init__()
        self.seen, self.used = seen, used
        size = len(used) * (seen + used.shape[1])
        self.first, self.second = (mlp(size, width, width, 1) for _ in range(2))

    def forward(self, obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([obs[..., : self.seen].flatten(1), (act * self.used).flatten(1)], 1)
        return self.first(x).squeeze(-1), self.second(x).squeeze(-1)


class Matd3Learner:
    def __init__(self, config: Matd3) -> None:
        torch.manual_seed(config.seed)
        self.config, self.setting = config, setting(config.task)
        self.task = registry.task(config.task)
        spec = self.task.spec
        self.rng = np.random.default_rng(config.seed)
        self.env = self.task.arrays(config.n_envs)
        self.actor = mlp(spec.obs_dim, config.actor_width, config.actor_width, spec.act_dim)
        start_still(self.actor)
        self.critic = TwinCritic(self.setting.seen, used_actions(spec), config.critic_width)
        self.targets = copy.deepcopy(nn.ModuleList([self.actor, self.critic])).requires_grad_(False)
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), lr=config.lr)
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=config.lr)
        size = config.episodes * spec.horizon
        self.obs = torch.zeros(size, spec.n_agents, spec.obs_dim)
        self.act = torch.zeros(size, spec.n_agents, spec.act_dim)
        self.rew = torch.zeros(size)
        self.next_obs = torch.zeros_like(self.obs)
        self.round, self.stored, self.updates = 0, 0, 0
        self.kept: list[dict[str, np.ndarray]] = []  # snapshots
        self.rows: list[dict[str, float]] = []

    def width(self) -> float:
        """Standard deviation of the exploration noise in this round."""
        first, last = self.config.noise
        return first + (last - first) * self.round / self.config.rounds

    def update(self) -> None:
        c = self.config
        rows = torch.from_numpy(self.rng.integers(0, self.stored, c.batch_size))
        obs, act, rew, next_obs = (x[rows] for x in (self.obs, self.act, self.rew, self.next_obs))
        target_actor, target_critic = self.targets
        with torch.no_grad():
            noise = (c.target_noise * torch.randn_like(act)).clamp(-c.target_clip, c.target_clip)
            following = (torch.tanh(target_actor(next_obs)) + noise).clamp(-1, 1)
            goal = rew + c.gamma * torch.minimum(*target_critic(next_obs, following))
        first, second = self.critic(obs, act)
        loss = F.mse_loss(first, goal) + F.mse_loss(second, goal)
        self.critic_optimiser.zero_grad()
        loss.backward()
        self.critic_optimiser.step()
        self.updates += 1
        if self.updates % c.delay:
            return
        loss = -self.critic(obs, torch.tanh(self.actor(obs)))[0].mean()
        self.actor_optimiser.zero_grad()
        loss.backward()
        self.actor_optimiser.step()
        with torch.no_grad():
            online = [*self.actor.parameters(), *self.critic.parameters()]
            for target, parameter in zip(self.targets.parameters(), online, strict=True):
                target.lerp_(parameter, c.tau)

    def run_round(self) -> None:
        """One episode of every environment, learning as it goes."""
        now, e = reset(self.env, self.rng), self.config.n_envs
        for _ in range(self.task.spec.horizon):
            with torch.no_grad():
                mean = torch.tanh(self.actor(torch.from_numpy(now))).numpy()
            noise = self.rng.standard_normal(mean.shape, dtype=np.float32)
            act = np.clip(mean + np.float32(self.width()) * noise, -1, 1)
            following, reward = advance(self.env, self.setting, act)
            at = slice(self.stored, self.stored + e)
            self.obs[at], self.act[at] = torch.from_numpy(now), torch.from_numpy(act)
            reward = (reward - self.setting.level) * (UNIT / self.setting.unit)
            self.rew[at] = torch.from_numpy(reward.astype(np.float32))
            self.next_obs[at] = torch.from_numpy(following)
            now = following
            self.stored += e
            for _ in range(self.config.updates_per_step or self.setting.replay_updates):
                self.update()
        self.round += 1

    def snapshot(self) -> None:
        """Keep the actor that explores next, and log what it earns."""
        arrays = weights(self.actor, np.full(self.task.spec.act_dim, self.width()))
        self.kept.append(arrays)
        counts: dict[str, float] = {"env_steps": self.stored, "updates": self.updates}
        self.rows.append(counts | returns(self.task, Actor(arrays)))

    def state_dict(self) -> dict[str, Any]:
        n = self.stored
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "targets": self.targets.state_dict(),
            "optimisers": [self.actor_optimiser.state_dict(), self.critic_optimiser.state_dict()],
            "replay": [self.obs[:n], self.act[:n], self.rew[:n], self.next_obs[:n]],
            "torch": torch.get_rng_state(),
            "numpy": self.rng.bit_generator.state,
            "counts": [self.round, self.stored, self.updates],
            "kept": self.kept,
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.targets.load_state_dict(state["targets"])
        for optimiser, saved in zip(
            (self.actor_optimiser, self.critic_optimiser), state["optimisers"], strict=True
        ):
            optimiser.load_state_dict(saved)
        self.round, self.stored, self.updates = state["counts"]
        replay = (self.obs, self.act, self.rew, self.next_obs)
        for buffer, saved in zip(replay, state["replay"], strict=True):
            buffer[: self.stored] = saved
        torch.set_rng_state(state["torch"])
        self.rng.bit_generator.state = state["numpy"]
        self.kept = [{k: v.numpy() for k, v in kept.items()} for kept in state["kept"]]
        self.rows = state["rows"]


def train(config: Matd3) -> None:
    learner = Matd3Learner(config)
    saved = config.work / "matd3.safetensors"
    if saved.exists():
        learner.load_state_dict(checkpoint.load(saved))
    start = time.process_time()
    while learner.round < config.rounds:
        if learner.round % (config.rounds // config.snapshots) == 0:
            learner.snapshot()
            row = " ".join(f"{k} {v:.6g}" for k, v in learner.rows[-1].items())
            print(f"{time.process_time() - start:.0f} s {row}", flush=True)
            checkpoint.save(saved, learner.state_dict())
        learner.run_round()
    # Half precision: the recipe hashes and rolls these very numbers, so nothing is lost twice.
    stacked = {
        k: np.stack([s[k] for s in learner.kept]).astype(np.float16) for k in learner.kept[0]
    }
    out = config.out or folder(config.task)
    files.write_bytes(out / "replay.safetensors", to_bytes(stacked))
    write_curve(out / "replay.csv", learner.rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(tyro.cli(Matd3))
