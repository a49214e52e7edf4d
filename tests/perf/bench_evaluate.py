"""Evaluation of 100 spread episodes with BC: lockstep arrays against a plain PettingZoo loop.

    python tests/perf/bench_evaluate.py

Process CPU time of one thread, the two interleaved, the median of the rounds' ratios. The weights
are untrained: the work is the same. The returns of the two must agree.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from algorithms.bc import BC
from benchmark import registry
from benchmark.evaluate import rollout
from benchmark.policy import Trained
from benchmark.protocol import PROTOCOLS

ROUNDS = 5


def plain_loop(task, policy, seeds: range) -> np.ndarray:
    """One episode after the other through the PettingZoo API, one policy call a step."""
    env = task.parallel_env()
    returns = np.zeros((len(seeds), task.spec.n_agents))
    for e, seed in enumerate(seeds):
        obs, _ = env.reset(seed=seed)
        policy.begin(1, seed)
        t = 0
        while env.agents:
            stacked = np.stack([obs[agent] for agent in env.possible_agents])[None]  # [1, N, D]
            act = policy.act(stacked, None, None, t, True)[0]
            obs, rew, _, _, _ = env.step(dict(zip(env.possible_agents, act, strict=True)))
            returns[e] += [rew[agent] for agent in env.possible_agents]
            t += 1
    return returns


def main() -> None:
    torch.set_num_threads(1)
    task = registry.task("mpe/spread-v1")
    policy = Trained(BC(BC.Config(), task.spec, (0,)), 0, task, "bc")
    seeds = PROTOCOLS["quick"].evaluation_seeds()
    ratios, ours, plain = [], [], []
    for _ in range(ROUNDS + 1):  # the first is warm-up
        begun = time.process_time()
        a = rollout(task, policy, seeds)
        middle = time.process_time()
        b = plain_loop(task, policy, seeds)
        end = time.process_time()
        assert np.abs(a - b).max() < 1e-3, "the two do not agree"
        ours.append(middle - begun)
        plain.append(end - middle)
        ratios.append(plain[-1] / ours[-1])
    print(f"{len(seeds)} episodes of mpe/spread-v1 with bc, {ROUNDS} rounds, one thread")
    print(f"  plain PettingZoo loop  {1e3 * statistics.median(plain[1:]):9.1f} ms")
    print(f"  lockstep arrays        {1e3 * statistics.median(ours[1:]):9.1f} ms")
    print(f"  ratio                  {statistics.median(ratios[1:]):9.1f} x  (goal: 20 x)")


if __name__ == "__main__":
    main()
