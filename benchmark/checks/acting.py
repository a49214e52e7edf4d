"""Checks of how an algorithm acts: actions, episodes, what it sees, its policy table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmark.checks import CheckFailed
from benchmark.checks.fixtures import ToyDataset
from benchmark.checks.subject import (
    ENVS,
    SEEDS,
    AlgorithmSubject,
    observations,
    on_every_problem,
    play,
    trained,
)
from benchmark.task import Array, TaskSpec


@on_every_problem
def check_actions(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """Actions have the task's shape, type and range, and obey `mask`."""
    spec = data.spec
    group, _ = trained(subject, data, SEEDS[:2], 1)
    for n_envs in (1, ENVS):
        obs = observations(data, n_envs, 2)
        everyone = np.ones(obs.shape[:3], bool)
        for alive in (None, everyone, np.arange(spec.n_agents) % 2 * everyone == 0):
            for mask in _masks(spec, obs.shape[:3]):
                group.begin(n_envs, 7)
                given = obs.copy()
                act = np.asarray(group.act(given, alive, mask, 0, False))
                if not np.array_equal(given, obs):
                    raise CheckFailed("act changes the observations it is given; copy them first")
                _check_action(act, spec, obs.shape[:3], mask)


def _masks(spec: TaskSpec, shape: tuple[int, ...]) -> Iterator[Array | None]:
    yield None
    if spec.n_actions is not None:
        rng = np.random.default_rng(0)
        for _ in range(10):
            mask = rng.random((*shape, spec.n_actions)) < 0.3
            mask[..., rng.integers(spec.n_actions)] = True
            yield mask


def _check_action(act: Array, spec: TaskSpec, lead: tuple[int, ...], mask: Array | None) -> None:
    wanted = lead if spec.discrete else (*lead, spec.act_dim)
    if act.shape != wanted:
        raise CheckFailed(f"act returns shape {act.shape}, expected {wanted} = [K, E, N, ...]")
    kind = np.integer if spec.discrete else np.floating
    if not np.issubdtype(act.dtype, kind):
        raise CheckFailed(f"act returns {act.dtype}, expected {kind.__name__}")
    if not spec.discrete:
        if not (np.abs(act) <= 1).all():
            raise CheckFailed("act returns values outside [-1, 1]; squash or clip them")
        return
    if act.min() < 0 or act.max() >= (spec.n_actions or 0):
        raise CheckFailed(f"act returns values outside 0 ... {(spec.n_actions or 0) - 1}")
    if mask is not None and not np.take_along_axis(mask, act[..., None], -1).all():
        raise CheckFailed("act picks an action that `mask` forbids; mask before drawing")


@on_every_problem
def check_begin(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """begin() with the same seed gives the same actions, whatever was played before."""
    group, _ = trained(subject, data, SEEDS[:2], 1)
    obs = observations(data, ENVS, 2)
    first = play(group, obs, seed=7)
    play(group, observations(data, 2 * ENVS, 2, first=9), seed=8)
    if not np.array_equal(first, play(group, obs, seed=7)):
        raise CheckFailed(
            "the same begin(n_envs, seed) gives other actions; seed noise and reset all state there"
        )


@on_every_problem
def check_execution(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """What an agent's action may depend on: local, its own observation; mean-field, mu as well."""
    spec, execution = data.spec, subject.row.execution
    if execution == "joint" or (execution == "mean-field" and not spec.exchangeable):
        return
    group, _ = trained(subject, data, SEEDS[:2])
    obs = observations(data, ENVS, 2)
    rest = observations(data, ENVS, 2, first=spec.horizon + 1)
    before = play(group, obs)  # [steps, K, E, N, ...]
    for i in range(spec.n_agents):
        changed = rest.copy() if execution == "local" else obs.copy()
        if execution == "mean-field":
            others = np.delete(np.arange(spec.n_agents), i)
            changed[:, :, others] = obs[:, :, np.roll(others, 1)]
        changed[:, :, i] = obs[:, :, i]
        after = play(group, changed)
        if not np.allclose(before[:, :, :, i], after[:, :, :, i], rtol=0, atol=1e-4):
            what = "change" if execution == "local" else "swap their observations"
            raise CheckFailed(
                f"agent {i} acts differently when the others {what}, under the same noise; declare"
                " a wider `execution`, or let the policy see less"
            )


@on_every_problem
def check_policy_table(subject: AlgorithmSubject, data: ToyDataset) -> None:
    """policy_table() is the policy that act() plays: rows sum to 1, frequencies agree."""
    spec = data.spec
    if not (spec.finite and spec.exchangeable):
        return
    group, _ = trained(subject, data, SEEDS[:2])
    try:
        table = np.asarray(group.policy_table())
    except NotImplementedError:
        return
    assert spec.n_obs is not None
    assert spec.n_actions is not None
    shape = (2, spec.horizon, spec.n_obs, spec.n_actions)
    if table.shape != shape:
        raise CheckFailed(f"policy_table has shape {table.shape}, expected {shape} = [K, H, O, A]")
    if table.min() < 0 or not np.allclose(table.sum(-1), 1, rtol=0, atol=1e-6):
        raise CheckFailed("a row of policy_table is no distribution; normalise over actions")
    if subject.row.execution == "mean-field":
        return  # its table is that along its own flow, and another population gets other actions
    n_envs = 1_000
    agents = np.arange(n_envs * spec.n_agents) % spec.n_obs
    obs = np.broadcast_to(
        agents.reshape(1, n_envs, spec.n_agents, 1), (2, n_envs, spec.n_agents, 1)
    )
    group.begin(n_envs, 7)
    for t in range(spec.horizon):
        act = group.act(obs.copy(), None, None, t, False)
        for o in range(spec.n_obs):
            at = obs[0, ..., 0] == o  # [E, N]
            counts = np.stack(
                [(act[:, at] == a).mean(-1) for a in range(spec.n_actions)], -1
            )  # [K, A]
            p = table[:, t, o]
            error = 5 * np.sqrt(p * (1 - p) / at.sum()) + 1e-6  # 5 standard errors
            if (np.abs(counts - p) > error).any():
                raise CheckFailed(
                    f"at step {t}, observation {o}, act plays {counts[0].round(3)} and"
                    f" policy_table says {p[0].round(3)}; sample from the table itself"
                )
