"""Roll-outs of E episodes in lockstep, so that one network call a step serves all of them."""

from __future__ import annotations

from typing import Protocol

from benchmark.task import Array


class Policy(Protocol):
    """What an evaluation asks of a policy; an `Algorithm` for one seed keeps it, and so may a class of one's own."""

    def begin(self, n_envs: int, seed: int) -> None: ...

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        """obs [E, N, D] -> [E, N, A] in [-1, 1], or [E, N] integers."""
        ...
