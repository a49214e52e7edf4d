"""Runs: resume with equal bits, groups, failures, records; in this process, on toy data."""

from __future__ import annotations

import dataclasses
import json
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import algorithms
from benchmark import checkpoint, record, registry, runner
from benchmark.algorithm import Algorithm, Variant
from benchmark.checks.fixtures import toy_dataset
from benchmark.errors import UserError
from benchmark.protocol import PROTOCOLS
from benchmark.train import Interrupted, Progress, Run, Trainer

PLUGIN = str(Path(__file__).parent / "plugins" / "plain_net.py")
TASK = "meanfield/squeeze-n16-v1"


def make_run(folder: Path, row: str = "plain_net", seeds=(0, 1), steps: int = 30, **kw: Any) -> Run:
    cls, _, variant = algorithms.registry((PLUGIN,)).row(row)
    task = registry.task(TASK)
    data = toy_dataset(task.spec, n_episodes=20, seed=0)
    data.content_sha256 = "toy"
    protocol = dataclasses.replace(PROTOCOLS["smoke"], group=len(seeds))
    runs = runner.plan(
        row, cls, variant, task, data, protocol, folder, seeds=seeds, steps=steps, **kw
    )
    return runs[0] if cls.stacks_seeds else dataclasses.replace(runs[0], seeds=tuple(seeds))


FAULTS = """
import resource, sys, numpy as np, torch
from benchmark import launch
if sys.argv[1] == "keep":
    launch.keep_memory()
def use():  # 64 MB in eight blocks, all freed
    blocks = [np.ones(1 << 20) for _ in range(8)]
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_is_freed_stays_with_the_process() -> None:
    def faults(how: str) -> int:
        words = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(words, capture_output=True, check=True, text=True).stdout)

    assert faults("keep") < 1_000 < faults("give back")  # pages; it is 16,384 a time


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_peak_of_memory_is_the_processs_own() -> None:
    held = np.ones(1 << 26)  # 512 MB of the process that forks
    words = [sys.executable, "-c", "from benchmark import launch; print(launch.peak_mb())"]
    done = subprocess.run(words, capture_output=True, check=True, text=True)
    assert float(done.stdout) < held.nbytes / 2**20 / 4


def final(run: Run) -> dict[str, Any]:
    path = checkpoint.latest(run.where)
    assert path is not None
    return checkpoint.load(path)


same = checkpoint.differences


def test_an_interrupt_in_the_middle_of_an_update_waits_for_its_end(tmp_path, monkeypatch) -> None:
    """Else the saved state would lie between two steps."""
    whole = make_run(tmp_path / "a", "bc")
    runner.execute(whole, tmp_path / "ra")
    broken = make_run(tmp_path / "b", "bc")
    step, calls = broken.cls.update, []

    def update(self: Any, batch: Any) -> Any:
        calls.append(1)
        losses = step(self, batch)
        if len(calls) == 11:  # the weights have moved, the run's own counter has not
            signal.raise_signal(signal.SIGINT)
        return losses

    monkeypatch.setattr(broken.cls, "update", update)
    with pytest.raises(Interrupted, match="at step 11 of 30"):
        runner.execute(broken, tmp_path / "rb")
    runner.execute(broken, tmp_path / "rb")
    assert same(final(whole), final(broken)) == []


def test_a_loss_that_comes_and_goes_is_kept_at_its_own_steps(tmp_path, monkeypatch) -> None:
    run = make_run(tmp_path / "a", "bc")
    step, calls = run.cls.update, []

    def update(self: Any, batch: Any) -> Any:
        calls.append(1)
        losses = step(self, batch)
        return losses | ({"rare": torch.tensor(float(len(calls)))} if len(calls) % 3 == 0 else {})

    monkeypatch.setattr(run.cls, "update", update)
    with pytest.raises(Interrupted):
        runner.execute(run, tmp_path / "r", progress=StopAt(17))
    made = runner.execute(run, tmp_path / "r")
    (read, _) = record.read_all([tmp_path / "r"])
    assert read.curve == made[0].curve
    assert read.points("step", "rare") == (
        [3.0 * i for i in range(1, 11)],
        [3.0 * i for i in range(1, 11)],
    )
    assert len(read.points("step", "loss")[0]) == 30
    lines = [json.loads(line) for line in (run.where / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "rare" in line and line["seed"] == 0] == [
        3.0 * i for i in range(1, 11)
    ]


def test_a_run_has_one_thread_whatever_the_process_had(tmp_path: Path, monkeypatch) -> None:
    """Else its bits would depend on the number."""
    run = make_run(tmp_path / "a", "bc")
    step, threads = run.cls.update, set()

    def update(self: Any, batch: Any) -> Any:
        threads.add(torch.get_num_threads())
        return step(self, batch)

    monkeypatch.setattr(run.cls, "update", update)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (made, _) = runner.execute(run, tmp_path / "r")
        threads.add(torch.get_num_threads())  # of the evaluation
    finally:
        torch.set_num_threads(before)
    assert threads == {1} == {made.provenance.threads}


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    def train(at: int, losses: dict[str, float]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    run = make_run(tmp_path)
    with pytest.raises(KeyboardInterrupt) as caught:
        runner.execute(run, tmp_path / "r", progress=Progress(train=train))
    assert not isinstance(caught.value, Interrupted)
    assert checkpoint.latest(run.where) is None


class StopAt(Progress):
    """Interrupts the run at a log point, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        def train(at: int, losses: dict[str, float]) -> None:
            if at == step:
                signal.raise_signal(signal.SIGINT)

        super().__init__(train=train)


