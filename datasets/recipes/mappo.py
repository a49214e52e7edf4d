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
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import save as to_bytes
from torch import Tensor, nn

from benchmark import checkpoint, files, registry
from benchmark.envs.actor import Actor
from benchmark.errors import UserError
from benchmark.evaluate import rollout
from benchmark.protocol import RECIPE_SEEDS
from benchmark.reference import UniformPolicy
from benchmark.task import Array, Task, TaskSpec

EVALUATION = 2**41  # first seed of the learning curve's episodes
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


def mlp(*sizes: int) -> nn.Sequential:
    """ReLU layers with orthogonal weights and zero biases; the last layer starts near zero."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.orthogonal_(linear.weight, 0.01 if len(layers) == 2 * len(sizes) - 4 else 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Actors(nn.Module):
    """One network for each agent, or for each group of agents."""

    def __init__(self, spec: TaskSpec, shared: bool, width: int) -> None:
        super().__init__()
        counts = [group.n_agents for group in spec.groups] if shared else [1] * spec.n_agents
        ends = np.cumsum(counts)
        self.slices = [slice(int(e - c), int(e)) for e, c in zip(ends, counts, strict=True)]
        outputs = spec.n_actions or spec.act_dim
        self.nets = nn.ModuleList(mlp(spec.obs_dim, width, width, outputs) for _ in counts)

    def forward(self, obs: Tensor) -> Tensor:
        """obs [..., N, D] -> [..., N, A]: means before their tanh, or logits."""
        parts = [net(obs[..., s, :]) for net, s in zip(self.nets, self.slices, strict=True)]
        return torch.cat(parts, -2)


class Normaliser:
    """Running mean and spread of observations, pooled over the agents of a network."""

    def __init__(self, spec: TaskSpec, slices: list[slice]) -> None:
        self.slices = slices
        self.mean = torch.zeros(spec.n_agents, spec.obs_dim)  # [N, D]
        self.std = torch.ones(spec.n_agents, spec.obs_dim)
        self.count = torch.zeros(spec.n_agents, 1)  # [N, 1]

    def __call__(self, obs: Tensor) -> Tensor:
        return (obs - self.mean) / self.std

    def update(self, obs: Tensor, weight: Tensor) -> None:
        """obs [B, N, D], weight [B, N] of 0 or 1."""
        for s in self.slices:
            rows = obs[:, s][weight[:, s] > 0].double()  # [R, D]
            if len(rows) < 2:
                continue
            n, m = float(self.count[s][0]), len(rows)
            mean, var = self.mean[s][0].double(), self.std[s][0].double() ** 2 - 1e-4
            shift = rows.mean(0) - mean
            square = m * rows.var(0, correction=0) + n * var + shift**2 * n * m / (n + m)
            self.mean[s] = (mean + shift * m / (n + m)).float()
            self.std[s] = (square / (n + m) + 1e-4).sqrt().float()
            self.count[s] = n + m


def folded(actors: Actors, scale: Normaliser, std: Array | None) -> dict[str, Array]:
    """The arrays of an `Actor`: the normaliser is part of the first layer."""
    nets: list[dict[str, Array]] = []
    for net, s in zip(actors.nets, actors.slices, strict=True):
        arrays: dict[str, Array] = {}
        linears = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
        for k, linear in enumerate(linears):
            w, b = linear.weight.detach().double().T, linear.bias.detach().double()
            if k == 0:
                w = w / scale.std[s][0].double()[:, None]
                b = b - scale.mean[s][0].double() @ w
            arrays |= {f"w{k}": w.float().numpy().copy(), f"b{k}": b.float().numpy().copy()}
        nets += [arrays] * (s.stop - s.start)
    one = len(actors.nets) == 1
    found = nets[0] if one else {name: np.stack([net[name] for net in nets]) for name in nets[0]}
    return found if std is None else found | {"std": std.astype(np.float32)}


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

    def __init__(self, config: Mappo) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.task: Task = registry.task(config.task)
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
        self.mask: Array | None = None
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
            self.now, self.alive, self.mask = step.obs, after, step.mask
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


# ------------------------------------------------------------------------------------ a whole run
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
    """Write expert, medium, replay (at most so many snapshots up to medium, stacked) and the curve
    to `out`. Medium is the first snapshot a third to a half of the way from uniform to the expert.
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
    picked = np.unique(np.linspace(0, len(up_to) - 1, min(replays, len(up_to))).round().astype(int))
    stack = [_arrays(snapshot(work, up_to[k]["env_steps"])) for k in picked]
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


def _arrays(path: Path) -> dict[str, Array]:
    from benchmark.envs.actor import load_arrays

    return load_arrays(path)
