"""Batches a second of each back-end and of three usual ways to read data, side by side.

    python -m tests.perf.bench_loader [--steps 250000] [--rounds 7]

All variants run in turn inside one process, in rounds; the table shows the median of process CPU
time, so that a busy machine moves all of them alike. Data are random, three agents, 18 observations
and 2 actions each; the population has 1,000 agents with one integer observation.
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
from benchmark.task import Group, TaskSpec
from datasets.open import open_hdf5
from datasets.writer import Writer

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


def measure(variants: dict[str, Callable[[], object]], rounds: int, seconds: float) -> None:
    """Print batches a second of each variant, and the ratio to the first."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=250_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds a variant")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        team = write(Path(folder) / "team.hdf5", TEAM, options.steps)
        crowd = write(Path(folder) / "crowd.hdf5", CROWD, 5_000)
        backends = ("ram", "mmap", "shuffle")
        for path, agents in ((team, None), (crowd, 64)):
            loaded = {backend: datasets.load_file(path, backend) for backend in backends}
            for n_seeds in (1, 3):
                rngs = [np.random.default_rng(k) for k in range(n_seeds)]
                shown = f"{path.stem}, {n_seeds} seeds, agents = {agents or 'all'}"
                transitions: dict[str, Callable[[], object]] = {}
                if agents is None and n_seeds == 1:
                    transitions |= usual(path, 256)
                windows: dict[str, Callable[[], object]] = {}
                for backend, data in loaded.items():
                    transitions[backend] = partial(data.transitions, rngs, 256, agents=agents)
                    windows[backend] = partial(data.windows, rngs, 32, 24, agents=agents)
                print(f"{shown}: transitions, batch 256")
                measure(transitions, options.rounds, options.seconds)
                print(f"{shown}: windows of 24, batch 32")
                measure(windows, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
