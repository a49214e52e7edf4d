"""readme: the README's tables, figures and findings, written from the committed records and nothing
else.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from benchmark import files, registry
from benchmark.cli import ROOT, board, claims
from benchmark.cli import readme_perf as speed
from benchmark.errors import UserError
from benchmark.protocol import PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmark.cli.options import Readme
    from benchmark.record import Record
    from leaderboard.rows import Row

README = ROOT / "README.md"
PERF = ROOT / "leaderboard" / "perf"
FIGURES = ROOT / "leaderboard" / "figures"
TIERS = ("random", "medium-replay", "mixed", "medium", "expert")
PAPERS = "mpe-omar/spread"  # the program behind the published tables
SHOWN = ("algorithm", "floor")  # neither references nor published numbers
TEAMS = ("mpe/spread", "mpe/tag-flee", "mamujoco/halfcheetah-2x3")
GAMES = tuple(f"meanfield/{name}-n256" for name in ("queue", "resource", "beach-bar", "four-rooms"))
BATTLES = tuple(
    f"battle/{name}-rush" for name in ("magent-map16", "skirmish-n64", "skirmish-n1024")
)
CROWDS = tuple(f"meanfield/{name}/medium-v1" for name in (
    "squeeze-n1000", "squeeze-n10000", "beach-bar-n1000", "beach-bar-n10000"
))  # fmt: skip
PROBES = tuple(f"probe/{name}/two-mode-v1" for name in ("bandit", "xor", "mne"))
PLAYED = "mpe/spread-v1"  # of the online track
BENCH = "meanfield/squeeze-n1000/medium-v1"  # of the first command on the page
WEIGHTED, UNWEIGHTED, COARSE = "mfdiffuser", "mfdiffuser.none", "mfdiffuser.hierarchical"


def scores(records: list[Record], row: str) -> np.ndarray:
    """Normalised score of each seed of a row; a failed seed scores as random play."""
    own = [item for item in records if item.algo == row]
    if not own:
        raise UserError(f"no committed record of {row} to show; run make grid and commit them.")
    reference = registry.task(own[0].task).reference()
    assert reference is not None
    values = [reference.random if item.failed else item.mean_return() for item in own]
    return np.array([float(reference.score("return", value)) for value in values])


def spoken(records: list[Record], row: str) -> str:
    from leaderboard.scores import estimate

    own = scores(records, row)
    found = estimate(own)
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}] ({len(own)} seeds)"


def faster(agents: int) -> tuple[str, str]:
    """How many times faster coarse-to-fine generation is, and milliseconds of the flat one."""
    rows = json.loads((PERF / "hierarchy.json").read_text())["rows"]
    own = {row["sampler"]: row for row in rows if row["n"] == agents}
    return f"{own['late']['faster']:.1f}", f"{own['off']['ms']:.0f}"


def effects(records: list[Record]) -> str:
    """What the records say of value weighting and of coarse-to-fine sampling."""
    (some, flat), (many, _) = faster(1_000), faster(4_000)
    optimum = scores(records, WEIGHTED).mean() / 100
    gain = (scores(records, WEIGHTED).mean() - scores(records, UNWEIGHTED).mean()) / 100
    met = optimum >= 0.85 and gain >= 0.2
    verdict = "met" if met else "not met"
    return f"""On `{BENCH}`, from the records in `leaderboard/results/`:

- **Value weighting**: `{WEIGHTED}` scores {spoken(records, WEIGHTED)}, the same without weights
  (`{UNWEIGHTED}`) {spoken(records, UNWEIGHTED)}. The effect looked for (at least 0.85 of the
  optimum, and 0.2 above unweighted) is {verdict}: {optimum:.2f} and {gain:+.2f}.
