"""What boards and rows are; `leaderboard/summarise.py` makes them from records.

A row is one algorithm on one dataset under one protocol.
Table, plots and page all show rows. Rows of one *board* share track, task, dataset and protocol.
Inside a board only rows of equal execution are ranked against each other. Floors (random play, the
dataset's mean, BC) and references (the expert) stand on every board, unranked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from benchmark.record import Record
from benchmark.task import Reference, TaskSpec
from leaderboard.scores import Estimate

if TYPE_CHECKING:
    from leaderboard.published import Printed

LEVELS = ("self-reported", "checked", "re-evaluated", "retrained")
EXECUTIONS = ("local", "mean-field", "joint")
TRACKS = ("offline", "model", "o2o", "online", "oracle")
FLOORS = ("bc", "random")  # algorithms that are floors on every board, never ranked


@dataclass(frozen=True)
class Scale:
    """What a board knows of a task: what its returns mean, and the fixed ends of the score."""

    spec: TaskSpec
    reference: Reference | None


# metric -> the field of a Row that holds its raw value, and its name in words
RAW = {
    "return": ("team_return", "team return"),
    "exploitability": ("exploitability", "exploitability"),
    "margin": ("margin", "survival margin"),
}


@dataclass(frozen=True)
class Board:
    """What the rows of one ranking share."""

    track: str
    task: str
    dataset: str  # "" for tracks without a buffer
    protocol: str
    protocol_version: int
    metric: str
    team_return: str
    episodes: int  # evaluation episodes that the protocol asks for on this task
    unscored: str = ""  # why there is no normalised score; "" where there is one

    @property
    def title(self) -> str:
        return self.dataset or self.task

    def order(self) -> tuple[Any, ...]:
        version = (self.protocol, self.protocol_version)
        return (TRACKS.index(self.track), self.task, self.dataset, *version)


@dataclass(frozen=True)
class Row:
    """One line of a board. Costs are means over the seeds, `peak_mb` is the largest."""

    board: Board
    kind: Literal["algorithm", "floor", "reference", "published"]
    label: str  # unique on its board
    rank: int | None = None  # among rows of equal execution; None: not ranked, `notes` say why
    algo: str = ""
    paper: str = ""
    execution: str = ""
    score: Estimate | None = None  # normalised; failed seeds count as random play or worse
    team_return: Estimate | None = None  # raw, over the finished seeds
    exploitability: Estimate | None = None  # raw, over the finished seeds
    margin: Estimate | None = None  # raw, over the finished seeds
    population_error: Estimate | None = None  # of a finite game's N agents from its limit
    value_gap: Estimate | None = None  # |J_N - J|, of the same
    points: tuple[float, ...] = ()  # of each seed: score, or the raw metric where there is none
    seeds: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    expected: int = 0  # seeds that the protocol asks for
    train_seconds: float | None = None
    update_ms: float | None = None
    act_ms: float | None = None
    peak_mb: float | None = None
    parameters: int | None = None
    sampler_steps: int | None = None
    configs_tried: int | None = None  # in the search behind its configuration
    online_episodes: int | None = None  # that this search played
    level: int | None = None  # the lowest of its seeds
    notes: tuple[str, ...] = ()
    runs: tuple[Record, ...] = ()  # by seed
    printed: Printed | None = None  # of the kind "published"

    @property
    def reconstruction(self) -> bool:
        return "reconstruction" in self.paper.lower()

    @property
    def value(self) -> Estimate | None:
        """What the board ranks by: the score, else the raw metric."""
        if self.score is not None or not self.board.unscored:
            return self.score
        found: Estimate | None = getattr(self, RAW[self.board.metric][0])
        return found

    @property
    def n_missing(self) -> int:
        return max(0, self.expected - len(self.seeds))


def by_board(rows: Sequence[Row]) -> dict[Board, list[Row]]:
    """Rows grouped by board, the order kept."""
    boards: dict[Board, list[Row]] = defaultdict(list)
    for row in rows:
        boards[row.board].append(row)
    return dict(boards)


def value_gap(board: Board, run: Record) -> float | None:
    """|J_N - J|: a run's mean return against its policy's value in the limit of infinitely many
    agents, the noise of the episodes included; None where the record has no such value.
    """
    value = run.exact.get("value")
    if value is None or run.failed or board.team_return != "mean":
        return None
    return abs(run.mean_return() - value)
