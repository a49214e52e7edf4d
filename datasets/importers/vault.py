"""OG-MARL vaults (arXiv 2302.00521), as flashbax 0.1 writes them; read without JAX.

    <source>/<env>/<scenario>.vlt/<tier>/{metadata.json, manifest.ocdbt, d/*}

PATH is the tier's folder: an OCDBT store of zarr arrays, one per leaf of `structure_shape` in
metadata.json. Leaf a of b is named "b.a." with a trailing dot, its time axis is nominally 10^13
long, and `vault_index` holds the number of valid rows S. Leaves are [1, S, N, ...]: observations,
actions (float, or int where discrete), rewards, terminals, truncations; infos/legals gives the
number of discrete actions. Next observations are not stored, see --last-row.

Checked before anything is decoded: regular files only, metadata of each array (type, order, no
filters, size of a chunk), every chunk up to S is there and inflates to its declared size. Agents of
different widths are padded with -inf on the right: such columns are taken off. An episode ends
where terminals or truncations are 1, on which agents must agree.

Vaults made from OMAR's data belong to that fork's programs, see `omar`. Those made from OMIGA's
hold its standardised observations, see `omiga`, and refuse evaluation. MAMuJoCo vaults may be wider
than this suite's environments: they are imported with their own widths.

Lost: infos (states, allowed actions) and digits beyond float32.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array
from datasets.importers import omar
from datasets.importers.source import Options, Source, flags, lengths_of, without_next
from datasets.importers.zarr import MAX_METADATA, Store, parse_json
from datasets.open import open_regular

LEAVES = ("observations", "actions", "rewards", "terminals", "truncations")
MAX_FILES = 1 << 16


def read(path: Path, options: Options) -> Source:
    """One tier's folder."""
    files = _files(path)
    leaves = _structure(path)
    store = Store(path)
    n_rows = store.count()
    legals = store.shape("infos.legals")[-1] if "infos.legals" in leaves else 0
    arrays = {name: store.leaf(name, n_rows) for name in LEAVES}
    notes: list[str] = []
    obs = _unpad(arrays["observations"], f"{path}: observations")
    n_agents = len(obs)
    for name in LEAVES:
        if arrays[name].ndim < 2 or arrays[name].shape[1] != n_agents:
            raise UserError(
                f"{path}: {name} has the shape {arrays[name].shape}, observations are of"
                f" {n_agents} agents."
            )
    terminal = flags(arrays["terminals"], f"{path}: terminals", n_rows, n_agents)
    cut = flags(arrays["truncations"], f"{path}: truncations", n_rows, n_agents)
    lengths, rest = lengths_of(terminal | cut, n_rows)
    if rest:
        notes.append(f"{rest} rows after the last end of an episode were left out")
    used = n_rows - rest
    terminated = terminal[np.cumsum(lengths) - 1]
    closed = without_next(obs, lengths, terminated, options.last_row)
    rows = np.flatnonzero(closed.keep)
    act, n_actions = _actions(arrays["actions"], legals, f"{path}: actions")
    if left := sorted(set(leaves) - set(LEAVES)):
        notes.append(f"left out: {', '.join(left)}")
    project, env, scenario, tier = _names(path)
    origin = omar.ENVS.get(scenario) if project == "omar" else None
    return Source(
        where=path,
        name=f"{project}-{env}-{scenario}",
        tier=tier,
        obs=[part[:used][rows] for part in obs],
        act=[part[:used][rows] for part in act],
        rew=arrays["rewards"].reshape(n_rows, n_agents)[:used][rows].astype(np.float32),
        lengths=closed.lengths,
        terminated=terminated[closed.stay],
        final=closed.final,
        horizon=options.horizon or int(closed.lengths.max(initial=1)),
        files=files,
        n_actions=n_actions,
        team_return=origin.team_return if origin else "mean",
        tasks=origin.tasks if origin else None,
        obs_transform="omiga_standardised" if project == "omiga" else "none",
        notes=notes + closed.notes,
        allow=("horizon", "next obs"),
    )


# ------------------------------------------------------------------------------------ the contents
def _unpad(obs: Array, what: str) -> list[Array]:
    """Per agent, without the columns that are -inf in every row: [S, N, D] -> [S, D_i] each."""
    if obs.ndim != 3:
        raise UserError(f"{what} has the shape {obs.shape}, expected rows, agents and features.")
    parts = []
    for i in range(obs.shape[1]):
        padding: Array = np.all(obs[:, i] == -np.inf, axis=0)
        width = int(padding.argmax()) if padding.any() else obs.shape[2]
        if not width or not padding[width:].all():
            raise UserError(
                f"{what} of agent {i}: {int(padding.sum())} of {len(padding)} columns are -inf,"
                " expected padding on the right only."
            )
        parts.append(obs[:, i, :width].astype(np.float32))
    return parts


def _actions(act: Array, legals: int, what: str) -> tuple[list[Array], int | None]:
    if act.dtype.kind == "f":
        return _unpad(act if act.ndim == 3 else act[..., None], what), None
    if act.ndim == 3 and act.shape[2] == 1:
        act = act[..., 0]
    if act.ndim != 2:
        raise UserError(f"{what} has the shape {act.shape}, expected one integer an agent.")
    count = legals or int(act.max()) + 1
    return [act[:, i].astype(np.int32) for i in range(act.shape[1])], count


def _names(path: Path) -> tuple[str, str, str, str]:
    """Project, environment, scenario and tier from the folders' names."""
    whole = path.resolve()
    scenario = whole.parent.name.removesuffix(".vlt")
    return whole.parents[2].name, whole.parents[1].name, scenario, whole.name


def _files(path: Path) -> list[Path]:
    """Every file of the vault; UserError where one is a link, a pipe or the like."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; expected <scenario>.vlt/<tier>.")
    found: list[Path] = []
    for folder, _, names in os.walk(path):
        found += (Path(folder) / name for name in sorted(names))
        if len(found) > MAX_FILES:
            raise UserError(f"{path} holds more than {MAX_FILES} files.")
    for file in found:
        os.close(open_regular(file))
    return found


def _structure(path: Path) -> list[str]:
    """Dotted names of the leaves, from metadata.json."""
    file = path / "metadata.json"
    with open(open_regular(file), "rb") as handle:
        text = handle.read(MAX_METADATA + 1)
    found = parse_json(text, str(file))
    version, tree = found.get("version"), found.get("structure_shape")
    if not isinstance(version, int | float) or int(version) != 1:
        raise UserError(f"{file}: version is {version!r}, expected 1.x.")
    leaves: list[str] = []

    def walk(node: Any, name: str, depth: int) -> None:
        if isinstance(node, dict) and depth < 8:
            for key, value in node.items():
                walk(value, f"{name}.{key}" if name else str(key), depth + 1)
        else:
            leaves.append(name)

    walk(tree, "", 0)
    for name in LEAVES:
        if name not in leaves:
            raise UserError(f"{file}: structure_shape has no {name!r}, expected {LEAVES}.")
    return leaves
