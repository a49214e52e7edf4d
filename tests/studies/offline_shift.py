"""What offline data cost MF-Diffuser as the population grows: the gap to the optimum against N.

    make grid ALGOS=mfdiffuser SEEDS="0 1 2 3 4" DATASETS="meanfield/squeeze-n100/medium-v1 \\
      meanfield/squeeze-n1000/medium-v1 meanfield/squeeze-n4000/medium-v1 \\
      meanfield/squeeze-n10000/medium-v1"
    python -m tests.studies.offline_shift [--seeds 0 1 2 3 4] [--record]

Two arms, on squeeze's medium data. `episodes`: 400 populations whatever N, from the committed
records. `transitions`: as many decisions whatever N, so that ten times the agents are a tenth of
the populations: 400, 40, 10 and 4. Each seed draws populations of its own from the listed data, so
that the interval covers the draw. A row has the slope of the gap, 100 less the score, on log10 N,
with a bootstrap interval over seeds and its upper 95% bound. The bound of the paper has no N in it
and does not say from how many populations the data come.

`--record` writes leaderboard/studies/offline_shift.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import algorithms
import datasets
from benchmark import files, provenance, record, registry, runner
from benchmark.protocol import protocol
from benchmark.task import Array
from datasets.library import load_file
from datasets.loader import Dataset
from datasets.writer import Writer

ROOT = Path(__file__).parents[2] / "leaderboard"
RECORD = ROOT / "studies" / "offline_shift.json"
ALGO, SIZES = "mfdiffuser", (100, 1_000, 4_000, 10_000)
TRANSITIONS = 40_000  # decisions of an arm's data: 400 populations of 100
RESAMPLES = 2_000


def dataset_of(n: int) -> str:
    return f"meanfield/squeeze-n{n}/medium-v1"


def score(item: record.Record) -> float:
    """Normalised score; a failed seed scores as random play."""
    reference = registry.task(item.task).reference()
    assert reference is not None
    value = 0.0 if item.failed else float(reference.score("return", item.mean_return()))
    return round(value, 4)


def committed(n: int, seeds: Sequence[int]) -> list[float]:
    """Scores of the committed records; raises KeyError where a seed has none."""
    where = ROOT / "results" / dataset_of(n) / ALGO
    code = provenance.code_sha256(algorithms.registry().cls(ALGO))
    found = {x.seed: score(x) for x in record.read_all([where]) if x.code_sha256 == code}
    return [found[seed] for seed in seeds]


def share(data: Dataset, episodes: int, seed: int, path: Path) -> Dataset:
    """Episodes of one-step data, drawn by a seed, as a file of its own."""
    pick = np.sort(np.random.default_rng(seed).choice(data.n_episodes, episodes, replace=False))
    with Writer(path, data.spec, id=f"study/{path.stem}/medium-v1") as writer:
        writer.append(
            obs=np.array(data.obs)[pick][:, None],
            act=np.array(data.act)[pick][:, None],
            rew=np.array(data.rew)[pick][:, None].astype(np.float64),
            final_obs=np.array(data.obs)[pick],  # one step: nothing follows
            terminated=np.zeros(episodes, bool),
            seeds=pick.astype(np.int64),
            policy=pick.astype(np.int32),
        )
    return load_file(path)


def trained(n: int, seed: int, folder: Path) -> float:
    """The score of a run on TRANSITIONS decisions of populations of n."""
    episodes = TRANSITIONS // n
    data = share(datasets.load(dataset_of(n)), episodes, seed, folder / f"n{n}-{seed}.hdf5")
    cls, _, variant = algorithms.registry().row(ALGO)
    task = registry.task(data.spec.id)
    where = folder / "checkpoints"
    how: dict[str, Any] = {"seeds": [seed], "rankable": False}
    (run,) = runner.plan(ALGO, cls, variant, task, data, protocol("quick"), where, **how)
    (item,) = runner.execute(run, folder / "records")
    return score(item)


def slope(scores: list[list[float]]) -> dict[str, float]:
    """Slope of the gap on log10 N, in points a decade, with intervals over seeds; scores[N][k]."""
    gaps = 100 - np.array(scores)  # [N, K]
    x = np.log10(SIZES) - np.log10(SIZES).mean()
    rng = np.random.default_rng(gaps.size)

    def fit(means: Array) -> Array:
        return np.asarray(x @ means / (x**2).sum())

    k = gaps.shape[1]
    draws = np.stack([row[rng.integers(k, size=(k, RESAMPLES))].mean(0) for row in gaps])
    low, high, bound = np.quantile(fit(draws), (0.025, 0.975, 0.95))
    found = {"slope": fit(gaps.mean(1)), "low": low, "high": high, "upper_95": bound}
    return {name: round(float(value), 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/offline_shift"))
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for arm in ("episodes", "transitions"):
        scores = []
        for n in SIZES:
            if arm == "episodes":
                scores.append(committed(n, options.seeds))
            else:
                scores.append([trained(n, seed, options.out) for seed in options.seeds])
            print(f"{arm:12} N = {n:6,}: {np.mean(scores[-1]):.1f}", scores[-1], flush=True)
        populations = [400 if arm == "episodes" else TRANSITIONS // n for n in SIZES]
        fitted = slope(scores)
        print(f"{arm:12} gap: {fitted}", flush=True)
        cells = [
            {"n": n, "populations": p, "scores": one}
            for n, p, one in zip(SIZES, populations, scores, strict=True)
        ]
        rows.append({"arm": arm, **fitted, "cells": cells})
    if options.record:
        settings = {"algo": ALGO, "tier": "medium", "protocol": "quick", "decisions": TRANSITIONS}
        machine = provenance.machine()
        files.write_json(RECORD, {"machine": machine, "settings": settings, "rows": rows})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
