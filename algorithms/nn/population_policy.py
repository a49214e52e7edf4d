"""A policy that sees the population's distribution, taught by decisions that a planner made.

psi maximises E[log pi_psi(a | s, t / T, mu_t)], mu_t the mean of the features of the states
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algorithms.nn.particles import Particles
from algorithms.nn.planner import Planner, mean_state
from benchmark.batch import Dataset


class PopulationPolicy(nn.Module):
    def __init__(self, code: Particles, horizon: int, width: int) -> None:
        super().__init__()
        self.code, self.horizon = code, horizon
        self.layers = nn.Sequential(
            nn.Linear(2 * code.states + 1, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, code.n_actions),
        )

    def forward(self, step: Tensor, state: Tensor, mu: Tensor) -> Tensor:
        """Logits [..., A] at steps [...], for features of states and their mean, [..., S] each."""
        time = (step / self.horizon).unsqueeze(-1)
        logits: Tensor = self.layers(torch.cat([state, mu, time], -1))
        return logits

    def fit(
        self,
        step: Tensor,
        state: Tensor,
        act: Tensor,
        lr: float,
        steps: int,
        size: int,
        generator: torch.Generator,
    ) -> None:
        """Cross-entropy of decisions act [R, N] of populations at steps [R], in states of features
        [R, N, S]; `size` decisions a batch.
        """
        mu, agents = state.mean(1), act.shape[1]  # [R, S]
        optimiser = torch.optim.Adam(self.parameters(), lr=lr, fused=True)
        for _ in range(steps):
            pick = torch.randint(act.numel(), (size,), generator=generator, device=act.device)
            row, i = pick // agents, pick % agents
            loss = F.cross_entropy(self(step[row], state[row, i], mu[row]), act[row, i])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    @torch.no_grad()
    def law(self, obs: Tensor, step: int, alive: Tensor | None = None) -> Tensor:
        """pi [E, N, A] in states [E, N, D]."""
        state = self.code.features(obs)
        mu = mean_state(state, alive).unsqueeze(1).expand_as(state)
        time = torch.full(state.shape[:2], step, device=state.device)
        probabilities: Tensor = self(time, state, mu).softmax(-1)
        return probabilities

    @torch.no_grad()
    def table(self, flow: Tensor) -> Tensor:
        """pi [T, O, A] of a finite game's states, along a flow [T, S] of their mean features."""
        n_obs, device = self.code.n_obs, flow.device
        state = self.code.features(torch.arange(n_obs, device=device)[:, None])  # [O, S]
        along = flow.unsqueeze(1).expand(-1, n_obs, -1)
        time = torch.arange(self.horizon, device=device).unsqueeze(1).expand(-1, n_obs)
        probabilities: Tensor = self(time, state.expand_as(along), along).softmax(-1)
        return probabilities


def count_table(obs: Tensor, act: Tensor, behaviour: Tensor, alpha: float) -> Tensor:
    """pi(a | s, t) = (count + alpha pi_data) / norm, [T, O, A], of decisions [P, T, N]."""
    horizon, n_obs, n_actions = behaviour.shape
    h = torch.arange(horizon, device=obs.device).unsqueeze(1)
    cell = (h * n_obs + obs) * n_actions + act  # [P, T, N]
    visits = torch.bincount(cell.flatten(), minlength=behaviour.numel())
    total = visits.view(behaviour.shape) + alpha * behaviour
    norm = total.sum(-1, keepdim=True)
    return torch.where(norm > 0, total / norm.clamp(min=1e-12), 1 / n_actions)


def decisions(
    planner: Planner,
    data: Dataset,
    rng: np.random.Generator,
    generator: torch.Generator,
    populations: int,
    agents: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps [P], features [P, n, S] and first actions [P, n] of plans that start from populations
    of the data.
    """
    length, steps, states, actions = np.diff(data.starts), [], [], []
    for episode in rng.integers(len(length), size=populations):
        steps.append(int(rng.integers(length[episode])))
        obs = np.array(data.obs[data.starts[episode] + steps[-1], :agents])
        now = torch.as_tensor(obs, device=generator.device).unsqueeze(0)
        x = planner.plan(now, steps[-1], generator)
        states.append(planner.code.features(now))
        actions.append(planner.action(x, 0, steps[-1], generator))
    return torch.tensor(steps), torch.cat(states), torch.cat(actions)
