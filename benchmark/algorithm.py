"""The contract of an algorithm. It knows a TaskSpec and batches, never an environment, a tracker or
the leaderboard.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from benchmark import rng
from benchmark.batch import Batch, Dataset, Rngs
from benchmark.record import Tuning
from benchmark.task import Array, GameModel, TaskSpec

Track = Literal["offline", "model", "online", "o2o", "oracle"]
Execution = Literal["local", "mean-field", "joint"]
T = TypeVar("T")


@dataclass(frozen=True)
class Variant:
    """A row of the board: `algo` for the variant named "default", else `algo.variant`."""

    steps: Mapping[str, int]  # protocol -> gradient steps
    config: Mapping[str, Any] = field(default_factory=dict)  # overrides of Config's defaults
    track: Track = "offline"
    execution: Execution = "local"
    # task-id prefix -> overrides of config for that family; the key "steps" overrides steps.
    # The longest prefix wins. A namespace mpe-omar, a rendering of mpe, is of the family mpe/ too.
    families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # task-id prefix -> the search that chose the configuration of that family, leaderboard/tuning
    tuning: Mapping[str, Tuning] = field(default_factory=dict)

    def resolve(self, task_id: str, protocol: str) -> tuple[dict[str, Any], int]:
        """Config overrides and gradient steps of this variant on a task."""
        config = dict(self.config)
        family = dict(_of_family(self.families, task_id, {}))
        steps = family.pop("steps", self.steps)[protocol]
        return config | family, steps

    def tuned(self, task_id: str) -> Tuning:
        """What was spent on choosing the configuration of this variant on a task."""
        return _of_family(self.tuning, task_id, Tuning())


def _of_family(values: Mapping[str, T], task_id: str, otherwise: T) -> T:
    """The value of the longest prefix of a task id, or else of the id in its parent namespace."""
    namespace, _, name = task_id.partition("/")
    for known in (task_id, f"{namespace.split('-')[0]}/{name}"):
        if matching := [prefix for prefix in values if known.startswith(prefix)]:
            return values[max(matching, key=len)]
    return otherwise


class Algorithm(ABC):
    """Base of every algorithm: one file, one subclass.

    A plain algorithm is built for one seed and never sees the axis K: its batches are [B, T, N,
    D] and its `act` gets
    [E, N, D]. With `stacks_seeds = True` it is built for a group of K seeds, and every batch,
    observation and action has a
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
    # Overrides of Config that make a large network small: the shipped checks run on it.
    small: ClassVar[Mapping[str, Any]] = {}
    # Names of shipped checks that this algorithm is meant to fail -> the reason why.
    expected_failures: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self, config: Any, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
    ) -> None:
        """Build networks and optimisers; all randomness comes from `seeds` (one seed unless
        stacks_seeds).
        """
        self.config, self.spec, self.seeds, self.device = config, spec, seeds, device

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        """Once before training: normalisers, value weights, schedules. Called again on a resume,
        before load_state_dict.
        """

    def sample(self, data: Dataset, rngs: Rngs) -> Batch:
        """Batch of the next update; default: uniform transitions of `config.batch_size`."""
        return data.transitions(rngs, self.config.batch_size)

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step; returns named losses as tensors ([] or [K]), without a host
        synchronisation.
        """

    def finish(self) -> None:
        """After the last update: extract a table, distil a policy; its result is in the state."""

    def begin(self, n_envs: int, seed: int) -> None:
        """Before E episodes: reset planner, recurrent and noise state."""

    @abstractmethod
    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        """Joint actions: obs [E, N, D] -> [E, N, A] in [-1, 1], or [E, N] integers. With
        stacks_seeds, a leading K.
        """

    def explore(self, obs: Array, alive: Array | None, mask: Array | None, t: Array) -> Array:
        """Tracks online and o2o: actions that gather data, shaped as those of `act`; t [E] is the
        step of each running episode. Its noise comes from generators in the state, and `begin`
        and `act` in between leave it alone.
        """
        raise NotImplementedError("an algorithm of the online tracks must explore")

    def policy_table(self) -> Array:
        """Finite games: pi[h, o, a] (leading K with stacks_seeds), the very policy whose return is
        reported.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything a bitwise resume needs: weights, targets, EMA, optimiser, generators, step.
        Tensors and plain values. Default: every attribute with a state_dict of its own, such as
        networks and optimisers; generators, tables and numbers are not among them.
        """
        return {name: part.state_dict() for name, part in self._parts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave, into a group that was built and prepared alike."""
        for name, part in self._parts():
            part.load_state_dict(state[name])

    def _parts(self) -> list[tuple[str, Any]]:
        return [(name, part) for name, part in vars(self).items() if hasattr(part, "state_dict")]

    def cost(self) -> dict[str, float]:
        """Costs known to the algorithm: `parameters` of one seed, `sampler_steps` of one action,
        and any others by a name of their own. Must not change the state.
        """
        return {}


