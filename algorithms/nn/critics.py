"""What the conservative value learners of a team share: twin critics that see many candidate
actions at once, conservative penalties (CQL, arXiv:2006.04779), and the actors that climb them.

An action is what a critic sees of it: the vector itself, or the one-hot of a discrete action. A
critic is an agent's own, Q_i(o_i, a_i), or with `joint` one of the team, Q(o_1 .. o_N, a_1 .. a_N).

    (1) target   y = r + gamma (1 - terminated) min_j Q'_j(o', pi'(o'))
    (2) error    L_TD = sum_j E (Q_j(o, a) - y)^2
    (3) penalty  P = log 1/S sum_s exp(Q(o, a_s)) / q(a_s) - Q(o, a),  a_s ~ q; discrete: over all
    (4) slow     theta' <- (1 - tau) theta' + tau theta
    (5) actors   lose c_a |pi|^2 + c_x |x|^2, x their output before tanh; discrete: -c_h H(pi)

Without (5) an actor that follows the gradient of Q ends in a corner of the box, where tanh has no
gradient (or on one action, where softmax has none), before the critic has taken its shape, and
never leaves it. The releases have the first term alone, which cannot prevent that.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algorithms.nn import categorical
from algorithms.nn.encode import (
    Encoder,
    action_mask,
    feature_width,
    from_rows,
    mean_rows,
    n_networks,
    to_rows,
)
from algorithms.nn.heads import choose
from algorithms.nn.optim import Adam, polyak
from algorithms.nn.stacked import StackedLinear, StackedMLP, generators, parameters_per_seed
from algorithms.nn.team import NOISE_SEEDS, Parts, Rows, reward_scale, side_by_side
from benchmark.batch import Dataset
from benchmark.errors import UserError
from benchmark.task import Array, TaskSpec

EDGE = 1e-6  # a uniform number is kept this far inside (0, 1), where the normal quantile is finite


BOUNDS = {  # of the settings that these learners share; both ends are allowed
    "batch_size": (1, 2**20),
    "agents": (1, 2**20),
    "width": (1, 2**14),
    "depth": (1, 64),
    "lr": (1e-12, 1.0),
    "gamma": (0.0, 1.0),
    "tau": (1e-12, 1.0),
    "cql_alpha": (0.0, 1e6),
    "cql_samples": (1, 2**14),
    "cql_batch": (0, 2**20),
    "policy_delay": (1, 2**20),
    "action_l2": (0.0, 1e6),
    "output_l2": (0.0, 1e6),
    "entropy": (0.0, 1e6),
}


def check_bounds(config: Any, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Raise UserError for a setting outside its bounds."""
    for name, (low, high) in (BOUNDS | dict(bounds)).items():
        value = getattr(config, name, low)  # OMAR has no discrete actions, so no entropy
        if not low <= value <= high:  # NaN is outside too
            raise UserError(f"--config.{name} is {value}, expected {low:g} to {high:g}.")


def check_choice(config: Any, name: str, allowed: Sequence[str]) -> None:
    """Raise UserError for a setting that is none of the allowed words."""
    value = getattr(config, name)
    if value not in allowed:
        raise UserError(f"--config.{name} is {value!r}, expected {' or '.join(allowed)}.")


def action_width(spec: TaskSpec) -> int:
    """Numbers of one agent's action as a critic sees it."""
    return spec.n_actions or spec.act_dim


