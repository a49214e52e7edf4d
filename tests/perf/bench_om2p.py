"""What one step costs and buys: OM2P against Diffusion-QL of K steps, and the parts of mean flow.

    python tests/perf/bench_om2p.py [--parts policies estimators floor delta toy] [--record]

Process CPU time of one thread; peak memory is what a fresh process adds after its data and networks
are made. Every comparison names what it is against, on the shapes of mpe/spread (3 agents, 18
observations, 2 actions), one seed, batch 256.

policies    update, joint action of 1 and of 100 episodes, memory: the same networks and batch, a
            process each
estimators  one step of cloning by flow, one agent, 4 x 512 as released: flow matching without a
            derivative, each estimator, and the Jacobian of the whole batch that the release asks of
            JAX; a process each
floor       an update of OM2P over the matrix products in it, forward and backward, in turns
delta       relative error of the backward difference against forward mode, by width
toy         two modes in two dimensions, cloned by 3 x 128: energy distance, agreement in sign and
            size of samples, by estimator and by law of times

`--record` writes leaderboard/perf/om2p.json with the machine and its load.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import algorithms
from algorithms.nn import meanflow
from algorithms.nn.optim import Adam
from algorithms.nn.stacked import StackedMLP, generators
from algorithms.om2p import OM2P
from benchmark import files, provenance, registry
from benchmark.checks.fixtures import toy_dataset

RECORD = Path(__file__).parents[2] / "leaderboard" / "perf" / "om2p.json"
TASK, BATCH = "mpe/spread-v1", 256
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "om2p": ("om2p", {}),
    **{f"diffusion_ql K={k}": ("diffusion_ql", {"denoising_steps": k}) for k in (1, 5, 10, 20)},
}
TARGETS = ("flow matching", "fd", "jvp", "vjac", "whole-batch Jacobian")
DELTAS = (1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 1e-1)


def memory(field: str) -> float:
    """A line of /proc/self/status in MB: VmRSS, or its peak VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def times(call: Callable[[], Any], rounds: int) -> list[float]:
    """CPU milliseconds of each call, sorted."""
    spent = []
    for _ in range(rounds):
        begun = time.process_time()
        call()
        spent.append(1e3 * (time.process_time() - begun))
    return sorted(spent)


def timed(call: Callable[[], Any], rounds: int) -> float:
    """Median CPU milliseconds of a call."""
    return statistics.median(times(call, rounds))


