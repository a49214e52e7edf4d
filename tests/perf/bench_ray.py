"""What Ray adds to a job: jobs that only start, in local processes and on a Ray cluster in turn.

    python -m tests.perf.bench_ray [--rounds 5] [--jobs 6] [--record]

A job is `python -m benchmark --help` as a grid starts it, two of them at a time; shown is the wall
time of a job, the median over the rounds, and of the differences of each round. The first round,
in which Ray starts its workers, is told apart. The cluster is that of RAY_ADDRESS, or two nodes
with one core each that are started here. Needs the extra `ray`.

`--record` writes leaderboard/perf/ray.json with the machine, its load and versions.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark import files, provenance
from benchmark.executors import Ended, Executor, Local, OnRay

RECORD = Path(__file__).parents[2] / "leaderboard" / "perf" / "ray.json"
WORKERS = 2  # jobs at a time
JOB = ("--help",)


def seconds(place: Executor, jobs: int) -> float:
    """Wall time of a job, of `jobs` that run WORKERS at a time, as in a grid."""
    begun, started, ended = time.perf_counter(), 0, 0
    while ended < jobs:
        while started < min(jobs, ended + WORKERS):
            place.start(str(started), JOB, Path("nowhere"))
            started += 1
        for _, event in place.poll():
            if isinstance(event, Ended):
                assert event.code == 0, event
                ended += 1
        time.sleep(0.02)
    return (time.perf_counter() - begun) / jobs


def measure(places: dict[str, Executor], rounds: int, jobs: int) -> dict[str, Any]:
    """Seconds of a job at both places, and what the second one adds."""
    first = {name: round(seconds(place, jobs), 4) for name, place in places.items()}
    times: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(rounds):
        for name, place in places.items():
            times[name].append(round(seconds(place, jobs), 4))
    local, ray = times.values()
    added = statistics.median(b - a for a, b in zip(local, ray, strict=True))
    return {
        "seconds_a_job": {name: statistics.median(found) for name, found in times.items()},
        "added_seconds_a_job": round(added, 4),
        "first_round": first,
        "rounds": times,
    }


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """RAY_ADDRESS names a cluster; one of two nodes is started where it does not yet."""
    if "RAY_ADDRESS" in os.environ:
        yield
        return
    words = [sys.executable, "-m", "tests.ray_cluster"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, **pipes) as process:
        assert process.stdout is not None
        os.environ["RAY_ADDRESS"] = process.stdout.readline().strip()
        try:
            yield
        finally:
            del os.environ["RAY_ADDRESS"]
            process.communicate()  # the end of its input is the cluster's


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=6, help="of a round")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    machine = provenance.machine()
    with cluster():
        import ray

        remote = OnRay(WORKERS)
        found = measure({"local": Local(WORKERS), "ray": remote}, options.rounds, options.jobs)
        nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        remote.close()
    for name, spent in found["seconds_a_job"].items():
        print(f"{name:6} {spent:.3f} s a job, {found['first_round'][name]:.3f} in the first round")
    print(f"Ray adds {found['added_seconds_a_job']:.3f} s to a job (goal: under 1 s)")
    if options.record:
        settings = {"job": JOB, "jobs": options.jobs, "workers": WORKERS, "cores_of_nodes": nodes}
        settings["ray"] = importlib.metadata.version("ray")
        files.write_json(RECORD, {"machine": machine, "settings": settings} | found)
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
