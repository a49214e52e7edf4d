"""Updates in bf16 are a run of their own, which weights kept in float32 go on from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from algorithms.madiff import MADiff
from benchmark import runner
from benchmark.cli import main
from benchmark.train import Run
from leaderboard.summarise import labelled
from tests.records import record
from tests.test_runner import final, make_run

TEAM = "mpe/spread/random-v1"


def weights(run: Run) -> dict[str, torch.Tensor]:
    """The floating-point tensors that an algorithm ends with, by their place."""
    found: dict[str, torch.Tensor] = {}

    def walk(state: object, path: str) -> None:
        if isinstance(state, dict):
            for name, value in state.items():
                walk(value, f"{path}/{name}")
        elif isinstance(state, torch.Tensor) and state.is_floating_point():
            found[path] = state

    walk(final(run)["group"], "")
    return found


def test_products_are_in_bf16_and_weights_are_not(tmp_path: Path) -> None:
    runs = {p: make_run(tmp_path / p, "bc", precision=p) for p in ("float32", "bf16")}
    ends = {}
    for name, run in runs.items():
        made = runner.execute(run, tmp_path / name / "records")
        assert all(item.status == "ok" for item in made)
        assert made[0].notes == ({} if name == "float32" else {"precision": "bf16"})
        ends[name] = weights(run)
    assert runs["float32"].key != runs["bf16"].key
    assert "precision" not in runs["float32"].identity()
    assert {x.dtype for x in ends["bf16"].values()} == {torch.float32}
    moved = [k for k, x in ends["float32"].items() if not torch.equal(x, ends["bf16"][k])]
    assert moved
    for name in moved:
        torch.testing.assert_close(ends["float32"][name], ends["bf16"][name], rtol=0.2, atol=0.05)


def test_both_precisions_are_rows_of_their_own() -> None:
    lower = [record(seed=seed, notes={"precision": "bf16"}) for seed in range(3)]
    rows = dict(labelled([*(record(seed=seed) for seed in range(3)), *lower]))
    assert set(rows) == {"bc [precision=float32]", "bc [precision=bf16]"}


@pytest.mark.slow
def test_madiff_trains_in_bf16_from_the_command_line(data_root: Path, tmp_path: Path) -> None:
    words = ["train", "madiff", TEAM, "--protocol", "smoke", "--seeds", "0", "--progress", "none"]
    words += ["--precision", "bf16", "--out", str(tmp_path)]
    for name, value in MADiff.small.items():
        words += [f"--config.{name}", str(value)]
    assert main(["data", TEAM]) == 0
    assert main(words) == 0
