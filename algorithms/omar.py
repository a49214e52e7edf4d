"""OMAR: conservative critics, and actors that imitate the best action a search finds in them.

Paper: Pan et al., "Plan Better Amid Conservatism: Offline Multi-Agent Reinforcement Learning with
Actor Rectification", arXiv:2111.11188.

    (1) critic   y = r_i + gamma (1 - terminated) min_j Q'_ij(o_i', pi'_i(o_i')),
                 L_Q = sum_j E (Q_ij(o_i, a_i) - y)^2
                       + alpha sum_j E [ log mean_s exp(Q_ij(o_i, a_s)) / q(a_s) - Q_ij(o_i, a_i) ],
                 a_s uniform in the box
    (2) search   a_hat = the better under Q_i1 of pi_i(o_i) and the best action of the last of three
                 iterations of cross-entropy search (`nn/cem.py`)
    (3) actor    L_pi = c E |pi_i(o_i) - a_hat|^2 - (1 - c) E Q_i1(o_i, pi_i(o_i))
                        + 1e-3 E |pi_i(o_i)|^2

Differences from the paper
 1. Observations are normalised by the data's mean and spread; the release has batch norm on the
    inputs, which acts otherwise in training than in play. [OUR CHOICE]
 2. Rewards are divided by the data's standard deviation, so that one alpha means alike on every
    task. [OUR CHOICE]
 3. The search is that of the release's MPE branch, weighted by softmax; `elites` = 5 with
    `search_samples` = 20 and `search_iterations` = 2 is its MuJoCo branch. [CODE]
 4. The penalty draws uniform actions, as the MPE branch does; see MA-CQL for draws of the policy.
    It is a mean over draws, the release's a sum: the same gradient. `logged` counts the logged
    action among the draws, which bounds the estimate from below; see MA-CQL. `cql_batch` takes it
    over a part of the batch. [CODE] [OUR CHOICE]
 5. No clipping of gradients (release: norm 0.5), since Adam's steps hardly depend on their size;
    one batch serves all agents, where the release draws one for each. [OUR CHOICE]
 6. |.|^2 is the mean over the agent's own action dimensions. [CODE]
 7. One c and one alpha for all data. The release sets both for each task and tier (alpha 0.5 to 5,
    c 0.1 to 1; c = 1 on all spread data, where the actor then follows no gradient of Q).
    [OUR CHOICE]

What reproduces (quick protocol, 20,000 updates, records of the board)
 - Spread's medium-replay, medium and expert data: 43, 69, 75 (MA-CQL 38, 61, 45, BC 34, 39, 95).
   Tag's: 54, 61, 97 (MA-CQL 54, 70, 92, BC 22, 43, 101). OMAR's variant, our data, random, replay,
   medium, expert: 47, 36, 46, 30 (BC 8, 27, 42, 95; the paper's 34, 38, 48, 115, its BC -1, 10, 32,
   35). So it is above BC on poor data, as in the paper; above MA-CQL on spread and its variant, and
   not on tag; and not above a BC that is tuned on expert data.
 - What time gives: with 2,000 updates, as many as the release has of four times the rows, it had
   34 on medium and 38 on expert data of spread, and this board said so until 20,000 were run
   (leaderboard/tuning/README.md: 37, 40, 54, 73 after 2,000, 5,000, 10,000, 20,000 on expert data,
   and still rising). The actor follows the search (mean square distance 0.14 to 0.21 after 1,500
   updates); it is the critic that learns slowly which action the experts take, in three to six
   times the updates of cloning and more, as the header of MA-CQL says.
 - What did not help, after 2,000 updates on expert data (leaderboard/tuning/omar.json): alpha = 50,
   a learning rate of 1e-2; draws for all rows instead of a quarter helped a little (distance of the
   critic's best action from the data's 0.42 to 0.38), width 128 with one draw and an actor update
   every second step had 37 after 1,250 and 2,500 updates (one seed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from algorithms.nn import cem
from algorithms.nn.compiled import CompileMode, compile_graph, resolve_compile
from algorithms.nn.critics import (
    ActorCritic,
    check_bounds,
    first_rows,
    soft_maximum,
    uniform_candidates,
)
from algorithms.nn.encode import mean_rows
from algorithms.nn.team import Rows, normals, rows_of, sample_rows, uniforms
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.errors import UserError
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec


@dataclass(frozen=True)
class OMARConfig:
    batch_size: int = 256  # transitions per update
    agents: int = 64  # agents seen of each transition, exchangeable populations only
    width: int = 64  # units of a hidden layer, release on MPE
    depth: int = 2  # hidden layers
    lr: float = 1e-3  # Adam step size of actors and critics
    gamma: float = 0.95  # discount, release on MPE
    tau: float = 0.01  # Polyak rate of the slow copies, release on MPE
    cql_alpha: float = 5.0  # weight of the penalty; release on MPE: 0.5 to 5 by data
    cql_samples: int = 10  # uniform draws of the penalty, release
    cql_batch: int = 0  # transitions of the batch that the penalty is taken over, 0: all
    logged: bool = True  # the logged action is one of the penalty's draws; the release: no
    c: float = 1.0  # share of imitation in (3); release on spread: 1
    search_iterations: int = 3  # of (2), release on MPE
    search_samples: int = 10  # actions an iteration tries, release on MPE
    search_mean: float = 0.0  # mean of the first iteration's draws, in units of the action box
    search_std: float = 2.0  # their standard deviation, release
    elites: int = 0  # best actions that make the next iteration's law; 0: all, by softmax
    policy_delay: int = 1  # critic updates per actor update
    action_l2: float = 1e-3  # weight of the square in (3), release
    output_l2: float = 0.0  # weight of the square of the output before tanh, see critics.py
    compile: CompileMode = "auto"  # one graph per update: auto (long runs), on, off


class OMAR(Algorithm):
    Config = OMARConfig
    paper = "arXiv:2111.11188"
    variants: ClassVar = {
        "default": Variant(
            steps={"smoke": 50, "quick": 5_000, "full": 100_000},
            families={
                "mpe/": {  # the search of leaderboard/tuning/omar.json
                    "lr": 3e-3,
                    "cql_samples": 3,
                    "policy_delay": 3,
                    "steps": {"smoke": 50, "quick": 20_000, "full": 100_000},
                }
            },
            tuning={"mpe/": Tuning(configs_tried=8, online_episodes=5_200)},
        )
    }
    requires = frozenset({"continuous"})
    stacks_seeds = True
    small: ClassVar[dict[str, Any]] = {"width": 32, "batch_size": 64}

    def __init__(
        self, config: OMARConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        bounds = {
            "c": (0.0, 1.0),
            "search_iterations": (1, 1000),
            "search_samples": (1, 2**14),
            "search_mean": (-1.0, 1.0),
            "search_std": (1e-6, 100.0),
            "elites": (0, config.search_samples),
        }
        check_bounds(config, bounds)
        if config.elites == 1:
            raise UserError("--config.elites is 1, expected 0 or at least 2: one has no spread.")
        self.team = ActorCritic(config, spec, seeds, device, joint=False)
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
        config, team, rows = self.config, self.team, rows_of(batch, self.spec)
        m, r, width = rows.act.shape[1:]
        used = first_rows(r, batch.obs.shape[1], config.cql_batch)
        u = uniforms(team.noise, (m, config.cql_samples, used, width), self.device)
        losses, gradients = self._critic(rows, u)
        team.critic_optimiser.step(gradients)
        self.steps += 1
        if self.steps % config.policy_delay == 0:
            shape = (len(self.seeds), config.search_iterations, m, config.search_samples, r, width)
            noise = normals(team.noise, torch.empty(shape, device=self.device)).transpose(0, 1)
            found, gradients = self._actor(rows, noise)
            losses |= found
            team.actor_optimiser.step(gradients)
        team.follow()
        return losses

    def _critic_gradients(
        self, rows: Rows, u: Tensor
    ) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """(1): losses [K] and the gradients of their sum; u [K, M, S, rows, A] is uniform."""
        team, used = self.team, u.shape[3]
        features = team.encoder(rows.obs, rows.step)
        values = team.critic(features, rows.act)  # [K, M, 2, R]
        error = team.error(values, team.target(rows), rows.alive)  # [K, M]
        candidates, log_q = uniform_candidates(u, team.actor.mask)
        tried = team.critic.own(features[:, :, :used], rows.act[:, :, :used], candidates)
        logged = values[..., :used] if self.config.logged else None
        highest = soft_maximum(tried, log_q.expand(candidates.shape[:-1]), logged)
        alive = None if rows.alive is None else rows.alive[:, :, :used]
        penalty = mean_rows((highest - values[..., :used]).sum(2), alive)
        loss = error + self.config.cql_alpha * penalty
        gradients = torch.autograd.grad(loss.sum(), team.critic_optimiser.parameters)
        losses = {"td_loss": error, "penalty": penalty, "critic_loss": loss}
        return {name: x.detach().mean(1) for name, x in losses.items()}, gradients

    def best_action(self, features: Tensor, act: Tensor, chosen: Tensor, noise: Tensor) -> Tensor:
        """(2): [K, M, R, A], from the policy's actions and the search's noise."""
        config, critic = self.config, self.team.critic

        def score(tried: Tensor) -> Tensor:
            return critic.own(features, act, tried, head=0)[:, :, 0]

        with torch.no_grad():
            mask, mean, std = self.team.actor.mask, config.search_mean, config.search_std
            best, value = cem.search(score, noise, mask, mean, std, config.elites)
            own = score(chosen.unsqueeze(2))[:, :, 0]  # [K, M, R]
            return torch.where((own >= value).unsqueeze(-1), chosen, best)

    def _actor_gradients(
        self, rows: Rows, noise: Tensor
    ) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """(3): losses [K] and the gradients of their sum."""
        team, c = self.team, self.config.c
        features = team.encoder(rows.obs, rows.step)
        output = team.actor.body(features)
        chosen = team.actor.squash(output)
        best = self.best_action(features, rows.act, chosen, noise)
        imitation = mean_rows(team.square(chosen - best), rows.alive)
        loss = c * imitation + mean_rows(team.restraint(output), rows.alive)
        if c < 1:
            value = team.value(features, rows.act, chosen)
            loss = loss - (1 - c) * mean_rows(value, rows.alive)
        gradients = torch.autograd.grad(loss.sum(), team.actor_optimiser.parameters)
        losses = {"actor_loss": loss, "imitation_loss": imitation}
        return {name: x.detach().mean(1) for name, x in losses.items()}, gradients

    def begin(self, n_envs: int, seed: int) -> None:
        self.team.begin(seed)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        return self.team.act(obs, mask, t, deterministic)

    def state_dict(self) -> dict[str, Any]:
        return self.team.parts.state_dict() | {"steps": self.steps, "compiled": self.compiled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.team.parts.load_state_dict(state)
        self.steps = state["steps"]
        if state["compiled"] != self.compiled:
            self._set_compiled(state["compiled"])

    def cost(self) -> dict[str, float]:
        return {"parameters": self.team.parameters(), "sampler_steps": 1}
