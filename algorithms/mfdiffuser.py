"""MF-Diffuser (reconstruction): planning for populations by diffusion over laws of trajectories.

Paper: Li, Wang and Jin, arXiv:2605.30190. We could read its abstract only, so this file is a
reconstruction from that and from the works it builds on. No number here can be compared with the
paper's tables.

A particle is a window of one agent's trajectory, tau in R^(H x D), D = S + A: states and actions,
finite ones as one-hot blocks of +-1 (`algorithms/nn/particles.py`); a game of one step has windows
of one step. A population is a set of exchangeable particles, with the empirical law nu.

E1  objective: F(nu) = (1/N) KL(nu || nu_data) - beta E_nu[(1/N) sum_i R(tau_i, mu)], the
    value-weighted chaotic entropy. Its minimiser is nu ~ nu_data exp(beta sum_i R_i), which
    factorises over particles that are independent given mu.
E2  weights w_i of a particle, of mean 1 (`algorithms/nn/value_weights.py`): of the return from its
    first step on, "return" and "rank", of the population (beta_pop) or, in games ranked by
    exploitability, of the agent less that (beta_ind); "mirror", the ratio pi / pi_data of its first
    decision, pi from mirror descent in a game that is learned from the data, or known in the
    variants of the track `model`, and stopped once the learned game is in doubt, as TMF-PG does;
    "advantage", one large step of that; or "none".
E3  loss: E[(1/M) sum_i w_i omega(k) |x0(x_k,i, nu_k, k) - tau_i|^2], omega = clip(SNR, .05, 5)
    or, "bell", max(4 abar (1 - abar), .05), or, "flat", 1; a state's number weighs `state_share`
    of an action's. The first state is given: its channels are left out.
    A weighted denoising loss has the tilted law as its exact minimiser, so no guidance is needed.
E4  network: x0(k, x, nu) = A(k, x) + B[nu](x), convolutions over the steps of a window,
    `algorithms/nn/sets.py`; told the window's first step, and with `see_mu` the population's law.
E5  sampler: DDIM, flat or coarse-to-fine, N_0 < b N_0 < ... < N, `algorithms/nn/hierarchy.py`.
E6  plan: from the population's states, execute `execute` steps of each agent's window, plan again.
    From noise times `temperature`; from none where actions are asked to be deterministic.
    inv_dyn: windows of states alone, and an inverse model a(s, s') between them.
E7  table: the same without a simulator: each window starts where the one before it led;
    pi(a | s, h) = (generated count of (h, s, a) + alpha pi_data(a | s, h)) / norm.
E8  distil: psi maximises E[log pi_psi(a | s, h / H, mu_h)] over generated decisions; executed on
    the population's own mu_h. Its policy table, and that of E6, is along the generated flow: exact
    metrics read that table, while a roll-out at finite N feeds the flow that really happens.
E9  guidance: "cfg", the rank of the population's return is told, left out in a quarter of the
    batches, and x0 = x0() + g (x0(target) - x0()); "classifier", J(x_k, k) regresses each agent's
    standardised return, and x0 <- x0 + g (1 - abar) grad J.

Differences from the paper:
1. [PAPER] Planning over trajectory laws, a value-weighted entropy, and a population that grows
   during denoising are the paper's; everything below them is ours, hyper-parameters included.
2. [PRIOR WORK: arXiv:2503.04975] The value enters as a weight on the denoising loss.
3. [PRIOR WORK: arXiv:2406.05396] A + B network, entropy divided by cardinality, branching.
4. [OUR CHOICE] beta_pop weighs the standardised return of a population, instead of beta N times its
   return, so that the tilt is the same at every N.
5. [OUR CHOICE] Weights of returns tilt agents inside their population in competitive games. That is
   one step of mirror descent against the behaviour population; E2's "mirror" goes all the way.
6. [OUR CHOICE] Advantages are those of the behaviour along its own mean flow, not of each episode.
7. [PRIOR WORK: Decision Diffuser, Diffuser] E6's inverse model and E9. Less weight on states than
   on actions is Diffuser's, which weighs the first action 10 times; our shares and no noise in
   plans are [OUR CHOICE].

What reproduces (records of leaderboard/results, quick protocol, scores of 100; the paper's own
numbers could not be read):
 - Squeeze of 1,000 agents, medium data, 10 seeds: 97.8 with the weights of returns, 23.4 without.
   Training on 2, 8, 32 or 64 agents of a population: 95.6, 98.7, 97.5, 97.9 (5 seeds). Coarse to
   fine 95.6, with 10,000 agents 89.9 where flat sampling has 98.7. In a game of one step the
   weights do the work: weighted counts, `bc_table.return`, have 99.3 and 99.9 without a network.
 - Coarse to fine is 1.76, 3.6 and 6.5 times as fast with 1,000, 4,000 and 16,000 agents, where
   particles denoised are 2.3, 4.5 and 7.1 times fewer (leaderboard/perf/hierarchy.json). A step of
   n particles takes .33 + .00114 n ms there: calls, 64 representatives. So twice as fast with 1,000
   is out of reach of a first level of 256; smaller ones were not tried.
 - More agents of as many populations help: 90.7, 97.5, 98.0, 98.6 with 100, 1,000, 4,000 and 10,000
   on 400 populations. With 40,000 decisions whatever N, that is 400, 40, 10 and 4 populations, it
   is 90.9, 94.1, 87.7 and 66.9: populations are what offline data can be short of
   (leaderboard/studies/offline_shift.json).
 - An approximate equilibrium, from medium data: beach bar 97.7, 5 seeds (exploitability .05 to
   .14 where uniform play has 2.85 and BC about 2.1; weights of returns .80 to .95, none 2.05 to
   2.16), queue 94.4, 5 seeds, resources 95.2, 3. In the known game it is 95.0, .06 to .17, no
   better than in the learned one. Taken apart on development data (beach bar of 128 agents, the
   game known, one seed): mirror descent cut at e^3 stands at .015, the plan at .051; with 65,536
   generated agents instead of 8,192 at .036, after 8,000 steps instead of 2,000 at .043, and then
   with 100 steps of DDIM at .031. So it is the plan's, in three parts. On the board's data the
   target is .006: .02 of total variation on average, along the target's flow, is worth .18 there.
 - The field of E4 does not pay at equal budgets (leaderboard/studies/interaction.json): squeeze
   97.5 with it and 99.1 without, and without value weights 22.9 and 22.1; beach bar 89.9 and 97.1.
   Populations of an improved policy are not those of the data, and the field has seen no others.
   Without value weights a plan with it has 2.15 on development data, the behaviour 2.08.
 - Four rooms: mirror descent in the learned game goes from 128 to 520 without the stop by doubt;
   stopped it stands at 27 to 47 with rate .3 and 33 with .1 (128 agents, development data). The
   plan did not follow even that, 77 to 141 on the board's data of 256: it was underfitted, 104
   states in 40 steps. After 10,000 steps instead of 2,000, flat omega and states at .05 it has 44
   to 64, scores of 65 to 76 (3 seeds, BC 26).
 - Battles, medium data, scores from the survival margin: magent2's of 6 a side 84.0, BC 88.0, the
   data 47.3 (5 seeds). It was 24.7 while a plan began with noise where the protocol asks for
   deterministic actions, which BC gave (leaderboard/tuning/README.md). A skirmish of 64 a side,
   where actions are drawn: 23.3, BC 31.0, the data 41.4; 75.3 without noise, "cold" (5 seeds). That
   is no gain over cloning, whose best action has .48 where plans without noise have .24 (32 a side,
   development seeds). Returns say next to nothing of the margin (correlation .10): weights by them
   hurt, 16 with and 28 without (32 a side, one seed, 10 episodes). With 1,024 a side 27.5, BC 23.9,
   the data 43.2 (3 seeds); a joint action takes .09 s of one core.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from algorithms.nn import categorical
from algorithms.nn.compiled import CompileMode, compile_graph, resolve_compile
from algorithms.nn.diffusion import add_noise, bell_weight, expand, snr_weight
from algorithms.nn.game import logged
from algorithms.nn.particles import Particles
from algorithms.nn.planner import Inverse, Judge, Planner, mean_state
from algorithms.nn.planning import ranks_by_step, returns_to_go
from algorithms.nn.population_policy import PopulationPolicy, count_table, decisions
from algorithms.nn.sets import FIELDS, SetDenoiser
from algorithms.nn.settings import check_settings
from algorithms.nn.team import Parts
from algorithms.nn.value_weights import DecisionWeights, weights_by_step
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.errors import UserError
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec

ROWS: dict[str, dict[str, Any]] = {  # they differ from the default in what their name says
    "default": {},
    "none": {"weighting": "none"},
    "return": {"weighting": "return"},
    "rank": {"weighting": "rank"},
    "advantage": {"weighting": "advantage"},
    "mirror_known": {"weighting": "mirror"},  # on the track of known games
    "interaction": {"field": "mean"},
    "independent": {"field": "none", "weighting": "none"},
    "attention": {"field": "attention"},
    "hierarchical": {"hierarchy": "late"},
    "cold": {},  # battles: plans without noise
    "plan": {"policy": "plan"},
    "inv_dyn": {"policy": "inv_dyn"},
    "distil": {"policy": "distil"},
}
# Rows that look at the population when they act; in a battle all that have a field do.
MEAN_FIELD = ("distil", "plan", "inv_dyn", "interaction", "attention")
DECISIONS = ("advantage", "mirror")  # weightings of first decisions
SEQUENTIAL: dict[str, Any] = {  # the search of leaderboard/tuning/mfdiffuser.json
    "weighting": "mirror",
    "field": "none",
    "window": 2,
    "width": 64,
    "omega": "bell",
    "lr": 2e-3,
}
SEQUENTIAL_STEPS = {"smoke": 50, "quick": 2_000, "full": 20_000}  # the game's fit comes on top
FIT_STEPS = {"smoke": 50, "quick": 3_000, "full": 20_000}
ROOMS: dict[str, Any] = {"rate": 0.1, "omega": "flat", "state_share": 0.05}
ROOMS_STEPS = {"smoke": 50, "quick": 10_000, "full": 40_000}  # 104 states of 40 steps each
BATTLE: dict[str, Any] = {  # the looks of leaderboard/tuning/README.md
    "weighting": "none",  # returns hardly speak for the margin
    "policy": "plan",
    "window": 2,
    "width": 64,
    "omega": "flat",
    "state_share": 0.05,
    "lr": 2e-3,
    "steps": {"smoke": 50, "quick": 3_000, "full": 20_000},
}
BOUNDS = {
    **dict.fromkeys(("beta_pop", "beta_ind", "rank_c", "rate", "alpha", "scale"), (0.0, 1e4)),
    **dict.fromkeys(("state_share", "temperature"), (0.0, 1e4)),
    **dict.fromkeys(("iterations", "window", "execute", "blocks", "sampler_steps"), (1.0, 1e6)),
    **dict.fromkeys(("first_level", "context", "table_agents", "distil_batch"), (1.0, 1e8)),
    **dict.fromkeys(("distil_steps", "distil_width", "members", "w_max", "budget"), (1.0, 1e6)),
    **dict.fromkeys(("ema", "target"), (0.0, 1.0)),
    "branch": (2.0, 1e4),
    "fit_share": (0.0, 0.99),
}
OMEGAS: dict[str, Callable[[Tensor], Tensor]] = {
    "snr": snr_weight,
    "bell": bell_weight,
    "flat": torch.ones_like,
}
CHOICES = {
    "weighting": ("none", "return", "rank", "advantage", "mirror"),
    "omega": tuple(OMEGAS),
    "field": FIELDS,
    "hierarchy": ("off", "late", "early"),
    "policy": ("table", "plan", "inv_dyn", "distil"),
    "guidance": ("none", "cfg", "classifier"),
}
SMOOTH = 1e-3  # pseudo-counts of uniform play in the behaviour
DROPOUT = 0.25  # share of the batches that are not told what is asked for, E9


def families(row: str) -> dict[str, dict[str, Any]]:
    """A row's settings by task family; squeezes have the defaults."""

    def sequential(steps: dict[str, int], **more: Any) -> dict[str, Any]:
        settings = SEQUENTIAL | more | ROWS[row]
        if settings["weighting"] in DECISIONS and row != "mirror_known":
            share = FIT_STEPS["quick"] / (FIT_STEPS["quick"] + steps["quick"])
            settings["fit_share"] = share
            steps = {name: n + FIT_STEPS[name] for name, n in steps.items()}
        return settings | {"steps": steps}

    cold = {"temperature": 0.0} if row == "cold" else {}
    return {
        "meanfield/": sequential(SEQUENTIAL_STEPS),
        "meanfield/four-rooms": sequential(ROOMS_STEPS, **ROOMS),
        "meanfield/squeeze": {},
        "battle/": BATTLE | {"field": "mean" if row in MEAN_FIELD else "none"} | ROWS[row] | cold,
    }


