"""OMAR (arXiv 2111.11188): npy files per agent, for a fork of MPE and for HalfCheetah-v2.

    <env>/<tier>/seed_<k>_data/{obs,acs,rews,next_obs,dones}_<i>.npy   agent i, all [T, ...]
    HalfCheetah-v2: also states_<i>.npy and next_states_<i>.npy

PATH is one seed's folder, or a tier's folder with several, which become policies 0, 1, ... in the
order of their names.

There is no index of episodes, and the flags of MPE are 0 even where an episode ends. Rows are cut
every 25 steps, and that is checked: inside an episode next_obs[t] must be obs[t + 1], and across a
cut it must not. Where the check fails, episodes end where the chain breaks. HalfCheetah ends where
`dones` are 1. An episode of full length was cut by the time limit.

In simple_tag and simple_world only the three predators learn; the prey's files are left out. The
prey itself is a frozen network that is shipped apart (pretrained_adv_model.pt). --prey takes note
of its hash, but nothing can be evaluated: neither that network nor the fork's tag and world are
part of this suite, whose own prey behaves differently, so that its scores would mean something
else. simple_spread is `mpe-omar/spread`, the fork's program, and never `mpe/spread`, whose
integrator and rewards differ.

Lost: the simulator's states (HalfCheetah), the prey, and digits beyond float32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.errors import UserError, unknown_name
from benchmark.task import Array
from datasets.importers import npy
from datasets.importers.source import Options, Source, flags, lengths_of
from datasets.open import open_regular

MAX_PREY = 64 << 20  # bytes of the prey network's file


@dataclass(frozen=True)
class Env:
    """One environment of the fork."""

    n_agents: int
    horizon: int
    team_return: str  # the project's metric
    tasks: tuple[str, ...] | None
    dones: bool = False  # whether `dones` tell the episodes


ENVS = {
    "simple_spread": Env(3, 25, "mean", ("mpe-omar/spread-v1",)),
    "simple_tag": Env(3, 25, "agent_0", ()),
    "simple_world": Env(3, 25, "agent_0", ()),
    "HalfCheetah-v2": Env(2, 1000, "mean", None, dones=True),
}
SEED = re.compile(r"seed_(\d+)_data")
FIELDS = ("obs", "acs", "rews", "next_obs", "dones")


def read(path: Path, options: Options) -> Source:
    """One seed's folder, or all of a tier."""
    name, tier, folders = _folders(path)
    env = ENVS[name]
    horizon = options.horizon or env.horizon
    notes: list[str] = []
    files: list[Path] = []
    parts = [_seed(folder, env, horizon, notes, files) for folder in folders]
    for folder, part in zip(folders, parts, strict=True):
        for i in range(env.n_agents):
            found, wanted = part.widths(i), parts[0].widths(i)
            if found != wanted:
                raise UserError(
                    f"{folder}: agent {i} has observations and actions of the widths {found},"
                    f" {wanted} in {folders[0].name}."
                )
    if not env.tasks and not env.dones:
        _note_prey(options.prey, folders, env, notes, files)
    elif options.prey is not None:
        raise UserError(f"option --prey: {path} is of {name}, which has no prey.")
    if env.dones:
        notes.append("the simulator's states were left out")
    agents = range(env.n_agents)
    lengths = np.concatenate([part.lengths for part in parts])
    terminated = np.concatenate([part.terminated for part in parts])
    return Source(
        where=path,
        name=name,
        tier=tier,
        obs=[np.concatenate([part.obs[i] for part in parts]) for i in agents],
        act=[np.concatenate([part.act[i] for part in parts]) for i in agents],
        rew=np.concatenate([part.rew for part in parts]),
        lengths=lengths,
        terminated=terminated,
        final=[np.concatenate([part.final[i] for part in parts]) for i in agents],
        horizon=horizon,
        files=files,
        policy=np.repeat(np.arange(len(parts)), [len(part.lengths) for part in parts]),
        team_return=env.team_return,
        tasks=env.tasks,
        notes=notes,
        allow=("horizon",) if ((lengths < horizon) & ~terminated).any() else (),
    )


