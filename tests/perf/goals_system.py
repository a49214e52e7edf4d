"""Goals of everything around training: loading, playing, populations, the command line."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import datasets
from algorithms.diffusion_ql import DiffusionQL, DiffusionQLConfig
from algorithms.mfdiffuser import MFDiffuser, MFDiffuserConfig
from algorithms.nn.sets import CHUNK, SetDenoiser
from benchmark import registry
from benchmark.algorithm import build_group
from benchmark.checks.fixtures import toy_dataset
from benchmark.evaluate import rollout
from benchmark.policy import Trained
from tests.perf import bench_loader, bench_tasks, plain
from tests.perf.bench_om2p import memory
from tests.perf.race import Row, faster, race

SAMPLERS = {1: 35.0, 15: 18.0, 200: 15.0}  # sampler steps -> goal of evaluation
GAMES = {10_000: 90.0, 100_000: 500.0}  # agents -> goal of the array environment
WINDOWS = (
    "of 0.14 ms a batch, 0.025 copy its rows (0.013 at best), 0.015 clear what follows an episode's"
    " end, 0.008 draw, and the rest are the calls that make a batch's eleven tensors; the plain"
    " loader reads whole windows, so that it makes 480 reads where transitions need 3,840. It holds"
    " its arrays open: looking their names up at each read takes ten times as long"
)
TRANSITIONS = (
    "the plain loader keeps a megabyte of unpacked chunks of each array, so that gzip costs it no"
    " more than contiguous arrays do: its time goes into 3,840 reads of HDF5. A fifth of ours is"
    " the look-up of rows, and the rest are the calls that make a batch"
)
GAME = (
    "of 8 to 9 ns an agent-step, 30% look up rewards and next states, 28% number the rows of the"
    " tables, 14% count states, 8% copy observations and 7% check actions; the dictionaries take"
    " 3,900 ns, most of them to gather actions and to hand out observations"
)
ROOT = Path(__file__).parents[2]


def loader(full: bool) -> Iterator[Row]:
    """Batches from the table in memory, against items that are read one by one."""
    with tempfile.TemporaryDirectory() as folder:
        path = bench_loader.write(Path(folder) / "team.hdf5", bench_loader.TEAM, 100_000)
        data, rngs = datasets.load_file(path, "ram"), [np.random.default_rng(0)]
        table = torch.from_numpy(data.obs.copy()).flatten(1)
        width = table.shape[1] * 3 // 2  # with actions, rewards and the rest
        table = torch.cat([table, table], 1)[:, :width].contiguous()
        steps = torch.randint(len(table) - 24, (32,))[:, None] + torch.arange(24)
        pairs = torch.randint(len(table) - 1, (256,))[:, None] + torch.arange(2)
        for kind, goal, options in (
            ("contiguous", 200.0, {}),
            ("gzip", 1000.0, {"compression": "gzip", "chunks": True}),
        ):
            file = plain.write_by_agent(Path(folder) / f"{kind}.hdf5", data, **options)
            one_by_one = plain.PlainLoader(file, data.starts, data.spec.n_agents)
            races: dict[str, dict[str, Callable[[], object]]] = {
                "256 transitions": {
                    "plain": lambda one=one_by_one: one.transitions(256),
                    "ours": lambda: data.transitions(rngs, 256),
                    "floor": lambda: table.index_select(0, pairs.ravel()),
                },
                "32 windows of 24 steps": {
                    "plain": lambda one=one_by_one: one.windows(32, 24),
                    "ours": lambda: data.windows(rngs, 32, 24),
                    "floor": lambda: table.index_select(0, steps.ravel()),
                },
            }
            for what, variants in races.items():
                name = f"{what} from memory: one by one, {kind}"
                yield faster(
                    name, goal, race(variants), why=WINDOWS if "windows" in what else TRANSITIONS
                )
            one_by_one.file.close()


def evaluation(full: bool) -> Iterator[Row]:
    """100 episodes of spread in lockstep, against PettingZoo agent by agent."""
    task = registry.task("mpe/spread-v1")
    seeds, apart = range(10_000, 10_100), 0.0
    for steps, goal in SAMPLERS.items():
        config = DiffusionQLConfig(width=256, denoising_steps=steps, predict="noise")
        algorithm = DiffusionQL(config, task.spec, (0,))
        algorithm.prepare(toy_dataset(task.spec, 50), 1, [np.random.default_rng(0)])
        policy = Trained(algorithm, 0, task, "diffusion_ql")
        policies = [plain.PlainDiffusionPolicy(algorithm, i) for i in range(3)]
        env = task.parallel_env()
        _, seen = plain.play(env, policies, 10_000)
        rows = torch.from_numpy(seen).transpose(0, 1)  # [N, T, D]
        inputs = torch.cat([rows, torch.randn(*rows.shape[:2], 4)], -1)  # noisy actions, times
        with torch.no_grad():
            together = algorithm.actor(inputs[None])[0]  # [N, T, A]
            for i, one in enumerate(policies):
                apart = max(apart, float((together[i] - one.net(inputs[i])).abs().max()))
        times = race(
            {
                "plain": lambda env=env, policies=policies: plain.play(env, policies, 10_001),
                "ours": lambda policy=policy: rollout(task, policy, seeds, True),
            },
            rounds=3,
            warm=0,
        )
        name = f"an episode of 100 in lockstep, {steps} sampler steps: agent by agent"
        yield faster(name, goal, times, share=len(seeds))
    yield Row(
        "lockstep and plain networks: largest difference of outputs", "<=", 1e-6, apart, unit=""
    )


def games(full: bool) -> Iterator[Row]:
    """A step of a population's game on arrays, against dictionaries of agents."""
    for agents, goal in GAMES.items():
        task = registry.task(f"meanfield/resource-n{agents}-v1")
        arrays, dictionaries = bench_tasks.array_steps, bench_tasks.dictionary_steps
        rates: dict[str, list[float]] = {"arrays": [], "dictionaries": []}
        streams = {
            "arrays": _endless(arrays, task),
            "dictionaries": _endless(dictionaries, task),
        }
        for _ in range(3):
            for name, stream in streams.items():
                rates[name].append(bench_tasks.play(stream, 0.3))
        found = float(np.median(np.divide(rates["arrays"], rates["dictionaries"])))
        name = f"agent-steps of resources, {agents:,} agents: a dictionary of agents"
        yield Row(name, ">=", goal, round(found, 1), why=GAME)


