"""Where the time of an update goes, beside its floor.

The floor of an update is what no implementation of its equations avoids: its matrix products,
forward and backward, found by watching some updates, and run again on tensors of the same shapes
and strides with nothing between them. (A product with a single output is a weighted sum here and no
matrix product; it counts against us.)
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark import launch
from benchmark.algorithm import Algorithm, build_group
from benchmark.batch import Batch
from benchmark.train import Run, settled

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
CYCLE = 6  # updates in a turn, so that delayed actors have their share
# Parts of an update by the names of torch's operators; the first that fits counts.
PARTS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "convolution", "mkldnn", "linear"),
    "optimiser": ("_fused_adam", "_foreach"),
    "random numbers": ("normal", "uniform", "random", "bernoulli", "multinomial", "exponential"),
    "copies and look-ups": (
        "copy_", "clone", "cat", "stack", "index", "gather", "scatter", "embedding", "select",
        "fill", "zero", "pad", "slice_backward", "one_hot", "repeat",
    ),
}  # fmt: skip
ELEMENTWISE, COMPILED, REST = "element by element", "compiled graph", "Python and dispatch"


class Watch(TorchDispatchMode):
    """Notes the factors of every matrix product: shapes and strides of both."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[tuple[Any, Any], tuple[Any, Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            a, b = args[-2:]
            self.found.append(((a.shape, a.stride()), (b.shape, b.stride())))
        return func(*args, **(kwargs or {}))


def products(cycle: Callable[[], None]) -> tuple[Callable[[], None], float]:
    """The matrix products of a cycle of updates, with nothing else; and their operations, in
    GFLOP.
    """
    with Watch() as watch:
        cycle()
    made: dict[tuple[Any, Any], Tensor] = {}

    def tensor(key: tuple[Any, Any]) -> Tensor:
        if key not in made:
            shape, stride = key
            made[key] = torch.empty_strided(shape, stride).normal_()
        return made[key]

    pairs = [(tensor(a), tensor(b)) for a, b in watch.found]
    operations = sum(2 * a.numel() * b.shape[-1] for a, b in pairs)

    def run() -> None:
        for a, b in pairs:
            torch.matmul(a, b)

    run()
    return run, operations / 1e9


@dataclasses.dataclass(frozen=True)
class Profile:
    """Milliseconds of process CPU time of one update of a group of seeds."""

    sample: float  # drawing its batch
    update: float
    floor: float  # its matrix products alone
    parts: dict[str, float]  # of `update`, which they sum to; from the profiler's shares
    operators: list[tuple[str, float, float]]  # name, milliseconds, calls an update; the largest
    gflop: float  # of the matrix products


def build(run: Run) -> tuple[Algorithm, Callable[[], None], Callable[[], None]]:
    """A group on its run's data, what draws a cycle of batches, and what runs a cycle of updates.

    It is prepared for a handful of steps and taken through them: an algorithm of several stages is
    then in its last.
    """
    run = settled(run)
    assert run.data is not None
    rngs = [np.random.default_rng(seed) for seed in run.seeds]
    group = build_group(run.cls, run.config, run.task.spec, run.seeds, run.device)
    group.prepare(run.data, 4, rngs, run.task.model() if run.variant.track == "model" else None)
    data = run.data
    batches: list[Batch] = []

    def sample() -> None:
        batches[:] = [group.sample(data, rngs) for _ in range(CYCLE)]

    def cycle() -> None:
        for batch in batches:
            group.update(batch.to(run.device) if isinstance(batch, Batch) else batch)

    sample()
    cycle()
    return group, sample, cycle


