"""From what an importer read to a file of this suite and its card: names, groups, writing, lint."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import registry
from benchmark.errors import UserError
from benchmark.files import atomic_path, sha256, sha256_file
from benchmark.task import Array, Group, TaskSpec
from datasets import cardfile, library
from datasets.importers.source import Options, Source
from datasets.linter import lint
from datasets.open import open_dataset, stored
from datasets.recipe import catalogue
from datasets.schema import DATASET_ID
from datasets.writer import Writer

CHUNK_BYTES = 32 << 20  # of observations written at once
MANY = 64  # sources beyond this count are one hash over all of them


def publish(format: str, source: Source, options: Options) -> Path:
    """Write a source as dataset and card; returns the path of the file."""
    if options.clip:
        source.clip_actions()
    source.check()
    if source.seeds is None:
        source.notes.append("the seeds of the episodes are not known, 0 is stored")
    spec = _spec(format, source, options)
    dataset_id = options.id or _default_id(format, source, spec)
    _check_id(dataset_id)
    path = options.out or library.path(dataset_id)
    if path.exists() and not options.force:
        raise UserError(f"{path} is there already; --force replaces it, --id names another.")
    with atomic_path(path) as temporary:
        with Writer(
            temporary,
            spec,
            id=dataset_id,
            n_steps=int(source.lengths.sum()),
            n_episodes=len(source.lengths),
            source=format,
            licence=options.licence,
        ) as writer:
            writer.meta = replace(
                writer.meta,
                obs_transform=source.obs_transform,
                sources=_hashes(source),
                notes=source.notes,
            )
            _append(writer, source)
        _lint(temporary, path, source, options)
        card = _card(temporary, source)
    cardfile.write_card(path.with_suffix(".toml"), card)
    _report(path, card)
    return path


# --------------------------------------------------------------------------------------- the task
def _spec(format: str, source: Source, options: Options) -> TaskSpec:
    """The suite's own task where these are its data, else one that describes the data only."""
    if options.task:
        known = registry.task(options.task).spec
        if source.tasks is not None and options.task not in source.tasks:
            expected = " or ".join(source.tasks) or "none"
            raise UserError(
                f"option --task: {source.where} is not data of {options.task}, expected {expected};"
                " leave it out to import data that cannot be evaluated here."
            )
        candidates = [known]
    else:
        candidates = [
            registry.task(task).spec for task in source.tasks or () if task in registry.task_ids()
        ]
    for known in candidates:
        if why := _misfit(known, source):
            source.notes.append(f"not data of {known.id}: {why}")
        elif source.obs_transform != "none":
            source.notes.append(f"not data of {known.id}: observations are {source.obs_transform}")
        else:
            return known
    return TaskSpec(
        id=f"{format}/{_slug(source.name)}-v1",
        groups=_groups(source),
        horizon=source.horizon,
        n_actions=source.n_actions,
        n_obs=source.n_obs,
        team_return=source.team_return,
    )


def _widths(source: Source) -> list[tuple[int, int]]:
    discrete = source.n_actions is not None
    return [
        (obs.shape[1], 0 if discrete else act.shape[1])
        for obs, act in zip(source.obs, source.act, strict=True)
    ]


def _misfit(spec: TaskSpec, source: Source) -> str:
    """Why data do not fit a task; "" where they do."""
    wanted = [
        (group.obs_dim, 0 if spec.discrete else group.act_dim)
        for group in spec.groups
        for _ in range(group.n_agents)
    ]
    found = _widths(source)
    if found != wanted:
        return f"widths of observations and actions are {found}, the task's {wanted}"
    for name in ("n_actions", "n_obs"):
        if getattr(spec, name) != getattr(source, name):
            return f"{name} is {getattr(source, name)}, the task's {getattr(spec, name)}"
    if spec.outcomes or spec.can_die:
        return "the source does not say who lived and what an episode came to"
    longest = int(source.lengths.max())
    if longest > spec.horizon:
        return f"an episode has {longest} steps, the task at most {spec.horizon}"
    return ""


def _groups(source: Source) -> tuple[Group, ...]:
    runs = [(obs, act, len(list(run))) for (obs, act), run in itertools.groupby(_widths(source))]
    names = ["agents"] if len(runs) == 1 else [f"group_{i}" for i in range(len(runs))]
    return tuple(Group(name, n, obs, act) for name, (obs, act, n) in zip(names, runs, strict=True))


# --------------------------------------------------------------------------------------------- id
def _slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens, as ids have them."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "data"


