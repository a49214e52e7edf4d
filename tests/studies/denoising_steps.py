"""What more denoising steps buy OMAD: score after equal play, and processor time, for K = 1 to 16.

    python -m tests.studies.denoising_steps [--steps 1 2 4 16] [--seeds 0 1 2 3 4] [--record]

Every K is trained on mpe/spread-v1 with the settings, environment steps and evaluation of the quick
protocol, all seeds in one group; only K differs. The scores of K = 8 are those of the committed
records. Time is that of one thread's processor, which other load does not stretch: of an update of
256 transitions, and of a joint action in one episode and in 100 side by side, as in evaluations.
Runs are kept in --out, so that one that was ended goes on from its checkpoint when asked again.

`--record` writes leaderboard/studies/denoising_steps.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import algorithms
from benchmark import files, provenance, record, registry, runner
from benchmark.checks.fixtures import toy_dataset
from benchmark.protocol import protocol
from benchmark.record import Record
from benchmark.train import Run
from tests.perf.race import race

ROOT = Path(__file__).parents[2] / "leaderboard"
RECORD = ROOT / "studies" / "denoising_steps.json"
TASK, ROW, OURS = "mpe/spread-v1", "omad", 8
STEPS = (1, 2, 4, 8, 16)
PAIRS = ((1, 8), (8, 16))  # what the claim compares
ROUNDS = 21


def planned(k: int, seeds: Sequence[int], folder: Path, **how: Any) -> Run:
    """The run of a K, all seeds in one group."""
    cls, _, variant = algorithms.registry().row(ROW)
    quick = replace(protocol("quick"), group=len(seeds))
    how = {"seeds": seeds, "rankable": False} | how
    how["overrides"] = {"denoising_steps": k} | how.get("overrides", {})
    (run,) = runner.plan(ROW, cls, variant, registry.task(TASK), None, quick, folder, **how)
    return run


def committed() -> list[Record]:
    """The board's records of the row with the present code and its default settings."""
    cls, _, variant = algorithms.registry().row(ROW)
    config = cls.Config(**variant.resolve(TASK, "quick")[0])
    found = record.read_all([ROOT / "results" / TASK / "none" / ROW])
    code = provenance.code_sha256(cls)
    kept = [item for item in found if item.protocol == "quick" and item.code_sha256 == code]
    return sorted((x for x in kept if cls.Config(**x.config) == config), key=lambda x: x.seed)


def scored(records: Sequence[Record]) -> dict[str, Any]:
    """Seeds with the mean return and the score of each; a failed seed scores as random play."""
    reference = registry.task(TASK).reference()
    assert reference is not None
    values = [reference.random if x.failed else float(np.mean(x.team_returns)) for x in records]
    scores = [float(reference.score("return", value)) for value in values]
    return {
        "seeds": [x.seed for x in records],
        "returns": [round(value, 4) for value in values],
        "scores": [round(score, 4) for score in scores],
    }


def interval(name: str, spent: Sequence[float]) -> dict[str, float]:
    """The median with its 95% interval from order statistics."""
    ordered, n = sorted(spent), len(spent)
    first = max(0, int(n / 2 - 0.98 * math.sqrt(n)))
    ends = {"": float(np.median(ordered)), "_low": ordered[first], "_high": ordered[n - 1 - first]}
    return {f"{name}{end}": round(value, 5) for end, value in ends.items()}


def costs(steps: Sequence[int], rounds: int = ROUNDS) -> dict[int, dict[str, float]]:
    """K -> processor milliseconds of one seed's update and joint actions; all K take turns."""
    cls, _, variant = algorithms.registry().row(ROW)
    spec = registry.task(TASK).spec
    data, rngs = toy_dataset(spec, n_episodes=200), [np.random.default_rng(0)]
    config = cls.Config(**variant.resolve(TASK, "quick")[0] | {"compile": "off"})
    calls: dict[str, dict[int, Callable[[], Any]]] = {"update": {}, "act_1": {}, "act_100": {}}
    for k in steps:
        one = cls(replace(config, denoising_steps=k), spec, (0,), "cpu")
        one.prepare(data, 1, rngs)
        batch = one.sample(data, rngs)
        calls["update"][k] = lambda one=one, batch=batch: one.update(batch)
        for episodes in (1, 100):
            obs = np.zeros((1, episodes, spec.n_agents, spec.obs_dim), np.float32)
            calls[f"act_{episodes}"][k] = lambda one=one, obs=obs: one.act(obs, None, None, 0, True)
    found: dict[int, dict[str, float]] = {k: {} for k in steps}
    for what, variants in calls.items():
        timed = race({str(k): call for k, call in variants.items()}, rounds, seconds=0.5, warm=3)
        for k in steps:
            found[k] |= interval(f"{what}_ms", timed[str(k)])
    return found


def gains(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs of PAIRS that were measured, side by side."""
    by_k = {row["k"]: row["scores"] for row in rows}
    measured = [(a, b) for a, b in PAIRS if a in by_k and b in by_k]
    return [
        {"less": a, "more": b, "scores_less": by_k[a], "scores_more": by_k[b]} for a, b in measured
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, nargs="*", default=[k for k in STEPS if k != OURS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/denoising_steps"))
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cls, _, _ = algorithms.registry().row(ROW)
    rows = []
    for k in sorted({*options.steps, OURS}):
        if k == OURS:
            found = committed()
        else:
            run = planned(k, options.seeds, options.out / "checkpoints")
            found = runner.execute(run, options.out / "records")
        rows.append({"k": k} | scored(found))
        print(f"K = {k:2}: scores {rows[-1]['scores']}, mean {np.mean(rows[-1]['scores']):.1f}")
    if options.record:
        timed = costs(STEPS)
        settings = {"row": ROW, "task": TASK, "protocol": "quick", "gradient_steps": found[0].steps}
        settings |= {"env_steps": found[0].env_steps, "code_sha256": provenance.code_sha256(cls)}
        files.write_json(
            RECORD,
            {
                "machine": provenance.machine(),
                "settings": settings,
                "rows": rows,
                "gains": gains(rows),
                "costs": [{"k": k} | cost for k, cost in timed.items()],
            },
        )
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
