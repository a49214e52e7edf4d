"""Figures of the studies behind the papers' claims, each drawn from its committed JSON alone.

FIGURES names them; a claim's card names the one that shows it, and `docs/claims.md` has them all.
Lines are means, dots the seeds, bars 95% intervals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import UserError
from leaderboard.plots import CYCLE, DASHES, MARKERS, figure, log_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Studies = Mapping[str, Any]  # "omsd_bandit", "perf/om2p", ... -> its JSON
Seeds = Mapping[float, Sequence[float]]  # x -> a number for each seed
GREY = "#666666"
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}
SIZE = (9.0, 3.2)  # two panels side by side


def joint_modes(studies: Studies, path: Path) -> None:
    """Total variation from two-mode data against the number of agents."""
    rows = _study(studies, "joint_modes", path)["rows"]
    with figure(path, (5.2, 3.2), [1]) as (ax,):
        agents = [row["agents"] for row in rows]
        bound = [row["bound"] for row in rows]
        ax.plot(agents, bound, color=GREY, linewidth=4, alpha=0.4, label="1 - 2^(1 - n)")
        for index, name in enumerate(("bc", "bc_joint")):
            _line(ax, index, name, {row["agents"]: row[name] for row in rows})
        ax.set(xlabel="agents n", ylabel="total variation", xticks=agents, ylim=(-0.05, 1.05))
        ax.legend(**LEGEND)


def bandit(studies: Studies, path: Path) -> None:
    """Reward of OMSD's family on the bandit by beta, a panel for each t_max."""
    rows = _study(studies, "omsd_bandit", path)["rows"]
    ends = sorted({row["t_max"] for row in rows})
    controls = list(dict.fromkeys(row["control"] for row in rows))
    with figure(path, SIZE, [1], columns=len(ends)) as axes:
        for ax, t_max in zip(axes, ends, strict=True):
            for index, control in enumerate(controls):
                own = [row for row in rows if (row["t_max"], row["control"]) == (t_max, control)]
                rewards = {row["beta"]: row["learned"]["rewards"] for row in own}
                # Side by side: a seed's reward is near 1 or near -1, and dots would hide dots
                _line(ax, index, control, rewards, shift=0.004 * (index - 1.5))
            ax.set(xlabel="beta, the weight of Q", title=f"t_max = {t_max:g}")
            ax.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes[0].set_ylabel("reward, the best is 1")
        axes[0].legend(**LEGEND)


def one_step(studies: Studies, path: Path) -> None:
    """Processor time and memory of OM2P beside Diffusion-QL of K steps."""
    by_name = {row["name"]: dict(row) for row in _study(studies, "perf/om2p", path)["policies"]}
    for row in _study(studies, "training_memory", path)["rows"]:
        if row["size"] == "suite":
            by_name[row["name"]] |= row
    chains = {int(name.split("=")[1]): row for name, row in by_name.items() if "=" in name}
    panels = {"update_ms": "update, ms", "act_100_ms": "act in 100 episodes, ms",
              "training_mb": "tensors of a training, MB"}  # fmt: skip
    with figure(path, (10.5, 3.0), [1], columns=len(panels)) as axes:
        for ax, (field, head) in zip(axes, panels.items(), strict=True):
            values = [row[field] for row in chains.values()]
            ax.plot([*chains], values, color=CYCLE[1], marker="s", label="Diffusion-QL, K steps")
            own = by_name["om2p"][field]
            ax.axhline(own, color=CYCLE[0], linestyle="--", label="OM2P, one step")
            for k, value in zip(chains, values, strict=True):
                said = {"xytext": (0, 5), "textcoords": "offset points", "fontsize": 7}
                ax.annotate(f"{value / own:.1f}x", (k, value), ha="center", **said)
            ax.set(xlabel="denoising steps K", ylabel=head, xticks=[*chains], ylim=(0, None))
        axes[0].legend(**LEGEND)


