"""What one-step and K-step generative policies share, so that they differ in the policy alone: twin
critics, a clip with a gradient, and acting noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algorithms.nn.encode import feature_width, n_networks, to_rows
from algorithms.nn.stacked import StackedMLP
from algorithms.nn.team import no_population
from benchmark.task import Array, TaskSpec


class TwinCritics(nn.Module):
    """Two critics an agent, of GELU and layer norm. They see the agent's own (o, a), or with
    `joint` all agents' side by side.
    """

    def __init__(
        self, gens: Sequence[torch.Generator], spec: TaskSpec, hidden: Sequence[int], joint: bool
    ) -> None:
        super().__init__()
        if joint:
            no_population(spec, "--config.critic = centralised")
        self.joint, self.n_agents = joint, spec.n_agents
        inputs = (feature_width(spec) + spec.act_dim) * (spec.n_agents if joint else 1)
        stack = (n_networks(spec), 2)
        self.body = StackedMLP(gens, stack, (inputs, *hidden, 1), F.gelu, layer_norm=True)

    def forward(self, features: Tensor, act: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Values [K, M, 2, R] of rows [K, M, R, ...].

        With `chosen`, each agent's own action is the chosen one and the others' stay at `act`.
        """
        if self.joint:
            n = self.n_agents
            features, act = features.transpose(1, 2).unsqueeze(1), act.transpose(1, 2).unsqueeze(1)
            if chosen is not None:
                own = torch.eye(n, dtype=torch.bool, device=act.device)
                act = torch.where(own[:, None, :, None], chosen.transpose(1, 2).unsqueeze(1), act)
            x = torch.cat([y.expand(-1, n, -1, -1, -1) for y in (features, act)], -1).flatten(3)
        else:
            x = torch.cat([features, act if chosen is None else chosen], -1)
        return self.body(x.unsqueeze(2).expand(-1, -1, 2, -1, -1)).squeeze(-1)


def clip_through(x: Tensor) -> Tensor:
    """Clip to [-1, 1] whose gradient is 1 everywhere: an action outside can find its way back."""
    return x.clamp(-1, 1).detach() + (x - x.detach())


def acting_noise(
    rngs: Sequence[np.random.Generator], obs: Array, spec: TaskSpec, device: str
) -> Tensor:
    """Standard normal rows [K, M, R, A] for observations [K, E, N, D], in the episodes' order."""
    shape = (*obs.shape[1:3], spec.act_dim)
    drawn = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in rngs])
    return to_rows(torch.as_tensor(drawn, device=device), spec)
