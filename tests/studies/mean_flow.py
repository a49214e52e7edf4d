"""The parts of mean flow: how exact its estimators are, and what estimator and law of times buy.

    python -m tests.studies.mean_flow [--steps 6000] [--record]

error   relative error of the backward difference of width delta against forward mode, in float32
        and in float64, of one-step policies of the shapes of mpe/spread: an untrained 4 x 512 as
        released, and a 3 x 128 that was trained below by the exact derivative
toy     two modes in two dimensions, cloned by 3 x 128 networks, five seeds in one stack: energy
        distance to the data (with that of another sample of the data: the least there is),
        agreement in sign and size of samples, in one step and in 20, by estimator and by law of
        times with a share rho of r = t

No timing: what estimators cost is in leaderboard/perf/om2p.json. `--record` writes
leaderboard/studies/mean_flow.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from algorithms.nn import meanflow
from algorithms.nn.optim import Adam
from algorithms.nn.stacked import StackedMLP, generators
from algorithms.nn.team import normals
from benchmark import files, provenance

RECORD = Path(__file__).parents[2] / "leaderboard" / "studies" / "mean_flow.json"
SEEDS = tuple(range(5))
BATCH, POINTS, STEPS, LR, DELTA, JUMPS = 256, 2048, 6_000, 1e-3, 5e-3, (1, 20)
DELTAS = (1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 1e-1)
USUAL = ("logit_normal", 0.5)
CASES = [(*USUAL, how) for how in meanflow.ESTIMATORS] + [
    (law, rho, "fd") for law in meanflow.TIME_LAWS for rho in (0.0, 0.5) if (law, rho) != USUAL
]  # law of times, share of r = t, estimator

PAIRS = {
    "difference, exact derivative": ((*USUAL, "fd"), (*USUAL, "jvp")),
    "exponential, uniform times": (("exp", 0.5, "fd"), ("uniform", 0.5, "fd")),
}


def velocity(net: StackedMLP, *given: Tensor) -> meanflow.Velocity:
    return lambda z, r, t: net(torch.cat([*given, z, t, t - r], -1))


def errors(net: StackedMLP, given: int) -> list[dict[str, Any]]:
    """Each delta's relative error in both precisions, a number a seed: of the same weights and
    points, `given` numbers of an observation and two of an action.
    """
    gens = generators(SEEDS)
    obs, z, v = (normals(gens, torch.empty(len(gens), BATCH, width)) for width in (given, 2, 2))
    r, t = meanflow.draw_times(gens, (BATCH, 1), "uniform", 0.0)
    t = t.clamp(min=max(DELTAS))  # a backward difference stays in [0, 1]
    rows: list[dict[str, Any]] = [{"delta": delta} for delta in DELTAS]
    for dtype in (torch.float32, torch.float64):
        own = [x.to(dtype) for x in (z, r, t, v)]
        u = velocity(net.to(dtype), obs.to(dtype))
        with torch.no_grad():
            value = u(*own[:3])
        exact = meanflow.time_derivative(u, *own, value, "jvp", 0.0)
        for row in rows:
            found = meanflow.time_derivative(u, *own, value, "fd", row["delta"])
            error = (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
            row[str(dtype).removeprefix("torch.")] = [float(f"{x:.4g}") for x in error]
    net.to(torch.float32)
    return rows


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """2 E|a - b| - E|a - a'| - E|b - b'| of two samples of points [K, M, A]: [K]."""
    across, own, others = (torch.cdist(x, y).mean((1, 2)) for x, y in ((a, b), (a, a), (b, b)))
    return 2 * across - own - others


def two_modes(gens: list[torch.Generator], n: int) -> Tensor:
    """Points about (-0.8, -0.8) and (0.8, 0.8), [K, n, 2]."""
    mode = torch.stack([torch.randint(2, (n, 1), generator=gen) for gen in gens]) * 1.6 - 0.8
    return mode + 0.1 * normals(gens, mode.expand(-1, -1, 2))


def cloned(law: str, rho: float, how: str, steps: int) -> tuple[StackedMLP, dict[str, Any]]:
    """The networks of all seeds, trained on two modes, and how good their samples are."""
    gens = generators(SEEDS)
    net = StackedMLP(gens, (), (4, 128, 128, 128, 2), F.gelu)
    u, adam = velocity(net), Adam(list(net.parameters()), LR)
    for _ in range(steps):
        x = two_modes(gens, BATCH)
        r, t = meanflow.draw_times(gens, (BATCH, 1), law, rho)
        t = t.clamp(min=DELTA)
        z, v = meanflow.interpolate(x, normals(gens, x), t)
        value = u(z, r, t)
        slope = meanflow.time_derivative(u, z, r, t, v, value.detach(), how, DELTA)
        loss = (value - meanflow.average_target(v, r, t, slope)).square().mean((1, 2)).sum()
        adam.step(torch.autograd.grad(loss, adam.parameters))
    row: dict[str, Any] = {"law": law, "rho": rho, "estimator": how}
    with torch.no_grad():
        truth, other = two_modes(gens, POINTS), two_modes(gens, POINTS)
        noise = normals(gens, truth)
        row["energy_distance_data"] = rounded(energy_distance(other, truth))
        for jumps in JUMPS:
            made = meanflow.generate(u, noise, jumps)
            row[f"energy_distance_{jumps}"] = rounded(energy_distance(made, truth))
            row[f"same_sign_{jumps}"] = rounded((made.prod(-1) > 0).float().mean(1))
            row[f"mean_size_{jumps}"] = rounded(made.abs().mean((1, 2)))
    return net, row


def rounded(values: Tensor) -> list[float]:
    return [round(float(x), 5) for x in values]


def measure(steps: int = STEPS, say: Callable[[str], None] = print) -> dict[str, Any]:
    released = StackedMLP(generators(SEEDS), (), (18 + 4, 512, 512, 512, 512, 2), F.gelu)
    found: dict[str, Any] = {
        "error": [{"network": "untrained 4 x 512"} | row for row in errors(released, 18)],
        "toy": [],
    }
    for case in CASES:
        net, row = cloned(*case, steps)
        found["toy"].append(row)
        if case == (*USUAL, "jvp"):
            found["error"] += [{"network": "trained 3 x 128"} | row for row in errors(net, 0)]
        means = ", ".join(
            f"{k} {sum(v) / len(v):.3f}" for k, v in row.items() if isinstance(v, list)
        )
        say(f"{case[0]:12} rho {case[1]} {case[2]:4}: {means}")
    found["pairs"] = pairs(found["toy"])
    return found


def pairs(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One-step energy distances that claims compare, seeds of both side by side."""
    seeds = {(row["law"], row["rho"], row["estimator"]): row["energy_distance_1"] for row in rows}
    return [
        {"what": what, "ours": seeds[ours], "other": seeds[other]}
        for what, (ours, other) in PAIRS.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.steps, lambda line: print(line, flush=True))
    for row in found["error"]:
        shown = ", ".join(f"{k} {max(v):.2g}" for k, v in row.items() if isinstance(v, list))
        print(f"{row['network']}, delta {row['delta']:g}: largest relative error {shown}")
    if options.record:
        settings = {"seeds": list(SEEDS), "steps": options.steps, "batch": BATCH, "lr": LR}
        settings |= {"delta": DELTA, "points": POINTS}
        files.write_json(RECORD, {"machine": provenance.machine(), "settings": settings, **found})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
