"""The studies that train: their plumbing, at a size of seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.nn.stacked import StackedMLP, generators
from benchmark import runner
from benchmark.envs.mpe.spread import Spread
from tests.studies import agents_cql, denoising_steps, mean_flow, training_memory

torch.set_num_threads(1)


# -------------------------------------------------------------------------- agents_cql
def test_scripted_data_are_whole_episodes_of_the_team_between_uniform_play_and_the_controller() -> (
    None
):
    task = Spread(4)
    data = agents_cql.data_of(task, episodes=40)
    assert data.obs.shape == (1000, 4, 24)
    assert data.n_episodes == 40
    rows = np.arange(999)
    inside = rows[(rows + 1) % task.spec.horizon > 0]  # not an episode's last step
    np.testing.assert_array_equal(data.next_obs[inside], data.obs[inside + 1])
    np.testing.assert_allclose(
        data.returns, data.rew.reshape(40, 25, 4).sum(1, dtype=np.float64), rtol=1e-5
    )
    assert -30 < data.returns.mean() < -7.5  # uniform play earns -30, the controller -7.4


def test_a_row_of_the_study_has_a_score_for_each_seed_and_row() -> None:
    small: dict[str, Any] = {"seeds": (0, 1), "episodes": 20, "steps": 3}
    rows = [agents_cql.measure(n, **small) for n in (2, 3)]
    for row in rows:
        assert row["random"] < row["controller"]
        for name in agents_cql.ROWS:
            assert len(row[name.replace(".", "_")]) == 2
    again = agents_cql.measure(2, **small)
    assert again["cfcql"] == rows[0]["cfcql"]
    assert agents_cql.slopes(rows)["cfcql"] == pytest.approx(
        np.subtract(rows[1]["cfcql"], rows[0]["cfcql"]), abs=1e-3
    )


def test_a_record_keeps_what_was_not_asked_for_until_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents_cql, "RECORD", tmp_path / "a.json")
    rows = [{"agents": n, "cfcql": [n * 1.0], "macql_joint": [n * 2.0]} for n in (3, 2, 3)]
    rows[-1]["cfcql"] = [5.0]
    for row in rows:
        agents_cql.write("rows", row)
    agents_cql.write("control", rows[1])
    found = json.loads(agents_cql.RECORD.read_text())
    assert found["rows"] == [rows[1], rows[2]]
    assert found["slopes"] == [{"cfcql": [3.0], "macql_joint": [2.0]}]
    assert found["control"] == [rows[1]]
    assert "control_slopes" not in found
    monkeypatch.setattr(agents_cql, "NOISE", 0.4)
    agents_cql.write("control", rows[0])
    found = json.loads(agents_cql.RECORD.read_text())
    assert found["control"] == [rows[0]]
    assert "rows" not in found


# ------------------------------------------------------------------------- denoising_steps
def test_a_run_of_a_number_of_steps_differs_from_the_row_in_that_alone(tmp_path: Path) -> None:
    run = denoising_steps.planned(2, (0, 1), tmp_path)
    usual = denoising_steps.planned(denoising_steps.OURS, (0, 1), tmp_path)
    assert (run.seeds, run.steps, run.rankable) == ((0, 1), usual.steps, False)
    assert run.config.denoising_steps == 2
    changed = {k for k, v in vars(run.config).items() if v != getattr(usual.config, k)}
    assert changed == {"denoising_steps"}
    how: dict[str, Any] = {"steps": 2, "overrides": {"batch_size": 8, "warmup": 16}}
    records = runner.execute(denoising_steps.planned(2, (0, 1), tmp_path, **how), tmp_path)
    row = {"k": 2} | denoising_steps.scored(records)
    assert row["seeds"] == [0, 1]
    assert len(row["scores"]) == 2
    assert denoising_steps.gains([{"k": k, "scores": [k]} for k in (1, 8)]) == [
        {"less": 1, "more": 8, "scores_less": [1], "scores_more": [8]}
    ]


def test_the_board_has_the_study_s_default_and_more_steps_take_more_time() -> None:
    kept = denoising_steps.committed()
    assert all(item.config["denoising_steps"] == denoising_steps.OURS for item in kept)
    found = denoising_steps.costs((1, 8), rounds=5)
    for cost in found.values():
        for name in ("update_ms", "act_1_ms", "act_100_ms"):
            assert 0 < cost[f"{name}_low"] <= cost[name] <= cost[f"{name}_high"]
    assert found[8]["update_ms"] > found[1]["update_ms"]


# ------------------------------------------------------------------------------ mean_flow
def test_a_difference_is_exact_at_a_fitting_delta_and_gone_at_the_released_one() -> None:
    net = StackedMLP(generators(mean_flow.SEEDS), (), (3 + 4, 64, 64, 2), torch.nn.functional.gelu)
    rows = {row["delta"]: row for row in mean_flow.errors(net, 3)}
    for precision in ("float32", "float64"):
        assert len(rows[5e-3][precision]) == len(mean_flow.SEEDS)
        assert max(rows[5e-3][precision]) < 0.05
    assert min(rows[1e-12]["float32"]) == 1  # the difference of equal numbers
    assert max(rows[1e-6]["float64"]) < 1e-3 < min(rows[1e-6]["float32"])


def test_energy_distance_is_that_of_each_seed_and_zero_for_equal_samples() -> None:
    a = torch.tensor([[[0.0], [0.0]], [[0.0], [2.0]]])
    b = torch.tensor([[[1.0], [1.0]], [[0.0], [2.0]]])
    assert mean_flow.energy_distance(a, b).tolist() == [2.0, 0.0]


def test_a_cloned_row_has_every_seed_and_more_steps_come_nearer_to_the_data() -> None:
    few, more = (mean_flow.cloned(*mean_flow.USUAL, "fd", steps)[1] for steps in (1, 80))
    for name, values in more.items():
        assert not isinstance(values, list) or len(values) == len(mean_flow.SEEDS), name
    assert max(more["energy_distance_1"]) < min(few["energy_distance_1"])


# ------------------------------------------------------------------------- training_memory
def test_memory_is_counted_at_its_peak_to_the_byte() -> None:
    def three() -> torch.Tensor:
        first = torch.zeros(250_000)  # 1 MB
        second = first + 1
        del first
        return torch.cat([second, second])

    assert training_memory.peak(three) == pytest.approx(3.0, abs=0.01)
    assert training_memory.peak(lambda: None) == 0


def test_a_chain_keeps_more_than_one_step_and_training_more_than_an_update() -> None:
    one, chain = (training_memory.measure(name, "suite") for name in ("om2p", "diffusion_ql K=5"))
    assert one["update_mb"] < one["training_mb"]
    assert one["training_mb"] < chain["training_mb"]
    record = json.loads(training_memory.RECORD.read_text())
    kept = {(row["name"], row["size"]): row["training_mb"] for row in record["rows"]}
    for row in (one, chain):
        assert row["training_mb"] == pytest.approx(kept[row["name"], "suite"], rel=0.05)


def test_a_difference_needs_no_more_memory_than_no_slope_and_derivatives_do() -> None:
    plain, fd, jvp = (
        training_memory.estimator(name)["update_mb"] for name in ("flow matching", "fd", "jvp")
    )
    assert fd == pytest.approx(plain, rel=0.05)
    assert jvp > 1.2 * fd
