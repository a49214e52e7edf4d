"""What passes from a dataset to an algorithm. Axes are [B, T, N, D]; a batch for a group of K seeds
has a leading K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from benchmark.task import TaskSpec

Rngs = Sequence[np.random.Generator]  # one generator per seed of the group


@dataclass
class Batch:
    """Windows of T steps (a transition is T = 1 with `next_obs`). K seeds stacked: every tensor has
    a leading K.

    Steps past an episode's end are zero and have valid = False.
    """

    obs: Tensor  # [K, B, T, N, D] float32, or int64 with D = 1 where the task is finite
    act: Tensor  # [K, B, T, N, A] float32, or [K, B, T, N] int64
    rew: Tensor  # [K, B, T, N]
    terminated: Tensor  # [K, B, T] float32, 1 = do not bootstrap
    truncated: Tensor  # [K, B, T] float32
    valid: Tensor  # [K, B, T] bool
    episode: Tensor  # [K, B] int64, index of the episode
    step: Tensor  # [K, B] int64, step of the window's first row inside its episode
    agent: (
        Tensor  # [K, B] int64, first agent of the slab (0 unless a subset of agents was asked for)
    )
    next_obs: Tensor | None = None  # [K, B, T, N, D]
    logp: Tensor | None = None  # [K, B, T, N] behaviour log-probability, where logged
    alive: Tensor | None = None  # [K, B, T, N] bool, where agents can die
    active: Tensor | None = None  # [K, B, T, N] bool, where only some actions of a step count
    mu: Tensor | None = None  # [K, B, T, O] exact population distribution, where stored

    def map(self, function: Any) -> Batch:
        """The same batch with `function` applied to every tensor."""
        changes = {
            f.name: function(getattr(self, f.name))
            for f in fields(self)
            if getattr(self, f.name) is not None
        }
        return replace(self, **changes)

    def to(self, device: str) -> Batch:
        """The batch on a device; of data that stand there nothing is left to copy."""
        return self if device == "cpu" else self.map(lambda x: x.to(device, non_blocking=True))

    def seed(self, k: int) -> Batch:
        """The batch of seed k alone, without the leading axis."""
        return self.map(lambda x: x[k])


class Dataset(Protocol):
    """An offline buffer. Flat arrays of S steps; episode e is rows starts[e]:starts[e + 1]."""

    id: str  # namespace/name/tier-vN
    spec: TaskSpec
    starts: np.ndarray  # [E + 1] int64
    policy: np.ndarray  # [E] int, id of the behaviour policy of each episode
    card: dict[str, Any]
    content_sha256: str  # over names, dtypes, shapes and values

    @property
    def obs(self) -> np.ndarray: ...  # [S, N, D]; read-only, maybe a memory map
    @property
    def act(self) -> np.ndarray: ...  # [S, N, A] or [S, N]
    @property
    def rew(self) -> np.ndarray: ...  # [S, N]
    @property
    def logp(self) -> np.ndarray | None: ...  # [S, N] of the behaviour, where logged
    @property
    def active(self) -> np.ndarray | None: ...  # [S, N] bool; None: everyone's action counted
    @property
    def returns(self) -> np.ndarray: ...  # [E, N] float64 per-agent returns

    @property
    def n_steps(self) -> int: ...

    @property
    def n_episodes(self) -> int: ...

    def transitions(self, rngs: Rngs, batch_size: int, *, agents: int | None = None) -> Batch:
        """Uniform transitions [K, B, 1, N, D] with next_obs; `agents` takes a random slab of that
        many (exchangeable tasks).
        """
        ...

    def windows(
        self,
        rngs: Rngs,
        batch_size: int,
        length: int,
        *,
        agents: int | None = None,
        align: bool = False,
    ) -> Batch:
        """Windows [K, B, T, N, D] inside one episode, from a uniform start row; align = True: from
        the episode's first step.

        A window that would run past its episode's end is zero-padded with valid = False.
        """
        ...
