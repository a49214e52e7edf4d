"""What the in-sample learners of a team share: utilities Q_i and V_i, a mixer whose weights depend
on the state, their slow copies, the team's reward, and stochastic policies that act.

    (1) Q_tot(s, a) = sum_i w_i(s) Q_i(o_i, a_i) + b(s),  w_i >= 0;  V_tot(s) likewise from V_i(o_i)

The state is all agents' features side by side. An exchangeable population has no such state: there
w = 1, b = 0, and each of its agents is a team of its own, with its own reward. The total of rows
[K, M, R] is [K, 1, R] in both cases.

A dead agent stays in (1) with its observation and action as logged: at the next state (1) needs a
value for it, which has to be learned. Only the policies leave dead agents out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from algorithms.nn import categorical
from algorithms.nn.encode import (
    Encoder,
    feature_width,
    from_rows,
    mean_rows,
    n_networks,
    sampled_steps,
    to_rows,
)
from algorithms.nn.heads import StochasticPolicy, choose
from algorithms.nn.optim import Adam, polyak
from algorithms.nn.stacked import LINE, StackedMLP, generators, parameters_per_seed
from algorithms.nn.team import Parts, Rows, reward_scale, rows_of, side_by_side
from benchmark.batch import Batch, Dataset
from benchmark.errors import UserError
from benchmark.task import Array, TaskSpec

BOUNDS = {  # of the settings that these learners share; both ends are allowed
    "batch_size": (1, 2**20),
    "agents": (1, 2**20),
    "width": (1, 2**14),
    "depth": (1, 64),
    "mixer_width": (1, 2**14),
    "lr": (1e-12, 1.0),
    "gamma": (0.0, 1.0),
    "tau": (1e-12, 1.0),
}


def check_config(
    config: Any,
    bounds: Mapping[str, tuple[float, float]],
    choices: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Raise UserError for the first setting out of its bounds, or none of its words."""
    for name, (low, high) in (BOUNDS | dict(bounds)).items():
        value = getattr(config, name)
        if not low <= value <= high:  # NaN is outside too
            raise UserError(f"--config.{name} is {value}, expected {low:g} to {high:g}.")
    for name, allowed in ({"std": ("shared", "state")} | dict(choices or {})).items():
        if getattr(config, name) not in allowed:
            value, expected = getattr(config, name), " or ".join(allowed)
            raise UserError(f"--config.{name} is {value!r}, expected {expected}.")


