"""The two-agent bandit of OMSD: which controls coordinate, over beta and the greatest time t_max.

    python -m tests.studies.omsd_bandit [--seeds 10] [--starts 1000] [--record]

r = a_0 a_1 on data around (.8, .8) and (-.8, -.8), spread .1. Published: IND 0 +- 1, CTDE 0 +- 1,
JAL 1 +- 0, OMSD (here SEQ) 1 +- 0. `exact` has the scores of the diffused mixture and the true Q
in closed form and many starts, `learned` is `algorithms/omsd.py` on probe/bandit/two-mode-v1: its
stage 1 is trained once for each control, and stage 2 in every cell of the grid, from that stage 1.
beta is in units of the raw reward in both.

`--record` writes leaderboard/studies/omsd_bandit.json.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import datasets
from algorithms.nn.vpsde import add_noise, alpha_sigma, mixture_noise
from algorithms.omsd import OMSD
from benchmark import files, provenance
from benchmark.envs.probe import MODE
from benchmark.task import Array
from datasets.recipes.probe import SPREAD

RECORD = Path(__file__).parents[2] / "leaderboard" / "studies" / "omsd_bandit.json"
DATASET = "probe/bandit/two-mode-v1"
CONTROLS = {"IND": "ind", "CTDE": "ctde", "SEQ": "default", "JAL": "jal"}  # -> variant of omsd
BETAS = (0.0, 0.05, 0.1, 0.3)
T_MAXES = (0.2, 0.98)
T_MIN = 0.02
STEPS = 1_000  # of stage 2
LR = 0.01  # the published one
START = 0.3  # spread of atanh of the first actions
LEARNED: dict[str, Any] = {"width": 32, "blocks": 1, "batch_size": 128, "lr": LR, "compile": "off"}


# ---------------------------------------------------------------------------------- exact scores
def exact_eps(control: str, act: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """Noise of each agent's diffused action given what the control sees: all arguments [R, 2]."""
    noisy = add_noise(act.unsqueeze(-1), z.unsqueeze(-1), t)  # [R, 2, 1]
    modes = torch.tensor([[MODE], [-MODE]])
    even = torch.full((*act.shape, 2), 0.5)
    if control == "JAL":
        return mixture_noise(noisy.squeeze(-1), t[:, 0], modes.expand(2, 2), even[:, 0], SPREAD)
    if control == "SEQ":  # agent 1 knows agent 0's action, and with it how likely each mode is
        fit = -0.5 * ((act[:, :1] - modes.T) / SPREAD).square()  # [R, 2]
        even = torch.stack([even[:, 0], fit.double().softmax(-1).float()], 1)
    return mixture_noise(noisy, t, modes, even, SPREAD).squeeze(-1)


def exact_ascent(control: str, act: Tensor) -> Tensor:
    """Gradient of Q by each agent's own action, [R, 2]; IND: of Q_i(a_i) = E[a_i a_j | a_i]."""
    if control != "IND":
        return act.flip(-1)
    rate = MODE / SPREAD**2
    lean = torch.tanh(rate * act)  # P(mode + | a_i) - P(mode - | a_i)
    return MODE * (lean + rate * act * (1 - lean.square()))


def exact(control: str, beta: float, t_max: float, starts: int, steps: int = STEPS) -> Array:
    """Reward of every start after training by (3) of omsd: [starts]."""
    gen = torch.Generator().manual_seed(0)
    inner = (START * torch.randn(starts, 2, generator=gen)).requires_grad_()
    adam = torch.optim.Adam([inner], LR)
    for _ in range(steps):
        act = torch.tanh(inner)
        u = torch.rand(starts, 2, generator=gen)
        if control == "JAL":
            u = u[:, :1].expand(-1, 2)
        t = T_MIN + (t_max - T_MIN) * u
        z = torch.randn(starts, 2, generator=gen)
        with torch.no_grad():
            pull = alpha_sigma(t)[1].square() * exact_eps(control, act, t, z)
            direction = pull - beta * exact_ascent(control, act)
        adam.zero_grad()
        (direction * act).sum().backward()
        adam.step()
    reward: Array = torch.tanh(inner.detach()).prod(-1).numpy()
    return reward


# -------------------------------------------------------------------------------- learned scores
def learned(
    control: str, cells: Sequence[tuple[float, float]], seeds: int, steps: int = STEPS
) -> list[Array]:
    """Reward of every seed in each cell (beta, t_max): [cells][seeds]."""
    datasets.make_dataset(DATASET, progress=False)
    data = datasets.load(DATASET)
    group_seeds = tuple(range(seeds))
    overrides = {**OMSD.variants[CONTROLS[control]].config, **LEARNED, "policy_share": 0.5}
    config = OMSD.Config(**overrides)

    def group(config: Any) -> OMSD:
        made = OMSD(config, data.spec, group_seeds)
        made.prepare(data, 2 * steps, [np.random.default_rng([seed, 1]) for seed in group_seeds])
        return made

    first = group(config)
    rngs = [np.random.default_rng([seed, 0]) for seed in group_seeds]
    for _ in range(steps):
        first.update(first.sample(data, rngs))
    found, state = [], copy.deepcopy(first.state_dict())
    scale = float(first.reward_scale.mean())
    for beta, t_max in cells:
        own_rngs = copy.deepcopy(rngs)
        algorithm = group(dataclasses.replace(config, beta=beta / scale, t_max=t_max))
        algorithm.load_state_dict(state)
        for _ in range(steps):
            algorithm.update(algorithm.sample(data, own_rngs))
        act = algorithm.act(np.ones((seeds, 1, 2, 1), np.float32), None, None, 0, True)
        found.append(act[:, 0, :, 0].prod(-1))
    return found


def grid(
    seeds: int = 10,
    starts: int = 1_000,
    steps: int = STEPS,
    betas: Sequence[float] = BETAS,
    t_maxes: Sequence[float] = T_MAXES,
) -> list[dict[str, Any]]:
    """A row for each control and cell: mean and spread of r, share of r > 0; exact and learned."""
    cells = list(itertools.product(betas, t_maxes))
    rows = []
    for control in CONTROLS:
        trained = learned(control, cells, seeds, steps)
        for (beta, t_max), rewards in zip(cells, trained, strict=True):
            row: dict[str, Any] = {"control": control, "beta": beta, "t_max": t_max}
            row["exact"] = summary(exact(control, beta, t_max, starts, steps))
            row["learned"] = summary(rewards) | {"rewards": [round(float(r), 4) for r in rewards]}
            rows.append(row)
            shown = (f"{row[k]['mean']:6.2f} +- {row[k]['sd']:.2f}" for k in ("exact", "learned"))
            print(f"{control:5} beta {beta:<5} t_max {t_max:<5}", *shown, flush=True)
    return rows


def summary(rewards: Array) -> dict[str, float]:
    return {
        "mean": round(float(rewards.mean()), 4),
        "sd": round(float(rewards.std()), 4),
        "positive": round(float((rewards > 0).mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--starts", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = grid(options.seeds, options.starts, options.steps)
    if options.record:
        settings = vars(options) | {
            "code_sha256": provenance.code_sha256(OMSD),
            "config": LEARNED,
            "t_min": T_MIN,
            "dataset": DATASET,
        }
        settings.pop("record")
        machine = provenance.machine()
        files.write_json(RECORD, {"machine": machine, "settings": settings, "rows": rows})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
