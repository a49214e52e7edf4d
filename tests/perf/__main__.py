"""The suite's goals of speed and memory: goal, measured, floor, and whether it is met.

    python -m tests.perf [--full] [--only loader unet ...] [--record]

Every variant races against its plain counterpart (tests/perf/plain*.py) inside one process of one
thread: they take turns, shown is the median over the rounds of the ratio of their process CPU
times, and the first calls of each are left out. "Floor" is what the value would be if our side took
no longer than what it cannot avoid: the matrix products of its equations, or copying as many bytes.
`--full` adds the sizes that take longer. Nothing here is tuned to a machine.

`--record` writes leaderboard/perf/perf.json with the machine, its load and versions.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmark import files, provenance
from benchmark.errors import unknown_name
from tests.perf import goals_learning, goals_populations, goals_system
from tests.perf.race import Row

RECORD = Path(__file__).parents[2] / "leaderboard" / "perf" / "perf.json"
PARTS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "seeds": goals_learning.seeds,
    "optimiser": goals_learning.optimiser,
    "unet": goals_learning.unet,
    "one_step": goals_learning.one_step,
    "floors": goals_learning.floors,
    "loader": goals_system.loader,
    "evaluation": goals_system.evaluation,
    "games": goals_system.games,
    "populations": goals_populations.populations,
    "startup": goals_system.startup,
    "grid": goals_system.grid,
}
LEFT_OUT = {  # what has no row here -> why
    "training in chunks against training on everyone at once": (
        "an update sees some agents of each population, however many there are. Nothing is"
        " recomputed in chunks, and the time of an update that goes through everyone would be that"
        " of another gradient"
    ),
    "steps of the official code of MADiff, CORL, OMAR and JAX-CORL": (
        "no foreign code is run; plain counterparts of our own take its place, where there is a row"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the sizes that take longer too")
    parser.add_argument("--only", nargs="+", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    for name in options.only:
        if name not in PARTS:
            parser.error(str(unknown_name("part", name, PARTS)))
    torch.set_num_threads(1)
    machine, begun, rows = provenance.machine(), time.monotonic(), []
    spent: dict[str, float] = {}  # CPU seconds of each part
    print(f"{'ours: what it is compared with':62} {'goal':>11} {'measured':>12} {'floor':>12}")
    for name in options.only:
        start = time.process_time()
        for row in PARTS[name](options.full):
            rows.append({"part": name} | dataclasses.asdict(row) | {"met": row.met})
            print(row.line(), flush=True)
        spent[name] = round(time.process_time() - start, 1)
    met = sum(bool(row["met"]) for row in rows)
    print(f"{met} of {len(rows)} goals met, in {(time.monotonic() - begun) / 60:.1f} minutes")
    for what, why in LEFT_OUT.items():
        print(f"no row: {what}: {why}")
    if options.record:
        settings = {"full": options.full, "parts": options.only, "threads": 1}
        settings["minutes"] = round((time.monotonic() - begun) / 60, 1)
        after = provenance.machine()["load_1_5_15_min"]
        record = {"machine": machine, "load_after": after, "settings": settings}
        record |= {"cpu_seconds": spent, "goals": rows, "left_out": LEFT_OUT}
        files.write_json(RECORD, record)
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
