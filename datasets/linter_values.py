"""Findings on single values: numbers, ranges, the dead and the passive, the population."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmark.task import Array
from datasets.loader import Dataset
from datasets.schema import slabs

MU_TOLERANCE = 1e-5
STILL_VALUES = 1 << 24  # values of one array that the search for constant ones looks at, at most
OUTCOMES = {"margin": (-1.0, 1.0), "win": (0.0, 1.0)}  # ranges of `Step.outcome`, by name
Index = tuple[int, ...]


def first_bad(array: Any, bad: Callable[[Array], Array]) -> Index | None:
    """Index of the first value that is bad, in slabs, so that any size can be read."""
    for rows in slabs(array):
        wrong = bad(array[rows])
        if wrong.any():
            index = np.unravel_index(int(wrong.argmax()), wrong.shape)
            return (int(index[0]) + rows.start, *(int(i) for i in index[1:]))
    return None


def place(name: str, index: Index) -> str:
    return f"/{name} at {index if len(index) > 1 else f'({index[0]})'}"


def per_group(data: Dataset, name: str) -> list[tuple[str, Any]]:
    paths = [f"steps/{group.name}/{name}" for group in data.spec.groups]
    return [(path, data.arrays[path]) for path in paths if path in data.arrays]


def _outside(data: Dataset, name: str, low: float, high: float, mend: str) -> Iterator[str]:
    array = data.arrays[name]
    # Written so that NaN, which has a finding of its own, is no second one
    if (index := first_bad(array, lambda x: (x < low) | (x > high))) is not None:
        if high == np.inf:
            expected = f"at least {low:g}"
        else:
            expected = f"at most {high:g}" if low == -np.inf else f"{low:g} to {high:g}"
        yield f"range: {place(name, index)} is {array[index]:g}, expected {expected}; {mend}."


def numbers(data: Dataset) -> Iterator[str]:
    for name, array in data.arrays.items():
        if array.dtype.kind == "f":
            index = first_bad(array, lambda x: ~np.isfinite(x))
            if index is not None:
                yield (
                    f"NaN: {place(name, index)} is {array[index]}, expected a finite number; leave"
                    " that episode out, or find what divided by zero."
                )


def ranges(data: Dataset) -> Iterator[str]:
    spec = data.spec
    discrete = spec.n_actions is not None
    low, high = (0, (spec.n_actions or 1) - 1) if discrete else (-1, 1)
    for name, _ in per_group(data, "act"):
        mend = "number actions from 0" if discrete else "clip actions to [-1, 1], or rescale them"
        yield from _outside(data, name, low, high, mend)
    if spec.n_obs is not None:
        for group in spec.groups:
            for name in (f"steps/{group.name}/obs", f"final/{group.name}/obs"):
                yield from _outside(data, name, 0, spec.n_obs - 1, "number observations from 0")
    if discrete:
        for name, _ in per_group(data, "logp"):
            mend = "store the logarithm of the probability, not the probability"
            yield from _outside(data, name, -np.inf, 1e-6, mend)
    for flag in ("alive", "active"):
        for name, _ in per_group(data, flag):
            yield from _outside(data, name, 0, 1, "store flags as 0 and 1")
    yield from _outside(data, "index/policy", 0, np.inf, "number behaviour policies from 0")
    yield from _outside(data, "index/seed", 0, np.inf, "store the seeds that reset was given")
    for outcome in spec.outcomes:
        if outcome in OUTCOMES:
            mend = "see what the task's outcome measures"
            yield from _outside(data, f"index/{outcome}", *OUTCOMES[outcome], mend)


def still(data: Dataset) -> Iterator[str]:
    """Actions and observations that never change; only where agents keep their places."""
    spec = data.spec
    if spec.horizon == 1 or spec.exchangeable or data.n_steps < 2:
        return
    first = 0
    for group in spec.groups:
        row = group.n_agents * max(group.obs_dim, group.act_dim, 1)
        sample = slice(0, max(2, min(data.n_steps, STILL_VALUES // row)))
        act = data.arrays[f"steps/{group.name}/act"][sample]
        obs = data.arrays[f"steps/{group.name}/obs"][sample]
        if not (act != act[:1]).any():
            yield (
                f"dead actions: /steps/{group.name}/act at (0, 0) and every other step is"
                f" {act.flat[0]:g}; was the array filled?"
            )
        still = (obs == obs[:1]).all(axis=(0, 2))
        if still.any():
            i = int(still.argmax())
            yield (
                f"dead agents: /steps/{group.name}/obs at (0, {i}): agent_{first + i} has the same"
                " observation at every step; was it written under another agent?"
            )
        first += group.n_agents


# ------------------------------------------------------------------------------ dead and passive
def mortality(data: Dataset) -> Iterator[str]:
    """Dead agents stay dead, and neither earn, act nor see anything."""
    stored = per_group(data, "alive")
    if stored and not data.spec.can_die:
        yield (
            f"dead agents: /{stored[0][0]} is stored, but agents of {data.spec.id} cannot die;"
            " leave it out, or set can_die."
        )
    if data.spec.can_die and not stored:
        name = f"steps/{data.spec.groups[0].name}/alive"
        yield f"dead agents: /{name} is missing, but agents of {data.spec.id} can die; store it."
    begins = np.zeros(data.n_steps, bool)
    begins[data.starts[:-1]] = True
    for name, array in stored:
        group = name.split("/")[1]
        before = np.ones((1, array.shape[1]), np.uint8)
        for rows in slabs(data.arrays[f"steps/{group}/obs"]):
            alive = array[rows]
            earlier = np.concatenate([before, alive[:-1]])
            risen = (alive > earlier) & ~begins[rows, None]
            if risen.any():
                row, i = (int(x) for x in np.argwhere(risen)[0])
                yield (
                    f"dead agents: {place(name, (row + rows.start, i))} is 1 after 0 in the same"
                    " episode; the dead stay dead."
                )
                break
            before = alive[-1:]
        yield from _dead_values(data, group, array)


def _dead_values(data: Dataset, group: str, alive: Any) -> Iterator[str]:
    for field, rule in (("rew", "earn 0"), ("active", "do not act"), ("obs", "see zeros")):
        name = f"steps/{group}/{field}"
        if (values := data.arrays.get(name)) is None:
            continue
        for rows in slabs(values):
            part = values[rows]
            dead = alive[rows] == 0
            bad = (part != 0) & dead.reshape(*dead.shape, *[1] * (part.ndim - 2))
            if bad.any():
                index = np.unravel_index(int(bad.argmax()), bad.shape)
                where = (int(index[0]) + rows.start, *(int(i) for i in index[1:]))
                yield (
                    f"dead agents: {place(name, where)} is {values[where]:g} while"
                    f" /steps/{group}/alive is 0; dead agents {rule}."
                )
                break


def activity(data: Dataset) -> Iterator[str]:
    stored = per_group(data, "active")
    if not stored:
        return
    count = np.zeros(data.n_steps, np.int64)
    for _, array in stored:
        for rows in slabs(array):
            count[rows] += (array[rows] > 0).sum(1)
    name = stored[0][0]
    if (count == 0).any():
        s = int((count == 0).argmax())
        yield f"active: {place(name, (s,))}: nobody acts in this step; store who acted."


def population(data: Dataset) -> Iterator[str]:
    """The stored population distribution against the observations."""
    mu, spec = data.arrays.get("population/mu"), data.spec
    if mu is None:
        return
    n_obs = spec.n_obs or 1
    share = np.zeros(mu.shape)
    for _, obs in per_group(data, "obs"):
        for rows in slabs(obs):
            states = obs[rows][..., 0].astype(np.int64)
            states += np.where((states >= 0) & (states < n_obs), 0, -states + n_obs)
            cells = states + np.arange(len(states))[:, None] * (n_obs + 1)
            counts = np.bincount(cells.ravel(), minlength=len(states) * (n_obs + 1))
            share[rows] += counts.reshape(-1, n_obs + 1)[:, :-1] / spec.n_agents
    wrong = np.abs(share - mu[:]) > MU_TOLERANCE
    if wrong.any():
        s, o = (int(i) for i in np.argwhere(wrong)[0])
        yield (
            f"population: {place('population/mu', (s, o))} is {mu[s, o]:.6g}, the share of agents"
            f" there is {share[s, o]:.6g}; compute it from all agents of the step."
        )
