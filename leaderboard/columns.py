"""What the tables say: the columns of a board, and its sentences, in plain words.

Names in records are a stranger's text: they are shown as plain ASCII, and each format (`table.py`)
escapes them for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.protocol import protocol
from leaderboard.formats import plain
from leaderboard.rows import LEVELS, RAW, Board, Row
from leaderboard.scores import BOOTSTRAP_FROM, Estimate

if TYPE_CHECKING:
    from leaderboard.published import Printed


@dataclass(frozen=True)
class Column:
    """A column: its value in a row (sorted by; None: an empty cell), and how that is shown."""

    title: str
    value: Callable[[Row], float | str | None]
    show: Callable[[Any], str] = str
    right: bool = True  # numbers are aligned to the right

    def cell(self, row: Row) -> str:
        value = self.value(row)
        return "" if value is None else self.show(value)


# ------------------------------------------------------------------------------------------- words
def about(board: Board, rows: Sequence[Row]) -> list[str]:
    """What the numbers of a board mean, one sentence each."""
    rule = protocol(board.protocol)
    seeds = f"{rule.n_seeds} training seed{'s' if rule.n_seeds > 1 else ''}"
    sentences = [
        f"{board.track.capitalize()} track, {rule.name} protocol v{board.protocol_version}:"
        f" {seeds}, {board.episodes} evaluation episodes each."
    ]
    team = f"the {board.team_return} of the agents' returns"
    if board.team_return not in ("mean", "sum"):
        team = f"the return of {board.team_return}"
    if board.unscored:
        sentences.append(f"No normalised score: {board.unscored}. Team return: {team}.")
    elif board.metric == "exploitability":
        sentences.append(
            "Score: 100 (1 - E / E_uniform) of the exact exploitability E; 0 = uniform play,"
            f" 100 = equilibrium. The return ({team}) is shown, never ranked."
        )
    elif board.metric == "margin":
        sentences.append(
            "Score: 0 = random play, 100 = expert, from the survival margin (own share alive minus"
            f" the opponent's) at an episode's end. The return ({team}) is shown, never ranked."
        )
    else:
        sentences.append(f"Score: 0 = random play, 100 = expert, from the team return ({team}).")
    if any(row.population_error for row in rows):
        sentences.append(
            "Population error: mean of max_t |mu_N(t) - mu(t)|_1 between the N agents and their"
            " policy's exact flow. Value gap: their mean return's distance from its exact value."
        )
    counts = [len(row.points) for row in rows if row.points]
    if any(count >= BOOTSTRAP_FROM for count in counts):
        sentences.append("Interquartile mean and 95% bootstrap interval over training seeds.")
    if counts and max(counts) == 1:
        sentences.append("One training seed: no interval.")
    elif any(count < BOOTSTRAP_FROM for count in counts):
        sentences.append(
            f"Fewer than {BOOTSTRAP_FROM} seeds: mean, 95% t-interval and each training seed."
        )
    if board.dataset:
        sentences.append("Intervals are conditional on the collected dataset.")
    if any(row.failed for row in rows):
        sentences.append(
            "A failed seed scores as random play, or as the worst seed if lower; raw columns"
            " average the finished seeds."
        )
    if len({row.execution for row in rows if row.rank}) > 1:
        sentences.append("Ranks are within one execution: what an agent may see differs.")
    if any(row.configs_tried for row in rows):
        sentences.append("Tuning: configurations tried / online episodes of their search.")
    sentences += _of_published(rows)
    levels = ", ".join(f"{level} {name}" for level, name in enumerate(LEVELS))
    sentences.append(f"Levels: {levels}.")
    return sentences


def _of_published(rows: Sequence[Row]) -> list[str]:
    """Why the published numbers of a board are not more comparable, each reason once."""
    printed = [row.printed for row in rows if row.printed]
    beside = [p for p in printed if p.comparable != "no"]
    sentences = []
    if beside:
        reasons = list(dict.fromkeys(reason for p in beside for reason in p.reasons))
        why = f" ({'; '.join(reasons)})" if reasons else ""
        sentences.append(
            f"Published numbers stand beside ours in the paper's unit, unranked{why}; score here is"
            " the return that they stand for on this board's scale."
        )
    if others := [p for p in printed if p.comparable == "no"]:
        reasons = list(dict.fromkeys(reason for p in others for reason in p.reasons))
        sentences.append(
            f"Not shown: {len(others)} published numbers that cannot be compared"
            f" ({'; '.join(reasons)})."
        )
    return sentences


def number(value: float, digits: int = 4) -> str:
    """`digits` significant figures without an exponent for everyday sizes."""
    if abs(value) < 1e-9:  # rounding errors of an exact zero
        return "0"
    if 10**digits - 0.5 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def _three(value: float) -> str:
    return number(value, 3)


def interval(row: Row) -> str:
    """The 95% interval of what the board ranks by."""
    if row.value is None or row.value.low is None or row.value.high is None:
        return ""
    if row.board.unscored:
        return f"{number(row.value.low)} to {number(row.value.high)}"
    return f"{row.value.low:z.1f} to {row.value.high:z.1f}"


def duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def count(value: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


def seeds(row: Row) -> str:
    """ "3/3", "2/3, 1 failed" or "2/3, 1 missing"; "" for rows without runs."""
    if not row.seeds:
        return ""
    parts = [f"{len(row.seeds) - len(row.failed)}/{max(row.expected, len(row.seeds))}"]
    if row.failed:
        parts.append(f"{len(row.failed)} failed")
    if row.n_missing:
        parts.append(f"{row.n_missing} missing")
    return ", ".join(parts)


def mark(row: Row) -> str:
    """What a reader must know beside the name: floor, reference, reconstruction."""
    if row.printed is not None:
        return f"published, {row.printed.comparable}"
    if row.kind != "algorithm":
        return row.kind
    return "reconstruction" if row.reconstruction else ""


def described(row: Row) -> dict[str, Any]:
    """What a row is, as plain values for CSV and JSON."""
    return {
        "kind": row.kind,
        "rank": row.rank,
        "algorithm": row.label,
        "paper": row.paper,
        "reconstruction": row.reconstruction,
        "execution": row.execution,
    }


def _name(row: Row) -> str:
    return f"{plain(row.label)} ({mark(row)})" if mark(row) else plain(row.label)


def _paper(row: Row) -> str:
    return plain(row.paper).replace(" (reconstruction)", "")  # the name says it


def _points(row: Row) -> str:
    if not row.points or len(row.points) >= BOOTSTRAP_FROM:
        return ""
    shown = [f"{p:z.1f}" if row.score else number(p) for p in row.points]
    if len(row.points) == len(row.seeds):
        shown = ["failed" if s in row.failed else p for s, p in zip(row.seeds, shown, strict=True)]
    return ", ".join(shown)


def _tuning(row: Row) -> str | None:
    if row.configs_tried is None or row.online_episodes is None:
        return None
    return f"{row.configs_tried}/{count(row.online_episodes)}"


def _of(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


# ------------------------------------------------------------------------------------------ columns
def columns(board: Board, rows: Sequence[Row]) -> tuple[list[Column], list[Column]]:
    """Columns of a board's two tables: results, and what they cost."""
    raw = [Column("return", lambda r: _of(r.team_return), number)]
    if board.metric != "return":
        name = RAW[board.metric][0]
        raw.insert(0, Column(name, lambda r: _of(getattr(r, name)), number))
    main = [Column("95% interval", interval)]
    if any(map(_points, rows)):
        main.append(Column("each seed", _points, right=False))
    if board.unscored:
        main = [raw[0], *main, *raw[1:]]
    else:
        main = [Column("score", lambda r: _of(r.score), "{:z.1f}".format), *main, *raw]
    if any(row.population_error for row in rows):
        main.append(Column("population error", lambda r: _of(r.population_error), _three))
        main.append(Column("value gap", lambda r: _of(r.value_gap), _three))
    algorithm = Column("algorithm", _name, right=False)
    results = [
        Column("#", lambda r: r.rank),
        algorithm,
        Column("execution", lambda r: r.execution, right=False),
        *main,
        Column("seeds done", seeds, right=False),
        Column("level", lambda r: r.level),
    ]
    costs = [
        algorithm,
        Column("train/seed", lambda r: r.train_seconds, duration),
        Column("ms/update", lambda r: r.update_ms, _three),
        Column("ms/action", lambda r: r.act_ms, _three),
        Column("peak MB", lambda r: r.peak_mb, "{:.0f}".format),
        Column("params", lambda r: r.parameters, count),
        Column("sampler steps", lambda r: r.sampler_steps),
        Column("tuning", _tuning),
        Column("paper", _paper, right=False),
    ]
    return results, costs


def published_columns() -> list[Column]:
    """Columns of a board's table of published numbers: theirs, and ours on the same scale."""

    def printed(show: Callable[[Printed], Any]) -> Callable[[Row], Any]:
        return lambda row: None if row.printed is None else show(row.printed)

    def range_of_ours(p: Printed) -> str | None:
        if p.same_scale is None or p.same_scale.low is None or p.same_scale.high is None:
            return None
        return f"{number(p.same_scale.low)} to {number(p.same_scale.high)}"

    return [
        Column("published", lambda r: plain(r.label), right=False),
        Column("printed", printed(lambda p: p.number.mean), number),
        Column("sd", printed(lambda p: p.number.std), number),
        Column("unit", printed(lambda p: p.number.unit), right=False),
        Column("ours", printed(lambda p: p.ours and plain(p.ours.label)), right=False),
        Column("ours, that unit", printed(lambda p: _of(p.same_scale)), number),
        Column("95% interval", printed(range_of_ours)),
        Column("score here", lambda r: _of(r.score), "{:z.1f}".format),
        Column("comparable", printed(lambda p: p.comparable), right=False),
        Column("read", printed(lambda p: p.source.read), right=False),
        Column("paper", lambda r: plain(r.paper), right=False),
    ]
