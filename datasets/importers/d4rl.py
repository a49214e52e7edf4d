"""D4RL (arXiv 2004.07219): one HDF5 file of a single agent, <env>-<tier>.hdf5.

    /observations [S, D], /actions [S, A], /rewards [S], /terminals [S], /timeouts [S], optional
    /next_observations [S, D]; /infos and /metadata are not looked at

Checked: shapes and flags; where next observations are stored, that each is the next row's
observation inside an episode. A row with both flags counts as terminated. Files without timeouts
are cut every --horizon steps (1,000 where nothing is said) after the last terminal. Where next
observations are not stored, see --last-row. Rows after the last end belong to no whole episode and
are left out.

Lost: infos and metadata. The task is one agent's; none of this suite's, so evaluation is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array
from datasets.importers.hdf5 import Foreign
from datasets.importers.source import Options, Source, flags, lengths_of, without_next

HORIZON = 1000


def read(path: Path, options: Options) -> Source:
    """One file."""
    with Foreign(path) as file:
        obs, act = file.read("observations", (2,)), file.read("actions", (2,))
        rew = file.read("rewards", (1, 2))
        terminals = file.read("terminals", (1, 2))
        timeouts = file.read("timeouts", (1, 2)) if file.has("timeouts") else None
        following = None
        if file.has("next_observations"):
            following = file.read("next_observations", (2,)).astype(np.float32)
    obs, n_rows = obs.astype(np.float32), len(obs)
    for name, array in (("actions", act), ("rewards", rew), ("next_observations", following)):
        if array is not None and len(array) != n_rows:
            raise UserError(f"{path}: /{name} has {len(array)} rows, /observations has {n_rows}.")
    if rew.size != n_rows:
        raise UserError(f"{path}: /rewards has the shape {rew.shape}, expected {(n_rows,)}.")
    done = flags(terminals, f"{path}: /terminals", n_rows)
    notes: list[str] = []
    horizon = options.horizon or HORIZON
    if timeouts is None:
        cut = _every(done, horizon)
        notes.append(f"no /timeouts: episodes were cut after {horizon} steps")
    else:
        cut = flags(timeouts, f"{path}: /timeouts", n_rows)
    ends = done | cut
    lengths, rest = lengths_of(ends, n_rows)
    used = n_rows - rest
    if rest:
        notes.append(f"{rest} rows after the last end of an episode were left out")
    if not len(lengths):
        raise UserError(f"{path}: no row of /terminals or /timeouts is set, expected an episode.")
    last = np.cumsum(lengths) - 1
    terminated = done[last]
    obs, act, rew = obs[:used], act[:used], rew[:used]
    if following is None:
        closed = without_next([obs], lengths, terminated, options.last_row)
        keep, final, lengths = closed.keep, closed.final, closed.lengths
        terminated = terminated[closed.stay]
        notes += closed.notes
    else:
        _check_chain(path, obs, following[:used], ends[:used])
        keep, final = np.ones(used, bool), [following[last]]
    name, _, tier = path.stem.partition("-")
    return Source(
        where=path,
        name=name,
        tier=tier or "data",
        obs=[obs[keep]],
        act=[act[keep].astype(np.float32)],
        rew=rew[keep].reshape(-1, 1).astype(np.float32),
        lengths=lengths,
        terminated=terminated,
        final=final,
        horizon=int(lengths.max(initial=1)),
        files=[path],
        notes=notes,
        allow=("horizon", "next obs") if following is None else ("horizon",),
    )


def _every(done: Array, horizon: int) -> Array:
    """Cuts [S] bool every `horizon` rows after a terminal."""
    rows = np.arange(len(done))
    start = np.maximum.accumulate(np.where(np.append(True, done[:-1]), rows, 0))
    return (rows - start + 1) % horizon == 0


def _check_chain(path: Path, obs: Array, following: Array, ends: Array) -> None:
    linked = (following[:-1] == obs[1:]).all(1)
    broken = ~linked & ~ends[:-1]
    if broken.any():
        row = int(np.argmax(broken))
        raise UserError(
            f"{path}: /next_observations at row {row} is not the observation of row {row + 1}, and"
            " neither /terminals nor /timeouts end an episode there."
        )
