"""Figures of a board: bars with intervals and seeds, and learning curves. PNG or SVG by the suffix.

matplotlib is imported only here, when a figure is drawn, and draws without a display. Equal rows
give equal files. Colours are Okabe and Ito's, told apart by colour-blind readers; hatches and
markers tell the same in grey.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark import files
from benchmark.errors import UserError
from benchmark.record import Record
from leaderboard.columns import mark, number, plain
from leaderboard.rows import RAW, Board, Row, by_board
from leaderboard.summarise import labelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILL = {"local": "#56B4E9", "mean-field": "#009E73", "joint": "#E69F00"}  # by execution
HATCH = {"local": "", "mean-field": "..", "joint": "//"}
MARKERS = "osD^vP*Xh<>"
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
FLOOR_DASHES = {"random": ":", "dataset mean": "--", "bc": "-"}
FIXED = ("floor", "reference")
SUFFIXES = (".png", ".svg")
CHARACTER = 0.0125  # width of a letter of a line's name, in widths of a panel
AXIS = {"step": "gradient steps", "env_steps": "environment steps"}  # of curves
MAX_PANELS = 6  # losses in one figure of curves
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "offline-marl-bench",  # else the ids in an SVG are random
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # names are a stranger's text
}


def comparison(rows: Sequence[Row], path: Path) -> None:
    """One panel per board: bars with their 95% intervals, each seed, and the floors as lines;
    a hollow diamond is a published number of the same program and scale.
    """
    boards = list(by_board(rows).items())
    if not boards:
        raise UserError(f"cannot draw {path}: there are no rows to draw.")
    bars = [max(1, sum(row.kind == "algorithm" for row in own)) for _, own in boards]
    with figure(path, (7.6, sum(1.35 + 0.42 * n for n in bars)), bars) as axes:
        for ax, (board, own) in zip(axes, boards, strict=True):
            _bars(ax, board, own)


def curves(
    records: Sequence[Record], path: Path, rows: Sequence[Row] = (), only: Sequence[str] = ()
) -> None:
    """One panel per logged loss: a line per algorithm (mean over seeds), each seed thin behind it.

    Best with the records of one dataset; of more than MAX_PANELS losses the commonest are drawn.
    Of runs that play while they learn, returns come first, with the floors and references among the
    board's `rows` as lines, and environment steps are the x axis. `only` names losses to draw.
    """
    axis = "env_steps" if all("env_steps" in run.curve for run in records if run.curve) else "step"
    panels: dict[str, list[tuple[int, str, list[Record]]]] = defaultdict(list)
    for index, (label, runs) in enumerate(labelled(records)):
        for name in sorted({name for run in runs for name in run.losses()}):
            if only and name not in only:
                continue
            panels[name].append((index, label, [run for run in runs if name in run.losses()]))
    if not panels:
        raise UserError(f"cannot draw {path}: none of the {len(records)} records has a curve.")
    names = sorted(panels, key=lambda name: (name != "return", -len(panels[name]), name))
    names = names[:MAX_PANELS]
    with figure(path, (7.6, 2.3 * len(names)), [1] * len(names)) as axes:
        for ax, name in zip(axes, names, strict=True):
            for index, label, runs in panels[name]:
                _curve(ax, (axis, name), label, runs, index)
            if name == "return":
                _levels(ax, rows)
            ax.set_ylabel(plain(name))
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        axes[-1].set_xlabel(AXIS[axis])


@contextmanager
def figure(
    path: Path, size: tuple[float, float], heights: Sequence[float], columns: int = 1
) -> Iterator[Any]:
    """Axes of a new figure, row by row; written atomically to `path` at the end."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"cannot draw {path}: found suffix {path.suffix!r}, expected .png or .svg.")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        drawn: Figure = Figure(figsize=size, layout="constrained")  # no pyplot: no global state
        axes = drawn.subplots(len(heights), columns, squeeze=False, height_ratios=[*heights])
        yield axes.ravel()
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        with files.atomic_path(path) as temporary:
            drawn.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)


def _levels(ax: Axes, rows: Sequence[Row]) -> None:
    """Team returns of floors and references as horizontal lines."""
    for row in rows:
        if row.kind in FIXED and row.team_return is not None:
            dash, value = FLOOR_DASHES.get(row.label, "-."), row.team_return.value
            ax.axhline(
                value, color="#666666", linewidth=1.0, linestyle=dash, label=plain(row.label)
            )


