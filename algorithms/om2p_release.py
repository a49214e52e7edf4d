"""OM2P as released: bug-compatible with the authors' code, to reproduce it and for nothing else.

Paper: Li et al., "OM2P: Offline Multi-Agent Mean-Flow Policy", arXiv:2508.06269; code
github.com/lizr16/OM2P at f3cfd05 (JAX), of which this is a description in torch. `om2p` has the
sound form; what the paper's tables were made with cannot be told. Here t runs from noise to data.

    (1) flow     x = (1 - t_stop) x0 + t_stop a_i, vel = a_i - x0, x0 ~ N(0, I)
                 L_BC = E |u(o_i, x, t_start, t_stop) - sg(vel - (t_start - t_stop) du/dt)|^2
    (2) slope    "fd": [u(x, t_start, t_stop) - u(x - delta vel, t_start, t_stop - delta)] / delta
                 with delta = 1e-12; "jacobian": exact, du/dx vel + du/dt_stop; "zero"
    (3) policy   pi_i(o_i, x0) = clip(u(o_i, x0, 0, 1), -1, 1)
    (4) value    L_Q = -E mean_j Q_ij(o_i, pi_i(o_i, x0)),   L_actor = L_BC + q_weight L_Q
    (5) critic   y = r_i + gamma (1 - terminated) mean_j Q'_ij(o_i', pi_i(o_i', x0')),
                 L_critic = mean_j E (Q_ij(o_i, a_i) - y)^2; theta' <- (1 - tau) theta' + tau theta
    (6) times    t_start and t_stop are drawn independently; see `times`

What is wrong in it, kept on purpose
 a. (1) has the state at t_stop and differentiates there, with the sign of the other end: the fixed
    point is not the average velocity. [CODE]
 b. (3) plays the velocity and not noise + velocity: cloning alone does not make it the data's law.
    The Q term can still push it to useful actions. [CODE]
 c. t - 1e-12 is t in float32, so the difference in (2) is 0 and "fd" equals "zero". [CODE]
 d. The clip of (3) has no gradient outside the box. [CODE]

Differences from the code
 1. 3 x 128 in place of 4 x 512 for actor and critic; `width` and `depth` bring it back.
    [OUR CHOICE]
 2. The options for CEM imitation, IQL, CQL and reward-weighted cloning are left out; they are off
    in the published commands. [OUR CHOICE]
 3. Padded action dimensions and dead agents have no part in any loss. [OUR CHOICE]
 4. GELU is the exact one; JAX's default approximates it by a tanh. [OUR CHOICE]

As in the code, neither observations nor rewards are scaled, and evaluation draws its noise.

What reproduces (the tables could not be read; quick protocol, 3 seeds): that (1) and (3) do not
clone, see b. Expert data: 3.6 on spread, 1.1 on tag, where om2p has 93.1 and 94.6, BC 95.1 and
100.9. What its actions are is then left to Q, which pays on poor data: medium-replay and medium
54.1 and 54.4 on spread (om2p 37.0, 39.0), 78.4 and 80.0 on tag (41.1, 51.3), where imitation holds
the sound form back. 10.0 on the bandit of two joint modes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

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
from algorithms.nn.generative import TwinCritics, acting_noise
from algorithms.nn.optim import Adam, polyak
from algorithms.nn.settings import PROBE, check_settings
from algorithms.nn.stacked import StackedMLP, generators, parameters_per_seed
from algorithms.nn.team import NOISE_SEEDS, Parts, Rows, normals, rows_of, sample_rows, uniforms
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.device import sent
from benchmark.task import Array, GameModel, TaskSpec

TimeLaw = Literal["uniform", "exp", "quadratic", "beta", "high_beta", "adaptive_beta"]
BETAS = {"beta": 2.0, "high_beta": 5.0, "adaptive_beta": 1.0}  # both parameters of the law
EXP_SCALE = 0.2  # the code's exp_value
ESTIMATORS = {"fd": "fd", "jacobian": "jvp", "zero": "zero"}  # the exact one needs no Jacobian
BOUNDS = {"delta": (1e-30, 0.5), "q_weight": (0.0, 1e6)}
CHOICES = {
    "estimator": tuple(ESTIMATORS),
    "p_time": get_args(TimeLaw),
    "q_agg": ("mean", "min"),
}


def times(
    gens: list[torch.Generator], shape: tuple[int, ...], law: str, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """(6): t_start and t_stop [K, *shape]. The second is always 1 - a draw, except for "uniform",
    where that is the same law.
    """
    if law in BETAS:
        size = torch.full((2, 2, *shape), BETAS[law])
        gamma = torch.stack([torch._standard_gamma(size, gen) for gen in gens], 2)
        first, second = gamma[0] / gamma.sum(0)  # [K, *shape] each
    else:
        first, second = uniforms(gens, (2, *shape), "cpu").unbind(1)
        if law == "exp":
            first, second = ((-EXP_SCALE * torch.log1p(-x)).clamp(max=1) for x in (first, second))
        elif law == "quadratic":
            first, second = first.square(), second.square()
    return sent(first, device), sent(1 - second, device)


@dataclass(frozen=True)
class OM2PReleaseConfig:
    batch_size: int = 256  # transitions per update
    agents: int = 64  # agents seen of each transition, exchangeable populations only
    width: int = 128  # units of a hidden layer; released: 512
    depth: int = 3  # hidden layers of the actor; released: 4
    critic_depth: int = 3  # hidden layers of a critic; released: 4
    lr: float = 3e-4  # Adam step size; the MPE example of the release has 1e-3
    gamma: float = 0.99  # discount
    tau: float = 0.005  # Polyak rate of (5)
    q_weight: float = 1.0  # weight of Q in (4); the authors advise 0.01, 0.1, 1 or 10
    normalize_q: bool = False  # divide L_Q by E |Q|, an option of the code
    estimator: Literal["fd", "jacobian", "zero"] = "fd"  # as the MPE example: is_autograd = 0
    delta: float = 1e-12  # width of the difference (2), in units of flow time
    p_time: TimeLaw = "uniform"  # law of the times (6)
    q_agg: Literal["mean", "min"] = "mean"  # of the two critics in (5)
    compile: CompileMode = "auto"  # one graph per update: auto (long runs), on, off


class OM2PRelease(Algorithm):
    Config = OM2PReleaseConfig
    paper = "arXiv:2508.06269 (released code)"
    variants: ClassVar = {
        "default": Variant(
            steps={"smoke": 50, "quick": 5_000, "full": 1_000_000},
            families={"mpe/": {"lr": 1e-3}, "probe/": PROBE},  # mpe: the authors' example command
        )
    }
    requires = frozenset({"continuous"})
    stacks_seeds = True
    small: ClassVar[dict[str, Any]] = {"width": 32, "batch_size": 64}

    def __init__(
        self, config: OM2PReleaseConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        check_settings(config, BOUNDS, CHOICES)
        gens = generators(seeds)
        inputs = feature_width(spec) + spec.act_dim + 2
        sizes = (inputs, *[config.width] * config.depth, spec.act_dim)
        self.encoder = Encoder(spec).to(device)  # never fitted: it passes vectors through
        self.actor = StackedMLP(gens, (n_networks(spec),), sizes, F.gelu).to(device)
        hidden = [config.width] * config.critic_depth
        self.critic = TwinCritics(gens, spec, hidden, joint=False).to(device)
        self.target_critic = copy.deepcopy(self.critic)
        self.actor_weights = list(self.actor.parameters())
        self.critic_weights = list(self.critic.parameters())
        self.optimiser = Adam(self.actor_weights + self.critic_weights, config.lr)
        self.action_mask = action_mask(spec).to(device)  # [M, 1, A]
        self.noise = generators([seed + NOISE_SEEDS for seed in seeds])
        self.parts = Parts(
            actor=self.actor,
            critic=self.critic,
            target_critic=self.target_critic,
            optimiser=self.optimiser,
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
        self._set_compiled(resolve_compile(self.config.compile, steps))

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        return sample_rows(data, rngs, self.spec, self.config.batch_size, self.config.agents)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        rows = rows_of(batch, self.spec)
        noise = normals(self.noise, rows.act.repeat(1, 1, 1, 3)).chunk(3, -1)  # [K, M, R, A] each
        shape = (*rows.act.shape[1:-1], 1)
        start, stop = times(self.noise, shape, self.config.p_time, self.device)
        losses, gradients = self._losses(rows, noise, start, stop)
        self.optimiser.step(gradients)
        polyak(self.target_critic, self.critic, self.config.tau)
        return losses

    def _velocity(self, features: Tensor) -> meanflow.Velocity:
        def u(x: Tensor, start: Tensor, stop: Tensor) -> Tensor:
            return self.actor(torch.cat([features, x, start, stop], -1)) * self.action_mask

        return u

    def _policy(self, features: Tensor, x0: Tensor) -> Tensor:
        x0, start = x0 * self.action_mask, torch.zeros_like(x0[..., :1])
        return self._velocity(features)(x0, start, start + 1).clamp(-1, 1)  # (3)

    def _gradients(
        self, rows: Rows, noise: Sequence[Tensor], start: Tensor, stop: Tensor
    ) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """Losses [K] and the gradients of (4) and (5), which one Adam step takes together."""
        features = self.encoder(rows.obs, rows.step)
        critic_loss = self._critic_loss(features, rows, noise[2])  # [K, M]
        flow_loss = self._flow_loss(features, rows, noise[0], start, stop)
        values = self.critic(features, self._policy(features, noise[1]))  # [K, M, 2, R]
        value_loss = -mean_rows(values.mean(2), rows.alive)  # (4)
        if self.config.normalize_q:
            scale = mean_rows(values.detach().abs().mean(2), rows.alive)
            value_loss = value_loss / scale.clamp(min=1e-6)
        actor_loss = flow_loss + self.config.q_weight * value_loss
        gradients = (
            *torch.autograd.grad(actor_loss.sum(), self.actor_weights),
            *torch.autograd.grad(critic_loss.sum(), self.critic_weights),
        )
        losses = {"flow_loss": flow_loss, "value_loss": value_loss, "critic_loss": critic_loss}
        return {name: loss.detach().mean(1) for name, loss in losses.items()}, gradients

    def _flow_loss(
        self, features: Tensor, rows: Rows, x0: Tensor, start: Tensor, stop: Tensor
    ) -> Tensor:
        """(1): [K, M]."""
        u, x0 = self._velocity(features), x0 * self.action_mask
        x, vel = (1 - stop) * x0 + stop * rows.act, rows.act - x0
        value, how = u(x, start, stop), ESTIMATORS[self.config.estimator]
        slope = meanflow.time_derivative(  # (2)
            u, x, start, stop, vel, value.detach(), how, self.config.delta
        )
        error = (value - (vel - (start - stop) * slope)).square().sum(-1)
        return mean_rows(error / self.action_mask.sum(-1), rows.alive)

    def _critic_loss(self, features: Tensor, rows: Rows, x0: Tensor) -> Tensor:
        """(5): [K, M]."""
        config = self.config
        with torch.no_grad():
            after = self.encoder(rows.next_obs, rows.step + 1)
            both = self.target_critic(after, self._policy(after, x0))
            best = both.amin(2) if config.q_agg == "min" else both.mean(2)
            target = rows.rew + config.gamma * (1 - rows.ended) * best
        values = self.critic(features, rows.act)
        return mean_rows((values - target.unsqueeze(2)).square().mean(2), rows.alive)

    def begin(self, n_envs: int, seed: int) -> None:
        self.rngs = categorical.generators(seed, self.seeds)

    @torch.no_grad()
    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        rows = to_rows(torch.as_tensor(obs, device=self.device), self.spec)  # [K, M, R, D]
        step = torch.full(rows.shape[:-1], t, device=self.device)
        x0 = acting_noise(self.rngs, obs, self.spec, self.device)
        chosen = self._policy(self.encoder(rows, step), x0)
        return from_rows(chosen, self.spec, obs.shape[2]).cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        return self.parts.state_dict() | {"compiled": self.compiled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.parts.load_state_dict(state)
        if state["compiled"] != self.compiled:
            self._set_compiled(state["compiled"])

    def cost(self) -> dict[str, float]:
        return {"parameters": parameters_per_seed(self.actor, self.critic), "sampler_steps": 1}
