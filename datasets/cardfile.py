"""Cards: what is known of a dataset, as one TOML file that the tool writes and no one edits.

A committed card fixes its dataset. Floating-point libraries differ between processors, so the
same recipe may give other bits elsewhere: `content_sha256` is a list that only grows, and data of
an equal recipe whose statistics lie within 3 standard errors of the card's are as good.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from benchmark import registry
from benchmark.errors import UserError
from benchmark.files import write_text
from benchmark.task import Array, TaskSpec
from datasets.schema import Meta, slabs

CARDS = Path(__file__).parent / "cards"
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
COLUMN_DIGITS = 12  # of a column's hash, which identifies and does not prove
MU_BINS = 10  # cells per state into which the share of the population is sorted


def card_path(dataset_id: str) -> Path:
    """Where the committed card of a dataset lies."""
    return CARDS / f"{dataset_id.replace('/', '--')}.toml"


def read_card(path: Path) -> dict[str, Any]:
    """A card; {} where there is none."""
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"card {path} is not valid TOML ({error}); restore it.") from error


def write_card(path: Path, card: Mapping[str, Any]) -> None:
    write_text(path, tomli_w.dumps(card))


def make_card(meta: Meta, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a file; `arrays` are its arrays."""
    seeds = arrays["index/seed"][()]
    return {
        "id": meta.id,
        "task": meta.spec.id,
        "recipe_sha256": meta.recipe_sha256,
        "content_sha256": [meta.content_sha256],
        "source": meta.source,
        "licence": meta.licence,
        "superseded_by": "",
        "packages": meta.packages,
        "seeds": {"first": int(seeds.min()), "last": int(seeds.max()), "perm": meta.perm_seed or 0},
        **measure(meta.spec, arrays),
        "columns": column_sha256(arrays),
    }


def column_sha256(arrays: Mapping[str, Any]) -> dict[str, list[str]]:
    """Short hashes of each column of the steps' arrays, by which swapped columns are found.

    Columns are those of the last axis of [S, n, D]; an array [S, n] is one column.
    """
    found = {}
    for name, array in arrays.items():
        if not name.startswith("steps/"):
            continue
        digests = [hashlib.sha256() for _ in range(array.shape[2] if len(array.shape) == 3 else 1)]
        for rows in slabs(array):
            part = array[rows].reshape(-1, len(digests))
            for c, digest in enumerate(digests):
                digest.update(np.ascontiguousarray(part[:, c]).data)
        found[name] = [digest.hexdigest()[:COLUMN_DIGITS] for digest in digests]
    return found


