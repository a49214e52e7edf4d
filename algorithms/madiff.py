"""MADiff: a team plans its observations by diffusion; an inverse model turns them into actions.

Paper: Zhu et al., "MADiff: Offline Multi-agent Learning with Diffusion Models", arXiv:2305.17330;
details from the authors' code, zbzhu99/madiff at 120bf5c.

x is the team's normalised observations: past steps, the present one and future ones, [B, N, T, F].

    (1) noising    x_k = sqrt(abar_k) x_0 + sqrt(1 - abar_k) eps, k = 1 .. K, where what the planner
                   knows, its own past and present, stays clean: known(x_k) = known(x_0)
    (2) loss       E w |eps - eps_theta(x_k, k, y)|^2; w = 1 on what is to be found: steps from the
                   present on, less the known. y is left out with probability `dropout` per agent
    (3) inverse    I_i(o_t, o_(t+1)) = a_t: squared error, discrete actions: cross-entropy
    (4) guidance   eps = eps(x, k, nothing) + omega (eps(x, k, y) - eps(x, k, nothing))
    (5) sampling   from x_K = temperature N(0, 1), x_0 clipped to [-1, 1]: DDPM by the posterior of
                   (1), or DDIM on every (K / S)-th level; the known is set before each step
    (6) acting     MADiff-C: all agents' observations are known, one plan for the team. MADiff-D:
                   agent i knows its own only, plans for all and keeps its own part: N plans a step.
                   a_i = I_i(o_i, next o_i of its plan)
    (7) schedule   abar_k = prod_(j <= k) (1 - beta_j), beta_j = min(.999, 1 - f(j) / f(j - 1)),
                   f(j) = cos^2((j / K + .008) / 1.008 pi / 2)
    (8) guess      g(o_i), a part of the network's x_0 that sees the present alone, learns i's own
                   plan in windows of all agents besides: (2) at abar = 0, y left out. It is no part
                  of the paper, and of the variant `guess` alone

Differences from the paper
 1. The default is a compact network (dim 32 x (1, 2, 4), horizon 8, K = 50, DDIM 5), for CPUs. The
    variant `paper` has its sizes: dim 128 x (1, 4, 8), horizon 24, DDPM of K = 200, 64 windows a
    batch, 1e6 updates; it wants a GPU. [OUR CHOICE]
 2. y is the rank, in [0, 1], of the agent's discounted return-to-go among the data of the same step
    of the episode; the target is .9. `returns_scale` > 0 divides, as the paper. [OUR CHOICE]
 3. One U-Net for all agents, told the agent's number. [OUR CHOICE] The code has one for each agent
    in MPE, and a shared one without numbers elsewhere. [CODE]
 4. Attention after the middle and on skip connections, without a projection at its end. [CODE]
 5. An inverse model for each agent, as in MPE; `inverse = shared` is the form elsewhere. [CODE]
 6. Limits as the normaliser, each agent's own; `cdf` is the paper's. Observations before the first
    are zeros after it. Dimensions that are constant in the data are left out. [OUR CHOICE]
 7. A window that runs over the episode's end has no part in the loss there; the code repeats the
    last observation for MPE. Dead agents have none either. [OUR CHOICE]
 8. The average of weights moves at every update, with decay min(ema, n / (n + 9)); the code's at
    every tenth from the 2,000th on, hence .9995 in `paper`. [OUR CHOICE]
 9. Deterministic actions too come from plans that start from noise, of temperature .5. [CODE]
10. `prediction = clean` learns x_0 in place of eps in (2), from sqrt(abar_k) x_k: where noise is
    high, which is where a plan is decided, (2) weighs errors of x_0 little. [OUR CHOICE]
11. A plan holds the present and then the changes from step to step, in units of the data's 99.5%
    quantile: a short training does not learn to copy the present to the precision that (3) needs.
    `planned = absolute` is the paper's. [OUR CHOICE]
12. With `direct` a perceptron of rectified units sees the known present, apart from the noise; it
    gives a part of the network's embedding, and with `guess` the g of (8), which the U-Net's output
    is added to. At the highest noise (8) has the optimum of (2) without y, from N times the rows;
    as a conditional mean beside a diffusion it is CARD's. [OUR CHOICE, PRIOR WORK: CARD]
13. `next_weight` in (2) is the weight of the step that acts: the next one of the agents that the
    planner sees. It is one of dozens of terms, most of which cannot be known (what the others see).
    The paper has 1; Diffuser weighs a plan's first action 10. [OUR CHOICE, PRIOR WORK: Diffuser]
14. (3) is learned at the present step, where it acts, from the next step as it is planned: with
    difference 11 the change itself. The code takes all steps of a window. [OUR CHOICE]

What reproduces (records: spread's expert data, 5 seeds, 6,000 updates of 64 windows; BC 95): 40
with the paper's loss, 38 without attention (1.5 [.05, 2.7] less: it matters, and little here), 72
with (8), row `guess` (3 seeds). Spread's medium and replay data: 37.2 and 37.6 (BC 38.6, 33.5);
tag's replay, medium and expert data: 19.7, 29.5, 86.1 (BC 21.5, 43.0, 100.9). Mixed data of spread
and tag: 38.7 and 49.4 (BC 51.6, 73.3). After the full protocol's 50,000 updates, 11 minutes of a
core, expert data of spread: 79.1 (one seed): what it lacks is training.
Most of the gap to BC is what a cloner of actions has with the same rows, not diffusion. Mean square
error against the expert's mean action (its variance is .37; a score of 95 takes .07, one of 60
.17), development data of leaderboard/tuning, one training each, a network of width 128:
    a cloner for each agent, 256 rows an update, 4,000 updates                     .083
    21 rows: what an agent gets of 64 windows in which one agent is seen; 6,000    .18
    one cloner for the team, 64 rows of each agent, 4,000: rectified; Mish         .084; .138
The same after 2,000 updates of the latter: actions .125; observations that are not centred .149;
the change of velocity, which collisions disturb, in the place of the action .179; all changes .192.
MADiff-D, 64 windows, one plan from noise:
    without (8) and rectified units, 1,600 updates                    .217
    with them, observations not centred, 1,000; 2,000; 3,000 updates  .200; .178; .172
The last has a score of 47 (50 episodes, error 4). On more rows its plans have .182, without
their first noise .171, g alone .165; the exact inverse in the place of the learned one .186, and
without guidance no change. After 500 updates 192 windows whose g has no loss of its own had .223,
64 windows with (8) .231, in half the time.
Scores by updates with the paper's loss, 50 to 100 development episodes, one training, error 3:
    64 windows, 21 rows an agent        3,000: 37   6,000: 38   12,000: 40
    weights of the last 1,000 updates   3,000: 34   6,000: 33
    192 windows, 64 rows an agent       1,500: 34   3,000: 34
    MADiff-C, 64 windows, 64 rows       3,000: 37   6,000: 43
    BC, 256 rows an agent               100: 29   250: 33   500: 36   1,000: 47   3,000: 85
    BC, 21 rows an agent                6,000: 42   12,000: 46   25,000: 63   50,000: 75
By rows of an agent that is what a cloner has: 200,000 of them are not enough for either, and levels
of little noise teach a plan nothing. On OMAR's data MADiff-C has 89 (5 seeds, BC 95) and D 26.
Replay, medium and expert data, C with 3 seeds: on tag C has 31, 42 and 97, D 20, 30 and 86; on
spread C has 37, 38 and 47 [39, 54], D 38, 37 and 40. So C is above D on tag, and level on spread.
Centred observations were not measured. Medium data (old form): 37, BC's own 38, whatever the
guidance. Learning eps had -18 after 1,000 updates of 32: 10 and 13 are what mended that.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algorithms.nn import categorical
from algorithms.nn.compiled import CompileMode, compile_graph, resolve_compile
from algorithms.nn.encode import action_mask, sampled_steps
from algorithms.nn.planning import (
    InverseDynamics,
    Normaliser,
    noise_levels,
    ranks_by_step,
    returns_to_go,
    step_down,
)
from algorithms.nn.settings import check_settings
from algorithms.nn.team import Parts
from algorithms.nn.team_windows import Windows, team_windows
from algorithms.nn.unet import TeamDenoiser
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.errors import UserError
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec

STEPS = {"smoke": 20, "quick": 2_000, "full": 50_000}
FAMILIES: dict[str, dict[str, Any]] = {
    "mpe/": {  # the search of leaderboard/tuning/madiff.json
        "depth": 1,
        "horizon": 4,
        "prediction": "clean",
        "next_weight": 30.0,
        "batch_size": 64,
        "lr": 2e-3,
        "steps": {"smoke": 20, "quick": 6_000, "full": 50_000},
    }
}
TUNED = {"mpe/": Tuning(configs_tried=8, online_episodes=3_000)}
PAPER_STEPS = {"smoke": 5, "quick": 2_000, "full": 1_000_000}
PAPER: dict[str, Any] = {
    "dim": 128,
    "widen": 4,
    "horizon": 24,
    "diffusion_steps": 200,
    "sampler": "ddpm",
    "batch_size": 64,
    "lr": 2e-4,
    "ema": 0.9995,
    "normaliser": "cdf",
    "planned": "absolute",
    "direct": 0,
}
MOST_AGENTS = 64  # attention and plans of all agents at once: teams, not populations
BOUNDS = {
    "widen": (1.0, 64.0),
    "depth": (1.0, 8.0),
    "history": (0.0, 1_000.0),
    "horizon": (2.0, 1_000.0),
    "diffusion_steps": (1.0, 2.0**20),
    "inverse_width": (1.0, 2.0**14),
    "direct": (0.0, 2.0**14),
    "guess": (0.0, 1e9),
    "guidance": (0.0, 1e9),
    "temperature": (0.0, 1e9),
    "returns_scale": (0.0, 1e9),
    "next_weight": (0.0, 1e9),
    "dropout": (0.0, 1.0),
    "ema": (0.0, 1.0),
    "target": (0.0, 1.0),
}
CHOICES = {
    "planner": ("local", "joint"),
    "sampler": ("ddim", "ddpm"),
    "planned": ("changes", "absolute"),
    "prediction": ("epsilon", "clean"),
    "normaliser": ("limits", "cdf"),
    "inverse": ("independent", "shared"),
}


@dataclass(frozen=True)
class MADiffConfig:
    planner: Literal["local", "joint"] = "local"  # (6): MADiff-D or MADiff-C, fixed by the variant
    dim: int = 32  # channels of the U-Net's top level and of embeddings; paper 128
    widen: int = 2  # channels are dim x (1, widen, 2 widen); paper 4
    depth: int = 3  # levels of the U-Net, paper
    attention: bool = True  # between agents; False is the paper's ablation
    history: int = 0  # past steps seen; paper 0 on MPE, 18 on MAMuJoCo
    horizon: int = 8  # steps planned, the present one included; paper 24 on MPE
    diffusion_steps: int = 50  # K; paper 200
    sampler: Literal["ddim", "ddpm"] = "ddim"  # (5)
    sampler_steps: int = 5  # S, of DDIM; the paper's alternative has 15
    planned: Literal["changes", "absolute"] = "changes"  # what a plan holds, difference 11
    direct: int = 128  # units of the present's own embedding, 0: none (paper), difference 12
    prediction: Literal["epsilon", "clean"] = "epsilon"  # what the network learns
    guess: float = 0.0  # weight of (8), with `direct` and prediction = clean; 0: none (paper)
    next_weight: float = 1.0  # weight in (2) of the next step of what is seen, difference 13
    guidance: float = 1.2  # omega of (4), paper; 1 takes half the time
    dropout: float = 0.25  # probability of leaving the return out, paper
    target: float = 0.9  # return that is asked for, paper
    returns_scale: float = 0.0  # 0: ranks, see difference 2; else the divisor of returns, reward
    temperature: float = 0.5  # spread of the first noise, paper
    normaliser: Literal["limits", "cdf"] = "limits"  # of observations
    inverse: Literal["independent", "shared"] = "independent"  # a model for each agent, or one
    inverse_width: int = 256  # units of its two hidden layers, paper
    batch_size: int = 32  # windows per update, paper (which adds up two batches)
    lr: float = 1e-3  # Adam step size; paper 2e-4
    ema: float = 0.995  # decay of the averaged weights that act
    gamma: float = 0.99  # discount of returns, paper
    compile: CompileMode = "auto"  # one graph per update: auto (long runs), on, off

    @property
    def guessed(self) -> int:
        """Steps that (8) guesses."""
        used = self.direct and self.guess and self.prediction == "clean"
        return self.history + self.horizon if used else 0


def check(config: MADiffConfig) -> None:
    """Raise UserError for a setting out of range."""
    steps = {"sampler_steps": (1.0, float(config.diffusion_steps))}
    check_settings(config, BOUNDS | steps, CHOICES)
    if config.dim < 16 or config.dim % 16:
        raise UserError(f"--config.dim is {config.dim}, expected a multiple of 16.")
    if (config.history + config.horizon) % 2 ** (config.depth - 1):
        raise UserError(
            f"--config.horizon is {config.horizon} with history = {config.history}, expected a sum"
            f" that is a multiple of {2 ** (config.depth - 1)}."
        )


class Networks(nn.Module):
    """The denoiser and the inverse models of (3)."""

    def __init__(self, config: MADiffConfig, spec: TaskSpec, seed: int) -> None:
        super().__init__()
        n, features = spec.n_agents, spec.n_obs or spec.obs_dim
        sizes = (features, config.dim, config.widen, config.depth, config.diffusion_steps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.denoise = TeamDenoiser(n, *sizes, config.attention, config.direct, config.guessed)
        models = n if config.inverse == "independent" else 1
        outputs = spec.n_actions or spec.act_dim
        self.inverse = InverseDynamics(seed, models, features, config.inverse_width, outputs)


class MADiff(Algorithm):
    Config = MADiffConfig
    paper = "arXiv:2305.17330"
    variants: ClassVar = {
        "default": Variant(steps=STEPS, families=FAMILIES, tuning=TUNED),
        "no_attention": Variant(steps=STEPS, config={"attention": False}, families=FAMILIES),
        "guess": Variant(steps=STEPS, config={"guess": 1.0}, families=FAMILIES),
        "paper": Variant(steps=PAPER_STEPS, config=PAPER),
        "centralised": Variant(
            steps=STEPS, config={"planner": "joint"}, execution="joint", families=FAMILIES
        ),
    }
    small: ClassVar[dict[str, Any]] = {
        "dim": 16,
        "widen": 1,
        "depth": 2,
        "horizon": 4,
        "diffusion_steps": 8,
        "sampler_steps": 2,
        "inverse_width": 32,
        "batch_size": 16,
    }

    def __init__(
        self, config: MADiffConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        check(config)
        if spec.n_agents > MOST_AGENTS or spec.horizon < 2:
            found = f"{spec.id} has {spec.n_agents:,} agents and {spec.horizon} steps"
            wanted = f"at most {MOST_AGENTS} agents and at least 2 steps"
            raise UserError(f"madiff plans for all agents at once: {found}, expected {wanted}.")
        self.normaliser = Normaliser(spec, config.normaliser).to(device)
        self.nets = Networks(config, spec, seeds[0]).to(device)
        self.ema = copy.deepcopy(self.nets).requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.nets.parameters(), lr=config.lr, fused=True)
        self.generator = torch.Generator(device).manual_seed(seeds[0])
        self.steps = 0
        self.abar = noise_levels(config.diffusion_steps).tolist()  # (7)
        self.levels = torch.tensor(self.abar, device=device)  # [K]
        self.present = torch.arange(config.history + config.horizon, device=device) - config.history
        self.own_actions = action_mask(spec)[:, 0].to(device)  # [N, A]
        self.asked = torch.zeros(0)  # [S, N] y of each step of the data
        self.centre = torch.zeros(self.normaliser.used.shape, device=device)  # [N, F] of features
        self.spread = torch.ones_like(self.centre)
        learned = {"nets": self.nets, "ema": self.ema, "optimiser": self.optimiser}
        fitted = {"normaliser": self.normaliser, "centre": self.centre, "spread": self.spread}
        self.parts = Parts(**fitted, noise=[self.generator], **learned)
        self._set_compiled(False)
        self.begin(1, 0)

    def _set_compiled(self, compiled: bool) -> None:
        self.compiled = compiled
        self._losses = compile_graph(self._gradients) if compiled else self._gradients

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        self.normaliser.to("cpu").fit(data)
        self.normaliser.to(self.device)
        seen = torch.as_tensor(data.obs[sampled_steps(data)], device=self.device)
        some = self.normaliser(seen if self.spec.n_obs is None else seen.long())
        self.centre.copy_(some.mean(0))
        self.spread.copy_(some.std(0, correction=0).clamp(min=0.01))
        asked, scale = returns_to_go(data, self.config.gamma), self.config.returns_scale
        asked = asked / scale if scale else ranks_by_step(asked, data.starts)
        self.asked = torch.as_tensor(asked, dtype=torch.float32, device=self.device)
        self.starts = torch.as_tensor(np.array(data.starts), device=self.device)
        self._set_compiled(resolve_compile(self.config.compile, steps))

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        return data.windows(rngs, self.config.batch_size, len(self.present))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        windows = self._windows(batch)
        b, n = windows.x.shape[:2]
        visible = self._visible(b)
        k = self._random(b, len(self.levels))
        eps = torch.randn(windows.x.shape, generator=self.generator, device=self.device)
        u = torch.rand((b, n), generator=self.generator, device=self.device)
        shown = (u >= self.config.dropout).float()
        losses, gradients = self._losses(windows, visible, k, eps, self.asked[windows.row], shown)
        for weight, gradient in zip(self.nets.parameters(), gradients, strict=True):
            weight.grad = gradient
        self.optimiser.step()
        self.steps += 1
        decay = min(self.config.ema, self.steps / (self.steps + 9))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.nets.parameters()), 1 - decay)
        return losses

    def _gradients(
        self,
        windows: Windows,
        visible: Tensor,
        k: Tensor,
        eps: Tensor,
        asked: Tensor,
        shown: Tensor,
    ) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """Losses and their gradients at levels k [B] with this noise; `shown` [B, N] as in (4)."""
        x, valid = windows.x, windows.valid
        plan = self._plan_of(x) * valid.unsqueeze(-1)
        given = self._given(visible)  # [B, N, T, 1]
        known = plan * visible[:, :, None, None]  # what is not seen of the past is 0
        level = self.levels[k].view(-1, 1, 1, 1)
        noised = level.sqrt() * plan + (1 - level).sqrt() * eps  # (1)
        noised = torch.where(given, known, noised * self._seen(level))
        used = self.normaliser.used[:, None]  # [N, 1, F]
        found = self.nets.denoise(noised * used, k, asked, shown, self._present(known))
        wanted = eps if self.config.prediction == "epsilon" else plan
        error = ((found - wanted).square() * used).sum(-1) / used.sum(-1).clamp(min=1)  # [B, N, T]
        sought = valid * ~given.squeeze(-1) * windows.weight[:, None, None]
        first = (self.present == 1) * visible.unsqueeze(-1)  # [B, N, T]
        sought = sought * (1 + (self.config.next_weight - 1) * first)  # difference 13
        plan_loss = (error * sought).sum() / sought.sum().clamp(min=1)  # (2)
        inverse_loss = self._inverse_loss(x, plan, windows.act, valid)
        loss = 0.5 * (plan_loss + inverse_loss)
        if self.config.guessed:
            loss = loss + self.config.guess * self._guess_loss(plan, valid)
        losses = {"plan_loss": plan_loss.detach(), "inverse_loss": inverse_loss.detach()}
        return losses, torch.autograd.grad(loss, list(self.nets.parameters()))

    def _windows(self, batch: Batch) -> Windows:
        history = self.config.history
        back = self._random(len(batch.step), history + 1)
        return team_windows(batch, self.normaliser, self.starts, history, back)

    def _plan_of(self, x: Tensor) -> Tensor:
        """What is planned for features [B, N, T, F]."""
        absolute = self.config.planned == "absolute"
        return x if absolute else self.normaliser.changes(x, self.present > 0)

    def _present(self, known: Tensor) -> Tensor:
        """[B, N, F] what is known of the present, about its mean and in units of its spread."""
        return (known[:, :, self.config.history] - self.centre) / self.spread

    def _seen(self, level: Any) -> Any:
        """Factor of noisy numbers as the network sees them, abar = level: difference 10."""
        return level**0.5 if self.config.prediction == "clean" else 1.0

    def _random(self, count: int, high: int) -> Tensor:
        return torch.randint(high, (count,), generator=self.generator, device=self.device)

    def _visible(self, count: int) -> Tensor:
        """[B, N] 1 where the planner sees the agent: all, or one at random."""
        n = self.spec.n_agents
        if self.config.planner == "joint":
            return torch.ones(count, n, device=self.device)
        return F.one_hot(self._random(count, n), n).float()

    def _given(self, visible: Tensor) -> Tensor:
        """[B, N, T, 1] true where nothing is to be found: the past, and the present of the seen."""
        present = (self.present == 0) & (visible.unsqueeze(-1) > 0)
        return (present | (self.present < 0)).unsqueeze(-1)

    def _guess_loss(self, plan: Tensor, valid: Tensor) -> Tensor:
        """(8) over the later steps of all agents."""
        later = self.present > 0
        found = self.nets.denoise.guess(self._present(plan))
        used = self.normaliser.used[:, None]
        error = ((found - plan).square() * used).sum(-1) / used.sum(-1).clamp(min=1)  # [B, N, T]
        weight = valid * valid[:, :, self.config.history, None] * later
        weight = weight * (1 + (self.config.next_weight - 1) * (self.present == 1))
        return (error * weight).sum() / weight.sum().clamp(min=1)

    def _inverse_loss(self, x: Tensor, plan: Tensor, act: Tensor, valid: Tensor) -> Tensor:
        """(3) at the windows' present steps, as in acting."""
        now = self.config.history
        found = self.nets.inverse(x[:, :, now], plan[:, :, now + 1])  # [B, N, A]
        both, taken = valid[:, :, now] * valid[:, :, now + 1], act[:, :, now]
        if self.spec.discrete:
            error = -found.log_softmax(-1).gather(-1, taken.unsqueeze(-1)).squeeze(-1)
        else:
            error = (found - taken).square() * self.own_actions
            error = error.sum(-1) / self.own_actions.sum(-1).clamp(min=1)
        return (error * both).sum() / both.sum().clamp(min=1)

    # -------------------------------------------------------------------------------------- acting
    def schedule(self) -> list[int]:
        """Levels that the sampler visits, from the noisiest, counted from 0."""
        config = self.config
        if config.sampler == "ddpm":
            return list(reversed(range(config.diffusion_steps)))
        stride = config.diffusion_steps // config.sampler_steps
        return [i * stride for i in reversed(range(config.sampler_steps))]

    @torch.no_grad()
    def plan(self, known: Tensor, given: Tensor) -> Tensor:
        """(5): trajectories [B, N, T, F] that agree with `known` of that shape where `given`."""
        used, visits = self.normaliser.used[:, None], self.schedule()
        x = self.config.temperature * self._noise(known) * used
        for k, after in zip(visits, [*visits[1:], None], strict=True):
            level, lower = self.abar[k], 1.0 if after is None else self.abar[after]
            x, seen = (torch.where(given, known, y) for y in (x, x * self._seen(level)))
            found = self._guided(seen, k, self._present(known))
            if self.config.prediction == "epsilon":
                found = (x - (1 - level) ** 0.5 * found) / level**0.5
            noise = self._noise(x) if self.config.sampler == "ddpm" else None
            x = step_down(x, found.clamp(-1, 1), level, lower, noise) * used
        return x

    def _guided(self, x: Tensor, k: int, present: Tensor) -> Tensor:
        """(4), with and without the return in one batch."""
        omega, shape = self.config.guidance, x.shape[:2]
        asked = torch.full(shape, self.config.target, device=x.device)
        times = torch.full(shape[:1], k, device=x.device)
        shown = torch.ones_like(asked)
        if omega == 1:
            return self.ema.denoise(x, times, asked, shown, present)
        x, times, asked, present = (torch.cat([y, y]) for y in (x, times, asked, present))
        shown = torch.cat([shown, 0 * shown])
        with_it, without = self.ema.denoise(x, times, asked, shown, present).chunk(2)
        return without + omega * (with_it - without)

    def _noise(self, like: Tensor) -> Tensor:
        drawn = self.rng.standard_normal(like.shape, dtype=np.float32)
        return torch.as_tensor(drawn, device=like.device)

    def begin(self, n_envs: int, seed: int) -> None:
        self.rng = categorical.generators(seed, self.seeds)[0]
        shape = self.normaliser.used.shape
        self.past = torch.zeros(n_envs, shape[0], self.config.history, shape[1], device=self.device)

    @torch.no_grad()
    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        now = self.normaliser(torch.as_tensor(obs, device=self.device))  # [E, N, F]
        seen = torch.cat([self.past, now.unsqueeze(2)], 2)  # [E, N, history + 1, F]
        self.past = seen[:, :, 1:]
        e, n = now.shape[:2]
        known = F.pad(seen, (0, 0, 0, self.config.horizon - 1))
        if self.config.planner == "joint":
            given = self._given(torch.ones(1, n, device=self.device))
            after = self.plan(known, given)[:, :, self.config.history + 1]
        else:  # (6): plan e n + i is agent i's
            own = torch.eye(n, device=self.device)
            known = (known.unsqueeze(1) * own[:, :, None, None]).flatten(0, 1)
            plans = self.plan(known, self._given(own).repeat(e, 1, 1, 1)).unflatten(0, (e, n))
            after = plans[:, :, :, self.config.history + 1].diagonal(dim1=1, dim2=2).mT
        found = self.ema.inverse(now, after)
        if not self.spec.discrete:
            return (found.clamp(-1, 1) * self.own_actions).cpu().numpy()
        likely = categorical.allow(found.double().softmax(-1).cpu().numpy(), mask)
        if deterministic:
            return likely.argmax(-1)
        return categorical.draw(likely, self.rng.random((e, n)))

    def state_dict(self) -> dict[str, Any]:
        return self.parts.state_dict() | {"steps": self.steps, "compiled": self.compiled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.parts.load_state_dict(state)
        self.steps = state["steps"]
        self._set_compiled(state.get("compiled", False))  # older checkpoints do not say it

    def cost(self) -> dict[str, float]:
        parameters = sum(p.numel() for p in self.nets.parameters())
        return {"parameters": parameters, "sampler_steps": len(self.schedule())}
