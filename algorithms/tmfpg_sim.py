"""TMF-PG-Sim: policy gradient on populations of N agents that are played in a simulator.

Paper: "Temporal Mean Field policy gradient", arXiv:2602.18026, of which we could read the abstract
and the author's account of the recursions: a reconstruction. `tmfpg` has the forms that need no
simulator. This one is on the online track: a reference for what finite populations teach.

    (1) play     `n_envs` populations of N agents play pi for one episode each, of which rho N act
                 at a step
    (2) value    r and P of each (round, o, a), the passive ones besides, are the means of what
                 those agents earned and where they went in the 1 / rho steps of a round;
                 Q = r + P V',  V = rho sum_a pi Q + (1 - rho) [r0 + P0 V']
    (3) update   theta += rate sum_round rho (Q - sum_a pi Q): the natural gradient, pi =
                 softmax(theta), one table a round of 1 / rho steps

Differences from the paper
 1. Rates, the number of populations and (2), an advantage from counts in the place of a critic, are
    ours: the paper's body cannot be read. Where nobody took an action its advantage is 0.
    [OUR CHOICE]
 2. An update sees transitions drawn from the last `n_envs` episodes, with replacement, since that
    is what the buffer of online runs gives. [OUR CHOICE]
 3. Uniform play comes first, for one episode of each population. [OUR CHOICE]

What reproduces (leaderboard/studies/activation.json: 16 agents, 400 updates of 8 populations, 5
seeds; exploitability, uniform play in brackets): that B hardly matters, on resources. It is .25
(2.2) where all act, .27, .19 and .25 (2.3) where 8, 2 and 1 do. On the queue 1.2 (1.7), 1.9 (2.8),
2.5 (4.3) and 2.6 (4.7), 70, 68, 57 and 56% of uniform play's: far from the equilibrium, to which
populations of 256 come near (.05 to .09, 3 seeds, all act).
Means of (2) by step instead of by round, 8 decisions each with B = 1, were worse than uniform play
on resources: 2.5 and 4.0 with B = 2 and 1. The learner who knows the game stands at 1% of uniform
play's or less whatever B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from algorithms.nn import categorical
from algorithms.nn.game import histogram, values
from algorithms.nn.settings import check_settings
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.task import Array, TaskSpec

STEPS = {"smoke": 10, "quick": 400, "full": 2_000}
EPISODE = 80  # environment steps of 8 populations of a game of 10 steps


@dataclass(frozen=True)
class TMFPGSimConfig:
    """All values are our choice, for 2 CPU cores; horizons are those of the queue and resources."""

    rate: float = 0.3  # of (3)
    n_envs: int = 8  # populations that play side by side
    warmup: int = EPISODE  # environment steps of uniform play
    utd: float = 1 / EPISODE  # updates per environment step: one after each round of episodes
    capacity: int = EPISODE  # environment steps that an update sees
    batch_size: int = 2 * EPISODE  # populations drawn from them


class TMFPGSim(Algorithm):
    Config = TMFPGSimConfig
    paper = "arXiv:2602.18026 (reconstruction)"
    variants: ClassVar = {"default": Variant(steps=STEPS, track="online")}
    requires = frozenset({"finite", "exchangeable"})

    def __init__(
        self, config: TMFPGSimConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        check_settings(config, {"rate": (1e-9, 1e3)})
        assert spec.n_obs is not None
        assert spec.n_actions is not None
        self.shape = (spec.horizon, spec.n_obs, spec.n_actions)
        self.theta, self.per_round = np.zeros(self.shape), 1
        self.dice = np.random.default_rng(seeds[0])  # of play
        self.begin(1, 0)

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        return data.transitions(rngs, self.config.batch_size)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        batch = batch.map(Tensor.cpu)  # counts and tables, without a network
        reward, kernel, rho = self._count(batch)
        self.per_round = max(1, round(1 / rho))
        pi = self._policy()
        seen = ~np.isnan(reward)  # [T, O, A + 1]
        # Where nobody took an action it is worth what the policy is; where nobody stood, nothing.
        share = pi * seen[..., :-1]
        share = share / np.maximum(share.sum(-1, keepdims=True), 1e-12)
        paid = (share * np.nan_to_num(reward[..., :-1])).sum(-1, keepdims=True)  # [T, O, 1]
        moved = np.einsum("toa,toap->top", share, kernel[:, :, :-1])[:, :, None]
        reward = np.where(seen, reward, paid)
        kernel = np.where(seen[..., None], kernel, moved)
        q, value = values(reward, kernel, pi, rho, chain=False)
        gain = np.where(seen[..., :-1], q - (pi * q).sum(-1, keepdims=True), 0.0)
        rounds = np.arange(len(pi)) // self.per_round
        total = np.zeros((rounds[-1] + 1, *pi.shape[1:]))
        np.add.at(total, rounds, self.config.rate * rho * gain)
        self.theta += total[rounds]
        start = batch.obs[batch.step == 0]
        mean = value[0][start[..., 0].numpy()].mean() if len(start) else float("nan")
        return {"value_loss": torch.tensor(-mean)}

    def _count(self, batch: Batch) -> tuple[Array, Array, float]:
        """Mean rewards [T, O, A + 1], nan where there are none, moves [T, O, A + 1, O], both equal
        within a round, and rho.
        """
        assert batch.next_obs is not None
        horizon, n_obs, n_actions = self.shape
        obs, after = (x[:, 0, :, 0].numpy() for x in (batch.obs, batch.next_obs))  # [B, N]
        act, rew = batch.act[:, 0].numpy(), batch.rew[:, 0].numpy()
        on = np.ones(act.shape, bool) if batch.active is None else batch.active[:, 0].numpy()
        rho = float(on.mean())
        rounds = np.arange(horizon) // max(1, round(1 / rho))
        cell = (rounds[batch.step.numpy()][:, None] * n_obs + obs) * (n_actions + 1)
        cell = cell + np.where(on, act, n_actions)
        size = (rounds[-1] + 1) * n_obs * (n_actions + 1)
        visits = histogram(cell, size)
        paid = np.bincount(cell.ravel(), rew.ravel(), minlength=size)
        moves = histogram(cell * n_obs + after, size * n_obs).reshape(size, n_obs)
        with np.errstate(invalid="ignore"):
            reward, kernel = paid / visits, moves / np.maximum(visits, 1)[:, None]
        shape = (-1, n_obs, n_actions + 1)
        return reward.reshape(shape)[rounds], kernel.reshape(*shape, n_obs)[rounds], rho

    def _policy(self) -> Array:
        weight = np.exp(self.theta - self.theta.max(-1, keepdims=True))
        pi: Array = weight / weight.sum(-1, keepdims=True)
        return pi

    def policy_table(self) -> Array:
        return self._policy()

    # -------------------------------------------------------------------------------------- acting
    def explore(self, obs: Array, alive: Array | None, mask: Array | None, t: Array) -> Array:
        law = self._policy()[t[:, None], obs[..., 0]]  # [E, N, A]
        return categorical.draw(categorical.allow(law, mask), self.dice.random(law.shape[:-1]))

    def begin(self, n_envs: int, seed: int) -> None:
        self.rng = categorical.generators(seed, self.seeds)[0]

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        likely = categorical.allow(self._policy()[t][obs[..., 0]], mask)  # [E, N, A]
        if deterministic:
            return likely.argmax(-1)
        return categorical.draw(likely, self.rng.random(likely.shape[:-1]))

    def state_dict(self) -> dict[str, Any]:
        dice = self.dice.bit_generator.state
        return {"theta": torch.as_tensor(self.theta), "per_round": self.per_round, "dice": dice}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.theta, self.per_round = state["theta"].cpu().numpy().copy(), state["per_round"]
        self.dice.bit_generator.state = state["dice"]

    def cost(self) -> dict[str, float]:
        return {"parameters": self.theta.size // self.per_round}