class CandidateCritics(nn.Module):
    """Twin critics. The first layer is linear, so that its part of the observations is computed
    once for all candidate actions of a row.
    """

    def __init__(
        self, gens: Sequence[torch.Generator], spec: TaskSpec, hidden: Sequence[int], joint: bool
    ) -> None:
        super().__init__()
        self.joint = joint
        together = spec.n_agents if joint else 1
        self.n_features = together * feature_width(spec)
        sizes = (self.n_features + together * action_width(spec), *hidden, 1)
        self.body = StackedMLP(gens, (1 if joint else n_networks(spec), 2), sizes)

    def forward(self, features: Tensor, act: Tensor) -> Tensor:
        """Values [K, M, 2, R] (joint: [K, 1, 2, R]) of rows [K, M, R, ...]."""
        if self.joint:
            features, act = side_by_side(features), side_by_side(act)
        x = torch.cat([features, act], -1).unsqueeze(2).expand(-1, -1, 2, -1, -1)
        values: Tensor = self.body(x).squeeze(-1)
        return values

    def own(
        self, features: Tensor, act: Tensor, candidates: Tensor | None, head: int | None = None
    ) -> Tensor:
        """Values [K, M, 2, S, R] (one head: [K, M, 1, S, R]) where the own action is each of
        candidates [K, M, S, R, C], the others' stay at `act`; None: each of the discrete actions.
        """
        base, by_action = self._first(features, head)  # [K, ., H, R, W], [K, ., H, (N) C, W]
        if self.joint:  # below [K, H, N, ...]: own action in, logged action out
            n, n_heads = features.shape[1], base.shape[2]
            by_action = by_action.squeeze(1).unflatten(2, (n, -1))  # [K, H, N, C, W]
            logged = _product(act.unsqueeze(1).expand(-1, n_heads, -1, -1, -1), by_action)
            team = base.squeeze(1) + logged.sum(2)  # [K, H, R, W]
            rest = (team.unsqueeze(2) - logged).unsqueeze(3)  # [K, H, N, 1, R, W]
        else:
            rest = base.unsqueeze(3)  # [K, M, H, 1, R, W]
        if candidates is None:
            x = by_action.unsqueeze(-2)  # a one-hot picks a row of the weights
        else:
            axis = 1 if self.joint else 2
            x = candidates.flatten(2, 3).unsqueeze(axis)  # [K, ., ., S R, C]
            x = _product(x.expand(*by_action.shape[:3], -1, -1), by_action)
            x = x.unflatten(3, candidates.shape[2:4])
        hidden = torch.relu_(rest + x)  # in place: these are the largest arrays of an update
        shape = hidden.shape
        if self.joint:
            values = self._rest(hidden.flatten(2, 4).unsqueeze(1), head).squeeze(1)
            return values.unflatten(2, shape[2:5]).transpose(1, 2)
        return self._rest(hidden.flatten(3, 4), head).unflatten(3, shape[3:5])

    def together(self, features: Tensor, candidates: Tensor) -> Tensor:
        """Joint only: values [K, 1, 2, S, R] where all agents take candidates [K, N, S, R, C]."""
        base, by_action = self._first(features, None)
        x = side_by_side(candidates.flatten(2, 3)).unsqueeze(2).expand(-1, -1, 2, -1, -1)
        x = _product(x, by_action).unflatten(3, candidates.shape[2:4])
        hidden = torch.relu_(base.unsqueeze(3) + x)
        return self._rest(hidden.flatten(3, 4), None).unflatten(3, hidden.shape[3:5])

    def _first(self, features: Tensor, head: int | None) -> tuple[Tensor, Tensor]:
        """What observations add to the first layer, and its weights of actions."""
        layer = self.body.linears[0]
        assert isinstance(layer, StackedLinear)
        heads = slice(None) if head is None else slice(head, head + 1)
        weight, bias = layer.weight[:, :, heads], layer.bias[:, :, heads]
        if self.joint:
            features = side_by_side(features)
        x = features.unsqueeze(2).expand(-1, -1, weight.shape[2], -1, -1)
        base = _product(x, weight[..., : self.n_features, :]) + bias[..., : weight.shape[-1]]
        return base, weight[..., self.n_features :, :]

    def _rest(self, hidden: Tensor, head: int | None) -> Tensor:
        """From activations of the first layer [K, M, H, rows, W] to values [K, M, H, rows]."""
        if head is not None:
            hidden = hidden.squeeze(2)
        for layer in self.body.linears[1:-1]:
            hidden = torch.relu(layer(hidden, head))
        values = self.body.linears[-1](hidden, head).squeeze(-1)
        return values if head is None else values.unsqueeze(2)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """Stacked matrices [..., R, I] times [..., I, O], as one batched product."""
    product = torch.bmm(x.flatten(0, -3), weight.flatten(0, -3))
    return product.unflatten(0, weight.shape[:-2])


def first_rows(n_rows: int, n_batch: int, used: int) -> int:
    """Rows of the first `used` of a batch's transitions, 0: of all of them."""
    return n_rows if used == 0 else n_rows // n_batch * min(used, n_batch)


