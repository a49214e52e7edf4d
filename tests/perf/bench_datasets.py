"""How long datasets take to make and to load, every recipe and tier.

    python tests/perf/bench_datasets.py [--recipes mpe ...] [--record]

Process CPU time of one core, on the recipe's smallest example task. Making and loading are timed at
two sizes after a warm-up, in turns, and scaled along the line through the two medians to the size
of the tier: "timed" is the larger of the two sizes, "all" is scaled. A tier that is made within the
budget, or whose number of episodes cannot be set, is timed whole. Loading is the guarded open, the
hash over all values and the table in memory; "again" is the same with the hash remembered.

`--record` writes leaderboard/perf/datasets.json with the machine and its load.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import datasets
from benchmark import files, provenance, registry
from benchmark.task import Task
from datasets.recipe import Plan, Recipe, recipes
from datasets.writer import Writer

RECORD = Path(__file__).parents[2] / "leaderboard" / "perf" / "datasets.json"
SECONDS = 0.5  # of making, that the larger size takes at least
SMALLER = 4  # times smaller than that is the other size


def smallest(recipe: Recipe) -> Task:
    """The example task of a recipe with the fewest agents times steps."""
    tasks = []
    for task_id in registry.task_ids():
        name, _, version = task_id.rpartition("-v")
        if re.fullmatch(recipe.tasks, name) and int(version) == recipe.task_version:
            tasks.append(registry.task(task_id))
    return min(tasks, key=lambda task: task.spec.n_agents * task.spec.horizon)


def make(plan: Plan, path: Path, episodes: int) -> tuple[float, int]:
    """CPU seconds of making a file of about so many episodes, and how many there are."""
    module = plan.recipe.module()
    size = module.size
    module.size = lambda task, tier: episodes  # type: ignore[attr-defined]
    start = time.process_time()
    try:
        with Writer(path, plan.task.spec, id=plan.id, perm_seed=0) as writer:
            module.collect(plan.task, plan.tier, writer, lambda done: None)
    finally:
        module.size = size  # type: ignore[attr-defined]
    return time.process_time() - start, writer.appended


def load(path: Path) -> tuple[float, float]:
    """CPU seconds of the first load of a file, and of one that remembers its hash."""
    os.utime(path, (1, 1))  # old enough for the verification to be remembered
    path.with_name(f".{path.stem}.verified.json").unlink(missing_ok=True)
    seconds = []
    for _ in range(2):
        start = time.process_time()
        data = datasets.load_file(path, "ram", card={})
        data.transitions([np.random.default_rng(0)], 1)
        seconds.append(time.process_time() - start)
    return seconds[0], seconds[1]


def measure(plan: Plan, folder: Path, rounds: int) -> dict[str, Any]:
    path, full = folder / "made.hdf5", plan.episodes()
    larger = 1
    while larger < full:  # which is the warm-up too
        larger = min(full, 4 * larger)
        seconds, made = make(plan, path, larger)
        if seconds > SECONDS or made >= full:
            break
    load(path)
    sizes = [larger] if made >= full else [max(2, larger // SMALLER), larger]
    times: list[list[tuple[float, ...]]] = [[] for _ in sizes]  # of each size: make, load, again
    counts, megabytes = [0] * len(sizes), 0.0
    for _ in range(rounds):
        for k, size in enumerate(sizes):
            spent, counts[k] = make(plan, path, size)
            times[k].append((spent, *load(path)))
            megabytes = path.stat().st_size / 1e6
    timed = np.median(times[-1], axis=0)
    scaled = timed
    if len(sizes) == 2:
        slope = (timed - np.median(times[0], axis=0)) / (counts[1] - counts[0])
        scaled = timed + np.maximum(slope, 0.0) * (full - counts[1])
    return {
        "dataset": plan.id,
        "episodes_timed": counts[-1],
        "make_seconds_timed": round(float(timed[0]), 3),
        "episodes": full,
        "megabytes": round(megabytes * full / counts[-1], 1),
        "make_seconds": round(float(scaled[0]), 3),
        "load_seconds": round(float(scaled[1]), 3),
        "load_again_seconds": round(float(scaled[2]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--recipes", nargs="+", help="names of files of datasets/recipes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine, rows = provenance.machine(), []
    print(f"{'':42} {'timed':>18} {'all':>8}")
    print(
        f"{'dataset':42} {'episodes':>8} {'make, s':>9} {'episodes':>8} {'MB':>9} {'make, s':>9}"
        f" {'load, s':>9} {'again, s':>9}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for recipe in recipes():
            if options.recipes and recipe.file.stem not in options.recipes:
                continue
            task = smallest(recipe)
            name = task.spec.id.rpartition("-v")[0]
            for tier in recipe.tiers:
                plan = Plan(f"{name}/{tier}-v{recipe.version}", recipe, task, tier)
                if plan.missing_files():
                    print(f"{plan.id:42} left out: its behaviour is not committed")
                    continue
                row = measure(plan, Path(folder), options.rounds)
                rows.append(row)
                print(
                    f"{row['dataset']:42} {row['episodes_timed']:8,}"
                    f" {row['make_seconds_timed']:9.3f} {row['episodes']:8,}"
                    f" {row['megabytes']:9,.1f} {row['make_seconds']:9.2f}"
                    f" {row['load_seconds']:9.3f} {row['load_again_seconds']:9.3f}",
                    flush=True,
                )
    if options.record:
        after = provenance.machine()["load_1_5_15_min"]
        settings = {"rounds": options.rounds, "cpu_seconds_of_making": SECONDS}
        record = {"machine": machine, "load_after": after, "settings": settings, "rows": rows}
        files.write_json(RECORD, record)
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
