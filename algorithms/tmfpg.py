"""TMF-PG: policy gradient on the population's distribution, for games in which B of N agents act.

Paper: "Temporal Mean Field policy gradient", arXiv:2602.18026. We could read its abstract and the
author's account of the recursions, not its body: a reconstruction.

    (1) flow     mu'(o') = sum_o mu(o) [rho sum_a pi(a | o) P(o' | o, a, mu)
                                        + (1 - rho) P0(o' | o, mu)]
    (2) value    Q(o, a) = r(o, a, mu) + sum_o' P(o' | o, a, mu) V'(o'),
                 V = rho sum_a pi Q + (1 - rho) [r0 + P0 V'], of an agent who acts with chance rho
    (3) update   pi = softmax(theta), one table a round of 1 / rho steps;
                 theta += lr sum_round rho (A - tau_kl log pi / pi_0 - tau log pi),
                 A = Q - sum_a pi Q: the natural gradient; vanilla: the same, times mu(o) pi(a | o)
    (4) inner    L steps of (3) against one population, the average of those so far with `damping`

The variants know different things, and never meet in one ranking:
    oracle   the game itself (1, 2 exact): a reference line
    default  the buffer: r, P, P0 learned from it (nn/learned_game.py), pi_0 = theta_0 = behaviour,
             and a stop: once the ensemble doubts a policy's course `budget` times as much as the
             behaviour's, the last policy before that stays. TMF-PG-Model
    mis      the buffer and its log-probabilities. mu by marginalised importance sampling, `Weights`
             of nn/game.py; Q by fitted evaluation, of (t, o, a, mu), with CQL's penalty:
             (5) (Q - r - V')^2 + cql (log sum_a exp Q - Q(a)). The stop is the same, with the mean
             square of the weights for doubt. TMF-PG-MIS

Differences from the paper
 1. What cannot be read is ours: rates, L, damping, and everything of the two offline forms.
    [OUR CHOICE]
 2. The value follows an agent who is active with chance rho, so that exploitability is that of a
    Markov decision process; `value = chain` follows one who always is. [OUR CHOICE, PAPER]
 3. Time is scaled by rho and a round shares a table: else B = 1 and B = N are different games. What
    is paid at a step is discounted by the game. [OUR CHOICE]
 4. Rewards are pessimistic by `pessimism` standard deviations of the ensemble. [OUR CHOICE]
 5. Many inner steps without damping cycle on games with strong congestion: L = 1. [OUR CHOICE]

What reproduces. Exploitability after quick's 4,400 steps, one seed, on data of queue-n128 and
resource-n128, which no board uses (uniform play 1.73 and 2.24); BC is pi_0:
               oracle   model, from BC                                      mis, from BC
    queue      .0000    expert .035 -> .040, medium 1.31 -> .027,           medium 1.31 -> .19
                        random 1.70 -> .073
    resource   .0005    expert .182 -> .004, medium 1.61 -> .015,           medium 1.61 -> .67
                        random 2.32 -> .028
The learned model decides. With perceptrons of few populations a batch (32, of 32 agents each, lr
1e-3) a course on the queue dipped to .25 and rose to 1.2 as the policy went where the model was
wrong; with 128 of 8, lr 3e-3 and counted tables below them it stays where it is best, and the stop
is not needed. `mis` without its anchor passes .4 on the way to 5.4.
The oracle stands within .0006 of water-filling at every step after the first, and on the queue
(mu_k + .02) / c_k is 1.083 for all k from the middle on: the unique equilibrium. The error of N
agents falls as N to the power -.48 to -.51, for B = 1, N/8, N/2 and N on both games, up to N =
4,096 (leaderboard/studies/population_error.json): the paper's 1/sqrt N, for any B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from algorithms.nn import categorical
from algorithms.nn.encode import sampled_steps
from algorithms.nn.game import ExactGame, Game, Weights, among, course, logged, turns_law, values
from algorithms.nn.learned_game import LearnedGame
from algorithms.nn.settings import check_settings
from algorithms.nn.stacked import StackedMLP, generators
from algorithms.nn.team import Parts as Saved
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec

BOUNDS = {
    "inner": (1.0, 1e4),
    "rate": (1e-9, 1e3),
    "damping": (0.0, 1 - 1e-9),
    "tau": (0.0, 1e3),
    "tau_kl": (0.0, 1e3),
    "smooth": (1e-9, 1e9),
    "members": (1.0, 64.0),
    "pessimism": (0.0, 1e3),
    "budget": (1.0, 1e9),
    "fit_share": (0.0, 1.0),
    "cql": (0.0, 1e3),
    "largest": (1.0, 1e9),
}
STATE = ("doubt", "stopped", "step")  # of a checkpoint, beside networks and arrays
CHOICES = {
    "source": ("learned", "exact", "weights"),
    "gradient": ("natural", "vanilla"),
    "value": ("averaged", "chain"),
}


@dataclass(frozen=True)
class TMFPGConfig:
    """All values are our choice, for 2 CPU cores."""

    source: Literal["learned", "exact", "weights"] = "learned"  # fixed by the variant
    gradient: Literal["natural", "vanilla"] = "natural"  # (3)
    value: Literal["averaged", "chain"] = "averaged"  # difference 2
    rate: float = 0.3  # lr of (3)
    inner: int = 1  # L of (4)
    damping: float = 0.0  # share of the former populations in (4)
    tau: float = 0.0  # weight of the entropy in (3)
    tau_kl: float = 0.0  # weight of the distance from the behaviour in (3)
    smooth: float = 1.0  # pseudo-counts of uniform play in the behaviour pi_0
    fit_share: float = 0.9  # of the steps that fit the model, before those of (3); mis: unused
    members: int = 3  # of the ensemble
    width: int = 64  # units of a hidden layer
    lr: float = 3e-3  # Adam step size of the networks
    batch_size: int = 128  # populations of a batch: their number teaches what mu does
    agents: int = 8  # agents seen of each
    pessimism: float = 0.0  # standard deviations that rewards lose
    budget: float = 1.5  # of doubt, in units of the behaviour's
    cql: float = 0.1  # weight of the penalty of (5)
    every: int = 10  # updates of (5) for one of (3)
    largest: float = 20.0  # of an importance weight


class TMFPG(Algorithm):
    Config = TMFPGConfig
    paper = "arXiv:2602.18026 (reconstruction)"
    variants: ClassVar = {
        "default": Variant(
            tuning={"meanfield/": Tuning(configs_tried=8)},
            steps={"smoke": 60, "quick": 4_400, "full": 20_000},
        ),
        "mis": Variant(
            steps={"smoke": 60, "quick": 3_000, "full": 20_000},
            config={"source": "weights", "rate": 0.1, "tau_kl": 0.3, "budget": 2.0},
            tuning={"meanfield/": Tuning(configs_tried=3)},
        ),
        "oracle": Variant(
            steps={"smoke": 20, "quick": 800, "full": 2_000},
            config={"source": "exact"},
            track="oracle",
        ),
    }
    requires = frozenset({"finite", "exchangeable"})
    small: ClassVar[dict[str, Any]] = {"width": 16, "members": 2, "batch_size": 16}

    def __init__(
        self, config: TMFPGConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        check_settings(config, BOUNDS, CHOICES)
        assert spec.n_obs is not None
        assert spec.n_actions is not None
        self.shape = (spec.horizon, spec.n_obs, spec.n_actions)
        self.theta = np.zeros(self.shape)  # of rounds, once `prepare` knows how many
        self.anchor = np.zeros(self.shape)  # log pi_0
        self.mu0, self.rho = np.full(spec.n_obs, 1 / spec.n_obs), 1.0
        self.context = torch.zeros(0)  # [S, O + A] of the data
        self.starts = torch.zeros(0, dtype=torch.int64)
        self.past = np.zeros((spec.horizon + 1, spec.n_obs))  # the populations of (4)
        self.doubt, self.stopped, self.step, self.fit_steps = 0.0, False, 0, 0
        self.before = self.theta  # the last policy that was not doubted too much
        self.spread = 1.0  # of rewards
        self.learned: LearnedGame | None = None
        self.game: Game | None = None
        self.critic: StackedMLP | None = None
        self.weights: Weights | None = None
        parts: dict[str, Any] = {}
        if config.source == "learned":
            sizes = (config.members, config.width, seeds[0], config.pessimism)
            self.learned = self.game = parts["learned"] = LearnedGame(spec, *sizes).to(device)
        if config.source == "weights":
            inputs = sum(self.shape) + spec.n_obs
            sizes_q = (inputs, config.width, config.width, spec.n_actions + 1)
            critic = StackedMLP(generators(seeds), (1,), sizes_q, F.silu).to(device)
            self.critic = parts["critic"] = critic
        trained = [p for part in parts.values() for p in part.parameters()]
        self.optimiser = torch.optim.Adam(trained, config.lr) if trained else None
        if self.optimiser:
            parts["optimiser"] = self.optimiser
        self.saved = Saved(**parts)
        self.begin(1, 0)

    # ------------------------------------------------------------------------------------ the data
    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        config = self.config
        known = logged(data, self.spec, config.smooth)
        self.mu0, self.rho = known.mu0, known.rho
        self.anchor = np.log(known.behaviour)  # [rounds, O, A]
        self.theta = self.before = self.anchor.copy()
        context = np.concatenate([known.populations, known.choices], 1)
        self.context = torch.as_tensor(context, device=self.device)
        self.starts = torch.as_tensor(np.array(data.starts), device=self.device)
        if config.source == "exact":
            assert model is not None
            self.game, self.mu0 = ExactGame(model), np.asarray(model.mu0)
            self.theta, self.anchor = 0 * self.theta, 0 * self.anchor - np.log(self.shape[2])
        elif self.learned is not None:
            self.fit_steps = round(steps * config.fit_share)
            self.learned.prepare(data, known)
            self.learned.sees = self.learned.sees.to(self.device)
        else:
            self.spread = max(float(np.asarray(data.rew[sampled_steps(data)]).std()), 1e-6)
            self.weights = Weights(data, self.spec, known, config.largest)
            self._publish()

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        """Transitions; where an update asks for none, the least there is."""
        asks = self.critic is not None or self.step < self.fit_steps
        n = min(self.config.agents, self.spec.n_agents) if asks else 1
        return data.transitions(rngs, self.config.batch_size if asks else 1, agents=n)

    # --------------------------------------------------------------------------------- the updates
    def update(self, batch: Batch) -> dict[str, Tensor]:
        self.step += 1
        if self.critic is not None:
            losses = self._evaluate(batch)
            if self.step % self.config.every == 0:
                self._climb_by_weights()
                self._publish()
            return losses
        if self.step <= self.fit_steps:
            assert self.learned is not None
            assert self.optimiser is not None
            row = self.starts[batch.episode] + batch.step
            kernel, reward = self.learned.losses(batch, self.context[row])
            self.optimiser.zero_grad()
            (kernel + reward).backward()
            self.optimiser.step()
            members = self.config.members
            return {
                "kernel_loss": kernel.detach() / members,
                "reward_loss": reward.detach() / members,
            }
        return self._climb()

    def _climb(self) -> dict[str, Tensor]:
        """(1) to (4) on a game that is known or learned."""
        assert self.game is not None
        if self.learned is not None:
            self.learned.to("cpu")  # fitted by now; the recursions are tables on the host
        config, pi = self.config, self._policy(self.theta)
        now = course(self.game, self.mu0, pi, self.rho)
        q, value = values(now.reward, now.kernel, pi, self.rho, config.value == "chain")
        lost = -float(self.mu0 @ value[0])
        losses = {"value_loss": torch.tensor(lost), "doubt": torch.tensor(now.doubt)}
        if self.step == self.fit_steps + 1:
            self.doubt = now.doubt
        elif self.learned is not None and now.doubt > config.budget * self.doubt:
            self.stopped, self.theta = True, self.before
        if self.stopped:
            return losses
        self.before = self.theta.copy()
        if config.damping:
            if not self.past.any():
                self.past = now.mu
            self.past = config.damping * self.past + (1 - config.damping) * now.mu
            now = among(self.game, self.past, pi)
            q, _ = values(now.reward, now.kernel, pi, self.rho, config.value == "chain")
        self._ascend(q, pi, now.mu)
        for _ in range(config.inner - 1):
            pi = self._policy(self.theta)
            q, _ = values(now.reward, now.kernel, pi, self.rho, config.value == "chain")
            self._ascend(q, pi, now.mu)
        return losses

    def _ascend(self, q: Array, pi: Array, mu: Array) -> None:
        """(3), with q [H, O, A] and mu [H or more, O]."""
        config, horizon = self.config, len(pi)
        log_pi = np.log(np.maximum(pi, 1e-300))
        gain = q - (pi * q).sum(-1, keepdims=True) - config.tau * log_pi
        gain = gain - config.tau_kl * (log_pi - self._per_step(self.anchor))
        if config.gradient == "vanilla":
            gain = gain * mu[:horizon, :, None] * pi
        rounds = np.arange(horizon) // self._steps(len(self.theta))
        np.add.at(self.theta, rounds, config.rate * self.rho * gain)
        self.theta -= self.theta.max(-1, keepdims=True)

    # ------------------------------------------------------------------------------ weights, mis
    def _evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """(5), one step."""
        assert batch.next_obs is not None
        assert self.critic is not None
        assert self.optimiser is not None
        horizon, _, n_actions = self.shape
        obs, after = batch.obs[:, 0, :, 0], batch.next_obs[:, 0, :, 0]  # [B, n]
        act, row = batch.act[:, 0], self.starts[batch.episode] + batch.step  # [B, n], [B]
        on = torch.ones_like(act, dtype=torch.bool)
        on = on if batch.active is None else batch.active[:, 0]
        with torch.no_grad():
            later = (batch.step + 1).clamp(max=horizon - 1)
            then = self.context[(row + 1).clamp(max=len(self.context) - 1)]
            chance = self.law[later.unsqueeze(1), after]
            value = (chance * self._q(later, after, then)).sum(-1)
            value = value * (batch.step + 1 < horizon).unsqueeze(1)
            target = batch.rew[:, 0] / self.spread + value
        q = self._q(batch.step, obs, self.context[row])  # [B, n, A + 1]
        own = q.gather(-1, torch.where(on, act, n_actions).unsqueeze(-1)).squeeze(-1)
        loss = (own - target).square().mean()
        over = q[..., :-1].logsumexp(-1) - own
        penalty = (over * on).sum() / on.sum().clamp(min=1)
        self.optimiser.zero_grad()
        (loss + self.config.cql * penalty).backward()
        self.optimiser.step()
        return {"critic_loss": loss.detach(), "penalty": penalty.detach()}

    def _q(self, step: Tensor, obs: Tensor, context: Tensor) -> Tensor:
        """Q and the value of passivity, [B, n, A + 1]: step [B], obs [B, n], context [B, O + A]."""
        assert self.critic is not None
        horizon, n_obs, _ = self.shape
        n = obs.shape[1]
        time = F.one_hot(step, horizon).unsqueeze(1).expand(-1, n, -1)
        x = torch.cat([time, F.one_hot(obs, n_obs), context.unsqueeze(1).expand(-1, n, -1)], -1)
        y: Tensor = self.critic(x.float().flatten(0, 1).unsqueeze(0).unsqueeze(0))
        return y[0, 0].unflatten(0, obs.shape)

    def _climb_by_weights(self) -> None:
        """(3) at the population that the weights give."""
        horizon, n_obs, n_actions = self.shape
        assert self.weights is not None
        pi = self._policy(self.theta)
        mu, doubt = self.weights.flow(self.mu0, pi)
        if not self.doubt:
            self.doubt = doubt
        if doubt > self.config.budget * self.doubt:
            self.stopped, self.theta = True, self.before
        if self.stopped:
            return
        self.before = self.theta.copy()
        xi = mu[..., None] * pi
        known = np.concatenate([mu, xi.sum(1)], 1)
        context = torch.as_tensor(known, dtype=torch.float32, device=self.device)
        step = torch.arange(horizon, device=self.device)
        obs = torch.arange(n_obs, device=self.device).expand(horizon, -1)
        with torch.no_grad():
            q = self._q(step, obs, context)[..., :n_actions]
        self._ascend(self.spread * q.double().cpu().numpy(), pi, mu)

    def _publish(self) -> None:
        """The policy as (5) reads it, on the device."""
        law = turns_law(self._policy(self.theta), self.rho)  # [H, O, A + 1]
        self.law = torch.as_tensor(law, dtype=torch.float32, device=self.device)

    # -------------------------------------------------------------------------------------- acting
    def _steps(self, rounds: int) -> int:
        """Steps of a round."""
        return -(-self.shape[0] // rounds)

    def _per_step(self, tables: Array) -> Array:
        """[rounds, O, A] -> [H, O, A]."""
        return np.repeat(tables, self._steps(len(tables)), axis=0)[: self.shape[0]]

    def _policy(self, theta: Array) -> Array:
        """pi [H, O, A] of theta [rounds, O, A]."""
        weight = np.exp(theta - theta.max(-1, keepdims=True))
        return self._per_step(weight / weight.sum(-1, keepdims=True))

    def policy_table(self) -> Array:
        return self._policy(self.theta)

    def begin(self, n_envs: int, seed: int) -> None:
        self.rng = categorical.generators(seed, self.seeds)[0]
        self.table = self._policy(self.theta)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        state, law = obs[..., 0], self.table[t]  # [E, N], [O, A]
        u = self.rng.random(state.shape)
        if mask is None:
            found = law.argmax(-1)[state]
            return found if deterministic else categorical.draw_table(law, state, u)
        likely = categorical.allow(law[state], mask)
        return likely.argmax(-1) if deterministic else categorical.draw(likely, u)

    def state_dict(self) -> dict[str, Any]:
        arrays = {
            name: torch.as_tensor(getattr(self, name)) for name in ("theta", "before", "past")
        }
        return self.saved.state_dict() | arrays | {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.saved.load_state_dict(state)
        for name in ("theta", "before", "past"):
            setattr(self, name, state[name].cpu().numpy().copy())
        for name in STATE:
            setattr(self, name, state[name])
        self._publish()
        self.begin(1, 0)

    def cost(self) -> dict[str, float]:
        nets = [net for net in (self.learned, self.critic) if net is not None]
        return {
            "parameters": self.theta.size + sum(p.numel() for m in nets for p in m.parameters())
        }