- **Coarse-to-fine sampling**: `{COARSE}` scores {spoken(records, COARSE)}. It generates a
  population of 1,000 agents {some} times as fast as flat sampling, which takes {flat} ms of
  processor time, and one of 4,000 {many} times as fast
  ([paired](leaderboard/perf/hierarchy.json))."""


def tiers(records: list[Record], tasks: tuple[str, ...]) -> str:
    """Scores on tasks, a table a task, a column for each tier that has records."""
    tables = []
    for task in tasks:
        rows: dict[str, dict[str, Row]] = defaultdict(dict)  # name, tier
        for tier in TIERS:
            own = [item for item in records if item.dataset == f"{task}/{tier}-v1"]
            for row in board.rows_of(own):
                if row.value is not None and row.label != "random" and row.kind in SHOWN:
                    rows[_named(row)][tier] = row
        if not rows:
            continue
        found = [tier for tier in TIERS if any(tier in row for row in rows.values())]
        lines = [f"| `{task}` | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
        for name in sorted(rows, key=lambda name: _place(list(rows[name].values()))):
            cells = [_cell(rows[name][tier]) if tier in rows[name] else "" for tier in found]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def across(records: list[Record], datasets: tuple[str, ...], cell: Callable[[Row], str]) -> str:
    """A table with a column for each dataset; reference lines are left out."""
    rows: dict[str, dict[str, Row]] = defaultdict(dict)  # name, dataset
    for dataset in datasets:
        for row in board.rows_of([item for item in records if item.dataset == dataset]):
            if row.value is not None and row.runs and row.label != "random":
                rows[_named(row)][dataset] = row
    heads = [f"`{name.split('/')[1]}`" for name in datasets]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(datasets)]
    for name in sorted(rows, key=lambda name: _place(list(rows[name].values()))):
        cells = [cell(rows[name][at]) if at in rows[name] else "" for at in datasets]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cost(row: Row) -> str:
    """Score, seconds of training and peak megabytes, medians over the seeds."""
    costs = [(run.cost.train_seconds, run.cost.peak_mb) for run in row.runs]
    seconds, megabytes = np.median(costs, axis=0)
    return f"{_cell(row)}; {seconds:.0f} s, {megabytes:.0f} MB"


def online(records: list[Record]) -> str:
    """Scores on the online track, and the environment steps that they took."""
    own = [item for item in records if item.task == PLAYED and item.track == "online"]
    lines = [f"| `{PLAYED}`, online | score | environment steps |", "|---|---|---|"]
    for row in board.rows_of(own):
        if row.value is not None and row.runs and row.kind == "algorithm":
            lines.append(f"| {_named(row)} | {_cell(row)} | {row.runs[0].env_steps:,} |")
    return "\n".join(lines)


def beside_papers(records: list[Record]) -> str:
    """Ours and the published score on the task whose program is the papers', tier by tier."""
    cells: dict[str, dict[str, str]] = defaultdict(dict)  # published name, tier
    flags = set()
    source: dict[str, str] = {}  # of each row of ours: the first that has it
    for tier in TIERS:
        own = [item for item in records if item.dataset == f"{PAPERS}/{tier}-v1"]
        for row in board.rows_of(own):
            printed = row.printed
            if printed is None or printed.same_scale is None or printed.ours is None:
                continue
            chosen = source.setdefault(printed.ours.label, printed.number.source)
            if printed.number.unit != "score" or printed.number.source != chosen:
                continue
            name = f"`{printed.ours.label}`, {printed.number.algorithm} in {printed.source.label}"
            deviation = f" ± {printed.number.std:g}" if printed.number.std else ""
            ours, low, high = (
                printed.same_scale.value, printed.same_scale.low, printed.same_scale.high,
            )  # fmt: skip
            range_ = "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"
            cells[name][tier] = f"{ours:.1f}{range_} / {printed.number.mean:g}{deviation}"
            flags.add(printed.comparable)
    if not cells:
        return f"No records on `{PAPERS}` yet."
    found = [tier for tier in TIERS if any(tier in row for row in cells.values())]
    lines = [
        f"| `{PAPERS}`: ours / published | {' | '.join(found)} |",
        "|---|" + "---|" * len(found),
    ]
    for name in sorted(cells):
        lines.append(f"| {name} | {' | '.join(cells[name].get(tier, '') for tier in found)} |")
    return "\n".join([*lines, "", f"Comparable: {', '.join(sorted(flags))}."])


