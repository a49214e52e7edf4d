"""Boards across datasets: what a row is worth on several datasets together.

Rows are compared only on datasets that all of them have. `summaries(rows)` picks these for every
track, protocol and namespace: of all sets of datasets that some row or pair of rows shares, the one
with the most cells, rows times datasets. Who is left out, and which datasets, is said.

Statistics are those of `scores.py` (arXiv:2108.13264): IQM, mean, median and optimality gap, with
stratified bootstrap intervals from 5 seeds a dataset up. Below, the mean has Welch's t-interval and
the others none. Failed seeds are among the scores, as on the boards.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.task import Array
from leaderboard import scores
from leaderboard.columns import described, mark, plain
from leaderboard.formats import Sheet, Table
from leaderboard.rows import EXECUTIONS, Row
from leaderboard.scores import BOOTSTRAP_FROM, Estimate

Cells = dict[str, dict[str, Row]]  # label -> dataset -> row
STATISTICS = {
    "IQM": scores.iqm,
    "mean": scores.mean,
    "median": scores.median,
    "optimality gap": scores.optimality_gap,
}


@dataclass(frozen=True)
class Group:
    """What the datasets of a summary share."""

    track: str
    protocol: str
    protocol_version: int
    namespace: str

    @property
    def title(self) -> str:
        return f"{self.namespace}/ across datasets, {self.track} track, {self.protocol} protocol"


@dataclass(frozen=True)
class Line:
    """A row's scores on the datasets of a summary; `row` is its row on the first of them."""

    row: Row
    strata: list[Array]  # one a dataset, [n_seeds]
    estimates: dict[str, Estimate]  # by name of STATISTICS
    over_bc: Estimate | None  # probability that a run beats one of BC
    rank: int | None = None  # within one execution

    @property
    def seeds(self) -> int:
        """Fewest of a dataset; 0 for a floor that no run made."""
        return min(stratum.size for stratum in self.strata) if self.row.runs else 0


@dataclass(frozen=True)
class Summary:
    group: Group
    datasets: tuple[str, ...]
    lines: tuple[Line, ...]
    left_out: tuple[str, ...]  # rows that lack one of the datasets
    unused: tuple[str, ...]  # datasets that not all of the rows have


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """One for each track, protocol and namespace in which rows share two datasets or more."""
    ranked: dict[Group, Cells] = defaultdict(lambda: defaultdict(dict))
    floors: dict[Group, Cells] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        board = row.board
        if row.score is None or not board.dataset or not _counts(row):
            continue
        namespace = board.task.split("/")[0]
        group = Group(board.track, board.protocol, board.protocol_version, namespace)
        if row.kind == "algorithm":
            ranked[group][row.label][board.dataset] = row
        elif row.kind == "floor":
            floors[group][row.label][board.dataset] = row
    result = []
    for group, by_label in ranked.items():
        datasets = common(by_label)
        if len(datasets) > 1:
            result.append(_summary(group, by_label, floors[group], datasets))
    return result


def _counts(row: Row) -> bool:
    return not any(note.startswith("not ranked") for note in row.notes)


def common(by_label: Cells) -> tuple[str, ...]:
    """The set of datasets with the most cells; of equals the larger, then the first by name."""
    owned = [frozenset(own) for own in by_label.values()]
    pairs = itertools.combinations_with_replacement(sorted(set(owned), key=sorted), 2)
    candidates: list[frozenset[str]] = [a & b for a, b in pairs if a & b]

    def order(chosen: frozenset[str]) -> tuple[int, int, list[str]]:
        cells = len(chosen) * sum(chosen <= own for own in owned)
        return -cells, -len(chosen), sorted(chosen)

    if not candidates:
        return ()
    best = min(candidates, key=order)
    return tuple(sorted(best))


def _summary(group: Group, by_label: Cells, floors: Cells, datasets: tuple[str, ...]) -> Summary:
    def whole(table: Cells) -> Cells:
        return {label: own for label, own in sorted(table.items()) if set(datasets) <= set(own)}

    taking_part = whole(by_label)
    beside = whole(floors)
    bc = beside.get("bc")
    rivals = [_points(bc[name]) for name in datasets] if bc else None
    lines = [_line(own, datasets, rivals) for own in (*taking_part.values(), *beside.values())]
    ranked, counts = [], dict.fromkeys(EXECUTIONS, 0)
    for line in sorted(lines, key=_order):
        rank = None
        if line.row.kind == "algorithm":
            counts[line.row.execution] += 1
            rank = counts[line.row.execution]
        ranked.append(Line(line.row, line.strata, line.estimates, line.over_bc, rank))
    unused = sorted({name for own in by_label.values() for name in own} - set(datasets))
    left = sorted({*by_label, *floors} - {*taking_part, *beside})
    return Summary(group, datasets, tuple(ranked), tuple(left), tuple(unused))