def mean_flow(studies: Studies, path: Path) -> None:
    """The backward difference's error by delta, and one-step samples by estimator and times."""
    found = _study(studies, "mean_flow", path)
    with figure(path, (10.5, 3.4), [1], columns=2) as (ax, right):
        networks = list(dict.fromkeys(row["network"] for row in found["error"]))
        for index, network in enumerate(networks):
            own = [row for row in found["error"] if row["network"] == network]
            for precision, dash in (("float32", "-"), ("float64", ":")):
                error = [np.mean(row[precision]) for row in own]
                style = {"color": CYCLE[index], "linestyle": dash, "marker": MARKERS[index]}
                name = f"{network}, {precision}"
                ax.plot([row["delta"] for row in own], error, **style, markersize=4, label=name)
        log_axis(ax.xaxis)
        log_axis(ax.yaxis)
        ax.set(xlabel="delta", ylabel="relative error of du/dt")
        ax.legend(**LEGEND)
        rows = sorted(found["toy"], key=lambda row: np.mean(row["energy_distance_1"]))
        for y, row in enumerate(rows):
            for index, steps in enumerate((1, 20)):
                label = f"{steps} step{'s' * (steps > 1)}" if y == 0 else None
                _dots(right, y, row[f"energy_distance_{steps}"], index, label)
        least = np.mean([row["energy_distance_data"] for row in rows])
        right.axvline(least, color=GREY, linestyle="--", linewidth=0.9, label="more data")
        names = [f"{r['law'].replace('_', '-')}, rho {r['rho']:g}, {r['estimator']}" for r in rows]
        right.set_yticks(range(len(rows)), names, fontsize=8)
        right.invert_yaxis()
        log_axis(right.xaxis)
        right.set_xlabel("energy distance of samples to the data")
        right.legend(**LEGEND)


def denoising_steps(studies: Studies, path: Path) -> None:
    """OMAD's score and the time of its update against its denoising steps."""
    found = _study(studies, "denoising_steps", path)
    with figure(path, SIZE, [1], columns=2) as (ax, right):
        _line(ax, 0, "omad", {row["k"]: row["scores"] for row in found["rows"]})
        for index, (field, name) in enumerate(
            (("update_ms", "update"), ("act_100_ms", "act in 100 episodes"))
        ):
            steps = [row["k"] for row in found["costs"]]
            values = [row[field] for row in found["costs"]]
            ends = [(row[f"{field}_low"], row[f"{field}_high"]) for row in found["costs"]]
            right.vlines(steps, *zip(*ends, strict=True), color=CYCLE[index])
            right.plot(steps, values, color=CYCLE[index], marker=MARKERS[index], label=name)
        for each, head in ((ax, "score after 50,000 environment steps"), (right, "processor ms")):
            _powers(each, [row["k"] for row in found["costs"]])
            each.set(xlabel="denoising steps K", ylabel=head)
        right.set_ylim(0, None)
        right.legend(**LEGEND)


def agents_cql(studies: Studies, path: Path) -> None:
    """Scores of CFCQL, joint MA-CQL and BC on spread with 2 to 6 agents, and with the penalties as
    released.
    """
    found = _study(studies, "agents_cql", path)
    rows = found["rows"]
    heads = {"rows": "the suite's penalties", "control": "as released: without the logged action"}
    with figure(path, SIZE, [1], columns=2) as axes:
        for ax, (table, head) in zip(axes, heads.items(), strict=True):
            for index, name in enumerate(("cfcql", "macql_joint", "bc")):
                of = rows if name == "bc" else found[table]
                _line(ax, index, name, {row["agents"]: row[name] for row in of})
            agents = [row["agents"] for row in rows]
            ax.plot(agents, [row["data"] for row in rows], ":", color=GREY, label="data")
            ax.set(xlabel="agents", ylabel="score", title=head, xticks=agents, ylim=(0, 105))
        axes[0].legend(**LEGEND)


def population_error(studies: Studies, path: Path) -> None:
    """Distance of N agents to their mean field against N."""
    rows = _study(studies, "population_error", path)["rows"]
    games = list(dict.fromkeys(row["game"] for row in rows))
    with figure(path, (10.5, 3.2), [1], columns=len(games)) as axes:
        for ax, game in zip(axes, games, strict=True):
            for index, row in enumerate(row for row in rows if row["game"] == game):
                cells = {cell["n"]: [cell["error"]] for cell in row["cells"]}
                _line(ax, index, f"B = {row['b']}: slope {row['slope']:.2f}", cells)
            log_axis(ax.xaxis)
            log_axis(ax.yaxis)
            ax.set(title=game, xlabel="agents N", ylabel="max_t |mu_N - mu|_1")
            ax.legend(**LEGEND)


