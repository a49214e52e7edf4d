"""How fast every task runs: its array environment and its PettingZoo environment, side by side.

    python tests/perf/bench_tasks.py [--tasks mpe/spread-v1 ...] [--record]

Agent-steps a second of process CPU time on one core, resets included, under uniform actions drawn
beforehand; all N agents count, also where B of them act. Each task gets a process of its own, in
which the two take turns for some rounds after a round of warm-up; shown is the median. The array
environment runs as many episodes in lockstep as an evaluation does (100, at most 10^6 agents in
all), the PettingZoo environment one. Peak memory is what a path needs above the imported packages.
Above 10^4 agents the dictionaries are left out: they cost about a microsecond for each agent and
call, whatever the task.

`--record` writes leaderboard/perf/tasks.json with the machine and its load.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import files, provenance, registry
from benchmark.errors import UserError
from benchmark.task import Array, Task, TaskSpec

RECORD = Path(__file__).parents[2] / "leaderboard" / "perf" / "tasks.json"
GAMES, BATTLES = (10_000, 1_000_000), (10_000,)  # further sizes N of populations
MAPS = (40, 160)  # further sides of MAgent's field, which set its number of agents
EPISODES, ROWS = 100, 1_000_000  # in lockstep at most: episodes, and agents x episodes
DICTIONARIES = 10_000  # agents from which on the PettingZoo path is left out
POOL = 3  # joint actions drawn beforehand


def names() -> list[str]:
    """Every example task, and larger members of the families that take any N."""
    found = registry.task_ids()
    for name in registry.task_ids():
        sizes = GAMES if name.startswith("meanfield/") else BATTLES
        for n in sizes:
            found.append(re.sub(r"-n\d+(-b\d+)?", lambda m, n=n: _resized(m, n), name, count=1))
        found += [re.sub(r"-map\d+", f"-map{side}", name) for side in MAPS]
    found = [name for name in dict.fromkeys(found) if _exists(name)]
    return sorted(found, key=lambda name: (name.split("/")[0], re.sub(r"\d+", "", name), _n(name)))


def _resized(match: re.Match[str], n: int) -> str:
    """Another N; where B of N act, the same share of them."""
    before, _, acting = match[0][2:].partition("-b")
    return f"-n{n}" + (f"-b{n * int(acting) // int(before)}" if acting else "")


def _exists(name: str) -> bool:
    try:
        registry.task(name)
    except UserError:
        return False
    return True


def _n(name: str) -> int:
    return registry.task(name).spec.n_agents


# ------------------------------------------------------------------------------------- one process
def joint_actions(spec: TaskSpec, episodes: int) -> list[Array]:
    rng, shape = np.random.default_rng(0), (episodes, spec.n_agents)
    if spec.n_actions is not None:
        return [rng.integers(spec.n_actions, size=shape) for _ in range(POOL)]
    act = [rng.uniform(-1, 1, (*shape, spec.act_dim)).astype(np.float32) for _ in range(POOL)]
    return act


def array_steps(task: Task) -> Iterator[int]:
    """Agent-steps of each call of the array environment; a reset counts none."""
    spec = task.spec
    episodes = max(1, min(EPISODES, ROWS // spec.n_agents))
    pool, env, seed = joint_actions(spec, episodes), task.arrays(episodes), 0
    while True:
        env.reset(range(seed, seed + episodes))
        seed += episodes
        running = np.ones(episodes, bool)
        for t in range(spec.horizon):
            step = env.step(pool[t % POOL])
            yield int(running.sum()) * spec.n_agents
            running &= ~(step.terminated | step.truncated)
            if not running.any():
                break


def dictionary_steps(task: Task) -> Iterator[int]:
    """The same of the PettingZoo environment, one episode at a time."""
    env, seed = task.parallel_env(), 0
    agents = list(env.possible_agents)
    widths = [group.act_dim for group in task.spec.groups for _ in range(group.n_agents)]
    pool: list[dict[str, Any]] = []
    for act in joint_actions(task.spec, 1):
        rows = (
            act[0] if task.spec.discrete else [a[:w] for a, w in zip(act[0], widths, strict=True)]
        )
        pool.append(dict(zip(agents, rows, strict=True)))
    while True:
        env.reset(seed=seed)
        seed += 1
        for t in range(task.spec.horizon):
            acting = len(env.agents)
            if not acting:
                break
            actions = pool[t % POOL]
            if acting < len(agents):
                actions = {agent: actions[agent] for agent in env.agents}
            env.step(actions)
            yield acting


def memory(name: str) -> float:
    """VmRSS or VmHWM of this process in MB; HWM is the peak since it was last reset."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def play(steps: Iterator[int], seconds: float) -> float:
    """Agent-steps a CPU-second over at least so many seconds."""
    start, count = time.process_time(), 0
    while (spent := time.process_time() - start) < seconds or not count:
        count += next(steps)
    return count / spent