def _points(row: Row) -> Array:
    """Score of each seed, or the one score of a floor that no run made."""
    assert row.score is not None
    return np.array(row.points or (row.score.value,))


def _line(own: dict[str, Row], datasets: Sequence[str], rivals: list[Array] | None) -> Line:
    strata = [_points(own[name]) for name in datasets]
    enough = min(s.size for s in strata) >= BOOTSTRAP_FROM
    estimates = {}
    for name, statistic in STATISTICS.items():
        if enough:
            estimates[name] = scores.bootstrap(strata, statistic)
        elif name == "mean":
            estimates[name] = scores.contrast(strata, [1 / len(strata)] * len(strata))
        else:
            value = float(statistic(scores.canonical(strata)))
            estimates[name] = Estimate(value, None, None, "too few seeds")
    over_bc = None
    row = own[datasets[0]]
    if rivals is not None and row.label != "bc":
        over_bc = scores.improvement(strata, rivals)
        if not enough or min(s.size for s in rivals) < BOOTSTRAP_FROM:
            over_bc = Estimate(over_bc.value, None, None, "too few seeds")
    return Line(row, strata, estimates, over_bc)


def _order(line: Line) -> tuple[Any, ...]:
    """Ranked rows by execution and IQM, floors last; below 5 seeds by the mean."""
    name = "IQM" if line.seeds >= BOOTSTRAP_FROM else "mean"
    row, floor = line.row, line.row.kind != "algorithm"
    execution = 0 if floor else EXECUTIONS.index(row.execution)
    return (floor, execution, -line.estimates[name].value, row.label)


# ------------------------------------------------------------------------------------------ sheets
def sheets(found: Sequence[Summary]) -> list[Sheet]:
    return [
        Sheet(s.group.title, about(s), [_table(s)], _notes(s), [flat(s, line) for line in s.lines])
        for s in found
    ]


def about(summary: Summary) -> list[str]:
    """What the numbers mean, one sentence each."""
    sentences = [
        f"Only the {len(summary.datasets)} datasets that all these rows have:"
        f" {', '.join(summary.datasets)}.",
        "Score: 0 = random play, 100 = expert or equilibrium.",
        "The optimality gap is the mean shortfall from 100, without credit above it.",
    ]
    if all(line.seeds >= BOOTSTRAP_FROM for line in summary.lines if line.row.runs):
        sentences.append("95% intervals from a bootstrap of seeds within each dataset.")
    else:
        sentences.append(
            f"Rows with fewer than {BOOTSTRAP_FROM} seeds on a dataset have Welch's 95% interval of"
            " the mean, no other, and are placed by the mean."
        )
    sentences.append("P(> bc): probability that a run beats one of BC on the same dataset.")
    sentences.append("Intervals are conditional on the collected datasets.")
    return sentences


def _notes(summary: Summary) -> list[str]:
    notes = []
    if summary.left_out:
        names = ", ".join(map(plain, summary.left_out))
        notes.append(f"left out, for lack of one of the datasets: {names}")
    if summary.unused:
        notes.append(f"datasets that not all rows have: {', '.join(map(plain, summary.unused))}")
    return notes


def _table(summary: Summary) -> Table:
    heads = ["#", "algorithm", "execution", *STATISTICS, "P(> bc)", "seeds"]
    right = [True, False, False, *[True] * len(STATISTICS), True, True]
    blocks: dict[str, list[list[str]]] = defaultdict(list)
    for line in summary.lines:
        row, noted = line.row, mark(line.row)
        name = plain(row.label) + (f" ({noted})" if noted else "")
        cells = [str(line.rank or ""), name, row.execution]
        cells += [_shown(line.estimates[name], 1) for name in STATISTICS]
        cells += ["" if line.over_bc is None else _shown(line.over_bc, 2), str(line.seeds or "")]
        blocks[row.execution if row.kind == "algorithm" else ""].append(cells)
    return Table(heads, right, list(blocks.values()))


def _shown(found: Estimate, digits: int) -> str:
    text = f"{found.value:z.{digits}f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{found.low:z.{digits}f}, {found.high:z.{digits}f}]"


def flat(summary: Summary, line: Line) -> dict[str, Any]:
    """A line as plain values, unrounded, for CSV and JSON."""
    group = summary.group
    values: dict[str, Any] = {
        "track": group.track,
        "protocol": group.protocol,
        "protocol_version": group.protocol_version,
        "namespace": group.namespace,
        "datasets": list(summary.datasets),
        **described(line.row),
        "rank": line.rank,
        "seeds": line.seeds,
    }
    found: dict[str, Estimate | None] = {**line.estimates, "over_bc": line.over_bc}
    for name, estimate in found.items():
        key = name.lower().replace(" ", "_")
        values[key] = None if estimate is None else estimate.value
        values[f"{key}_low"] = None if estimate is None else estimate.low
        values[f"{key}_high"] = None if estimate is None else estimate.high
    return values
