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
    """A network on each agent's own observation: ReLU layers, then tanh and Gaussian noise where
    actions are continuous, or the logits of discrete actions.
    """

    def __init__(self, weights: dict[str, Array]) -> None:
        """`weights`: w0 [D, H], b0 [H], w1, ... of the layers; with a leading axis N where agents
        differ. Continuous actions: std [A] or [N, A] of the noise; discrete ones have none.
        """
        depth = sum(name.startswith("w") for name in weights)
        self.layers = [
            (weights[f"w{k}"].astype(np.float32), weights[f"b{k}"].astype(np.float32))
            for k in range(depth)
        ]
        self.discrete = "std" not in weights
        self.std = weights.get("std", np.zeros(())).astype(np.float32)
        self.rng = np.random.default_rng(0)

    def outputs(self, obs: Array) -> Array:
        """Of the last layer: obs [..., N, D] -> [..., N, A]."""
        each = self.layers[0][0].ndim == 3  # a network for each agent
        x = obs.reshape(-1, *obs.shape[-1 - each :])  # [B, D] or [B, N, D]
        if each:
            x = x.swapaxes(0, 1)  # [N, B, D]
        for k, (w, b) in enumerate(self.layers):
            x = (np.maximum(x, 0) if k else x) @ w + (b[:, None] if each else b)
        if each:
            x = x.swapaxes(0, 1)
        return x.reshape(*obs.shape[:-1], -1)

    def mean(self, obs: Array) -> Array:
        """Of continuous actions: obs [..., N, D] -> [..., N, A] in [-1, 1]."""
        return np.tanh(self.outputs(obs))

    def begin(self, n_envs: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        if self.discrete:
            logits = self.outputs(obs)  # [E, N, n_actions]
            if not deterministic:
                logits = logits + self.rng.gumbel(size=logits.shape)
            return (logits if mask is None else np.where(mask, logits, -np.inf)).argmax(-1)
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
