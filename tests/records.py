"""Valid records, references and scales for tests, all made up."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.files import sha256
from benchmark.protocol import protocol
from benchmark.record import Cost, Provenance, Record, Tuning
from benchmark.task import Group, Reference, TaskSpec
from leaderboard.rows import Scale

TASK = "mpe/spread-v1"
DATASET = "mpe/spread/medium-v1"


def record(
    algo: str = "bc",
    seed: int = 0,
    mean: float = 50.0,
    *,
    protocol_name: str = "quick",
    failed: bool = False,
    **changes: Any,
) -> Record:
    """A valid record whose mean team return is `mean` up to rounding; `changes` set any field."""
    rule = protocol(protocol_name)
    rng = np.random.default_rng([seed, len(algo)])
    noise = rng.normal(0, 5, rule.episodes)  # [episode]
    team = [] if failed else (mean + noise - noise.mean()).round(6).tolist()
    steps = np.linspace(0, 1000, 21)  # [point]
    loss = (2 * np.exp(-steps / 300) + rng.normal(0, 0.03, 21) + 0.2).round(6)
    config: dict[str, Any] = {"lr": 3e-4, "hidden": 256}
    group = list(rule.seeds()) if seed in rule.seeds() else [seed]
    values: dict[str, Any] = {
        "key": sha256(f"{algo} {protocol_name} {group}".encode()),
        "algo": algo,
        "paper": "arXiv:2111.11188",
        "track": "offline",
        "execution": "local",
        "code_sha256": sha256(algo.encode()),
        "config": config,
        "steps": 1000,
        "seed": seed,
        "group": group,
        "compiled": False,
        "task": TASK,
        "dataset": DATASET,
        "dataset_sha256": sha256(DATASET.encode()),
        "rankable": True,
        "protocol": protocol_name,
        "protocol_version": 1,
        "first_episode_seed": 10_000,
        "status": "failed" if failed else "ok",
        "reason": "the loss became non-finite at step 400" if failed else "",
        "groups": ["agent"],
        "returns": [[value] for value in team],
        "team_returns": team,
        "curve": {"step": steps.tolist(), "actor_loss": loss.tolist()},
        "exact": {},
        "cost": Cost(
            train_seconds=12.5 + seed,
            update_ms=1.25,
            act_ms=0.04,
            evaluate_seconds=1.5,
            peak_mb=410.0,
            parameters=71_000,
            sampler_steps=1,
            device="cpu",
        ),
        "tuning": Tuning(configs_tried=8),
        "provenance": Provenance(
            commit="0123456789abcdef0123456789abcdef01234567",
            dirty=False,
            python="3.11.9",
            packages={"torch": "2.13.0", "mpe2": "1.1.1"},
            platform="Linux-x86_64",
            cpu="9f86d081884c7d65",
            threads=1,
            finished="2026-11-21T12:00:00Z",
        ),
        "checkpoint_sha256": sha256(f"{algo} {seed}".encode()),
    }
    return Record(**(values | changes))


def runs(algo: str, means: list[float], **changes: Any) -> list[Record]:
    """One record per mean, seeds 0 up."""
    return [record(algo, seed, mean, **changes) for seed, mean in enumerate(means)]


def reference(task: str = TASK, **changes: Any) -> Reference:
    values: dict[str, Any] = {
        "task": task,
        "random": 0.0,
        "random_sem": 0.1,
        "expert": 100.0,
        "expert_sem": 0.1,
        "episodes": 1000,
        "first_seed": 1000,
        "recipe": "made up for a test",
    }
    return Reference(**(values | changes))


def scale(task: str = TASK) -> Scale:
    """A cooperative task of three agents on which the raw team return is the score."""
    return Scale(TaskSpec(task, (Group("agent", 3, 18, 2),), horizon=25), reference(task))
