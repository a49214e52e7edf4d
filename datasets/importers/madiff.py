"""MADiff (arXiv 2305.17330): npy files of all agents together, or OMAR's files as they are.

    obs.npy [S, N, D], actions.npy [S, N, A] (or [S, N] integers), rewards.npy [S, N],
    path_lengths.npy [E], optional discounts.npy and logprobs.npy [S, N]; SMAC: legals.npy [S, N, K]
    or seed_<k>_data folders of MPE and HalfCheetah-v2, read as `omar` reads them

PATH is the folder <env>/<scenario>/<tier>. The converter put the agents' one-hot ids in front of
the observations, so that they are N wider than an environment's: where they are found in every row
they are taken off. --agent-id keep leaves them, recorded as obs_transform = "agent_id_prefix",
which refuses evaluation.

Checked: the lengths add up to the rows. An episode is terminated where its last discount is 0 and
it is shorter than the time limit (MAMuJoCo: 1,000 steps). Without discounts only episodes shorter
than the longest count as terminated. Next observations are not stored, see --last-row.

Lost: states.npy and legals.npy (allowed actions), of which only the number of actions is kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array
from datasets.importers import npy, omar
from datasets.importers.source import Options, Source, without_next

LIMITS = {"2ant": 1000, "4ant": 1000, "2halfcheetah": 1000}  # steps of the MAMuJoCo scenarios


def read(path: Path, options: Options) -> Source:
    """A folder of either kind."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; expected <env>/<scenario>/<tier> of npy files.")
    per_agent = any(path.glob("seed_*_data")) or (path / "obs_0.npy").exists()
    if per_agent and not (path / "obs.npy").exists():
        return omar.read(path, options)
    names = {
        "obs": (3,),
        "actions": (2, 3),
        "rewards": (2,),
        "path_lengths": (1,),
        "discounts": (2,),
        "logprobs": (2,),
        "legals": (3,),
    }
    optional = ("discounts", "logprobs", "legals")
    files = {
        name: path / f"{name}.npy"
        for name in names
        if name not in optional or (path / f"{name}.npy").exists()
    }
    arrays = {name: npy.read(file, names[name]) for name, file in files.items()}
    lengths = arrays.pop("path_lengths")
    n_rows, n_agents = arrays["obs"].shape[:2]
    for name, array in arrays.items():
        if array.shape[:2] != (n_rows, n_agents):
            raise UserError(
                f"{files[name]} has the shape {array.shape}, obs.npy has {n_rows} rows of"
                f" {n_agents} agents."
            )
    if lengths.dtype.kind not in "iu" or not (lengths > 0).all() or lengths.sum() != n_rows:
        raise UserError(
            f"{files['path_lengths']} adds up to {lengths.sum()}, expected positive integers that"
            f" add up to the {n_rows} rows of obs.npy."
        )
    notes: list[str] = []
    obs, transform = _strip(arrays["obs"], options.agent_id == "keep", notes)
    whole = path.resolve()
    limit = options.horizon or LIMITS.get(whole.parent.name, 0)
    terminated = _terminated(lengths, arrays.get("discounts"), limit)
    parts = [obs[:, i] for i in range(n_agents)]
    closed = without_next(parts, lengths, terminated, options.last_row)
    keep = closed.keep
    act, n_actions = _actions(arrays, files["actions"])
    logp = arrays.get("logprobs")
    return Source(
        where=path,
        name=f"{whole.parent.parent.name}-{whole.parent.name}",
        tier=whole.name,
        obs=[part[keep] for part in parts],
        act=[act[keep][:, i] for i in range(n_agents)],
        rew=arrays["rewards"][keep].astype(np.float32),
        lengths=closed.lengths,
        terminated=terminated[closed.stay],
        final=closed.final,
        horizon=int(closed.lengths.max(initial=1)),
        files=list(files.values()),
        n_actions=n_actions,
        logp=None if logp is None else logp[keep],
        obs_transform=transform,
        notes=notes + closed.notes,
        allow=("horizon", "next obs"),
    )


def _strip(obs: Array, keep: bool, notes: list[str]) -> tuple[Array, str]:
    """Observations without the agents' ids, where there are any, and what is left of them."""
    n_agents = obs.shape[1]
    obs = obs.astype(np.float32)
    if obs.shape[2] <= n_agents or (obs[:, :, :n_agents] != np.eye(n_agents)).any():
        notes.append("no agent ids were found in front of the observations")
        return obs, "none"
    if keep:
        return obs, "agent_id_prefix"
    notes.append(f"one-hot agent ids ({n_agents} columns) were taken off the observations")
    return obs[:, :, n_agents:], "none"


def _terminated(lengths: Array, discounts: Array | None, limit: int) -> Array:
    """Which episodes ended by themselves, [E] bool."""
    if discounts is None:
        return lengths < (limit or lengths.max())
    ended = (discounts[np.cumsum(lengths) - 1] == 0).all(1)
    return ended & (lengths < limit) if limit else ended


def _actions(arrays: dict[str, Array], path: Path) -> tuple[Array, int | None]:
    """Actions, and how many there are where they are discrete."""
    act = arrays["actions"]
    if act.ndim == 3:
        return act.astype(np.float32), None
    if act.dtype.kind not in "iu":
        raise UserError(f"{path} has the type {act.dtype}, expected integers where it has 2 axes.")
    count = arrays["legals"].shape[2] if "legals" in arrays else int(act.max()) + 1
    return act.astype(np.int32), count