def activation(studies: Studies, path: Path) -> None:
    """Scores by how many of the agents act, a panel for each game."""
    rows = _study(studies, "activation", path)["rows"]
    games, shares = (list(dict.fromkeys(row[key] for row in rows)) for key in ("game", "b"))
    with figure(path, SIZE, [1], columns=len(games)) as axes:
        for ax, game in zip(axes, games, strict=True):
            own: dict[str, dict[float, Sequence[float]]] = defaultdict(dict)
            for row in rows:
                if row["game"] == game:
                    own[row["learner"]][shares.index(row["b"])] = row["scores"]
            for index, (learner, found) in enumerate(own.items()):
                _line(ax, index, learner, found)
            ax.set(title=game, xlabel="agents who act", ylim=(0, 105))
            ax.set_xticks(range(len(shares)), shares)
        axes[0].set_ylabel("score")
        axes[0].legend(**LEGEND)


def offline_shift(studies: Studies, path: Path) -> None:
    """MF-Diffuser's score on squeeze against N, by what is held fixed."""
    found = _study(studies, "offline_shift", path)
    named = {"episodes": "400 populations", "transitions": "40,000 decisions"}
    with figure(path, (5.2, 3.2), [1]) as (ax,):
        for index, row in enumerate(found["rows"]):
            cells = {cell["n"]: cell["scores"] for cell in row["cells"]}
            _line(ax, index, f"data of {named[row['arm']]}", cells)
        log_axis(ax.xaxis)
        ax.set(xlabel="agents N", ylabel="score", ylim=(0, 105))
        ax.legend(**LEGEND)


def representative_subset(studies: Studies, path: Path) -> None:
    """MF-Diffuser's score on squeeze of 1,000 by how many agents stand for a population."""
    rows = _study(studies, "representative_subset", path)["rows"]
    with figure(path, (5.2, 3.2), [1]) as (ax,):
        _line(ax, 0, "mfdiffuser", {row["agents"]: row["scores"] for row in rows})
        _powers(ax, [row["agents"] for row in rows])
        ax.set(xlabel="agents of a population that an update sees", ylabel="score", ylim=(0, 105))


FIGURES: dict[str, Callable[[Studies, Path], None]] = {
    "activation": activation,
    "agents_cql": agents_cql,
    "denoising_steps": denoising_steps,
    "joint_modes": joint_modes,
    "mean_flow": mean_flow,
    "offline_shift": offline_shift,
    "omsd_bandit": bandit,
    "one_step": one_step,
    "population_error": population_error,
    "representative_subset": representative_subset,
}


def _study(studies: Studies, name: str, path: Path) -> Any:
    if name not in studies:
        raise UserError(f"cannot draw {path}: there is no study {name}.")
    return studies[name]


def _line(ax: Axes, index: int, name: str, found: Seeds, shift: float = 0.0) -> None:
    """The mean over seeds as a line, the seeds as dots behind it."""
    colour = CYCLE[index % len(CYCLE)]
    x = sorted(found)
    style: dict[str, Any] = {
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }
    means = [np.mean(found[at]) for at in x]
    ax.plot([at + shift for at in x], means, color=colour, markersize=5, label=name, **style)
    for at in x:
        if len(found[at]) > 1:
            places = [at + shift] * len(found[at])
            ax.plot(places, found[at], ".", color=colour, alpha=0.45, markersize=5)


def _dots(ax: Axes, y: float, values: Sequence[float], index: int, label: str | None) -> None:
    style: dict[str, Any] = {"color": CYCLE[index], "marker": MARKERS[index], "linestyle": ""}
    ax.plot(values, [y] * len(values), **style, alpha=0.4, markersize=3)
    ax.plot(np.mean(values), y, **style, markersize=6, label=label)


def _powers(ax: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic x axis whose ticks are the given numbers."""
    log_axis(ax.xaxis)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
