"""How many agents of a population MF-Diffuser has to see: scores on squeeze by the size of a batch.

    for M in 2 8 64; do make grid ALGOS=mfdiffuser DATASETS=meanfield/squeeze-n1000/medium-v1 \\
      SEEDS="0 1 2 3 4" ARGS="--config.agents $M --records runs/subset"; done
    python -m tests.studies.representative_subset --records runs/subset [--record]

A row is M, the agents of each population in a batch, with the score of every seed, beside those of
the largest M. M = 32 is that of the committed records. The records of other M stay out of the
board, where they would be rows of their own.

`--record` writes leaderboard/studies/representative_subset.json.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmark import files, provenance, record, registry

ROOT = Path(__file__).parents[2] / "leaderboard"
RECORD = ROOT / "studies" / "representative_subset.json"
ALGO, DATASET = "mfdiffuser", "meanfield/squeeze-n1000/medium-v1"


def scores(folder: Path) -> dict[int, dict[int, float]]:
    """M -> seed -> normalised score; a failed seed scores as random play."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for item in record.read_all([folder]):
        if (item.algo, item.dataset, item.protocol) == (ALGO, DATASET, "quick"):
            reference = registry.task(item.task).reference()
            assert reference is not None
            value = 0.0 if item.failed else float(reference.score("return", item.mean_return()))
            found[item.config["agents"]][item.seed] = round(value, 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    found = scores(ROOT / "results") | scores(options.records)
    most, whole = max(found.items())
    seeds = sorted(whole)
    rows = []
    for agents, by_seed in sorted(found.items()):
        own, largest = ([x[seed] for seed in seeds] for x in (by_seed, whole))
        rows.append({"agents": agents, "scores": own, "most_agents": most, "most_scores": largest})
        print(f"M = {agents}: {np.mean(own):.1f}, M = {most}: {np.mean(largest):.1f}", own)
    if options.record:
        settings = {"algo": ALGO, "dataset": DATASET, "protocol": "quick"}
        machine = provenance.machine()
        files.write_json(RECORD, {"machine": machine, "settings": settings, "rows": rows})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
