"""Trained best responses against exact ones, and what a soldier gains by leaving a trained army.

    make data DATASET=battle/skirmish-n64-rush/medium-v1
    python -m tests.studies.best_response [--parts exact] [--record]

`exact`: finite games of 64 agents, where uniform play, and half of it mixed with the equilibrium,
have an exact exploitability in the limit; `share` is the trained gain over it, and may pass 1 by
noise and because 64 agents are not the limit. `scripted`: skirmishes of 64 a side against rush.
`bc`, `mfdiffuser`: the same, trained here on medium data, seed 0, for about a tenth of the quick
protocol's steps. To play MF-Diffuser is dear: it plans with 5 steps of DDIM, in fewer episodes.

`--record` writes leaderboard/studies/best_response.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import algorithms
import datasets
from benchmark import checkpoint, files, provenance, registry, runner
from benchmark.envs.meanfield import solve
from benchmark.envs.meanfield.game import TablePolicy
from benchmark.evaluate import Policy
from benchmark.protocol import protocol
from benchmark.reference import UniformPolicy
from benchmark.respond import best_response
from benchmark.task import Task

RECORD = Path(__file__).parents[2] / "leaderboard" / "studies" / "best_response.json"
GAMES = ("beach-bar", "queue", "resource")
TASK = "battle/skirmish-n64-rush-v1"
DATA = "battle/skirmish-n64-rush/medium-v1"
STEPS = 300_000  # agent-steps of a round
TRAINED: dict[str, tuple[dict[str, Any], int]] = {  # row: settings, agent-steps of a round
    "bc": ({}, STEPS),
    "mfdiffuser": ({"sampler_steps": 5}, 40_000),
}
SHORT = {"bc": 500, "mfdiffuser": 400}  # gradient steps


def measure(task: Task, policy: Policy, name: str, steps: int = STEPS) -> dict[str, Any]:
    begun = time.process_time()
    found = asdict(best_response(task, policy, steps=steps))
    seconds = time.process_time() - begun
    row = {"task": task.spec.id, "policy": name}
    row |= {key: round(x, 5) if isinstance(x, float) else x for key, x in found.items()}
    print(
        f"{task.spec.id} {name:24} gain {found['gain']:.4f} [{found['low']:.4f},"
        f" {found['high']:.4f}] over {found['own']:.4f}, {seconds:.0f} s",
        flush=True,
    )
    return row | {"seconds": round(seconds, 1)}


def games(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for game in GAMES:
        task = registry.task(f"meanfield/{game}-n64-v1")
        model = task.model()
        assert model is not None
        for name, share in (("uniform", 1.0), ("half uniform", 0.5), ("equilibrium", 0.0)):
            pi = share * solve.uniform_policy(model) + (1 - share) * model.solve()
            exact = solve.exploitability(model, pi)
            row = measure(task, TablePolicy(pi), name) | {"exact": round(exact, 5)}
            rows.append(row | ({"share": round(row["gain"] / exact, 4)} if share else {}))
    return rows


def trained(row: str, folder: Path) -> Policy:
    """A row's seed 0, trained here."""
    data = datasets.load(DATA)
    cls, _, variant = algorithms.registry().row(row)
    how: dict[str, Any] = {"seeds": [0], "rankable": False, "steps": SHORT[row]}
    task, rule = registry.task(data.spec.id), protocol("smoke")
    overrides = TRAINED[row][0]
    (run,) = runner.plan(row, cls, variant, task, data, rule, folder, overrides=overrides, **how)
    runner.execute(run, folder / "records")
    path = checkpoint.latest(run.where)
    assert path is not None
    return algorithms.load(path)


def scripted(folder: Path) -> list[dict[str, Any]]:
    task = registry.task(TASK)
    policies = {"random": UniformPolicy(task.spec), "expert": task.expert()}
    policies |= task.reference_lines()
    return [measure(task, policy, name) for name, policy in sorted(policies.items())]


def learned(row: str, folder: Path) -> list[dict[str, Any]]:
    return [measure(registry.task(TASK), trained(row, folder), row, TRAINED[row][1])]


PARTS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {"exact": games, "scripted": scripted}
PARTS |= {row: functools.partial(learned, row) for row in TRAINED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("runs/best_response"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    for part in options.parts:
        rows = PARTS[part](options.out)
        if options.record:  # parts that were not asked for stay
            former = json.loads(RECORD.read_text()) if RECORD.exists() else {}
            settings = {"steps": STEPS, "data": DATA, "trained": TRAINED, "short": SHORT}
            about = {"machine": provenance.machine(), "settings": settings}
            files.write_json(RECORD, former | about | {part: rows})
            print(f"wrote {part} to {RECORD}")


if __name__ == "__main__":
    main()
