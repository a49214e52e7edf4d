"""Coarse-to-fine against flat generation by one trained MF-Diffuser, on squeeze with N = 1,000.

    python tests/perf/bench_hierarchy.py [--steps 1500] [--seeds 0 1 2] [--populations 16]

Prints, per sampler and population size: milliseconds per population (best of three), the score that
the generated populations themselves would earn as a share of the optimum, and the spread of their
mean action. The score of a trained *policy* is another number, which `make train` reports: there
every agent samples from one table, so that the mean action spreads by sigma_a / sqrt(N) only.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import datasets
from algorithms.mfdiffuser import MFDiffuser, MFDiffuserConfig
from algorithms.nn.hierarchy import cost_ratio, schedule
from benchmark import registry
from benchmark.task import Array

DATASET, TASK = "meanfield/squeeze-n1000/medium-v1", "meanfield/squeeze-n1000-v1"


def trained(config: MFDiffuserConfig, seed: int, steps: int) -> MFDiffuser:
    data, rng = datasets.load(DATASET, make=True), np.random.default_rng(seed)
    algorithm = MFDiffuser(config, data.spec, (seed,))
    algorithm.prepare(data, steps, [rng])
    for _ in range(steps):
        algorithm.update(algorithm.sample(data, [rng]).seed(0))
    algorithm.finish()
    return algorithm


def scores(actions: Array) -> Array:
    """What the populations [P, 1, N] earn, as rewards of the exact game: [P]."""
    model = registry.task(TASK).model()
    assert model is not None
    laws = np.stack([np.bincount(row, minlength=model.n_actions) for row in actions[:, 0]])
    return np.array([model.reward(0, law[None] / law.sum()).max() for law in laws])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--populations", type=int, default=16)
    parser.add_argument("--agents", type=int, nargs="+", default=[1_000, 4_000])
    parser.add_argument("--weighting", choices=["none", "return", "rank"], default="return")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = MFDiffuserConfig(weighting=options.weighting)
    print("seed      N  sampler  levels            cost     ms   score  sd(mean action)  policy")
    for seed in options.seeds:
        algorithm = trained(config, seed, options.steps)
        policy = scores_of_table(algorithm.policy_table())
        for agents in options.agents:
            for kind in ("off", "early", "late"):
                levels = schedule(
                    kind, agents, config.sampler_steps, config.first_level, config.branch
                )
                seconds = []
                for _ in range(3):
                    start = time.perf_counter()
                    generator = torch.Generator().manual_seed(seed)
                    _, act = algorithm.generate(options.populations, agents, kind, generator)
                    seconds.append(time.perf_counter() - start)
                actions = act.numpy()
                shown = " ".join(f"{level.particles}x{level.steps}" for level in levels)
                print(
                    f"{seed:4d} {agents:6d}  {kind:7s}  {shown:16s} {cost_ratio(levels):5.2f}"
                    f" {1e3 * min(seconds) / options.populations:6.1f}"
                    f" {scores(actions).mean():7.3f} {actions.mean(2).std():16.3f} {policy:7.3f}"
                )


def scores_of_table(table: Array) -> float:
    """What an infinite population earns that plays pi [1, 1, A]."""
    model = registry.task(TASK).model()
    assert model is not None
    return float(model.reward(0, table[0]).max())


if __name__ == "__main__":
    main()
