"""CFCQL: one conservative critic of the team, penalised for one agent's action at a time.

Paper: Shao et al., "Counterfactual Conservative Q Learning for Offline Multi-agent Reinforcement
Learning", arXiv:2309.12696.

    (1) critic   y = r + gamma (1 - terminated) min_j Q'_j(o', pi'(o') + noise),
                 L_Q = sum_j E (Q_j(o, a) - y)^2 + alpha sum_j E P_j
    (2) penalty  P_j = sum_i lambda_i log mean_s exp(Q_j(o, a_i^s, a_-i)) / q(a_i^s) - Q_j(o, a):
                 only the action of agent i is replaced, a_i^s uniform in its box; discrete: log sum
                 over all of its actions
    (3) weights  lambda_i = 1 / N, or softmax_i of -tau_lambda KL(pi_i | mu_i), mu_i the behaviour
    (4) actor    L_pi = -sum_i E Q_1(o, pi_i(o_i), a_-i) + 1e-3 E |pi_i(o_i)|^2

Differences from the paper
 1. mu_i of (3) is a network that is trained along by maximum likelihood (tanh-Gaussian or
    categorical), the paper's a VAE trained before. KL is log pi_i - log mu_i at the deterministic
    action, log pi_i being the height of a normal law of spread `policy_noise`; discrete: exact.
    [CODE] [OUR CHOICE]
 2. `policy_samples` adds draws around the current policy to (2), as the release does on MuJoCo (and
    draws of the next state's policy); on MPE it draws uniformly alone. Ours are of a normal law cut
    off at the box; the release clips them, and has the density before the clip. [CODE]
 3. The reward is the mean of the living agents', the release's that of the first; on the tasks of
    the paper they are equal. [OUR CHOICE]
 4. Observations are normalised by the data's mean and spread (release: batch norm on the inputs)
    and rewards divided by their spread. [OUR CHOICE]
 5. (2) is a mean over draws, the release's a sum: the same gradient. `logged` counts the logged
    action among the draws, which bounds the estimate from below; see MA-CQL. `cql_batch` takes (2)
    over a part of the batch. No clipping of gradients. [OUR CHOICE]
 6. (4) is summed over agents, the release's is their mean: a factor 1 / N that Adam removes. [CODE]
 7. Discrete actions: (4) is the mean of Q over a softmax policy with the others' logged actions,
    and pi' of (1) the most likely action. The paper has a mixing network for those. [OUR CHOICE]
 8. An exchangeable population has no order of agents: it shares one actor and one critic of
    (o_i, a_i), which makes (2) that of MA-CQL. [OUR CHOICE]
 9. One alpha for all data; the release sets it for each task and tier, 0.3 to 5. [OUR CHOICE]
10. `output_l2` and `entropy` keep actors out of corners, see MA-CQL. [OUR CHOICE]

What reproduces (quick protocol, 20,000 updates, records of the board)
 - Spread's medium-replay, medium and expert data: 58, 70, 40 (MA-CQL 38, 61, 45, BC 34, 39, 95);
   tag's: 51, 72, 86 (MA-CQL 54, 70, 92, BC 22, 43, 101). The paper has 52, 65 and 112 on spread, on
   OMAR's data. So it is above BC and MA-CQL on spread's poor data, as in the paper, and no better
   than MA-CQL on tag's. After 2,000 updates it had 35 and 32 on spread's, below BC: too little
   training, as with OMAR. One alpha was tried (5).
 - Teams of 2 to 6 agents on spread, scripted data of one kind (score 42 to 45), 5 seeds
   (leaderboard/studies/agents_cql.json): CFCQL 96, 70, 37, 22, 20, joint MA-CQL 94, 66, 32, 25, 23,
   BC 54, 47, 35, 28, 25. Without `logged`, as released: 96, 69, 37, 25, 20 against 89, 58, 22, 17,
   13. So as released (2) is above the joint penalty at every N, by 7 to 15 points, which do not
   grow with N (-0.2 [-0.5, 0.2] an agent more), though their ratio does, from 1.1 to 1.5. `logged`
   lifts the joint penalty, whose uniform draws miss the peak in 2 N dimensions, and not (2): with
   it (2) is ahead with 2 to 4 agents, behind with 5 and 6, where BC is above both. One alpha for
   all N.
 - Expert data: 40 on spread, 37 after 2,000 updates. The header of MA-CQL says why its penalty and
   its actor fail there; those of CFCQL are the same but for the joint critic, on which that was not
   measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from algorithms.nn.compiled import CompileMode, compile_graph, resolve_compile
from algorithms.nn.critics import (
    ActorCritic,
    check_bounds,
    check_choice,
    first_rows,
    nearby_candidates,
    soft_maximum,
    uniform_candidates,
)
from algorithms.nn.encode import mean_rows
from algorithms.nn.heads import StochasticPolicy
from algorithms.nn.optim import Adam
from algorithms.nn.stacked import generators, parameters_per_seed
from algorithms.nn.team import Rows, normals, rows_of, sample_rows, uniforms
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec

BEHAVIOUR_SEEDS = 2_000_000_000  # added to a seed for the weights of mu


@dataclass(frozen=True)
class CFCQLConfig:
    batch_size: int = 256  # transitions per update
    agents: int = 64  # agents seen of each transition, exchangeable populations only
    width: int = 64  # units of a hidden layer, release on MPE
    depth: int = 2  # hidden layers
    lr: float = 1e-3  # Adam step size of actors and critics
    gamma: float = 0.95  # discount, release on MPE
    tau: float = 0.01  # Polyak rate of the slow copies, release on MPE
    cql_alpha: float = 5.0  # weight of the penalty; release on MPE: 0.3 to 5 by data
    cql_samples: int = 10  # uniform draws of (2), release
    policy_samples: int = 0  # draws of (2) around the current policy; release on MuJoCo: 10
    policy_noise: float = 0.2  # standard deviation of those, in units of the action box, release
    logged: bool = True  # the logged action is one of the draws of (2); the releases: no
    cql_batch: int = 0  # transitions of the batch that the penalty is taken over, 0: all
    weights: Literal["uniform", "softmax"] = "uniform"  # lambda of (3)
    tau_lambda: float = 1.0  # sharpness of (3), release
    target_noise: float = 0.05  # standard deviation of the noise of (1), release
    policy_delay: int = 5  # critic updates per actor and target update, release
    action_l2: float = 1e-3  # weight of the square in (4), release
    output_l2: float = 1e-2  # weight of the square of the output before tanh, see critics.py
    entropy: float = 0.1  # discrete: weight of the entropy in units of scaled reward, see there
    compile: CompileMode = "auto"  # one graph per update: auto (long runs), on, off


class CFCQL(Algorithm):
    Config = CFCQLConfig
    paper = "arXiv:2309.12696"
    variants: ClassVar = {
        "default": Variant(
            steps={"smoke": 50, "quick": 5_000, "full": 100_000},
            families={
                "mpe/": {  # the search of leaderboard/tuning/cfcql.json
                    "lr": 3e-3,
                    "cql_samples": 3,
                    "policy_delay": 1,
                    "steps": {"smoke": 50, "quick": 20_000, "full": 100_000},
                }
            },
            tuning={"mpe/": Tuning(configs_tried=1, online_episodes=2_000)},
        )
    }
    stacks_seeds = True
    small: ClassVar[dict[str, Any]] = {"width": 32, "batch_size": 64}

    def __init__(
        self, config: CFCQLConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        bounds = {
            "policy_samples": (0, 2**14),
            "policy_noise": (1e-3, 10.0),
            "target_noise": (0.0, 10.0),
            "tau_lambda": (0.0, 1e6),
        }
        check_bounds(config, bounds)
        check_choice(config, "weights", ("uniform", "softmax"))
        self.team = ActorCritic(config, spec, seeds, device, joint=not spec.exchangeable)
        self.parts = self.team.parts
        self.learns_behaviour = config.weights == "softmax" and self.team.critic.joint
        if self.learns_behaviour:
            gens = generators([seed + BEHAVIOUR_SEEDS for seed in seeds])
            hidden = [config.width] * config.depth
            self.behaviour = StochasticPolicy(gens, spec, hidden).to(device)
            self.behaviour_optimiser = Adam(list(self.behaviour.parameters()), config.lr)
            self.parts.parts["behaviour"] = self.behaviour
            self.parts.parts["behaviour_optimiser"] = self.behaviour_optimiser
        self.steps = 0
        self._set_compiled(False)

    def _set_compiled(self, compiled: bool) -> None:
        self.compiled = compiled
        self._critic = compile_graph(self._critic_gradients) if compiled else self._critic_gradients
        self._actor = compile_graph(self._actor_gradients) if compiled else self._actor_gradients
        self._mu = compile_graph(self._mu_gradients) if compiled else self._mu_gradients

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        self.team.prepare(data)
        self._set_compiled(resolve_compile(self.config.compile, steps))

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        return sample_rows(data, rngs, self.spec, self.config.batch_size, self.config.agents)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        config, team, rows = self.config, self.team, rows_of(batch, self.spec)
        u, noise = None, None
        if not self.spec.discrete:
            used = first_rows(rows.act.shape[2], batch.obs.shape[1], config.cql_batch)
            m, samples = rows.act.shape[1], config.cql_samples + config.policy_samples
            u = uniforms(team.noise, (m, samples, used, self.spec.act_dim), self.device)
            if config.target_noise:
                noise = normals(team.noise, rows.act) * config.target_noise
        losses, gradients = self._critic(rows, u, noise)
        team.critic_optimiser.step(gradients)
        if self.learns_behaviour:
            losses["behaviour_loss"], gradients = self._mu(rows)
            self.behaviour_optimiser.step(gradients)
        self.steps += 1
        if self.steps % config.policy_delay == 0:
            losses["actor_loss"], gradients = self._actor(rows)
            team.actor_optimiser.step(gradients)
            team.follow()
        return losses

    def lambdas(self, features: Tensor, alive: Tensor | None) -> Tensor:
        """(3): weights of the agents [K, N, R], 0 for the dead, summing to 1 over the living."""
        with torch.no_grad():
            logits = torch.zeros(features.shape[:-1], device=features.device)
            if self.learns_behaviour:
                logits = -self.config.tau_lambda * self._divergence(features)
            if alive is not None:
                logits = logits.masked_fill((alive == 0) & (alive.amax(1, True) > 0), -torch.inf)
            return logits.softmax(1)

    def _divergence(self, features: Tensor) -> Tensor:
        """KL(pi_i | mu_i): [K, N, R]."""
        actor = self.team.actor
        chosen = actor(features)
        if self.spec.discrete:
            log_mu = self.behaviour.body(features).log_softmax(-1)
            return (chosen * (chosen.clamp(min=1e-8).log() - log_mu)).sum(-1)
        height = -math.log(self.config.policy_noise * math.sqrt(2 * math.pi))
        return height * actor.mask.sum(-1) - self.behaviour.log_prob(features, chosen)

    def _soft_maxima(
        self, features: Tensor, act: Tensor, u: Tensor | None, logged: Tensor | None
    ) -> Tensor:
        """What replacing each agent's action gives in (2): [K, N, 2, R]; `logged` [K, 1, 2, R] are
        the values of the logged actions, None: these are no candidates.
        """
        team, config = self.team, self.config
        if u is None:
            return soft_maximum(team.critic.own(features, act, None), None)
        candidates, log_q = uniform_candidates(u[:, :, : config.cql_samples], team.actor.mask)
        log_q = log_q.expand(candidates.shape[:-1])
        if config.policy_samples:
            mean, u = team.actor(features).detach(), u[:, :, config.cql_samples :]
            near, log_near = nearby_candidates(u, mean, config.policy_noise, team.actor.mask)
            candidates = torch.cat([candidates, near], 2)
            log_q = torch.cat([log_q, log_near], 2)
        return soft_maximum(team.critic.own(features, act, candidates), log_q, logged)

    def _critic_gradients(
        self, rows: Rows, u: Tensor | None, noise: Tensor | None
    ) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """(1): losses [K] and the gradients of their sum; u [K, N, S, rows, A] is uniform."""
        team, used = self.team, rows.rew.shape[2] if u is None else u.shape[3]
        features, act = team.encoder(rows.obs, rows.step), team.actions(rows.act)
        values = team.critic(features, act)  # [K, 1, 2, R]
        error = team.error(values, team.target(rows, noise), rows.alive)  # [K, 1]
        alive = None if rows.alive is None else rows.alive[:, :, :used]
        logged = values[..., :used] if self.config.logged else None
        highest = self._soft_maxima(features[:, :, :used], act[:, :, :used], u, logged)
        if team.critic.joint:  # the mean over agents, by (3)
            share = self.lambdas(features[:, :, :used], alive)
            highest = (highest * share.unsqueeze(2)).sum(1, keepdim=True)
        penalty = (highest - values[..., :used]).sum(2)
        penalty = mean_rows(penalty, team.weights(alive))  # (2)
        loss = error + self.config.cql_alpha * penalty
        gradients = torch.autograd.grad(loss.sum(), team.critic_optimiser.parameters)
        losses = {"td_loss": error, "penalty": penalty, "critic_loss": loss}
        return {name: x.detach().mean(1) for name, x in losses.items()}, gradients

    def _actor_gradients(self, rows: Rows) -> tuple[Tensor, Sequence[Tensor]]:
        """(4): loss [K] and the gradients of its sum."""
        team = self.team
        features, act = team.encoder(rows.obs, rows.step), team.actions(rows.act)
        output = team.actor.body(features)
        loss = team.restraint(output) - team.value(features, act, team.actor.squash(output))
        loss = mean_rows(loss, rows.alive)  # [K, N]
        gradients = torch.autograd.grad(loss.sum(), team.actor_optimiser.parameters)
        return loss.detach().mean(1), gradients

    def _mu_gradients(self, rows: Rows) -> tuple[Tensor, Sequence[Tensor]]:
        """Likelihood of mu, (3): loss [K] and the gradients of its sum."""
        features = self.team.encoder(rows.obs, rows.step)
        loss = -mean_rows(self.behaviour.log_prob(features, rows.act), rows.alive)  # [K, N]
        gradients = torch.autograd.grad(loss.sum(), self.behaviour_optimiser.parameters)
        return loss.detach().mean(1), gradients

    def begin(self, n_envs: int, seed: int) -> None:
        self.team.begin(seed)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        return self.team.act(obs, mask, t, deterministic)

    def policy_table(self) -> Array:
        return self.team.policy_table()

    def state_dict(self) -> dict[str, Any]:
        return self.parts.state_dict() | {"steps": self.steps, "compiled": self.compiled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.parts.load_state_dict(state)
        self.steps = state["steps"]
        if state["compiled"] != self.compiled:
            self._set_compiled(state["compiled"])

    def cost(self) -> dict[str, float]:
        modules = [self.team.actor, self.team.critic]
        if self.learns_behaviour:
            modules.append(self.behaviour)
        return {"parameters": parameters_per_seed(*modules), "sampler_steps": 1}
