"""What a plan of a population costs against its size: full attention, DeepSets, coarse to fine.

    python tests/perf/bench_plans.py [--most 1000000] [--limit 300] [--record]

One plan of MF-Diffuser by 20 DDIM steps, untrained networks of the default size on squeeze (one
state, ten actions), one thread. Each cell is a fresh process: processor time, and how far its peak
memory rises above what it held before. A cell that outlives --limit seconds is "out of time", one
that the system ends or that fails to allocate is "out of memory"; larger populations of that row
are not tried and have the same result. Slopes are fitted to the logarithms from 1,000 agents on.

`--record` writes leaderboard/perf/plans.json with the machine and its load.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import files, provenance, registry
from tests.perf.bench_om2p import memory

RECORD = Path(__file__).parents[2] / "leaderboard" / "perf" / "plans.json"
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
ROWS: dict[str, dict[str, Any]] = {
    "attention": {"field": "attention"},
    "DeepSets": {},
    "coarse to fine": {"hierarchy": "late"},
}
MEMORY_GB = 8  # what a cell may take


def plan(row: str, agents: int) -> dict[str, float]:
    """CPU seconds and MB of one plan, in this process."""
    import resource

    from algorithms.mfdiffuser import MFDiffuser, MFDiffuserConfig

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GB << 30, MEMORY_GB << 30))
    torch.set_num_threads(1)
    spec = registry.task("meanfield/squeeze-n1000-v1").spec
    algorithm = MFDiffuser(MFDiffuserConfig(**ROWS[row]), spec, (0,))
    generator = torch.Generator().manual_seed(0)
    state = torch.zeros(1, agents, 1, dtype=torch.int64)
    algorithm.planner.plan(state[:, :64], 0, generator)  # what is loaded late
    held, begun = memory("VmRSS"), time.process_time()
    algorithm.planner.plan(state, 0, generator)
    return {"seconds": time.process_time() - begun, "mb": memory("VmHWM") - held}


def cell(row: str, agents: int, limit: float) -> dict[str, Any]:
    """The plan of a fresh process, or why there is none."""
    words = [sys.executable, "-m", "tests.perf.bench_plans", "--cell", row, str(agents)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"outcome": f"out of time ({limit:g} s)"}
    if done.returncode:
        if done.returncode < 0 or "alloc" in done.stderr or "MemoryError" in done.stderr:
            return {"outcome": f"out of memory ({MEMORY_GB} GB)"}
        raise SystemExit(done.stderr)
    return {"outcome": "ok", **json.loads(done.stdout)}


def slope(found: dict[int, dict[str, Any]], what: str) -> float | None:
    """Of log `what` on log N, from 1,000 agents on."""
    points = [(n, one[what]) for n, one in found.items() if n >= 1_000 and one["outcome"] == "ok"]
    if len(points) < 2:
        return None
    n, y = np.log(np.array(points)).T
    return float(np.polyfit(n, y, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--most", type=int, default=SIZES[-1])
    parser.add_argument("--limit", type=float, default=300.0)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--cell", nargs=2, metavar=("ROW", "N"))
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(plan(options.cell[0], int(options.cell[1]))))
        return
    rows = {}
    for row in ROWS:
        found: dict[int, dict[str, Any]] = {}
        for n in (n for n in SIZES if n <= options.most):
            last = next(reversed(found.values()), {"outcome": "ok"})
            found[n] = cell(row, n, options.limit) if last["outcome"] == "ok" else dict(last)
            shown = {k: round(v, 3) if k != "outcome" else v for k, v in found[n].items()}
            print(f"{row:15} N = {n:9,}  {shown}", flush=True)
        slopes = {what: slope(found, what) for what in ("seconds", "mb")}
        print(f"{row:15} slopes from 1,000 on: {slopes}", flush=True)
        rows[row] = {"cells": {str(n): one for n, one in found.items()}, "slopes": slopes}
    if options.record:
        settings = {"task": "meanfield/squeeze-n1000-v1", "sampler_steps": 20}
        files.write_json(
            RECORD, {"machine": provenance.machine(), "settings": settings, "rows": rows}
        )
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
