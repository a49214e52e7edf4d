"""OM2P: a one-step mean-flow policy for every agent, trained by matching and by Q together.

Paper: Li et al., "OM2P: Offline Multi-Agent Mean-Flow Policy", arXiv:2508.06269. We could read its
abstract and its released code, not its body or tables. Mean flow is arXiv:2505.13447, (M1) to (M4)
in `algorithms/nn/meanflow.py`: t = 1 is noise, t = 0 is data.

    (1) flow     z = (1 - t) a_i + t e, v = e - a_i, e ~ N(0, I); r <= t, with probability rho r = t
                 L_MF = E w |u(o_i, z, r, t) - sg(v - (t - r) du/dt)|^2
    (2) slope    du/dt = [u(o_i, z, r, t) - u(o_i, z - delta v, r, t - delta)] / delta
    (3) policy   pi_i(o_i, e) = clip(e - u(o_i, e, 0, 1), -1, 1)
    (4) value    L_Q = -E mean_j Q_ij(o_i, pi_i(o_i, e)) / E |Q|,   L_actor = L_MF + eta L_Q
    (5) critic   y = r_i + gamma (1 - terminated) min_j Q'_ij(o_i', pi_i(o_i', e')),
                 L_critic = sum_j E (Q_ij(o_i, a_i) - y)^2;   theta' <- (1 - tau) theta' + tau theta

Differences from the paper
 1. (1) puts the state at t and differentiates in t, (3) subtracts u from the noise: the identities
    of mean flow. The released code puts the state at its later time, takes the sign that belongs to
    the earlier one, and plays u itself; `om2p_release` keeps that. [PRIOR WORK: MeanFlow]
 2. delta = 5e-3: the released 1e-12 is 0 in float32, so that its difference vanishes and with it
    what makes one step enough. [OUR CHOICE]
 3. Times: two draws of a logit-normal law, sorted, half of them r = t; the paper's "generalised
    timestep distribution" could not be read. `p_time` has the others. [PRIOR WORK: MeanFlow]
 4. "independent" critics see (o_i, a_i), as in the code, though its notes say centralised training;
    "centralised" ones see all agents' (o, a), where in (4) the others' actions are the data's, in
    (5) their policies'. [CODE] [OUR CHOICE]
 5. (4) divides by E |Q|, an option of the code, and the minimum of (5) is its option too; default
    there is the mean. `q_agg = mean` brings it back. [CODE]
 6. The clip of (3) passes gradients on, or an action outside would never learn. [OUR CHOICE]
 7. |.|^2 is the mean over the agent's own action dimensions. w is 1, or with `adaptive` = p the
    (|.|^2 + 0.01)^-p of mean flow. [CODE]
 8. Rewards are divided by their spread in the data; observations are normalised. [OUR CHOICE]
 9. Actor 3 x 128 and critic 2 x 128 in place of 4 x 512, for CPUs. [OUR CHOICE]
10. A deterministic action is that of the noise e = 0. [OUR CHOICE]
11. On MPE gamma is 0.95 as OMAR's; there and on MAMuJoCo lr is 3e-3 and times are by "exp": see
    below. [OUR CHOICE]

What reproduces
    An update costs 1.3 times its matrix products at width 256, 2.5 times at width 64 (`make perf`).
    Memory, leaderboard/studies/training_memory.json, all tensors of a training: 3.1 times less than
    Diffusion-QL's of 20 steps with the same networks (of 5: 1.4; as wide as released: 2.0), as much
    as of 1. Of what an update adds alone it is 3.5 times. The paper has up to 3.8; its comparator
    could not be read. A step of cloning adds 5.3 MB by (2), as without any slope, 7.9 and 9.5 by
    exact derivatives (jvp, vjac), 2,170 by the Jacobian of the whole batch, which the release asks
    of JAX.
    Parts of mean flow, leaderboard/studies/mean_flow.json, two modes in two dimensions, 5 seeds:
    energy distance of one-step samples .026 by (2), .020 by the exact derivative (.006 [-.012,
    .026] more), .90 without it. The relative error of (2) in float32 is .003 at delta = 5e-3 on
    untrained networks, where 1e-3 has .011, but .05 on trained ones, where 1e-3 has .010 and 1e-4
    .001: delta wants to fall in training. The released 1e-12 has 1. Times by "exp" are worse there
    than uniform ones (.031 and .014), and better than logit-normal ones on spread, see next.
    Spread, development data of leaderboard/tuning: it was short training, not the method, that
    first stood at 25 on expert data after 2,000 updates. Without Q, cloning by mean flow has 70
    after 6,000 and 89 after 12,000 updates with logit-normal times, 78 after 6,000 with "exp" ones,
    which are drawn near r = 0, t = 1, where actions are made, and 82 with rho = .75 besides. (ReLU
    in the actor's place of GELU has 87, and loses modes of the bandit of tests/test_om2p.py.) Q
    costs on expert data and gains on medium: eta = 1 has 51 and 39 after 6,000 updates, eta = .1
    has 34 on medium. The frozen eta = .3 has 92 on expert data after 12,000 (BC 95). No gain came
    from a falling learning rate (62 against 70), from u = z - network (68) or u = (z - network) / t
    (62).
    Quick protocol, 5 seeds: about cloning on spread (medium-replay, medium and expert data 37.0,
    39.0, 93.1; BC 33.5, 38.6, 95.1), far above it on tag's poor data (41.1, 51.3, 94.6; BC 21.5,
    43.0, 100.9), above it on mixed data (spread 58.6 and 51.6, tag 83.9, 73.3), no gain on random
    data (12.9, 13.5). One step against the five of Diffusion-QL on spread: 7 points below on
    medium and 45 above on expert data, 18.8 [17.7, 19.9] in the mean. Each has its own frozen
    budget, 12,000 updates of 256 rows and 5,000 of 128, after which a chain is far from trained:
    its header has 65 on expert data after 10,000. So quality is kept, and no more is shown.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from algorithms.nn import categorical, meanflow
from algorithms.nn.compiled import CompileMode, compile_graph, resolve_compile
from algorithms.nn.encode import (
    Encoder,
    action_mask,
    feature_width,
    from_rows,
    mean_rows,
    n_networks,
    to_rows,
)
from algorithms.nn.generative import TwinCritics, acting_noise, clip_through
from algorithms.nn.meanflow import Estimator, TimeLaw
from algorithms.nn.optim import Adam, polyak
from algorithms.nn.settings import PROBE, check_settings
from algorithms.nn.stacked import StackedMLP, generators, parameters_per_seed
from algorithms.nn.team import NOISE_SEEDS, Parts, Rows, normals, reward_scale, rows_of, sample_rows
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec

BOUNDS = {
    "delta": (1e-5, 0.5),
    "rho": (0.0, 1.0),
    "eta": (0.0, 1e6),
    "adaptive": (0.0, 2.0),
    "n_steps": (1, 1000),
}
CHOICES = {
    "estimator": meanflow.ESTIMATORS,
    "p_time": meanflow.TIME_LAWS,
    "critic": ("independent", "centralised"),
    "q_agg": ("min", "mean"),
}
ADAPTIVE_FLOOR = 0.01  # mean flow's c
SEARCHED: dict[str, Any] = {  # leaderboard/tuning/om2p.json, on spread
    "lr": 3e-3,
    "eta": 0.3,
    "p_time": "exp",
    "rho": 0.75,
    "steps": {"smoke": 50, "quick": 12_000, "full": 1_000_000},
}


@dataclass(frozen=True)
class OM2PConfig:
    batch_size: int = 256  # transitions per update
    agents: int = 64  # agents seen of each transition, exchangeable populations only
    width: int = 128  # units of a hidden layer
    depth: int = 3  # hidden layers of the actor
    critic_depth: int = 2  # hidden layers of a critic
    lr: float = 3e-4  # Adam step size, released code
    gamma: float = 0.99  # discount, released code
    tau: float = 0.005  # Polyak rate of (5), released code
    eta: float = 1.0  # weight of Q in (4); the authors advise 0.01, 0.1, 1 or 10
    estimator: Estimator = "fd"  # of du/dt, see nn/meanflow.py
    delta: float = 5e-3  # width of the difference (2), in units of flow time
    p_time: TimeLaw = "logit_normal"  # law of the times of (1)
    rho: float = 0.5  # share of r = t
    adaptive: float = 0.0  # power of the adaptive weight w, 0: none
    n_steps: int = 1  # jumps of the policy from noise to action
    critic: Literal["independent", "centralised"] = "independent"  # what a critic sees
    q_agg: Literal["min", "mean"] = "min"  # of the two critics in (5)
    compile: CompileMode = "auto"  # one graph per update: auto (long runs), on, off


class OM2P(Algorithm):
    Config = OM2PConfig
    paper = "arXiv:2508.06269 (reconstruction)"
    variants: ClassVar = {
        "default": Variant(
            steps={"smoke": 50, "quick": 5_000, "full": 1_000_000},
            families={"mpe/": SEARCHED | {"gamma": 0.95}, "mamujoco/": SEARCHED, "probe/": PROBE},
            tuning={"mpe/": Tuning(configs_tried=8, online_episodes=6_100)},
        )
    }
    requires = frozenset({"continuous"})
    stacks_seeds = True
    small: ClassVar[dict[str, Any]] = {"width": 32, "batch_size": 64}

    def __init__(
        self, config: OM2PConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        check_settings(config, BOUNDS, CHOICES)
        gens, m = generators(seeds), n_networks(spec)
        inputs = feature_width(spec) + spec.act_dim + 2
        sizes = (inputs, *[config.width] * config.depth, spec.act_dim)
        self.encoder = Encoder(spec).to(device)
        self.actor = StackedMLP(gens, (m,), sizes, F.gelu).to(device)
        hidden = [config.width] * config.critic_depth
        self.critic = TwinCritics(gens, spec, hidden, config.critic == "centralised").to(device)
        self.target_critic = copy.deepcopy(self.critic)
        self.actor_weights = list(self.actor.parameters())
        self.critic_weights = list(self.critic.parameters())
        self.optimiser = Adam(self.actor_weights + self.critic_weights, config.lr)
        self.action_mask = action_mask(spec).to(device)  # [M, 1, A]
        self.reward_scale = torch.ones(m, 1, device=device)
        self.noise = generators([seed + NOISE_SEEDS for seed in seeds])
        self.parts = Parts(
            encoder=self.encoder,
            actor=self.actor,
            critic=self.critic,
            target_critic=self.target_critic,
            optimiser=self.optimiser,
            reward_scale=self.reward_scale,
            noise=self.noise,
        )
        self._set_compiled(False)
        self.begin(1, 0)

    def _set_compiled(self, compiled: bool) -> None:
        self.compiled = compiled
        self._losses = compile_graph(self._gradients) if compiled else self._gradients

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        self.encoder.fit(data)
        self.reward_scale.copy_(reward_scale(data, self.spec))
        self._set_compiled(resolve_compile(self.config.compile, steps))

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        return sample_rows(data, rngs, self.spec, self.config.batch_size, self.config.agents)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        config, rows = self.config, rows_of(batch, self.spec)
        noise = normals(self.noise, rows.act.repeat(1, 1, 1, 3)).chunk(3, -1)  # [K, M, R, A] each
        shape = (*rows.act.shape[1:-1], 1)
        r, t = meanflow.draw_times(self.noise, shape, config.p_time, config.rho, self.device)
        losses, gradients = self._losses(rows, noise, r, t.clamp(min=config.delta))
        self.optimiser.step(gradients)
        polyak(self.target_critic, self.critic, config.tau)
        return losses

    def _velocity(self, features: Tensor) -> meanflow.Velocity:
        def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
            return self.actor(torch.cat([features, z, t, t - r], -1)) * self.action_mask

        return u

    def _policy(self, features: Tensor, e: Tensor) -> Tensor:
        e = e * self.action_mask
        made = meanflow.generate(self._velocity(features), e, self.config.n_steps)
        return clip_through(made)  # (3)

    def _gradients(
        self, rows: Rows, noise: Sequence[Tensor], r: Tensor, t: Tensor
    ) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """Losses [K] and the gradients of (4) and (5), both at the weights before the update."""
        features = self.encoder(rows.obs, rows.step)
        critic_loss = self._critic_loss(features, rows, noise[2])  # [K, M]
        flow_loss = self._flow_loss(features, rows, noise[0], r, t)
        values = self.critic(features, rows.act, self._policy(features, noise[1]))  # [K, M, 2, R]
        scale = mean_rows(values.detach().abs().mean(2), rows.alive).clamp(min=1e-6)
        value_loss = -mean_rows(values.mean(2), rows.alive) / scale  # (4)
        actor_loss = flow_loss + self.config.eta * value_loss
        gradients = (
            *torch.autograd.grad(actor_loss.sum(), self.actor_weights),
            *torch.autograd.grad(critic_loss.sum(), self.critic_weights),
        )
        losses = {"flow_loss": flow_loss, "value_loss": value_loss, "critic_loss": critic_loss}
        return {name: loss.detach().mean(1) for name, loss in losses.items()}, gradients

    def _flow_loss(self, features: Tensor, rows: Rows, e: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """(1): [K, M]."""
        config, u = self.config, self._velocity(features)
        z, v = meanflow.interpolate(rows.act, e * self.action_mask, t)
        value = u(z, r, t)
        slope = meanflow.time_derivative(  # (2)
            u, z, r, t, v, value.detach(), config.estimator, config.delta
        )
        target = meanflow.average_target(v, r, t, slope)
        error = (value - target).square().sum(-1) / self.action_mask.sum(-1)
        if config.adaptive:
            error = error * (error.detach() + ADAPTIVE_FLOOR) ** -config.adaptive
        return mean_rows(error, rows.alive)

    def _critic_loss(self, features: Tensor, rows: Rows, e: Tensor) -> Tensor:
        """(5): [K, M]."""
        config = self.config
        with torch.no_grad():
            after = self.encoder(rows.next_obs, rows.step + 1)
            both = self.target_critic(after, self._policy(after, e))
            best = both.amin(2) if config.q_agg == "min" else both.mean(2)
            target = rows.rew * self.reward_scale + config.gamma * (1 - rows.ended) * best
        values = self.critic(features, rows.act)
        return mean_rows((values - target.unsqueeze(2)).square().sum(2), rows.alive)

    def begin(self, n_envs: int, seed: int) -> None:
        self.rngs = categorical.generators(seed, self.seeds)

    @torch.no_grad()
    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        rows = to_rows(torch.as_tensor(obs, device=self.device), self.spec)  # [K, M, R, D]
        step = torch.full(rows.shape[:-1], t, device=self.device)
        e = acting_noise(self.rngs, obs, self.spec, self.device)
        chosen = self._policy(self.encoder(rows, step), e * (0.0 if deterministic else 1.0))
        return from_rows(chosen, self.spec, obs.shape[2]).cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        return self.parts.state_dict() | {"compiled": self.compiled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.parts.load_state_dict(state)
        if state["compiled"] != self.compiled:
            self._set_compiled(state["compiled"])

    def cost(self) -> dict[str, float]:
        parameters = parameters_per_seed(self.actor, self.critic)
        return {"parameters": parameters, "sampler_steps": self.config.n_steps}
