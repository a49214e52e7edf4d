"""What one step costs: OM2P against Diffusion-QL of K steps, and the estimators of mean flow.

    python tests/perf/bench_om2p.py [--parts policies estimators] [--record]

Process CPU time of one thread; peak memory is what a fresh process adds after its data and networks
are made. Every comparison names what it is against, on the shapes of mpe/spread (3 agents, 18
observations, 2 actions), one seed, batch 256.

policies    update, joint action of 1 and of 100 episodes, memory: the same networks and batch, a
            process each
estimators  one step of cloning by flow, one agent, 4 x 512 as released: flow matching without a
            derivative, each estimator, and the Jacobian of the whole batch that the release asks of
            JAX; a process each

What the estimators and the laws of times buy is measured by tests/studies/mean_flow.py, memory to
the byte by tests/studies/training_memory.py, an update's floor of matrix products by `make perf`.

`--record` writes leaderboard/perf/om2p.json with the machine and its load.
"""

from __future__ import annotations

import argparse
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
from benchmark import files, provenance, registry
from benchmark.checks.fixtures import toy_dataset

RECORD = Path(__file__).parents[2] / "leaderboard" / "perf" / "om2p.json"
TASK, BATCH = "mpe/spread-v1", 256
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "om2p": ("om2p", {}),
    **{f"diffusion_ql K={k}": ("diffusion_ql", {"denoising_steps": k}) for k in (1, 5, 10, 20)},
}
TARGETS = ("flow matching", "fd", "jvp", "vjac", "whole-batch Jacobian")


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


def updater(name: str, **config: Any) -> tuple[Any, Callable[[], Any]]:
    """An algorithm with random data of the task's shapes, and its next update."""
    cls, spec = algorithms.registry().cls(name), registry.task(TASK).spec
    data, rngs = toy_dataset(spec, n_episodes=200), [np.random.default_rng(0)]
    algorithm = cls(cls.Config(batch_size=BATCH, compile="off", **config), spec, (0,))
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


def cloner(name: str) -> Callable[[], None]:
    """One step of cloning by (M3), as `algorithms/om2p.py` takes it, with one of TARGETS."""
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

    return step


def estimator_row(name: str, rounds: int) -> dict[str, float]:
    step = cloner(name)
    row = {"peak_mb": peak(step)}
    if name == "whole-batch Jacobian":  # seconds a step
        rounds = min(rounds, 2)
    else:
        step()
    return row | {"step_ms": timed(step, rounds)}


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
    parts = ("policies", "estimators")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=25)
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
    if options.record:
        settings = {"task": TASK, "batch_size": BATCH, "rounds": rounds, "seeds": 1}
        after = provenance.machine()["load_1_5_15_min"]
        record = {"machine": machine, "load_after": after, "settings": settings, **found}
        files.write_json(RECORD, record)
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
