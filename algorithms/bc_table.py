"""Tables of weighted counts: cloning a population of a finite game without a network.

Paper: none of its own. Weights of returns are those of reward-weighted regression, Peters and
Schaal, "Reinforcement Learning by Reward-Weighted Regression" (ICML 2007).

    (1) pi(a | t, o) = (sum of w over moves (t, o, a) + smooth / A) / (the same over all a)

w = 1 is behaviour cloning at its optimum, which `bc` reaches by gradient steps. `return` and `rank`
are the weights that MF-Diffuser has on its loss (`algorithms/nn/value_weights.py`), so that these
rows say how much of its gain is the weights', and how much the generated population's.

Differences from the paper
 1. Weights are of the return from the move on, compared among the moves of a step: of populations
    where the game pays all alike, of agents within their population where it is ranked by
    exploitability. [OUR CHOICE]
 2. In games of turns a round of 1 / rho steps shares a table, and only those who act count.
    [OUR CHOICE]
 3. Nothing is random but what is played: all seeds have one table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from algorithms.nn import categorical
from algorithms.nn.settings import check_settings
from algorithms.nn.value_weights import weights_by_step
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.task import Array, GameModel, TaskSpec

BOUNDS = {
    **dict.fromkeys(("beta_pop", "beta_ind", "rank_c"), (0.0, 1e4)),
    "w_max": (1.0, 1e6),
    "smooth": (1e-9, 1e9),
}


@dataclass(frozen=True)
class BCTableConfig:
    """Values of MF-Diffuser, which has the same weights."""

    weighting: Literal["none", "return", "rank"] = "none"  # w of (1)
    beta_pop: float = 2.0  # tilt per standard deviation of a population's return
    beta_ind: float = 1.0  # tilt per standard deviation of an agent's return
    rank_c: float = 10.0  # the median weighs exp(-c / 2) of the best
    w_max: float = 20.0  # largest weight, in units of the mean weight
    smooth: float = 1.0  # pseudo-counts of uniform play at each step and observation


class BCTable(Algorithm):
    Config = BCTableConfig
    paper = "Peters and Schaal 2007"
    variants: ClassVar[dict[str, Variant]] = {
        row: Variant(steps={"smoke": 0, "quick": 0, "full": 0}, config={"weighting": weighting})
        for row, weighting in (("default", "none"), ("return", "return"), ("rank", "rank"))
    }
    requires = frozenset({"finite", "exchangeable"})

    def __init__(
        self, config: BCTableConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        choices = {"weighting": ("none", "return", "rank")}
        check_settings(config, BOUNDS, choices)
        assert spec.n_obs is not None
        assert spec.n_actions is not None
        shape = (spec.horizon, spec.n_obs, spec.n_actions)
        self.table = np.full(shape, 1 / spec.n_actions)
        self.begin(1, 0)

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        """(1), a step at a time."""
        config, spec = self.config, self.spec
        competitive = spec.metric == "exploitability"
        beta = config.beta_ind if competitive else config.beta_pop
        how = (config.weighting, beta, config.rank_c, config.w_max, competitive)
        weights = weights_by_step(data, *how)  # [S, N]
        counts, lengths, active = np.zeros(self.table.shape), np.diff(data.starts), data.active
        per_round = 1 if active is None else max(1, round(1 / float(np.mean(active))))
        for t in range(int(lengths.max())):
            rows = data.starts[:-1][lengths > t] + t
            obs, act = np.asarray(data.obs[rows])[..., 0], np.asarray(data.act[rows])  # [E, N]
            weight = weights[rows] if active is None else weights[rows] * active[rows]
            cell = (obs * counts.shape[2] + act).ravel()
            found = np.bincount(cell, weight.ravel(), minlength=counts[0].size)
            first = t - t % per_round
            counts[first : first + per_round] += found.reshape(counts.shape[1:])
        counts += config.smooth / counts.shape[2]
        self.table = counts / counts.sum(-1, keepdims=True)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def begin(self, n_envs: int, seed: int) -> None:
        self.rng = categorical.generators(seed, self.seeds)[0]

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        likely = categorical.allow(self.table[t][obs[..., 0]], mask)  # [E, N, A]
        if deterministic:
            return likely.argmax(-1)
        return categorical.draw(likely, self.rng.random(likely.shape[:-1]))

    def policy_table(self) -> Array:
        return self.table

    def state_dict(self) -> dict[str, Any]:
        return {"table": torch.as_tensor(self.table)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.table = state["table"].cpu().numpy()

    def cost(self) -> dict[str, float]:
        return {"parameters": self.table.size, "sampler_steps": 1}
