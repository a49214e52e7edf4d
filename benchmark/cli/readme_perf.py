"""What README and docs/performance.md say of speed and reliability, from leaderboard/perf."""

from __future__ import annotations

from collections import Counter
from typing import Any

FEATURED = (
    "update of om2p, width 64: its matrix products alone",
    "5 seeds in one compiled update, 64 wide, batch 32: 5 runs",
    "256 transitions from memory: one by one, contiguous",
    "an episode of 100 in lockstep, 15 sampler steps: agent by agent",
    "a denoising step of 1,000,000 agents in chunks, 64 stand for all: time",
    "60 jobs in 2 processes: in 1",
)  # for who reads one screen only


def summary(found: dict[str, Any]) -> str:
    """The README's few lines: how many goals are met, and those of FEATURED."""
    machine, rows = found["machine"], found["goals"]
    met = sum(row["met"] for row in rows)
    lines = [
        f"`make perf` met {met} of {len(rows)} goals in one thread on {machine['processor']}; every"
        " goal, why goals are missed, plans of a",
        "million agents and what kills and damaged files did:"
        " [docs/performance.md](docs/performance.md). Six of them:",
        "",
        "| ours: compared with | goal | measured |",
        "|:---|---:|---:|",
    ]
    named = {row["name"]: row for row in rows}
    for row in (named[name] for name in FEATURED if name in named):
        sense = {">=": "≥", "<=": "≤"}[row["sense"]]
        measured = "" if row["measured"] is None else f"{row['measured']:.3g} {row['unit']}"
        lines.append(f"| {row['name']} | {sense} {row['goal']:g} {row['unit']} | {measured} |")
    return "\n".join(lines)


def goals(found: dict[str, Any]) -> str:
    """The goals of `make perf` and what was measured, from its record."""
    machine, rows = found["machine"], found["goals"]
    met = sum(row["met"] for row in rows)
    load = machine["load_1_5_15_min"][0]

    def cell(value: float | None, unit: str) -> str:
        return "" if value is None else f"{value:.3g} {unit}".strip()

    lines = [
        f"`make perf` met {met} of {len(rows)} goals in one thread on {machine['processor']}",
        f"({machine['cores']} cores, load {load:.1f} at the start). A ratio is to a plain"
        " counterpart that takes turns with",
        "ours in one process; the floor is its value if ours took no longer than its matrix"
        " products, or its copies of memory.",
        "",
        "| ours: compared with | goal | measured | floor | |",
        "|:---|---:|---:|---:|:---|",
    ]
    for row in rows:
        sense = {">=": "≥", "<=": "≤"}[row["sense"]]
        goal = f"{sense} {row['goal']:g} {row['unit']}".strip()
        values = [cell(row[name], row["unit"]) for name in ("measured", "floor")]
        word = "met" if row["met"] else "missed"
        lines.append(f"| {row['name']} | {goal} | {' | '.join(values)} | {word} |")
    reasons: dict[str, list[str]] = {}  # rows often miss for one reason
    for row in rows:
        if row.get("why") and not row["met"]:
            reasons.setdefault(row["why"], []).append(row["name"])
    said = [f"- *{'*, *'.join(names)}*: {why}" for why, names in reasons.items()]
    left = [f"- *{what}*: {why}" for what, why in found.get("left_out", {}).items()]
    lines += ["", "Why they are missed:", "", *said] if said else []
    lines += ["", "What has no row:", "", *left] if left else []
    return "\n".join(lines)