class Mixer(nn.Module):
    """w and b of (1) by a network of the state, with one hidden layer."""

    def __init__(self, gens: Sequence[torch.Generator], spec: TaskSpec, width: int) -> None:
        super().__init__()
        self.body: StackedMLP | None = None
        if not spec.exchangeable:
            n = spec.n_agents
            self.body = StackedMLP(gens, (1,), (n * feature_width(spec), width, n + 1))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of features [K, M, R, F] -> w [K, M, R] and b [K, 1, R]."""
        if self.body is None:
            w = torch.ones_like(features[..., 0])
            return w, torch.zeros_like(w[:, :1])
        output = self.body(side_by_side(features)).squeeze(1).transpose(1, 2)  # [K, N + 1, R]
        return output[:, :-1].abs(), output[:, -1:]


def total(values: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """(1): values and w [K, M, R], b [K, 1, R] -> [K, 1, R]."""
    return (w * values).sum(1, keepdim=True) + b


class Values(nn.Module):
    """Q_i, V_i where `with_v`, and their mixer."""

    def __init__(
        self,
        gens: Sequence[torch.Generator],
        spec: TaskSpec,
        hidden: Sequence[int],
        mixer_width: int,
        with_v: bool,
    ) -> None:
        super().__init__()
        features, stack = feature_width(spec), (n_networks(spec),)
        self.discrete = spec.discrete
        # Discrete actions are outputs: one pass gives the values of all.
        sizes = (features + spec.act_dim, *hidden, spec.n_actions or 1)
        self.critic = StackedMLP(gens, stack, sizes)
        self.value = StackedMLP(gens, stack, (features, *hidden, 1)) if with_v else None
        self.mixer = Mixer(gens, spec, mixer_width)

    def q(self, features: Tensor, act: Tensor) -> Tensor:
        """Q_i(o_i, a_i): [K, M, R]."""
        if self.discrete:
            return self.critic(features).gather(-1, act.unsqueeze(-1)).squeeze(-1)
        values: Tensor = self.critic(torch.cat([features, act], -1)).squeeze(-1)
        return values

    def v(self, features: Tensor) -> Tensor:
        """V_i(o_i): [K, M, R]."""
        assert self.value is not None
        values: Tensor = self.value(features).squeeze(-1)
        return values

    def q_total(self, features: Tensor, act: Tensor) -> Tensor:
        """(1), [K, 1, R]."""
        return total(self.q(features, act), *self.mixer(features))

    def v_total(self, features: Tensor) -> Tensor:
        """(1), [K, 1, R]."""
        return total(self.v(features), *self.mixer(features))


class InSampleTeam:
    """Policies, values, slow copies and the optimiser of a group, and how they act.

    `config` has width, depth, mixer_width, std, lr and tau; `own` is what else a checkpoint holds,
    of which parameters are trained as well. No two losses of these learners share a trained weight,
    so that the gradient of their sum is every one's own, and one Adam serves all.
    """

    def __init__(
        self,
        config: Any,
        spec: TaskSpec,
        seeds: tuple[int, ...],
        device: str,
        with_v: bool,
        own: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.spec, self.seeds, self.device = config, spec, seeds, device
        gens, hidden = generators(seeds), [config.width] * config.depth
        self.encoder = Encoder(spec).to(device)
        self.policy = StochasticPolicy(gens, spec, hidden, shared_std=config.std == "shared")
        self.policy.to(device)
        self.values = Values(gens, spec, hidden, config.mixer_width, with_v).to(device)
        self.slow = copy.deepcopy(self.values).requires_grad_(False)
        own = dict(own or {})
        trained = [part for part in own.values() if isinstance(part, nn.Parameter)]
        trained = [*self.policy.parameters(), *self.values.parameters(), *trained]
        self.optimiser = Adam(trained, config.lr)
        self.reward_scale = torch.ones(1, 1, device=device)
        n = spec.n_agents
        # A team's return is linear in its agents: the weight of each, [N, 1].
        weights = np.ones(1) if spec.exchangeable else spec.team(np.eye(n))
        self.share = torch.as_tensor(weights, dtype=torch.float32, device=device)[:, None]
        self.parts = Parts(
            encoder=self.encoder,
            policy=self.policy,
            values=self.values,
            slow=self.slow,
            optimiser=self.optimiser,
            reward_scale=self.reward_scale,
            **own,
        )
        self.begin(0)

    def prepare(self, data: Dataset) -> None:
        self.encoder.fit(data)
        if self.spec.exchangeable:
            self.reward_scale.copy_(reward_scale(data, self.spec))
            return
        rew = self.spec.team(np.asarray(data.rew[sampled_steps(data)], dtype=np.float64))
        self.reward_scale.fill_(1 / rew.std() if rew.std() > 1e-6 else 1.0)

    def reward(self, rew: Tensor) -> Tensor:
        """Rewards [K, M, R] -> the team's, in standard deviations of the data: [K, 1, R]."""
        return (rew * self.share).sum(1, keepdim=True) * self.reward_scale

    def rows(self, batch: Batch) -> Rows:
        """Rows with the team's reward and end, each [K, 1, R]."""
        rows = rows_of(batch, self.spec)
        return rows._replace(rew=self.reward(rows.rew), ended=rows.ended[:, :1])

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Adam, then slow <- (1 - tau) slow + tau values."""
        self.optimiser.step(gradients)
        polyak(self.slow, self.values, self.config.tau)

    def gradients(self, losses: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """Losses [K, M or 1] -> what is shown of each [K], and the gradients of their sum."""
        whole = torch.stack([loss.sum() for loss in losses.values()]).sum()
        shown = {name: loss.detach().mean(1) for name, loss in losses.items()}
        return shown, torch.autograd.grad(whole, self.optimiser.parameters)

    def likelihood_loss(self, features: Tensor, rows: Rows, weight: Tensor) -> Tensor:
        """- E [weight log pi_i(a_i | o_i)] over living agents: [K, M]."""
        return -mean_rows(weight * self.policy.log_prob(features, rows.act), rows.alive)

    def begin(self, seed: int) -> None:
        self.rngs = categorical.generators(seed, self.seeds)

    @torch.no_grad()
    def act(self, obs: Array, mask: Array | None, t: int, deterministic: bool) -> Array:
        x = torch.as_tensor(obs, device=self.device)  # [K, E, N, D]
        rows, n_agents = to_rows(x, self.spec), x.shape[2]
        step = torch.full(rows.shape[:-1], t, device=self.device)
        features = _full_lines(self.encoder(rows, step))
        if self.spec.discrete:
            chances = self.policy.probabilities(features)[:, :, : rows.shape[2]]
            chances = from_rows(chances, self.spec, n_agents)
            if deterministic:
                return categorical.allow(chances.cpu().numpy(), mask).argmax(-1)
            return choose(chances, mask, self.rngs)
        if deterministic:
            chosen = self.policy.mode(features)
        else:
            shape = (*x.shape[1:3], self.spec.act_dim)
            drawn = np.stack([rng.standard_normal(shape, np.float32) for rng in self.rngs])
            noise = to_rows(torch.as_tensor(drawn, device=self.device), self.spec)
            chosen = self.policy.sample(features, _full_lines(noise))[0]
        return from_rows(chosen[:, :, : rows.shape[2]], self.spec, n_agents).cpu().numpy()

    @torch.no_grad()
    def policy_table(self) -> Array:
        """Populations of a finite game: pi[k, h, o, a]."""
        spec = self.spec
        if not (spec.finite and spec.exchangeable):
            raise NotImplementedError("only an exchangeable population of a finite game has one")
        assert spec.n_obs is not None
        step = torch.arange(spec.horizon, device=self.device).repeat_interleave(spec.n_obs)
        obs = torch.arange(spec.n_obs, device=self.device).repeat(spec.horizon)
        rows = self.encoder(obs[None, None, :, None], step[None, None])  # [1, 1, H O, F]
        table = self.policy.probabilities(rows.expand(len(self.seeds), -1, -1, -1))
        return table.reshape(len(self.seeds), spec.horizon, spec.n_obs, -1).cpu().numpy()

    def parameters(self) -> float:
        spread = self.policy.log_std
        padding = 0 if spread is None else spread[0, :, :, self.spec.act_dim :].numel()
        return parameters_per_seed(self.policy, self.values) - padding


def _full_lines(x: Tensor) -> Tensor:
    """Rows [..., R, F] filled up with zeros to a multiple of LINE: seeds do not meet in `tanh`."""
    return nn.functional.pad(x, (0, 0, 0, -x.shape[-2] % LINE))


def same(function: Callable[..., Any]) -> Callable[..., Any]:
    """What stands in the place of `compile_graph` where nothing is compiled."""
    return function


def exp_tangent(z: Tensor, bound: float) -> Tensor:
    """exp(z), continued by its tangent above `bound`: large z keep a gradient that is finite."""
    low = z.clamp(max=bound)
    return low.exp() + math.exp(bound) * (z - low)
