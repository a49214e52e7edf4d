"""MA-CQL: conservative Q-learning for every agent of a team, the base of OMAR.

Papers: Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning",
arXiv:2006.04779; the multi-agent form is that of OMAR's tables, arXiv:2111.11188, and the joint one
the MACQL that CFCQL is held against, arXiv:2309.12696.

    (1) critic   y = r_i + gamma (1 - terminated) min_j Q'_ij(o_i', pi'_i(o_i')),
                 L_Q = sum_j E (Q_ij(o_i, a_i) - y)^2 + alpha sum_j E P_ij
    (2) penalty  P_ij = log mean_s exp(Q_ij(o_i, a_s)) / q(a_s) - Q_ij(o_i, a_i),
                 a_s uniform in the box; discrete: log sum over all actions
    (3) actor    L_pi = -E Q_i1(o_i, pi_i(o_i)) + 1e-3 E |pi_i(o_i)|^2
    (4) joint    one critic Q_j(o, a) of the team, for which (2) draws the whole joint action a_s
                 and (3) changes one agent's action at a time

Differences from the paper
 1. Observations are normalised by the data's mean and spread; OMAR has batch norm on the inputs,
    which acts otherwise in training than in play. [OUR CHOICE]
 2. Rewards are divided by the data's standard deviation, so that one alpha means alike on every
    task. [OUR CHOICE]
 3. `policy_samples` adds draws around the current policy to (2), as CQL and OMAR's MuJoCo branch
    do (that branch adds draws of the next state's policy too); on MPE both releases draw uniformly
    alone. The draws are those of a normal law cut off at the box. The releases clip them, and their
    density is that before the clip; OMAR moreover subtracts the density where its logarithm is
    meant: `density = plain` brings that back. [CODE]
 4. (2) is a mean over draws, the releases' a sum: the same gradient. `logged` counts the logged
    action among the draws. Without it the estimate of the integral misses narrow peaks, so that
    the penalty has no lower bound: with 10 draws and alpha = 50 its sum over two critics fell to
    -0.7 on spread's expert data in 1,500 updates, and to 1.2 with the logged action. With it the
    minimum of (2) is at Q = log mu + const for any number of draws (noise-contrastive estimation),
    and few are enough. `cql_batch` takes (2) over a part of the batch. [OUR CHOICE]
 5. No clipping of gradients (OMAR: norm 0.5), since Adam's steps hardly depend on their size; one
    batch serves all agents, where OMAR draws one for each. [OUR CHOICE]
 6. Discrete actions: (3) is the mean of Q over a softmax policy, and pi' the most likely action.
    An exchangeable population shares one actor and one critic of (o_i, a_i), also with (4); the
    reward of (4) is the mean of the agents'. [OUR CHOICE]
 7. In (3) the others' actions of (4) are the data's, as in the release's default. [CODE]
 8. `output_l2` adds the square of the actor's output before tanh to (3), `entropy` the negative
    entropy of a discrete policy: an actor that runs into a corner of the box before the critic has
    a shape never leaves it, since tanh has no gradient there. The square in (3) comes from an
    ancestor of the releases where it was of that output, and restrains nothing as it stands.
    [OUR CHOICE]

What reproduces (quick protocol, 20,000 updates, records of the board)
 - Spread's medium-replay, medium and expert data: 38, 61, 45 (BC 34, 39, 95); tag's: 54, 70, 92 (BC
   22, 43, 101). So it is above BC on poor data, as in the paper of OMAR (34 against 32 on medium
   data of spread), and below a tuned BC on expert data, where the paper has 98 against 35. OMAR's
   variant, our data, random, replay, medium, expert: 43, 1, 37, 13 (BC 8, 27, 42, 95; the paper has
   24, 20, 34, 98): above BC on random data alone. After 2,000 updates, as many as the releases have
   of four times the rows, it had 36 on spread's medium data, below BC: too little training.
 - Why not on expert data (numbers: leaderboard/tuning/README.md). (2) ends at log mu, but its best
   action is learned in three to six times the updates of cloning and more, also without the TD
   error and, at width 64, with 3 draws as with 30. And (3) climbs to where the critic errs: against
   a fixed critic whose mean action under softmax Q is .10 from the expert's (mean square; cloning
   .06 to .09), and whose best of 128 actions .16, the actor ends .31 off, at values above those of
   the expert's own action. A start by cloning is lost within 1,000 updates. After 2,000 updates the
   score is 39, after 8,000 39, after 20,000 45, where OMAR, whose actor follows a search, has 75;
   alpha = 100 (26), a third layer (28), width 128 (38) and draws of the policy (36) do not help.
   Wider critics with larger batches learn faster, for more time than the quick protocol has.
 - `joint` on spread with 2 to 6 agents: 94, 66, 32, 25, 23, without `logged` 89, 58, 22, 17, 13.
   The header of CFCQL compares.
 - The corner that OMAR's paper warns of: without `output_l2` an actor of a toy problem whose data
   lie near -0.5 ended at -0.996 (two action dimensions) and -0.998 (one) with alpha = 5 after 150
   updates; with 1e-2 and 200 updates at -0.91 and -0.44 (tests/test_macql.py holds the sign).
"""

