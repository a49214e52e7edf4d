"""Plain counterparts of what the suite does its own way, as one would write them first."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algorithms.nn.agent_attention import AgentAttention
from algorithms.nn.unet import GROUPS, Block, Convolution, Doubling, Pair, Residual, TeamUNet
from benchmark.task import Array, Step, Task


# ----------------------------------------------------------------------------------- temporal U-Net
def convolution(ours: Convolution) -> nn.Conv1d:
    """nn.Conv1d with the weights of ours, whose taps lie side by side."""
    n_out, width = ours.taps.weight.shape
    made = nn.Conv1d(width // ours.kernel, n_out, ours.kernel, ours.stride, ours.kernel // 2)
    weight = ours.taps.weight.detach().view(n_out, ours.kernel, -1).transpose(1, 2)
    return _with(made, weight, ours.taps.bias)


def doubling(ours: Doubling) -> nn.ConvTranspose1d:
    """nn.ConvTranspose1d of kernel 4; it has one bias, so ours must have equal ones."""
    channels = len(ours.even.bias)
    before, now = ours.even.weight.detach().split(channels, 1)
    now_too, after = ours.odd.weight.detach().split(channels, 1)
    weight = torch.stack([after, now, now_too, before], -1).transpose(0, 1)
    return _with(nn.ConvTranspose1d(channels, channels, 4, 2, 1), weight, ours.even.bias)


def _with(made: Any, weight: Tensor, bias: Tensor) -> Any:
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made


def block(ours: Block) -> nn.Sequential:
    norm = _with(nn.GroupNorm(GROUPS, len(ours.gain)), ours.gain, ours.bias)
    return nn.Sequential(convolution(ours.convolution), norm, nn.Mish())


class PlainResidual(nn.Module):
    def __init__(self, ours: Residual) -> None:
        super().__init__()
        self.first, self.second = block(ours.first), block(ours.second)
        self.shift = nn.Sequential(nn.Mish(), copy.deepcopy(ours.shift))
        self.shortcut: nn.Module = nn.Identity()
        if isinstance(ours.shortcut, nn.Linear):
            n_out, n_in = ours.shortcut.weight.shape
            made = nn.Conv1d(n_in, n_out, 1)
            self.shortcut = _with(made, ours.shortcut.weight.unsqueeze(-1), ours.shortcut.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.first(x) + self.shift(embedding).unsqueeze(-1)
        return self.second(h) + self.shortcut(x)


class PlainUNet(nn.Module):
    """TeamUNet by the library's convolutions, channels before time, with the same weights."""

    def __init__(self, ours: TeamUNet) -> None:
        super().__init__()
        with torch.no_grad():
            for layer in ours.doubling:
                assert isinstance(layer, Doubling)
                layer.odd.bias.copy_(layer.even.bias)
        self.down = nn.ModuleList(map(self._pair, ours.down))
        self.halving = nn.ModuleList(map(convolution, ours.halving))  # type: ignore[arg-type]
        self.middle = self._pair(ours.middle)
        self.up = nn.ModuleList(map(self._pair, ours.up))
        self.doubling = nn.ModuleList(map(doubling, ours.doubling))  # type: ignore[arg-type]
        self.attention = copy.deepcopy(ours.attention)
        self.last, linear = block(ours.last[0]), ours.last[1]  # type: ignore[arg-type]
        made = nn.Conv1d(linear.in_features, linear.out_features, 1)
        self.out = _with(made, linear.weight.unsqueeze(-1), linear.bias)

    @staticmethod
    def _pair(ours: Pair) -> nn.ModuleList:  # type: ignore[override]
        return nn.ModuleList([PlainResidual(ours.first), PlainResidual(ours.second)])

    def _meet(self, layer: AgentAttention, x: Tensor, embedding: Tensor) -> Tensor:
        h = x.unflatten(0, embedding.shape[:2]).transpose(2, 3)
        return layer(h, embedding).transpose(2, 3).flatten(0, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x [B, N, T, F], embedding [B, N, E] -> [B, N, T, F]."""
        h, rows = x.flatten(0, 1).transpose(1, 2), embedding.flatten(0, 1)
        skips = []
        for level, pair in enumerate(self.down):
            for residual in pair:  # type: ignore[attr-defined]
                h = residual(h, rows)
            skips.append(h)
            if level < len(self.halving):
                h = self.halving[level](h)
        for residual in self.middle:
            h = residual(h, rows)
        h = self._meet(self.attention[0], h, embedding)  # type: ignore[arg-type]
        for level, (pair, wider) in enumerate(zip(self.up, self.doubling, strict=True)):
            skip = self._meet(self.attention[level + 1], skips.pop(), embedding)  # type: ignore[arg-type]
            h = torch.cat([h, skip], 1)
            for residual in pair:  # type: ignore[attr-defined]
                h = residual(h, rows)
            h = wider(h)
        return self.out(self.last(h)).transpose(1, 2).unflatten(0, x.shape[:2])


# ------------------------------------------------------------------------------------ actor, critic
def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PlainTD3BC:
    """TD3+BC (arXiv:2106.06860) of one agent and one seed: eager, but nothing wasted."""

    def __init__(self, obs: int, act: int, width: int, lr: float = 1e-3) -> None:
        self.actor = nn.Sequential(*mlp(obs, width, width, act), nn.Tanh())
        self.critics = nn.ModuleList([mlp(obs + act, width, width, 1) for _ in range(2)])
        self.target_actor = copy.deepcopy(self.actor)
        self.target_critics = copy.deepcopy(self.critics)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr, fused=True)
        self.critic_adam = torch.optim.Adam(self.critics.parameters(), lr, fused=True)
        self.steps = 0

    def update(self, obs: Tensor, act: Tensor, rew: Tensor, after: Tensor, ended: Tensor) -> None:
        with torch.no_grad():
            x = torch.cat([after, self.target_actor(after)], -1)
            best = torch.minimum(*(critic(x).squeeze(-1) for critic in self.target_critics))
            target = rew + 0.95 * (1 - ended) * best
        x = torch.cat([obs, act], -1)
        losses = [F.mse_loss(critic(x).squeeze(-1), target) for critic in self.critics]
        self.critic_adam.zero_grad()
        (losses[0] + losses[1]).backward()
        self.critic_adam.step()
        self.steps += 1
        if self.steps % 2:
            return
        chosen = self.actor(obs)
        value = self.critics[0](torch.cat([obs, chosen], -1)).squeeze(-1)
        scale = 2.5 / value.abs().mean().detach()
        self.actor_adam.zero_grad()
        (F.mse_loss(chosen, act) - scale * value.mean()).backward()
        self.actor_adam.step()
        with torch.no_grad():
            for slow, fast in (
                (self.target_actor, self.actor),
                (self.target_critics, self.critics),
            ):
                torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 0.01)


def polyak(targets: nn.Module, online: nn.Module, tau: float) -> None:
    for target, parameter in zip(targets.parameters(), online.parameters(), strict=True):
        target.data.copy_(tau * parameter.data + (1 - tau) * target.data)


# ----------------------------------------------------------------------------- playing and sampling
class PlainDiffusionPolicy:
    """Diffusion-QL's policy for one agent: its network, and the coefficients where they are used.

    Without noise, as `act` is with `deterministic`.
    """

    def __init__(self, ours: Any, agent: int) -> None:
        layers: list[nn.Module] = []
        for linear in ours.actor.linears:
            weight = linear.weight[0, agent].T
            made = nn.Linear(weight.shape[1], weight.shape[0])
            layers += [_with(made, weight, linear.bias[0, agent, 0, : weight.shape[0]]), nn.GELU()]
        self.net = nn.Sequential(*layers[:-1])
        self.mean = ours.encoder.mean[agent, 0].clone()
        self.scale = ours.encoder.scale[agent, 0].clone()
        self.steps, self.act_dim = ours.config.denoising_steps, ours.spec.act_dim
        k = torch.arange(1, self.steps + 1, dtype=torch.float64)
        beta = 0.1 / self.steps + 0.5 * (10 - 0.1) * (2 * k - 1) / self.steps**2
        self.alpha = torch.exp(-beta)
        self.level = self.alpha.cumprod(0)

    @torch.no_grad()
    def act(self, obs: Array) -> Array:
        features = (torch.from_numpy(obs)[None] - self.mean) * self.scale  # [1, D]
        x = torch.zeros(1, self.act_dim)
        for k in reversed(range(self.steps)):
            level, alpha = self.level[k], self.alpha[k]
            before = self.level[k - 1] if k else torch.ones(())
            time = torch.tensor([[(k + 1) / self.steps, float((1 - level).sqrt())]])
            eps = self.net(torch.cat([features, x, time], -1))
            clean = ((x - (1 - level).sqrt() * eps) / level.sqrt()).clamp(-1, 1)
            a = (1 - alpha) * before.sqrt() / (1 - level)
            b = (1 - before) * alpha.sqrt() / (1 - level)
            x = (a * clean + b * x).float()
        return x[0].numpy()


def play(env: Any, policies: list[PlainDiffusionPolicy], seed: int) -> tuple[Array, Array]:
    """One episode through the PettingZoo API, an agent after the other: returns [N], and all
    observations [T, N, D].
    """
    obs, _ = env.reset(seed=seed)
    returns, seen = np.zeros(len(policies)), []
    while env.agents:
        seen.append(np.stack([obs[agent] for agent in env.possible_agents]))
        actions = {
            agent: policy.act(obs[agent])
            for agent, policy in zip(env.possible_agents, policies, strict=True)
        }
        obs, rew, _, _, _ = env.step(actions)
        returns += [rew[agent] for agent in env.possible_agents]
    return returns, np.stack(seen)


class Environments:
    """One PettingZoo environment an episode, stepped one after the other. Everyone lives to the
    end, and all episodes end together, as in MPE.
    """

    def __init__(self, task: Task, n_envs: int) -> None:
        self.envs = [task.parallel_env() for _ in range(n_envs)]
        self.agents = self.envs[0].possible_agents

    def reset(self, seeds: Sequence[int]) -> Array:
        pairs = zip(self.envs, seeds, strict=True)
        return np.stack([self._stack(env.reset(seed=int(seed))[0]) for env, seed in pairs])

    def step(self, act: Array) -> Step:
        found = [
            env.step(dict(zip(self.agents, actions, strict=True)))
            for env, actions in zip(self.envs, act, strict=True)
        ]
        obs, rew, terminated, truncated = (
            np.stack([self._stack(part[i]) for part in found]) for i in range(4)
        )
        return Step(obs, rew, terminated.all(-1), truncated.all(-1))

    def _stack(self, by_agent: dict[str, Array]) -> Array:
        return np.stack([by_agent[agent] for agent in self.agents])


class OwnEnvironments:
    """A task that is played through its PettingZoo environments."""

    def __init__(self, task: Task) -> None:
        self.task, self.spec = task, task.spec

    def arrays(self, n_envs: int) -> Environments:
        return Environments(self.task, n_envs)


# ------------------------------------------------------------------------------------- populations
class AttentionDenoiser(nn.Module):
    """Clean trajectories of a population by full attention between its particles, two layers."""

    def __init__(self, steps: int, dim: int, width: int, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.embed = heads, nn.Linear(steps * dim, width)
        self.read = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.mix = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
            for _ in range(layers)
        )
        self.head = nn.Linear(width, steps * dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, M, H, D] -> the same shape; the library's fused attention, no scores are kept."""
        h = self.embed(x.flatten(2))
        for read, mix in zip(self.read, self.mix, strict=True):
            parts = read(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(*parts)  # [B, heads, M, c]
            h = h + mix(seen.transpose(1, 2).flatten(2))
        return self.head(h).unflatten(-1, x.shape[2:])
