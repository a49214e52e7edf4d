"""Numbers from papers beside ours, each with a computed answer to "may they be compared?".

`beside(rows, load())` adds rows of the kind "published" to the boards. The flag compares what is
known of a published benchmark (`published/benchmarks.toml`) with a board:

    yes          the same program, scale, data and budget
    budget       the same program, scale and data; the protocol here has another budget
    scale only   the same program and scale; the data are another collection
    no           another program, or another scale

Published numbers are never ranked. Where the program is the same, printed score p is put on the
board's scale by the return it stands for, S = S_random + p / 100 (S_expert - S_random) with the
published constants.
"""

from __future__ import annotations

import csv
import functools
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.errors import UserError, unknown_name
from benchmark.task import Reference
from leaderboard.rows import Board, Row, Scale, by_board
from leaderboard.scores import Estimate
from leaderboard.summarise import scale

FOLDER = Path(__file__).parent / "published"
COLUMNS = ["source", "benchmark", "task", "tier", "algorithm", "unit", "mean", "std", "note"]
UNITS = ("score", "return")
READ = ("authors", "second hand", "derived")


@dataclass(frozen=True)
class Source:
    """A paper, and how its numbers were read."""

    label: str
    paper: str
    where: str
    read: str  # one of READ


@dataclass(frozen=True)
class PublishedTask:
    """A task as papers use it; see the head of `published/benchmarks.toml`."""

    team_return: str
    program: str = ""
    namesakes: tuple[str, ...] = ()
    differs: str = ""
    random: float | None = None
    expert: float | None = None
    data: str = ""
    tiers: dict[str, str] = field(default_factory=dict)

    def raw(self, printed: float) -> float | None:
        """The team return that a printed score stands for; None without constants."""
        if self.random is None or self.expert is None:
            return None
        return self.random + printed / 100 * (self.expert - self.random)


@dataclass(frozen=True)
class Number:
    """One cell of a published table."""

    source: str
    benchmark: str
    task: str
    tier: str
    algorithm: str
    unit: str  # one of UNITS
    mean: float
    std: float | None
    note: str


@dataclass(frozen=True)
class Library:
    numbers: tuple[Number, ...]
    sources: dict[str, Source]
    tasks: dict[tuple[str, str], PublishedTask]  # by benchmark and task
    rows: dict[str, tuple[str, ...]]  # published name -> rows of this suite


@dataclass(frozen=True)
class Printed:
    """What stands in a paper, whether it may be compared with the board, and our number."""

    number: Number
    source: Source
    comparable: str
    reasons: tuple[str, ...]  # why not more
    ours: Row | None  # the board's row of the same algorithm
    same_scale: Estimate | None  # ours in the printed number's unit, where the program is the same


@functools.cache
def load(folder: Path = FOLDER) -> Library:
    """The committed published numbers; a malformed file raises UserError."""
    sources = {key: Source(**value) for key, value in _toml(folder / "sources.toml").items()}
    benchmarks = _toml(folder / "benchmarks.toml")
    rows = {name: tuple(found) for name, found in benchmarks.pop("rows").items()}
    tasks = {
        (benchmark, name): PublishedTask(
            **{**facts, "namesakes": tuple(facts.get("namesakes", ()))}
        )
        for benchmark, own in benchmarks.items()
        for name, facts in own.items()
    }
    path = folder / "results.csv"
    with open(path, newline="") as file:
        lines = csv.reader(file)
        if (head := next(lines, [])) != COLUMNS:
            raise UserError(f"{path} has the columns {head}, expected {COLUMNS}.")
        numbers = tuple(
            _number(line, f"{path} line {i}", sources) for i, line in enumerate(lines, 2)
        )
    return Library(numbers, sources, tasks, rows)


def _toml(path: Path) -> dict[str, dict]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}.") from error


def _number(cells: list[str], where: str, sources: dict[str, Source]) -> Number:
    if len(cells) != len(COLUMNS):
        raise UserError(f"{where} has {len(cells)} cells, expected {len(COLUMNS)}.")
    source, benchmark, task, tier, algorithm, unit, mean, std, note = cells
    if source not in sources:
        raise unknown_name(f"source in {where}", source, sources)
    if unit not in UNITS:
        raise unknown_name(f"unit in {where}", unit, UNITS)
    try:
        printed = float(mean), float(std) if std else None
    except ValueError as error:
        raise UserError(f"{where}: {error}, expected a number or, for std, nothing.") from error
    return Number(source, benchmark, task, tier, algorithm, unit, *printed, note)