def _default_id(format: str, source: Source, spec: TaskSpec) -> str:
    name = spec.id.rpartition("-v")[0]
    tier = _slug(source.tier)
    if not name.startswith(f"{format}/") or not tier[0].isalpha():
        tier = f"{format}-{tier}"
    return f"{name}/{tier}-v1"


def _check_id(dataset_id: str) -> None:
    if not DATASET_ID.fullmatch(dataset_id):
        raise UserError(f"option --id: found {dataset_id!r}, expected namespace/name/tier-vN.")
    if dataset_id in catalogue() or cardfile.card_path(dataset_id).exists():
        raise UserError(
            f"option --id: {dataset_id} is a dataset that this suite makes; give another tier."
        )


# ---------------------------------------------------------------------------------------- writing
def _append(writer: Writer, source: Source) -> None:
    """Runs of equally long episodes, in the order of the source."""
    spec, first, row = writer.spec, 0, 0
    row_bytes = 4 * spec.n_agents * spec.obs_dim
    while first < len(source.lengths):
        length = int(source.lengths[first])
        most = first + max(1, CHUNK_BYTES // (row_bytes * length))
        same = source.lengths[first:most] == length
        count = len(same) if same.all() else int(np.argmin(same))
        rows, episodes = slice(row, row + count * length), slice(first, first + count)
        shape = (count, length)
        seeds = np.zeros(count, int) if source.seeds is None else source.seeds[episodes]
        policy = np.zeros(count, int) if source.policy is None else source.policy[episodes]
        writer.append(
            obs=_joint([obs[rows] for obs in source.obs], spec.obs_dim, shape),
            act=_joint([act[rows] for act in source.act], spec.act_dim, shape),
            rew=source.rew[rows].reshape(*shape, -1),
            final_obs=_joint([obs[episodes] for obs in source.final], spec.obs_dim, (count,)),
            terminated=source.terminated[episodes],
            seeds=seeds,
            policy=policy,
            logp=None if source.logp is None else source.logp[rows].reshape(*shape, -1),
        )
        first, row = first + count, rows.stop


def _joint(parts: list[Array], width: int, shape: tuple[int, ...]) -> Array:
    """Rows per agent as one array [*shape, N, width], zero-padded; [*shape, N] where discrete."""
    if parts[0].ndim == 1:
        return np.stack(parts, -1).reshape(*shape, len(parts))
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts]
    return np.stack(padded, 1).reshape(*shape, len(parts), width)


def _hashes(source: Source) -> dict[str, str]:
    """Name -> sha256 of what was read; many files are one hash over their names and hashes."""
    folder = source.where if source.where.is_dir() else source.where.parent
    found = {}
    for path in source.files:
        inside = folder in path.parents
        found[str(path.relative_to(folder)) if inside else path.name] = sha256_file(path)
    if len(found) <= MANY:
        return found
    listing = "".join(f"{digest} {name}\n" for name, digest in sorted(found.items()))
    return {f"{len(found)} files of {folder.name}": sha256(listing.encode())}


# ------------------------------------------------------------------------------------------- check
def _lint(temporary: Path, path: Path, source: Source, options: Options) -> None:
    """Refuse a file with findings; those that are allowed go into the notes of the card."""
    findings = [text.replace(str(temporary), path.name) for text in lint(temporary)]
    temporary.with_name(f".{temporary.stem}.verified.json").unlink(missing_ok=True)
    allowed = {*source.allow, *options.allow}
    bad = [text for text in findings if text.split(":")[0] not in allowed]
    if bad:
        kind = bad[0].split(":")[0]
        raise UserError(
            f"{path} was not written, the data of {source.where} have {len(bad)} faults, first:"
            f" {bad[0].rstrip('.')}; --allow {kind!r} accepts it."
        )
    source.notes += findings


def _card(temporary: Path, source: Source) -> dict[str, Any]:
    file, meta = open_dataset(temporary)
    try:
        card = cardfile.make_card(meta, stored(file))
    finally:
        file.close()
    return card | {
        "obs_transform": meta.obs_transform,
        "sources": meta.sources,
        "notes": source.notes,
    }


def _report(path: Path, card: dict[str, Any]) -> None:
    counts, mean = card["counts"], card["statistics"]["return_mean"]
    print(
        f"{card['id']}: {counts['episodes']:,} episodes, {counts['steps']:,} steps,"
        f" {counts['agents']} agents, mean team return {mean:.5g}, task {card['task']},"
        f" licence {card['licence']}, {path}"
    )
    for note in card["notes"]:
        print(f"note: {note}")
