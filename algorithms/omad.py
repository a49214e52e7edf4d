"""OMAD: online multi-agent diffusion policies, trained together by a joint distributional critic.

Paper: arXiv:2602.18291, of which only the abstract could be read and no code was found. This is a
reconstruction from the abstract and from the single-agent method that it follows, DIME
(arXiv:2502.02316): one diffusion policy for each agent, executed on its own observation.

    (1) policy   a_i, run_i, term_i from K denoising steps of policy i, see algorithms/nn/dime.py;
                 entropy of a_i given o_i >= E[ -(run_i + term_i) ]
    (2) bound    independent agents have one product of path measures, so the bounds add up:
                 H(a_1 .. a_N | o) >= -E sum_i c_i,    c_i = run_i + term_i
    (3) return   J = E sum_t gamma^t ( r_t - alpha sum_i c_i )
    (4) critic   Z(o, a) on 101 atoms, two heads; target: projection of
                 r + gamma (1 - terminated) (z - alpha sum_i c_i'), a' from all policies, with the
                 mean of the target heads' probabilities;
                 L_Z = sum over heads [ cross-entropy + 0.005 sum p log p ]
    (5) actors   L = E [ alpha sum_i c_i - mean over heads E_p z ] at fresh actions of all agents:
                 one backward pass and one step, which moves every policy at once
    (6) alpha    L_alpha = -alpha (E sum_i run_i - 4 sum_i A_i), through its logarithm

Differences from the paper
 1. All of (1) to (6) is a reconstruction; the abstract states diffusion policies, a joint
    distributional critic, a scaled joint entropy through a tractable bound, entropy-augmented
    targets and a synchronous update. [PRIOR WORK: DIME]
 2. K = 8, a learned temperature with target 4 A and a batch of 256 are reported of the paper at
    second hand. Prior 2.5, learned step sizes, policy delay, the atoms' entropy term, Adam with
    beta_1 = 0.5 and the clipped actor gradient are DIME's. [PRIOR WORK: DIME]
 3. A target network (Polyak 0.005) and layer norm, where DIME has batch renormalisation without a
    target network (CrossQ): the safer choice in small runs. [OUR CHOICE]
 4. Each policy sees its own observation, agents share no weights, alpha is one for the team. The
    critic sees all observations and actions. Unknown of the paper. [OUR CHOICE]
 5. Widths 128 (critic) and 64 (policies), a quarter of an update per environment step, 8 episodes
    side by side: a run of 5e4 steps fits in minutes of one core. [OUR CHOICE]
 6. Observations are not normalised online, where no data stand still; o2o takes the dataset's
    statistics. [OUR CHOICE]
 7. Deterministic play is the path without noise from x_K = 0. [OUR CHOICE]
 8. On MPE: gamma 0.95, lr 1e-3, tau 0.02, alpha from 0.05, an actor update at every step: a run of
    5e4 environment steps has 12,250 updates only. [OUR CHOICE]

What reproduces
    mpe/spread-v1, 50,000 environment steps, 5 seeds, the board's records: OMAD 72.2 [68.2, 77.1],
    MASAC 62.7 [61.0, 66.6], MATD3 42.8 [39.1, 45.7]. MASAC's last return is passed after 1.64
    [1.31, 1.82] times fewer steps: a gain, and not the paper's 2.5 to 5 times, whose baselines,
    HATD3 and HASAC, are not in the suite. An update costs 2.5 times one of MASAC.
    mpe/tag-flee-v1, as many steps, 3 seeds: OMAD 6.0 [1.9, 10.0], MASAC 6.0, MATD3 5.9: within so
    few steps none of them learns to catch the prey, and tag says nothing about who is better.
    Offline to online from spread's medium data, 49,000 steps, 3 seeds: OMAD 86.1 [80.0, 92.2],
    MASAC 83.7 [80.7, 86.6], MATD3 52.1 [48.4, 55.7]: with data OMAD's lead is within the error.
    Denoising steps, same budget and seeds (leaderboard/studies/denoising_steps.json): K = 1, 2, 4,
    8 and 16 have 73.8, 71.4, 73.1, 72.5 and 69.0; 8 less 1 is -1.3 [-6.6, 3.9]: no gain on spread
    that could saturate. An update with 16 takes 1.6 times the processor time of one with 8.
    The search of leaderboard/tuning/omad.json, two seeds: after 21,000 environment steps (5,000
    updates, tau 0.005, alpha from 0.1) the score was 41.9 along the path without noise and 39.4
    sampled; MASAC had 40.4 and MATD3 22.0 (tuning/masac.json and matd3.json). The settings of 8
    were ahead of these at equal steps (mean return -19.4 against -21.4 between 5,000 and 7,500).
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
from algorithms.nn.dime import DiffusionPolicy
from algorithms.nn.distributional import atoms, cross_entropy, mean, project
from algorithms.nn.encode import Encoder, action_mask, feature_width
from algorithms.nn.online import (
    Playing,
    Team,
    check_range,
    clip_by_norm,
    heads,
    pad_rows,
    play_rows,
    played,
    team_of,
)
from algorithms.nn.optim import Adam, polyak
from algorithms.nn.stacked import LINE, StackedMLP, generators, parameters_per_seed
from algorithms.nn.team import NOISE_SEEDS, Parts, no_population, side_by_side
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.device import sent
from benchmark.errors import UserError
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec

N_ATOMS = 101  # DIME
HEADS = 2  # of the critic

# A quarter of an update for each environment step: 5e4 and 3e6 steps of play after the warm-up
STEPS = {"smoke": 50, "quick": 12_250, "full": 750_000}
MPE: dict[str, Any] = {  # the search of leaderboard/tuning/omad.json
    "gamma": 0.95,
    "lr": 1e-3,
    "alpha": 0.05,
    "tau": 0.02,
    "policy_delay": 1,
    "steps": {"smoke": 50, "quick": 12_250, "full": 50_000},
}
# Atoms must cover the discounted return with its entropy: what lies outside is cut off.
FAMILIES: dict[str, dict[str, Any]] = {
    "mpe/spread": MPE | {"v_min": -50.0, "v_max": 10.0},
    "mpe/": MPE | {"v_min": -60.0, "v_max": 200.0},
    "mamujoco/": {"v_min": -1600.0, "v_max": 1600.0},  # DIME's on Gym
    "probe/": {"v_min": -3.0, "v_max": 3.0},
}
TUNED = Tuning(configs_tried=4, online_episodes=10_736)


@dataclass(frozen=True)
class OMADConfig(Playing):
    batch_size: int = 256  # transitions per update
    width: int = 128  # units of a hidden layer of the critic
    policy_width: int = 64  # units of a hidden layer of a policy
    depth: int = 2  # hidden layers
    denoising_steps: int = 8  # K
    prior: float = 2.5  # standard deviation of x_K before tanh, DIME
    step_scale: float = 0.1  # first value of the learned scale of dt, DIME
    lr: float = 3e-4  # Adam step size of policies and critic, DIME
    lr_alpha: float = 1e-3  # Adam step size of log alpha, DIME
    alpha: float = 1.0  # first value of the temperature
    learn_alpha: bool = True  # False: alpha stays at its first value
    target_cost: float = 4.0  # target of run per action dimension in (6), DIME's code
    gamma: float = 0.99  # discount
    tau: float = 0.005  # Polyak rate of the target critic
    policy_delay: int = 2  # critic updates per update of the policies
    v_min: float = -200.0  # lowest atom, in discounted team reward and entropy
    v_max: float = 200.0  # highest atom
    atom_entropy: float = 0.005  # weight of sum p log p in (4), DIME
    clip: float = 1.0  # bound of the norm of the policies' gradient, DIME
    compile: CompileMode = "auto"  # one graph per update: auto (long runs), on, off


class OMAD(Algorithm):
    Config = OMADConfig
    paper = "arXiv:2602.18291 (reconstruction)"
    requires = frozenset({"continuous"})
    stacks_seeds = True
    small: ClassVar = {"width": 32, "batch_size": 64, "denoising_steps": 3}
    variants: ClassVar = {
        "default": Variant(steps=STEPS, track="online", families=FAMILIES, tuning={"mpe/": TUNED}),
        "o2o": Variant(steps=STEPS, config={"warmup": 0}, track="o2o", families=FAMILIES),
    }

    def __init__(
        self, config: OMADConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        no_population(spec, "omad's critic")
        check_range(
            config, denoising_steps=(1, 1000), prior=(1e-3, 1e3), step_scale=(1e-6, 1e3),
            alpha=(1e-12, 1e6), gamma=(0, 1), tau=(0, 1), policy_delay=(1, 1e9), clip=(1e-12, 1e12),
        )  # fmt: skip
        if not config.v_min < config.v_max:
            raise UserError(
                f"--config.v_min is {config.v_min}, expected less than v_max, {config.v_max}."
            )
        gens, layers = generators(seeds), [config.policy_width] * config.depth
        self.encoder = Encoder(spec).to(device)
        self.policy = DiffusionPolicy(
            gens, spec, layers, config.denoising_steps, config.prior, config.step_scale
        ).to(device)
        inputs = (feature_width(spec) + spec.act_dim) * spec.n_agents
        sizes = (inputs, *[config.width] * config.depth, N_ATOMS)
        self.critic = StackedMLP(gens, (1, HEADS), sizes, layer_norm=True).to(device)
        self.target = copy.deepcopy(self.critic)
        # One number a seed, repeated so that it fills a vector register; see `stacked`.
        self.log_alpha = torch.full((len(seeds), LINE), float(np.log(config.alpha)), device=device)
        self.support = atoms(config.v_min, config.v_max, N_ATOMS).to(device)
        self.n_dims = float(action_mask(spec).sum())  # sum_i A_i
        betas = (0.5, 0.999)
        self.policy_optimiser = Adam(list(self.policy.parameters()), config.lr, betas)
        self.critic_optimiser = Adam(list(self.critic.parameters()), config.lr, betas)
        self.alpha_optimiser = Adam([self.log_alpha], config.lr_alpha, betas)
        self.noise = generators([seed + NOISE_SEEDS for seed in seeds])  # apart from the weights'
        self.parts = Parts(
            encoder=self.encoder, policy=self.policy, critic=self.critic, target=self.target,
            log_alpha=self.log_alpha, policy_optimiser=self.policy_optimiser,
            critic_optimiser=self.critic_optimiser, alpha_optimiser=self.alpha_optimiser,
            noise=self.noise,
        )  # fmt: skip
        self.steps, self.last = 0, dict.fromkeys(("actor_loss", "entropy"), self._zeros())
        self._set_compiled(False)
        self.begin(1, 0)

    def _zeros(self) -> Tensor:
        return torch.zeros(len(self.seeds), device=self.device)

    def _set_compiled(self, compiled: bool) -> None:
        self.compiled = compiled
        self._critic = compile_graph(self._critic_gradients) if compiled else self._critic_gradients
        self._actor = compile_graph(self._actor_gradients) if compiled else self._actor_gradients

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        if data.n_steps:  # (6 of the differences)
            self.encoder.fit(data)
        self._set_compiled(resolve_compile(self.config.compile, steps))

    # -------------------------------------------------------------------------------- training
    def update(self, batch: Batch) -> dict[str, Tensor]:
        team = team_of(batch, self.encoder, self.spec)
        alpha = self.log_alpha[:, :1].exp()  # [K, 1]
        loss, gradients = self._critic(team, alpha, self._draw(team.act.shape[2]))
        self.critic_optimiser.step(gradients)
        polyak(self.target, self.critic, self.config.tau)
        self.steps += 1
        if self.steps % self.config.policy_delay == 0:
            actor_loss, entropy, cost, gradients = self._actor(
                team, alpha, self._draw(team.act.shape[2])
            )
            self.policy_optimiser.step(clip_by_norm(gradients, self.config.clip))
            self.last = {"actor_loss": actor_loss, "entropy": entropy}
            if self.config.learn_alpha:  # (6), whose derivative by log alpha is this
                wanted = self.config.target_cost * self.n_dims
                slope = -alpha * (cost[:, None] - wanted)
                self.alpha_optimiser.step([slope.expand_as(self.log_alpha).contiguous()])
        return {"critic_loss": loss, **self.last, "alpha": alpha[:, 0]}

    def _draw(self, rows: int) -> Tensor:
        """Noise of one pass through the policies: [K, steps + 1, N, rows, A]."""
        shape = (self.config.denoising_steps + 1, self.spec.n_agents, rows, self.spec.act_dim)
        return sent(torch.stack([torch.randn(shape, generator=g) for g in self.noise]), self.device)

    def _critic_gradients(
        self, team: Team, alpha: Tensor, noise: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """(4): loss [K] and the gradients of its sum."""
        with torch.no_grad():
            act, run, term = self.policy(team.after, noise)
            cost = (run + term).sum(1)  # [K, R]
            logits = self.target(heads(side_by_side(team.after, act), HEADS))  # [K, 1, 2, R, A]
            keep = self.config.gamma * (1 - team.ended)
            moved = (team.rew - keep * alpha * cost)[..., None] + keep[..., None] * self.support
            target = project(logits.softmax(-1).mean((1, 2)), moved, self.support)  # [K, R, A]
        logits = self.critic(heads(team.joint(team.act), HEADS))[:, 0]  # [K, 2, R, A]
        loss = cross_entropy(target.unsqueeze(1), logits, self.config.atom_entropy)
        loss = loss.sum(1).mean(-1)  # [K]
        return loss.detach(), torch.autograd.grad(loss.sum(), self.critic_optimiser.parameters)

    def _actor_gradients(
        self, team: Team, alpha: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]:
        """(5): loss, entropy bound and mean of sum_i run_i, each [K], and gradients."""
        act, run, term = self.policy(team.features, noise)
        cost = team.total(run + term)  # [K, R], (2)
        logits = self.critic(heads(team.joint(act), HEADS))  # [K, 1, 2, R, A]
        value = mean(logits, self.support).mean((1, 2))  # [K, R]
        loss = (alpha * cost - value).mean(-1)  # [K]
        gradients = torch.autograd.grad(loss.sum(), self.policy_optimiser.parameters)
        entropy, run_cost = -cost.mean(-1), team.total(run).mean(-1)
        return loss.detach(), entropy.detach(), run_cost.detach(), gradients

    # ---------------------------------------------------------------------------------- acting
    def begin(self, n_envs: int, seed: int) -> None:
        self.rngs = categorical.generators(seed, self.seeds)

    @torch.no_grad()
    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        features = self._features(obs, np.full(obs.shape[:2], t))
        if deterministic:
            return played(self.policy.mean_path(features), self.spec, obs.shape[1])
        shape = (self.config.denoising_steps + 1, *obs.shape[1:3], self.spec.act_dim)
        drawn = np.stack([rng.standard_normal(shape, np.float32) for rng in self.rngs])
        noise = torch.from_numpy(drawn).to(self.device).transpose(2, 3)  # [K, S, N, E, A]
        return played(self.policy(features, pad_rows(noise))[0], self.spec, obs.shape[1])

    @torch.no_grad()
    def explore(self, obs: Array, alive: Array | None, mask: Array | None, t: Array) -> Array:
        features = self._features(obs, t)
        drawn = self.policy(features, self._draw(features.shape[2]))[0]
        return played(drawn, self.spec, obs.shape[1])

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
        return {
            "parameters": parameters_per_seed(self.policy, self.critic) - self.policy.padding,
            "sampler_steps": self.config.denoising_steps,
        }
