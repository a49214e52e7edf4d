"""OMAD-Off: our adaptation of OMAD's losses to a fixed buffer. Not a method of the OMAD paper.

Paper: none; the parts are those of OMAD (arXiv:2602.18291, here a reconstruction), of DIME
(arXiv:2502.02316), and the behaviour term is that of Diffusion-QL (arXiv:2208.06193).

    (1) policy   a_i = tanh(x_0) from K denoising steps of policy i, (1) of algorithms/nn/dime.py
    (2) critic   joint Z(o, a) on 101 atoms, two heads; target: projection of
                 r + gamma (1 - terminated) z at (o', a'), a' from the target policies; L_Z is the
                 cross-entropy, summed over heads
    (3) actors   L = lambda sum_i M_i - E[ mean over heads E_p z ] / E |mean over heads E_p z|,
                 at fresh actions of all agents, one step for all; the square of what h misses,
                 M_i = |h(o_i, s_k x_k, k) - x_0|^2, a_i = tanh(x_0) logged, k drawn evenly
    (4) steps    x_k | x_0 ~ N(s_k x_0, v_k) by (2) of dime.py; a step of (1) has the mean of
                 x_{k-1} | x_k, x_0 = h:
                 (2 eta_k s_{k-1} h + (1 - eta_k / prior^2) v_{k-1} x_k) / v_k

Differences from OMAD
 1. No entropy, neither in the target nor in the actors, and no temperature: a fixed buffer is not
    explored. [OUR CHOICE]
 2. The behaviour term of (3). Without it (lambda = 0, the variant lambda0) nothing keeps a' near
    the data: that row is a demonstration of over-estimation and not a method. [OUR CHOICE]
 3. The prior has standard deviation 1 and the steps are longer and not learned: under (2) of
    dime.py the noised data then reach the prior, so that what matching teaches is what play starts
    from. With DIME's 2.5 and 0.1 they stay 0.9 apart from their start. [OUR CHOICE]
 4. Q is divided by its mean absolute value in the batch, so that one lambda serves tasks of any
    reward. [PRIOR WORK: Diffusion-QL]
 5. Target policies, as in Diffusion-QL; OMAD has none. Rewards are divided by the spread of the
    team's reward in the data, and the atoms lie around the data's values. [OUR CHOICE]
 6. A network h, which reads the action, in the place of f, all k alike: where noise is high, which
    is where an action is decided, the bound of -log pi that regresses f weighs what h misses by
    eta_k s_{k-1}^2 / v_k^2, next to nothing. As in OMSD and MADiff here. [OUR CHOICE]

What reproduces: there is nothing to reproduce, the method is ours. Quick protocol, 5 seeds: 45.5,
55.0 and 51.8 on spread's medium-replay, medium and expert data (BC 33.5, 38.6, 95.1), 34.2 on its
random and 54.3 on its mixed data (13.5, 51.6; OMSD 35.3, 77.5); 47.8, 49.9 and 85.8 on tag's three
(BC 21.5, 43.0, 100.9), 83.1 on its mixed data (73.3; OM2P 83.9).
HalfCheetah 2x3, medium data, 3 seeds: 54.7 [53.8, 55.5], the best of the board there (BC 45.7).
98.8 on the bandit of two joint modes, where with lambda 0 two of three seeds end at the worst joint
action. Lambda 0 on spread's medium data: -332, which is what an imitator's term holds off.
Development data of leaderboard/tuning, 5,000 updates, one seed, expert and medium data: lambda 100
has 73 on expert data, 1 37 on medium data, .1 (frozen) 55 and 55, .03 39 and 70. So the critic's
climb pays where imitation is poor, and lambda trades one for the other. By the bound of -log pi in
the place of 6 imitation alone (100) had 40, lambda 1 43 and 38.
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
from algorithms.nn.distributional import cross_entropy, mean, project
from algorithms.nn.encode import Encoder, feature_width, sampled_steps
from algorithms.nn.online import Team, check_range, heads, pad_rows, play_rows, played, team_of
from algorithms.nn.optim import Adam, polyak
from algorithms.nn.settings import PROBE
from algorithms.nn.stacked import StackedMLP, generators, parameters_per_seed
from algorithms.nn.team import NOISE_SEEDS, Parts, no_population, normals, side_by_side
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.device import sent
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec

STEPS = {"smoke": 50, "quick": 5_000, "full": 100_000}
N_ATOMS = 101  # DIME
HEADS = 2  # of the critic
FAMILIES: dict[str, Any] = {"mpe/": {"lr": 3e-3}, "probe/": PROBE}
TUNED = Tuning(configs_tried=6, online_episodes=1_900)  # leaderboard/tuning/omad_off.json
EDGE = 0.97  # logged actions are taken this far inside the box, where atanh is of the order of x_K


@dataclass(frozen=True)
class OMADOffConfig:
    batch_size: int = 256  # transitions per update
    width: int = 128  # units of a hidden layer, policies and critic
    depth: int = 2  # hidden layers
    denoising_steps: int = 8  # K
    prior: float = 1.0  # standard deviation of x_K before tanh
    step_scale: float = 0.6  # eta of a denoising step of relative size 1
    imitation: float = 0.1  # lambda of (3)
    lr: float = 1e-3  # Adam step size of policies and critic
    gamma: float = 0.95  # discount
    tau: float = 0.01  # Polyak rate of the targets
    policy_delay: int = 1  # critic updates per update of the policies and targets
    compile: CompileMode = "auto"  # one graph per update: auto (long runs), on, off


class ReadingPolicy(DiffusionPolicy):
    """DIME's chain whose network h reads the action that a noisy one came from: (4)."""

    signal: Tensor  # s_k, in the order of denoising, as all of these
    spread: Tensor  # the root of v_k
    gain: Tensor
    keep: Tensor  # f of (1) in dime.py is gain h + keep x_k

    def __init__(
        self,
        gens: Sequence[torch.Generator],
        spec: TaskSpec,
        hidden: Sequence[int],
        steps: int,
        prior: float,
        scale: float,
    ) -> None:
        super().__init__(gens, spec, hidden, steps, prior, scale)
        signal, variance, table = 1.0, 0.0, []  # of x_0 itself
        for eta in reversed((scale * self.dt).tolist()):
            shrink = 1 - eta / prior**2
            after = shrink**2 * variance + 2 * eta
            keep = (shrink * variance / after - 1) / eta + 1 / prior**2
            table.append((shrink * signal, after**0.5, 2 * signal / after, keep))
            signal, variance = shrink * signal, after
        for name, column in zip(
            ("signal", "spread", "gain", "keep"), torch.tensor(table[::-1]).unbind(-1), strict=True
        ):
            self.register_buffer(name, column, persistent=False)

    def read(self, features: Tensor, x: Tensor, step: int | Tensor) -> Tensor:
        """h(o, s_k x_k, k): [K, M, R, A]; an index of steps is [K, M, R]."""
        return super().drift(features, self.signal[step].unsqueeze(-1) * x, step)

    def drift(self, features: Tensor, x: Tensor, step: int | Tensor) -> Tensor:
        return self.gain[step] * self.read(features, x, step) + self.keep[step] * x

    def matching_loss(self, features: Tensor, act: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """M_i of (3), [K, M, R], for actions [K, M, R, A] with noise as they and an index of steps
        [K, M, R], 0 .. K - 1 in the order of denoising.
        """
        start = torch.atanh(act.clamp(-EDGE, EDGE)) * self.mask
        signal, spread = (part[index].unsqueeze(-1) for part in (self.signal, self.spread))
        x = signal * start + spread * noise * self.mask
        return (self.read(features, x, index) - start).square().sum(-1)


class OMADOff(Algorithm):
    Config = OMADOffConfig
    paper = "none (adaptation of arXiv:2602.18291)"
    requires = frozenset({"continuous"})
    stacks_seeds = True
    small: ClassVar = {"width": 32, "batch_size": 64, "denoising_steps": 3}
    variants: ClassVar = {
        "default": Variant(steps=STEPS, families=FAMILIES, tuning={"mpe/": TUNED}),
        "lambda0": Variant(steps=STEPS, config={"imitation": 0.0}, families=FAMILIES),
    }

    def __init__(
        self, config: OMADOffConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        no_population(spec, "omad_off's critic")
        check_range(
            config, denoising_steps=(1, 1000), prior=(1e-3, 1e3), step_scale=(1e-6, 1e3),
            imitation=(0, 1e9), gamma=(0, 0.9999), tau=(0, 1), policy_delay=(1, 1e9),
        )  # fmt: skip
        gens, hidden = generators(seeds), [config.width] * config.depth
        self.encoder = Encoder(spec).to(device)
        self.policy = ReadingPolicy(
            gens, spec, hidden, config.denoising_steps, config.prior, config.step_scale
        ).to(device)
        sizes = ((feature_width(spec) + spec.act_dim) * spec.n_agents, *hidden, N_ATOMS)
        self.critic = StackedMLP(gens, (1, HEADS), sizes, layer_norm=True).to(device)
        self.target_policy = copy.deepcopy(self.policy)
        self.target_critic = copy.deepcopy(self.critic)
        self.scale = torch.ones((), device=device)  # of rewards
        self.support = torch.linspace(-1.0, 1.0, N_ATOMS, device=device)
        self.policy_optimiser = Adam(list(self.policy.net.parameters()), config.lr)
        self.critic_optimiser = Adam(list(self.critic.parameters()), config.lr)
        self.noise = generators([seed + NOISE_SEEDS for seed in seeds])  # apart from the weights'
        self.parts = Parts(
            encoder=self.encoder, policy=self.policy, critic=self.critic, scale=self.scale,
            target_policy=self.target_policy, target_critic=self.target_critic,
            support=self.support, policy_optimiser=self.policy_optimiser,
            critic_optimiser=self.critic_optimiser, noise=self.noise,
        )  # fmt: skip
        zeros = torch.zeros(len(seeds), device=device)
        self.steps, self.last = 0, dict.fromkeys(("actor_loss", "imitation_loss", "value"), zeros)
        self._set_compiled(False)
        self.begin(1, 0)

    def _set_compiled(self, compiled: bool) -> None:
        self.compiled = compiled
        self._critic = compile_graph(self._critic_gradients) if compiled else self._critic_gradients
        self._actor = compile_graph(self._actor_gradients) if compiled else self._actor_gradients

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        self.encoder.fit(data)
        rew = self.spec.team(np.asarray(data.rew[sampled_steps(data)], np.float64))  # [S]
        scale = 1.0 / max(float(rew.std()), 1e-6)
        self.scale.fill_(scale)
        # Values lie between those of the worst and the best reward, kept up for ever or at once.
        low, high = np.quantile(rew, (0.001, 0.999)) * scale
        ends = [reward / (1 - self.config.gamma) for reward in (low, high)]
        low, high = min(low, *ends), max(high, *ends)
        room = 0.1 * (high - low) + 1.0
        self.support.copy_(torch.linspace(low - room, high + room, N_ATOMS))
        self._set_compiled(resolve_compile(self.config.compile, steps))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        team, config = team_of(batch, self.encoder, self.spec), self.config
        loss, gradients = self._critic(team, self._draw(team.act.shape[2]))
        self.critic_optimiser.step(gradients)
        self.steps += 1
        if self.steps % config.policy_delay == 0:
            shape = team.act.shape[1:3]
            index = [
                torch.randint(config.denoising_steps, shape, generator=gen) for gen in self.noise
            ]
            steps, noise = sent(torch.stack(index), self.device), normals(self.noise, team.act)
            *found, gradients = self._actor(team, self._draw(shape[1]), steps, noise)
            self.policy_optimiser.step(gradients)
            self.last = dict(zip(self.last, found, strict=True))
            polyak(self.target_policy, self.policy, config.tau)
            polyak(self.target_critic, self.critic, config.tau)
        return {"critic_loss": loss, **self.last}

    def _draw(self, rows: int) -> Tensor:
        """Noise of one pass through the policies: [K, steps + 1, N, rows, A]."""
        shape = (self.config.denoising_steps + 1, self.spec.n_agents, rows, self.spec.act_dim)
        return sent(torch.stack([torch.randn(shape, generator=g) for g in self.noise]), self.device)

    def _critic_gradients(self, team: Team, noise: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """(2): loss [K] and the gradients of its sum."""
        with torch.no_grad():
            act = self.target_policy(team.after, noise)[0]
            logits = self.target_critic(heads(side_by_side(team.after, act), HEADS))
            keep = self.config.gamma * (1 - team.ended)[..., None]
            moved = (team.rew * self.scale)[..., None] + keep * self.support
            target = project(logits.softmax(-1).mean((1, 2)), moved, self.support)  # [K, R, A]
        logits = self.critic(heads(team.joint(team.act), HEADS))[:, 0]  # [K, 2, R, A]
        loss = cross_entropy(target.unsqueeze(1), logits, 0.0).sum(1).mean(-1)  # [K]
        return loss.detach(), torch.autograd.grad(loss.sum(), self.critic_optimiser.parameters)

    def _actor_gradients(
        self, team: Team, noise: Tensor, index: Tensor, data_noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]:
        """(3): loss, its imitation part and the mean value in rewards, each [K], and gradients."""
        act = self.policy(team.features, noise)[0]
        logits = self.critic(heads(team.joint(act), HEADS))  # [K, 1, 2, R, A]
        value = mean(logits, self.support).mean((1, 2))  # [K, R]
        size = value.detach().abs().mean(-1).clamp(min=1e-6)
        match = self.policy.matching_loss(team.features, team.act, index, data_noise)
        imitation = team.total(match).mean(-1)
        loss = self.config.imitation * imitation - value.mean(-1) / size
        gradients = torch.autograd.grad(loss.sum(), self.policy_optimiser.parameters)
        value = value.detach().mean(-1) / self.scale
        return loss.detach(), imitation.detach(), value, gradients

    def begin(self, n_envs: int, seed: int) -> None:
        self.rngs = categorical.generators(seed, self.seeds)

    @torch.no_grad()
    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        features = play_rows(self.encoder, self.spec, obs, np.full(obs.shape[:2], t), self.device)
        if deterministic:
            return played(self.policy.mean_path(features), self.spec, obs.shape[1])
        shape = (self.config.denoising_steps + 1, *obs.shape[1:3], self.spec.act_dim)
        drawn = np.stack([rng.standard_normal(shape, np.float32) for rng in self.rngs])
        noise = torch.from_numpy(drawn).to(self.device).transpose(2, 3)  # [K, S, N, E, A]
        return played(self.policy(features, pad_rows(noise))[0], self.spec, obs.shape[1])

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
