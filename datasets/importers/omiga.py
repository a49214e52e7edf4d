"""OMIGA (arXiv 2307.11620): one HDF5 file of a MAMuJoCo task, <Scenario>-v2-<conf>-<tier>.hdf5.

    /s [S, N, D] states, /o [S, N, D] observations, /a [S, N, A], /r and /d one value a row, in the
    shape [S], [S, 1], [S, N] or [S, N, 1]

The rows are read as that project's loader reads them. A row with d = 1 gives no transition; its
observation is what follows the row before, which is the episode's last. The loader's mask is thus
d of the next row, and it does not bootstrap at time limits either; here an episode of full length
(1,000 rows) counts as cut by the time limit.

Both o and s are the whole simulator state with a one-hot agent id, standardised over the features
of each row. The raw numbers cannot be had back, and no environment here gives such observations:
obs_transform = "omiga_standardised" refuses evaluation.

Checked: shapes, flags of 0 and 1 on which agents agree, rewards on which they agree or not are both
taken. Lost: s, and rows after the last d = 1. SMAC files of that project have another layout.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array
from datasets.importers.hdf5 import Foreign
from datasets.importers.source import Options, Source, flags, lengths_of

NAME = re.compile(r"(?P<name>.+?-v\d+-\d+x\d+)-(?P<tier>.+)")
HORIZON = 1000


def read(path: Path, options: Options) -> Source:
    """One file."""
    with Foreign(path) as file:
        obs, act = file.read("o", (3,)), file.read("a", (3,))
        rew, done = file.read("r"), file.read("d")
    n_rows, n_agents = obs.shape[:2]
    if act.shape[:2] != (n_rows, n_agents):
        raise UserError(f"{path}: /a has the shape {act.shape}, /o has {obs.shape}.")
    rew = _rewards(rew, n_rows, n_agents, path)
    ends = flags(done, f"{path}: /d", n_rows, n_agents)
    whole, rest = lengths_of(ends, n_rows)
    lengths = whole - 1
    last = np.cumsum(whole) - 1  # rows with d = 1
    stay = lengths > 0
    horizon = options.horizon or HORIZON
    cut = whole[stay] >= horizon
    notes = ["rows with d = 1 gave the final observations, as that project's loader reads them"]
    if rest:
        notes.append(f"{rest} rows after the last d = 1 were left out")
    if not stay.all():
        notes.append(f"{int((~stay).sum())} rows with d = 1 follow another and were left out")
    keep = ~ends
    keep[n_rows - rest :] = False
    match = NAME.fullmatch(path.stem)
    agents = range(n_agents)
    return Source(
        where=path,
        name=match["name"] if match else path.stem,
        tier=match["tier"] if match else "data",
        obs=[obs[keep, i].astype(np.float32) for i in agents],
        act=[act[keep, i].astype(np.float32) for i in agents],
        rew=rew[keep],
        lengths=lengths[stay],
        terminated=~cut,
        final=[obs[last[stay], i].astype(np.float32) for i in agents],
        horizon=int(lengths.max(initial=1)) if cut.any() else horizon,
        files=[path],
        tasks=(),
        obs_transform="omiga_standardised",
        notes=notes,
    )


def _rewards(rew: Array, n_rows: int, n_agents: int, path: Path) -> Array:
    """One reward a row, or one a row and agent -> [S, N]."""
    if rew.shape in {(n_rows, n_agents), (n_rows, n_agents, 1)}:
        return rew.reshape(n_rows, n_agents).astype(np.float32)
    if rew.shape in {(n_rows,), (n_rows, 1)}:
        return np.repeat(rew.reshape(n_rows, 1), n_agents, 1).astype(np.float32)
    raise UserError(
        f"{path}: /r has the shape {rew.shape}, expected {(n_rows,)} or {(n_rows, n_agents)}."
    )