class PerSeed(Algorithm):
    """Runs plain algorithms seed by seed behind the interface of a group, so that the runner knows
    groups only.

    Each member has its own stream of torch's, NumPy's and Python's global generators: a plain torch
    module may draw from them and still gives the same bits in a group as alone.

    MADiff and MF-Diffuser are among them because stacking did not pay on a core: three seeds under
    torch.func.vmap take 1.1 and 1.5 to 1.7 times what they take apart, MADiff's compiled .96.
    """

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
        self.streams = [rng.seeded(seed) for seed in seeds]
        self.members: list[Algorithm] = []
        for k, seed in enumerate(seeds):
            with self._stream(k):
                self.members.append(cls(config, spec, (seed,), device))

    @contextlib.contextmanager
    def _stream(self, k: int) -> Iterator[None]:
        outside = rng.get_state()
        rng.set_state(self.streams[k])
        try:
            yield
        finally:
            self.streams[k] = rng.get_state()
            rng.set_state(outside)

    def _each(self, call: Callable[[int, Algorithm], T]) -> list[T]:
        results = []
        for k, member in enumerate(self.members):
            with self._stream(k):
                results.append(call(k, member))
        return results

    def prepare(
        self, data: Dataset, steps: int, rngs: Rngs, model: GameModel | None = None
    ) -> None:
        self._each(lambda k, member: member.prepare(data, steps, [rngs[k]], model))

    def sample(self, data: Dataset, rngs: Rngs) -> Any:
        return self._each(lambda k, member: member.sample(data, [rngs[k]]).seed(0))

    def update(self, batch: Any) -> dict[str, Tensor]:
        losses = self._each(lambda k, member: member.update(batch[k].to(self.device)))
        return {name: torch.stack([loss[name] for loss in losses]) for name in losses[0]}

    def finish(self) -> None:
        self._each(lambda k, member: member.finish())

    def begin(self, n_envs: int, seed: int) -> None:
        self._each(lambda k, member: member.begin(n_envs, seed))

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        def one(k: int, member: Algorithm) -> Array:
            own_alive = None if alive is None else alive[k]
            own_mask = None if mask is None else mask[k]
            return member.act(obs[k], own_alive, own_mask, t, deterministic)

        return np.stack(self._each(one))

    def explore(self, obs: Array, alive: Array | None, mask: Array | None, t: Array) -> Array:
        def one(k: int, member: Algorithm) -> Array:
            own_alive = None if alive is None else alive[k]
            own_mask = None if mask is None else mask[k]
            return member.explore(obs[k], own_alive, own_mask, t[k])

        return np.stack(self._each(one))

    def policy_table(self) -> Array:
        return np.stack([member.policy_table() for member in self.members])

    def state_dict(self) -> dict[str, Any]:
        return {
            str(seed): {"member": member.state_dict(), "stream": stream}
            for seed, member, stream in zip(self.seeds, self.members, self.streams, strict=True)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for k, (seed, member) in enumerate(zip(self.seeds, self.members, strict=True)):
            member.load_state_dict(state[str(seed)]["member"])
            self.streams[k] = state[str(seed)]["stream"]

    def cost(self) -> dict[str, float]:
        return self.members[0].cost()


def build_group(
    cls: type[Algorithm], config: Any, spec: TaskSpec, seeds: tuple[int, ...], device: str = "cpu"
) -> Algorithm:
    """A group of seeds, whether or not the algorithm stacks them: everything the runner holds has
    the axis K.
    """
    if cls.stacks_seeds:
        return cls(config, spec, seeds, device)
    return PerSeed(cls, config, spec, seeds, device)
