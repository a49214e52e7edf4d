"""Checks of an algorithm's training: seeds, updates, learning, groups, saved state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmark import checkpoint
from benchmark.algorithm import PerSeed, build_group
from benchmark.checks import CheckFailed
from benchmark.checks.fixtures import ToyDataset
from benchmark.checks.subject import (
    ENVS,
    SEEDS,
    UPDATES,
    AlgorithmSubject,
    build,
    different,
    generators,
    observations,
    on_every_problem,
    play,
    tensors,
    train,
    trained,
)
from benchmark.rng import seed_all

LEARNING_UPDATES = 120


@on_every_problem
def check_seeds(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """The same seed gives the same weights, another seed others."""
    seed_all(0)
    first = tensors(build(subject, data, (5,)))
    seed_all(1)  # weights from the global generators would now be others
    if names := different(first, tensors(build(subject, data, (5,)))):
        raise CheckFailed(f"seed 5 twice gives different {names[0]}; draw it from `seeds` alone")
    if subject.trains and not different(first, tensors(build(subject, data, (6,)))):
        raise CheckFailed("seeds 5 and 6 give equal weights; use `seeds` for the initial weights")


@on_every_problem
def check_update(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """An update changes weights and returns finite losses, one a seed, as tensors."""
    if not subject.trains:
        return
    group = build(subject, data, SEEDS)
    before, rngs = tensors(group), generators(SEEDS)
    for _ in range(UPDATES):
        batch: Any = group.sample(data, rngs)
        if isinstance(group, PerSeed):  # what the algorithm itself returns, before it is stacked
            _check_losses(group.members[0].update(batch[0]), ((),))
        else:
            _check_losses(group.update(batch), ((), (len(SEEDS),)))
    after = tensors(group)
    weights = [name for name in different(before, after) if after[name].is_floating_point()]
    if not weights:
        raise CheckFailed("no tensor of state_dict() changes in an update; is a part left out?")


def _check_losses(losses: Mapping[str, Any], shapes: tuple[tuple[int, ...], ...]) -> None:
    if not losses:
        raise CheckFailed("update returns no loss; return a dict of named tensors")
    for name, value in losses.items():
        if not isinstance(value, torch.Tensor):
            raise CheckFailed(
                f"loss {name!r} is a {type(value).__name__}; return the tensor itself, without"
                " .item(): it would stop the device at every step"
            )
        if value.requires_grad:
            raise CheckFailed(f"loss {name!r} holds its graph; detach it")
        if tuple(value.shape) not in shapes:
            raise CheckFailed(
                f"loss {name!r} has shape {tuple(value.shape)}; return a scalar, or with"
                " stacks_seeds one number per seed"
            )
        if not torch.isfinite(value).all():
            raise CheckFailed(f"loss {name!r} is not finite on ordinary data; find out why")


@on_every_problem
def check_learning(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """At least one of its losses falls on a problem that can be learned."""
    if not subject.trains:
        return
    _, losses = trained(subject, data, (0,), LEARNING_UPDATES)
    names = {name for loss in losses for name in loss}
    curves = {n: np.array([loss[n].mean() for loss in losses if n in loss]) for n in sorted(names)}
    ends = {name: (curve[:10].mean(), curve[-30:].mean()) for name, curve in curves.items()}
    if not any(last < first - 0.02 * abs(first) for first, last in ends.values()):
        shown = ", ".join(f"{name} {a:.3g} -> {b:.3g}" for name, (a, b) in ends.items())
        raise CheckFailed(f"no loss falls in {LEARNING_UPDATES} updates ({shown}); check its sign")


@on_every_problem
def check_group(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """A seed trained in a group has the losses and actions of the same seed alone, bit for bit."""
    group, losses = trained(subject, data, SEEDS)
    obs = observations(data, ENVS, len(SEEDS))
    act = play(group, obs)
    for k, seed in enumerate(SEEDS):
        alone, own = trained(subject, data, (seed,))
        for step, (together, single) in enumerate(zip(losses, own, strict=True)):
            for name, value in together.items():
                if value.shape and not np.array_equal(value[k], single[name].reshape(())):
                    raise CheckFailed(
                        f"loss {name!r} of seed {seed} at update {step} is {value[k]!r} in a group"
                        f" and {single[name].reshape(())!r} alone; keep seeds apart: no mean over"
                        " K, a generator per seed, batches in multiples of 16"
                    )
        if not np.array_equal(act[:, k], play(alone, obs[k : k + 1])[:, 0]):
            raise CheckFailed(
                f"seed {seed} acts differently in a group; give each seed its own noise in begin()"
            )


@on_every_problem
def check_state(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """state_dict() holds tensors and plain values; a resumed run ends with the same bits."""
    group = build(subject, data, SEEDS, 2 * UPDATES)
    updates = UPDATES if subject.trains else 0
    rngs = generators(SEEDS)
    train(group, data, rngs, updates)
    tree, flat = checkpoint.flatten(group.state_dict())  # refuses what a checkpoint cannot hold
    stored = [rng.bit_generator.state for rng in rngs]
    losses = train(group, data, rngs, updates)
    resumed = build(subject, data, SEEDS, 2 * UPDATES)
    resumed.load_state_dict(checkpoint.unflatten(tree, flat))
    for rng, state in zip(rngs, stored, strict=True):
        rng.bit_generator.state = state
    again = train(resumed, data, rngs, updates)
    for step, (a, b) in enumerate(zip(losses, again, strict=True)):
        for name in a:
            if not np.array_equal(a[name], b[name]):
                raise CheckFailed(
                    f"loss {name!r} differs {step + 1} updates after a resume; store all of it:"
                    " optimiser, targets, averages, generators, step counter"
                )
    if names := different(tensors(group), tensors(resumed)):
        raise CheckFailed(f"{names[0]} differs after a resume; store and restore it")
    group.finish()
    resumed.finish()
    obs = observations(data, ENVS, len(SEEDS))
    if not np.array_equal(play(group, obs), play(resumed, obs)):
        raise CheckFailed("a resumed run acts differently; store what act() uses, normalisers too")
    # Re-evaluation of a checkpoint builds the group without data.
    loaded = build_group(subject.cls, subject.config_for(data.spec), data.spec, SEEDS)
    loaded.load_state_dict(checkpoint.unflatten(*checkpoint.flatten(group.state_dict())))
    if not np.array_equal(play(group, obs), play(loaded, obs)):
        raise CheckFailed(
            "a loaded group that was never prepared acts differently; put what prepare() makes"
            " (normalisers) and what finish() makes into state_dict()"
        )
