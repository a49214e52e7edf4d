"""The state of a MAPPO run and one iteration of it; see `datasets/recipes/mappo.py`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import registry
from benchmark.protocol import RECIPE_SEEDS
from benchmark.task import Array, Task
from datasets.recipes.networks import Actors, Normaliser, folded, mlp

TRAINING = (2**42, 2**62)  # seeds of training episodes are drawn from here


@dataclass(frozen=True)
class Mappo:
    task: str  # id
    seed: int = RECIPE_SEEDS[0]
    n_envs: int = 64
    length: int = 256  # steps of each environment in an iteration
    env_steps: int = 10_000_000
    shared: bool = False  # True: one actor for each group of agents; False: one for each agent
    critic: Literal["joint", "mean", "own"] = "joint"  # sees all observations; its own and the
    # mean over the living; its own only (IPPO)
    reward: Literal["team", "own"] = "team"
    bootstrap: bool = True  # past the time limit; False: it is an end, and the critic knows time
    width: int = 64  # of both hidden layers of actors
    critic_width: int = 128
    epochs: int = 5
    minibatches: int = 16
    lr: float = 3e-4  # annealed linearly to a tenth
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    entropy: float = 0.0  # bonus for discrete actions
    std: tuple[float, float] = (0.6, 0.2)  # of the Gaussian, first and last; linear between
    max_kl: float = 0.03  # an iteration's updates stop beyond this
    episodes: int = 20  # of each point of the learning curve, greedy and sampled
    first_snapshot: int = 200_000  # env steps
    snapshot_growth: float = 1.08  # later snapshots at env steps that grow by this factor


@dataclass
class Rollout:
    """T steps of E environments."""

    obs: Tensor  # [T, E, N, D]
    alive: Tensor  # [T, E, N], 1 where the agent acted in a running episode
    mask: Tensor | None  # [T, E, N, n_actions]
    act: Tensor  # [T, E, N, A] unclipped, or [T, E, N] int64
    rew: Tensor  # [T, E, N]
    time: Tensor  # [T, E] share of the horizon that is over
    terminal: Tensor  # [T, E, N], 1 where nothing lies beyond the step
    cut: Tensor  # [T, E, N], 1 where the next row belongs to another life
    final: list[tuple[int, Array, Array, Array]]  # t, environments, obs and alive past time limits


class Learner:
    """The state of a training run; `update` is one iteration."""

    def __init__(self, config: Mappo, task: Task | None = None) -> None:
        """`task`: instead of the one that the registry knows by the config's id."""
        torch.manual_seed(config.seed)
        self.config = config
        self.task = task or registry.task(config.task)
        self.spec = spec = self.task.spec
        self.rng = np.random.default_rng(config.seed)
        self.env: Any = self.task.arrays(config.n_envs)
        self.actors = Actors(spec, config.shared, config.width)
        self.scale = Normaliser(spec, self.actors.slices)
        inputs = {"joint": spec.n_agents, "mean": 2, "own": 1}[config.critic] * spec.obs_dim
        heads = spec.n_agents if config.critic == "joint" and config.reward == "own" else 1
        self.critic = mlp(
            inputs + (not config.bootstrap), config.critic_width, config.critic_width, heads
        )
        parameters = [*self.actors.parameters(), *self.critic.parameters()]
        self.optimiser = torch.optim.Adam(parameters, lr=config.lr, eps=1e-5)
        widths = [group.act_dim for group in spec.groups for _ in range(group.n_agents)]
        self.used = torch.tensor([[k < w for k in range(spec.act_dim)] for w in widths])  # [N, A]
        self.env_steps = 0
        self.cpu_seconds = 0.0
        self.spread = np.zeros(3)  # count, mean and sum of squares of the discounted reward sum
        self.rows: list[dict[str, float]] = []  # the learning curve
        self.begin()

    # ------------------------------------------------------------------------------- episodes
    def seeds(self, count: int) -> list[int]:
        return [int(seed) for seed in self.rng.integers(*TRAINING, size=count)]

    def begin(self) -> None:
        """Fresh episodes in all environments."""
        e, n = self.config.n_envs, self.spec.n_agents
        self.now: Array = self.env.reset(self.seeds(e))  # [E, N, D]
        self.running = np.ones(e, bool)  # [E]
        self.alive = np.ones((e, n), bool)  # [E, N]
        discrete = self.spec.discrete
        self.mask = np.ones((e, n, self.spec.n_actions or 0), bool) if discrete else None
        self.t = np.zeros(e)  # [E]
        self.sums = np.zeros((e, n))  # [E, N] discounted rewards so far, for their spread

    def restart(self) -> None:
        """Replace ended episodes, at once where the environment can, else when all have ended."""
        ended = (~self.running).nonzero()[0]
        if not len(ended):
            return
        if hasattr(self.env, "restart"):
            self.now = self.now.copy()
            self.now[ended] = self.env.restart(ended, self.seeds(len(ended)))
            self.running[ended], self.alive[ended] = True, True
            if self.mask is not None:
                self.mask = self.mask.copy()
                self.mask[ended] = True
            self.t[ended], self.sums[ended] = 0, 0
        elif len(ended) == len(self.running):
            self.begin()

    def std(self) -> float:
        first, last = self.config.std
        return first + (last - first) * min(1.0, self.env_steps / self.config.env_steps)

    @torch.no_grad()
    def choose(self) -> Array:
        """Actions [E, N, A] or [E, N] from the policy for the present observations."""
        outputs = self.actors(self.scale(torch.from_numpy(self.now))).numpy()
        if self.spec.discrete:
            if self.mask is not None:
                outputs = np.where(self.mask, outputs, -np.inf)
            return (outputs + self.rng.gumbel(size=outputs.shape)).argmax(-1)
        noise = self.rng.standard_normal(outputs.shape, dtype=np.float32)
        return np.tanh(outputs) + np.float32(self.std()) * noise

    def collect(self) -> Rollout:
        c, spec, final = self.config, self.spec, []
        names = ("obs", "alive", "mask", "act", "rew", "time", "terminal", "cut")
        kept: dict[str, list[Array]] = {name: [] for name in names}
        for t in range(c.length):
            self.restart()
            act, alive = self.choose(), self.alive & self.running[:, None]
            step = self.env.step(act)
            rew = step.rew * alive
            if c.reward == "team":
                rew = np.repeat(spec.team(rew)[:, None], spec.n_agents, 1)
            self.sums = self.sums * c.gamma + rew
            self._measure(self.sums[self.running])
            after = np.ones_like(alive) if step.alive is None else step.alive
            over = step.terminated | (step.truncated & (not c.bootstrap))  # [E]
            terminal = np.repeat(over[:, None], spec.n_agents, 1)
            if c.reward == "own":
                terminal = terminal | ~after
            limit = step.truncated & ~over  # [E]
            row = (self.now, alive, self.mask, act, rew, self.t / spec.horizon, terminal)
            for name, value in zip(names, (*row, terminal | limit[:, None]), strict=True):
                if value is not None:
                    kept[name].append(value)
            if (cut := (limit & self.running).nonzero()[0]).size:
                final.append((t, cut, step.obs[cut], after[cut]))
            self.env_steps += int(self.running.sum())
            self.t += self.running
            self.running = self.running & ~(step.terminated | step.truncated)
            self.now, self.alive = step.obs, after
            if step.mask is not None:
                self.mask = step.mask
        self.restart()
        arrays = {name: np.stack(rows) for name, rows in kept.items() if rows}
        for name in ("alive", "rew", "time", "terminal", "cut"):
            arrays[name] = arrays[name].astype(np.float32)
        tensors: dict[str, Any] = {name: torch.from_numpy(x) for name, x in arrays.items()}
        return Rollout(**({"mask": None} | tensors), final=final)

    def _measure(self, values: Array) -> None:
        """Merge values into the running spread of discounted reward sums."""
        n, mean, square = self.spread
        m = values.size
        if m:
            shift = values.mean() - mean
            square += values.var() * m + shift**2 * n * m / (n + m)
            self.spread = np.array([n + m, mean + shift * m / (n + m), square])

    def unit(self) -> float:
        """Spread of the discounted sum of rewards, by which rewards are divided."""
        return max(float(np.sqrt(self.spread[2] / max(self.spread[0], 1))), 1e-6)

    # --------------------------------------------------------------------------------- update
    def inputs(self, obs: Tensor, alive: Tensor, time: Tensor) -> Tensor:
        """Of the critic: normalised obs [..., N, D] -> [..., I] where joint, else [..., N, I]."""
        c = self.config
        if c.critic == "joint":
            x = obs.flatten(-2)
        elif c.critic == "mean":
            share = alive / alive.sum(-1, keepdim=True).clamp(min=1)
            mean = (obs * share[..., None]).sum(-2, keepdim=True)
            x = torch.cat([obs, mean.expand_as(obs)], -1)
        else:
            x = obs
        if c.bootstrap:
            return x
        time = time[..., None] if c.critic == "joint" else time[..., None, None]
        return torch.cat([x, time.expand(*x.shape[:-1], 1)], -1)

    def value(self, inputs: Tensor) -> Tensor:
        """[..., N]"""
        x = self.critic(inputs)
        if self.config.critic == "joint":
            return x.expand(*x.shape[:-1], self.spec.n_agents)
        return x.squeeze(-1)

    def log_prob(self, outputs: Tensor, act: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log-probability (up to a constant) and entropy (of discrete actions): [..., N] each."""
        if not self.spec.discrete:
            gap = torch.where(self.used, (act - torch.tanh(outputs)) / self.std(), 0)
            return -0.5 * (gap**2).sum(-1), torch.zeros(())
        if mask is not None:
            outputs = outputs.masked_fill(~mask, -1e9)
        logs = torch.log_softmax(outputs, -1)
        return logs.gather(-1, act[..., None]).squeeze(-1), -(logs.exp() * logs).sum(-1)

    @torch.no_grad()
    def advantages(self, r: Rollout, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Generalised advantages and values, [T, E, N], in units of `unit`."""
        c = self.config
        values = self.value(inputs)
        now = self.scale(torch.from_numpy(self.now))
        share = torch.from_numpy((self.t / self.spec.horizon).astype(np.float32))
        alive = torch.from_numpy(self.alive.astype(np.float32))
        last = self.value(self.inputs(now, alive, share))
        ahead = torch.cat([values[1:], last[None]])
        for t, cut, obs, living in r.final:
            x = self.scale(torch.from_numpy(obs))
            y = torch.from_numpy(living.astype(np.float32))
            ahead[t, cut] = self.value(self.inputs(x, y, torch.zeros(len(cut))))
        delta = r.rew / self.unit() + c.gamma * ahead * (1 - r.terminal) - values
        found, gain = torch.zeros_like(delta), torch.zeros_like(delta[0])
        for t in reversed(range(len(delta))):
            gain = delta[t] + c.gamma * c.lam * (1 - r.cut[t]) * gain
            found[t] = gain
        return found, values

    def update(self) -> None:
        begun, c = time.process_time(), self.config
        r = self.collect()
        obs = self.scale(r.obs)
        inputs = self.inputs(obs, r.alive, r.time)
        gain, values = self.advantages(r, inputs)
        rows = (r.alive.sum(-1) > 0).flatten().nonzero().squeeze(1)  # running episodes only
        alive = r.alive.flatten(0, 1)[rows]
        obs, inputs, act = (x.flatten(0, 1)[rows] for x in (obs, inputs, r.act))
        target = (gain + values).flatten(0, 1)[rows]
        gain = gain.flatten(0, 1)[rows]
        mask = None if r.mask is None else r.mask.flatten(0, 1)[rows]
        mean = (gain * alive).sum() / alive.sum()
        spread = (((gain - mean) ** 2 * alive).sum() / alive.sum()).sqrt()
        gain = (gain - mean) / (spread + 1e-8)
        with torch.no_grad():
            parts = torch.arange(len(obs)).split(8_192)
            old = [self.log_prob(self.actors(obs[i]), act[i], _rows(mask, i))[0] for i in parts]
            before = torch.cat(old)
        size = -(-len(obs) // c.minibatches)
        for _ in range(c.epochs):
            kl = 0.0
            for index in torch.randperm(len(obs)).split(size):
                new, entropy = self.log_prob(
                    self.actors(obs[index]), act[index], _rows(mask, index)
                )
                weight = alive[index] / alive[index].sum()
                log_ratio = new - before[index]
                ratio, g = log_ratio.exp(), gain[index]
                surrogate = torch.minimum(ratio * g, ratio.clamp(1 - c.clip, 1 + c.clip) * g)
                policy_loss = -((surrogate + c.entropy * entropy) * weight).sum()
                error = self.value(inputs[index]) - target[index]
                self.optimiser.zero_grad(set_to_none=True)
                (policy_loss + 0.5 * (error**2 * weight).sum()).backward()
                nn.utils.clip_grad_norm_(self.actors.parameters(), 0.5)
                nn.utils.clip_grad_norm_(self.critic.parameters(), 0.5)
                self.optimiser.step()
                kl += float((((ratio - 1) - log_ratio) * weight).detach().sum()) / c.minibatches
            if kl > c.max_kl:
                break
        self.scale.update(r.obs.flatten(0, 1), r.alive.flatten(0, 1))
        left = max(0.0, 1 - self.env_steps / c.env_steps)
        self.optimiser.param_groups[0]["lr"] = c.lr * (0.1 + 0.9 * left)
        self.cpu_seconds += time.process_time() - begun

    # ---------------------------------------------------------------------------------- state
    def weights(self) -> dict[str, Array]:
        """The arrays of an `Actor` that plays the present policy."""
        std = None if self.spec.discrete else np.full(self.spec.act_dim, self.std())
        return folded(self.actors, self.scale, std)

    def state_dict(self) -> dict[str, Any]:
        return {
            "actors": self.actors.state_dict(),
            "critic": self.critic.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scale": [self.scale.mean, self.scale.std, self.scale.count],
            "torch": torch.get_rng_state(),
            "numpy": self.rng.bit_generator.state,
            "env_steps": self.env_steps,
            "cpu_seconds": self.cpu_seconds,
            "spread": torch.from_numpy(self.spread),
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.actors.load_state_dict(state["actors"])
        self.critic.load_state_dict(state["critic"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scale.mean, self.scale.std, self.scale.count = state["scale"]
        torch.set_rng_state(state["torch"])
        self.rng.bit_generator.state = state["numpy"]
        self.env_steps, self.cpu_seconds = state["env_steps"], state["cpu_seconds"]
        self.spread, self.rows = state["spread"].numpy(), state["rows"]
        self.begin()


def _rows(mask: Tensor | None, index: Tensor) -> Tensor | None:
    return None if mask is None else mask[index]