def _endless(make, task) -> Iterator[int]:  # type: ignore[no-untyped-def]
    while True:
        yield from make(task)


def populations(full: bool) -> Iterator[Row]:
    """A denoising step of a population, particles of 64 numbers and a network 128 wide: how it
    grows, what it adds to memory, and against attention. As in algorithms/nn/planner.py, a subset
    stands for the population, and particles are denoised in chunks.
    """
    torch.manual_seed(0)
    net, attention = SetDenoiser(1, 64, 128, 2), plain.AttentionDenoiser(1, 64, 128)
    k, stand_in = torch.zeros(1), MFDiffuserConfig().context

    @torch.no_grad()
    def chunked(x: Tensor) -> Tensor:
        return torch.cat([net(part, k, x[:, :stand_in]) for part in x.split(CHUNK, 1)], 1)

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

    sizes = (10_000, 1_000_000) if full else (10_000, 100_000)
    drawn = {n: torch.randn(1, n, 1, 64) for n in sizes}
    times = race({str(n): lambda x=x: chunked(x) for n, x in drawn.items()}, rounds=3, seconds=0.0)
    grown = np.log(np.median(np.divide(times[str(sizes[1])], times[str(sizes[0])])))
    exponent = round(float(grown / np.log(sizes[1] / sizes[0])), 3)
    name = f"exponent of a denoising step's time, {sizes[0]:,} to {sizes[1]:,} agents"
    yield Row(name, "<=", 1.08, exponent, unit="", floor=1.0)
    for n, goal in {10_000: 80.0, 100_000: 700.0}.items():
        if n == 10_000 or full:
            x, many = torch.randn(1, n, 1, 64), n == 100_000  # attention then takes minutes
            calls = {"plain": lambda x=x: attend(x), "ours": lambda x=x: subset(x)}
            times = race(calls, rounds=1 if many else 3, seconds=0.0, warm=0 if many else 1)
            yield faster(f"256 representatives of {n:,} agents: full attention", goal, times)
    if full:
        name = "a denoising step of 1,000,000 agents: extra memory"
        extra = _extra_gb(lambda: chunked(drawn[1_000_000]))
        yield Row(name, "<=", 0.6, round(extra, 3), unit="GB", floor=0.238)  # what it returns
        name = "an update of MF-Diffuser, 1,000,000 agents: extra memory"
        yield Row(name, "<=", 0.2, round(_extra_gb(_training(1_000_000)), 3), unit="GB")


def _training(agents: int) -> Callable[[], None]:
    """The next update of MF-Diffuser on two populations in memory, its batch included."""
    spec, rngs = registry.task(f"meanfield/squeeze-n{agents}-v1").spec, [np.random.default_rng(0)]
    data = toy_dataset(spec, 2)
    algorithm = build_group(MFDiffuser, MFDiffuserConfig(), spec, (0,))
    algorithm.prepare(data, 2, rngs)

    def update() -> None:
        algorithm.update(algorithm.sample(data, rngs))

    return update


def _extra_gb(call) -> float:  # type: ignore[no-untyped-def]
    """GB that a call adds to this process at its peak."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return (memory("VmHWM") - before) / 1024


def startup(full: bool) -> Iterator[Row]:
    """How soon the command line answers, in wall time."""
    cases = {"import benchmark": (["-c", "import benchmark"], 0.5)}
    cases["--help"] = (["-m", "benchmark", "--help"], 0.6)
    for name, (arguments, goal) in cases.items():
        spent: dict[str, list[float]] = {"ours": [], "empty": []}
        for _ in range(5):
            for kind, words in (("ours", arguments), ("empty", ["-c", "pass"])):
                begun = time.perf_counter()
                subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=ROOT)
                spent[kind].append(time.perf_counter() - begun)
        seconds, floor = (round(statistics.median(spent[kind]), 3) for kind in ("ours", "empty"))
        yield Row(f"wall time of {name}", "<=", goal, seconds, unit="s", floor=floor)


def grid(full: bool) -> Iterator[Row]:
    """Sixty small jobs in two processes, against the same in one; wall time, on an idle machine."""
    if not full:
        return
    rows = ["--algos", "bc", "random", "--datasets", "meanfield/squeeze-n100/medium-v1"]
    words = [sys.executable, "-m", "benchmark", "grid", *rows, "--protocol", "smoke", "--seeds"]
    spent = {}
    for workers in (2, 1):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            options = [*map(str, range(30)), "--workers", str(workers), "--out", folder]
            subprocess.run([*words, *options], check=True, capture_output=True, cwd=ROOT)
            spent[workers] = time.perf_counter() - begun
    note = f"{spent[1]:.0f} s to {spent[2]:.0f} s"
    value = round(spent[1] / spent[2], 2)
    yield Row("60 jobs in 2 processes: in 1", ">=", 1.8, value, floor=2.0, note=note)
