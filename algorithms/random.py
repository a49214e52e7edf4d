"""Uniform random play: the zero of every normalised score, and a floor on every board.

Paper: none. Continuous actions are uniform in [-1, 1]^A, discrete ones over the allowed actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from benchmark.algorithm import Algorithm, Variant
from benchmark.batch import Batch
from benchmark.task import Array, TaskSpec


@dataclass(frozen=True)
class RandomConfig:
    """Nothing to set."""


class Random(Algorithm):
    Config = RandomConfig
    paper = "none"
    variants: ClassVar = {"default": Variant(steps={"smoke": 0, "quick": 0, "full": 0})}

    def __init__(
        self, config: RandomConfig, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        super().__init__(config, spec, seeds, device)
        self.begin(1, 0)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def begin(self, n_envs: int, seed: int) -> None:
        self.rng = np.random.default_rng((seed, *self.seeds))

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        shape = obs.shape[:2]  # E, N
        if self.spec.n_actions is None:
            return self.rng.uniform(-1.0, 1.0, (*shape, self.spec.act_dim)).astype(np.float32)
        if mask is None:
            return self.rng.integers(self.spec.n_actions, size=shape)
        # The largest of independent uniform numbers is equally likely to be any allowed action's.
        return np.where(mask, self.rng.random(mask.shape), -1.0).argmax(-1)

    def policy_table(self) -> Array:
        assert self.spec.n_obs is not None
        assert self.spec.n_actions is not None
        shape = (self.spec.horizon, self.spec.n_obs, self.spec.n_actions)
        return np.full(shape, 1.0 / self.spec.n_actions)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing was learned, so nothing is restored."""
