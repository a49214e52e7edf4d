"""Goals of everything around training: loading, playing, games, the command line."""

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

import datasets
from algorithms.diffusion_ql import DiffusionQL, DiffusionQLConfig
from algorithms.nn.planning import returns_to_go
from benchmark import registry
from benchmark.checks.fixtures import toy_dataset
from benchmark.evaluate import rollout
from benchmark.policy import Trained
from benchmark.profile import products
from benchmark.task import Task
from tests.perf import bench_loader, bench_tasks, plain, plain_data
from tests.perf.race import Row, Times, faster, race

SAMPLERS = {1: 35.0, 15: 18.0, 200: 15.0}  # sampler steps -> goal of evaluation
OWN_SAMPLERS = {15: 4.5, 200: 9.0}  # the same over 10 of MPE2's own environments
GAMES = {10_000: 90.0, 100_000: 500.0}  # agents -> goal of the array environment
LENGTH, GAMMA = 24, 0.99  # of a window, of its return
WINDOWS = (
    "a fifth of a batch copies its rows, an eighth clears what follows an episode's end, less"
    " draws, and the rest are the calls that make a batch's eleven tensors; the plain loader reads"
    " whole windows, so that it makes an eighth of the reads that transitions need. It holds its"
    " arrays open: looking their names up at each read takes ten times as long"
)
TRANSITIONS = (
    "the plain loader keeps a megabyte of unpacked chunks of each array, so that gzip costs it no"
    " more than contiguous arrays do: its time goes into reads of HDF5, fifteen for each row. A"
    " fifth of ours is the look-up of rows, and the rest are the calls that make a batch"
)
OWN = (
    "a product of ours has sixteen rows where ten episodes fill ten, so that the bits of an episode"
    " are the same in any company, and each agent has a network of its own: ten episodes take as"
    " long as one does, and that is longer than one takes without such rows"
)
FROM_MEMORY = (
    "the goal was set beside one project's dataset, whose items take several times what these plain"
    " ones do, and a bare look-up of rows; ours makes eleven tensors a batch beside that look-up"
)
GAME = (
    "ours looks up rewards and next states, numbers the rows of the tables, counts states, copies"
    " observations and checks actions, in this order of time; the dictionaries spend most of theirs"
    " on gathering actions and handing out observations"
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
        steps = torch.randint(len(table) - LENGTH, (32,))[:, None] + torch.arange(LENGTH)
        pairs = torch.randint(len(table) - 1, (256,))[:, None] + torch.arange(2)
        for kind, goal, options in (
            ("contiguous", 200.0, {}),
            ("gzip", 1000.0, {"compression": "gzip", "chunks": True}),
        ):
            file = plain_data.write_by_agent(Path(folder) / f"{kind}.hdf5", data, **options)
            one_by_one = plain_data.PlainLoader(file, data.starts, data.spec.n_agents)
            races: dict[str, dict[str, Callable[[], object]]] = {
                "256 transitions": {
                    "plain": lambda one=one_by_one: one.transitions(256),
                    "ours": lambda: data.transitions(rngs, 256),
                    "floor": lambda: table.index_select(0, pairs.ravel()),
                },
                "32 windows of 24 steps": {
                    "plain": lambda one=one_by_one: one.windows(32, LENGTH),
                    "ours": lambda: data.windows(rngs, 32, LENGTH),
                    "floor": lambda: table.index_select(0, steps.ravel()),
                },
            }
            for what, variants in races.items():
                name = f"{what} from memory: one by one, {kind}"
                yield faster(
                    name, goal, race(variants), why=WINDOWS if "windows" in what else TRANSITIONS
                )
            one_by_one.file.close()
        asked = torch.from_numpy(returns_to_go(data, GAMMA).astype(np.float32))

        def planners_batch() -> torch.Tensor:
            batch = data.windows(rngs, 32, LENGTH)
            return asked[torch.from_numpy(data.starts[batch.episode]) + batch.step]

        items = plain_data.batches(plain_data.PlainWindows(data, LENGTH, GAMMA), 32)
        times = race(
            {
                "plain": lambda: next(items),
                "ours": planners_batch,
                "floor": lambda: table.index_select(0, steps.ravel()),
            }
        )
        name = "32 windows with returns: torch's Dataset and DataLoader"
        yield faster(name, 30.0, times, why=FROM_MEMORY)


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
        if steps in OWN_SAMPLERS:
            name = f"an episode of 10 of MPE2's own, {steps} sampler steps: agent by agent"
            times = own_episodes(task, policy, lambda e=env, p=policies: plain.play(e, p, 10_001))
            yield faster(name, OWN_SAMPLERS[steps], times, share=10, why=OWN)
    yield Row(
        "lockstep and plain networks: largest difference of outputs", "<=", 1e-6, apart, unit=""
    )


def own_episodes(task: Task, policy: Trained, plainly: Callable[[], object]) -> Times:
    """Ten of a task's PettingZoo environments in lockstep, and what their own steps and the matrix
    products cannot do without, beside one episode agent by agent.
    """
    own, seeds = plain.OwnEnvironments(task), range(10_000, 10_010)
    obs = np.zeros((len(seeds), task.spec.n_agents, task.spec.obs_dim), np.float32)
    policy.begin(len(seeds), 0)
    net, _ = products(lambda: policy.act(obs))

    def floor() -> None:
        env = own.arrays(len(seeds))
        env.reset(seeds)
        for _ in range(task.spec.horizon):
            net()
            env.step(np.zeros((*obs.shape[:2], task.spec.act_dim), np.float32))

    def ours() -> None:
        rollout(own, policy, seeds, True)  # type: ignore[arg-type]

    return race({"plain": plainly, "ours": ours, "floor": floor}, warm=0)


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


JOBS = (
    "half of such a job is the start of its interpreter and of torch, which two processes read and"
    " map at once; the grid itself looks and lists between jobs"
)


def grid(full: bool) -> Iterator[Row]:
    """Sixty small jobs in two processes, against the same in one; wall time, on an idle machine."""
    if not full:
        return
    source, program = "meanfield/squeeze-n100/medium-v1", [sys.executable, "-m", "benchmark"]
    subprocess.run([*program, "data", source], check=True, capture_output=True, cwd=ROOT)
    rows = ["--algos", "bc", "random", "--datasets", source]
    words = [*program, "grid", *rows, "--protocol", "smoke", "--seeds"]
    spent = {}
    for workers in (2, 1):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            options = [*map(str, range(30)), "--workers", str(workers), "--out", folder]
            subprocess.run([*words, *options], check=True, capture_output=True, cwd=ROOT)
            spent[workers] = time.perf_counter() - begun
    note = f"{spent[1]:.0f} s to {spent[2]:.0f} s"
    value = round(spent[1] / spent[2], 2)
    yield Row("60 jobs in 2 processes: in 1", ">=", 1.8, value, floor=2.0, note=note, why=JOBS)
