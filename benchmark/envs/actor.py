"""Committed behaviour policies: small networks in NumPy, read from `datasets/behaviours`.

NumPy, so that a task can name its expert, and a recipe roll it, without loading torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array

BEHAVIOURS = Path(__file__).resolve().parents[2] / "datasets" / "behaviours"


class Actor:
    """One network on the agent's own observation for all: ReLU layers, tanh, Gaussian noise."""

    def __init__(self, weights: dict[str, Array]) -> None:
        """`weights`: w0 [D, H], b0 [H], w1, ... of the layers, and std [A] of the noise."""
        depth = sum(name.startswith("w") for name in weights)
        self.layers = [
            (weights[f"w{k}"].astype(np.float32), weights[f"b{k}"].astype(np.float32))
            for k in range(depth)
        ]
        self.std = weights["std"].astype(np.float32)
        self.rng = np.random.default_rng(0)

    def mean(self, obs: Array) -> Array:
        """obs [..., D] -> [..., A] in [-1, 1]."""
        x = obs.reshape(-1, obs.shape[-1])
        for w, b in self.layers[:-1]:
            x = np.maximum(x @ w + b, 0)
        w, b = self.layers[-1]
        return np.tanh(x @ w + b).reshape(*obs.shape[:-1], -1)

    def begin(self, n_envs: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        mean = self.mean(obs)  # [E, N, A]
        if deterministic:
            return mean
        noise = self.rng.standard_normal(mean.shape, dtype=np.float32)
        return np.clip(mean + self.std * noise, -1, 1)


def load_arrays(path: Path) -> dict[str, Array]:
    """Arrays of a behaviour file (safetensors); raises UserError where it is missing."""
    from safetensors.numpy import load_file

    if not path.exists():
        raise UserError(
            f"behaviour {path} is missing; run the suite from its checkout, where the"
            " committed behaviours are."
        )
    arrays: dict[str, Array] = load_file(path)
    return arrays


def load_actor(path: Path) -> Actor:
    """The one actor of a behaviour file."""
    return Actor(load_arrays(path))
