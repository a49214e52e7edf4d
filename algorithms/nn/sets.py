"""A denoiser of sets of trajectories: any number of exchangeable particles, cost linear in that.

DeepSets (Zaheer et al., arXiv:1703.06114) in the reducible form of MF-CDM (arXiv:2406.05396),
s(k, x, nu) = A(k, x) + B[nu](x): A is the path of one particle, B is one learned mean per block and
time step, over a representative subset of the population.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from algorithms.nn.diffusion import time_features

FREQUENCIES = 16


class SetBlock(nn.Module):
    """h + MLP(conv(LN(h + time + U m))), m the population's mean message; U m = 0 if it has none.

    The convolution runs over the steps of a trajectory; kernel = 1: a linear map of each step.
    """

    def __init__(self, width: int, kernel: int, interaction: bool) -> None:
        super().__init__()
        self.kernel = kernel
        self.message = nn.Linear(width, width) if interaction else None
        self.receive = nn.Linear(width, width, bias=False) if interaction else None
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(kernel * width, width), nn.SiLU(), nn.Linear(width, width)
        )

    def field(self, h: Tensor) -> Tensor | None:
        """What a population [B, C, H, W] exerts on every particle: [B, 1, H, W]."""
        if self.message is None or self.receive is None:
            return None
        return self.receive(torch.relu(self.message(h)).mean(1, keepdim=True))

    def forward(self, h: Tensor, time: Tensor, field: Tensor | None) -> Tensor:
        y = self.norm(h + (time if field is None else time + field))  # [B, M, H, W]
        if self.kernel > 1:
            steps, reach = y.shape[2], self.kernel // 2
            y = nn.functional.pad(y, (0, 0, reach, reach))
            y = torch.cat([y[:, :, i : i + steps] for i in range(self.kernel)], -1)
        return h + self.mlp(y)


class SetDenoiser(nn.Module):
    """Predicts clean particles [B, M, H, D] from noisy ones; permutation-equivariant, for any M.

    interaction = False drops every B[nu]: the particles are then denoised independently.
    """

    def __init__(
        self, steps: int, dim: int, width: int, blocks: int, interaction: bool = True
    ) -> None:
        super().__init__()
        kernel = 3 if steps > 1 else 1
        self.embed = nn.Linear(dim, width)
        self.position = nn.Parameter(0.1 * torch.randn(steps, width))
        self.time = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.blocks = nn.ModuleList([SetBlock(width, kernel, interaction) for _ in range(blocks)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, dim))

    def forward(self, x: Tensor, k: Tensor, context: Tensor | None = None) -> Tensor:
        """x: [B, M, H, D] at times k [B]. context [B, C, H, D]: stands for the population."""
        time = self.time(time_features(k, FREQUENCIES))[:, None, None]  # [B, 1, 1, W]
        h = self.embed(x) + self.position  # [B, M, H, W]
        c = h if context is None else self.embed(context) + self.position  # [B, C, H, W]
        for block in self.blocks:
            assert isinstance(block, SetBlock)
            field = block.field(c)
            h = block(h, time, field)
            c = h if context is None else block(c, time, field)
        return self.head(h)


class PolicyHead(nn.Module):
    """Logits of pi(a | s, h / H, mu_h), a policy that sees the population's distribution."""

    def __init__(self, horizon: int, n_obs: int, n_actions: int, width: int) -> None:
        super().__init__()
        self.horizon, self.n_obs = horizon, n_obs
        self.layers = nn.Sequential(
            nn.Linear(2 * n_obs + 1, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, n_actions),
        )

    def forward(self, h: Tensor, state: Tensor, mu: Tensor) -> Tensor:
        """h, state: [...] integers; mu: [..., O]. Returns [..., A]."""
        one_hot = nn.functional.one_hot(state, self.n_obs)
        return self.layers(torch.cat([one_hot, mu, (h / self.horizon)[..., None]], -1))