@dataclass(frozen=True)
class MFDiffuserConfig:
    """All values are our choice, for 2 CPU cores, except where a source is named."""

    weighting: Literal["none", "return", "rank", "advantage", "mirror"] = "return"  # E2
    beta_pop: float = 2.0  # tilt per standard deviation of a population's return
    beta_ind: float = 1.0  # tilt per standard deviation of an agent's return or advantage
    rank_c: float = 10.0  # rank weighting: the median weighs exp(-c / 2) of the best
    rate: float = 0.3  # of mirror descent
    iterations: int = 400  # of mirror descent
    budget: float = 2.0  # of the learned game's doubt, in units of the behaviour's
    fit_share: float = 0.6  # of the steps that fit the game, advantage and mirror only
    omega: Literal["snr", "bell", "flat"] = "snr"  # weight of a noise level in the loss
    state_share: float = 1.0  # weight of a state's number in the loss, an action's has 1
    w_max: float = 20.0  # largest weight of a return, in units of the mean weight
    window: int = 4  # steps of a particle, the horizon at most
    execute: int = 1  # steps of a plan that are executed
    batch_size: int = 32  # populations in a batch, more where these have fewer agents than:
    agents: int = 32  # agents of a population in a batch, M
    width: int = 96  # of the denoiser
    blocks: int = 2  # of the denoiser
    field: Literal["mean", "isab", "attention", "none"] = "mean"  # B of E4
    see_mu: bool = False  # tell the denoiser the population's law at the first step
    lr: float = 1e-3  # Adam
    ema: float = 0.995  # Diffuser
    sampler_steps: int = 20  # DDIM
    temperature: float = 1.0  # spread of the noise that plans in play start from, E6
    hierarchy: Literal["off", "late", "early"] = "off"  # when populations grow, E5
    first_level: int = 256  # particles before the first branching
    branch: int = 4  # growth per level
    context: int = 64  # particles that stand for the population in sampling
    policy: Literal["table", "plan", "inv_dyn", "distil"] = "table"  # E6 to E8
    table_agents: int = 8192  # generated agents behind the policy, at least
    alpha: float = 1.0  # pseudo-counts of the behaviour policy in the table
    distil_steps: int = 1000  # gradient steps of E8
    distil_batch: int = 1024  # generated decisions in a batch
    distil_width: int = 64  # of both hidden layers
    guidance: Literal["none", "cfg", "classifier"] = "none"  # E9
    scale: float = 1.2  # g of E9; Decision Diffuser's for cfg
    target: float = 0.9  # rank of the return that is asked for; Decision Diffuser
    members: int = 3  # of the learned game's ensemble
    compile: CompileMode = "auto"  # the denoiser's updates as one graph: auto (long runs), on, off


