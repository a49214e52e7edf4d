"""The measuring scripts run; what they measure is in the committed records."""

from __future__ import annotations

import json
from pathlib import Path

from datasets.recipe import Plan, recipes
from tests.perf import bench_datasets, bench_tasks

PERF = Path(__file__).parents[1] / "leaderboard" / "perf"


def test_every_game_is_measured_up_to_a_million_agents_and_battles_up_to_ten_thousand() -> None:
    names = bench_tasks.names()
    assert len(names) == len(set(names))
    for family in ("meanfield/squeeze-", "meanfield/queue-", "meanfield/beach-bar-"):
        assert any(name.startswith(family) and "-n1000000" in name for name in names)
    assert "meanfield/queue-n1000000-b125000-v1" in names  # an eighth acts, as in the example
    assert any(name.startswith("battle/skirmish-n10000-") for name in names)
    assert any(name.startswith("battle/magent-map160-") for name in names)


def test_a_task_is_timed_on_both_paths() -> None:
    row = bench_tasks.measure("probe/xor-v1", rounds=1, seconds=0.02)
    for path in ("arrays", "pettingzoo"):
        assert row[path]["agent_steps_per_cpu_second"] > 1_000
        assert row[path]["peak_mb"] >= 0
    assert "probe/xor-v1" in bench_tasks.line(row)


def test_a_dataset_is_timed_and_scaled_to_its_size(tmp_path: Path) -> None:
    (recipe,) = (recipe for recipe in recipes() if recipe.file.stem == "probe")
    task = bench_datasets.smallest(recipe)
    plan = Plan(f"{task.spec.id.rpartition('-v')[0]}/random-v1", recipe, task, "random")
    row = bench_datasets.measure(plan, tmp_path, rounds=1)
    assert row["episodes"] == plan.episodes()
    assert 0 < row["episodes_timed"] <= row["episodes"]
    assert row["make_seconds"] >= row["make_seconds_timed"] > 0


def test_committed_records_say_on_which_machine_and_under_what_load() -> None:
    for path in PERF.glob("*.json"):
        machine = json.loads(path.read_text())["machine"]
        assert {"processor", "cores", "packages", "commit", "load_1_5_15_min"} <= set(machine)