def between(name: str, call: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of a call, with the median's 95% interval from order statistics."""
    spent = times(call, rounds)
    first = max(0, int(rounds / 2 - 0.98 * rounds**0.5))
    low, high = spent[first], spent[rounds - 1 - first]
    return {name: statistics.median(spent), f"{name}_low": low, f"{name}_high": high}


def peak(call: Callable[[], Any]) -> float:
    """MB that a first call adds at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = memory("VmRSS")
    call()
    return memory("VmHWM") - before


def updater(name: str, mode: str = "off", **config: Any) -> tuple[Any, Callable[[], Any]]:
    """An algorithm with random data of the task's shapes, and its next update."""
    cls, spec = algorithms.registry().cls(name), registry.task(TASK).spec
    data, rngs = toy_dataset(spec, n_episodes=200), [np.random.default_rng(0)]
    algorithm = cls(cls.Config(batch_size=BATCH, compile=mode, **config), spec, (0,))
    algorithm.prepare(data, 1, rngs)
    batch = algorithm.sample(data, rngs)
    return algorithm, lambda: algorithm.update(batch)


def policy_row(name: str, rounds: int) -> dict[str, float]:
    algo, config = POLICIES[name]
    algorithm, update = updater(algo, **config)
    row = {"peak_mb": peak(update)}
    update()
    row |= between("update_ms", update, rounds)
    spec = algorithm.spec
    for episodes in (1, 100):
        obs = np.zeros((1, episodes, spec.n_agents, spec.obs_dim), np.float32)
        algorithm.begin(episodes, 0)
        algorithm.act(obs, None, None, 0, False)
        call = lambda obs=obs: algorithm.act(obs, None, None, 0, False)  # noqa: E731
        row[f"act_{episodes}_ms"] = timed(call, rounds)
    return row


def estimator_row(name: str, rounds: int) -> dict[str, float]:
    """One step of cloning by (M3), as `algorithms/om2p.py` takes it."""
    gens = generators((0,))
    net = StackedMLP(gens, (), (18 + 2 + 2, 512, 512, 512, 512, 2), F.gelu)
    adam = Adam(list(net.parameters()), 3e-4)
    obs, x, e = (torch.randn(1, BATCH, width, generator=gens[0]) for width in (18, 2, 2))
    r, t = meanflow.draw_times(gens, (BATCH, 1), "uniform", 0.0)
    z, v = meanflow.interpolate(x, e, t.clamp(min=5e-3))

    def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return net(torch.cat([obs, z, t, t - r], -1))

    def whole(z: Tensor, t: Tensor) -> Tensor:
        by_z, by_t = torch.func.jacrev(lambda z, t: u(z, r, t)[0], (0, 1))(z, t)  # [B, A, 1, B, .]
        return (by_z * v).sum((2, 3, 4)).add(by_t.sum((2, 3, 4))).unsqueeze(0).detach()

    def step() -> None:
        value = u(z, r, t)
        if name == "whole-batch Jacobian":
            slope = whole(z, t)
        else:
            how = "zero" if name == "flow matching" else name
            slope = meanflow.time_derivative(u, z, r, t, v, value.detach(), how, 5e-3)
        loss = (value - meanflow.average_target(v, r, t, slope)).square().mean()
        adam.step(torch.autograd.grad(loss, adam.parameters))

    row = {"peak_mb": peak(step)}
    if name == "whole-batch Jacobian":  # seconds a step
        rounds = min(rounds, 2)
    else:
        step()
    return row | {"step_ms": timed(step, rounds)}


def products(algorithm: OM2P) -> Callable[[], None]:
    """The matrix products of one update and nothing else, into memory that is there already.

    Of the critics' last layer, of width 1, none is counted.
    """
    calls: list[tuple[StackedMLP, bool, bool]] = []  # weight gradients? gradient to the input?
    actor, critic = algorithm.actor, algorithm.critic.body
    calls += [(actor, False, False)] * 2  # (2) and the next action of (5)
    calls += [(actor, True, False)] * 2  # (1) and (3)
    calls += [(critic, False, False), (critic, True, False), (critic, False, True)]
    work: list[tuple[Tensor, Tensor, Tensor]] = []
    for module, weights, inputs in calls:
        for i, layer in enumerate(module.linears):
            w = next(layer.parameters()).detach().flatten(0, -3)  # [S, in, out]
            if w.shape[-1] == 1:
                continue
            x, y = (torch.randn(len(w), BATCH, width) for width in w.shape[1:])
            work.append((x, w, y))
            if weights:
                work.append((x.transpose(1, 2), y, torch.empty_like(w)))
            if inputs or (weights and i):
                work.append((y, w.transpose(1, 2), torch.empty_like(x)))

    def run() -> None:
        for a, b, out in work:
            torch.bmm(a, b, out=out)

    return run


def floor_row(width: int, mode: str, rounds: int) -> dict[str, Any]:
    algorithm, update = updater("om2p", mode, width=width)
    floor = products(algorithm)
    for _ in range(3):
        update()
        floor()
    pairs = [(timed(update, 1), timed(floor, 3)) for _ in range(rounds)]
    return {
        "width": width,
        "compile": mode,
        "update_ms": statistics.median(a for a, _ in pairs),
        "floor_ms": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def delta_rows() -> list[dict[str, float]]:
    """Untrained 4 x 512; float64 is another precision of the same weights and points."""
    found: dict[str, list[float]] = {}
    for dtype in (torch.float32, torch.float64):
        gens = generators((0,))
        net = StackedMLP(gens, (), (18 + 2 + 2, 512, 512, 512, 512, 2), F.gelu).to(dtype)
        obs, z, v = (torch.randn(1, BATCH, w, generator=gens[0]).to(dtype) for w in (18, 2, 2))
        r, t = meanflow.draw_times(gens, (BATCH, 1), "uniform", 0.0)
        r, t = r.to(dtype), t.clamp(min=0.1).to(dtype)

        def u(z: Tensor, r: Tensor, t: Tensor, net: Any = net, obs: Tensor = obs) -> Tensor:
            return net(torch.cat([obs, z, t, t - r], -1))

        with torch.no_grad():
            value = u(z, r, t)
        exact = meanflow.time_derivative(u, z, r, t, v, value, "jvp", 0.0)
        found[str(dtype).removeprefix("torch.")] = [
            float((meanflow.time_derivative(u, z, r, t, v, value, "fd", d) - exact).norm())
            / float(exact.norm())
            for d in DELTAS
        ]
    return [
        {"delta": d} | {name: values[i] for name, values in found.items()}
        for i, d in enumerate(DELTAS)
    ]


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| of two samples of points."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def toy_rows(steps: int) -> list[dict[str, Any]]:
    """Every estimator at the default law, every law with forward differences, two shares r = t."""
    cases = [("logit_normal", 0.5, how) for how in meanflow.ESTIMATORS]
    cases += [
        (law, rho, "fd")
        for law in meanflow.TIME_LAWS
        for rho in (0.0, 0.5)
        if law != "logit_normal"
    ]
    rows = []
    for law, rho, how in cases:
        gens = generators((0,))
        net, gen = StackedMLP(gens, (), (4, 128, 128, 128, 2), F.gelu), gens[0]
        adam = Adam(list(net.parameters()), 1e-3)

        def u(z: Tensor, r: Tensor, t: Tensor, net: Any = net) -> Tensor:
            return net(torch.cat([z, t, t - r], -1))

        def data(n: int, gen: torch.Generator = gen) -> Tensor:
            mode = torch.randint(2, (1, n, 1), generator=gen) * 1.6 - 0.8
            return mode + 0.1 * torch.randn(1, n, 2, generator=gen)

        for _ in range(steps):
            r, t = meanflow.draw_times(gens, (BATCH, 1), law, rho)
            t = t.clamp(min=5e-3)
            x = data(BATCH)
            z, v = meanflow.interpolate(x, torch.randn(x.shape, generator=gen), t)
            value = u(z, r, t)
            slope = meanflow.time_derivative(u, z, r, t, v, value.detach(), how, 5e-3)
            loss = (value - meanflow.average_target(v, r, t, slope)).square().mean()
            adam.step(torch.autograd.grad(loss, adam.parameters))
        row: dict[str, Any] = {"law": law, "rho": rho, "estimator": how}
        with torch.no_grad():
            truth, noise = data(2048)[0], torch.randn(1, 2048, 2, generator=gen)
            for jumps in (1, 20):
                made = meanflow.generate(u, noise, jumps)[0]
                row[f"energy_distance_{jumps}"] = energy_distance(made, truth)
                row[f"same_sign_{jumps}"] = float((made.prod(-1) > 0).float().mean())
                row[f"mean_size_{jumps}"] = float(made.abs().mean())
        rows.append(row)
    return rows


def fresh(part: str, name: str, rounds: int) -> Any:
    """A row measured in a process of its own."""
    words = [sys.executable, __file__, "--one", part, name, "--rounds", str(rounds)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}")
    print("  ".join(f"{name:>18}" for name in rows[0]))
    for row in rows:
        cells = (f"{x:18.4g}" if isinstance(x, float) else f"{x!s:>18.18}" for x in row.values())
        print("  ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parts = ("policies", "estimators", "floor", "delta", "toy")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--toy-steps", type=int, default=6_000)
    parser.add_argument("--compile", nargs="+", choices=("off", "on"), default=("off", "on"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = options.rounds
    if options.one:
        part, name = options.one
        row = policy_row(name, rounds) if part == "policies" else estimator_row(name, rounds)
        print(json.dumps(row))
        return
    machine = provenance.machine()
    found: dict[str, list[dict[str, Any]]] = {}
    for part, names in (("policies", tuple(POLICIES)), ("estimators", TARGETS)):
        if part in options.parts:
            found[part] = [{"name": name} | fresh(part, name, rounds) for name in names]
            show(part, found[part])
    if "floor" in options.parts:
        cases = itertools.product((64, 256), options.compile)
        found["floor"] = [floor_row(width, mode, rounds) for width, mode in cases]
        show("floor", found["floor"])
    if "delta" in options.parts:
        found["delta"] = delta_rows()
        show("delta", found["delta"])
    if "toy" in options.parts:
        found["toy"] = toy_rows(options.toy_steps)
        show("toy", found["toy"])
    if options.record:
        settings = {"task": TASK, "batch_size": BATCH, "rounds": rounds, "seeds": 1}
        settings["toy_steps"] = options.toy_steps
        after = provenance.machine()["load_1_5_15_min"]
        record = {"machine": machine, "load_after": after, "settings": settings, **found}
        files.write_json(RECORD, record)
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
