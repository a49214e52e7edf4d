"""readme: tables, figures and findings of the README and of the pages of results, claims and
performance, written from the committed records and nothing else.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np

from benchmark import files, registry
from benchmark.cli import ROOT, board, claims
from benchmark.cli import readme_perf as speed
from benchmark.cli import readme_tables as tables
from benchmark.errors import UserError
from benchmark.protocol import PROTOCOLS

if TYPE_CHECKING:
    from pathlib import Path

    from benchmark.cli.options import Readme
    from benchmark.record import Record

PAGES = tuple(ROOT / name for name in ("README.md", "docs/results.md", "docs/performance.md"))
PERF = ROOT / "leaderboard" / "perf"
FIGURES = ROOT / "leaderboard" / "figures"
TEAMS = ("mpe/spread", "mpe/tag-flee", "mamujoco/halfcheetah-2x3")
GAMES = tuple(f"meanfield/{name}-n256" for name in ("queue", "resource", "beach-bar", "four-rooms"))
BATTLES = tuple(
    f"battle/{name}-rush" for name in ("magent-map16", "skirmish-n64", "skirmish-n1024")
)
CROWDS = tuple(f"meanfield/{name}/medium-v1" for name in (
    "squeeze-n1000", "squeeze-n10000", "beach-bar-n1000", "beach-bar-n10000"
))  # fmt: skip
PROBES = tuple(f"probe/{name}/two-mode-v1" for name in ("bandit", "xor", "mne"))
PLAYED = "mpe/spread-v1"  # of the figure of the online track
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


def run(options: Readme) -> int:
    """Write the README, or with --check compare it."""
    from leaderboard import claims_table, plots, plots_across, plots_games, plots_studies
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
        "spread": tables.tiers(everything, TEAMS),
        "games": tables.tiers(everything, GAMES),
        "battles": tables.tiers(everything, BATTLES),
        "crowds": tables.across(everything, CROWDS, tables.cost),
        "probes": tables.across(everything, PROBES, tables.cell_of),
        "online": tables.playing([x for x in everything if x.task.startswith("mpe/")]),
        "published": tables.beside_papers(everything),
        "claims": claims_table.short(found),
        "speed": speed.summary(measured["perf"]),
        "algorithms": algorithm_table(),
        "perf": speed.goals(measured["perf"]),
        "device": speed.device(measured.get("device-cuda")),
        "ray": speed.ray(measured["ray"]),
        "plans": speed.plans(measured["plans"]),
        "soak": speed.soak(measured["soak"]),
    }
    pages = filled({path: path.read_text() for path in PAGES}, blocks) | {claims.PAGE: page}
    if options.check:
        for path, wanted in pages.items():
            if not path.exists() or wanted != path.read_text():
                where = path.relative_to(ROOT)
                raise UserError(f"{where} is not what the committed records say; run make readme.")
        return 0
    for path, text in pages.items():
        files.write_text(path, text)
    plots.comparison(board.rows_of(shown), FIGURES / f"{BENCH.replace('/', '--')}.svg")
    plots_games.plans(measured["plans"]["rows"], FIGURES / "plans.svg")
    teams = [item for item in everything if (item.dataset or "").rpartition("/")[0] in TEAMS[:2]]
    plots_across.tiers(board.rows_of(teams), FIGURES / "mpe--quick--tiers.svg")
    played = [item for item in everything if (item.task, item.track) == (PLAYED, "online")]
    played_rows = board.rows_of(played)
    path = FIGURES / "claims" / "sample_efficiency.svg"
    plots.curves([run for row in played_rows for run in row.runs], path, played_rows, ["return"])
    for name, draw in plots_studies.FIGURES.items():
        draw(claims.studies(), FIGURES / "claims" / f"{name}.svg")
    print(f"wrote {', '.join(path.relative_to(ROOT).as_posix() for path in pages)} and {FIGURES}")
    return 0


def filled(pages: dict[Path, str], blocks: dict[str, str]) -> dict[Path, str]:
    """The pages with each block between its marks; a block without a place raises UserError."""
    for name, block in blocks.items():
        begin, end = f"<!-- begin:{name} -->", f"<!-- end:{name} -->"
        marks = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
        placed = [path for path, text in pages.items() if marks.search(text)]
        if not placed:
            names = ", ".join(path.name for path in pages)
            raise UserError(f"none of {names} has the marks {begin} and {end}.")
        for path in placed:
            whole = f"{begin}\n{block}\n{end}"
            pages[path] = marks.sub(lambda _: whole, pages[path])  # noqa: B023
    return pages
