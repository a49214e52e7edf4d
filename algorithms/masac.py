"""MASAC: soft actor-critic for a team, Gaussian policies under one joint critic; online.

Paper: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", arXiv:1812.05905. The
control of OMAD: the same play, batches, critic input and synchronous update, with a Gaussian in the
place of the diffusion and expected values in the place of distributions.

    (1) critic   y = r + gamma (1 - terminated) ( min_j Q'_j(o', a') - alpha sum_i log pi_i(a_i') ),
                 a_i' ~ pi_i(o_i');  L_Q = sum_j E (Q_j(o, a) - y)^2
    (2) actors   L = E [ alpha sum_i log pi_i(a_i) - min_j Q_j(o, a) ] at fresh actions of all
                 agents, one step for all
    (3) alpha    L_alpha = -alpha E [ sum_i log pi_i(a_i) + H ], H = -sum_i A_i, by its logarithm

Differences from the paper
 1. One policy for each agent on its own observation, one critic of all observations and actions,
    the team's reward, one alpha for the team: soft actor-critic on the joint action, with a policy
    that factorises. [OUR CHOICE]
 2. Layer norm in the critic, as in OMAD here, which else would win by it. [OUR CHOICE]
 3. Width 128, a quarter of an update per environment step and 8 episodes side by side, as in OMAD.
    [OUR CHOICE]
 4. On MPE: gamma 0.95, lr 1e-3, tau 0.02, alpha from 0.05, an actor update at every step: those of
    OMAD. [OUR CHOICE]

What reproduces
    mpe/spread-v1, 50,000 environment steps, 5 seeds: 62.7 [61.0, 66.6], between OMAD (72.2) and
    MATD3 (42.8). The search of leaderboard/tuning/masac.json, two seeds: with tau 0.005 and alpha
    from 0.1 the score was 40.4 after 21,000 environment steps. With the settings of 4 the mean
    return was -19.8 against -21.8 between 5,000 and 5,700 steps.
    mpe/tag-flee-v1, 3 seeds: 6.0, as OMAD and MATD3 have: too few steps for tag.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from algorithms.nn import categorical
from algorithms.nn.compiled import CompileMode, compile_graph, resolve_compile
from algorithms.nn.encode import Encoder, action_mask, feature_width
from algorithms.nn.heads import StochasticPolicy
from algorithms.nn.online import (
    Playing,
    Team,
    check_range,
    heads,
    pad_rows,
    play_rows,
    played,
    team_of,
)
from algorithms.nn.optim import Adam, polyak
from algorithms.nn.stacked import LINE, StackedMLP, generators, parameters_per_seed
from algorithms.nn.team import NOISE_SEEDS, Parts, no_population, normals, side_by_side
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec

HEADS = 2  # of the critic

# A quarter of an update for each environment step: 5e4 and 3e6 steps of play after the warm-up
STEPS = {"smoke": 50, "quick": 12_250, "full": 750_000}
MPE: dict[str, Any] = {  # the search of leaderboard/tuning/masac.json
    "gamma": 0.95,
    "lr": 1e-3,
    "alpha": 0.05,
    "tau": 0.02,
    "policy_delay": 1,
    "steps": {"smoke": 50, "quick": 12_250, "full": 50_000},
}
TUNED = Tuning(configs_tried=2, online_episodes=7_038)


@dataclass(frozen=True)
class MASACConfig(Playing):
    batch_size: int = 256  # transitions per update
    width: int = 128  # units of a hidden layer, policies and critic
    depth: int = 2  # hidden layers
    lr: float = 3e-4  # Adam step size of policies and critic
    lr_alpha: float = 3e-4  # Adam step size of log alpha
    alpha: float = 1.0  # first value of the temperature
    target_entropy: float = -1.0  # H in nats per action dimension
    gamma: float = 0.99  # discount
    tau: float = 0.005  # Polyak rate of the target critic
    policy_delay: int = 2  # critic updates per update of the policies; the paper has 1
    compile: CompileMode = "auto"  # one graph per update: auto (long runs), on, off


class MASAC(Algorithm):
    Config = MASACConfig
    paper = "arXiv:1812.05905"
    requires = frozenset({"continuous"})
    stacks_seeds = True
    small: ClassVar = {"width": 32, "batch_size": 64}
    variants: ClassVar = {
        "default": Variant(
            steps=STEPS, track="online", families={"mpe/": MPE}, tuning={"mpe/": TUNED}
        ),
        "o2o": Variant(steps=STEPS, config={"warmup": 0}, track="o2o", families={"mpe/": MPE}),
    }

    def __init__(
        self, config: MASACConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        no_population(spec, "masac's critic")
        check_range(config, alpha=(1e-12, 1e6), gamma=(0, 1), tau=(0, 1), policy_delay=(1, 1e9))
        gens, hidden = generators(seeds), [config.width] * config.depth
        self.encoder = Encoder(spec).to(device)
        self.policy = StochasticPolicy(gens, spec, hidden).to(device)
        inputs = (feature_width(spec) + spec.act_dim) * spec.n_agents
        sizes = (inputs, *hidden, 1)
        self.critic = StackedMLP(gens, (1, HEADS), sizes, layer_norm=True).to(device)
        self.target = copy.deepcopy(self.critic)
        # One number a seed, repeated so that it fills a vector register; see `stacked`.
        self.log_alpha = torch.full((len(seeds), LINE), float(np.log(config.alpha)), device=device)
        self.n_dims = float(action_mask(spec).sum())  # sum_i A_i
        self.policy_optimiser = Adam(list(self.policy.parameters()), config.lr)
        self.critic_optimiser = Adam(list(self.critic.parameters()), config.lr)
        self.alpha_optimiser = Adam([self.log_alpha], config.lr_alpha)
        self.noise = generators([seed + NOISE_SEEDS for seed in seeds])  # apart from the weights'
        self.parts = Parts(
            encoder=self.encoder, policy=self.policy, critic=self.critic, target=self.target,
            log_alpha=self.log_alpha, policy_optimiser=self.policy_optimiser,
            critic_optimiser=self.critic_optimiser, alpha_optimiser=self.alpha_optimiser,
            noise=self.noise,
        )  # fmt: skip
        zeros = torch.zeros(len(seeds), device=device)
        self.steps, self.last = 0, {"actor_loss": zeros, "entropy": zeros}
        self._set_compiled(False)
        self.begin(1, 0)

    def _set_compiled(self, compiled: bool) -> None:
        self.compiled = compiled
        self._critic = compile_graph(self._critic_gradients) if compiled else self._critic_gradients
        self._actor = compile_graph(self._actor_gradients) if compiled else self._actor_gradients

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        if data.n_steps:  # a dataset of the track o2o
            self.encoder.fit(data)
        self._set_compiled(resolve_compile(self.config.compile, steps))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        team = team_of(batch, self.encoder, self.spec)
        alpha = self.log_alpha[:, :1].exp()  # [K, 1]
        loss, gradients = self._critic(team, alpha, normals(self.noise, team.act))
        self.critic_optimiser.step(gradients)
        polyak(self.target, self.critic, self.config.tau)
        self.steps += 1
        if self.steps % self.config.policy_delay == 0:
            actor_loss, entropy, gradients = self._actor(team, alpha, normals(self.noise, team.act))
            self.policy_optimiser.step(gradients)
            self.last = {"actor_loss": actor_loss, "entropy": entropy}
            wanted = self.config.target_entropy * self.n_dims
            slope = alpha * (entropy[:, None] - wanted)  # (3), derivative by log alpha
            self.alpha_optimiser.step([slope.expand_as(self.log_alpha).contiguous()])
        return {"critic_loss": loss, **self.last, "alpha": alpha[:, 0]}

    def _critic_gradients(
        self, team: Team, alpha: Tensor, noise: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """(1): loss [K] and the gradients of its sum."""
        with torch.no_grad():
            act, logp = self.policy.sample(team.after, noise)
            value = self.target(heads(side_by_side(team.after, act), HEADS))[:, 0, ..., 0].amin(1)
            soft = value - alpha * logp.sum(1)  # [K, R]
            target = team.rew + self.config.gamma * (1 - team.ended) * soft
        values = self.critic(heads(team.joint(team.act), HEADS))[:, 0, ..., 0]  # [K, 2, R]
        loss = (values - target.unsqueeze(1)).square().sum(1).mean(-1)  # [K]
        return loss.detach(), torch.autograd.grad(loss.sum(), self.critic_optimiser.parameters)

    def _actor_gradients(
        self, team: Team, alpha: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """(2): loss and the team's entropy, each [K], and gradients."""
        act, logp = self.policy.sample(team.features, noise)
        value = self.critic(heads(team.joint(act), HEADS))[:, 0, ..., 0].amin(1)  # [K, R]
        total = team.total(logp)
        loss = (alpha * total - value).mean(-1)
        gradients = torch.autograd.grad(loss.sum(), self.policy_optimiser.parameters)
        return loss.detach(), -total.detach().mean(-1), gradients

    def begin(self, n_envs: int, seed: int) -> None:
        self.rngs = categorical.generators(seed, self.seeds)

    @torch.no_grad()
    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        features = self._features(obs, np.full(obs.shape[:2], t))
        if deterministic:
            return played(self.policy.mode(features), self.spec, obs.shape[1])
        shape = (*obs.shape[1:3], self.spec.act_dim)
        drawn = np.stack([rng.standard_normal(shape, np.float32) for rng in self.rngs])
        noise = torch.from_numpy(drawn).to(self.device).transpose(1, 2)  # [K, N, E, A]
        return played(self.policy.sample(features, pad_rows(noise))[0], self.spec, obs.shape[1])

    @torch.no_grad()
    def explore(self, obs: Array, alive: Array | None, mask: Array | None, t: Array) -> Array:
        features = self._features(obs, t)
        noise = normals(self.noise, features.new_empty(*features.shape[:-1], self.spec.act_dim))
        return played(self.policy.sample(features, noise)[0], self.spec, obs.shape[1])

    def _features(self, obs: Array, t: Array) -> Tensor:
        return play_rows(self.encoder, self.spec, obs, t, self.device)

    def state_dict(self) -> dict[str, Any]:
        scalars = {"steps": self.steps, "compiled": self.compiled, "last": self.last}
        return self.parts.state_dict() | scalars

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.parts.load_state_dict(state)
        self.steps, self.last = state["steps"], state["last"]
        if state["compiled"] != self.compiled:
            self._set_compiled(state["compiled"])

    def cost(self) -> dict[str, float]:
        return {"parameters": parameters_per_seed(self.policy, self.critic), "sampler_steps": 1}
