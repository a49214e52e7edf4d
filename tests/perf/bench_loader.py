"""Batches a second of each back-end and of four usual ways to read data, side by side.

    python tests/perf/bench_loader.py [--steps 250000] [--rounds 7] [--record]

All variants run in turn inside one process, in rounds; the table shows the median of process CPU
time, so that a busy machine moves all of them alike. Data are random, three agents, 18 observations
and 2 actions each; the population has 1,000 agents with one integer observation. "h5py, a group per
episode" is the layout of common dataset libraries, here uncompressed: observations with one row
more than steps, actions and rewards in a group for each episode; writing and loading all of it is
timed too, once, since it takes long.

`--record` writes leaderboard/perf/loader.json with the machine and its load.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

import datasets
from benchmark import files, provenance
from benchmark.task import Group, TaskSpec
from datasets.open import h5py, open_hdf5
from datasets.writer import Writer

RECORD = Path(__file__).parents[2] / "leaderboard" / "perf" / "loader.json"

TEAM = TaskSpec("toy/team-v1", (Group("agents", 3, 18, 2),), horizon=25)
CROWD = TaskSpec(
    "toy/crowd-v1", (Group("agents", 1000, 1),), 10, n_actions=10, n_obs=10, exchangeable=True
)


def write(path: Path, spec: TaskSpec, n_steps: int) -> Path:
    rng, t, n = np.random.default_rng(0), spec.horizon, spec.n_agents
    with Writer(path, spec, id="toy/any/random-v1") as writer:
        for _ in range(n_steps // (100 * t)):
            if spec.finite:
                obs = rng.integers(10, size=(100, t + 1, n, 1))
                act = rng.integers(10, size=(100, t, n))
            else:
                obs = rng.normal(size=(100, t + 1, n, spec.obs_dim))
                act = rng.uniform(-1, 1, (100, t, n, spec.act_dim))
            writer.append(
                obs=obs[:, :-1],
                act=act,
                rew=rng.normal(size=(100, t, n)),
                final_obs=obs[:, -1],
                terminated=np.zeros(100, bool),
                seeds=np.arange(100),
                policy=np.zeros(100, int),
            )
    return path


def usual(path: Path, batch: int) -> dict[str, Callable[[], object]]:
    """What replay buffers usually do with the same file: transitions of `batch`."""
    rng = np.random.default_rng(0)
    file = open_hdf5(path)
    names = ("obs", "act", "rew")
    stored = {name: file[f"steps/agents/{name}"] for name in names}
    arrays = {name: stored[name][()] for name in names}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    last = len(arrays["obs"]) - 1

    def h5py_rows() -> object:
        rows = np.unique(rng.integers(last, size=batch))
        return [stored[name][rows] for name in names] + [stored["obs"][rows + 1]]

    def numpy_arrays() -> object:
        rows = rng.integers(last, size=batch)
        picked = [arrays[name][rows] for name in names] + [arrays["obs"][rows + 1]]
        return [torch.from_numpy(part) for part in picked]

    def torch_tensors() -> object:
        rows = torch.from_numpy(rng.integers(last, size=batch))
        return [tensors[name][rows] for name in names] + [tensors["obs"][rows + 1]]

    return {
        "h5py, sorted rows": h5py_rows,
        "numpy arrays, one by one": numpy_arrays,
        "torch tensors, one by one": torch_tensors,
    }


def write_groups(path: Path, data: datasets.Dataset) -> Path:
    """The same data with a group per episode."""
    finals = data.arrays["final/agents/obs"]
    with h5py.File(path, "w") as file:
        for e in range(data.n_episodes):
            rows = slice(int(data.starts[e]), int(data.starts[e + 1]))
            group = file.create_group(f"episode_{e}")
            group.create_dataset("obs", data=np.concatenate([data.obs[rows], finals[e : e + 1]]))
            group.create_dataset("act", data=data.act[rows])
            group.create_dataset("rew", data=data.rew[rows])
    return path


def grouped(path: Path, data: datasets.Dataset, batch: int) -> Callable[[], object]:
    """Transitions of `batch` from a group per episode, whose handles are kept open."""
    rng, file, lengths = np.random.default_rng(0), h5py.File(path, "r"), data.index.lengths
    groups = [file[f"episode_{e}"] for e in range(data.n_episodes)]
    arrays = [tuple(group[name] for name in ("obs", "act", "rew")) for group in groups]

    def h5py_groups() -> object:
        picked = []
        for e in rng.integers(len(arrays), size=batch):
            t = int(rng.integers(lengths[e]))
            obs, act, rew = arrays[e]
            picked.append((obs[t : t + 2], act[t], rew[t]))
        return [torch.from_numpy(np.stack(part)) for part in zip(*picked, strict=True)]

    return h5py_groups


def whole_files(folder: Path, flat: Path) -> dict[str, float]:
    """CPU seconds of writing and of reading everything, flat and with a group per episode."""
    seconds = {}
    begun = time.process_time()
    rewritten = write(folder / "again.hdf5", TEAM, datasets.load_file(flat).n_steps)
    seconds["flat, made and written"] = time.process_time() - begun
    begun = time.process_time()
    data = datasets.load_file(rewritten, "ram")
    data.transitions([np.random.default_rng(0)], 1)
    seconds["flat, opened, hashed and read"] = time.process_time() - begun
    begun = time.process_time()
    groups = write_groups(folder / "groups.hdf5", data)
    seconds["a group per episode, written"] = time.process_time() - begun
    begun = time.process_time()
    with h5py.File(groups, "r") as file:
        for e in range(data.n_episodes):
            group = file[f"episode_{e}"]
            for name in ("obs", "act", "rew"):
                group[name][()]
    seconds["a group per episode, read"] = time.process_time() - begun
    for name, value in seconds.items():
        print(f"  {name:32s} {value:8.2f} s for {data.n_steps:,} steps")
    return seconds


def measure(
    variants: dict[str, Callable[[], object]], rounds: int, seconds: float
) -> dict[str, float]:
    """Print and return batches a second of each variant; printed too is the ratio to the first."""
    counts = {}
    for name, variant in variants.items():
        variant()
        start = time.process_time()
        variant()
        counts[name] = max(1, int(seconds / rounds / max(time.process_time() - start, 1e-6)))
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            start = time.process_time()
            for _ in range(counts[name]):
                variant()
            rates[name].append(counts[name] / (time.process_time() - start))
    base = np.median(rates[next(iter(rates))])
    for name, rate in rates.items():
        print(f"  {name:28s} {np.median(rate):10,.0f} /s   {np.median(rate) / base:8.1f} x")
    return {name: round(float(np.median(rate)), 1) for name, rate in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=250_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds a variant")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine, rates = provenance.machine(), {}
    with tempfile.TemporaryDirectory() as folder:
        team = write(Path(folder) / "team.hdf5", TEAM, options.steps)
        crowd = write(Path(folder) / "crowd.hdf5", CROWD, 5_000)
        print("whole files, CPU seconds")
        files_seconds = whole_files(Path(folder), team)
        backends = ("ram", "mmap", "shuffle")
        for path, agents in ((team, None), (crowd, 64)):
            loaded = {backend: datasets.load_file(path, backend) for backend in backends}
            for n_seeds in (1, 3):
                rngs = [np.random.default_rng(k) for k in range(n_seeds)]
                shown = f"{path.stem}, {n_seeds} seeds, agents = {agents or 'all'}"
                transitions: dict[str, Callable[[], object]] = {}
                if agents is None and n_seeds == 1:
                    transitions |= usual(path, 256)
                    name = "h5py, a group per episode"
                    transitions[name] = grouped(path.with_name("groups.hdf5"), loaded["ram"], 256)
                windows: dict[str, Callable[[], object]] = {}
                for backend, data in loaded.items():
                    transitions[backend] = partial(data.transitions, rngs, 256, agents=agents)
                    windows[backend] = partial(data.windows, rngs, 32, 24, agents=agents)
                print(f"{shown}: transitions, batch 256")
                rates[f"{shown}: transitions, batch 256"] = measure(
                    transitions, options.rounds, options.seconds
                )
                print(f"{shown}: windows of 24, batch 32")
                rates[f"{shown}: windows of 24, batch 32"] = measure(
                    windows, options.rounds, options.seconds
                )
    if options.record:
        record = {
            "machine": machine,
            "load_after": provenance.machine()["load_1_5_15_min"],
            "settings": vars(options),
            "whole_files_cpu_seconds": files_seconds,
            "batches_per_cpu_second": rates,
        }
        files.write_json(RECORD, record)
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
