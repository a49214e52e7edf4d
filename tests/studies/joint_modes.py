"""What factorised imitation loses: total variation from two-mode data, as agents grow from 2 to 6.

    python -m tests.studies.joint_modes [--steps 400] [--record]

Trains `bc` and `bc_joint` on probe/modes-nN/two-mode-v1, five seeds in one group, and takes the law
of joint actions from their probabilities, so that no sampling error enters. The distance is to the
law that the data were drawn from. Independent agents can do no better than 1 - 2^(1 - N).

`--record` writes leaderboard/studies/joint_modes.json.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch

import datasets
from algorithms.bc import BC
from algorithms.bc_joint import BCJoint
from benchmark import files, provenance, registry
from benchmark.algorithm import build_group
from benchmark.batch import Dataset
from benchmark.envs import probe
from benchmark.task import Array
from datasets.recipes import probe as recipe

RECORD = Path(__file__).parents[2] / "leaderboard" / "studies" / "joint_modes.json"
SEEDS = tuple(range(5))
AGENTS = range(2, 7)
STEPS = 400
SMALL: dict[str, Any] = {
    "width": 32,
    "depth": 1,
    "lr": 1e-2,
    "compile": "off",
}  # one observation needs no more


@torch.no_grad()
def joint_law(algorithm: BC | BCJoint) -> Array:
    """Probability of every joint action of a one-step game, [K] + [2] * N."""
    spec, n_seeds = algorithm.spec, len(algorithm.seeds)
    assert spec.n_actions is not None
    cells = list(itertools.product(range(spec.n_actions), repeat=spec.n_agents))
    act = torch.tensor(cells).T.expand(n_seeds, -1, -1)  # [K, N, R]
    obs, step = torch.zeros_like(act).unsqueeze(-1), torch.zeros_like(act)
    if isinstance(algorithm, BCJoint):
        logp = algorithm.log_prob(obs, act, step)
    else:
        logits = algorithm.policy(algorithm.encoder(obs, step))
        logp = logits.log_softmax(-1).gather(-1, act.unsqueeze(-1)).squeeze(-1)
    law: Array = logp.double().sum(1).exp().reshape(n_seeds, *(2,) * spec.n_agents).numpy()
    return law


def distances(cls: type[BC] | type[BCJoint], data: Dataset, steps: int) -> list[float]:
    """Total variation of each trained seed from the law of the data."""
    task = registry.task(data.spec.id)
    group = build_group(cls, cls.Config(**SMALL), data.spec, SEEDS)
    rngs = [np.random.default_rng([seed, 0]) for seed in SEEDS]
    group.prepare(data, steps, rngs)
    for _ in range(steps):
        group.update(group.sample(data, rngs))
    truth = recipe.law(task, "two-mode")
    assert isinstance(group, BC | BCJoint)
    return [probe.total_variation(law, truth) for law in joint_law(group)]


def measure(steps: int = STEPS, agents: Any = AGENTS) -> list[dict[str, Any]]:
    rows = []
    for n in agents:
        name = f"probe/modes-n{n}/two-mode-v1"
        datasets.make_dataset(name, progress=False)
        data = datasets.load(name)
        row: dict[str, Any] = {"agents": n, "dataset": name, "bound": probe.factorised_distance(n)}
        for algo, cls in (("bc", BC), ("bc_joint", BCJoint)):
            row[algo] = [round(x, 6) for x in distances(cls, data, steps)]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options.steps)
    print(f"{'agents':>6} {'1 - 2^(1-N)':>12} {'bc':>16} {'bc_joint':>16}")
    for row in rows:
        mean = {algo: np.mean(row[algo]) for algo in ("bc", "bc_joint")}
        spread = {algo: np.std(row[algo]) for algo in mean}
        shown = " ".join(f"{mean[algo]:8.4f}+-{spread[algo]:.4f}" for algo in mean)
        print(f"{row['agents']:6} {row['bound']:12.5f} {shown}")
    if options.record:
        code = {
            name: provenance.code_sha256(cls) for name, cls in (("bc", BC), ("bc_joint", BCJoint))
        }
        settings = {
            "config": SMALL,
            "steps": options.steps,
            "seeds": list(SEEDS),
            "code_sha256": code,
        }
        machine = provenance.machine()
        files.write_json(RECORD, {"machine": machine, "settings": settings, "rows": rows})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