def uniform_candidates(u: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Uniform draws of each agent's box from u [K, M, S, R, A], and their log-density [M, 1, 1]."""
    return (2 * u - 1) * mask.unsqueeze(1), -math.log(2) * mask.sum(-1, keepdim=True)


def nearby_candidates(u: Tensor, mean: Tensor, std: float, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Draws around mean [K, M, R, A] from u [K, M, S, R, A], and their log-density [K, M, S, R]:
    normal laws cut off at the box, since a clipped draw has no density.
    """
    mean = mean.unsqueeze(2)
    low, high = ((torch.special.ndtr((edge - mean) / std)) for edge in (-1, 1))
    z = torch.special.ndtri((low + u * (high - low)).clamp(EDGE, 1 - EDGE))
    density = -0.5 * z.square() - math.log(std * math.sqrt(2 * math.pi)) - (high - low).log()
    mask = mask.unsqueeze(1)
    return (mean + std * z).clamp(-1, 1) * mask, (density * mask).sum(-1)


def soft_maximum(
    values: Tensor, log_density: Tensor | None, logged: Tensor | None = None
) -> Tensor:
    """The first part of (3), an estimate of log of the integral of exp Q: [K, M, 2, S, R] ->
    [K, M, 2, R]; log_density [K, M, S, R] of the candidates, None: a sum over all actions.

    `logged` [K, M or 1, 2, R], values of the logged actions, makes those one more candidate.
    """
    if log_density is None:
        return values.logsumexp(3)
    values = values - log_density.unsqueeze(2)
    if logged is not None:
        widest = log_density[:, :, :1].unsqueeze(2)  # of the first draw, which is uniform
        rest = (logged.unsqueeze(3) - widest).expand(*values.shape[:3], 1, -1)
        values = torch.cat([values, rest], 3)
    return values.logsumexp(3) - math.log(values.shape[3])


class Actors(nn.Module):
    """One policy an agent: deterministic in [-1, 1], or a softmax of discrete actions."""

    mask: Tensor

    def __init__(
        self, gens: Sequence[torch.Generator], spec: TaskSpec, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        self.spec = spec
        sizes = (feature_width(spec), *hidden, action_width(spec))
        self.body = StackedMLP(gens, (n_networks(spec),), sizes)
        mask = torch.ones(n_networks(spec), 1, action_width(spec))
        self.register_buffer("mask", mask if spec.discrete else action_mask(spec), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Actions [K, M, R, A], or probabilities [K, M, R, A] of discrete ones."""
        return self.squash(self.body(features))

    def squash(self, output: Tensor) -> Tensor:
        """From the network's output to the same."""
        return output.softmax(-1) if self.spec.discrete else torch.tanh(output) * self.mask

    def best(self, features: Tensor) -> Tensor:
        """The action, or the one-hot of the most likely one, as a critic sees it."""
        if self.spec.discrete:
            return F.one_hot(self.body(features).argmax(-1), action_width(self.spec)).float()
        return self(features)


class ActorCritic:
    """Actors, twin critics, their slow copies and optimisers of a group, and how they act.

    `config` has width, depth, lr, gamma, tau. An exchangeable population has no joint critic.
    """

    def __init__(
        self, config: Any, spec: TaskSpec, seeds: tuple[int, ...], device: str, joint: bool
    ) -> None:
        self.config, self.spec, self.seeds, self.device = config, spec, seeds, device
        gens, hidden = generators(seeds), [config.width] * config.depth
        self.encoder = Encoder(spec).to(device)
        self.actor = Actors(gens, spec, hidden).to(device)
        self.critic = CandidateCritics(gens, spec, hidden, joint).to(device)
        self.target_actor = copy.deepcopy(self.actor)
        self.target_critic = copy.deepcopy(self.critic)
        self.actor_optimiser = Adam(list(self.actor.parameters()), config.lr)
        self.critic_optimiser = Adam(list(self.critic.parameters()), config.lr)
        self.reward_scale = torch.ones(n_networks(spec), 1, device=device)
        self.noise = generators([seed + NOISE_SEEDS for seed in seeds])
        self.parts = Parts(
            encoder=self.encoder,
            actor=self.actor,
            critic=self.critic,
            target_actor=self.target_actor,
            target_critic=self.target_critic,
            actor_optimiser=self.actor_optimiser,
            critic_optimiser=self.critic_optimiser,
            reward_scale=self.reward_scale,
            noise=self.noise,
        )
        self.begin(0)

    def prepare(self, data: Dataset) -> None:
        self.encoder.fit(data)
        self.reward_scale.copy_(reward_scale(data, self.spec))

    def actions(self, act: Tensor) -> Tensor:
        """Logged actions as a critic sees them: [K, M, R, C]."""
        return F.one_hot(act, action_width(self.spec)).float() if self.spec.discrete else act

    def target(self, rows: Rows, noise: Tensor | None = None) -> Tensor:
        """(1) with scaled rewards, [K, M, R]; a joint critic's reward is the mean of the living
        agents', [K, 1, R]. `noise` [K, M, R, A] is added to the actions of pi'.
        """
        with torch.no_grad():
            after = self.encoder(rows.next_obs, rows.step + 1)
            chosen = self.target_actor.best(after)
            if noise is not None:
                chosen = (chosen + noise).clamp(-1, 1) * self.actor.mask
            best = self.target_critic(after, chosen).amin(2)
            rew, ended = rows.rew * self.reward_scale, rows.ended
            if self.critic.joint:
                living = torch.ones_like(rew) if rows.alive is None else rows.alive
                rew = (rew * living).sum(1, keepdim=True) / living.sum(1, keepdim=True).clamp(min=1)
                ended = ended[:, :1]
            return rew + self.config.gamma * (1 - ended) * best

    def weights(self, alive: Tensor | None) -> Tensor | None:
        """Which rows a critic's loss counts: those of the living, or of a team with any alive."""
        return alive.amax(1, keepdim=True) if alive is not None and self.critic.joint else alive

    def error(self, values: Tensor, target: Tensor, alive: Tensor | None) -> Tensor:
        """(2): [K, M], joint: [K, 1]."""
        return mean_rows((values - target.unsqueeze(2)).square().sum(2), self.weights(alive))

    def value(self, features: Tensor, act: Tensor, chosen: Tensor) -> Tensor:
        """What the first critic thinks of each actor's output [K, M, R, A]: [K, M, R]. The other
        agents' actions are the logged ones.
        """
        if self.spec.discrete:  # the mean over the policy
            values = self.critic.own(features, act, None, head=0)[:, :, 0]  # [K, M, A, R]
            return (values.transpose(-1, -2) * chosen).sum(-1)
        return self.critic.own(features, act, chosen.unsqueeze(2), head=0)[:, :, 0, 0]

    def square(self, x: Tensor) -> Tensor:
        """Mean square over the agent's own action dimensions: [K, M, R, A] -> [K, M, R]."""
        return (x.square() * self.actor.mask).sum(-1) / self.actor.mask.sum(-1)

    def restraint(self, output: Tensor) -> Tensor:
        """(5) of the actors' network output, [K, M, R, A] -> [K, M, R]."""
        config, chosen = self.config, self.actor.squash(output)
        if self.spec.discrete:
            return config.entropy * (chosen * output.log_softmax(-1)).sum(-1)
        small = config.action_l2 * self.square(chosen)
        return small + config.output_l2 * self.square(output)

    def follow(self) -> None:
        """(4)."""
        polyak(self.target_actor, self.actor, self.config.tau)
        polyak(self.target_critic, self.critic, self.config.tau)

    def begin(self, seed: int) -> None:
        self.rngs = categorical.generators(seed, self.seeds)

    @torch.no_grad()
    def act(self, obs: Array, mask: Array | None, t: int, deterministic: bool) -> Array:
        x = torch.as_tensor(obs, device=self.device)  # [K, E, N, D]
        rows = to_rows(x, self.spec)
        step = torch.full(rows.shape[:-1], t, device=self.device)
        output = from_rows(self.actor(self.encoder(rows, step)), self.spec, x.shape[2])
        if not self.spec.discrete:
            return output.cpu().numpy()
        if deterministic:
            return categorical.allow(output.double().cpu().numpy(), mask).argmax(-1)
        return choose(output.double(), mask, self.rngs)

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
        logits = self.actor.body(rows.expand(len(self.seeds), -1, -1, -1))
        shape = (len(self.seeds), spec.horizon, spec.n_obs, -1)
        return np.asarray(logits.double().softmax(-1).reshape(shape).cpu().numpy())

    def parameters(self) -> float:
        return parameters_per_seed(self.actor, self.critic)
