"""What MF-Diffuser's interaction term gains: scores with the field of the population and without.

    for W in return none; do make grid ALGOS=mfdiffuser SEEDS="0 1 2 3 4" \\
      DATASETS=meanfield/squeeze-n1000/medium-v1 \\
      ARGS="--config.field none --config.weighting $W --records runs/alone"; done
    python -m tests.studies.interaction --records runs/alone [--record]

A row is a game and a weighting of the values, with the score of every seed with the field ("mean")
and without it ("none"), at equal steps, batches and widths. What the committed records hold is
taken from there; those of other settings stay out of the board, where they would be rows of their
own.

`--record` writes leaderboard/studies/interaction.json.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmark import files, provenance, record, registry

ROOT = Path(__file__).parents[2] / "leaderboard"
RECORD = ROOT / "studies" / "interaction.json"
DATASETS = ("meanfield/squeeze-n1000/medium-v1", "meanfield/beach-bar-n256/medium-v1")
Group = tuple[str, str, str, int]  # dataset, weighting, field, gradient steps
Scores = dict[int, float]  # by seed
FREE = {"field", "weighting"}  # settings in which runs may differ


def rest(item: record.Record) -> dict[str, object]:
    return {name: value for name, value in item.config.items() if name not in FREE}


def scores(committed: list[record.Record], others: list[record.Record]) -> dict[Group, Scores]:
    """Group -> seed -> normalised score; a failed seed scores as random play. Rows that differ from
    the default one in more than FREE are left out.
    """
    found: dict[Group, Scores] = defaultdict(dict)
    default = {item.dataset: rest(item) for item in committed if item.algo == "mfdiffuser"}
    for item in committed + others:
        dataset, track = item.dataset, item.track
        if item.protocol != "quick" or dataset not in DATASETS or track != "offline":
            continue
        if item.algo.split(".")[0] != "mfdiffuser" or rest(item) != default.get(dataset):
            continue
        task = registry.task(item.task)
        metric, reference = task.spec.metric, task.reference()
        value = item.value(metric)
        assert reference is not None
        assert value is not None
        score = 0.0 if item.failed else float(reference.score(metric, value))
        group = dataset, item.config["weighting"], item.config["field"], item.steps
        found[group][item.seed] = round(score, 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    found = scores(record.read_all([ROOT / "results"]), record.read_all([options.records]))
    rows = []
    for (dataset, weighting, field, steps), by_seed in sorted(found.items()):
        alone = found.get((dataset, weighting, "none", steps), {})
        seeds = sorted(by_seed.keys() & alone.keys())
        if field != "mean" or not seeds:
            continue
        with_field, without = ([x[seed] for seed in seeds] for x in (by_seed, alone))
        cell = {"dataset": dataset, "weighting": weighting, "steps": steps, "seeds": seeds}
        rows.append(cell | {"scores": with_field, "scores_alone": without})
        gain = np.subtract(with_field, without)
        print(
            f"{dataset} {weighting:6} with the field {np.mean(with_field):.1f}, without"
            f" {np.mean(without):.1f}, difference {gain.mean():.1f} over {len(seeds)} seeds"
        )
    if options.record:
        settings = {"algo": "mfdiffuser", "protocol": "quick"}
        machine = provenance.machine()
        files.write_json(RECORD, {"machine": machine, "settings": settings, "rows": rows})
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