def device(found: dict[str, Any] | None) -> str:
    """How the suite runs on a GPU, and what one measured, from the record of `make perf
    DEVICE=cuda`: None where there is none.
    """
    text = (
        "With `--device cuda` networks and data held in memory stand on the GPU: the host draws"
        " which steps a batch has, batches are gathered and updates made there, and no update waits"
        " for a copy or a number. Runs of 20,000 updates and more compile them, and the seeds of a"
        " group are trained at once, MADiff's and MF-Diffuser's one after another, as stacking them"
        " did not pay on a core; games are solved in tables on the host, between updates. "
    )
    if found is None:
        return text + (
            "No GPU has measured this yet: the path is tested on CPU semantics"
            " ([device](../tests/test_device.py), [resident data](../tests/test_resident.py)), and"
            " `make perf DEVICE=cuda` prints updates per second, memory and utilisation."
        )
    heads = "| group of seeds | updates per second | peak MB | busy | waits per update |"
    lines = [f"{text}On {found['device']}:", "", heads, "|:---|---:|---:|---:|---:|"]
    for row in found["rows"]:
        numbers = f"{row['updates_per_second']:,.1f} | {row['peak_mb']:,.0f} | {row['busy']:.0%}"
        lines.append(f"| {row['algo']}, {row['seeds']} | {numbers} | {row['waits']:.1f} |")
    return "\n".join(lines)


def ray(found: dict[str, Any]) -> str:
    """What Ray adds to a job of a grid."""
    machine, settings, spent = found["machine"], found["settings"], found["seconds_a_job"]
    rounds, load = len(found["rounds"]["ray"]), machine["load_1_5_15_min"][0]
    return (
        f"Ray ({settings['ray']}, {len(settings['cores_of_nodes'])} nodes on"
        f" {machine['processor']}, load {load:.1f}) adds {found['added_seconds_a_job']:.3f} s to a"
        f" job of a grid; the goal is under 1 s. A job that does nothing but start takes"
        f" {spent['ray']:.2f} s on it and {spent['local']:.2f} s in local processes, medians of"
        f" {rounds} rounds of {settings['jobs']} jobs, {settings['workers']} at a time"
        " ([record](../leaderboard/perf/ray.json))."
    )


def plans(found: dict[str, Any]) -> str:
    """What a plan of N agents takes, a row a denoiser, with the slopes of the logarithms."""
    rows = found["rows"]
    sizes = list(next(iter(rows.values()))["cells"])
    heads = [f"{int(n):,}" for n in sizes]
    lines = [
        f"| seconds, MB | {' | '.join(heads)} | slopes from 1,000 on |",
        "|:---|" + "---:|" * (len(sizes) + 1),
    ]
    for name, row in rows.items():
        cells = [
            f"{one['seconds']:.3g}, {one['mb']:.3g}" if one["outcome"] == "ok" else one["outcome"]
            for one in (row["cells"][n] for n in sizes)
        ]
        slopes = ["" if x is None else f"{x:.2f}" for x in row["slopes"].values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {', '.join(slopes)} |")
    return "\n".join(lines)


def soak(found: dict[str, Any]) -> str:
    """What the soaks did; of one that found something there is no record."""
    soaks = found["soaks"]

    def total(part: str, count: str) -> int:
        return sum(one[part].get(count, 0) for one in soaks)

    minutes = sum(one["settings"]["minutes"] for one in soaks)
    mutants: Counter[str] = Counter()
    for one in soaks:
        mutants.update({k: x["mutants"] for k, x in one["mutants"].items() if k != "process"})
    kinds = [
        f"{count:,} of {' '.join(reversed(name.split('_')))}" for name, count in mutants.items()
    ]
    return (
        f"In {minutes:g} minutes `make soak` killed sweeps of {soaks[0]['settings']['sweep']} jobs"
        f" {total('sweeps', 'kills')} times: no record was lost, doubled or changed, and the boards"
        f" of all {total('sweeps', 'sweeps_with_equal_boards')} sweeps that ended are byte for byte"
        f" that of an undisturbed one. It killed trainings {total('trainings', 'kills')} times, and"
        f" all {total('trainings', 'runs_with_equal_bits')}, of every algorithm, ended with the"
        f" bits of an undisturbed one. Of mutants of files, {', '.join(kinds)}, none ended in"
        " another error than a sentence, and no dataset or checkpoint loaded as another."
    )
