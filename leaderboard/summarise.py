"""Records -> rows: grouped into boards, named, summarised over seeds, and ranked.

`summarise(records)`; equal records in any order give equal rows.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from benchmark import provenance, registry
from benchmark.protocol import protocol
from benchmark.record import NOTED, Record
from benchmark.task import Reference
from leaderboard import scores
from leaderboard.rows import EXECUTIONS, FLOORS, RAW, Board, Row, Scale, value_gap
from leaderboard.scores import Estimate


def scale(task_id: str) -> Scale:
    """Spec and committed reference of a task; an unknown task raises UserError."""
    task = registry.task(task_id)
    return Scale(task.spec, task.reference())


def summarise(
    records: Iterable[Record],
    dataset_means: Mapping[str, float] | None = None,
    scales: Callable[[str], Scale] = scale,
) -> list[Row]:
    """Rows of all boards, in the order of display; equal records in any order give equal rows.

    `dataset_means` maps dataset ids to their mean team return (or margin), `scales`
    task ids to their Scale.
    """
    known: dict[str, Scale] = {}
    boards: dict[Board, list[Record]] = defaultdict(list)
    for record in records:
        if record.task not in known:
            known[record.task] = scales(record.task)
        boards[_board(record, known[record.task])].append(record)
    rows = []
    for board in sorted(boards, key=Board.order):
        reference = known[board.task].reference
        mean = (dataset_means or {}).get(board.dataset)
        entries = [_entry(board, label, runs, reference) for label, runs in labelled(boards[board])]
        rows += _ranked(entries) + _fixed_rows(board, entries, reference, mean)
    return rows


def _board(record: Record, scale: Scale) -> Board:
    reference, metric = scale.reference, scale.spec.metric
    unscored = ""
    if reference is None:
        unscored = (
            f"no committed reference for {record.task} (make reference TASK={record.task} makes"
            f" one), so only the raw {RAW[metric][1]} is shown"
        )
    elif metric == "exploitability" and not reference.uniform_exploitability > 0:
        unscored = (
            f"the reference of {record.task} has no exploitability of uniform play, so only the"
            " raw exploitability is shown"
        )
    return Board(
        record.track,
        record.task,
        record.dataset,
        record.protocol,
        record.protocol_version,
        metric,
        scale.spec.team_return,
        protocol(record.protocol).on(scale.spec).episodes,
        unscored,
    )


def _identity(record: Record) -> dict[str, Any]:
    """What all seeds of a row have in common, by name."""
    settings = provenance.same_settings(record.code_sha256, record.config)
    return {
        **{f"config.{name}": value for name, value in settings.items()},
        "steps": record.steps,
        "code": provenance.first_code(record.code_sha256)[:8],
        "data": record.dataset_sha256[:8],
        "episode seed": record.first_episode_seed,
        "execution": record.execution,
        "protocol": record.protocol,
        "dataset": record.dataset,
        **{name: record.notes.get(name, usual) for name, (usual, _) in NOTED.items()},
    }


def labelled(records: Iterable[Record]) -> list[tuple[str, list[Record]]]:
    """Records grouped into named rows, one record per seed, sorted by seed.

    A name is the algorithm's, with what differs where it has several rows: "omar [lr=0.0001]".
    Of two versions of the code the hash says it, not the fields that only one of them has.
    """
    groups: dict[str, dict[str, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        seeds = groups[record.algo][json.dumps(_identity(record), sort_keys=True)]
        seeds[record.seed] = max(seeds.get(record.seed, record), record, key=_precedence)
    result = []
    for algo, same in sorted(groups.items()):
        identities = [json.loads(identity) for identity in sorted(same)]
        names = [n for n in identities[0] if all(n in identity for identity in identities)]
        differ = [n for n in names if len({repr(i.get(n)) for i in identities}) > 1]
        for identity, (_, seeds) in zip(identities, sorted(same.items()), strict=True):
            shown = ", ".join(f"{n.removeprefix('config.')}={identity.get(n)}" for n in differ)
            label = f"{algo} [{shown}]" if differ else algo
            result.append((label, [seeds[seed] for seed in sorted(seeds)]))
    return result


def _precedence(record: Record) -> tuple[Any, ...]:
    """Which of two records of one seed counts; a score has no say in it."""
    return (record.level, len(record.group), record.provenance.finished, record.key)


def _estimate(values: Sequence[float | None]) -> Estimate | None:
    known = [value for value in values if value is not None]
    return scores.estimate(np.array(known)) if known and len(known) == len(values) else None


def _entry(board: Board, label: str, runs: list[Record], reference: Reference | None) -> Row:
    first, done = runs[0], [run for run in runs if not run.failed]
    rule = protocol(board.protocol)
    points = [run.value(board.metric) for run in runs]
    notes = [f"seed {run.seed} failed: {run.reason}" for run in runs if run.failed]
    missing = [seed for seed in rule.seeds() if seed not in {run.seed for run in runs}]
    if missing:
        listed = ", ".join(map(str, missing))
        notes.append(f"not ranked: the {rule.name} protocol also wants training seed {listed}")
    if not all(run.rankable for run in runs):
        notes.append("not ranked: its data is not the listed content of this dataset")
    episodes = sorted({len(run.team_returns) for run in done} - {board.episodes})
    if episodes:
        shown = " and ".join(map(str, episodes))
        notes.append(
            f"evaluated on {shown} episodes, the {rule.name} protocol has {board.episodes}"
        )
    if None in points:
        notes.append(f"not ranked: its records hold no {RAW[board.metric][1]}")
    score = None
    if not board.unscored and reference is not None and None not in points:
        normalised = reference.score(board.metric, np.array(points, dtype=np.float64))
        points = list(scores.with_failures(np.asarray(normalised)))
        score = _estimate(points)
    elif len(done) < len(runs):
        notes.append("not ranked: without a reference a failed seed has no value")
    costs = [run.cost for run in done or runs]
    return Row(
        board=board,
        kind="floor" if first.algo.split(".")[0] in FLOORS else "algorithm",
        label=label,
        algo=first.algo,
        paper=first.paper,
        execution=first.execution,
        score=score,
        team_return=_estimate([run.mean_return() for run in done]),
        exploitability=_estimate([run.exact.get("exploitability") for run in done]),
        margin=_estimate([run.value("margin") for run in done]),
        population_error=_estimate([run.exact.get("population_error") for run in done]),
        value_gap=_estimate([value_gap(board, run) for run in done]),
        points=tuple(float(p) for p in points if p is not None and not math.isnan(p)),
        seeds=tuple(run.seed for run in runs),
        failed=tuple(run.seed for run in runs if run.failed),
        expected=rule.n_seeds,
        train_seconds=math.fsum(cost.train_seconds for cost in costs) / len(costs),
        update_ms=math.fsum(cost.update_ms for cost in costs) / len(costs),
        act_ms=math.fsum(cost.act_ms for cost in costs) / len(costs),
        peak_mb=max(cost.peak_mb for cost in costs),
        parameters=max(cost.parameters for cost in costs),
        sampler_steps=max(cost.sampler_steps for cost in costs),
        configs_tried=max(run.tuning.configs_tried for run in runs),
        online_episodes=max(run.tuning.online_episodes for run in runs),
        level=min(run.level for run in runs),
        notes=tuple(notes),
        runs=tuple(runs),
    )


def _ranked(rows: list[Row]) -> list[Row]:
    """Best first within each execution; rows that may not be ranked follow."""

    def order(row: Row) -> tuple[Any, ...]:
        value = 0.0 if row.value is None else row.value.value
        lower_is_better = row.score is None and row.board.metric == "exploitability"
        best_first = value if lower_is_better else -value
        return (EXECUTIONS.index(row.execution), not _rankable(row), best_first, row.label)

    result: list[Row] = []
    counts = dict.fromkeys(EXECUTIONS, 0)
    for row in sorted((row for row in rows if row.kind == "algorithm"), key=order):
        if _rankable(row):
            counts[row.execution] += 1
            row = replace(row, rank=counts[row.execution])
        result.append(row)
    return result


def _rankable(row: Row) -> bool:
    return row.value is not None and not any(note.startswith("not ranked") for note in row.notes)


def _fixed_rows(
    board: Board, entries: list[Row], reference: Reference | None, dataset_mean: float | None
) -> list[Row]:
    """The expert and other references, then the floors: BC, the dataset's mean, random play."""

    def fixed(
        kind: Literal["floor", "reference"],
        label: str,
        value: float | None,
        exploitability: float | None = None,
        note: str = "",
    ) -> Row:
        ranked_by = exploitability if board.metric == "exploitability" else value
        score = None
        if reference is not None and ranked_by is not None and not board.unscored:
            score = _exactly(float(reference.score(board.metric, ranked_by)))
        return Row(
            board=board,
            kind=kind,
            label=label,
            score=score,
            team_return=None if value is None or margin else _exactly(value),
            margin=None if value is None or not margin else _exactly(value),
            exploitability=None if exploitability is None else _exactly(exploitability),
            notes=(note,) if note else (),
        )

    rows = []
    margin = board.metric == "margin"  # then the reference and the dataset's mean are margins
    exact = reference is not None and reference.uniform_exploitability > 0
    if reference is not None:
        best = "equilibrium" if board.metric == "exploitability" else "expert"
        lines = sorted(reference.lines.items(), key=lambda item: (-item[1], item[0]))
        rows.append(fixed("reference", best, reference.expert, 0.0 if exact else None))
        rows += [fixed("reference", name, value) for name, value in lines]
    ran = {name: [row for row in entries if row.algo.split(".")[0] == name] for name in FLOORS}
    if board.dataset:
        command = f"make bench ALGO=bc DATASET={board.dataset} PROTOCOL={board.protocol}"
        rows += ran["bc"] or [fixed("floor", "bc", None, note=f"not run yet: {command}")]
        note = "" if dataset_mean is not None else "the dataset's card was not at hand"
        rows.append(fixed("floor", "dataset mean", dataset_mean, note=note))
    if ran["random"]:
        return rows + ran["random"]
    if reference is None:
        note = f"unknown until make reference TASK={board.task}"
        return [*rows, fixed("floor", "random", None, note=note)]
    uniform = reference.uniform_exploitability if exact else None
    return [*rows, fixed("floor", "random", reference.random, uniform)]


def _exactly(value: float) -> Estimate:
    return Estimate(value, None, None, "fixed")
