"""Mine: behaviour cloning with a small network, a working start to be changed into your own.

An algorithm's file opens with the paper, the equations that it implements by number, and
*Differences from the paper*, a list. This one has no paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from benchmark.algorithm import Algorithm, Variant


@dataclass(frozen=True)
class Config:
    width: int = 128  # hidden units
    lr: float = 1e-3  # step size of Adam
    batch_size: int = 256  # transitions in an update


class Mine(Algorithm):
    Config = Config
    paper = "none"  # such as "arXiv:2305.17330"
    variants: ClassVar = {"default": Variant(steps={"smoke": 50, "quick": 3_000, "full": 30_000})}

    def __init__(self, config, spec, seeds, device="cpu"):
        super().__init__(config, spec, seeds, device)
        n_in, n_out = spec.n_obs or spec.obs_dim, spec.n_actions or spec.act_dim
        layers = nn.Linear(n_in, config.width), nn.ReLU(), nn.Linear(config.width, n_out)
        self.net = nn.Sequential(*layers).to(device)
        self.adam = torch.optim.Adam(self.net.parameters(), config.lr)
        self.noise = torch.Generator(device)

    def out(self, obs):  # [..., D] -> logits [..., n_actions], or actions [..., A] in (-1, 1)
        obs = torch.as_tensor(obs, device=self.device)
        if self.spec.n_obs is not None:  # an observation is one integer
            obs = nn.functional.one_hot(obs[..., 0].long(), self.spec.n_obs)
        out = self.net(obs.float())
        return out if self.spec.discrete else out.tanh()

    def update(self, batch):  # batch.obs [B, 1, N, D], batch.act [B, 1, N, A] or [B, 1, N]
        out = self.out(batch.obs)
        if self.spec.discrete:
            loss = nn.functional.cross_entropy(out.flatten(0, -2), batch.act.flatten())
        else:
            loss = nn.functional.mse_loss(out, batch.act)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return {"loss": loss.detach()}

    def begin(self, n_envs, seed):  # all noise of the next episodes comes from here
        self.noise.manual_seed(seed + self.seeds[0])

    @torch.no_grad()
    def act(self, obs, alive, mask, t, deterministic):  # obs [E, N, D] -> [E, N, A] or [E, N]
        out = self.out(obs)
        if not self.spec.discrete:
            return out.cpu().numpy()
        if mask is not None:
            out[~torch.as_tensor(mask, device=self.device)] = -torch.inf
        act = torch.multinomial(out.softmax(-1).flatten(0, 1), 1, generator=self.noise)
        return act.view(obs.shape[:2]).cpu().numpy()

    def cost(self):
        return {"parameters": sum(p.numel() for p in self.net.parameters())}
