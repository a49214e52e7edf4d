"""Recipes of battles: what they log is what was played, and tiers stand in their order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets
from benchmark.envs.actor import load_arrays
from datasets import cardfile
from datasets.linter import lint
from datasets.recipes import magent, skirmish, train_skirmish
from datasets.recipes.battles import Behaviour, mixture
from datasets.recipes.mappo_learner import Learner


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folders of data and cards, and 16 episodes a dataset."""
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cardfile, "CARDS", tmp_path / "cards")
    monkeypatch.setattr(skirmish, "size", lambda task, tier: 16)
    monkeypatch.setattr(magent, "size", lambda task, tier: 16)
    return tmp_path


def make(dataset: str) -> datasets.Dataset:
    datasets.make_dataset(dataset, progress=False)
    return datasets.load(dataset)


def behaviour(tier: str, e: int, seed: int) -> Behaviour:
    rng = np.random.default_rng([seed, 1])
    if tier.startswith("magent"):
        return magent.behaviour(tier.split("/")[1], e / 15, rng)
    return skirmish.behaviours(tier, 16)(e, rng)


@pytest.mark.parametrize("tier", skirmish.TIERS)
def test_skirmish_logs_what_was_played(tier: str) -> None:
    check(make(f"battle/skirmish-n16-rush/{tier}-v1"), tier)


@pytest.mark.parametrize("tier", magent.TIERS)
def test_magent_logs_what_was_played(tier: str) -> None:
    check(make(f"battle/magent-map16-rush/{tier}-v1"), f"magent/{tier}")


def check(data: Any, tier: str) -> None:
    """Log-probabilities, deaths, lengths and outcomes of every episode, from its seed alone."""
    assert lint(data.path) == []
    alive, logp = (data.arrays[f"steps/agents/{name}"] for name in ("alive", "logp"))
    final, margin, win = (
        data.arrays[f"{at}"] for at in ("final/agents/obs", "index/margin", "index/win")
    )
    assert data.policy.tolist() == list(range(16))
    for e in range(16):
        rows = slice(int(data.starts[e]), int(data.starts[e + 1]))
        obs, act, own = data.obs[rows], data.act[rows], alive[rows] > 0
        played = behaviour(tier, e, int(data.seeds[e]))
        p = np.take_along_axis(played(obs.reshape(-1, obs.shape[-1])), act.reshape(-1, 1), 1)
        np.testing.assert_allclose(np.exp(logp[rows].reshape(-1)), p[:, 0], rtol=1e-4)
        assert own[0].all()
        assert not (own[1:] & ~own[:-1]).any()
        assert not obs[~own].any()
        assert not data.rew[rows][~own].any()
        left = final[e].any(-1)
        assert not (left & ~own[-1]).any()
        assert margin[e] <= left.mean() + 1e-9
        if left.any():
            shares = final[e][left][0, 4:6]
            assert margin[e] == pytest.approx(shares[0] - shares[1], abs=1e-6)
            assert left.mean() == pytest.approx(shares[0])
        assert data.terminated[e] == (not left.any() or margin[e] == left.mean())
        assert win[e] == 0.5 + 0.5 * np.sign(margin[e])


def test_tiers_stand_in_their_order() -> None:
    tiers = ("random", "medium", "expert")
    for task in ("skirmish-n64-rush", "magent-map16-rush"):
        margins = [
            make(f"battle/{task}/{tier}-v1").card["statistics"]["margin_mean"] for tier in tiers
        ]
        assert margins[0] < -0.8
        assert margins[0] + 0.2 < margins[1] < margins[2] - 0.2


def test_random_policies_differ_from_each_other() -> None:
    obs = np.random.default_rng(0).random((100, 18)).astype(np.float32)
    one, two = (skirmish.random_policy(np.random.default_rng(k))(obs) for k in (1, 2))
    assert one.sum(-1) == pytest.approx(np.ones(100), abs=1e-5)
    assert np.abs(one - two).sum(-1).mean() > 0.3


def test_a_mixture_has_the_shares_it_says() -> None:
    obs = np.zeros((3, 18), np.float32)

    def always(action: int) -> Behaviour:
        return lambda x: np.eye(6, dtype=np.float32)[np.full(len(x), action)]

    assert mixture(always(0), always(5), 0.75)(obs)[0] == pytest.approx([0.75, 0, 0, 0, 0, 0.25])


def test_the_history_goes_from_uniform_play_to_the_expert() -> None:
    way = skirmish.progress_of(skirmish.FOLDER / "training.csv")
    history = load_arrays(skirmish.FOLDER / "history.safetensors")
    expert = load_arrays(skirmish.FOLDER / "expert.safetensors")
    assert {len(stack) for stack in history.values()} == {len(way)}
    for name, weights in skirmish.snapshot(history, len(way) - 1).items():
        np.testing.assert_array_equal(weights, expert[name])
    obs = np.random.default_rng(0).random((100, 18)).astype(np.float32)
    start = skirmish.trained(skirmish.snapshot(history, 0), 1.0)(obs)
    assert start == pytest.approx(np.full((100, 6), 1 / 6), abs=0.05)


def test_the_trainer_pays_damage_and_charges_deaths() -> None:
    rng = np.random.default_rng(0)
    env = train_skirmish.Training(16, "rush").arrays(6)
    obs = env.reset(list(range(6)))
    assert obs.shape == (6, 16, 18)
    before, hits, deaths = np.ones((6, 16), bool), 0, 0
    for _ in range(30):
        act = rng.choice([0, 5], (6, 16))
        step = env.step(act)
        died = before & ~step.alive
        hit = step.rew + 3 * died > 0
        assert np.abs(step.rew + 3 * died - 0.6 * hit).max() < 1e-12
        assert (act[hit] == 5).all()
        assert before[hit].all()
        before, hits, deaths = step.alive, hits + hit.sum(), deaths + died.sum()
    assert hits > 20
    assert deaths > 10


def test_an_iteration_of_the_trainer_changes_the_policy() -> None:
    config = replace(train_skirmish.CONFIG, n_envs=3)
    learner = Learner(config, train_skirmish.Training(8, "rush"))
    before = learner.weights()
    learner.update()
    after = learner.weights()
    assert learner.env_steps > 0
    assert {name: w.shape for name, w in after.items()} == {
        name: w.shape for name, w in load_arrays(skirmish.FOLDER / "expert.safetensors").items()
    }
    assert np.abs(after["w2"] - before["w2"]).max() > 0
