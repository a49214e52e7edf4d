"""Milliseconds per update of the team algorithms, beside their floor.

    python tests/perf/bench_team.py [--algos bc ...] [--widths 64 256] [--compile] [--record]

The floor of an algorithm is what no implementation of its equations avoids: the matrix products of
its updates, forward and backward, found by watching some updates, and run again on tensors of the
same shapes and strides with nothing between them. (A product with a single output is a weighted
sum here and no matrix product; it counts against us.)

Updates and their products run in turn inside one process, in rounds; shown is the median of process
CPU time, so that a busy machine moves both alike. The problem has the shapes of mpe/spread: three
agents, 18 observations and 2 actions each, a batch of 256, a group of three seeds. One cycle is six
updates, so that delayed actors have their share. Batches are drawn beforehand. OMSD is measured in
its second stage. Other settings are those of mpe/spread, with the width set. The goal is 3 times
the floor at width 64 and twice at 256, for bc, matd3bc, omar, om2p and omsd.

`--record` writes leaderboard/perf/team.json with the machine and its load.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import algorithms
from benchmark import files, provenance
from benchmark.algorithm import Algorithm, build_group
from benchmark.checks.fixtures import toy_dataset
from benchmark.profile import products
from benchmark.task import Group, TaskSpec

RECORD = Path(__file__).parents[2] / "leaderboard" / "perf" / "team.json"
SPEC = TaskSpec("mpe/spread-v1", (Group("agents", 3, obs_dim=18, act_dim=2),), horizon=25)
NAMES = ("bc", "matd3bc", "omar", "macql", "macql.joint", "cfcql", "om2p", "omsd")
GOALS = {64: 3.0, 256: 2.0}  # width -> times the floor
SEEDS = (0, 1, 2)
BATCH = 256
CYCLE = 6  # updates


def trained(row: str, width: int, compile: bool) -> tuple[Algorithm, Callable[[], None]]:
    """A group past its first updates, and what runs one cycle of further ones."""
    cls, _, variant = algorithms.registry().row(row)
    overrides = variant.resolve(SPEC.id, "quick")[0]
    fields = {field.name for field in dataclasses.fields(cls.Config)}
    overrides |= {"width": width, "batch_size": BATCH, "compile": "on" if compile else "off"}
    overrides = {name: value for name, value in overrides.items() if name in fields}
    data = toy_dataset(SPEC, n_episodes=100)
    group = build_group(cls, cls.Config(**overrides), SPEC, SEEDS)
    rngs = [np.random.default_rng(seed) for seed in SEEDS]
    group.prepare(data, 4, rngs)  # of four updates, the last ones are of the last stage
    batches = [group.sample(data, rngs) for _ in range(CYCLE)]

    def cycle() -> None:
        for batch in batches:
            group.update(batch)

    cycle()
    return group, cycle


def measure(
    row: str, width: int, compile: bool = False, rounds: int = 7, seconds: float = 0.5
) -> dict[str, float]:
    """Milliseconds of one update of one seed, of its products, and their ratio."""
    _, eager = trained(row, width, False)  # a compiled graph's products are inside it, unseen
    floor, operations = products(eager)
    cycle = trained(row, width, True)[1] if compile else eager
    times: dict[str, list[float]] = {"update": [], "floor": []}
    for _ in range(rounds):
        for name, run in (("update", cycle), ("floor", floor)):
            count, start = 0, time.process_time()
            while count == 0 or time.process_time() - start < seconds / rounds:
                run()
                count += 1
            times[name].append((time.process_time() - start) / count / CYCLE / len(SEEDS))
    update, least = (float(np.median(times[name])) for name in ("update", "floor"))
    return {
        "update_ms": round(1e3 * update, 4),
        "floor_ms": round(1e3 * least, 4),
        "ratio": round(float(np.median(np.divide(times["update"], times["floor"]))), 2),
        "gflop": round(operations / CYCLE / len(SEEDS), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--algos", nargs="+", default=list(NAMES))
    parser.add_argument("--widths", type=int, nargs="+", default=list(GOALS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds of each")
    parser.add_argument("--compile", action="store_true", help="measure compiled updates too")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine, rows = provenance.machine(), []
    print("algorithm     width  compiled  update ms   floor ms   ratio   GFLOP   (one seed)")
    for row in options.algos:
        for width in options.widths:
            for compiled in (False, True) if options.compile else (False,):
                found = measure(row, width, compiled, options.rounds, options.seconds)
                rows.append({"algo": row, "width": width, "compiled": compiled} | found)
                print(
                    f"{row:13s} {width:5d}  {'yes' if compiled else 'no':8s}"
                    f" {found['update_ms']:10.3f} {found['floor_ms']:10.3f}"
                    f" {found['ratio']:7.2f} {found['gflop']:7.4f}",
                    flush=True,
                )
    if options.record:
        record = {
            "machine": machine,
            "load_after": provenance.machine()["load_1_5_15_min"],
            "settings": vars(options) | {"batch_size": BATCH, "seeds": len(SEEDS), "cycle": CYCLE},
            "goal_times_the_floor": {str(width): goal for width, goal in GOALS.items()},
            "per_update_of_one_seed": rows,
        }
        files.write_json(RECORD, record)
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
