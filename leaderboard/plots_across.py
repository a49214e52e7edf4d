"""Figures across boards: profiles, score against cost and against N, tiers, paper against measured.

The same colours, dashes and rules as `plots.py`: floors are always drawn, lines differ in dash and
marker as well as in colour, and equal rows give equal files.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import UserError
from leaderboard import scores
from leaderboard.aggregate import Summary
from leaderboard.columns import mark, plain
from leaderboard.plots import CYCLE, DASHES, FLOOR_DASHES, MARKERS, figure, log_axis
from leaderboard.rows import EXECUTIONS, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from leaderboard.claims import Finding

SHAPES = dict(zip(EXECUTIONS, "os^", strict=True))
GREY = "#666666"
COSTS = {"act_ms": "ms per joint action", "train_seconds": "training seconds per seed"}
RANGE = (-20.0, 120.0)  # of scores that a heat map tells apart
LEGEND: dict[str, Any] = {
    "loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False, "fontsize": 8,
}  # fmt: skip


def _style(index: int) -> dict[str, Any]:
    """Colour, dash and marker of the index-th line; no two of the first 28 are alike."""
    return {
        "color": CYCLE[index % len(CYCLE)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def profiles(summary: Summary, path: Path) -> None:
    """Share of runs above each score, a line per row; floors in grey (arXiv:2108.13264)."""
    every = np.concatenate([s for line in summary.lines for s in line.strata])
    thresholds = np.linspace(min(0.0, every.min()) - 1, max(100.0, every.max()) + 1, 201)
    with figure(path, (7.6, 4.2), [1]) as (ax,):
        ranked = [line for line in summary.lines if line.row.kind == "algorithm"]
        for index, line in enumerate(ranked):
            share = scores.profile(line.strata, thresholds)
            style = _style(index) | {"markevery": (5 * index % 25, 25), "markersize": 4}
            ax.plot(thresholds, share, **style, linewidth=1.5, label=plain(line.row.label))
        for line in summary.lines:
            if line.row.kind != "algorithm":
                share = scores.profile(line.strata, thresholds)
                dash = FLOOR_DASHES.get(line.row.label, "-.")
                name = f"{plain(line.row.label)} (floor)"
                ax.plot(thresholds, share, dash, color=GREY, linewidth=1.1, label=name)
        ax.set_xlabel("score t: 0 = random play, 100 = expert")
        ax.set_ylabel("share of runs above t")
        ax.set_title(summary.group.title, loc="left", fontsize=10, fontweight="bold")
        ax.legend(**LEGEND)


def pareto(rows: Sequence[Row], path: Path) -> None:
    """Score against costs of one board's rows, numbered; the line joins what nothing beats."""
    shown = [row for row in rows if row.runs and row.score is not None and row.label != "random"]
    if not shown:
        raise UserError(f"cannot draw {path}: no row of the board has a score.")
    with figure(path, (9.6, 4.2), [1], columns=len(COSTS)) as axes:
        for ax, (cost, title) in zip(axes, COSTS.items(), strict=True):
            points = [(float(getattr(row, cost)), row.score.value) for row in shown if row.score]
            for i, (row, (x, y)) in enumerate(zip(shown, points, strict=True)):
                assert row.score is not None
                if row.score.low is not None:
                    ax.plot([x, x], [row.score.low, row.score.high], color="#888888", linewidth=1)
                name = f"{i + 1}  {plain(row.label)}" + (f" ({mark(row)})" if mark(row) else "")
                ax.plot(
                    x, y, SHAPES[row.execution], markersize=13, color="white", label=name,
                    markeredgecolor=GREY if row.kind == "floor" else CYCLE[i % len(CYCLE)],
                    markeredgewidth=1.8,
                )  # fmt: skip
                ax.annotate(str(i + 1), (x, y), ha="center", va="center", fontsize=7)
            front = sorted(p for p in points if not any(_beats(q, p) for q in points))
            ax.plot(*zip(*front, strict=True), color="#222222", linewidth=0.9, zorder=0.8)
            _floors(ax, rows)
            log_axis(ax.xaxis)
            low = min(0.0, *(y for _, y in points))
            ax.set_ylim(low - 6, max(100.0, *(y for _, y in points)) + 10)
            ax.set_xlabel(title)
        axes[0].set_ylabel("score: 0 = random play, 100 = expert")
        title = f"{plain(shown[0].board.title)}   {shown[0].board.protocol} protocol"
        axes[0].set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes[-1].legend(**LEGEND | {"markerscale": 0.5})


