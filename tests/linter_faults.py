"""Clean dataset files of several kinds, and faults to put into them at random places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.checks.fixtures import POPULATION
from benchmark.task import Group, TaskSpec
from datasets.open import h5py, stored
from datasets.writer import Writer

CROWD = replace(POPULATION, groups=(Group("agents", 40, obs_dim=1),), horizon=6)
WALK = TaskSpec("toy/walk-v1", (Group("agents", 3, obs_dim=4, act_dim=2),), horizon=9)
PAIR = TaskSpec("toy/pair-v1", (Group("big", 1, 5, 2), Group("small", 2, 3, 1)), horizon=7)
BATTLE = TaskSpec(
    "toy/battle-v1",
    (Group("left", 6, obs_dim=4),),
    horizon=12,
    n_actions=5,
    metric="margin",
    can_die=True,
    outcomes=("margin", "win"),
)
SPECS = {"crowd": CROWD, "walk": WALK, "pair": PAIR, "battle": BATTLE}
Rng = np.random.Generator
Fault = Callable[[h5py.File, TaskSpec, Rng], str | None]  # spoils a file; the finding's beginning


def widths(spec: TaskSpec, name: str) -> np.ndarray:
    """The true width of each agent's observations or actions, [N, 1]."""
    each = [np.full(group.n_agents, getattr(group, f"{name}_dim")) for group in spec.groups]
    return np.concatenate(each)[:, None]


def clean(path: Path, spec: TaskSpec) -> Path:
    """Episodes with a start of their own, from which observations walk in small steps."""
    rng, n = np.random.default_rng(1), spec.n_agents
    with Writer(path, spec, id="toy/any/medium-v1", perm_seed=3) as writer:
        for e in range(30):
            ends = spec in (WALK, BATTLE) and e % 3 > 0
            t = int(rng.integers(3, spec.horizon)) if ends else spec.horizon
            alive = np.ones((t + 1, n), bool)
            options: dict[str, Any] = {}
            if spec.n_actions:
                act = rng.integers(spec.n_actions, size=(t, n))
                options["logp"] = np.log(rng.uniform(0.1, 1, (t, n)))
            else:
                act = rng.uniform(-1, 1, (t, n, spec.act_dim))
                act *= np.arange(spec.act_dim) < widths(spec, "act")
            if spec.can_die:
                alive = np.arange(t + 1)[:, None] < rng.integers(1, 2 * t + 2, n)
                alive[:, 0] = True  # the first agent lives, and acts, throughout
                options["alive"] = alive[:-1]
                options["active"] = alive[:-1] & ((rng.random((t, n)) < 0.8) | (np.arange(n) == 0))
                options["outcome"] = {"margin": rng.uniform(-1, 1), "win": rng.integers(2)}
            if spec.n_obs is not None:
                obs = rng.integers(spec.n_obs, size=(t + 1, n, 1))
            else:
                walk = rng.normal(0, 0.1, (t + 1, n, spec.obs_dim)).cumsum(0)
                obs = (walk + rng.normal(0, 3, (n, spec.obs_dim))) * alive[..., None]
                obs *= np.arange(spec.obs_dim) < widths(spec, "obs")
            outcome = {k: np.array([v]) for k, v in options.pop("outcome", {}).items()}
            writer.append(
                obs=obs[None, :-1],
                act=act[None],
                rew=(rng.normal(size=(t, n)) * alive[:-1])[None],
                final_obs=obs[None, -1],
                terminated=np.array([ends]),
                seeds=np.array([e]),
                policy=np.array([e % 2]),
                outcome=outcome,
                **{name: value[None] for name, value in options.items()},
            )
    return path


# ---------------------------------------------------------------------------------------- faults
def pick(rng: Rng, where: np.ndarray) -> tuple[int, ...]:
    """A random index at which `where` is true."""
    found = np.argwhere(where)
    return tuple(int(i) for i in found[rng.integers(len(found))])


def at(name: str, index: tuple[int, ...]) -> str:
    return f"/{name} at {index if len(index) > 1 else f'({index[0]})'}"


def one_of(file: h5py.File, rng: Rng, *suffixes: str) -> str | None:
    """A random array whose path ends so; None where there is none."""
    names = [name for name in stored(file) if name.endswith(suffixes)]
    return str(rng.choice(names)) if names else None