def algorithm_table() -> str:
    """What every algorithm is, from its own file: the first sentence, the paper, the rows."""
    import inspect

    import algorithms

    lines = ["| algorithm | what | paper | rows |", "|---|---|---|---|"]
    for name in algorithms.registry().names():
        cls = algorithms.registry().cls(name)
        what = (inspect.getdoc(inspect.getmodule(cls)) or "").split("\n\n")[0].replace("\n", " ")
        rows = []
        for variant, found in cls.variants.items():
            kinds = (found.track, found.execution)
            said = [kind for kind in kinds if kind not in ("offline", "local")]
            own = name if variant == "default" else f"{name}.{variant}"
            rows.append(f"`{own}`" + (f" ({', '.join(said)})" if said else ""))
        lines.append(
            f"| `{name}` | {what.rstrip('.')} | {_linked(cls.paper)} | {', '.join(rows)} |"
        )
    return "\n".join(lines)


def _linked(paper: str) -> str:
    """A paper's arXiv number as a link."""
    found = re.sub(r"arXiv:(\d{4}\.\d{5})", r"[\1](https://arxiv.org/abs/\1)", paper)
    return "" if found == "none" else found


def _named(row: Row) -> str:
    from leaderboard.columns import mark

    said = [mark(row), "joint" if row.execution == "joint" else ""]
    said.append(row.board.track if row.board.track != "offline" else "")
    return row.label + (f" ({', '.join(filter(None, said))})" if any(said) else "")


def _cell(row: Row) -> str:
    assert row.value is not None
    text = f"{row.value.value:.1f}"
    if row.value.low is not None:  # two seeds or more
        text += f" [{row.value.low:.1f}, {row.value.high:.1f}]"
    return f"{text} ({len(row.seeds)})" if row.runs else text  # else the dataset's mean


def _place(rows: list[Row]) -> tuple[bool, int, float]:
    """The rows of most tiers first, then by their mean; who knows more than the data comes last."""
    mean = float(np.mean([row.value.value for row in rows if row.value]))
    return rows[0].board.track != "offline", -len(rows), -mean


def run(options: Readme) -> int:
    """Write the README, or with --check compare it."""
    from leaderboard import claims_table, plots, plots_games
    from leaderboard.table import render

    committed = board.committed()
    everything = [item for item in committed if item.protocol == "quick"]
    records = [item for item in everything if item.dataset == BENCH]
    # What the first command makes: its rows, and the protocol's own seeds
    shown = [item for item in records if item.algo in (WEIGHTED, "bc", "random")]
    shown = [item for item in shown if item.seed in PROTOCOLS["quick"].seeds()]
    found = claims.findings(board.rows_of(committed))
    page = claims_table.render(found, "markdown")
    measured = {path.stem: json.loads(path.read_text()) for path in PERF.glob("*.json")}
    blocks = {
        "bench": render(board.rows_of(shown), "markdown").strip(),
        "effects": effects(records),
        "spread": tiers(everything, TEAMS),
        "games": tiers(everything, GAMES),
        "battles": tiers(everything, BATTLES),
        "crowds": across(everything, CROWDS, _cost),
        "probes": across(everything, PROBES, _cell),
        "online": online(everything),
        "published": beside_papers(everything),
        "claims": claims_table.short(found),
        "algorithms": algorithm_table(),
        "perf": speed.goals(measured["perf"]),
        "device": speed.device(measured.get("device-cuda")),
        "ray": speed.ray(measured["ray"]),
        "plans": speed.plans(measured["plans"]),
        "soak": speed.soak(measured["soak"]),
    }
    text = README.read_text()
    for name, block in blocks.items():
        begin, end = f"<!-- begin:{name} -->", f"<!-- end:{name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
        if not pattern.search(text):
            raise UserError(f"README.md lacks the marks {begin} and {end}.")
        text = pattern.sub(lambda _: f"{begin}\n{block}\n{end}", text)  # noqa: B023
    if options.check:
        for path, wanted in ((README, text), (claims.PAGE, page)):
            if not path.exists() or wanted != path.read_text():
                where = path.relative_to(ROOT)
                raise UserError(f"{where} is not what the committed records say; run make readme.")
        return 0
    files.write_text(README, text)
    files.write_text(claims.PAGE, page)
    plots.comparison(board.rows_of(shown), FIGURES / f"{BENCH.replace('/', '--')}.svg")
    plots_games.plans(measured["plans"]["rows"], FIGURES / "plans.svg")
    print(f"wrote {README}, {claims.PAGE} and {FIGURES}")
    return 0