@pytest.mark.parametrize("row", ["plain_net", "bc"])
def test_interrupted_run_goes_on_with_equal_bits(tmp_path: Path, row: str) -> None:
    whole = make_run(tmp_path / "a", row)
    expected = runner.execute(whole, tmp_path / "ra")
    broken = make_run(tmp_path / "b", row)
    for stop in (7, 19):
        with pytest.raises(Interrupted, match="same command goes on"):
            runner.execute(broken, tmp_path / "rb", progress=StopAt(stop))
    assert record.read_all([tmp_path / "rb"]) == []
    got = runner.execute(broken, tmp_path / "rb")
    assert same(final(whole), final(broken)) == []
    assert [r.returns for r in got] == [r.returns for r in expected]
    assert [r.curve for r in got] == [r.curve for r in expected]
    assert expected[0].returns != expected[1].returns


def test_seed_in_a_group_equals_the_seed_alone(tmp_path: Path) -> None:
    for row in ("plain_net", "bc"):
        both = runner.execute(make_run(tmp_path / "a", row, (0, 1)), tmp_path / row / "a")
        alone = runner.execute(make_run(tmp_path / "b", row, (1,)), tmp_path / row / "b")
        assert both[1].returns == alone[0].returns
        assert both[1].curve == alone[0].curve


def test_starts_that_get_nowhere_are_told(tmp_path, monkeypatch, capsys) -> None:
    """As of a run that is killed before every checkpoint; one that gets on says nothing."""
    run = make_run(tmp_path / "runs")

    def killed(trainer: Trainer) -> str:
        raise Interrupted("killed")

    def start() -> str:
        with pytest.raises(Interrupted):
            runner.execute(run, tmp_path / "records", checkpoint_seconds=7.0)
        return capsys.readouterr().err

    monkeypatch.setattr(Trainer, "fit", killed)
    assert [start() for _ in range(runner.STARTS)] == [""] * runner.STARTS
    said = start()
    assert f"{run.where.name} has been started 3 times without saving a step after 0" in said
    assert "--checkpoint-seconds 7." in said
    assert "started 4 times" in start()
    (run.where / "checkpoint-000000012.safetensors").touch()
    assert start() == ""
    (run.where / "starts.json").write_text("{")  # no harm in what cannot be read
    assert start() == ""


def test_finished_run_is_not_run_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    first = runner.execute(run, tmp_path / "r")

    def never(step: int, losses: dict[str, float]) -> None:
        raise AssertionError("it trained again")

    assert runner.execute(run, tmp_path / "r", progress=Progress(train=never)) == first
    for path in (tmp_path / "r").rglob("*.json"):
        path.unlink()
    again = runner.execute(run, tmp_path / "r", progress=Progress(train=never))
    assert [r.returns for r in again] == [r.returns for r in first]


def test_record_round_trips_and_refuses_damage(tmp_path: Path) -> None:
    made = runner.execute(make_run(tmp_path / "a"), tmp_path / "r")[0]
    text = record.to_json(made)
    assert record.parse(text) == made
    for old, new in [
        ('"seed": 0', '"seed": true'),
        ('"steps": 30', '"steps": 30, "steps": 31'),
        ('"level": 0', '"level": 0, "extra": 1'),
        ('"schema": 1', '"schema": 2'),
        ('"track": "offline"', '"track": "best"'),
    ]:
        assert old in text
        with pytest.raises(UserError, match=r"r\.json"):
            record.parse(text.replace(old, new, 1), "r.json")
    for old, new in [  # other numbers of episodes
        ({"team_returns": made.team_returns[1:]}, "3 team returns for 4 episodes"),
        ({"outcomes": {"win": [1.0]}}, "outcomes are not one value for each of 4 episodes"),
    ]:
        with pytest.raises(UserError, match=new):
            record.parse(record.to_json(dataclasses.replace(made, **old)))
    with pytest.raises(UserError, match="bytes long, expected at most"):
        record.parse(text + " " * record.MAX_BYTES)
    large = dataclasses.replace(made, notes={"all": "x" * record.MAX_BYTES})
    with pytest.raises(UserError, match="bytes long, at most"):
        record.write(large, tmp_path / "large")
    number = str(made.team_returns[0])
    with pytest.raises(UserError, match="not a finite number"):
        record.parse(text.replace(number, "NaN", 1), "r.json")


