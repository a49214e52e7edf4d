"""How many agents of a population MF-Diffuser has to see: scores on squeeze by the size of a batch.

    make grid ALGOS=mfdiffuser DATASETS=meanfield/squeeze-n1000/medium-v1 SEEDS="0 1 2 3 4" \\
      ARGS="--config.agents 8 --records runs/subset"
    python -m tests.studies.representative_subset --records runs/subset [--record]

A row is M, the agents of each population in a batch, with the score of every seed, beside those of
the committed records (M = 32). The records of other M stay out of the board, where they would be
rows of their own.

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
    committed = scores(ROOT / "results")
    ((usual, whole),) = committed.items()
    rows = []
    for agents, by_seed in sorted(scores(options.records).items()):
        own, usual_scores = ([x[seed] for seed in sorted(x)] for x in (by_seed, whole))
        rows.append(
            {"agents": agents, "scores": own, "usual_agents": usual, "usual_scores": usual_scores}
        )
        print(f"M = {agents}: {np.mean(own):.1f}, M = {usual}: {np.mean(usual_scores):.1f}", own)
    if options.record:
        settings = {"algo": ALGO, "dataset": DATASET, "protocol": "quick"}
        machine = provenance.machine()
        files.write_json(RECORD, {"machine": machine, "settings": settings, "rows": rows})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