def log_axis(axis: Any) -> None:
    """A logarithmic axis whose ticks are plain numbers: names may hold $, so no text is math."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _bars(ax: Axes, board: Board, rows: Sequence[Row]) -> None:
    ran = [row for row in rows if row.runs]
    algorithms = [row for row in ran if row.kind == "algorithm"] or ran
    for y, row in enumerate(algorithms):
        if row.value is None:
            ax.text(0, y, " no finished seed", va="center", style="italic")
            continue
        value, low, high = row.value.value, row.value.low, row.value.high
        style: dict[str, Any] = {"color": FILL[row.execution], "hatch": HATCH[row.execution]}
        ax.barh(y, value, height=0.62, edgecolor="#333333", linewidth=0.6, **style)
        if low is not None and high is not None:
            ax.plot([low, high], [y, y], color="#222222", linewidth=1.4)
            ax.plot([low, high], [y, y], "|", color="#222222", markersize=9)
        for seed, point in enumerate(row.points):
            crashed = len(row.points) == len(row.seeds) and row.seeds[seed] in row.failed
            marker, colour = ("X", "#D55E00") if crashed else ("o", "white")
            offset = 0.17 * (seed - (len(row.points) - 1) / 2) / max(1, len(row.points) / 3)
            ax.plot(
                point, y + offset, marker, color=colour, markersize=4.5, zorder=3,
                markeredgecolor="black", markeredgewidth=0.6, clip_on=False,
            )  # fmt: skip
        for other in rows:
            if other.printed and other.printed.ours is row and other.score is not None:
                ax.plot(
                    other.score.value, y, "D", color="none", markersize=7, zorder=4,
                    markeredgecolor="#CC79A7", markeredgewidth=1.4, clip_on=False,
                )  # fmt: skip
    _limits(ax, rows)
    heights = _fixed_lines(ax, rows)
    ax.set_yticks(range(len(algorithms)), [_tick(row) for row in algorithms])
    ax.set_ylim(max(1, len(algorithms)) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    raw = RAW[board.metric][1]
    scored = "score: 0 = random play, 100 = " + (
        "equilibrium" if board.metric == "exploitability" else "expert"
    )
    ax.set_xlabel(f"raw {raw} (no reference yet)" if board.unscored else scored)
    title = f"{plain(board.title)}   {board.track} track, {board.protocol} protocol"
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=6 + 11 * heights)


def _limits(ax: Axes, rows: Sequence[Row]) -> None:
    """Room for every seed and fixed line; a wide t-interval of few seeds may be cut at the edge."""
    values = [p for row in rows for p in (*row.points, row.value and row.value.value) if p]
    low, high = min([0.0, *values]), max([0.0, *values])
    inner = high - low or 1.0
    ends = [end for row in rows if row.value for end in (row.value.low, row.value.high) if end]
    low = max(low - 0.25 * inner, min([low, *ends])) - 0.03 * inner * (low < 0)
    high = min(high + 0.25 * inner, max([high, *ends])) + 0.03 * inner
    ax.set_xlim(low, high)


def _fixed_lines(ax: Axes, rows: Sequence[Row]) -> int:
    """Floors and references as vertical lines, named above the panel in rows without overlap.

    Returns the number of rows.
    """
    left, right = ax.get_xlim()
    taken: list[float] = []  # right end of the last name in each row of names, in axes fractions
    fixed = [(row.value.value, row) for row in rows if row.kind in FIXED and row.value]
    for value, row in sorted(fixed, key=lambda item: (item[0], item[1].label)):
        style = FLOOR_DASHES.get(row.label, "-.")
        ax.axvline(value, color="#666666", linewidth=1.1, linestyle=style, zorder=0.5)
        text = f"{plain(row.label)} {number(value, 3)}"
        centre, half = (value - left) / (right - left), len(text) * CHARACTER / 2
        height = next((h for h, end in enumerate(taken) if centre - half > end), len(taken))
        taken[height : height + 1] = [centre + half]
        ax.annotate(
            text, (value, 1.0), xycoords=("data", "axes fraction"), ha="center", fontsize=8,
            xytext=(0, 3 + 11 * height), textcoords="offset points", color="#444444",
        )  # fmt: skip
    return len(taken)


def _tick(row: Row) -> str:
    notes = [note for note in (mark(row), row.execution) if note]
    if row.failed:
        notes.append(f"{len(row.failed)}/{len(row.seeds)} failed")
    if row.rank is None and row.kind == "algorithm":
        notes.append("not ranked")
    return f"{plain(row.label)}\n{', '.join(notes)}"


def _curve(
    ax: Axes, names: tuple[str, str], label: str, records: Sequence[Record], index: int
) -> None:
    colour, dash = CYCLE[index % len(CYCLE)], DASHES[index % len(DASHES)]
    by_steps: dict[tuple[float, ...], list[list[float]]] = defaultdict(list)
    for record in records:
        steps, values = record.points(*names)
        ax.plot(steps, values, color=colour, alpha=0.3, linewidth=0.7)
        by_steps[tuple(steps)].append(values)
    steps_of_most = max(by_steps, key=lambda steps: (len(by_steps[steps]), len(steps)))
    average = np.mean(by_steps[steps_of_most], axis=0)  # [point]
    ax.plot(steps_of_most, average, color=colour, linestyle=dash, linewidth=1.8, label=plain(label))
