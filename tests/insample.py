"""Small problems and plain networks for the tests of the in-sample learners."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from algorithms.nn.mixer import InSampleTeam
from benchmark.algorithm import Algorithm, build_group
from benchmark.batch import Batch
from benchmark.checks.fixtures import ToyDataset, toy_dataset
from benchmark.task import Group, TaskSpec

SMALL = {"width": 32, "mixer_width": 16, "batch_size": 48}
CONTINUOUS = TaskSpec(id="toy/aim-v1", groups=(Group("agent", 2, 1, 1),), horizon=1)
DISCRETE = TaskSpec(id="toy/pick-v1", groups=(Group("agent", 2, 1),), horizon=1, n_actions=3)


def plain(mlp: Any, *entry: int) -> nn.Sequential:
    """An ordinary ReLU network with the weights of one entry of a stack."""
    layers: list[nn.Module] = []
    for i, linear in enumerate(mlp.linears):
        n_in, n_out = linear.weight.shape[-2:]
        layer = nn.Linear(n_in, n_out)
        layer.weight.data = linear.weight[entry].T.clone()
        layer.bias.data = linear.bias[entry][0, :n_out].clone()
        layers += [layer] if i == 0 else [nn.ReLU(), layer]
    return nn.Sequential(*layers)


class PlainValues:
    """Q_i, V_i, w and b of seed k by ordinary networks; `x` and `a` are lists over agents."""

    def __init__(self, team: InSampleTeam, values: Any, k: int) -> None:
        self.discrete = team.spec.discrete
        agents = range(team.spec.n_agents)
        self.critics = [plain(values.critic, k, i) for i in agents]
        self.values = [plain(values.value, k, i) for i in agents] if values.value else []
        self.body = plain(values.mixer.body, k, 0)

    def q(self, i: int, x: list[Tensor], a: list[Tensor]) -> Tensor:
        if self.discrete:
            table: Tensor = self.critics[i](x[i])
            return torch.stack([row[action] for row, action in zip(table, a[i], strict=True)])
        values: Tensor = self.critics[i](torch.cat([x[i], a[i]], -1))[:, 0]
        return values

    def v(self, i: int, x: list[Tensor]) -> Tensor:
        values: Tensor = self.values[i](x[i])[:, 0]
        return values

    def mix(self, x: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        output = self.body(torch.cat(x, -1))
        return [output[:, i].abs() for i in range(len(x))], output[:, -1]

    def q_total(self, x: list[Tensor], a: list[Tensor]) -> Tensor:
        w, b = self.mix(x)
        return b + sum((w[i] * self.q(i, x, a) for i in range(len(x))), torch.zeros(()))

    def v_total(self, x: list[Tensor]) -> Tensor:
        w, b = self.mix(x)
        return b + sum((w[i] * self.v(i, x) for i in range(len(x))), torch.zeros(()))


def plain_log_prob(team: InSampleTeam, k: int, i: int, x: Tensor, a: Tensor) -> Tensor:
    """log pi_i(a | x) by torch.distributions; logged actions inside the box."""
    output = plain(team.policy.body, k, i)(x)
    if team.spec.discrete:
        return torch.distributions.Categorical(logits=output).log_prob(a)
    widths = [group.act_dim for group in team.spec.groups for _ in range(group.n_agents)]
    own = slice(0, widths[i])
    if team.policy.log_std is None:
        mean, log_std = output.chunk(2, -1)
    else:
        mean, log_std = output, team.policy.log_std[k, i, :, : output.shape[-1]].expand_as(output)
    normal = torch.distributions.Normal(mean[:, own], log_std.clamp(-5, 2).exp()[:, own])
    squash = torch.distributions.transforms.TanhTransform()
    law = torch.distributions.TransformedDistribution(normal, [squash])
    return law.log_prob(a[:, own].clamp(-0.99, 0.99)).sum(-1)


def grown(
    cls: type[Algorithm], spec: TaskSpec, seeds: tuple[int, ...] = (4, 7), **config: Any
) -> tuple[Any, Batch]:
    """An algorithm after some updates, and a batch with ends and deaths in it."""
    data, rngs = toy_dataset(spec), [np.random.default_rng(seed) for seed in seeds]
    algorithm = build_group(cls, cls.Config(**{**SMALL, "lr": 1e-2, **config}), spec, seeds)
    algorithm.prepare(data, 1, rngs)
    for _ in range(5):
        algorithm.update(algorithm.sample(data, rngs))
    batch = algorithm.sample(data, rngs)
    gen = torch.Generator().manual_seed(9)
    batch.terminated = (torch.rand(batch.terminated.shape, generator=gen) < 0.3).float()
    batch.alive = torch.rand(batch.rew.shape, generator=gen) < 0.8
    return algorithm, batch


def living_mean(x: Tensor, alive: Tensor) -> Tensor:
    return (x * alive).sum() / alive.sum()


class OneStep(ToyDataset):
    """Uniform actions in one-step episodes that terminate; the agents' pay adds up."""

    def transitions(self, *args: Any, **kwargs: Any) -> Batch:
        batch = super().transitions(*args, **kwargs)
        return dataclasses.replace(batch, terminated=torch.ones_like(batch.terminated))

    def windows(self, *args: Any, **kwargs: Any) -> Batch:
        batch = super().windows(*args, **kwargs)
        return dataclasses.replace(batch, terminated=torch.ones_like(batch.terminated))


def one_step(spec: TaskSpec, n: int = 2_000) -> OneStep:
    """Continuous: pay falls with the distance to 1/2; discrete: action 2 pays most."""
    rng = np.random.default_rng(0)
    toy = toy_dataset(spec, n)
    if spec.discrete:
        act = rng.integers(3, size=(n, 2))
        rew = np.array([0.0, 0.5, 1.0])[act]
    else:
        act = rng.uniform(-1, 1, (n, 2, 1)).astype(np.float32)
        rew = -np.abs(act[..., 0] - 0.5)
    arrays = {
        "obs": np.ones_like(toy.obs),
        "next_obs": np.ones_like(toy.next_obs),
        "act": act,
        "rew": rew.astype(np.float32),
    }
    return OneStep(**{**vars(toy), **arrays, "logp": None})


def played(cls: type[Algorithm], spec: TaskSpec, updates: int, **config: Any) -> np.ndarray:
    """Mean pay of sampled (discrete) or deterministic play after training on `one_step`."""
    data, rngs = one_step(spec), [np.random.default_rng(0)]
    settings = {**SMALL, "lr": 2e-2, "batch_size": 64, **config}
    algorithm = build_group(cls, cls.Config(**settings), spec, (0,))
    algorithm.prepare(data, updates, rngs)
    for _ in range(updates):
        algorithm.update(algorithm.sample(data, rngs))
    algorithm.begin(256, 0)
    act = algorithm.act(np.ones((1, 256, 2, 1), np.float32), None, None, 0, not spec.discrete)
    return np.array([0.0, 0.5, 1.0])[act] if spec.discrete else -np.abs(act[..., 0] - 0.5)
