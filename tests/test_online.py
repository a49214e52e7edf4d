"""Online runs: play, buffer, resume, records; and offline runs never meet a simulator."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import algorithms
from benchmark import checkpoint, online, record, registry, runner
from benchmark.algorithm import Algorithm, Variant
from benchmark.checks.fixtures import toy_dataset
from benchmark.errors import UserError
from benchmark.protocol import EVALUATION_SEEDS, PROTOCOLS
from benchmark.task import Array, Group, Step, Task, TaskSpec
from benchmark.train import Interrupted, Progress, Run
from tests.test_runner import StopAt, same

ENDING = TaskSpec("toy/ending-v1", (Group("agent", 2, obs_dim=2, act_dim=1),), horizon=7)


class EndingArrays:
    """Episode e ends after seed % 4 + 3 steps: even seeds terminate, odd ones are cut. What is
    seen is the seed (small enough to be exact) and the sum of the actions so far.
    """

    def reset(self, seeds: Sequence[int]) -> Array:
        self.seeds, self.t = np.array(seeds), 0
        self.total = np.zeros((len(seeds), 2))
        return self._obs()

    def _obs(self) -> Array:
        seeds = np.repeat(self.seeds[:, None] % 1000, 2, 1)
        return np.stack([seeds, self.total], -1).astype(np.float32)

    def step(self, act: Array) -> Step:
        self.t += 1
        self.total = self.total + act[..., 0]
        over = self.t >= self.seeds % 4 + 3
        even = self.seeds % 2 == 0
        return Step(self._obs(), self.total.copy(), over & even, over & ~even)


class Ending(Task):
    spec = ENDING

    def arrays(self, n_envs: int) -> Any:
        return EndingArrays()

    def parallel_env(self, render_mode: str | None = None) -> Any:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class WalkerConfig:
    n_envs: int = 4
    warmup: int = 8
    utd: float = 0.5
    capacity: int = 1_000
    batch_size: int = 16


class Walker(Algorithm):
    """Plays noise about a weight that each update moves by the batch, so that all data count."""

    Config = WalkerConfig
    paper = "none"
    variants: ClassVar = {
        "default": Variant(steps={"smoke": 20}, track="online"),
        "o2o": Variant(steps={"smoke": 20}, config={"warmup": 0}, track="o2o"),
    }
    stacks_seeds = True

    def __init__(self, config, spec, seeds, device="cpu"):
        super().__init__(config, spec, seeds, device)
        self.weight = torch.zeros(len(seeds), dtype=torch.float64)
        self.noise = [torch.Generator().manual_seed(seed) for seed in seeds]

    def update(self, batch):
        moved = batch.obs.double().mean((1, 2, 3, 4)) + batch.next_obs.double().sum((1, 2, 3, 4))
        self.weight = torch.sin(self.weight + moved)
        return {"loss": self.weight}

    def _play(self, noise):
        return np.tanh(self.weight.numpy()[:, None, None, None] + noise).astype(np.float32)

    def act(self, obs, alive, mask, t, deterministic):
        return self._play(np.zeros((*obs.shape[:3], self.spec.act_dim)))

    def explore(self, obs, alive, mask, t):
        assert t.shape == obs.shape[:2]
        shape = (*obs.shape[1:3], self.spec.act_dim)
        drawn = [torch.randn(shape, generator=gen, dtype=torch.float64) for gen in self.noise]
        return self._play(torch.stack(drawn).numpy())

    def state_dict(self):
        return {"weight": self.weight, "noise": [gen.get_state() for gen in self.noise]}

    def load_state_dict(self, state):
        self.weight = state["weight"]
        for gen, stored in zip(self.noise, state["noise"], strict=True):
            gen.set_state(stored)


def make_run(
    folder: Path, task: Task | None = None, seeds=(0, 1), steps=20, row="walker", **overrides: Any
) -> Run:
    """A run of Walker, or of a shipped algorithm made small."""
    cls: Any = Walker
    if row.split(".")[0] != "walker":
        cls, _, variant = algorithms.registry().row(row)
        overrides = {"n_envs": 4, "warmup": 8, "utd": 0.5} | cls.small | overrides
    variant = cls.variants[row.partition(".")[2] or "default"]
    task = task or Ending()
    data = None
    if variant.track == "o2o":
        data = toy_dataset(task.spec, n_episodes=20)
        data.content_sha256 = "toy"
    protocol = dataclasses.replace(PROTOCOLS["smoke"], group=len(seeds))
    (run,) = runner.plan(
        row, cls, variant, task, data, protocol, folder, seeds=seeds, steps=steps,
        overrides=overrides,
    )  # fmt: skip
    return run


def trainer_of(run: Run) -> online.OnlineTrainer:
    return online.OnlineTrainer(run, (), 1e9, Progress())


def final(run: Run) -> Any:
    path = checkpoint.latest(run.where)
    assert path is not None
    return checkpoint.load(path)


# ------------------------------------------------------------------------------------------ play
def test_a_slot_begins_a_new_episode_as_soon_as_its_own_ends(tmp_path: Path) -> None:
    """Held against one plain episode after the other, slot by slot."""
    now = online.Episodes(Ending(), (5, 6), n_envs=3)
    rng = np.random.default_rng(0)
    played = []
    for _ in range(30):
        act = rng.uniform(-1, 1, (6, 2, 1)).astype(np.float32)
        played.append(now.step(act))
    for slot in range(6):
        env, t, episode = EndingArrays(), 0, 0
        for row in played:
            if t == 0:
                seed = int(row["obs"][slot, 0, 0])  # the seed modulo 1,000, which ends it alike
                obs = env.reset([seed])
            assert row["step"][slot] == t
            assert row["episode"][slot] == episode
            np.testing.assert_array_equal(row["obs"][slot], obs[0])
            step = env.step(row["act"][slot][None])
            np.testing.assert_array_equal(row["next_obs"][slot], step.obs[0])
            np.testing.assert_allclose(row["rew"][slot], step.rew[0], rtol=1e-6)
            assert row["terminated"][slot] == step.terminated[0]
            assert row["truncated"][slot] == step.truncated[0]
            over = step.terminated[0] or step.truncated[0]
            obs, t, episode = step.obs, 0 if over else t + 1, episode + over
        assert episode >= 4


def test_episode_seeds_are_new_each_time_and_apart_from_all_others() -> None:
    now = online.Episodes(Ending(), (0,), n_envs=2)
    seen = []
    for _ in range(20):
        seen += now.seeds.tolist()
        now.step(np.zeros((2, 2, 1), np.float32))
    low, high = online.EPISODE_SEEDS
    assert all(low <= seed < high for seed in seen)
    assert len(set(seen)) >= 2 * 20 // 6
    assert low > EVALUATION_SEEDS[-1]


def test_curve_is_drawn_on_seeds_that_no_evaluation_uses() -> None:
    assert not set(online.CURVE_SEEDS) & set(EVALUATION_SEEDS)


def test_environment_steps_follow_the_gradient_steps(tmp_path: Path) -> None:
    trainer = trainer_of(make_run(tmp_path, utd=0.5, warmup=10, n_envs=4))
    due = []
    for step in range(8):
        trainer.step = step
        trainer._batch()
        due.append(trainer.env_steps)
    # 10 + 2 g, rounded up to whole steps of 4 episodes
    assert due == [12, 12, 16, 16, 20, 20, 24, 24]


def test_warm_up_is_uniform_and_spares_dimensions_that_an_agent_lacks(tmp_path: Path) -> None:
    groups = (Group("wide", 1, obs_dim=2, act_dim=2), Group("narrow", 1, obs_dim=2, act_dim=1))

    class Wide(Ending):
        spec = dataclasses.replace(ENDING, groups=groups)

        def arrays(self, n_envs: int) -> Any:
            return EndingArrays()

    trainer = trainer_of(make_run(tmp_path, Wide(), warmup=4000, n_envs=64))
    trainer._batch()
    act = trainer.buffer.arrays["act"][:, :4000]
    assert act[:, :, 1, 1].abs().max() == 0
    wide = act[:, :, 0].flatten()
    assert abs(float(wide.mean())) < 0.02
    assert abs(float(wide.var()) - 1 / 3) < 0.01


def test_samples_are_rows_of_the_seeds_own_play(tmp_path: Path) -> None:
    trainer = trainer_of(make_run(tmp_path, seeds=(3, 4)))
    trainer._batch()
    buffer = trainer.buffer
    batch = buffer.transitions([np.random.default_rng(k) for k in (0, 1)], 32)
    assert batch.obs.shape == (2, 32, 1, 2, 2)
    assert batch.next_obs is not None
    for k in range(2):
        own = buffer.arrays["obs"][k, : buffer.added].flatten(1)
        rows = batch.obs[k, :, 0].flatten(1)
        matches = (rows[:, None] == own).all(-1)  # [B, steps]
        assert matches.any(1).all()
        place = matches.float().argmax(1)
        for name in ("act", "rew", "next_obs", "terminated", "truncated"):
            found = getattr(batch, name)[k, :, 0]
            assert torch.equal(found, buffer.arrays[name][k][place])


def test_full_buffer_forgets_the_oldest_steps(tmp_path: Path) -> None:
    trainer = trainer_of(make_run(tmp_path, seeds=(0,), capacity=10))
    everything = []
    for _ in range(6):
        trainer._play()
        everything.append(trainer.buffer.since(trainer.env_steps - 4)["obs"])
    last = torch.cat(everything, 1)[0, -10:]  # the last ten of 24 steps
    assert torch.equal(trainer.buffer.since(0)["obs"][0], last)
    batch = trainer.buffer.transitions([np.random.default_rng(0)], 64)
    rows, held = batch.obs[0, :, 0].flatten(1), last.flatten(1)
    matches = (rows[:, None] == held).all(-1)
    assert matches.any(1).all()
    assert matches.any(0).all()


def test_o2o_takes_half_of_each_batch_from_the_dataset(tmp_path: Path) -> None:
    trainer = trainer_of(make_run(tmp_path, row="walker.o2o"))
    first = trainer._batch()  # nothing has been played yet
    data = torch.from_numpy(toy_dataset(ENDING, n_episodes=20).obs)

    def of_data(batch: Any) -> torch.Tensor:
        rows = batch.obs[:, :, 0].flatten(2)  # [K, B, N D]
        return (rows[:, :, None] == data.flatten(1)).all(-1).any(-1)

    assert of_data(first).all()
    trainer.step = 4
    later = of_data(trainer._batch())
    assert later[:, :8].all()
    assert not later[:, 8:].any()


# ---------------------------------------------------------------------------------------- the run
def test_record_says_how_much_was_played(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", row="matd3", task=registry.task("probe/bandit-v1"), steps=20)
    first, _ = runner.execute(run, tmp_path / "r")
    assert first.track == "online"
    assert first.dataset == ""
    assert first.env_steps == 48  # 8 + 19 / 0.5 = 46, rounded up to 4 episodes
    assert {len(values) for values in first.curve.values()} == {20}
    assert first.curve["env_steps"][0] == 8
    assert first.curve["env_steps"][-1] == 48
    assert all(-1 <= value <= 1 for value in first.curve["return"])
    path = first.path(tmp_path / "r")
    assert path.parent == tmp_path / "r" / "probe" / "bandit-v1" / "none" / "matd3"
    assert record.read(path) == first
    assert runner.find_records(run, [tmp_path / "r"]) is not None
    assert list(run.where.glob("buffer-*")) == []
    offline = dataclasses.replace(first, env_steps=0)
    assert "env_steps" not in record.to_json(offline).replace('"env_steps": [', "")


@pytest.mark.parametrize(
    ("row", "overrides"),
    [("walker", {}), ("walker", {"capacity": 10}), ("walker.o2o", {}), ("matd3", {})],
)
def test_interrupted_run_goes_on_with_equal_bits(tmp_path, row: str, overrides: Any) -> None:
    whole = make_run(tmp_path / "a", row=row, **overrides)
    expected = runner.execute(whole, tmp_path / "ra")
    broken = make_run(tmp_path / "b", row=row, **overrides)
    for stop in (5, 6, 14):
        with pytest.raises(Interrupted, match="same command goes on"):
            runner.execute(broken, tmp_path / "rb", progress=StopAt(stop))
    got = runner.execute(broken, tmp_path / "rb")
    assert [p for p in same(final(whole), final(broken)) if p != "/env_seconds"] == []
    assert [r.curve for r in got] == [r.curve for r in expected]
    assert [r.returns for r in got] == [r.returns for r in expected]
    assert expected[0].curve["loss" if "walker" in row else "critic_loss"] != []


@pytest.mark.parametrize("lost", ["episodes", "uniform", "buffer"])
def test_resume_that_loses_a_part_is_noticed(tmp_path: Path, lost: str) -> None:
    """Negative controls: without them the comparison above would prove nothing."""
    overrides = {"warmup": 30} if lost == "uniform" else {}
    whole = make_run(tmp_path / "a", **overrides)
    runner.execute(whole, tmp_path / "ra")
    broken = make_run(tmp_path / "b", **overrides)
    stopped = trainer_of(broken)
    stopped._prepare()
    if lost == "uniform":  # in the middle of the warm-up
        stopped._play()
    else:
        for _ in range(10):
            stopped.group.update(stopped._batch())
            stopped.step += 1
    fresh = trainer_of(make_run(tmp_path / "c", **overrides)).state()
    state = stopped.state()
    if lost == "buffer":
        for array in stopped.buffer.arrays.values():
            array[:, :4] = 0
        rows = stopped.buffer.since(0)
        checkpoint.save(stopped._file(0), {"last": stopped.env_steps, **rows})
    else:
        state[lost] = fresh[lost]
    checkpoint.save_step(broken.where, stopped.step, state)
    runner.execute(broken, tmp_path / "rb")
    assert "/group/weight" in same(final(whole), final(broken))


def test_a_file_of_the_buffer_without_its_checkpoint_is_ignored(tmp_path: Path) -> None:
    """A run killed between the two goes on from the checkpoint before."""
    whole = make_run(tmp_path / "a")
    runner.execute(whole, tmp_path / "ra")
    broken = make_run(tmp_path / "b")
    with pytest.raises(Interrupted):
        runner.execute(broken, tmp_path / "rb", progress=StopAt(7))
    killed = trainer_of(broken)
    killed.load(final(broken))
    killed.step = 12
    killed._batch()
    killed.state()
    assert len(list(broken.where.glob("buffer-*"))) == 2
    runner.execute(broken, tmp_path / "rb")
    assert [p for p in same(final(whole), final(broken)) if p != "/env_seconds"] == []


@pytest.mark.parametrize("row", ["walker", "matd3"])
def test_seed_in_a_group_equals_the_seed_alone(tmp_path: Path, row: str) -> None:
    both = runner.execute(make_run(tmp_path / "a", row=row, seeds=(0, 1)), tmp_path / "ra")
    alone = runner.execute(make_run(tmp_path / "b", row=row, seeds=(1,)), tmp_path / "rb")
    assert both[1].curve == alone[0].curve
    assert both[1].returns == alone[0].returns
    assert both[0].curve != both[1].curve


def test_seed_whose_actions_break_fails_and_the_others_go_on(tmp_path: Path, monkeypatch) -> None:
    explore = Walker.explore

    def broken(self: Any, obs: Array, *rest: Any) -> Array:
        act = explore(self, obs, *rest)
        act[1] = np.nan
        return act

    monkeypatch.setattr(Walker, "explore", broken)
    good, bad = runner.execute(make_run(tmp_path), tmp_path / "r")
    assert not good.failed
    assert bad.failed
    assert bad.reason == "its actions were not finite"


# ------------------------------------------------------------------------------------- who may play
class Sealed(Ending):
    """A task that cannot be played."""

    def arrays(self, n_envs: int) -> Any:
        raise AssertionError("the simulator was reached")


def test_offline_training_never_reaches_the_simulator(tmp_path: Path, monkeypatch) -> None:
    """From the plan to the last checkpoint, and with an algorithm that would like to explore."""
    data = toy_dataset(ENDING, n_episodes=20)
    data.content_sha256 = "toy"
    monkeypatch.setitem(Walker.variants, "off", Variant(steps={"smoke": 20}, track="offline"))
    bc, _, plain = algorithms.registry().row("bc")
    for cls, row, variant in ((bc, "bc", plain), (Walker, "walker.off", Walker.variants["off"])):
        (run,) = runner.plan(
            row, cls, variant, Sealed(), data, PROTOCOLS["smoke"], tmp_path, seeds=(0,), steps=20
        )
        with pytest.raises((AssertionError, UserError), match="simulator was reached"):
            runner.execute(run, tmp_path / "r")  # by the evaluation, after the last step
        assert final(run)["finished"]
        assert final(run)["step"] == 20
    with pytest.raises((AssertionError, UserError), match="simulator was reached"):
        runner.execute(make_run(tmp_path / "online", Sealed()), tmp_path / "r")
    assert checkpoint.latest(make_run(tmp_path / "online", Sealed()).where) is None


def test_algorithms_get_no_simulator_in_their_hands() -> None:
    """What an online algorithm is given: a spec, a buffer without a way back, observations."""
    buffer = online.Buffer(ENDING, 1, 4, None)
    held = {type(value).__module__ for value in vars(buffer).values()}
    assert not any(name.startswith(("benchmark.envs", "benchmark.online")) for name in held)
    assert not any(isinstance(value, Task) for value in vars(buffer).values())


def test_interrupt_in_play_waits_for_the_end_of_the_update(tmp_path: Path, monkeypatch) -> None:
    whole = make_run(tmp_path / "a")
    runner.execute(whole, tmp_path / "ra")
    broken = make_run(tmp_path / "b")
    explore, calls = Walker.explore, []

    def noisy(self: Any, *arguments: Any) -> Array:
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return explore(self, *arguments)

    monkeypatch.setattr(Walker, "explore", noisy)
    with pytest.raises(Interrupted):
        runner.execute(broken, tmp_path / "rb")
    runner.execute(broken, tmp_path / "rb")
    assert [p for p in same(final(whole), final(broken)) if p != "/env_seconds"] == []


# -------------------------------------------------------------------------------- a user's mistakes
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"utd": 0.0}, "--config.utd is 0.0, expected a number above 0"),
        ({"n_envs": 0}, "--config.n_envs is 0, expected 1 or more episodes"),
        ({"warmup": 0}, "--config.warmup is 0, expected 1 or more environment steps"),
        ({"capacity": 3}, "--config.capacity is 3, expected n_envs or more environment steps"),
    ],
)
def test_settings_of_play_out_of_range(tmp_path: Path, overrides: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        runner.execute(make_run(tmp_path, **overrides), tmp_path / "r")


def test_tracks_and_datasets_must_fit(tmp_path: Path) -> None:
    data = toy_dataset(ENDING, n_episodes=2)
    smoke = PROTOCOLS["smoke"]
    for name, given, words in (
        ("default", data, "on the online track and takes no dataset, found toy/ending/random-v1"),
        ("o2o", None, "walker starts from a dataset, and none was given for toy/ending-v1"),
    ):
        with pytest.raises(UserError, match=words):
            runner.plan("walker", Walker, Walker.variants[name], Ending(), given, smoke, tmp_path)


def test_config_without_the_settings_of_play_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Walker, "Config", dataclasses.make_dataclass("C", ["n_envs", "warmup"]))
    run = make_run(tmp_path, n_envs=1, warmup=1)
    with pytest.raises(UserError, match="track online, but its Config lacks utd"):
        runner.execute(run, tmp_path / "r")


def test_a_population_in_turns_logs_whose_actions_counted(tmp_path: Path) -> None:
    task = registry.task("meanfield/queue-n16-b4-v1")
    run = make_run(tmp_path, task, seeds=(0,), steps=2, row="tmfpg_sim")
    active = trainer_of(run)._batch()[0].active
    assert active is not None
    assert (active.sum(-1) == 4).all()


# ------------------------------------------------------------------------------- the command line
def test_bench_of_an_online_algorithm_takes_a_task() -> None:
    from benchmark.cli import bench
    from benchmark.cli.options import Bench, Train

    assert bench.default_source("omad", Bench("omad")) == "mpe/spread-v1"
    assert bench.default_source("omad", Bench("omad", task="probe/bandit-v1")) == "probe/bandit-v1"
    assert (
        bench.default_source("bc", Bench("bc", task="mpe/tag-flee-v1")) == "mpe/tag-flee/medium-v1"
    )
    two = bench.default_source("bc", Bench("bc", task="probe/bandit-v1"))
    assert two == "probe/bandit/two-mode-v1"
    assert bench.default_source("omad.o2o", Bench("omad.o2o")) == "mpe/spread/medium-v1"
    (run,) = bench.plan("omad", "probe/bandit-v1", Train("omad", "probe/bandit-v1"))
    assert run.data is None
    assert run.source == "probe/bandit-v1"
    with pytest.raises(UserError, match="omad is online and takes a task such as mpe/spread-v1"):
        bench.plan("omad", "mpe/spread/medium-v1", Train("omad", "mpe/spread/medium-v1"))
    with pytest.raises(UserError, match="bc learns from a dataset such as mpe/spread/medium-v1"):
        bench.plan("bc", "mpe/spread-v1", Train("bc", "mpe/spread-v1"))
