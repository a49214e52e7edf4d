"""DoF, policy form: each agent generates its action from its own part of the team's noise.

Paper: Li et al., "DoF: A Diffusion Factorization Framework for Offline Multi-Agent Reinforcement
Learning" (ICLR 2025); details from the authors' code, xmu-rl-3dv/DoF, folder DoF_Policy. The joint
distribution is the product of the agents' own ones, so that nothing but (o_i, noise_i) is needed to
act. The trajectory form is not here.

    (1) factors    noise of the team = (eps_1, .., eps_N), its prediction the agents' own ones, of
                   (o_i, x_ik, k) each: "concat"; x_ik = sqrt(abar_k) a_i + sqrt(1 - abar_k) eps_i
    (2) imitation  L_D,i = E |eps_i - eps_theta_i(o_i, x_ik, k)|^2
    (3) policy     DDPM's posterior from x_iK ~ N(0, 1), with x_i0 clipped to [-1, 1]: pi_i(o_i)
    (4) actor      L_i = L_D,i - eta E Q_i,j(o_i, pi_i(o_i)) / E |Q_i,1-j|, j one of the twins at
                   random, with gradients through all K steps of (3); their norm is clipped
    (5) critic     y_i = r_i + gamma (1 - terminated) min_j Q'_i,j(o_i', averaged pi_i(o_i')),
                   L = sum_j E (Q_i,j(o_i, a_i) - y_i)^2, clipped likewise; Q' follows by rate tau
    (6) averaging  from update `ema_start` on, every 5th: averaged <- .995 averaged + .005 pi
    (7) acting     one of n actions of (3), drawn by softmax of min_j Q_i,j (greedy: the best)
    (8) clean      with predict = "action" a network gives the x_i0 of (3) through tanh, of (o_i,
                   sqrt(abar_k) x_ik, k), and L_D,i = E |x_i0 - a_i|^2

Differences from the paper
 1. In the released code the Q of (4) is detached: it has no gradient, and the method is imitation.
    The default here lets it through; `detach_q` is the release. [CODE]
 2. The released evaluation makes 50 actions and takes one at random, which is one action:
    `choose = random`. (7) stands there switched off, and is Diffusion-QL's. [CODE, PRIOR WORK]
    The default has 10 candidates in place of 50. [OUR CHOICE]
 3. The release's schedule is linear, beta from 1e-4 to .02, with K = 10 in its configurations. Its
    agent does not hand K on, so that 100 steps run. At K = 10 that schedule ends at abar = .90, far
    from the N(0, 1) that (3) starts from, so the default is Diffusion-QL's: abar_k =
    exp(-.1 k / K - 9.9 k^2 / (2 K^2)). [CODE, PRIOR WORK]
 4. The variant `release` has all of the above as released, with width 256 and batch 1,024. [CODE]
 5. The default's width is 128 and its batch 256, for CPUs; rewards are divided by their spread;
    observations are normalised; the two losses are taken at the same weights; networks see k / K
    and the noise level. [OUR CHOICE]
 6. "w-concat", a learned weight for each agent, is left out. [OUR CHOICE]
 7. Padded action dimensions and dead agents have no part in the losses. [OUR CHOICE]
 8. (8), off by default, has the optimum of (2) and learns faster. [OUR CHOICE]

What reproduces (quick protocol, 3 seeds, spread): above BC on medium data, 60.1 against 38.7, far
below it on expert data, 35.3 against 95.5. There the quick budget is too short for a chain, as for
Diffusion-QL's: imitation alone (eta = 0, no choice by value) has 34 after 2,500 updates and 51
after 5,000, with the Q of (4) 33 and 41, and the choice by value as well 37 (one training seed, 50
development episodes, an error of 3). On tag it is above BC on replay data (63.5, 21.5) and on
medium data (56.1, 43.0), and below it on expert data (81.6, 100.9).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from algorithms.nn import categorical
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
from algorithms.nn.generative import acting_noise, clip_through
from algorithms.nn.optim import Adam, polyak
from algorithms.nn.settings import PROBE, check_settings
from algorithms.nn.stacked import StackedMLP, generators, parameters_per_seed
from algorithms.nn.team import (
    NOISE_SEEDS,
    Parts,
    Rows,
    normals,
    reward_scale,
    rows_of,
    sample_rows,
    uniforms,
)
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec

STEPS = {"smoke": 30, "quick": 5_000, "full": 100_000}
RELEASE: dict[str, Any] = {
    "denoising_steps": 100,
    "schedule": "linear",
    "detach_q": True,
    "choose": "random",
    "width": 256,
    "batch_size": 1024,
}
SEARCHED: dict[str, Any] = {  # leaderboard/tuning/dof.json, on spread
    "predict": "action",
    "denoising_steps": 5,
    "lr": 3e-3,
    "batch_size": 128,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mpe/": SEARCHED | {"gamma": 0.95},
    "mamujoco/": SEARCHED,
    "probe/": PROBE,
}
TUNED = {"mpe/": Tuning(configs_tried=1, online_episodes=400)}
EMA_EVERY = 5  # updates
BOUNDS = {
    "denoising_steps": (1.0, 1000.0),
    "eta": (0.0, 1e6),
    "candidates": (1.0, 1000.0),
    "clip": (1e-6, 1e6),
    "ema": (0.0, 1.0),
    "ema_start": (0.0, 1e9),
}
CHOICES = {
    "schedule": ("vp", "linear"),
    "predict": ("noise", "action"),
    "choose": ("value", "random"),
}


@dataclass(frozen=True)
class DoFConfig:
    denoising_steps: int = 10  # K, the release's setting
    schedule: Literal["vp", "linear"] = "vp"  # of noise, see difference 3
    predict: Literal["noise", "action"] = "noise"  # what the actor's network gives, (2) or (8)
    detach_q: bool = False  # the release's quirk, see difference 1
    choose: Literal["value", "random"] = "value"  # among candidates, (7)
    candidates: int = 10  # actions made for one choice by value
    batch_size: int = 256  # transitions per update; release 1024
    agents: int = 64  # agents seen of each transition, exchangeable populations only
    width: int = 128  # units of a hidden layer; release 256
    depth: int = 3  # hidden layers of the actor
    critic_depth: int = 3  # hidden layers of a critic, release
    lr: float = 3e-4  # Adam step size, release
    gamma: float = 0.99  # discount, release
    tau: float = 0.005  # Polyak rate of the critics, release
    eta: float = 0.5  # weight of Q in (4), release
    clip: float = 0.5  # largest norm of an agent's gradient, release
    ema: float = 0.995  # decay of the averaged policy, release
    ema_start: int = 1000  # updates before the average starts, release
    compile: CompileMode = "auto"  # one graph per update: auto (long runs), on, off


def noise_table(kind: str, steps: int) -> dict[str, Tensor]:
    """abar of difference 3 and the coefficients of (3), float64 [K]; entry k - 1 is of step k."""
    if kind == "linear":
        level = (1 - torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)).cumprod(0)
    else:
        k = torch.arange(1, steps + 1, dtype=torch.float64)
        level = torch.exp(-0.1 * k / steps - 9.9 * k.square() / (2 * steps**2))
    before = torch.cat([torch.ones(1, dtype=torch.float64), level[:-1]])
    alpha = level / before
    return {
        "signal": level.sqrt(),
        "noise": (1 - level).sqrt(),
        "from_x0": (1 - alpha) * before.sqrt() / (1 - level),
        "from_x": (1 - before) * alpha.sqrt() / (1 - level),
        "spread": ((1 - alpha) * (1 - before) / (1 - level)).sqrt(),
    }


def clipped(gradients: Sequence[Tensor], largest: float) -> list[Tensor]:
    """Gradients [K, M, ...], scaled so that each network's norm over all is at most `largest`."""
    # One after the other: a sum over a stack of them would add in an order that depends on K.
    square = sum(g.square().flatten(2).sum(-1) for g in gradients)
    assert isinstance(square, Tensor)  # [K, M]
    scale = (largest / (square.sqrt() + 1e-6)).clamp(max=1.0)
    return [g * scale.reshape(*scale.shape, *[1] * (g.ndim - 2)) for g in gradients]


