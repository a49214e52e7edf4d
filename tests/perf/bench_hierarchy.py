"""Coarse-to-fine against flat generation by MF-Diffuser, on squeeze with 1,000 agents and more.

    python -m tests.perf.bench_hierarchy [--rounds 25] [--record]

One population of untrained networks of the default size, whose cost is that of trained ones, by the
three samplers in turn in one process and thread. A row has milliseconds of processor time, and how
many times longer flat generation takes: the median over the rounds' ratios, with its 95% interval
from order statistics. What coarse-to-fine sampling costs in score is the board's business.

`--record` writes leaderboard/perf/hierarchy.json with the machine and its load.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algorithms.mfdiffuser import MFDiffuser, MFDiffuserConfig
from algorithms.nn.hierarchy import cost_ratio, schedule
from benchmark import files, provenance, registry
from tests.perf.race import race

RECORD = Path(__file__).parents[2] / "leaderboard" / "perf" / "hierarchy.json"
SIZES = (1_000, 4_000, 16_000)
KINDS = ("off", "early", "late")


def rows_of(agents: int, rounds: int) -> list[dict[str, Any]]:
    """Each sampler at one size of the population."""
    spec, config = registry.task(f"meanfield/squeeze-n{agents}-v1").spec, MFDiffuserConfig()
    algorithm = MFDiffuser(config, spec, (0,))
    generator = torch.Generator().manual_seed(0)
    calls: dict[str, Callable[[], Any]] = {
        kind: partial(algorithm.generate, 1, agents, kind, generator) for kind in KINDS
    }
    times = race(calls, rounds, seconds=0.0, warm=2)
    rows = []
    for kind in KINDS:
        levels = schedule(kind, agents, config.sampler_steps, config.first_level, config.branch)
        ratios = np.sort(np.divide(times["off"], times[kind]))
        first = max(0, int(rounds / 2 - 0.98 * rounds**0.5))
        rows.append(
            {
                "n": agents,
                "sampler": kind,
                "levels": " ".join(f"{level.particles}x{level.steps}" for level in levels),
                "network_calls": round(cost_ratio(levels), 4),
                "ms": round(float(np.median(times[kind])), 3),
                "faster": round(float(np.median(ratios)), 3),
                "faster_low": round(float(ratios[first]), 3),
                "faster_high": round(float(ratios[rounds - 1 - first]), 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine, rows = provenance.machine(), []
    print("     N  sampler  levels                     calls       ms   times faster than flat")
    for agents in SIZES:
        for row in rows_of(agents, options.rounds):
            rows.append(row)
            print(
                f"{agents:6,}  {row['sampler']:7}  {row['levels']:26} {row['network_calls']:5.2f}"
                f" {row['ms']:8.1f}   {row['faster']:.2f}"
                f" [{row['faster_low']:.2f}, {row['faster_high']:.2f}]",
                flush=True,
            )
    if options.record:
        files.write_json(RECORD, {"machine": machine, "rounds": options.rounds, "rows": rows})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