def beside(
    rows: Sequence[Row], library: Library, scales: Callable[[str], Scale] = scale
) -> list[Row]:
    """`rows` with the published numbers of the algorithms that this suite has behind each board."""
    result: list[Row] = []
    for board, own in by_board(rows).items():
        result += own
        reference = scales(board.task).reference
        for number in library.numbers:
            task = library.tasks.get((number.benchmark, number.task))
            if task is None or not _on(board, number, task):
                continue
            names = library.rows.get(number.algorithm, ())
            ours = next((r for name in names for r in own if (r.algo or r.label) == name), None)
            if names:
                result.append(_row(board, number, task, ours, reference, library))
    return result


def judge(number: Number, task: PublishedTask, board: Board) -> tuple[str, tuple[str, ...]]:
    """Whether a published number may be compared with those of a board, and why not more."""
    if board.task != task.program:
        return "no", (f"another program than {board.task}: {task.differs}",)
    if number.unit == "score" and task.raw(0.0) is None:
        return "no", ("the ends of its scale are not known",)
    if task.team_return != board.team_return:
        return "no", (f"its return is {task.team_return}, the board's {board.team_return}",)
    reasons = []
    tier = board.dataset.rpartition("-v")[0]
    same_data = bool(task.data) and re.fullmatch(task.data.format(tier=number.tier), tier)
    if not same_data:
        reasons.append(f"data: {board.dataset or 'none'} is another collection than the paper's")
    if board.protocol != "full":
        reasons.append(f"budget: the {board.protocol} protocol, not the paper's")
    if not same_data:
        return "scale only", tuple(reasons)
    return ("budget" if reasons else "yes"), tuple(reasons)


def _on(board: Board, number: Number, task: PublishedTask) -> bool:
    """Whether a number belongs on a board: the program or its namesake, and the tier."""
    if board.task not in (task.program, *task.namesakes):
        return False
    if number.tier == "online":
        return board.track == "online"
    tier = board.dataset.rpartition("/")[2].rpartition("-v")[0]
    wanted = task.tiers.get(number.tier, number.tier)
    imported = re.fullmatch(r"omar-(.+)-seed\d+", tier)
    return board.track == "offline" and wanted == (imported[1] if imported else tier)


def _row(
    board: Board,
    number: Number,
    task: PublishedTask,
    ours: Row | None,
    reference: Reference | None,
    library: Library,
) -> Row:
    comparable, reasons = judge(number, task, board)
    source = library.sources[number.source]
    score = raw = same_scale = None
    if comparable != "no":
        value = number.mean if number.unit == "return" else task.raw(number.mean)
        assert value is not None
        raw = Estimate(value, None, None, "published")
        if reference is not None and board.metric == "return":
            score = Estimate(float(reference.score("return", value)), None, None, "published")
        same_scale = _as_printed(ours, number, task, reference)
    printed = Printed(number, source, comparable, reasons, ours, same_scale)
    return Row(
        board=board,
        kind="published",
        label=f"{number.algorithm}, {source.label}",
        algo=ours.algo if ours else "",
        paper=source.paper,
        score=score,
        team_return=raw,
        notes=reasons,
        printed=printed,
    )


def _as_printed(
    ours: Row | None, number: Number, task: PublishedTask, reference: Reference | None
) -> Estimate | None:
    """Our score, failures and all, as a number of the paper's unit."""
    if ours is None or ours.score is None or reference is None:
        return None

    def convert(score: float | None) -> float | None:
        if score is None:
            return None
        value = reference.random + score / 100 * (reference.expert - reference.random)
        if number.unit == "return" or task.random is None or task.expert is None:
            return value
        return 100 * (value - task.random) / (task.expert - task.random)

    own = ours.score
    value = convert(own.value)
    assert value is not None
    return Estimate(value, convert(own.low), convert(own.high), own.method)


def is_published_data(dataset: str, library: Library) -> bool:
    """Whether a dataset of this suite is, imported, the very data of a published benchmark."""
    name = dataset.rpartition("-v")[0]
    patterns = (task.data.format(tier=".+") for task in library.tasks.values() if task.data)
    return any(re.fullmatch(pattern, name) for pattern in patterns)
