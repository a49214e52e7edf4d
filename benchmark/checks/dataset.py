"""What every dataset must keep: the protocol of `benchmark.batch.Dataset`, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch

from benchmark.batch import Batch, Dataset
from benchmark.checks import CheckFailed, Result, run_checks
from benchmark.errors import UserError
from benchmark.task import Array

ID = re.compile(r"[a-z0-9-]+/[a-z0-9-]+/[a-z0-9-]+-v\d+")
BATCH = 64
ROWS = 10_000  # rows of a large dataset that value checks look at, evenly spread


def check_dataset(data: Dataset, expected: Mapping[str, str] | None = None) -> list[Result]:
    """Run all of CHECKS; `expected`: names of checks that must fail -> the reason."""
    return run_checks(CHECKS, data, expected)


def _rngs(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def _some(data: Dataset) -> Array:
    return np.unique(np.linspace(0, data.n_steps - 1, ROWS).astype(np.int64))


# ---------------------------------------------------------------------------------------- arrays
def check_index(data: Dataset) -> None:
    starts = data.starts
    if not ID.fullmatch(data.id):
        raise CheckFailed(f"id {data.id!r} is not namespace/name/tier-vN; rename the dataset")
    if starts[0] != 0 or starts[-1] != data.n_steps or not (np.diff(starts) > 0).all():
        raise CheckFailed(
            f"starts must rise strictly from 0 to n_steps = {data.n_steps}, found {starts[0]} to"
            f" {starts[-1]}; make starts[e] the first row of episode e"
        )
    if len(starts) != data.n_episodes + 1 or len(data.policy) != data.n_episodes:
        raise CheckFailed(
            f"n_episodes is {data.n_episodes}, starts has {len(starts)} entries and policy"
            f" {len(data.policy)}; expected n_episodes + 1 and n_episodes"
        )
    if np.diff(starts).max() > data.spec.horizon:
        raise CheckFailed(
            f"an episode has {np.diff(starts).max()} steps, the task at most {data.spec.horizon};"
            " split episodes where they end, or correct the task's horizon"
        )


def check_shapes(data: Dataset) -> None:
    spec, s = data.spec, data.n_steps
    shapes = {
        "obs": (s, spec.n_agents, spec.obs_dim),
        "act": (s, spec.n_agents) if spec.discrete else (s, spec.n_agents, spec.act_dim),
        "rew": (s, spec.n_agents),
        "returns": (data.n_episodes, spec.n_agents),
    }
    for name, shape in shapes.items():
        found = getattr(data, name).shape
        if found != shape:
            raise CheckFailed(f"{name} has the shape {found}, expected {shape}; see TaskSpec")
    for name, wanted in (("obs", spec.n_obs is not None), ("act", spec.discrete)):
        kind = getattr(data, name).dtype.kind
        if (kind in "iu") != wanted:
            raise CheckFailed(
                f"{name} is of kind {kind!r}; expected {'integers' if wanted else 'floats'}"
            )


def check_values(data: Dataset) -> None:
    spec, rows = data.spec, _some(data)
    for name in ("obs", "act", "rew"):
        values = np.asarray(getattr(data, name)[rows])
        if not np.isfinite(values).all():
            index = np.argwhere(~np.isfinite(values))[0]
            raise CheckFailed(
                f"{name} at row {rows[index[0]]} is not finite; leave that episode out"
            )
    act = np.asarray(data.act[rows])
    low, high = (0, (spec.n_actions or 0) - 1) if spec.discrete else (-1, 1)
    if act.min() < low or act.max() > high:
        raise CheckFailed(
            f"actions lie in [{act.min()}, {act.max()}], expected [{low}, {high}]; rescale them"
        )
    obs = np.asarray(data.obs[rows])
    if spec.n_obs is not None and (obs.min() < 0 or obs.max() >= spec.n_obs):
        raise CheckFailed(
            f"observations lie in [{obs.min()}, {obs.max()}], expected 0 to {spec.n_obs - 1}"
        )


def check_returns(data: Dataset) -> None:
    episodes = np.unique(np.linspace(0, data.n_episodes - 1, 100).astype(np.int64))
    for e in episodes:
        rew = np.asarray(data.rew[data.starts[e] : data.starts[e + 1]], np.float64).sum(0)
        if not np.allclose(rew, data.returns[e], rtol=1e-4, atol=1e-6):
            raise CheckFailed(
                f"returns of episode {e} are not the sum of its rewards; returns are undiscounted"
            )


def check_card(data: Dataset) -> str | None:
    card = data.card
    if not card:
        return "no card: results on this dataset cannot be ranked"
    if card["task"] != data.spec.id:
        raise CheckFailed(f"the card is of task {card['task']}, the data of {data.spec.id}")
    for name, found in (("episodes", data.n_episodes), ("steps", data.n_steps)):
        if card["counts"][name] != found:
            raise CheckFailed(
                f"the card counts {card['counts'][name]} {name}, the data {found}; make it again"
            )
    mean = float(data.spec.team(data.returns).mean())
    spread = card["statistics"]["return_sd"] * np.sqrt(2 / data.n_episodes)
    if abs(mean - card["statistics"]["return_mean"]) > 3 * spread + 1e-6 * (1 + abs(mean)):
        raise CheckFailed(
            f"the mean team return is {mean:.6g}, the card says"
            f" {card['statistics']['return_mean']:.6g}; make the dataset again"
        )
    return None


# --------------------------------------------------------------------------------------- batches
def _rows(data: Dataset, batch: Batch) -> Array:
    """First row of each item, [K, B]."""
    return data.starts[batch.episode.numpy()] + batch.step.numpy()


def check_transitions(data: Dataset) -> None:
    batch = data.transitions(_rngs(0, 1), BATCH)
    spec = data.spec
    expected = (2, BATCH, 1, spec.n_agents, spec.obs_dim)
    if tuple(batch.obs.shape) != expected:
        raise CheckFailed(
            f"transitions give obs {tuple(batch.obs.shape)}, expected [K, B, 1, N, D] = {expected}"
        )
    if batch.next_obs is None or batch.next_obs.shape != batch.obs.shape:
        raise CheckFailed("transitions must come with next_obs of the shape of obs")
    rows = _rows(data, batch)
    for name in ("obs", "act", "rew"):
        stored = torch.from_numpy(np.asarray(getattr(data, name)[rows]))[:, :, None]
        if not torch.equal(getattr(batch, name).to(stored.dtype), stored):
            raise CheckFailed(
                f"{name} of a transition is not the row starts[episode] + step; check the gather"
            )
    inner = rows + 1 < data.starts[batch.episode.numpy() + 1]  # [K, B]
    following = torch.from_numpy(np.asarray(data.obs[np.where(inner, rows + 1, 0)]))
    given = batch.next_obs[:, :, 0].to(following.dtype)
    if not torch.equal(given[torch.from_numpy(inner)], following[torch.from_numpy(inner)]):
        raise CheckFailed("next_obs inside an episode must be the next row's obs")


def check_ends(data: Dataset) -> None:
    batch = data.transitions(_rngs(2), 4 * BATCH)
    last = _rows(data, batch) + 1 == data.starts[batch.episode.numpy() + 1]
    ends = (batch.terminated[..., 0] + batch.truncated[..., 0]).numpy()
    if (ends[~last] > 0).any():
        raise CheckFailed("a step inside an episode is marked terminated or truncated")
    if (ends[last] != 1).any():
        raise CheckFailed(
            "an episode's last step must be exactly one of terminated (do not bootstrap) and"
            " truncated (time limit)"
        )


def check_windows(data: Dataset) -> None:
    length = data.spec.horizon + 1
    batch = data.windows(_rngs(3), BATCH, length)
    lengths = np.diff(data.starts)[batch.episode.numpy()]
    left = torch.from_numpy(lengths)[..., None] - batch.step[..., None]
    if not torch.equal(batch.valid, torch.arange(length) < left):
        raise CheckFailed(
            "valid must be true up to the episode's last step and false after it; windows never"
            " cross an episode's end"
        )
    for name in ("obs", "act", "rew", "terminated", "truncated"):
        values = getattr(batch, name)
        padding = ~batch.valid.view(*batch.valid.shape, *[1] * (values.dim() - 3))
        if (values * padding).abs().sum() > 0:
            raise CheckFailed(f"{name} must be zero where valid is false")
    inside = np.minimum(_rows(data, batch)[..., None] + np.arange(length), data.n_steps - 1)
    stored = torch.from_numpy(np.asarray(data.obs[inside])).to(batch.obs.dtype)
    if not torch.equal(batch.obs[batch.valid], stored[batch.valid]):
        raise CheckFailed("obs of a window are not consecutive rows from starts[episode] + step on")
    if (data.windows(_rngs(4), BATCH, 2, align=True).step != 0).any():
        raise CheckFailed("windows with align = True must start at an episode's first step")


def check_seeds(data: Dataset) -> None:
    """A seed's data order is its own: alone or in a group, and the same again."""
    for name, draw in (
        ("transitions", lambda rngs: data.transitions(rngs, BATCH)),
        ("windows", lambda rngs: data.windows(rngs, BATCH, 2)),
    ):
        group, alone, other = draw(_rngs(5, 6)), draw(_rngs(6)), draw(_rngs(7))
        if not torch.equal(group.obs[1], alone.obs[0]):
            raise CheckFailed(
                f"{name}: a seed drawn in a group differs from the same seed alone; use one"
                " generator per seed and nothing else"
            )
        if torch.equal(alone.episode, other.episode) and torch.equal(alone.step, other.step):
            raise CheckFailed(f"{name}: two seeds draw the same rows; use the generators given")


def check_agents(data: Dataset) -> str | None:
    """Slabs of agents, where agents are exchangeable."""
    n = data.spec.n_agents
    if n == 1:
        return "one agent"
    m = n // 2
    if not data.spec.exchangeable:
        try:
            data.transitions(_rngs(0), 1, agents=m)
        except UserError:
            return None
        raise CheckFailed("agents = ... must raise UserError where agents are not exchangeable")
    batch = data.transitions(_rngs(8), BATCH, agents=m)
    if batch.obs.shape[3] != m:
        raise CheckFailed(f"agents = {m} gave {batch.obs.shape[3]} agents")
    rows = _rows(data, batch)[0]
    for b in range(BATCH):
        first = int(batch.agent[0, b])
        stored = np.asarray(data.obs[rows[b], first : first + m])
        if not np.array_equal(batch.obs[0, b, 0].numpy(), stored):
            raise CheckFailed("a slab must be the agents agent .. agent + m - 1 of its row")
    return None


CHECKS = [
    check_index,
    check_shapes,
    check_values,
    check_returns,
    check_card,
    check_transitions,
    check_ends,
    check_windows,
    check_seeds,
    check_agents,
]
