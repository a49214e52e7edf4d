"""An algorithm that is checked, and what all checks of one do: build, train and play it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmark import checkpoint
from benchmark.algorithm import Algorithm, PerSeed, Variant, build_group
from benchmark.checks import CheckFailed
from benchmark.checks.fixtures import TOYS, ToyDataset, toy_dataset
from benchmark.task import Array, GameModel, TaskSpec

SEEDS = (3, 11, 4)  # a group; not in order, so that nothing can mistake an index for a seed
UPDATES = 20
ENVS = 5


@dataclass(frozen=True)
class AlgorithmSubject:
    """An algorithm, and the small problems that it is checked on.

    `config` overrides fields of its Config, to make a large network small. An algorithm that needs
    a GameModel brings a finite task's `spec` and `model`.
    """

    name: str
    cls: type[Algorithm]
    variant: str = "default"
    config: Mapping[str, Any] = field(default_factory=dict)
    specs: tuple[TaskSpec, ...] = TOYS
    model: GameModel | None = None

    @property
    def row(self) -> Variant:
        return self.cls.variants[self.variant]

    @property
    def trains(self) -> bool:
        return any(self.row.steps.values())

    def obstacle(self, data: ToyDataset) -> str:
        """Why the algorithm cannot run on a data set; empty if it can."""
        have = data.spec.properties() | ({"logp"} if data.logp is not None else set())
        if missing := self.cls.requires - have:
            return f"{data.spec.id} is not {sorted(missing)[0]}"
        if self.row.track in ("online", "o2o"):
            return "it needs a simulator"
        if self.row.track in ("model", "oracle") and self.model is None:
            return "it needs a game model, and the subject brings none"
        return ""

    def datasets(self) -> list[ToyDataset]:
        """The toy problems that the algorithm is able to run on."""
        found = [toy_dataset(spec) for spec in self.specs]
        return [data for data in found if not self.obstacle(data)]

    def config_for(self, spec: TaskSpec) -> Any:
        values = self.row.resolve(spec.id, "smoke")[0] | dict(self.config)
        if "compile" in {f.name for f in dataclasses.fields(self.cls.Config)}:
            values.setdefault("compile", "off")
        return self.cls.Config(**values)


def build(
    subject: AlgorithmSubject, data: ToyDataset, seeds: tuple[int, ...], steps: int = UPDATES
) -> Algorithm:
    """A group, prepared for `steps` updates."""
    group = build_group(subject.cls, subject.config_for(data.spec), data.spec, seeds)
    group.prepare(data, steps, [np.random.default_rng([seed, 1]) for seed in seeds], subject.model)
    return group


def generators(seeds: tuple[int, ...]) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, 0]) for seed in seeds]


def train(group: Algorithm, data: ToyDataset, rngs: Any, updates: int) -> list[dict[str, Array]]:
    """Losses of every update."""
    losses = []
    for _ in range(updates):
        loss = group.update(group.sample(data, rngs))
        losses.append({name: value.detach().cpu().numpy().copy() for name, value in loss.items()})
    return losses


def trained(
    subject: AlgorithmSubject, data: ToyDataset, seeds: tuple[int, ...], updates: int = UPDATES
) -> tuple[Algorithm, list[dict[str, Array]]]:
    group = build(subject, data, seeds, updates)
    losses = train(group, data, generators(seeds), updates if subject.trains else 0)
    group.finish()
    return group, losses


def observations(data: ToyDataset, n_envs: int, n_seeds: int, first: int = 0) -> Array:
    """The same observations [K, E, N, D] for every seed."""
    obs = data.obs[first + np.arange(n_envs)]
    if data.spec.n_obs is not None:
        obs = obs.astype(np.int64)  # as an environment gives them
    return np.broadcast_to(obs, (n_seeds, *obs.shape)).copy()


def play(
    group: Algorithm, obs: Array, seed: int = 7, deterministic: bool = False, steps: int = 2
) -> Array:
    """Actions [steps, K, E, N, ...] of the first steps of an episode in which nothing changes."""
    group.begin(obs.shape[1], seed)
    return np.stack([group.act(obs.copy(), None, None, t, deterministic) for t in range(steps)])


def tensors(group: Algorithm) -> dict[str, torch.Tensor]:
    """Every tensor of the state, by its path."""
    members = group.members if isinstance(group, PerSeed) else [group]
    return checkpoint.flatten([member.state_dict() for member in members])[1]


def different(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> list[str]:
    return [
        name
        for name in sorted({*a, *b})
        if name not in a or name not in b or not torch.equal(a[name], b[name])
    ]


Problem = Callable[[AlgorithmSubject, ToyDataset], None]


def on_every_problem(check: Problem) -> Callable[[AlgorithmSubject], str]:
    """Run a check on all toy problems that fit; where none does, the note says why."""

    def run(subject: AlgorithmSubject) -> str:
        fitting = subject.datasets()
        for data in fitting:
            try:
                check(subject, data)
            except CheckFailed as error:
                raise CheckFailed(f"on {data.spec.id}: {error}") from error
        if fitting:
            return "on " + ", ".join(data.spec.id for data in fitting)
        reasons = dict.fromkeys(subject.obstacle(toy_dataset(spec)) for spec in subject.specs)
        return "not run: " + ", ".join(reasons)

    run.__name__ = check.__name__
    run.__doc__ = check.__doc__
    return run
