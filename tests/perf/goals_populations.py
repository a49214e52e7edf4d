"""Goals of populations up to a million agents: time, memory, and against attention."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algorithms.mfdiffuser import MFDiffuser, MFDiffuserConfig
from algorithms.nn.sets import CHUNK, SetDenoiser
from benchmark import registry
from benchmark.algorithm import build_group
from benchmark.checks.fixtures import toy_dataset
from benchmark.profile import products
from tests.perf import plain
from tests.perf.bench_om2p import memory
from tests.perf.race import Row, faster, race

MILLION = 1_000_000
GB_RETURNED = round(MILLION * 64 * 4 / 2**30, 3)  # a floor of what a denoising step adds

CHUNKED = (
    "what a chunk holds in a layer is more than a core keeps in its cache; a quarter of it would be"
    " faster, but that is a change of the code that all records of MF-Diffuser name"
)


def populations(full: bool) -> Iterator[Row]:
    """A denoising step of a population, particles of 64 numbers and a network 128 wide: how it
    grows, and against attention. With `full` a million agents too: time, against everyone at once,
    and memory. As in algorithms/nn/planner.py, particles are denoised in chunks, and 64 of them
    stand for the population.
    """
    torch.manual_seed(0)
    net, attention = SetDenoiser(1, 64, 128, 2), plain.AttentionDenoiser(1, 64, 128)
    k, stand_in = torch.zeros(1), MFDiffuserConfig().context

    @torch.no_grad()
    def chunked(x: Tensor) -> Tensor:
        return torch.cat([net(part, k, x[:, :stand_in]) for part in x.split(CHUNK, 1)], 1)

    @torch.no_grad()
    def at_once(x: Tensor) -> Tensor:
        return net(x, k)

    @torch.no_grad()
    def attend(x: Tensor) -> None:
        attention(x)

    @torch.no_grad()
    def subset(x: Tensor, m: int = 256) -> None:
        """Representatives are denoised; everyone then moves as the nearest of them did."""
        move = net(x[:, :m], k)[0] - x[0, :m]
        points, centres = x[0].flatten(1), x[0, :m].flatten(1)
        half = centres.square().sum(-1) / 2
        for some in range(0, len(points), 65_536):
            part = slice(some, some + 65_536)
            nearest = torch.addmm(half, points[part], centres.T, alpha=-1).argmin(-1)
            x[0, part] += 1e-3 * move.index_select(0, nearest)

    sizes = (10_000, MILLION) if full else (10_000, 100_000)
    small, large = (torch.randn(1, n, 1, 64) for n in sizes)
    calls: dict[str, Callable[[], Any]] = {
        "small": lambda: chunked(small),
        "ours": lambda: chunked(large),
    }
    if full:
        calls |= {"plain": lambda: at_once(large), "floor": products(lambda: chunked(large))[0]}
    times = race(calls, rounds=3, seconds=0.0)
    grown = np.log(np.median(np.divide(times["ours"], times["small"])))
    exponent = round(float(grown / np.log(sizes[1] / sizes[0])), 3)
    name = f"exponent of a denoising step's time, {sizes[0]:,} to {sizes[1]:,} agents"
    yield Row(name, "<=", 1.08, exponent, unit="", floor=1.0, why=CHUNKED)
    if full:
        step = f"a denoising step of {MILLION:,} agents in chunks, 64 stand for all"
        seconds, floor = (round(float(np.median(times[x])) / 1e3, 3) for x in ("ours", "floor"))
        yield Row(f"{step}: time", "<=", 7.0, seconds, unit="s", floor=floor)
        yield faster(f"{step}: all at once", 2.5, times, why=CHUNKED)
    for n, goal in {10_000: 80.0, 100_000: 700.0}.items():
        if n == 10_000 or full:
            x, many = torch.randn(1, n, 1, 64), n == 100_000  # attention then takes minutes
            calls = {"plain": lambda x=x: attend(x), "ours": lambda x=x: subset(x)}
            times = race(calls, rounds=1 if many else 3, seconds=0.0, warm=0 if many else 1)
            yield faster(f"256 representatives of {n:,} agents: full attention", goal, times)
    if full:
        extra = round(extra_gb(lambda: chunked(large)), 3)
        yield Row(f"{step}: extra memory", "<=", 0.6, extra, unit="GB", floor=GB_RETURNED)
        update = trained_on_representatives(MILLION)
        some = f"{MFDiffuserConfig().agents} agents of each of {MFDiffuserConfig().batch_size}"
        name = f"an update on {some} populations of {MILLION:,}: extra memory"
        yield Row(name, "<=", 0.2, round(extra_gb(update), 3), unit="GB")


def trained_on_representatives(agents: int) -> Callable[[], None]:
    """The first update of MF-Diffuser on two populations in memory, its batch included. It sees
    some agents of each population: that takes the place of gradients through everyone, which would
    have to be recomputed in chunks.
    """
    spec, rngs = registry.task(f"meanfield/squeeze-n{agents}-v1").spec, [np.random.default_rng(0)]
    data = toy_dataset(spec, 2)
    algorithm = build_group(MFDiffuser, MFDiffuserConfig(), spec, (0,))
    algorithm.prepare(data, 2, rngs)

    def update() -> None:
        algorithm.update(algorithm.sample(data, rngs))

    return update


def extra_gb(call: Callable[[], Any]) -> float:
    """GB that a call adds to this process at its peak. What was freed before is given back first:
    a heap that is still there would be filled again, and not be seen.
    """
    ctypes.CDLL(None).malloc_trim(0)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return (memory("VmHWM") - before) / 1024
