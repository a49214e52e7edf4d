"""Figures of mean-field games: exploitability over training, flows of populations, and what plans
of many agents take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array
from leaderboard.columns import plain
from leaderboard.plots import CYCLE, DASHES, FLOOR_DASHES, MARKERS, figure
from leaderboard.rows import Row

GREY = "#666666"
LEAST = 1e-2  # seconds or megabytes that a logarithm can show
COLUMN = "exploitability"  # of a curve


def exploitability(rows: Sequence[Row], path: Path) -> None:
    """Exact exploitability of one board's rows: over training where a record has the curve, and at
    the last step, a marker a seed. Uniform play and BC are lines, 0 is an equilibrium.
    """
    shown = [row for row in rows if row.runs and row.exploitability is not None]
    ranked = [row for row in shown if row.kind == "algorithm"]
    if not shown:
        raise UserError(f"cannot draw {path}: no record of the board has an exploitability.")
    with figure(path, (7.6, 3.6), [1]) as (ax,):
        for index, row in enumerate(ranked):
            colour, mark = CYCLE[index % len(CYCLE)], MARKERS[index % len(MARKERS)]
            for seed, run in enumerate(row.runs):
                if run.failed:
                    continue
                if COLUMN in run.losses():
                    dash = DASHES[index % len(DASHES)]
                    ax.plot(*run.points("step", COLUMN), color=colour, linestyle=dash, linewidth=1)
                label = plain(row.label) if seed == 0 else None
                last, style = run.exact[COLUMN], {"markersize": 6, "markerfacecolor": "none"}
                ax.plot(run.steps, last, mark, color=colour, label=label, **style)
        floors = [row for row in rows if row.kind == "floor" and row.exploitability is not None]
        for row in floors:
            assert row.exploitability is not None
            dash, value = FLOOR_DASHES.get(row.label, "-."), row.exploitability.value
            name = f"{plain(row.label)} (floor)"
            ax.axhline(value, color=GREY, linewidth=1.1, linestyle=dash, label=name)
        ax.set_yscale("symlog", linthresh=1e-2)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_ylim(bottom=0)
        ax.set_xlim(left=0)
        ax.axhline(0, color="black", linewidth=1.6)
        ax.set_xlabel("gradient steps")
        ax.set_ylabel("exploitability (0 = equilibrium)")
        title = f"{plain(shown[0].board.title)}   {shown[0].board.track} track"
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def flows(title: str, named: Mapping[str, Array], path: Path) -> None:
    """Populations over time, mu[t, o] a panel; `named` begins with the equilibrium, [H + 1, O].

    Above each other panel its distance to the equilibrium, max_t |mu - mu*|_1.
    """
    (first, equilibrium), *_ = named.items()
    most = max(float(mu.max()) for mu in named.values())
    with figure(path, (2.6 * len(named) + 1, 3.2), [1], columns=len(named)) as axes:
        for ax, (name, mu) in zip(axes, named.items(), strict=True):
            image = ax.imshow(
                mu.T, cmap="cividis", vmin=0, vmax=most, aspect="auto", origin="lower",
                interpolation="nearest",
            )  # fmt: skip
            head = plain(name)
            if name != first:
                head += f"\ndistance {np.abs(mu - equilibrium).sum(-1).max():.2f}"
            ax.set_title(head, fontsize=9, loc="left")
            ax.set_xlabel("time")
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.yaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel(f"observation, {plain(title)}", fontsize=9)
        axes[-1].figure.colorbar(image, ax=axes[-1], label="share of agents")


def plans(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """What a plan of N agents takes: seconds and megabytes, a line a denoiser, both axes by powers.

    rows: name -> {"cells": {N: {"outcome", "seconds", "mb"}}}, as tests/perf/bench_plans.py
    records them; where a line ends before the others, the cell after it says why.
    """
    with figure(path, (9.0, 3.2), [1], columns=2) as axes:
        for ax, (what, head) in zip(
            axes, (("seconds", "processor seconds"), ("mb", "MB above the start")), strict=True
        ):
            for index, (name, row) in enumerate(rows.items()):
                done = [(int(n), x) for n, x in row["cells"].items() if x["outcome"] == "ok"]
                line, mark = DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)]
                sizes, values = [n for n, _ in done], [max(x[what], LEAST) for _, x in done]
                style = {"color": CYCLE[index % len(CYCLE)], "linestyle": line, "marker": mark}
                ax.plot(sizes, values, label=plain(name), **style)
                ended = next((x for x in row["cells"].values() if x["outcome"] != "ok"), None)
                if ended:
                    said = {"xytext": (6, 0), "textcoords": "offset points", "fontsize": 8}
                    ax.annotate(ended["outcome"], (sizes[-1], values[-1]), va="center", **said)
            ax.set(xscale="log", yscale="log", xlabel="agents", ylabel=head)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(
                    lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"
                )
            ax.grid(alpha=0.3)
        axes[0].legend(frameon=False, fontsize=8)