def measure(spec: TaskSpec, arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Counts, team returns, and for finite games what part of the game the data cover.

    Raises UserError where states, actions or lengths are none of the game's.
    """
    start = arrays["index/start"][()]
    n_episodes, lengths = len(start) - 1, np.diff(start)
    team = team_returns(spec, arrays)
    counts = {
        "episodes": n_episodes,
        "steps": int(start[-1]),
        "agents": spec.n_agents,
        "policies": len(np.unique(arrays["index/policy"][()])),
        "terminated": int(arrays["index/terminated"][()].sum()),
        "bytes": sum(array.dtype.itemsize * int(np.prod(array.shape)) for array in arrays.values()),
    }
    statistics = {
        "length_mean": float(lengths.mean()),
        "return_mean": float(team.mean()),
        "return_sd": float(team.std(ddof=1)) if n_episodes > 1 else 0.0,
        "return_levels": list(QUANTILES),
        "return_quantiles": [float(q) for q in np.quantile(team, QUANTILES)],
    }
    for name in spec.outcomes:
        statistics[f"{name}_mean"] = float(arrays[f"index/{name}"][()].mean())
    if spec.finite:
        if lengths.max() > spec.horizon:
            raise UserError(
                f"/index/start: an episode has {lengths.max()} steps, the task {spec.id} has at"
                f" most {spec.horizon}; `python -m benchmark lint` says where."
            )
        joint = joint_distributions(spec, arrays)  # [S, O, A]
        step = np.arange(start[-1]) - np.repeat(start[:-1], lengths)
        statistics |= coverage(joint, step) | mean_behaviour(spec, joint, step)
    return {"counts": counts, "statistics": statistics}


def team_returns(spec: TaskSpec, arrays: Mapping[str, Any]) -> Array:
    """Team return [E] of each episode; populations are summed without holding [E, N] in memory."""
    if spec.team_return not in ("mean", "sum"):
        return spec.team(agent_returns(spec, arrays))
    start = arrays["index/start"][()]
    total = np.zeros(start[-1])  # [S]
    for group in spec.groups:
        rew = arrays[f"steps/{group.name}/rew"]
        for rows in slabs(rew):
            total[rows] += np.asarray(rew[rows], np.float64).sum(1)
    team = np.add.reduceat(total, start[:-1])
    return team / spec.n_agents if spec.team_return == "mean" else team


def agent_returns(spec: TaskSpec, arrays: Mapping[str, Any]) -> Array:
    """Undiscounted returns [E, N] in float64, from the stored rewards."""
    start = arrays["index/start"][()]
    returns = np.zeros((len(start) - 1, spec.n_agents))  # [E, N]
    episode = np.repeat(np.arange(len(start) - 1), np.diff(start))
    first = 0
    for group in spec.groups:
        rew = arrays[f"steps/{group.name}/rew"]
        part = returns[:, first : first + group.n_agents]
        for rows in slabs(rew):
            values = np.asarray(rew[rows], np.float64)
            number = episode[rows]
            begins = np.flatnonzero(np.diff(number, prepend=-1))
            part[number[begins]] += np.add.reduceat(values, begins, axis=0)
        first += group.n_agents
    return returns


def joint_distributions(spec: TaskSpec, arrays: Mapping[str, Any]) -> Array:
    """Share of agents at each (state, action), for every step of a finite game: [S, O, A]."""
    n_obs, n_actions = spec.n_obs or 1, spec.n_actions or 1
    cells = n_obs * n_actions
    n_steps = arrays[f"steps/{spec.groups[0].name}/obs"].shape[0]
    joint = np.zeros((n_steps, cells))
    for group in spec.groups:
        obs, act = arrays[f"steps/{group.name}/obs"], arrays[f"steps/{group.name}/act"]
        for rows in slabs(act):
            states, actions = obs[rows][..., 0].astype(np.int64), act[rows]
            for name, values, count in (("obs", states, n_obs), ("act", actions, n_actions)):
                if values.min() < 0 or values.max() >= count:
                    raise UserError(
                        f"/steps/{group.name}/{name} holds {values.min()} to {values.max()},"
                        f" expected 0 to {count - 1}; `python -m benchmark lint` says where."
                    )
            cell = states * n_actions + actions
            cell += np.arange(len(cell))[:, None] * cells
            counts = np.bincount(cell.ravel(), minlength=len(cell) * cells)
            joint[rows] += counts.reshape(-1, cells)
    return (joint / spec.n_agents).reshape(-1, n_obs, n_actions)


def mean_behaviour(spec: TaskSpec, joint: Array, step: Array) -> dict[str, float]:
    """What the average of all behaviour policies is worth, in games whose exact limit is known.

    The average at (time, state) is the share of each action among all logged decisions there,
    uniform where there is none: what cloning with endless capacity would find. joint [S, O, A],
    step [S]. behaviour_value: its return against a population that plays it;
    behaviour_exploitability: what one agent could gain on that.
    """
    try:
        model = registry.task(spec.id).model()
    except UserError:  # another suite's task
        return {}
    if model is None:
        return {}
    from benchmark.envs.meanfield.solve import exploitability, policy_value

    counts = np.zeros((model.horizon, model.n_obs, model.n_actions))  # [H, O, A]
    np.add.at(counts, step, joint)
    visits = counts.sum(-1, keepdims=True)
    mean = np.where(visits > 0, counts / np.maximum(visits, 1e-12), 1 / model.n_actions)
    found = {"behaviour_value": policy_value(model, mean)}
    if spec.metric == "exploitability":
        found["behaviour_exploitability"] = exploitability(model, mean)
    return found


def coverage(joint: Array, step: Array) -> dict[str, float]:
    """What part of a finite game the data show; joint [S, O, A], step of the episode [S].

    state_action_coverage: share of the pairs (state, action) that some agent visited.
    mu_coverage: share of the cells (state, tenth of the population) that the population
    distribution visited. mu_spread and xi_spread: mean L1 distance of an episode's distribution
    over states (over states and actions) from its mean over episodes at the same step.
    """
    mu = joint.sum(-1)
    tenth = np.minimum((mu * MU_BINS).astype(int), MU_BINS - 1)
    n_obs = mu.shape[1]
    return {
        "state_action_coverage": float((joint.max(0) > 0).mean()),
        "mu_coverage": len(np.unique(tenth + MU_BINS * np.arange(n_obs))) / (MU_BINS * n_obs),
        "mu_spread": _spread(mu, step),
        "xi_spread": _spread(joint.reshape(len(joint), -1), step),
    }


def _spread(values: Array, step: Array) -> float:
    """Mean over rows of the L1 distance from the mean of the rows with the same step."""
    mean = np.zeros((step.max() + 1, values.shape[1]))
    np.add.at(mean, step, values)
    mean /= np.bincount(step)[:, None]
    return float(np.abs(values - mean[step]).sum(1).mean())


def difference(
    card: Mapping[str, Any], recipe_sha256: str, spec: TaskSpec, arrays: Mapping[str, Any]
) -> str:
    """`mismatch` of a file's arrays; data that cannot be measured are those of no card."""
    try:
        found = measure(spec, arrays)
    except UserError as error:
        return str(error).rstrip(".")
    return mismatch(card, recipe_sha256, found)


def mismatch(card: Mapping[str, Any], recipe_sha256: str, found: Mapping[str, Any]) -> str:
    """Why data of a recipe are not those of a card; "" where recipe and statistics agree.

    `found` is what `measure` returns. The mean and the quantiles of the team return must lie within
    3 standard errors.
    """
    if not recipe_sha256 or card["recipe_sha256"] != recipe_sha256:
        return f"the recipe is {recipe_sha256[:12] or 'unknown'}, not {card['recipe_sha256'][:12]}"
    for name in ("episodes", "agents"):
        if card["counts"][name] != found["counts"][name]:
            return f"{name} are {found['counts'][name]}, not {card['counts'][name]}"
    n, known, new = found["counts"]["episodes"], card["statistics"], found["statistics"]
    slack = 1e-6 * (1 + abs(known["return_mean"]))
    spread = max(known["return_sd"], new["return_sd"]) * np.sqrt(2 / n)
    if abs(known["return_mean"] - new["return_mean"]) > 3 * spread + slack:
        return (
            f"the mean return is {new['return_mean']:.5g}, which is more than 3 standard errors"
            f" from {known['return_mean']:.5g}"
        )
    levels, quantiles = known["return_levels"], known["return_quantiles"]
    for level, value in zip(levels[1:-1], new["return_quantiles"][1:-1], strict=True):
        margin = 3 * np.sqrt(2 * level * (1 - level) / n)
        low, high = np.interp([level - margin, level + margin], levels, quantiles)
        low = low if level > margin else -np.inf  # a sample's ends bound nothing
        high = high if level + margin < 1 else np.inf
        if not low - slack <= value <= high + slack:
            return (
                f"the {level} quantile of the returns is {value:.5g}, expected {low:.5g} to"
                f" {high:.5g}"
            )
    return ""
