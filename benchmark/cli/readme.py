"""readme: the README's tables, figures and findings, written from the committed records and nothing
else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from benchmark import files, record, registry
from benchmark.cli import ROOT, board
from benchmark.errors import UserError
from benchmark.protocol import PROTOCOLS

if TYPE_CHECKING:
    from benchmark.cli.options import Readme
    from benchmark.record import Record

README = ROOT / "README.md"
FIGURES = ROOT / "leaderboard" / "figures"
SPREAD = "mpe/spread"
TIERS = ("random", "medium-replay", "medium", "expert")
TEAM = ("bc", "matd3bc")
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


def milliseconds(records: list[Record], row: str) -> float:
    """Median processor time to generate one population, over a row's seeds."""
    own = [item.cost.extra["population_ms"] for item in records if item.algo == row]
    return float(np.median(own))


def effects(records: list[Record]) -> str:
    """What the records say of value weighting and of coarse-to-fine sampling."""
    flat, coarse = milliseconds(records, WEIGHTED), milliseconds(records, COARSE)
    optimum = scores(records, WEIGHTED).mean() / 100
    gain = (scores(records, WEIGHTED).mean() - scores(records, UNWEIGHTED).mean()) / 100
    met = optimum >= 0.85 and gain >= 0.2
    verdict = "met" if met else "not met"
    return f"""On `{BENCH}`, from the records in `leaderboard/results/`:

- **Value weighting**: `{WEIGHTED}` scores {spoken(records, WEIGHTED)}, the same without weights
  (`{UNWEIGHTED}`) {spoken(records, UNWEIGHTED)}. The effect looked for (at least 0.85 of the
  optimum, and 0.2 above unweighted) is {verdict}: {optimum:.2f} and {gain:+.2f}.
- **Coarse-to-fine sampling**: `{COARSE}` scores {spoken(records, COARSE)}. It generates a
  population of 1,000 in {coarse:.0f} ms of processor time, where flat sampling takes {flat:.0f} ms,
  a factor of {flat / coarse:.1f}."""


def tiers(records: list[Record]) -> str:
    """Scores of the team algorithms on every tier of spread."""
    import datasets

    reference = registry.task(f"{SPREAD}-v1").reference()
    assert reference is not None
    lines = [
        f"| `{SPREAD}` | {' | '.join(TEAM)} | dataset mean |",
        "|---|" + "---|" * (len(TEAM) + 1),
    ]
    for tier in TIERS:
        dataset = f"{SPREAD}/{tier}-v1"
        own = [item for item in records if item.dataset == dataset]
        mean = float(reference.score("return", datasets.mean_return(dataset) or 0.0))
        cells = [spoken(own, row) for row in TEAM] + [f"{mean:.1f}"]
        lines.append(f"| {tier} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run(options: Readme) -> int:
    """Write the README, or with --check compare it."""
    from leaderboard import plots
    from leaderboard.table import render

    everything = [item for item in record.read_all([board.RESULTS]) if item.protocol == "quick"]
    records = [item for item in everything if item.dataset == BENCH]
    # What the first command makes: its rows, and the protocol's own seeds
    shown = [item for item in records if item.algo in (WEIGHTED, "bc", "random")]
    shown = [item for item in shown if item.seed in PROTOCOLS["quick"].seeds()]
    blocks = {
        "bench": render(board.rows_of(shown), "markdown").strip(),
        "effects": effects(records),
        "spread": tiers(everything),
    }
    text = README.read_text()
    for name, block in blocks.items():
        begin, end = f"<!-- begin:{name} -->", f"<!-- end:{name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
        if not pattern.search(text):
            raise UserError(f"README.md lacks the marks {begin} and {end}.")
        text = pattern.sub(lambda _: f"{begin}\n{block}\n{end}", text)  # noqa: B023
    if options.check:
        if text != README.read_text():
            raise UserError("README.md is not what the committed records say; run make readme.")
        return 0
    files.write_text(README, text)
    plots.comparison(board.rows_of(shown), FIGURES / f"{BENCH.replace('/', '--')}.svg")
    print(f"wrote {README} and {FIGURES}")
    return 0