from __future__ import annotations

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
from algorithms.nn.team import Rows, rows_of, sample_rows, uniforms
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec


@dataclass(frozen=True)
class MACQLConfig:
    batch_size: int = 256  # transitions per update
    agents: int = 64  # agents seen of each transition, exchangeable populations only
    width: int = 64  # units of a hidden layer, OMAR on MPE
    depth: int = 2  # hidden layers
    lr: float = 1e-3  # Adam step size of actors and critics
    gamma: float = 0.95  # discount, OMAR on MPE
    tau: float = 0.01  # Polyak rate of the slow copies, OMAR on MPE
    cql_alpha: float = 5.0  # weight of the penalty; OMAR on MPE: 0.5 to 5 by data
    cql_samples: int = 10  # uniform draws of (2), OMAR
    policy_samples: int = 0  # draws of (2) around the current policy; OMAR on MuJoCo: 10
    policy_noise: float = 0.2  # standard deviation of those, in units of the action box, OMAR
    density: Literal["log", "plain"] = "log"  # what is subtracted for those; plain: OMAR's release
    logged: bool = True  # the logged action is one of the draws of (2); the releases: no
    cql_batch: int = 0  # transitions of the batch that the penalty is taken over, 0: all
    critic: Literal["local", "joint"] = "local"  # what a critic sees; joint: (4)
    policy_delay: int = 1  # critic updates per actor update
    action_l2: float = 1e-3  # weight of the square in (3), OMAR's code
    output_l2: float = 1e-2  # weight of the square of the output before tanh, see critics.py
    entropy: float = 0.1  # discrete: weight of the entropy in units of scaled reward, see there
    compile: CompileMode = "auto"  # one graph per update: auto (long runs), on, off


STEPS = {"smoke": 50, "quick": 5_000, "full": 100_000}
FAMILIES = {
    "mpe/": {  # the search of leaderboard/tuning/macql.json
        "lr": 3e-3,
        "cql_samples": 3,
        "steps": {"smoke": 50, "quick": 20_000, "full": 100_000},
    }
}