def peak(task: Task, make: Callable[[Task], Iterator[int]], seconds: float) -> float:
    """MB that a path needs at most above what the process has."""
    base = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    play(make(task), seconds)
    return memory("VmHWM") - base


def forked(function: Callable[..., float], *arguments: Any) -> float:
    """The value of a function that ran in a copy of this process, which it does not change."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, repr(function(*arguments)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as text:
        return float(text.read())


def measure(name: str, rounds: int, seconds: float) -> dict[str, Any]:
    task = registry.task(name)
    makers: dict[str, Callable[[Task], Iterator[int]]] = {"arrays": array_steps}
    if task.spec.n_agents <= DICTIONARIES:
        makers["pettingzoo"] = dictionary_steps
        task.parallel_env()  # its packages are imported before memory is looked at
    peaks = {path: forked(peak, task, make, seconds) for path, make in makers.items()}
    rates: dict[str, list[float]] = {path: [] for path in makers}
    running = {path: make(task) for path, make in makers.items()}
    for turn in range(rounds + 1):
        for path, steps in running.items():
            rate = play(steps, seconds)
            if turn:
                rates[path].append(rate)
    spec = task.spec
    row: dict[str, Any] = {"task": name, "agents": spec.n_agents, "horizon": spec.horizon}
    for path in makers:
        row[path] = {
            "agent_steps_per_cpu_second": round(float(np.median(rates[path]))),
            "spread": round(float(np.ptp(rates[path]) / np.median(rates[path])), 3),
            "peak_mb": round(peaks[path], 1),
        }
    return row


# ------------------------------------------------------------------------------------------- table
def line(row: dict[str, Any]) -> str:
    arrays, plain = row["arrays"], row.get("pettingzoo")
    text = f"{row['task']:38} {row['agents']:9,} {_cell(arrays)}"
    if plain is None:
        return f"{text} {'left out':>22} {'-':>8}"
    ratio = arrays["agent_steps_per_cpu_second"] / plain["agent_steps_per_cpu_second"]
    return f"{text} {_cell(plain)} {ratio:7.1f}x"


def _cell(cell: dict[str, Any]) -> str:
    return f"{cell['agent_steps_per_cpu_second']:13,} {cell['peak_mb']:6,.0f}MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", nargs="+", help="default: all, and larger populations")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="CPU seconds a turn")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.rounds, options.seconds)))
        return
    machine, rows = provenance.machine(), []
    print(f"{'agent-steps per CPU-second':38} {'agents':>9} {'arrays':>22} {'PettingZoo':>22}")
    for name in options.tasks or names():
        command = [sys.executable, __file__, "--one", name]
        command += ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=RECORD.parents[2])
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:]
            print(f"{name:38} failed: {' '.join(reason)}")
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(line(rows[-1]), flush=True)
    if options.record:
        settings = {"rounds": options.rounds, "cpu_seconds_a_turn": options.seconds}
        after = provenance.machine()["load_1_5_15_min"]
        record = {"machine": machine, "load_after": after, "settings": settings, "rows": rows}
        files.write_json(RECORD, record)
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
