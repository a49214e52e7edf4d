"""MF-CQL: mean-field Q-learning with a conservative penalty, a value-based baseline.

Papers: Yang et al., "Mean Field Multi-Agent Reinforcement Learning", arXiv:1802.05438 (MF-Q); Kumar
et al., "Conservative Q-Learning", arXiv:2006.04779. The combination is ours.

    (1) critic   y = r + V(o', m'),
                 V(o, m) = rho sum_a pi(a | o, m) Q'(o, a, m) + (1 - rho) Q'_0(o, m)
    (2) loss     E (Q(o, a, m) - y)^2 + alpha E [log sum_a exp Q(o, a, m) - Q(o, a, m)]
    (3) policy   pi(a | o, m) = softmax_a Q(o, a, m) / temperature, sampled

Differences from the papers
 1. m is the population's distribution over observations and over actions, where MF-Q has the mean
    action of neighbours. Q knows the step; the game pays what is discounted already. [OUR CHOICE]
 2. Q_0 is the value of waiting in games of turns, rho the share of agents who act. [OUR CHOICE]
 3. The policy that is played, and whose exploitability is taken, is (3) at the data's mean m of
    each step: a table. MF-Q plays at the m of the step before. [OUR CHOICE]
 4. Q' follows by Polyak averaging; rewards are divided by their spread. [OUR CHOICE]

What reproduces (medium data of queue-n128 and resource-n128, one seed; BC 1.31 and 1.61, uniform
play 1.73 and 2.24): a best response to the data's population is no equilibrium. With MF-Q's
temperature of .1 all agents run to the same place, 2.52 and 4.98; 1 has 1.49 and 1.01, and 3, which
is kept, .36 and 1.80.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from algorithms.nn import categorical
from algorithms.nn.encode import sampled_steps
from algorithms.nn.game import logged
from algorithms.nn.optim import polyak
from algorithms.nn.settings import check_settings
from algorithms.nn.stacked import StackedMLP, generators
from algorithms.nn.team import Parts as Saved
from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec

BOUNDS = {"cql_alpha": (0.0, 1e3), "temperature": (1e-6, 1e6)}


@dataclass(frozen=True)
class MFCQLConfig:
    """All values are our choice."""

    batch_size: int = 128  # populations of a batch
    agents: int = 8  # agents seen of each
    width: int = 64  # units of a hidden layer
    lr: float = 3e-3  # Adam step size
    tau: float = 0.02  # Polyak rate of Q'
    cql_alpha: float = 0.1  # weight of the penalty of (2)
    temperature: float = 3.0  # of (3), in units of the reward's spread; MF-Q's code 0.1


class MFCQL(Algorithm):
    Config = MFCQLConfig
    paper = "arXiv:1802.05438 with arXiv:2006.04779"
    variants: ClassVar = {
        "default": Variant(
            steps={"smoke": 60, "quick": 3_000, "full": 50_000},
            tuning={"meanfield/": Tuning(configs_tried=3)},  # leaderboard/tuning/mfcql.json
        ),
    }
    requires = frozenset({"finite", "exchangeable"})
    small: ClassVar[dict[str, Any]] = {"width": 16, "batch_size": 16}

    def __init__(
        self, config: MFCQLConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        check_settings(config, BOUNDS)
        assert spec.n_obs is not None
        assert spec.n_actions is not None
        self.shape = (spec.horizon, spec.n_obs, spec.n_actions)
        inputs = spec.horizon + 2 * spec.n_obs + spec.n_actions
        sizes = (inputs, config.width, config.width, spec.n_actions + 1)
        self.critic = StackedMLP(generators(seeds), (1,), sizes).to(device)
        self.slow = copy.deepcopy(self.critic)
        self.optimiser = torch.optim.Adam(self.critic.parameters(), config.lr)
        self.spread, self.rho = 1.0, 1.0
        told = spec.n_obs + spec.n_actions
        self.typical = torch.zeros(spec.horizon, told, device=device)  # mean m of a step
        self.saved = Saved(
            critic=self.critic, slow=self.slow, optimiser=self.optimiser, typical=self.typical
        )
        self.begin(1, 0)

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        known = logged(data, self.spec, 1.0)
        self.rho = known.rho
        self.spread = max(float(np.asarray(data.rew[sampled_steps(data)]).std()), 1e-6)
        context = np.concatenate([known.populations, known.choices], 1)
        self.context = torch.as_tensor(context, device=self.device)
        self.starts = torch.as_tensor(np.array(data.starts), device=self.device)
        time = np.arange(data.n_steps) - np.repeat(data.starts[:-1], np.diff(data.starts))
        for t in range(self.shape[0]):
            rows = time == t
            if rows.any():
                self.typical[t] = torch.as_tensor(context[rows]).mean(0)

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        n = min(self.config.agents, self.spec.n_agents)
        return data.transitions(rngs, self.config.batch_size, agents=n)

    def _q(self, net: StackedMLP, step: Tensor, obs: Tensor, context: Tensor) -> Tensor:
        """Q and Q_0, [B, n, A + 1]: step [B], obs [B, n], context [B, O + A]."""
        horizon, n_obs, _ = self.shape
        shared = torch.cat([F.one_hot(step, horizon).float(), context], -1)
        own = F.one_hot(obs, n_obs).float()
        x = torch.cat([own, shared.unsqueeze(1).expand(-1, obs.shape[1], -1)], -1)
        y: Tensor = net(x.flatten(0, 1)[None, None])
        return y[0, 0].unflatten(0, obs.shape)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.next_obs is not None
        horizon, _, n_actions = self.shape
        obs, after = batch.obs[:, 0, :, 0], batch.next_obs[:, 0, :, 0]  # [B, n]
        act, row = batch.act[:, 0], self.starts[batch.episode] + batch.step
        on = torch.ones_like(act, dtype=torch.bool)
        on = on if batch.active is None else batch.active[:, 0]
        with torch.no_grad():
            later = (batch.step + 1).clamp(max=horizon - 1)
            context = self.context[(row + 1).clamp(max=len(self.context) - 1)]
            then = self._q(self.slow, later, after, context)
            law = (then[..., :-1] / self.config.temperature).softmax(-1)
            value = self.rho * (law * then[..., :-1]).sum(-1) + (1 - self.rho) * then[..., -1]
            goes_on = (batch.step + 1 < horizon).float() * (1 - batch.terminated[:, 0])
            target = batch.rew[:, 0] / self.spread + goes_on.unsqueeze(1) * value  # (1)
        q = self._q(self.critic, batch.step, obs, self.context[row])
        own = q.gather(-1, torch.where(on, act, n_actions).unsqueeze(-1)).squeeze(-1)
        loss = (own - target).square().mean()
        over = (q[..., :-1].logsumexp(-1) - own) * on
        penalty = over.sum() / on.sum().clamp(min=1)
        self.optimiser.zero_grad()
        (loss + self.config.cql_alpha * penalty).backward()  # (2)
        self.optimiser.step()
        polyak(self.slow, self.critic, self.config.tau)
        return {"critic_loss": loss.detach(), "penalty": penalty.detach()}

    @torch.no_grad()
    def policy_table(self) -> Array:
        """(3) at the data's mean m: [H, O, A]."""
        horizon, n_obs, n_actions = self.shape
        step = torch.arange(horizon, device=self.device)
        obs = torch.arange(n_obs, device=self.device).expand(horizon, -1)
        q = self._q(self.critic, step, obs, self.typical)[..., :n_actions]
        return (q.double() / self.config.temperature).softmax(-1).cpu().numpy()

    def begin(self, n_envs: int, seed: int) -> None:
        self.rng = categorical.generators(seed, self.seeds)[0]
        self.table = self.policy_table()

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        likely = categorical.allow(self.table[t][obs[..., 0]], mask)  # [E, N, A]
        if deterministic:
            return likely.argmax(-1)
        return categorical.draw(likely, self.rng.random(likely.shape[:-1]))

    def state_dict(self) -> dict[str, Any]:
        return self.saved.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.saved.load_state_dict(state)
        self.begin(1, 0)

    def cost(self) -> dict[str, float]:
        return {"parameters": sum(p.numel() for p in self.critic.parameters())}