class Breaks(Algorithm):
    """Misbehaves as its config says."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        how: str = ""
        batch_size: int = 4

    paper = "none"
    variants = {"default": Variant(steps={"smoke": 5})}  # noqa: RUF012

    def update(self, batch):
        if self.config.how == "raise":
            raise ValueError("boom")
        if self.config.how == "loss":
            return {"loss": torch.ones(3)}
        bad = self.config.how == "nan" and self.seeds[0] == 1
        return {"loss": torch.tensor(float("nan") if bad else 1.0)}

    def act(self, obs, alive, mask, t, deterministic):
        shape = obs.shape[:2] if self.config.how != "shape" else (1, 2)
        return np.full(shape, 99 if self.config.how == "range" else 1)

    def state_dict(self):
        return {"x": object()} if self.config.how == "state" else {}

    def load_state_dict(self, state):
        pass


def breaking(folder: Path, how: str) -> Run:
    task = registry.task(TASK)
    data = toy_dataset(task.spec, n_episodes=5, seed=0)
    data.content_sha256 = "toy"
    (run,) = runner.plan(
        "breaks", Breaks, Breaks.variants["default"], task, data, PROTOCOLS["smoke"], folder,
        seeds=(0,), overrides={"how": how},
    )  # fmt: skip
    return dataclasses.replace(run, seeds=(0, 1))


def test_seed_that_turns_non_finite_fails_and_the_others_go_on(tmp_path: Path) -> None:
    good, bad = runner.execute(breaking(tmp_path, "nan"), tmp_path / "r")
    assert not good.failed
    assert bad.failed
    assert bad.reason == "loss was not finite at step 1"
    assert bad.team_returns == []
    assert len(good.team_returns) == 4


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "breaks: update raised ValueError: boom"),
        ("shape", r"act returned shape \(2, 1, 2\), expected \(2, 4, 16\)"),
        ("range", "act returned action 99, expected 0 to 9"),
        ("loss", r"update returned loss as Tensor of shape \[2, 3\], expected a tensor of shape"),
        ("state", "group/0/member/x, a object; state_dict is expected to"),
    ],
)
def test_plugin_that_misbehaves_is_named_in_one_sentence(tmp_path, how: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        runner.execute(breaking(tmp_path, how), tmp_path / "r")
    assert record.read_all([tmp_path / "r"]) == []


def test_second_process_on_one_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with (
        runner.only_process(run.where),
        pytest.raises(UserError, match="another process"),
        runner.only_process(run.where, patience=0.1),
    ):
        pass


def test_left_overs_of_a_killed_writer_are_removed_at_the_next_start(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.where.mkdir(parents=True)
    (run.where / ".tmp-left-over.safetensors").touch()
    with runner.only_process(run.where):
        assert [path.name for path in run.where.iterdir()] == ["lock"]


def test_required_property_is_asked_for(tmp_path: Path) -> None:
    cls, _, variant = algorithms.registry().row("matd3bc")
    task = registry.task(TASK)
    with pytest.raises(UserError, match="requires a task that is continuous"):
        runner.plan("matd3bc", cls, variant, task, None, PROTOCOLS["smoke"], tmp_path)


def test_trained_policy_loads_from_its_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "bc")
    runner.execute(run, tmp_path / "r")
    path = checkpoint.latest(run.where)
    assert path is not None
    policy = algorithms.load(path, seed=1)
    policy.begin(3, 5)
    act = policy.act(np.zeros((3, 16, 1), np.int64), deterministic=False)
    assert act.shape == (3, 16)
    with pytest.raises(UserError, match="has no seed 7"):
        algorithms.load(path, seed=7)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        algorithms.load(path)


def test_settings_are_those_of_the_longest_family_or_of_the_parent_namespace() -> None:
    families = {"mpe/": {"lr": 1}, "mpe/tag": {"lr": 2}, "mpe-omar/spread": {"lr": 3}}
    tuning = {"mpe/": record.Tuning(4, 100)}
    variant = Variant(steps={"quick": 5}, config={"lr": 0}, families=families, tuning=tuning)
    tasks = {"mpe/spread-v1": 1, "mpe/tag-v1": 2, "mpe-omar/spread-v1": 3, "mpe-omar/tag-v1": 2}
    for task, lr in (tasks | {"mpe-omar/world-v1": 1, "probe/xor-v1": 0, "toy-v1": 0}).items():
        assert variant.resolve(task, "quick") == ({"lr": lr}, 5)
    assert variant.tuned("mpe-omar/world-v1").configs_tried == 4
    assert variant.tuned("probe/xor-v1").configs_tried == 0