def denoising_loss(
    predicted: Tensor, x0: Tensor, weight: Tensor, omega: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Weighted mean squared error of clean particles [B, M, D]; weight [B, M], omega [B] (E3).
    counts [B, M, D]: 0 where a number has no part in it.
    """
    error = (predicted - x0).square()
    error = (error if counts is None else error * counts).mean(-1)  # [B, M]
    return (expand(omega, error) * weight * error).mean()


class MFDiffuser(Algorithm):
    Config = MFDiffuserConfig
    paper: ClassVar[str] = "arXiv:2605.30190 (reconstruction)"
    variants: ClassVar[dict[str, Variant]] = {
        name: Variant(
            steps={"smoke": 50, "quick": 1_500, "full": 6_000},
            config=config,
            execution="mean-field" if name in MEAN_FIELD else "local",
            track="model" if name == "mirror_known" else "offline",
            families=families(name),
            tuning={
                "meanfield/": Tuning(configs_tried=6),
                "meanfield/four-rooms": Tuning(configs_tried=14),
                "meanfield/squeeze": Tuning(),
                "battle/": Tuning(configs_tried=10, online_episodes=1_000),
            },
        )
        for name, config in ROWS.items()
    }
    requires = frozenset({"discrete", "exchangeable"})
    small: ClassVar[dict[str, Any]] = {
        "width": 16,
        "blocks": 1,
        "sampler_steps": 4,
        "table_agents": 64,
        "distil_steps": 20,
        "distil_batch": 64,
        "iterations": 5,
    }

    def __init__(
        self, config: MFDiffuserConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        check_settings(config, BOUNDS, CHOICES)
        assert spec.n_actions is not None
        self.horizon, self.n_actions, self.n_obs = spec.horizon, spec.n_actions, spec.n_obs or 1
        self.window = min(config.window, self.horizon)
        self._refuse()
        self.code = Particles(spec, self.window, actions=config.policy != "inv_dyn")
        self.step, self.fit_steps = 0, 0
        self.generator = torch.Generator(device).manual_seed(seeds[0])
        inputs, states = self.code.shape, self.code.states
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds[0])
            self.net = SetDenoiser(
                *inputs,
                config.width,
                config.blocks,
                config.field,
                starts=self.horizon if spec.finite and self.horizon > 1 else 0,
                seen=states if config.see_mu else 0,
                asked=2 if config.guidance == "cfg" else 0,
            )
            self.head = PopulationPolicy(self.code, self.horizon, config.distil_width)
            self.judge = Judge(inputs, config.width) if config.guidance == "classifier" else None
            width, plans_states = config.width, config.policy == "inv_dyn"
            inverse = Inverse(self.code, self.horizon, width, seeds[0]) if plans_states else None
        self.inverse = inverse
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        nets = {"net": self.net, "ema": self.ema, "head": self.head, "code": self.code}
        nets |= {"judge": self.judge} if self.judge else {}
        nets |= {"inverse": inverse} if inverse else {}
        for net in nets.values():
            net.to(device)
        trained = [
            p
            for name in ("net", "judge", "inverse")
            if name in nets
            for p in nets[name].parameters()
        ]
        self.optimiser = torch.optim.Adam(trained, config.lr, fused=True)
        self.planner = Planner(config, self.code, self.ema, self.horizon, self.judge, inverse)
        parts: dict[str, Any] = nets | {"optimiser": self.optimiser}
        self.decisions: DecisionWeights | None = None
        if config.weighting in DECISIONS:
            self.decisions = DecisionWeights(spec, config.members, seeds[0], device)
            parts |= {"learned": self.decisions.learned, "fitter": self.decisions.fitter}
        self.saved = Parts(**parts)
        shape = (self.horizon, self.n_obs, self.n_actions)
        self.behaviour = torch.full(shape, 1 / self.n_actions, device=device)  # [T, O, A]
        self.start_law = torch.full((self.n_obs,), 1 / self.n_obs, device=device)  # [O], of s_0
        self.tilt = torch.zeros(shape, device=device)  # log pi / pi_data of E2
        self.table = self.behaviour  # the behaviour policy until finish()
        self.trained = trained
        self._set_compiled(False)
        self.begin(1, 0)

    def _set_compiled(self, compiled: bool) -> None:
        self.compiled = compiled
        self._losses = compile_graph(self._gradients) if compiled else self._gradients

    def _refuse(self) -> None:
        """Raise UserError for settings that this task has no room for."""
        config, spec = self.config, self.spec
        if not spec.finite and (config.policy == "table" or config.weighting in DECISIONS):
            what = "policy table" if config.policy == "table" else f"weighting {config.weighting}"
            raise UserError(
                f"mfdiffuser: {what} needs a finite game, {spec.id} is none; expected"
                " --config.policy plan or distil, and --config.weighting return, rank or none."
            )
        if spec.finite and config.temperature != 1:
            raise UserError(
                f"--config.temperature is {config.temperature:g}, expected 1 in a finite game: the"
                " policy table of plans is that of plans with noise."
            )
        if self.window <= config.execute < self.horizon:
            raise UserError(
                f"--config.execute is {config.execute}, expected less than the window of"
                f" {self.window} steps: the next plan starts where this one led."
            )
        if config.policy == "inv_dyn" and (self.horizon == 1 or spec.n_obs == 1):
            raise UserError(
                f"--config.policy inv_dyn needs states to plan, {spec.id} has one step only;"
                " expected table, plan or distil."
            )

    # ------------------------------------------------------------------------------------ the data
    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        """Weights (E2), the law of s_0 and the behaviour policy, from the whole data set."""
        config, spec = self.config, self.spec
        self._set_compiled(resolve_compile(config.compile, steps))
        self.data, self.agents = data, min(config.agents, spec.n_agents)
        # As many particles where there are fewer agents: a network learns from rows
        self.populations = config.batch_size * config.agents // self.agents
        self.code.fit(data)
        competitive = spec.metric == "exploitability"
        beta = config.beta_ind if competitive else config.beta_pop
        kind = "none" if self.decisions else config.weighting
        weights = weights_by_step(data, kind, beta, config.rank_c, config.w_max, competitive)
        self.weights = torch.as_tensor(weights, device=self.device)  # [S, N]
        self.starts = torch.as_tensor(np.array(data.starts), device=self.device)
        if config.guidance != "none":
            togo = returns_to_go(data, 1.0)
            team = ranks_by_step(togo.mean(1, keepdims=True), data.starts)[:, 0]
            self.ranks = torch.as_tensor(team, device=self.device)  # [S]
            spread = (togo - togo.mean()) / max(togo.std(), 1e-9)
            self.togo = torch.as_tensor(spread, dtype=torch.float32, device=self.device)  # [S, N]
        if not spec.finite:
            return
        known = logged(data, spec, SMOOTH)
        rounds = np.arange(self.horizon) // max(1, round(1 / known.rho))
        behaviour = torch.as_tensor(known.behaviour[rounds], dtype=torch.float32)
        self.table = self.behaviour = behaviour.to(self.device)
        self.start_law = torch.as_tensor(known.mu0, dtype=torch.float32, device=self.device)
        if self.decisions is not None:
            self.fit_steps = 0 if model else round(steps * config.fit_share)
            self.decisions.prepare(data, known, model)

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        if self.decisions is not None and self.step < self.fit_steps:
            return self.decisions.sample(data, rngs)
        return data.windows(rngs, self.populations, self.window, agents=self.agents)

    # --------------------------------------------------------------------------------- the updates
    def update(self, batch: Batch) -> dict[str, Tensor]:
        self.step += 1
        if self.decisions is not None:
            if self.step <= self.fit_steps:
                return self.decisions.fit(batch)
            if self.step == self.fit_steps + 1:
                self.tilt = self._solve(self.decisions).to(self.device)
        return self._denoise(batch)

    def _solve(self, decisions: DecisionWeights) -> Tensor:
        config = self.config
        if config.weighting == "advantage":
            return decisions.solve(config.beta_ind, 1, config.budget)
        return decisions.solve(config.rate, config.iterations, config.budget)

    def _denoise(self, batch: Batch) -> dict[str, Tensor]:
        config, count, agents = self.config, len(batch.obs), batch.obs.shape[2]
        row = self.starts[batch.episode] + batch.step  # [B]
        agent = batch.agent[:, None] + torch.arange(agents, device=row.device)  # [B, M]
        weight = self.weights[row[:, None], agent]
        if self.decisions is not None:
            first = batch.obs[:, 0, :, 0], batch.act[:, 0]
            ratio = self.tilt[batch.step[:, None], *first].exp()
            weight = ratio if batch.active is None else torch.where(batch.active[:, 0], ratio, 1.0)
        k = torch.rand(count, generator=self.generator, device=row.device)  # [B]
        shape = count, agents, *self.code.shape
        eps = torch.randn(shape, generator=self.generator, device=row.device)
        asked = self._asked(self.ranks[row]) if config.guidance == "cfg" else None
        togo = None if self.judge is None else self.togo[row[:, None], agent]
        losses, gradients = self._losses(batch, weight, k, eps, asked, togo)
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            parameter.grad = gradient
        self.optimiser.step()
        decay = min(config.ema, self.step / (self.step + 9))  # forgets the initial weights
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.net.parameters()), 1 - decay)
        return losses

    def _gradients(
        self,
        batch: Batch,
        weight: Tensor,
        k: Tensor,
        eps: Tensor,
        asked: Tensor | None,
        togo: Tensor | None,
    ) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """Losses, and the gradients of their sum, of windows at noise levels k [B] with noise eps
        [B, M, H, D]; weight, togo [B, M] are of E2 and E9, asked [B, 2].
        """
        config, given, agents = self.config, self.code.states, batch.obs.shape[2]
        x0 = self.code.encode(batch.obs, batch.act)  # [B, M, H, D]
        there = batch.valid.unsqueeze(-1).expand(-1, -1, agents)
        there = there if batch.alive is None else there & batch.alive
        there = there.transpose(1, 2).unsqueeze(-1).float()  # [B, M, H, 1]
        x = add_noise(x0, eps, k)
        x[:, :, 0, :given] = x0[:, :, 0, :given]
        x = x * there
        told: dict[str, Tensor | None] = {"start": batch.step if self.net.start else None}
        if config.see_mu:
            told["seen"] = mean_state(x0[:, :, 0, :given], there[:, :, 0, 0])
        predicted = self.net(x, k, **told, asked=asked)
        counts = there.expand_as(x0).clone()
        counts[:, :, 0, :given] = 0
        counts[..., :given] *= config.state_share
        if batch.active is not None:  # what a passive agent chose has no meaning
            counts[..., given:] *= batch.active.transpose(1, 2).unsqueeze(-1)
        flat = [value.flatten(2)[..., given:] for value in (predicted, x0, counts)]
        omega = OMEGAS[config.omega](k)  # [B]
        losses = {"loss": denoising_loss(flat[0], flat[1], weight, omega, flat[2])}
        if self.judge is not None and togo is not None:
            error = (self.judge(x, k) - togo).square()
            losses["value_loss"] = (error * there[:, :, 0, 0]).mean()
        if self.inverse is not None:
            losses["inverse_loss"] = self.inverse.loss(batch, weight * there[:, :, 1, 0])
        total = torch.stack(list(losses.values())).sum()
        gradients = torch.autograd.grad(total, self.trained, allow_unused=True)
        return {name: value.detach() for name, value in losses.items()}, gradients

    def _asked(self, rank: Tensor) -> Tensor:
        """What cfg is told [B, 2]: a rank, or that there is none."""
        told = torch.rand(len(rank), generator=self.generator, device=rank.device) >= DROPOUT
        return torch.stack([rank * told, told.float()], -1)

    # -------------------------------------------------------------------------------- the policies
    def generate(
        self,
        populations: int,
        agents: int,
        hierarchy: str | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """States and actions, [populations, T, agents] int64 each, of a finite game's episodes."""
        generator = generator or self.generator
        return self.planner.generate(self.start_law, populations, agents, generator, hierarchy)

    def finish(self) -> None:
        """Take the policy from `table_agents` generated agents or more, N to a population."""
        size = min(self.spec.n_agents, self.config.table_agents)
        populations = -(-self.config.table_agents // size)
        if not self.spec.finite:
            if self.config.policy == "distil":
                rng = np.random.default_rng([self.seeds[0], 8])
                made = decisions(self.planner, self.data, rng, self.generator, populations, size)
                self.distil(*(part.to(self.device) for part in made))
            return
        obs, act = self.generate(populations, size)  # [P, T, size]
        if self.config.policy != "distil":
            self.table = count_table(obs, act, self.behaviour, self.config.alpha)
            return
        step = torch.arange(self.horizon, device=obs.device).expand(populations, -1)
        features = self.code.features(obs.unsqueeze(-1))  # [P, T, size, S]
        self.distil(step.flatten(), features.flatten(0, 1), act.flatten(0, 1))
        self.table = self.head.table(features.mean((0, 2)))  # along the mean generated flow

    def distil(self, step: Tensor, features: Tensor, act: Tensor) -> None:
        """E8, see PopulationPolicy.fit."""
        config = self.config
        how = (config.lr, config.distil_steps, config.distil_batch, self.generator)
        self.head.fit(step, features, act, *how)

    # -------------------------------------------------------------------------------------- acting
    def begin(self, n_envs: int, seed: int) -> None:
        self.noise = np.random.default_rng(seed)
        self.dice = torch.Generator(self.device).manual_seed(seed)
        self.current: Tensor | None = None

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        if self.config.policy in ("plan", "inv_dyn"):
            i = t % self.config.execute
            if i == 0 or self.current is None:
                there = None if alive is None else torch.as_tensor(alive, device=self.device)
                now = torch.as_tensor(obs.copy()).to(self.device)
                spread = 0.0 if deterministic else self.config.temperature
                self.current = self.planner.plan(now, t, self.dice, there, temperature=spread)
            allowed = None if mask is None else torch.as_tensor(mask, device=self.device)
            how = (self.current, i, t, self.dice, allowed, deterministic)
            return self.planner.action(*how).cpu().numpy()
        if self.config.policy == "table":
            law = self.table[t].cpu().numpy()[obs[..., 0]]  # [E, N, A]
        else:
            there = None if alive is None else torch.as_tensor(alive, device=self.device)
            now = torch.as_tensor(obs.copy()).to(self.device)
            law = self.head.law(now, t, there).cpu().numpy()
        law = categorical.allow(law, mask)
        if deterministic:
            return law.argmax(-1)
        return categorical.draw(law, self.noise.random(law.shape[:-1]))

    def policy_table(self) -> Array:
        return self.table.cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        tensors = {"generator": self.generator.get_state(), "tilt": self.tilt, "table": self.table}
        tensors |= {"start_law": self.start_law}
        return self.saved.state_dict() | tensors | {"step": self.step, "compiled": self.compiled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.saved.load_state_dict(state)
        self.generator.set_state(state["generator"].cpu())
        self.tilt, self.table, self.start_law = (
            state[name].to(self.device) for name in ("tilt", "table", "start_law")
        )
        self.step = state["step"]
        self._set_compiled(state.get("compiled", False))  # older checkpoints do not say it

    def cost(self) -> dict[str, float]:
        """`sampler_steps`: network calls behind a plan; `population_ms`: processor time to generate
        one population of N agents, a whole episode in a finite game, median of 5.
        """
        size = min(self.spec.n_agents, self.config.table_agents)
        times, generator = [], torch.Generator(self.device).manual_seed(0)
        nobody = torch.zeros(1, size, self.spec.obs_dim, device=self.device)
        for _ in range(6):  # the first is warm-up
            begun = time.process_time()
            if self.spec.finite:
                self.generate(1, size, generator=generator)[1].cpu()
            else:
                self.planner.plan(nobody, 0, generator).cpu()
            times.append(1e3 * (time.process_time() - begun))
        return {
            "population_ms": statistics.median(times[1:]),
            "parameters": sum(p.numel() for p in self.net.parameters()),
            "sampler_steps": self.config.sampler_steps,
        }