def _beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether a is as cheap and as good as b, and better in one."""
    return a != b and a[0] <= b[0] and a[1] >= b[1]


def _floors(ax: Axes, rows: Sequence[Row]) -> None:
    """Random play, the data's mean and references as lines, named at the right edge."""
    for row in rows:
        drawn = bool(row.runs) and row.label != "random"  # as a numbered point
        if row.kind in ("floor", "reference") and row.score is not None and not drawn:
            dash = FLOOR_DASHES.get(row.label, "-.")
            ax.axhline(row.score.value, color=GREY, linewidth=0.8, linestyle=dash, zorder=0.5)
            ax.annotate(
                plain(row.label), (1.0, row.score.value), xycoords=("axes fraction", "data"),
                ha="right", va="bottom", fontsize=7, color="#444444",
            )  # fmt: skip


def by_size(rows: Sequence[Row], path: Path) -> None:
    """Score against the population's size N, for rows of games that differ in N alone."""
    sizes: dict[str, dict[str, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        match = re.fullmatch(r"(.+)-n(\d+)((?:-b\d+)?)/(.+)", row.board.dataset)
        if match and row.score is not None and row.kind in ("algorithm", "floor"):
            family = f"{match[1]}-nN{match[3]}/{match[4]}"
            sizes[family][row.label][int(match[2])] = row
    families = {name: own for name, own in sorted(sizes.items()) if max(map(len, own.values())) > 1}
    if not families:
        raise UserError(f"cannot draw {path}: no row was run on two sizes of one game.")
    with figure(path, (7.6, 3.2 * len(families)), [1] * len(families)) as axes:
        for ax, (family, own) in zip(axes, families.items(), strict=True):
            several = {label: found for label, found in own.items() if len(found) > 1}
            for index, (label, found) in enumerate(sorted(several.items())):
                x = sorted(found)
                y = [found[n].score.value for n in x]  # type: ignore[union-attr]
                floor = found[x[0]].kind == "floor"
                style = _style(index) | ({"color": GREY} if floor else {})
                ends = [(found[n].score.low, found[n].score.high) for n in x]  # type: ignore[union-attr]
                for n, (low, high) in zip(x, ends, strict=True):
                    if low is not None:
                        ax.plot([n, n], [low, high], color=style["color"], linewidth=1)
                name = plain(label) + (" (floor)" if floor else "")
                ax.plot(x, y, **style, markersize=6, linewidth=1.4, label=name)
            ax.set_xscale("log")
            ax.set_xticks(sorted({n for found in several.values() for n in found}))
            ax.get_xaxis().set_major_formatter(lambda value, _: f"{value:,.0f}")
            ax.minorticks_off()
            ax.axhline(100, color=GREY, linewidth=0.8, linestyle="-.", zorder=0.5)
            ax.set_xlabel("agents N")
            ax.set_ylabel("score")
            ax.set_title(plain(family), loc="left", fontsize=10, fontweight="bold")
            ax.legend(**LEGEND)


def tiers(rows: Sequence[Row], path: Path) -> None:
    """Scores of rows on datasets, numbers in cells that a grey print also tells apart."""
    import matplotlib

    cells: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row.score is not None and row.kind in ("algorithm", "floor"):
            cells[row.kind, row.label][row.board.title] = row.score.value
    names = sorted(cells, key=lambda k: (k[0], -len(cells[k]), -np.mean([*cells[k].values()]), k))
    columns = sorted({title for own in cells.values() for title in own}, key=_tier_order)
    if not columns:
        raise UserError(f"cannot draw {path}: no row has a score.")
    values = np.array([[cells[n].get(c, np.nan) for c in columns] for n in names])
    height = 1.6 + 0.3 * len(names)
    with figure(path, (3.0 + 0.8 * len(columns), height), [1]) as (ax,):
        colours = matplotlib.colormaps["cividis"]
        ax.imshow(values, cmap=colours, vmin=RANGE[0], vmax=RANGE[1], aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = value < sum(RANGE) / 2
                colour = "white" if dark else "black"
                ax.text(j, i, f"{value:z.0f}", ha="center", va="center", color=colour, fontsize=8)
        ax.set_yticks(range(len(names)), [plain(n) + " (floor)" * (k == "floor") for k, n in names])
        ax.set_xticks(range(len(columns)), [_short(c) for c in columns], rotation=40, ha="right")
        ax.tick_params(length=0)
        title = "score by dataset: 0 = random play, 100 = expert; white: not run"
        ax.set_title(title, loc="left", fontsize=10)


def _tier_order(dataset: str) -> tuple[str, int, str]:
    task, _, tier = dataset.rpartition("/")
    order = ("random", "medium-replay", "mixed", "medium", "expert")
    name = tier.rpartition("-v")[0]
    return task, order.index(name) if name in order else len(order), tier


def _short(dataset: str) -> str:
    """`spread/medium` of mpe/spread/medium-v1."""
    return plain(dataset.split("/", 1)[1].rpartition("-v")[0] if "/" in dataset else dataset)


def papers(rows: Sequence[Row], findings: Sequence[Finding], path: Path) -> None:
    """Left: published scores against ours in the paper's unit; hollow where they may not be
    compared. Right: measured over claimed, of claims with a number.
    """
    found = [row.printed for row in rows if row.printed and row.printed.number.unit == "score"]
    pairs = [
        (p, (p.same_scale or p.ours.score).value)
        for p in found
        if p.ours is not None and p.ours.score is not None and p.source.read != "derived"
    ]
    ratios = [
        (f"{f.card.name}\n{part.test.unit}", m.estimate, part.test.paper)
        for f in findings
        for part in f.parts
        for m in part.found[:1]
        if part.test.paper
    ]
    if not pairs and not ratios:
        raise UserError(f"cannot draw {path}: nothing published stands beside a row of ours.")
    with figure(path, (11, 4.8), [1], columns=2) as (ax, right):
        names = sorted({p.ours.label for p, _ in pairs if p.ours is not None})
        for p, value in pairs:
            assert p.ours is not None
            index = names.index(p.ours.label)
            colour, filled = CYCLE[index % len(CYCLE)], p.comparable != "no"
            ax.plot(
                p.number.mean, value, MARKERS[index % len(MARKERS)], color=colour, markersize=6,
                markerfacecolor=colour if filled else "none", alpha=1.0 if filled else 0.7,
            )  # fmt: skip
        for index, name in enumerate(names):
            style = {"marker": MARKERS[index % len(MARKERS)], "color": CYCLE[index % len(CYCLE)]}
            ax.plot([], [], **style, linestyle="", label=plain(name))
        ax.axline((0, 0), slope=1, color=GREY, linewidth=0.9, linestyle="--")
        for value, name in ((0.0, "random play"), (100.0, "expert")):
            ax.axhline(value, color=GREY, linewidth=0.8, linestyle=":")
            ax.annotate(
                name, (1.0, value), xycoords=("axes fraction", "data"), fontsize=7, ha="right"
            )
        ax.set_xlabel("published score")
        ax.set_ylabel("ours (hollow: another program, not comparable)")
        ax.legend(**LEGEND)
        for y, (_, estimate, paper) in enumerate(ratios):
            if estimate.low is not None and estimate.high is not None:
                ends = sorted((estimate.low / paper, estimate.high / paper))
                right.plot(ends, [y, y], color="#222222", linewidth=1.4)
            right.plot(estimate.value / paper, y, "o", color=CYCLE[0], markersize=6)
        right.axvline(1, color=GREY, linewidth=0.9, linestyle="--")
        right.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        right.set_yticks(range(len(ratios)), [name for name, _, _ in ratios], fontsize=7)
        right.set_ylim(len(ratios) - 0.4, -0.6)
        right.set_xlabel("measured / claimed (1 = the paper's number)")
