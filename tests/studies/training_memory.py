"""Memory of training, allocation by allocation: OM2P against Diffusion-QL, mean flow's estimators.

    python -m tests.studies.training_memory [--record]

The same networks, batch and shapes of mpe/spread as in tests/perf/bench_om2p.py, where a process's
resident memory is measured, with all that it holds besides. Here it is counted what torch's
allocator gives out and takes back: parameters, targets, moments, activations and gradients, which
is what a GPU would have to hold, though with workspaces and rounding of its own. A count is exact,
so that its interval is a point.

rows         a policy: OM2P, and Diffusion-QL of K steps
estimators   one step of cloning by mean flow, by what estimates the slope

training_mb   the peak from before the learner is made to the end of its second update
update_mb     what the second update adds at its peak to what is there before it

`--record` writes leaderboard/studies/training_memory.json.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmark import files, provenance
from tests.perf.bench_om2p import BATCH, POLICIES, TARGETS, TASK, cloner, updater

RECORD = Path(__file__).parents[2] / "leaderboard" / "studies" / "training_memory.json"
SIZES: dict[str, dict[str, int]] = {
    "suite": {},
    "released": {"width": 512, "depth": 4, "critic_depth": 4},
}


def peak(call: Callable[[], Any]) -> float:
    """MB (10^6 bytes) that tensors made by a call take at their peak. What it returns is kept until
    the count has ended.
    """
    gc.collect()  # else what is dropped in the call might be of others
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        kept = call()
    del kept
    events = found.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = top = 0
    for _, change in changes:
        live += change
        top = max(top, live)
    return top / 1e6


def measure(name: str, size: str) -> dict[str, Any]:
    """A row of the study: a policy of `POLICIES` with networks of a size of `SIZES`."""
    algo, config = POLICIES[name]

    def training() -> Any:
        learner, update = updater(algo, **config, **SIZES[size])
        for _ in range(2):
            update()
        return learner

    whole = peak(training)
    _, update = updater(algo, **config, **SIZES[size])
    update()
    row: dict[str, Any] = {"name": name, "size": size, "config": config | SIZES[size]}
    for field, value in {"training_mb": whole, "update_mb": peak(update)}.items():
        row |= {field: value, f"{field}_low": value, f"{field}_high": value}
    return row


def estimator(name: str) -> dict[str, Any]:
    step = cloner(name)
    step()
    return {"name": name, "update_mb": peak(step)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size in SIZES:
        for name in POLICIES:
            rows.append(row := measure(name, size))
            print(f"{size:9}{name:19}{row['training_mb']:8.2f}{row['update_mb']:8.2f}", flush=True)
    estimators = [estimator(name) for name in TARGETS]
    for row in estimators:
        print(f"{row['name']:28}{row['update_mb']:16.2f}")
    if options.record:
        settings = {"task": TASK, "batch_size": BATCH, "seeds": 1}
        about = {"machine": provenance.machine(), "settings": settings}
        files.write_json(RECORD, about | {"rows": rows, "estimators": estimators})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
