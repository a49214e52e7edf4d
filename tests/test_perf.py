"""The measuring scripts run; what they measure is in the committed records."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import datasets
from algorithms.bc import BC
from algorithms.diffusion_ql import DiffusionQL, DiffusionQLConfig
from algorithms.nn.unet import TeamUNet
from benchmark import registry
from benchmark.algorithm import build_group
from benchmark.checks.fixtures import TEAM, toy_dataset
from benchmark.cli.options import Train
from benchmark.cli.readme_perf import goals as told
from benchmark.cli.train import plan
from benchmark.evaluate import rollout
from benchmark.policy import Trained
from datasets.recipe import Plan, recipes
from tests.perf import __main__ as perf
from tests.perf import (
    bench_datasets,
    bench_device,
    bench_loader,
    bench_om2p,
    bench_plans,
    bench_tasks,
    goals_learning,
    goals_populations,
    plain,
    plain_data,
)
from tests.perf.race import Row, faster, race

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


def test_a_device_that_is_not_there_is_refused_in_a_sentence(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["bench_device", "--device", "cuda:7"])
    with pytest.raises(SystemExit) as end:
        bench_device.main()
    assert end.value.code == 2
    said = capsys.readouterr()
    assert "'cuda:7' cannot be used here, expected cpu" in said.err
    assert not said.out


def test_learners_are_timed_on_a_device(data_root: Path) -> None:
    """On a CPU, by the same code as on a GPU."""
    source = bench_device.learners()["mfdiffuser"]
    options = Train("bc", source, protocol="smoke")
    row = bench_device.measure(plan("bc", source, options)[0], seconds=0.0)
    assert row.updates_per_second > 1
    assert row.peak_mb > 10
    assert 0 < row.busy < 2
    assert f"{row.updates_per_second:,.1f}" in bench_device.line(row)
    data, rngs = toy_dataset(TEAM), [np.random.default_rng(0)]
    team = build_group(BC, BC.Config(width=8), TEAM, (0,))
    team.prepare(data, 2, rngs)
    batch = team.sample(data, rngs)
    with bench_device.Waits() as waits:
        losses = team.update(batch)
    assert waits.count == 0
    with waits:
        losses["loss"].sum().item()
    assert waits.count == 1
    assert {"bc", "om2p", "mfdiffuser"} <= set(bench_device.learners())


def test_a_goal_is_met_or_missed() -> None:
    assert Row("a", ">=", 3.0, 3.0).met
    assert not Row("a", ">=", 3.0, 2.99).met
    assert Row("a", "<=", 3.0, 2.99).line().rstrip().endswith("met")
    absent = Row("a", "<=", 3.0, None, note="no such processor")
    assert absent.line().endswith("missed  (no such processor)")
    missed = Row("a", ">=", 3.0, 2.0, why="all of it is drawing")
    assert missed.line().endswith("why: all of it is drawing")
    assert "why" not in dataclasses.replace(missed, measured=4.0).line()


def test_the_readme_says_once_why_goals_are_missed() -> None:
    rows = [Row("a", ">=", 3.0, 2.0, why="x"), Row("b", ">=", 3.0, 2.0, why="x")]
    rows += [Row("c", ">=", 3.0, 4.0, why="y"), Row("d", ">=", 3.0, 2.0)]
    machine = {"processor": "p", "cores": 2, "load_1_5_15_min": [0.0]}
    goals = [dataclasses.asdict(row) | {"met": row.met} for row in rows]
    text = told({"machine": machine, "goals": goals})
    assert text.endswith("Why they are missed:\n\n- *a*, *b*: x")
    goals = [row | {"why": ""} for row in goals]
    assert "missed:" not in told({"machine": machine, "goals": goals})


def test_variants_take_turns_after_their_warm_up() -> None:
    calls: list[str] = []
    names = ("plain", "ours", "floor")
    variants = {name: functools.partial(calls.append, name) for name in names}
    times = race(variants, rounds=3, seconds=0.0, warm=2)
    assert calls == ["plain"] * 2 + ["ours"] * 2 + ["floor"] * 2 + list(names) * 3
    assert {name: len(spent) for name, spent in times.items()} == dict.fromkeys(names, 3)
    times = {"plain": [8.0, 12.0, 90.0], "ours": [2.0, 4.0, 10.0], "floor": [1.0, 2.0, 1.0]}
    row = faster("a", 2.5, times)
    assert (row.measured, row.floor) == (4.0, 8.0)  # medians of each round's ratio
    assert faster("a", 2.5, times, share=100).measured == 400.0


def test_the_plain_u_net_computes_what_ours_does() -> None:
    torch.manual_seed(0)
    ours = TeamUNet(5, dim=16, widen=2, depth=3, embedding=8)
    for layer in ours.attention:
        layer.gamma.data.fill_(0.5)  # at 0 the agents would not meet
    x, embedding = torch.randn(2, 3, 8, 5), torch.randn(2, 3, 8)
    other = plain.PlainUNet(ours)(x, embedding)
    torch.testing.assert_close(other, ours(x, embedding), rtol=1e-4, atol=1e-5)


def test_the_plain_policy_acts_as_ours_does() -> None:
    spec = registry.task("mpe/spread-v1").spec
    algorithm = DiffusionQL(DiffusionQLConfig(width=32, denoising_steps=7), spec, (0,))
    algorithm.prepare(toy_dataset(spec, 10), 1, [np.random.default_rng(0)])
    obs = np.random.default_rng(0).normal(size=(3, 18)).astype(np.float32)
    found = np.stack([plain.PlainDiffusionPolicy(algorithm, i).act(obs[i]) for i in range(3)])
    expected = algorithm.act(obs[None, None], None, None, 0, True)[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_plain_loader_reads_the_same_windows(tmp_path: Path) -> None:
    data = datasets.load_file(bench_loader.write(tmp_path / "a.hdf5", bench_loader.TEAM, 5_000))
    file = plain_data.write_by_agent(tmp_path / "b.hdf5", data, compression="gzip")
    loader = plain_data.PlainLoader(file, data.starts, 3)
    obs, after, act, rew, done = loader.item(slice(25, 50))
    np.testing.assert_array_equal(obs, data.obs[25:50].swapaxes(0, 1))
    np.testing.assert_array_equal(after[:, :-1], data.obs[26:50].swapaxes(0, 1))
    np.testing.assert_array_equal(act, data.act[25:50].swapaxes(0, 1))
    np.testing.assert_array_equal(rew, data.rew[25:50].swapaxes(0, 1))
    assert done.sum(1).tolist() == [1, 1, 1]
    assert [list(part.shape) for part in loader.windows(4, 24)[:2]] == [[4, 3, 24, 18]] * 2
    loader.file.close()


def test_the_plain_dataset_has_the_same_windows_and_their_returns(tmp_path: Path) -> None:
    data = datasets.load_file(bench_loader.write(tmp_path / "a.hdf5", bench_loader.TEAM, 2_500))
    windows = plain_data.PlainWindows(data, 24, 0.9)
    item, later = windows[30], data.rew[30:50]  # of the second episode, whose steps are 25 to 49
    np.testing.assert_array_equal(item["obs"][:20], data.obs[30:50])
    np.testing.assert_array_equal(item["act"][:20], data.act[30:50])
    np.testing.assert_array_equal(item["rew"][:20], later)
    assert not item["obs"][20:].any()
    assert item["mask"].ravel().tolist() == [1.0] * 20 + [0.0] * 4
    expected = (0.9 ** np.arange(20)[:, None] * later).sum(0)
    np.testing.assert_allclose(item["returns"], expected, rtol=1e-5)
    assert len(windows) == 2_500
    batch = next(plain_data.batches(windows, 32))
    assert {name: tuple(part.shape) for name, part in batch.items()} == {
        "obs": (32, 24, 3, 18), "act": (32, 24, 3, 2), "rew": (32, 24, 3), "mask": (32, 24, 1),
        "returns": (32, 3),
    }  # fmt: skip


def test_own_environments_are_played_with_the_same_returns() -> None:
    task = registry.task("mpe/spread-v1")
    algorithm = DiffusionQL(DiffusionQLConfig(width=32, denoising_steps=2), task.spec, (0,))
    algorithm.prepare(toy_dataset(task.spec, 10), 1, [np.random.default_rng(0)])
    policy = Trained(algorithm, 0, task, "diffusion_ql")
    expected = rollout(task, policy, range(3), True)
    found = rollout(plain.OwnEnvironments(task), policy, range(3), True)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, expected)


def test_memory_counts_what_is_taken_from_a_heap_that_was_left_behind() -> None:
    def fill() -> list[torch.Tensor]:  # pieces that the heap holds, 128 MB
        return [torch.zeros(1 << 14) for _ in range(2_000)]

    pieces = fill()
    last = torch.zeros(1 << 14)  # the heap's end: what lies before it stays when it is freed
    del pieces
    found = goals_populations.extra_gb(fill)
    assert 0.1 < found < 0.2
    assert last.numel()


def test_what_an_update_keeps_grows_with_the_chain() -> None:
    short, long = (
        goals_learning.saved(*bench_om2p.updater("diffusion_ql", denoising_steps=k, width=32))
        for k in (2, 6)
    )
    assert 1.5 < long / short < 6.0


def test_parts_of_the_goals_can_be_chosen(monkeypatch, capsys) -> None:
    rows = [Row("a: b", ">=", 2.0, 3.0), Row("c: d", ">=", 4.0, 3.0)]
    monkeypatch.setitem(perf.PARTS, "optimiser", lambda full: iter(rows))
    monkeypatch.setattr(sys, "argv", ["perf", "--only", "optimiser"])
    perf.main()
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in said[1:3]] == ["met", "missed"]
    assert said[3].startswith("1 of 2 goals met")
    monkeypatch.setattr(sys, "argv", ["perf", "--only", "optimizer"])
    with pytest.raises(SystemExit):
        perf.main()
    assert "unknown part 'optimizer'; did you mean 'optimiser'?" in capsys.readouterr().err


def test_a_plan_is_timed_in_a_process_of_its_own_and_its_end_is_told() -> None:
    found = bench_plans.cell("DeepSets", 200, 100)
    assert found["outcome"] == "ok"
    assert found["seconds"] > 0
    assert bench_plans.cell("DeepSets", 200, 0.1) == {"outcome": "out of time (0.1 s)"}
    cells = {n: {"outcome": "ok", "seconds": n**1.5} for n in (100, 1_000, 10_000)}
    assert bench_plans.slope(cells, "seconds") == pytest.approx(1.5)
    assert bench_plans.slope({100: cells[100]}, "seconds") is None


def test_committed_records_say_on_which_machine_and_under_what_load() -> None:
    for path in PERF.glob("*.json"):
        machine = json.loads(path.read_text())["machine"]
        assert {"processor", "cores", "packages", "commit", "load_1_5_15_min"} <= set(machine)