def measure(run: Run, seconds: float = 2.0, rounds: int = 7) -> Profile:
    """Profile a run's update: sampling, updates and their products take turns for some `rounds` of
    one thread, `seconds` each in all; shown are medians.
    """
    torch.set_num_threads(1)
    launch.keep_memory()  # as runs do
    _, sample, cycle = build(run)
    eager = cycle
    if getattr(run.config, "compile", "off") == "on":  # a graph's products are inside it, unseen
        eager = build(dataclasses.replace(run, config=_eager(run.config)))[2]
    floor, gflop = products(eager)
    times: dict[str, list[float]] = {"sample": [], "update": [], "floor": []}
    for _ in range(rounds):
        for name, call in (("sample", sample), ("update", cycle), ("floor", floor)):
            count, start = 0, time.process_time()
            while count == 0 or time.process_time() - start < seconds / rounds:
                call()
                count += 1
            times[name].append(1e3 * (time.process_time() - start) / count / CYCLE)
    median = {name: float(np.median(spent)) for name, spent in times.items()}
    shares, operators = _shares(cycle)
    return Profile(
        median["sample"],
        median["update"],
        median["floor"],
        {name: share * median["update"] for name, share in shares.items()},
        [(name, share * median["update"], calls) for name, share, calls in operators],
        gflop / CYCLE,
    )


def _eager(config: Any) -> Any:
    return dataclasses.replace(config, compile="off")


def _shares(cycle: Callable[[], None]) -> tuple[dict[str, float], list[tuple[str, float, float]]]:
    """Shares of the parts in a cycle's time, and of the operators that take most, by torch's
    profiler. It slows what is between operators more than the operators.
    """
    from torch.profiler import ProfilerActivity, profile

    tries = []
    for _ in range(3):  # the quickest is the one that other processes disturbed least
        with profile(activities=[ProfilerActivity.CPU]) as found:
            begun = time.perf_counter()
            cycle()
            total = 1e6 * (time.perf_counter() - begun)
        events = [(e.key, e.self_cpu_time_total, e.count) for e in found.key_averages()]
        tries.append((total, events))
    total, events = min(tries, key=lambda item: item[0])
    total = max(total, sum(spent for _, spent, _ in events))
    parts: dict[str, float] = {}
    for name, spent, _ in events:
        part = part_of(name)
        parts[part] = parts.get(part, 0.0) + spent / total
    parts[REST] = parts.get(REST, 0.0) + max(0.0, 1.0 - sum(parts.values()))
    largest = sorted(events, key=lambda event: -event[1])[:8]
    return parts, [(name, spent / total, count / CYCLE) for name, spent, count in largest]


def part_of(operator: str) -> str:
    """The part of an update to which an operator of the profiler's table belongs."""
    if "Compiled" in operator:
        return COMPILED
    if not operator.startswith(("aten::", "cpp_fused")):
        return REST  # autograd's nodes and other book-keeping
    name = operator.removeprefix("aten::")
    for part, starts in PARTS.items():
        if name.startswith(starts):
            return part
    return ELEMENTWISE


def table(profile: Profile, seeds: Sequence[int]) -> str:
    """A profile as text."""
    lines = [f"{'part of an update':24} {'ms':>9} {'share':>6}"]
    for name, spent in sorted(profile.parts.items(), key=lambda item: -item[1]):
        lines.append(f"{name:24} {spent:9.3f} {spent / profile.update:6.0%}")
    each, least = profile.update / len(seeds), max(profile.floor, 1e-9)
    group = f"{len(seeds)} seeds, {each:.3f} ms each" if len(seeds) > 1 else "1 seed"
    lines.append(f"{'update':24} {profile.update:9.3f} {1:6.0%}   {group}")
    lines.append(
        f"{'floor':24} {profile.floor:9.3f} {profile.floor / profile.update:6.0%}   its matrix"
        f" products alone, at {1e3 * profile.gflop / least:.0f} GFLOP/s; an update takes"
        f" {profile.update / least:.1f} times that"
    )
    lines.append(f"{'its batch, drawn before':24} {profile.sample:9.3f}")
    lines += ["", f"{'operator':36} {'ms':>9} {'calls':>8}"]
    lines += [
        f"{name[:36]:36} {spent:9.3f} {calls:8.1f}" for name, spent, calls in profile.operators
    ]
    return "\n".join(lines)
