"""Figures of finite mean-field games: exploitability over training, and flows of populations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array
from leaderboard.columns import plain
from leaderboard.plots import CYCLE, DASHES, FLOOR_DASHES, MARKERS, figure
from leaderboard.rows import Row

GREY = "#666666"
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
