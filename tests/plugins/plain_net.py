"""A stranger's algorithm: a plain torch module that draws from the global generators."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch


@dataclass(frozen=True)
class Config:
    width: int = 16  # hidden units
    lr: float = 1e-2  # of SGD with momentum and a decaying schedule
    batch_size: int = 32  # transitions


class PlainNet(Algorithm):
    """Behaviour cloning of finite observations with dropout and input noise."""

    Config = Config
    paper = "none"
    variants: ClassVar = {"default": Variant(steps={"smoke": 20, "quick": 200, "full": 200})}
    requires = frozenset({"finite"})

    def __init__(self, config: Config, spec: Any, seeds: tuple[int, ...], device: str = "cpu"):
        super().__init__(config, spec, seeds, device)
        self.net = nn.Sequential(
            nn.Linear(spec.n_obs, config.width),
            nn.BatchNorm1d(config.width),
            nn.Dropout(0.1),
            nn.Linear(config.width, spec.n_actions),
        )
        self.optimiser = torch.optim.SGD(self.net.parameters(), config.lr, momentum=0.9)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimiser, 10, 0.9)
        self.noise = torch.Generator()

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        obs = nn.functional.one_hot(batch.obs[..., 0].flatten(), self.spec.n_obs).float()
        scale = 0.01 * random.random() + 0.01 * float(np.random.rand())  # noqa: NPY002
        logits = self.net(obs + scale * torch.randn_like(obs))
        loss = nn.functional.cross_entropy(logits, batch.act.flatten())
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        return {"loss": loss.detach()}

    def begin(self, n_envs: int, seed: int) -> None:
        self.noise.manual_seed(seed + self.seeds[0])

    def act(self, obs, alive, mask, t, deterministic):
        self.net.eval()
        one_hot = nn.functional.one_hot(torch.as_tensor(obs[..., 0]), self.spec.n_obs).float()
        with torch.no_grad():
            logits = self.net(one_hot.flatten(0, 1))  # [E * N, actions]
        if mask is not None:
            logits[~torch.as_tensor(mask).flatten(0, 1)] = -torch.inf
        p = logits.softmax(-1)
        self.net.train()
        return torch.multinomial(p, 1, generator=self.noise).view(obs.shape[:2]).numpy()

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