def _folders(path: Path) -> tuple[str, str, list[Path]]:
    """Environment, tier and the seeds' folders; names are those of the folders above."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; expected <env>/<tier>/seed_<k>_data.")
    whole = path.resolve()
    one = SEED.fullmatch(whole.name)
    tier = whole.parent if one else whole
    name = tier.parent.name
    if name not in ENVS:
        raise unknown_name("environment of OMAR's data", name, ENVS, f"({path})")
    if one:
        return name, f"{tier.name}-seed{one[1]}", [path]
    seeds = {int(match[1]): p for p in path.iterdir() if (match := SEED.fullmatch(p.name))}
    if not seeds:
        raise UserError(f"{path} holds no folder seed_<k>_data, expected at least one.")
    return name, tier.name, [seeds[k] for k in sorted(seeds)]


@dataclass
class Part:
    """One seed's folder."""

    obs: list[Array]  # [S, D] per agent
    act: list[Array]  # [S, A] per agent
    rew: Array  # [S, N]
    final: list[Array]  # [E, D] per agent
    lengths: Array  # [E]
    terminated: Array  # [E]

    def widths(self, i: int) -> tuple[int, int]:
        return self.obs[i].shape[1], self.act[i].shape[1]


def _seed(folder: Path, env: Env, horizon: int, notes: list[str], files: list[Path]) -> Part:
    agents = range(env.n_agents)
    paths = {(name, i): folder / f"{name}_{i}.npy" for name in FIELDS for i in agents}
    read = {
        key: npy.read(path, (1, 2) if key[0] in ("rews", "dones") else (2,))
        for key, path in paths.items()
    }
    files += paths.values()
    first = paths["obs", 0]
    n_rows = len(read["obs", 0])
    for key, path in paths.items():
        npy.rows(read[key], n_rows, path, first)
    obs = [read["obs", i].astype(np.float32) for i in agents]
    following = [read["next_obs", i].astype(np.float32) for i in agents]
    for i in agents:
        if following[i].shape != obs[i].shape:
            raise UserError(
                f"{paths['next_obs', i]} has the shape {following[i].shape},"
                f" {paths['obs', i].name} has {obs[i].shape}."
            )
        if read["rews", i].size != n_rows:
            raise UserError(
                f"{paths['rews', i]} has the shape {read['rews', i].shape}, expected {(n_rows,)}."
            )
    dones = [flags(read["dones", i], str(paths["dones", i]), n_rows) for i in agents]
    for i in agents:
        if (dones[i] != dones[0]).any():
            row = int(np.argmax(dones[i] != dones[0]))
            raise UserError(f"{paths['dones', i]}: differs from dones_0.npy at row {row}.")
    # linked[t]: row t + 1 goes on where row t ends, for every agent
    linked = np.ones(max(n_rows - 1, 0), bool)
    for now, after in zip(obs, following, strict=True):
        linked &= np.isclose(after[:-1], now[1:], rtol=1e-5, atol=1e-6).all(1)
    cut = _by_dones if env.dones else _by_steps
    lengths, used = cut(folder, linked, dones[0], n_rows, horizon, notes)
    last = np.cumsum(lengths) - 1
    return Part(
        obs=[array[:used] for array in obs],
        act=[read["acs", i][:used].astype(np.float32) for i in agents],
        rew=np.stack([read["rews", i].reshape(-1) for i in agents], 1)[:used],
        final=[array[last] for array in following],
        lengths=lengths,
        terminated=dones[0][last] & (lengths < horizon),
    )


