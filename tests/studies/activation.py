"""How far TMF-PG's learners stay from equilibrium when B of N agents act at a step.

    python -m tests.studies.activation [--n 16] [--seeds 0 1 2] [--record]

Three learners and behaviour cloning, on resources and the queue: one that knows the game
(`tmfpg.oracle`), one that has logged data only (`tmfpg`, medium data made for each B), one that
plays populations of N agents (`tmfpg_sim`, as many episodes for each B). The gap is the exact
exploitability of the last policy in the game that it was trained for. It stands beside that of
uniform play in the same game and in the game in which all act, since games of turns last longer and
pay more often: dividing each B by its own scale alone would hide whether B matters.

`--record` writes leaderboard/studies/activation.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import algorithms
import datasets
from benchmark import files, provenance, registry, runner
from benchmark.envs.meanfield import solve
from benchmark.protocol import protocol

RECORD = Path(__file__).parents[2] / "leaderboard" / "studies" / "activation.json"
GAMES = ("resource", "queue")
SHARES = {"1": lambda n: 1, "N/8": lambda n: n // 8, "N/2": lambda n: n // 2, "N": lambda n: n}
LEARNERS = ("tmfpg.oracle", "tmfpg", "tmfpg_sim", "bc")
POPULATIONS = 8  # side by side in tmfpg_sim, which updates once they have all ended


def name_of(game: str, n: int, b: int) -> str:
    return f"meanfield/{game}-n{n}{'' if b == n else f'-b{b}'}"


def uniform_gap(task: str) -> float:
    model = registry.task(task).model()
    assert model is not None
    return solve.exploitability(model, solve.uniform_policy(model))


def settings(row: str, horizon: int) -> dict[str, Any]:
    """As many episodes between two updates whatever the horizon; quick has a horizon of 10."""
    if row != "tmfpg_sim":
        return {}
    steps = POPULATIONS * horizon
    return {"warmup": steps, "utd": 1 / steps, "capacity": steps, "batch_size": 2 * steps}


def gap(row: str, name: str, seed: int, folder: Path) -> float:
    """Exploitability after a run of the quick protocol; its record stays in `folder`."""
    cls, _, variant = algorithms.registry().row(row)
    task = registry.task(f"{name}-v1")
    data = None
    if variant.track != "online":
        data = datasets.load(f"{name}/medium-v1", make=True)
    where, changes = folder / "checkpoints", settings(row, task.spec.horizon)
    how: dict[str, Any] = {"seeds": [seed], "overrides": changes, "rankable": False}
    (run,) = runner.plan(row, cls, variant, task, data, protocol("quick"), where, **how)
    (item,) = runner.execute(run, folder / "records")
    return round(item.exact["exploitability"], 5)


def measure(n: int, seeds: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    rows = []
    for game in GAMES:
        whole = uniform_gap(f"{name_of(game, n, n)}-v1")
        for row in LEARNERS:
            found = {}  # B -> its cell
            for label, share in SHARES.items():
                name = name_of(game, n, share(n))
                own = uniform_gap(f"{name}-v1")
                gaps = [gap(row, name, seed, folder) for seed in seeds]
                shares = [f"{100 * np.mean(gaps) / scale:.2f}%" for scale in (own, whole)]
                print(
                    f"{game:9} {row:13} B = {label:4} gap {np.mean(gaps):.4f}, of uniform play's"
                    f" {shares[0]}, at B = N {shares[1]}",
                    flush=True,
                )
                found[label] = {
                    "gaps": gaps,
                    "uniform": round(own, 5),
                    "uniform_when_all_act": round(whole, 5),
                    "scores": [round(100 * (1 - one / own), 4) for one in gaps],
                }
            for label, cell in found.items():
                named = {"game": game, "learner": row, "b": label}
                rows.append(named | cell | {"scores_when_all_act": found["N"]["scores"]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/activation"))
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    rows = measure(options.n, options.seeds, options.out)
    if options.record:
        found = {"protocol": "quick", "tier": "medium", "n": options.n, "seeds": options.seeds}
        machine = provenance.machine()
        files.write_json(RECORD, {"machine": machine, "settings": found, "rows": rows})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
