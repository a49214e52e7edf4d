"""The trainer of behaviours: what it learns, what it saves, and how it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark import checkpoint, registry
from benchmark.envs.actor import Actor
from benchmark.errors import UserError
from benchmark.task import Array, Group, Step, Task, TaskSpec
from datasets.recipes.mappo import Learner, Mappo, publish, snapshot, train

SPREAD = Mappo(
    task="mpe/spread-v1",
    n_envs=32,
    length=25,
    env_steps=40_000,
    shared=True,
    bootstrap=False,
    lr=2e-3,
    minibatches=4,
    episodes=200,
    first_snapshot=5_000,
    snapshot_growth=1.1,
)
HOPPER = Mappo(task="mamujoco/hopper-3x1-v1", n_envs=4, length=64, env_steps=512, width=8)


class Choose(Task):
    """Two agents are shown a number each and are paid for naming it; the last action is never
    allowed, and agent_1 dies after two of the four steps.
    """

    spec = TaskSpec(
        id="test/choose-v1", groups=(Group("agents", 2, 3),), horizon=4, n_actions=4, can_die=True
    )

    def arrays(self, n_envs: int) -> Any:
        return ChooseArrays(n_envs)

    def parallel_env(self, render_mode: str | None = None) -> Any:
        raise NotImplementedError


class ChooseArrays:
    def __init__(self, n_envs: int) -> None:
        self.n_envs = n_envs

    def reset(self, seeds: Any) -> Array:
        self.t, self.rng = 0, np.random.default_rng(list(seeds))
        return self._show()

    def _show(self) -> Array:
        self.right = self.rng.integers(3, size=(self.n_envs, 2))
        return np.eye(3, dtype=np.float32)[self.right]

    def step(self, act: Array) -> Step:
        assert act.max() < 3 or self.t == 0  # no mask comes with the first observations
        self.t += 1
        rew, alive = (act == self.right).astype(float), np.ones((self.n_envs, 2), bool)
        alive[:, 1] = self.t < 2
        mask = np.tile(np.arange(4) < 3, (self.n_envs, 2, 1))
        over = np.full(self.n_envs, self.t == 4)
        return Step(self._show(), rew, np.zeros_like(over), over, alive, mask)


def test_saved_weights_play_the_policy_that_was_learnt() -> None:
    for shared in (False, True):
        learner = Learner(replace(HOPPER, shared=shared))
        learner.update()
        learner.update()
        assert not torch.equal(learner.scale.mean, torch.zeros_like(learner.scale.mean))
        actor = Actor(learner.weights())
        obs = learner.task.arrays(5).reset(range(5))
        with torch.no_grad():
            wanted = torch.tanh(learner.actors(learner.scale(torch.from_numpy(obs))))
        np.testing.assert_allclose(actor.mean(obs), wanted.numpy(), atol=1e-5)
        noisy = actor.act(obs, None, None, 0, False)
        assert noisy.shape == (5, 3, 1)
        assert np.abs(noisy).max() <= 1


def test_the_normaliser_knows_mean_and_spread_of_all_that_was_seen() -> None:
    learner = Learner(HOPPER)
    parts = [learner.collect() for _ in range(3)]
    for r in parts:
        learner.scale.update(r.obs.flatten(0, 1), r.alive.flatten(0, 1))
    seen = torch.cat([r.obs.flatten(0, 1) for r in parts])  # [B, N, D]
    torch.testing.assert_close(learner.scale.mean, seen.mean(0), atol=1e-4, rtol=1e-4)
    spread = (seen.var(0, correction=0) + 1e-4).sqrt()
    torch.testing.assert_close(learner.scale.std, spread, atol=1e-4, rtol=1e-3)


def test_advantages_are_discounted_sums_cut_at_ends_and_bootstrapped_at_time_limits() -> None:
    learner = Learner(replace(HOPPER, lam=1.0))
    r = learner.collect()
    r.terminal.zero_()
    r.cut.zero_()
    r.terminal[9], r.cut[9], r.cut[19] = 1, 1, 1  # an end after 10 steps, a time limit after 20
    last = np.zeros((1, 3, 9), np.float32)
    r.final = [(19, np.array([0]), last, np.ones((1, 3), bool))]
    inputs = learner.inputs(learner.scale(r.obs), r.alive, r.time)
    gain, values = learner.advantages(r, inputs)
    rew, gamma = r.rew[:, 0, 0] / learner.unit(), 0.99 ** torch.arange(10)
    assert gain[0, 0, 0] + values[0, 0, 0] == pytest.approx(
        float((gamma * rew[:10]).sum()), abs=1e-4
    )
    with torch.no_grad():
        x = learner.scale(torch.from_numpy(last))
        beyond = learner.value(learner.inputs(x, torch.ones(1, 3), torch.zeros(1)))[0, 0]
    wanted = float((gamma * rew[10:20]).sum() + 0.99**10 * beyond)
    assert gain[10, 0, 0] + values[10, 0, 0] == pytest.approx(wanted, abs=1e-4)


def test_fallen_bodies_begin_anew_at_once() -> None:
    learner = Learner(HOPPER)
    r = learner.collect()
    assert r.alive.all()
    assert r.terminal.sum() > 0
    assert learner.env_steps == 4 * 64


@pytest.mark.parametrize("critic", ["joint", "mean", "own"])
def test_discrete_actions_are_learnt_under_masks_and_deaths(critic: Any) -> None:
    config = Mappo(
        task="test/choose-v1",
        n_envs=32,
        length=8,
        shared=True,
        critic=critic,
        reward="own",
        bootstrap=False,
        entropy=0.01,
        lr=3e-3,
        minibatches=2,
        width=16,
    )
    learner = Learner(config, Choose())
    r = learner.collect()
    assert r.alive[:, :, 0].all()
    assert r.alive[:, 0, 1].tolist() == [1, 1, 0, 0] * 2
    assert r.terminal[:, 0, 1].tolist()[1] == 1
    for _ in range(25):
        learner.update()
    actor = Actor(learner.weights())
    obs = np.tile(np.eye(3, dtype=np.float32)[:, None], (1, 2, 1))  # [E, N, D], each number
    mask = np.ones((3, 2, 4), bool)
    assert actor.act(obs, None, mask, 0, True).tolist() == [[0, 0], [1, 1], [2, 2]]
    mask[..., 0] = False
    assert (actor.act(obs, None, mask, 0, False) > 0).all()


def test_training_learns_resumes_and_publishes(tmp_path: Path) -> None:
    half = replace(SPREAD, env_steps=10_000)
    rows = train(half, tmp_path / "work")
    kept = len(rows)
    rows = train(SPREAD, tmp_path / "work")
    assert [row["env_steps"] for row in rows] == sorted(row["env_steps"] for row in rows)
    assert len(rows) > kept
    assert rows[-1]["env_steps"] >= SPREAD.env_steps
    assert rows[-1]["return"] > rows[0]["return"] + 2
    saved = checkpoint.load(tmp_path / "work" / "mappo.safetensors")
    assert len(saved["rows"]) == len(rows)
    # A scale on which the first snapshots are medium, whatever so short a run has reached
    for k, row in enumerate(rows):
        row["sampled_return"] = -26 + 20 * (k + 1) / len(rows)
    rows[-1]["return"] = -6.0
    publish(SPREAD, tmp_path / "work", tmp_path / "out", rows, replays=3)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        "expert.safetensors",
        "medium.safetensors",
        "replay.safetensors",
        "mappo.csv",
    }
    assert (tmp_path / "out" / "expert.safetensors").read_bytes() == snapshot(
        tmp_path / "work", rows[-1]["env_steps"]
    ).read_bytes()
    for row in rows:
        row["sampled_return"] = -26.0
    with pytest.raises(UserError, match="between a third and a half"):
        publish(SPREAD, tmp_path / "work", tmp_path / "out", rows)
    assert registry.task(SPREAD.task).spec.n_agents == 3