def _by_steps(
    folder: Path, linked: Array, dones: Array, n_rows: int, horizon: int, notes: list[str]
) -> tuple[Array, int]:
    """Lengths of episodes of a fixed number of steps, else of chains of rows; and rows used."""
    inside = (np.arange(n_rows) + 1) % horizon != 0
    whole = n_rows // horizon
    if n_rows % horizon == 0 and linked[inside[:-1]].all() and not linked[~inside[:-1]].any():
        if dones[inside].any():
            row = int(np.argmax(dones & inside))
            raise UserError(
                f"{folder / 'dones_0.npy'} is 1 at row {row}, inside an episode of {horizon} rows."
            )
        return np.full(whole, horizon), n_rows
    lengths = _chains(linked, n_rows)
    if len(lengths) and lengths.max() > horizon:
        row = int(np.cumsum(lengths)[np.argmax(lengths > horizon)] - 1)
        raise UserError(
            f"{folder}: next_obs goes on past row {horizon} of an episode (up to row {row}),"
            f" expected at most {horizon} rows; --horizon says otherwise."
        )
    if n_rows and np.median(lengths) < 2:
        raise UserError(
            f"{folder}: next_obs is hardly ever the next row's obs; the rows are not in order."
        )
    notes.append(
        f"{folder.name}: cut where next_obs is not the next row's obs, into {len(lengths)} episodes"
        f" of {lengths.min()} to {lengths.max()} steps"
    )
    return lengths, n_rows


def _by_dones(
    folder: Path, linked: Array, dones: Array, n_rows: int, horizon: int, notes: list[str]
) -> tuple[Array, int]:
    """Lengths of episodes that end where `dones` are 1, and rows used."""
    lengths, rest = lengths_of(dones, n_rows)
    if not len(lengths):  # no flags at all: only the chain of rows tells
        lengths, rest = _chains(linked, n_rows), 0
        notes.append(f"{folder.name}: dones do not tell the episodes, cut where the chain breaks")
    elif rest:
        notes.append(f"{folder.name}: {rest} rows after the last done were left out")
    broken = ~linked
    broken[(np.cumsum(lengths) - 1)[:-1]] = False
    broken[n_rows - rest - 1 :] = False
    if broken.any():
        row = int(np.argmax(broken))
        raise UserError(
            f"{folder}: next_obs of row {row} is not the obs of row {row + 1}, and dones say that"
            " the episode goes on."
        )
    if lengths.max() > horizon:
        raise UserError(
            f"{folder}: an episode has {lengths.max()} rows, expected at most {horizon};"
            " --horizon says otherwise."
        )
    return lengths, n_rows - rest


def _chains(linked: Array, n_rows: int) -> Array:
    ends = np.append(~linked, True)[:n_rows]
    return lengths_of(ends, n_rows)[0]


def _note_prey(
    prey: Path | None, folders: list[Path], env: Env, notes: list[str], files: list[Path]
) -> None:
    if any((folder / f"obs_{env.n_agents}.npy").exists() for folder in folders):
        notes.append("the prey's files were left out")
    notes.append("the fork's program and its frozen prey are not part of this suite")
    if prey is not None:
        _check_prey(prey)
        files.append(prey)
        notes.append(f"the frozen prey is {prey.name}; it is not used")


def _check_prey(path: Path) -> None:
    """The prey's file must be tensors only: `weights_only` refuses pickled code."""
    import torch

    descriptor = open_regular(path)
    with open(descriptor, "rb") as handle:
        handle.seek(0, 2)
        if handle.tell() > MAX_PREY:
            raise UserError(f"option --prey: {path} has more than {MAX_PREY >> 20} MiB.")
        handle.seek(0)
        try:
            value = torch.load(handle, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can raise anything
            raise UserError(
                f"option --prey: {path} is not a torch file of plain tensors"
                f" ({type(error).__name__})."
            ) from error
    if not isinstance(value, dict) or "agent_params" not in value:
        raise UserError(f"option --prey: {path} has no 'agent_params', expected OMAR's file.")
