"""Measures the fixed ends of a task's scale: uniform play is 0, the task's expert is 100.

The seeds are those of no protocol and no recipe, so that a reference shares no episode with what it
judges. Episodes are added until both standard errors are at most 1% of the gap between the ends.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmark import files, provenance
from benchmark.errors import UserError
from benchmark.evaluate import ROWS, Policy, team_values
from benchmark.protocol import EVALUATION_SEEDS, RECIPE_SEEDS, REFERENCE_SEEDS, TUNING_SEEDS
from benchmark.task import Array, Reference, Task, TaskSpec, reference_path, reference_toml

EPISODES = 1_000
PRECISION = 0.01  # highest standard error, in units of the gap

Progress = Callable[[int], None]  # gets the number of episodes just done


class UniformPolicy:
    """Uniform over the action space, or over the actions that the mask allows."""

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.rng = np.random.default_rng(0)

    def begin(self, n_envs: int, seed: int) -> None:
        # A stream apart: an environment's own generator may be seeded with the same number.
        self.rng = np.random.default_rng([seed, 1])

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        shape = obs.shape[:2]
        if self.spec.n_actions is None:
            return self.rng.uniform(-1.0, 1.0, (*shape, self.spec.act_dim))
        if mask is None:
            return self.rng.integers(self.spec.n_actions, size=shape)
        return np.where(mask, self.rng.random(mask.shape), -1.0).argmax(-1)


def check_seeds(seeds: range) -> None:
    """Raise UserError for a seed that a recipe, a tuning run or a protocol uses."""
    others = (RECIPE_SEEDS, TUNING_SEEDS, EVALUATION_SEEDS)
    for other in others:
        if seeds.start < other.stop and other.start < seeds.stop:
            raise UserError(
                f"reference seeds {seeds.start} to {seeds.stop - 1} overlap {other.start} to"
                f" {other.stop - 1}, which evaluation, tuning or recipes use; expected seeds from"
                f" {REFERENCE_SEEDS.start} up."
            )


def values(task: Task, policy: Policy, seeds: range, progress: Progress | None = None) -> Array:
    """Team return, or margin, of each seed's episode [E]; in blocks, so that N = 10^6 fits in
    memory.
    """
    block = max(1, ROWS // task.spec.n_agents)
    parts = [
        team_values(task, policy, seeds[first : first + block], progress)
        for first in range(0, len(seeds), block)
    ]
    return np.concatenate(parts)


def compute_reference(
    task: Task, episodes: int = EPISODES, progress: Progress | None = None
) -> Reference:
    """Reference of a task from at least `episodes` episodes of each policy.

    Raises UserError where the task has no expert, where the expert is not above uniform play, and
    where no number of episodes is enough. Where exploitability ranks, the ends of the scale are
    exact and returns are only shown: uniform play may earn more than an equilibrium.
    """
    spec = task.spec
    if episodes < 2:
        raise UserError(f"reference of {spec.id}: {episodes} episodes, expected at least 2.")
    policies: tuple[Policy, Policy] = (UniformPolicy(spec), task.expert())
    returns: list[Array] = [np.empty(0), np.empty(0)]  # uniform, expert: [E]
    while True:
        seeds = REFERENCE_SEEDS[len(returns[0]) : episodes]
        check_seeds(seeds)
        for k, policy in enumerate(policies):
            more = values(task, policy, seeds, progress)
            returns[k] = np.concatenate([returns[k], more])
        means = [float(x.mean()) for x in returns]
        errors = [float(x.std(ddof=1) / np.sqrt(len(x))) for x in returns]
        gap = means[1] - means[0]
        if gap <= 0 or max(errors) <= PRECISION * gap or episodes == len(REFERENCE_SEEDS):
            break
        # Standard errors shrink as 1 / sqrt(E); the quarter on top saves a further round.
        needed = int(1.25 * episodes * (max(errors) / (PRECISION * gap)) ** 2)
        episodes = min(max(needed, 2 * episodes), len(REFERENCE_SEEDS))
    reference = Reference(
        task=spec.id,
        random=means[0],
        random_sem=errors[0],
        expert=means[1],
        expert_sem=errors[1],
        episodes=episodes,
        first_seed=REFERENCE_SEEDS.start,
        recipe="benchmark/reference.py: uniform play and Task.expert() in the array environment",
        uniform_exploitability=_uniform_exploitability(task),
        lines={
            name: float(values(task, line, REFERENCE_SEEDS[:episodes], progress).mean())
            for name, line in task.reference_lines().items()
        },
        packages=provenance.packages(tuple(sorted({"numpy", *spec.packages}))),
    )
    reference.check()
    return reference


def write_reference(task: Task, episodes: int = EPISODES, progress: Progress | None = None) -> Path:
    """Measure and write benchmark/references/<namespace>--<name>.toml; returns its path."""
    path = reference_path(task.spec.id)
    files.write_text(path, reference_toml(compute_reference(task, episodes, progress)))
    return path


def _uniform_exploitability(task: Task) -> float:
    model = task.model()
    if task.spec.metric != "exploitability" or model is None:
        return 0.0
    from benchmark.envs.meanfield.solve import exploitability, uniform_policy

    return exploitability(model, uniform_policy(model))
