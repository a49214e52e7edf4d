"""Counterfactual against joint conservative Q-learning, as a team of spread grows from 2 to 6.

    python -m tests.studies.agents_cql [--parts control] [--agents 2 3 4 5 6] [--record]

`cfcql` penalises one agent's action at a time, `macql.joint` the whole joint action (one critic of
the team in both). Data of each N: 4,000 episodes of a scripted behaviour, the assignment controller
at a fifth of its force with Gaussian noise of 0.5, as far between uniform play and the controller
as the suite's medium data (a third to a half); nothing is learned for them, so that N alone
differs. All rows, `bc` the floor, have the settings and the updates of the quick protocol on MPE,
found on three agents. Scores: 0 is uniform play and 100 the noiseless controller, at each N.

`control`: both conservative rows again, without the logged action among the draws of the penalties,
as in the releases.

`--record` writes leaderboard/studies/agents_cql.json, after each N; what was not asked for stays,
unless settings, updates or code of a row are others by now.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import algorithms
from benchmark import files, provenance
from benchmark.algorithm import build_group
from benchmark.checks.fixtures import ToyDataset
from benchmark.envs.mpe.spread import Controller, Spread
from benchmark.evaluate import rollout_group, team_values
from benchmark.protocol import RECIPE_SEEDS, REFERENCE_SEEDS, protocol
from benchmark.reference import UniformPolicy
from benchmark.task import Array
from datasets.recipes import mpe as recipe

RECORD = Path(__file__).parents[2] / "leaderboard" / "studies" / "agents_cql.json"
ROWS = ("cfcql", "macql.joint", "bc")
AGENTS = (2, 3, 4, 5, 6)
SEEDS = (0, 1, 2, 3, 4)
EPISODES, REFERENCE_EPISODES = 4_000, 2_000
FORCE, NOISE = 0.2, 0.5  # of the behaviour: share of the controller's force, and its noise
PARTS = ("teams", "control")
CONTROL = {"logged": False}
FIRST_SEED = RECIPE_SEEDS[900] << 40  # of the data's episodes, above all seeds of evaluations


class Behaviour:
    """What `recipe.roll` asks of a behaviour: mean and spread of an action."""

    std = np.float32(NOISE)

    def __init__(self, n_agents: int) -> None:
        self.controller = Controller(n_agents)

    def mean(self, obs: Array) -> Array:
        return np.float32(FORCE) * self.controller.act(obs, None, None, 0, True).astype(np.float32)


def data_of(task: Spread, episodes: int = EPISODES) -> ToyDataset:
    """The behaviour's episodes, in memory."""
    seeds = FIRST_SEED + np.arange(episodes)
    behaviour: Any = Behaviour(task.n_agents)
    parts = [
        recipe.roll(task, behaviour, part) for part in np.split(seeds, max(1, episodes // 1000))
    ]
    obs, act, rew, last = (
        np.concatenate([part[name] for part in parts])
        for name in ("obs", "act", "rew", "final_obs")
    )  # [E, T, N, ...], last [E, N, D]
    after = np.concatenate([obs[:, 1:], last[:, None]], 1)
    flat = {"obs": obs, "act": act, "rew": rew.astype(np.float32), "next_obs": after}
    return ToyDataset(
        id=task.spec.id.replace("-v1", "/scripted-v1"),
        spec=task.spec,
        starts=np.arange(episodes + 1) * task.spec.horizon,
        returns=rew.sum(1),
        policy=np.zeros(episodes, np.int64),
        **{name: x.reshape(-1, *x.shape[2:]) for name, x in flat.items()},
    )


def returns(
    row: str,
    task: Spread,
    data: ToyDataset,
    seeds: Sequence[int],
    steps: int | None,
    config: dict[str, Any],
) -> tuple[list[float], float]:
    """Mean evaluation return of each seed, all trained in one group, and processor milliseconds of
    one seed's update.
    """
    cls, _, variant = algorithms.registry().row(row)
    changes, quick = variant.resolve(task.spec.id, "quick")
    steps = steps or quick
    group = build_group(cls, cls.Config(**changes | config), task.spec, tuple(seeds))
    group.prepare(data, steps, [np.random.default_rng([seed, 1]) for seed in seeds])
    rngs = [np.random.default_rng([seed, 0]) for seed in seeds]
    begun = time.process_time()
    for _ in range(steps):
        group.update(group.sample(data, rngs))
    spent = 1e3 * (time.process_time() - begun) / steps / len(seeds)
    played = rollout_group(task, group, len(seeds), protocol("quick").evaluation_seeds())
    return task.spec.team(played.returns).mean(-1).tolist(), spent


def measure(
    n_agents: int,
    seeds: Sequence[int] = SEEDS,
    episodes: int = EPISODES,
    steps: int | None = None,
    rows: Sequence[str] = ROWS,
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An N: ends of the scale, score of the data, and each seed's score by row of the suite, with
    changed settings where there is a `config`.
    """
    task = Spread(n_agents)
    data = data_of(task, episodes)
    where = REFERENCE_SEEDS[:REFERENCE_EPISODES]
    low = float(team_values(task, UniformPolicy(task.spec), where).mean())
    high = float(team_values(task, Controller(n_agents), where).mean())

    def score(value: float) -> float:
        return round(100 * (value - low) / (high - low), 4)

    found: dict[str, Any] = {
        "agents": n_agents,
        "random": round(low, 4),
        "controller": round(high, 4),
    }
    found["data"] = score(float(data.returns.mean()))
    for row in rows:
        values, spent = returns(row, task, data, seeds, steps, config or {})
        name = row.replace(".", "_")
        found |= {name: [score(value) for value in values], f"{name}_update_ms": round(spent, 3)}
        print(f"N = {n_agents}: {row:12} {found[name]}, data {found['data']:.1f}", flush=True)
    return found


def slopes(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Points an agent more, by least squares over N, of each seed."""
    n = np.array([row["agents"] for row in rows], dtype=float)
    weight = (n - n.mean()) / ((n - n.mean()) ** 2).sum()
    names = [row.replace(".", "_") for row in ROWS]
    return {
        name: (weight @ np.array([row[name] for row in rows])).round(4).tolist()
        for name in names
        if name in rows[0]
    }


def settings() -> dict[str, Any]:
    found: dict[str, Any] = {"seeds": list(SEEDS), "episodes": EPISODES, "protocol": "quick"}
    found |= {"force": FORCE, "noise": NOISE, "control": CONTROL, "rows": {}}
    for row in ROWS:
        cls, _, variant = algorithms.registry().row(row)
        changes, quick = variant.resolve(Spread().spec.id, "quick")
        config, code = asdict(cls.Config(**changes)), provenance.code_sha256(cls)
        found["rows"][row] = {"steps": quick, "config": config, "code_sha256": code}
    return found


def write(part: str, row: dict[str, Any]) -> None:
    """The record with a row of "rows" (the teams) or "control" new or in its former's place."""
    found = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if found.get("settings") != settings():
        found = {"machine": provenance.machine(), "settings": settings()}
    others = [former for former in found.get(part, []) if former["agents"] != row["agents"]]
    found[part] = sorted([*others, row], key=lambda each: each["agents"])
    if others:
        found["slopes" if part == "rows" else f"{part}_slopes"] = [slopes(found[part])]
    files.write_json(RECORD, found)
    print(f"wrote N = {row['agents']} of {part} to {RECORD}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--agents", type=int, nargs="+", default=list(AGENTS))
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in options.parts:
        how: Any = {} if part == "teams" else {"rows": ROWS[:2], "config": CONTROL}
        for n_agents in options.agents:
            row = measure(n_agents, **how)
            if options.record:
                write("rows" if part == "teams" else part, row)


if __name__ == "__main__":
    main()