class MACQL(Algorithm):
    Config = MACQLConfig
    paper = "arXiv:2006.04779"
    variants: ClassVar = {
        "default": Variant(
            steps=STEPS,
            families=FAMILIES,
            tuning={"mpe/": Tuning(configs_tried=7, online_episodes=4_200)},
        ),
        "joint": Variant(steps=STEPS, config={"critic": "joint"}, families=FAMILIES),
    }
    stacks_seeds = True
    small: ClassVar[dict[str, Any]] = {"width": 32, "batch_size": 64}

    def __init__(
        self, config: MACQLConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        check_bounds(config, {"policy_samples": (0, 2**14), "policy_noise": (1e-3, 10.0)})
        check_choice(config, "critic", ("local", "joint"))
        check_choice(config, "density", ("log", "plain"))
        joint = config.critic == "joint" and not spec.exchangeable
        self.team = ActorCritic(config, spec, seeds, device, joint)
        self.steps = 0
        self._set_compiled(False)

    def _set_compiled(self, compiled: bool) -> None:
        self.compiled = compiled
        self._critic = compile_graph(self._critic_gradients) if compiled else self._critic_gradients
        self._actor = compile_graph(self._actor_gradients) if compiled else self._actor_gradients

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        self.team.prepare(data)
        self._set_compiled(resolve_compile(self.config.compile, steps))

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        return sample_rows(data, rngs, self.spec, self.config.batch_size, self.config.agents)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        rows, team = rows_of(batch, self.spec), self.team
        used = first_rows(rows.obs.shape[2], batch.obs.shape[1], self.config.cql_batch)
        losses, gradients = self._critic(rows, self._draws(rows, used), used)
        team.critic_optimiser.step(gradients)
        self.steps += 1
        if self.steps % self.config.policy_delay == 0:
            losses["actor_loss"], gradients = self._actor(rows)
            team.actor_optimiser.step(gradients)
        team.follow()
        return losses

    def _draws(self, rows: Rows, used: int) -> Tensor:
        """Uniform numbers for the candidates of (2): [K, M, S, R, C]; none where discrete actions
        are counted and not drawn.
        """
        config, spec = self.config, self.spec
        if spec.discrete and not self.team.critic.joint:
            return torch.zeros(0, device=self.device)
        # discrete joint actions are drawn too, by one number an agent
        samples = config.cql_samples + (0 if spec.discrete else config.policy_samples)
        shape = (rows.obs.shape[1], samples, used, 1 if spec.discrete else spec.act_dim)
        return uniforms(self.team.noise, shape, self.device)

    def _soft_maximum(
        self, features: Tensor, act: Tensor, u: Tensor, logged: Tensor | None
    ) -> Tensor:
        """The first part of (2): [K, M, 2, R], joint: [K, 1, 2, R]; `logged`, so shaped, are the
        values of the logged actions, None: these are no candidates.
        """
        critic, mask, config = self.team.critic, self.team.actor.mask, self.config
        if self.spec.discrete and not critic.joint:
            return soft_maximum(critic.own(features, act, None), None)
        if self.spec.discrete:  # equal chances for all joint actions: their logarithm is a constant
            drawn = self.team.actions((u.squeeze(-1) * act.shape[-1]).long())
            equal = torch.zeros(1, 1, config.cql_samples, 1, device=self.device)
            return soft_maximum(critic.together(features, drawn), equal, logged)
        candidates, log_q = uniform_candidates(u[:, :, : config.cql_samples], mask)
        log_q = log_q.expand(candidates.shape[:-1])
        if config.policy_samples:
            mean, u = self.team.actor(features).detach(), u[:, :, config.cql_samples :]
            near, log_near = nearby_candidates(u, mean, config.policy_noise, mask)
            log_near = log_near if config.density == "log" else log_near.exp()
            candidates = torch.cat([candidates, near], 2)
            log_q = torch.cat([log_q, log_near], 2)
        if critic.joint:
            together = critic.together(features, candidates)
            return soft_maximum(together, log_q.sum(1, keepdim=True), logged)  # (4)
        return soft_maximum(critic.own(features, act, candidates), log_q, logged)

    def _critic_gradients(
        self, rows: Rows, u: Tensor, used: int
    ) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """(1): losses [K] and the gradients of their sum."""
        team = self.team
        target = team.target(rows)
        features, act = team.encoder(rows.obs, rows.step), team.actions(rows.act)
        values = team.critic(features, act)
        error = team.error(values, target, rows.alive)  # [K, M]
        weights = team.weights(rows.alive)
        weights = None if weights is None else weights[:, :, :used]
        logged = values[..., :used] if self.config.logged else None
        highest = self._soft_maximum(features[:, :, :used], act[:, :, :used], u, logged)
        penalty = mean_rows((highest - values[..., :used]).sum(2), weights)  # (2)
        loss = error + self.config.cql_alpha * penalty
        gradients = torch.autograd.grad(loss.sum(), team.critic_optimiser.parameters)
        losses = {"td_loss": error, "penalty": penalty, "critic_loss": loss}
        return {name: x.detach().mean(1) for name, x in losses.items()}, gradients

    def _actor_gradients(self, rows: Rows) -> tuple[Tensor, Sequence[Tensor]]:
        """(3): loss [K] and the gradients of its sum."""
        team = self.team
        features, act = team.encoder(rows.obs, rows.step), team.actions(rows.act)
        output = team.actor.body(features)
        loss = team.restraint(output) - team.value(features, act, team.actor.squash(output))
        loss = mean_rows(loss, rows.alive)  # [K, M]
        gradients = torch.autograd.grad(loss.sum(), team.actor_optimiser.parameters)
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
        return self.team.parts.state_dict() | {"steps": self.steps, "compiled": self.compiled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.team.parts.load_state_dict(state)
        self.steps = state["steps"]
        if state["compiled"] != self.compiled:
            self._set_compiled(state["compiled"])

    def cost(self) -> dict[str, float]:
        return {"parameters": self.team.parameters(), "sampler_steps": 1}