class DoF(Algorithm):
    Config = DoFConfig
    paper = "DoF, ICLR 2025"
    variants: ClassVar = {
        "default": Variant(steps=STEPS, families=FAMILIES, tuning=TUNED),
        "release": Variant(steps=STEPS | {"full": 30_000}, config=RELEASE),
    }
    requires = frozenset({"continuous"})
    stacks_seeds = True
    small: ClassVar[dict[str, Any]] = {
        "width": 32,
        "batch_size": 64,
        "denoising_steps": 4,
        "lr": 3e-3,
    }

    def __init__(
        self, config: DoFConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        check_settings(config, BOUNDS, CHOICES)
        gens, m = generators(seeds), n_networks(spec)
        seen, steps = feature_width(spec) + spec.act_dim, config.denoising_steps
        hidden, twin = [config.width] * config.depth, [config.width] * config.critic_depth
        self.encoder = Encoder(spec).to(device)
        self.actor = StackedMLP(gens, (m,), (seen + 2, *hidden, spec.act_dim), F.mish).to(device)
        self.average = copy.deepcopy(self.actor)
        self.critic = StackedMLP(gens, (m, 2), (seen, *twin, 1), F.mish).to(device)
        self.target_critic = copy.deepcopy(self.critic)
        self.actor_weights = list(self.actor.parameters())
        self.critic_weights = list(self.critic.parameters())
        self.optimiser = Adam(self.actor_weights + self.critic_weights, config.lr)
        self.action_mask = action_mask(spec).to(device)  # [M, 1, A]
        self.reward_scale = torch.ones(m, 1, device=device)
        self.noise = generators([seed + NOISE_SEEDS for seed in seeds])
        self.steps = 0
        table = noise_table(config.schedule, steps)
        share = torch.arange(1, steps + 1) / steps
        self.times = torch.stack([share, table["noise"].float()], -1).to(device)  # [K, 2]
        self.signal = table["signal"].float().to(device)  # [K]
        self.coefficients = [{n: float(x[i]) for n, x in table.items()} for i in range(steps)]
        self.parts = Parts(
            encoder=self.encoder,
            actor=self.actor,
            average=self.average,
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
        rows, steps = rows_of(batch, self.spec), self.config.denoising_steps
        drawn = normals(self.noise, rows.act.repeat(1, 1, 1, 1 + 2 * steps))
        noise = drawn.split(rows.act.shape[-1], -1)  # 1 + 2 K of [K, M, R, A]
        u = uniforms(self.noise, rows.act.shape[1:-1], self.device)  # [K, M, R]
        twin = uniforms(self.noise, rows.act.shape[1:2], self.device) < 0.5  # [K, M]
        k = (u * steps).long().clamp(max=steps - 1)
        losses, gradients = self._losses(rows, noise, k, twin)
        self.optimiser.step(gradients)
        polyak(self.target_critic, self.critic, self.config.tau)
        if self.steps % EMA_EVERY == 0:  # (6); until it starts, the average is the policy itself
            rate = 1 - self.config.ema if self.steps >= self.config.ema_start else 1.0
            polyak(self.average, self.actor, rate)
        self.steps += 1
        return losses

    def _output(
        self,
        actor: StackedMLP,
        features: Tensor,
        x: Tensor,
        time: Tensor,
        signal: Tensor | float,
    ) -> Tensor:
        """eps of (2), or x_i0 by (8)."""
        if self.config.predict == "noise":
            return actor(torch.cat([features, x, time], -1)) * self.action_mask
        return actor(torch.cat([features, signal * x, time], -1)).tanh() * self.action_mask

    def _policy(self, actor: StackedMLP, features: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """(3): actions from K noises."""
        x, steps = noise[0] * self.action_mask, self.config.denoising_steps
        for k, c in reversed(list(enumerate(self.coefficients))):
            time = self.times[k].expand(*x.shape[:-1], 2)
            clean = self._output(actor, features, x, time, c["signal"])
            if self.config.predict == "noise":
                clean = (x - c["noise"] * clean) / c["signal"]
            x = c["from_x0"] * clip_through(clean) + c["from_x"] * x
            if k:
                x = x + c["spread"] * noise[steps - k] * self.action_mask
        return x

    def _values(self, critic: StackedMLP, features: Tensor, act: Tensor) -> Tensor:
        """Both critics of rows [K, M, R, ...]: [K, M, 2, R]."""
        x = torch.cat([features, act], -1).unsqueeze(2)
        return critic(x.expand(-1, -1, 2, -1, -1)).squeeze(-1)

    def _gradients(
        self, rows: Rows, noise: Sequence[Tensor], k: Tensor, twin: Tensor
    ) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """Losses [K] and the gradients of (4) and (5), both at the weights before the update."""
        steps = self.config.denoising_steps
        features = self.encoder(rows.obs, rows.step)
        imitation = self._imitation_loss(features, rows, noise[0], k)  # [K, M]
        value = self._value_loss(features, rows, noise[1 : 1 + steps], twin)
        actor_loss = imitation + self.config.eta * value  # (4)
        critic_loss = self._critic_loss(features, rows, noise[1 + steps :])
        gradients = [
            *clipped(torch.autograd.grad(actor_loss.sum(), self.actor_weights), self.config.clip),
            *clipped(torch.autograd.grad(critic_loss.sum(), self.critic_weights), self.config.clip),
        ]
        losses = {"imitation_loss": imitation, "value_loss": value, "critic_loss": critic_loss}
        return {name: loss.detach().mean(1) for name, loss in losses.items()}, gradients

    def _imitation_loss(self, features: Tensor, rows: Rows, eps: Tensor, k: Tensor) -> Tensor:
        """(2) or (8): [K, M]; k counts from 0."""
        time, signal = self.times[k], self.signal[k].unsqueeze(-1)  # [K, M, R, 2 or 1]
        eps = eps * self.action_mask
        x = signal * rows.act + time[..., 1:] * eps
        found = self._output(self.actor, features, x, time, signal)
        wanted = eps if self.config.predict == "noise" else rows.act * self.action_mask
        return mean_rows((found - wanted).square().sum(-1) / self.action_mask.sum(-1), rows.alive)

    def _value_loss(
        self, features: Tensor, rows: Rows, noise: Sequence[Tensor], twin: Tensor
    ) -> Tensor:
        """-E Q_j / E |Q_(1 - j)| of (4): [K, M]; `twin` [K, M] says whether j is the first."""
        if self.config.detach_q:
            with torch.no_grad():
                chosen = self._policy(self.actor, features, noise)
        else:
            chosen = self._policy(self.actor, features, noise)
        values = self._values(self.critic, features, chosen)  # [K, M, 2, R]
        first, second = (mean_rows(v, rows.alive) for v in values.unbind(2))
        sizes = (mean_rows(v, rows.alive).clamp(min=1e-6) for v in values.detach().abs().unbind(2))
        size_first, size_second = sizes
        loss = -torch.where(twin, first / size_second, second / size_first)
        return loss.detach() if self.config.detach_q else loss

    def _critic_loss(self, features: Tensor, rows: Rows, noise: Sequence[Tensor]) -> Tensor:
        """(5): [K, M]."""
        with torch.no_grad():
            after = self.encoder(rows.next_obs, rows.step + 1)
            chosen = self._policy(self.average, after, noise)
            best = self._values(self.target_critic, after, chosen).amin(2)
            target = rows.rew * self.reward_scale + self.config.gamma * (1 - rows.ended) * best
        values = self._values(self.critic, features, rows.act)
        return mean_rows((values - target.unsqueeze(2)).square().sum(2), rows.alive)

    def begin(self, n_envs: int, seed: int) -> None:
        self.rngs = categorical.generators(seed, self.seeds)

    @torch.no_grad()
    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        rows = to_rows(torch.as_tensor(obs, device=self.device), self.spec)  # [K, M, R, D]
        features = self.encoder(rows, torch.full(rows.shape[:-1], t, device=self.device))
        count = self.config.candidates if self.config.choose == "value" else 1
        many = features.repeat_interleave(count, 2)  # [K, M, R n, F]
        noise = [self._candidate_noise(obs, count) for _ in self.coefficients]
        chosen = self._policy(self.actor, many, noise).unflatten(2, (-1, count))  # [K, M, R, n, A]
        if count > 1:
            values = self._values(self.critic, many, chosen.flatten(2, 3)).amin(2)
            values = values.unflatten(-1, (-1, count))  # [K, M, R, n]
            if not deterministic:  # the largest of Gumbel-perturbed values is a softmax's draw
                drawn = np.stack([rng.gumbel(size=values.shape[1:]) for rng in self.rngs])
                values = values + torch.as_tensor(drawn, device=self.device)
            best = values.argmax(-1, keepdim=True).unsqueeze(-1)
            chosen = chosen.gather(3, best.expand(-1, -1, -1, -1, chosen.shape[-1]))
        act = from_rows(chosen.squeeze(3), self.spec, obs.shape[2])
        return act.clamp(-1, 1).cpu().numpy()

    def _candidate_noise(self, obs: Array, count: int) -> Tensor:
        """[K, M, R n, A], the n noises of a row on end."""
        parts = [acting_noise(self.rngs, obs, self.spec, self.device) for _ in range(count)]
        return torch.stack(parts, 3).flatten(2, 3)

    def state_dict(self) -> dict[str, Any]:
        return self.parts.state_dict() | {"compiled": self.compiled, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.parts.load_state_dict(state)
        self.steps = state["steps"]
        if state["compiled"] != self.compiled:
            self._set_compiled(state["compiled"])

    def cost(self) -> dict[str, float]:
        parameters = parameters_per_seed(self.actor, self.critic)
        return {"parameters": parameters, "sampler_steps": self.config.denoising_steps}
