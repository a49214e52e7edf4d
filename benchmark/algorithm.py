"""The contract of an algorithm. It knows a TaskSpec and batches, never an environment, a tracker or the leaderboard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.batch import Batch, Dataset, Rngs
from benchmark.task import Array, GameModel, TaskSpec

Track = Literal["offline", "model", "online", "o2o", "oracle"]
Execution = Literal["local", "mean-field", "joint"]


@dataclass(frozen=True)
class Variant:
    """A row of the board: `algo` for the variant named "default", else `algo.variant`."""

    steps: Mapping[str, int]  # protocol -> gradient steps
    config: Mapping[str, Any] = field(default_factory=dict)  # overrides of Config's defaults
    track: Track = "offline"
    execution: Execution = "local"
    # task-id prefix -> overrides of config for that family; the key "steps" overrides steps. The longest prefix wins.
    families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def resolve(self, task_id: str, protocol: str) -> tuple[dict[str, Any], int]:
        """Config overrides and gradient steps of this variant on a task."""
        config, steps = dict(self.config), self.steps[protocol]
        matching = [prefix for prefix in self.families if task_id.startswith(prefix)]
        if matching:
            family = dict(self.families[max(matching, key=len)])
            steps = family.pop("steps", self.steps)[protocol]
            config |= family
        return config, steps


class Algorithm(ABC):
    """Base of every algorithm: one file, one subclass.

    A plain algorithm is built for one seed and never sees the axis K: its batches are [B, T, N, D] and its `act` gets
    [E, N, D]. With `stacks_seeds = True` it is built for a group of K seeds, and every batch, observation and action has a
    leading K; a seed trained in a group must equal the same seed trained alone.
    """

    Config: ClassVar[type]  # frozen dataclass; every field says its unit or source
    paper: ClassVar[
        str
    ]  # "arXiv:2305.17330"; with "(reconstruction)" where the paper's body is unpublished
    variants: ClassVar[Mapping[str, Variant]]
    requires: ClassVar[frozenset[str]] = (
        frozenset()
    )  # continuous, discrete, finite, exchangeable, logp
    stacks_seeds: ClassVar[bool] = False

    def __init__(
        self, config: Any, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        """Build networks and optimisers; all randomness comes from `seeds` (one seed unless stacks_seeds)."""
        self.config, self.spec, self.seeds, self.device = config, spec, seeds, device

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        """Once before training: normalisers, value weights, schedules. Called again on a resume, before load_state_dict."""

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        """Batch of the next update; default: uniform transitions of `config.batch_size`."""
        return data.transitions(rngs, self.config.batch_size)

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step; returns named losses as tensors ([] or [K]), without a host synchronisation."""

    def finish(self) -> None:
        """After the last update: extract a table, distil a policy. Its result is part of the state."""

    def begin(self, n_envs: int, seed: int) -> None:
        """Before E episodes: reset planner, recurrent and noise state."""

    @abstractmethod
    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        """Joint actions: obs [E, N, D] -> [E, N, A] in [-1, 1], or [E, N] integers. With stacks_seeds, a leading K."""

    def policy_table(self) -> Array:
        """Finite games: pi[h, o, a] (leading K with stacks_seeds), the very policy whose return is reported."""
        raise NotImplementedError

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything a bitwise resume needs: weights, targets, EMA, optimiser, generators, step. Tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def cost(self) -> dict[str, float]:
        """Cost columns known to the algorithm: `parameters` of one seed, `sampler_steps` of one action."""
        return {}


class PerSeed(Algorithm):
    """Runs plain algorithms seed by seed behind the interface of a group, so that the runner knows groups only."""

    stacks_seeds = True
    variants: ClassVar[Mapping[str, Variant]] = {}

    def __init__(
        self,
        cls: type[Algorithm],
        config: Any,
        spec: TaskSpec,
        seeds: tuple[int, ...],
        device: str = "cpu",
    ) -> None:
        super().__init__(config, spec, seeds, device)
        self.members = [cls(config, spec, (seed,), device) for seed in seeds]

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        for member, rng in zip(self.members, rngs, strict=True):
            member.prepare(data, steps, [rng], model)

    def sample(self, data: Dataset, rngs: Rngs) -> Any:
        return [
            member.sample(data, [rng]).seed(0)
            for member, rng in zip(self.members, rngs, strict=True)
        ]

    def update(self, batch: Any) -> dict[str, Tensor]:
        losses = [member.update(part) for member, part in zip(self.members, batch, strict=True)]
        return {name: torch.stack([loss[name] for loss in losses]) for name in losses[0]}

    def finish(self) -> None:
        for member in self.members:
            member.finish()

    def begin(self, n_envs: int, seed: int) -> None:
        for member in self.members:
            member.begin(n_envs, seed)

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        parts = [
            member.act(
                obs[k],
                None if alive is None else alive[k],
                None if mask is None else mask[k],
                t,
                deterministic,
            )
            for k, member in enumerate(self.members)
        ]
        return np.stack(parts)

    def policy_table(self) -> Array:
        return np.stack([member.policy_table() for member in self.members])

    def state_dict(self) -> dict[str, Any]:
        return {
            str(seed): member.state_dict()
            for seed, member in zip(self.seeds, self.members, strict=True)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for seed, member in zip(self.seeds, self.members, strict=True):
            member.load_state_dict(state[str(seed)])

    def cost(self) -> dict[str, float]:
        return self.members[0].cost()


def build_group(
    cls: type[Algorithm], config: Any, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
) -> Algorithm:
    """A group of seeds, whether or not the algorithm stacks them: everything the runner holds has the axis K."""
    if cls.stacks_seeds:
        return cls(config, spec, seeds, device)
    return PerSeed(cls, config, spec, seeds, device)
