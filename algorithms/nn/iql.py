"""In-sample values: implicit Q-learning (Kostrikov et al., arXiv:2110.06169), for a stack.

(1) L_V = E [ |tau - 1(u < 0)| u^2 ],  u = min_j Q'_j(s, a) - V(s)
(2) L_Q = sum_j E [ (r + gamma (1 - terminated) V(s') - Q_j(s, a))^2 ]
(3) Q' <- (1 - rate) Q' + rate Q
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from algorithms.nn.optim import polyak
from algorithms.nn.stacked import StackedMLP


def expectile_loss(u: Tensor, tau: float) -> Tensor:
    """|tau - 1(u < 0)| u^2, elementwise."""
    return torch.where(u < 0, 1 - tau, tau) * u.square()


class IQL(nn.Module):
    """V, twin Q and their slow copies Q' of S critics: rows [K, S, R, .]."""

    def __init__(
        self,
        gens: Sequence[torch.Generator],
        n_stack: int,
        n_state: int,
        n_act: int,
        hidden: Sequence[int],
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.value = StackedMLP(gens, (n_stack,), (n_state, *hidden, 1), layer_norm=layer_norm)
        sizes = (n_state + n_act, *hidden, 1)
        self.critic = StackedMLP(gens, (n_stack, 2), sizes, layer_norm=layer_norm)
        self.slow = copy.deepcopy(self.critic).requires_grad_(False)

    def trained(self) -> list[nn.Parameter]:
        """What gradients of `losses` are taken of."""
        return [*self.value.parameters(), *self.critic.parameters()]

    def twins(self, critic: StackedMLP, state: Tensor, act: Tensor) -> Tensor:
        """Both values [K, S, 2, R] of `critic`, which is self.critic or self.slow."""
        x = torch.cat([state, act], -1).unsqueeze(2).expand(-1, -1, 2, -1, -1)
        values: Tensor = critic(x).squeeze(-1)
        return values

    def losses(
        self,
        state: Tensor,
        act: Tensor,
        rew: Tensor,
        next_state: Tensor,
        ended: Tensor,
        tau: float,
        gamma: float,
    ) -> tuple[Tensor, Tensor]:
        """(1) and (2) of each row, [K, S, R]; rew and ended [K, S, R]."""
        value = self.value(state).squeeze(-1)
        with torch.no_grad():
            best = self.twins(self.slow, state, act).amin(2)
            target = rew + gamma * (1 - ended) * self.value(next_state).squeeze(-1)
        error = self.twins(self.critic, state, act) - target.unsqueeze(2)
        return expectile_loss(best - value, tau), error.square().sum(2)

    def follow(self, rate: float) -> None:
        """(3)."""
        polyak(self.slow, self.critic, rate)