def put(kind: str, value: float, *suffixes: str, integer: bool = False) -> Fault:
    """A fault that writes `value` at a random place of a random array."""

    def fault(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
        name = one_of(file, rng, *suffixes)
        if name is None or (file[name].dtype.kind in "iu") != integer:
            return None
        index = tuple(int(rng.integers(n)) for n in file[name].shape)
        file[name][index] = value
        return f"{kind}: {at(name, index)}"

    return fault


def both_flags(file: h5py.File, spec: TaskSpec, rng: Rng) -> str:
    e, value = int(rng.integers(30)), int(rng.integers(2))
    file["index/terminated"][e] = file["index/truncated"][e] = value
    return f"done flags: /index/terminated at ({e})"


def limit_as_terminal(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
    if file["index/terminated"][()].any():
        return None  # one more terminal among others is no fault that a file could show
    e = int(rng.integers(30))
    file["index/terminated"][e], file["index/truncated"][e] = 1, 0
    return f"done flags: /index/terminated at ({e})"


def terminal_as_limit(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
    terminated = file["index/terminated"][()] > 0
    if not terminated.any():
        return None
    (e,) = pick(rng, terminated)
    file["index/terminated"][e], file["index/truncated"][e] = 0, 1
    return f"horizon: /index/truncated at ({e})"


def declared_return(file: h5py.File, spec: TaskSpec, rng: Rng) -> str:
    index = (int(rng.integers(30)), int(rng.integers(len(spec.groups))))
    file["index/return"][index] += 0.5
    return f"returns: {at('index/return', index)}"


def changed_reward(file: h5py.File, spec: TaskSpec, rng: Rng) -> str:
    g = int(rng.integers(len(spec.groups)))
    rew = file[f"steps/{spec.groups[g].name}/rew"]
    row = int(rng.integers(len(rew)))
    rew[row, int(rng.integers(rew.shape[1]))] += 2
    e = int(np.searchsorted(file["index/start"][()], row, "right")) - 1
    return f"returns: {at('index/return', (e, g))}"


def remeasure(file: h5py.File, spec: TaskSpec) -> None:
    """Returns that fit the rewards again."""
    for g, group in enumerate(spec.groups):
        paid = file[f"steps/{group.name}/rew"][()].astype(np.float64).mean(1)
        file["index/return"][:, g] = np.add.reduceat(paid, file["index/start"][:-1])


def shifted_boundary(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
    if spec.n_obs is not None:
        return None
    e = int(rng.integers(1, 30))
    file["index/start"][e] += int(rng.choice([-1, 1]))
    remeasure(file, spec)
    return f"boundaries: /index/start at ({e})"


def all_shifted(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
    if spec.n_obs is not None:
        return None
    file["index/start"][1:-1] += int(rng.choice([-1, 1]))
    remeasure(file, spec)
    return "boundaries: /index/start at (1)"


def final_of_another(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
    if spec.n_obs is not None:
        return None
    e = int(rng.integers(29))
    for group in spec.groups:
        file[f"final/{group.name}/obs"][e] = file[f"final/{group.name}/obs"][e + 1]
    return f"boundaries: /final/{spec.groups[0].name}/obs at ({e})"


def copied_final(file: h5py.File, spec: TaskSpec, rng: Rng) -> str:
    start, shift = file["index/start"][()], int(rng.integers(2))
    for group in spec.groups:
        obs = file[f"steps/{group.name}/obs"][()]
        rows = np.minimum(start[1:] - 1 + shift, len(obs) - 1)
        file[f"final/{group.name}/obs"][:] = obs[rows]
    return f"next obs: /final/{spec.groups[0].name}/obs at (0)"


def copied_episode(file: h5py.File, spec: TaskSpec, rng: Rng) -> str:
    start = file["index/start"][()]
    lengths = np.diff(start)
    same = (lengths[:, None] == lengths) & (np.arange(30)[:, None] < np.arange(30))
    one, two = pick(rng, same)
    for name, array in stored(file).items():
        if name.startswith(("steps/", "population/")):
            values = array[start[one] : start[one + 1]]
            if spec.exchangeable and values.ndim > 1 and name.startswith("steps/"):
                values = values[:, ::-1]  # the same agents in another order
            array[start[two] : start[two + 1]] = values
        elif name.startswith("final/") or name == "index/return":
            array[two] = array[one]
    return f"duplicates: /index/start at ({two})"


def risen(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
    if not spec.can_die:
        return None
    alive, start = file["steps/left/alive"][()], file["index/start"][()]
    dead = alive == 0
    dead[start[1:] - 1] = False  # a dead row that is not the last of its episode
    row, i = pick(rng, dead)
    file["steps/left/alive"][row + 1, i] = 1
    return f"dead agents: {at('steps/left/alive', (row + 1, i))}"


def dead(field: str, value: float) -> Fault:
    def fault(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
        if not spec.can_die:
            return None
        index = pick(rng, file["steps/left/alive"][()] == 0)
        name = f"steps/left/{field}"
        index = (*index, 2) if file[name].ndim == 3 else index
        file[name][index] = value
        return f"dead agents: {at(name, index)}"

    return fault


def unstored_deaths(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
    if not spec.can_die:
        return None
    del file["steps/left/alive"]
    return "dead agents: /steps/left/alive is missing"


def nobody_acts(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
    if not spec.can_die:
        return None
    row = int(rng.integers(len(file["steps/left/active"])))
    file["steps/left/active"][row] = 0
    return f"active: {at('steps/left/active', (row,))}"


def still_agent(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
    if spec.exchangeable:
        return None
    group = spec.groups[int(rng.integers(len(spec.groups)))]
    i = int(rng.integers(group.n_agents))
    file[f"steps/{group.name}/obs"][:, i] = 0.25
    return f"dead agents: {at(f'steps/{group.name}/obs', (0, i))}"


def still_actions(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
    if spec.exchangeable:
        return None
    group = spec.groups[int(rng.integers(len(spec.groups)))]
    file[f"steps/{group.name}/act"][...] = 0
    return f"dead actions: {at(f'steps/{group.name}/act', (0, 0))}"


def wrong_population(file: h5py.File, spec: TaskSpec, rng: Rng) -> str | None:
    if "population/mu" not in file:
        return None
    index = tuple(int(rng.integers(n)) for n in file["population/mu"].shape)
    file["population/mu"][index] += 0.01
    return f"population: {at('population/mu', index)}"


def wrong_type(file: h5py.File, spec: TaskSpec, rng: Rng) -> str:
    name = one_of(file, rng, "/obs", "/act", "/rew", "/policy", "/start")
    assert name
    values = file[name][()].astype("<f8" if file[name].dtype != "<f8" else "<f4")
    del file[name]
    file.create_dataset(name, data=values)
    return f"/{name} has the type"


FAULTS: dict[str, Fault] = {
    "both flags": both_flags,
    "time limit as terminal": limit_as_terminal,
    "terminal as time limit": terminal_as_limit,
    "type": wrong_type,
    "NaN": put("NaN", np.nan, "/obs", "/act", "/rew", "/logp", "/return", "/mu", "/margin"),
    "infinity": put("NaN", -np.inf, "/obs", "/act", "/rew", "/logp", "/return", "/mu", "/win"),
    "action too large": put("range", 1.5, "/act"),
    "action too small": put("range", -1.0001, "/act"),
    "no such action": put("range", 5, "/act", integer=True),
    "negative action": put("range", -1, "/act", integer=True),
    "no such state": put("range", 5, "/obs", integer=True),
    "negative state": put("range", -1, "/obs", integer=True),
    "negative policy": put("range", -1, "/policy", integer=True),
    "negative seed": put("range", -7, "/seed", integer=True),
    "alive of 2": put("range", 2, "/alive", integer=True),
    "active of 2": put("range", 2, "/active", integer=True),
    "positive log-probability": put("range", 0.3, "/logp"),
    "margin above 1": put("range", 1.01, "/margin"),
    "margin below -1": put("range", -1.01, "/margin"),
    "win of 2": put("range", 2, "/win"),
    "declared return": declared_return,
    "changed reward": changed_reward,
    "one boundary shifted": shifted_boundary,
    "all boundaries shifted": all_shifted,
    "final of another episode": final_of_another,
    "copied finals": copied_final,
    "copied episode": copied_episode,
    "risen agent": risen,
    "dead agent earns": dead("rew", 0.7),
    "dead agent acts": dead("active", 1),
    "dead agent sees": dead("obs", 0.3),
    "deaths not stored": unstored_deaths,
    "nobody acts": nobody_acts,
    "still agent": still_agent,
    "still actions": still_actions,
    "wrong population": wrong_population,
}
