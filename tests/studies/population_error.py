"""How far N agents are from their mean field: max_t |mu_N(t) - mu(t)|_1, over N and B.

    python -m tests.studies.population_error [--most 4096] [--record]

All agents play the equilibrium of the game in which everybody acts; B of the N act at a step. Both
MF-Diffuser and TMF-PG predict N^(-1/2), TMF-PG for every B: the slope of log error on log N, with a
bootstrap interval over episodes. The returns' distance to the limit is measured besides, whose bias
falls faster.

`--record` writes leaderboard/studies/population_error.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import files, provenance, registry
from benchmark.envs.meanfield import solve
from benchmark.protocol import TUNING_SEEDS
from benchmark.task import Array, Task

RECORD = Path(__file__).parents[2] / "leaderboard" / "studies" / "population_error.json"
GAMES = ("resource", "queue", "beach-bar")
SHARES = {"1": lambda n: 1, "N/8": lambda n: n // 8, "N/2": lambda n: n // 2, "N": lambda n: n}
WORK = 30_000_000  # agent-steps of a cell, which sets its episodes
EPISODES = (8, 200)  # of a cell, at least and at most
RESAMPLES = 2_000


def task_of(game: str, n: int, b: int) -> Task:
    return registry.task(f"meanfield/{game}-n{n}{'' if b == n else f'-b{b}'}-v1")


def slope(sizes: list[int], samples: list[Array]) -> dict[str, float]:
    """Least-squares slope of log mean error on log N, with a 95% bootstrap interval."""
    rng, x = np.random.default_rng(len(samples)), np.log(sizes)
    fit = lambda means: float(np.polyfit(x, np.log(means), 1)[0])  # noqa: E731
    drawn = [fit([rng.choice(one, len(one)).mean() for one in samples]) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"slope": fit([one.mean() for one in samples]), "low": float(low), "high": float(high)}


def measure(most: int, games: Any = GAMES, work: int = WORK) -> list[dict[str, Any]]:
    sizes = [n for n in (16, 64, 256, 1024, 4096) if n <= most]
    rows = []
    for game in games:
        table = registry.task(f"meanfield/{game}-n16-v1").model()
        assert table is not None
        reference = table.solve()  # of the game in which all act
        shares = SHARES if game != "beach-bar" else {"N": SHARES["N"]}
        for label, share in shares.items():
            samples, cells = [], []
            for n in sizes:
                task = task_of(game, n, share(n))
                model = task.model()
                assert model is not None
                pi = np.repeat(reference, model.horizon // len(reference), axis=0)
                episodes = int(np.clip(work // (n * model.horizon), *EPISODES))
                first = TUNING_SEEDS[0]
                found, paid = solve.population_error(task, pi, range(first, first + episodes))
                samples.append(found)
                gap = paid.mean() - solve.policy_value(model, pi)
                spread = paid.std(ddof=1) / len(paid) ** 0.5
                cells.append(
                    {
                        "n": n,
                        "episodes": episodes,
                        "error": round(float(found.mean()), 6),
                        "error_sem": round(float(found.std(ddof=1) / len(found) ** 0.5), 6),
                        "return_gap": round(float(gap), 6),
                        "return_gap_sem": round(float(spread), 6),
                    }
                )
            fitted = {name: round(x, 4) for name, x in slope(sizes, samples).items()}
            rows.append({"game": game, "b": label, **fitted, "cells": cells})
            shown = " ".join(f"{cell['error']:.4f}" for cell in cells)
            print(
                f"{game:10} B = {label:4} slope {fitted['slope']:.3f}"
                f" [{fitted['low']:.3f}, {fitted['high']:.3f}]   {shown}",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--most", type=int, default=4096)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    rows = measure(options.most)
    if options.record:
        settings = {"policy": "equilibrium of B = N", "work": WORK, "episodes": EPISODES}
        machine = provenance.machine()
        files.write_json(RECORD, {"machine": machine, "settings": settings, "rows": rows})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
