"""Runs that never end well, one variant a way: for the tests of grids."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch


@dataclass(frozen=True)
class Config:
    how: str = "exception"
    batch_size: int = 4  # transitions


class Poison(Algorithm):
    """Breaks at its third update."""

    Config = Config
    paper = "none"
    variants: ClassVar = {
        name: Variant(steps={"smoke": 5}, config={"how": name})
        for name in ("default", "segfault", "memory", "hang")
    }
    updates = 0

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.updates += 1
        if self.updates < 3:
            return {"loss": torch.tensor(0.0)}
        if self.config.how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        while self.config.how == "hang":
            pass
        if self.config.how == "memory":
            torch.zeros(2**48)
        raise ValueError("boom")

    def act(self, obs: Any, alive: Any, mask: Any, t: int, deterministic: bool) -> Any:
        return np.zeros(obs.shape[:2], int)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
