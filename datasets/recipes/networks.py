"""Networks of the trainers: one for each agent or group, their normaliser, and their weights as
`benchmark.envs.actor.Actor` reads them.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.task import Array, TaskSpec


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
