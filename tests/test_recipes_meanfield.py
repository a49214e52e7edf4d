"""Recipes of the mean-field games: what each tier draws, logs and is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets
from benchmark import registry
from benchmark.envs.meanfield.solve import policy_value
from benchmark.protocol import VERIFICATION_SEEDS
from datasets import cardfile
from datasets.recipes import meanfield

SQUEEZE, BEACH = "meanfield/squeeze-n100/medium-v1", "meanfield/beach-bar-n16/medium-v1"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folders of data and cards, and 30 episodes a dataset."""
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cardfile, "CARDS", tmp_path / "cards")
    monkeypatch.setattr(meanfield, "size", lambda task, tier: 30)
    return tmp_path


def make(dataset: str, **options: Any) -> datasets.Dataset:
    datasets.make_dataset(dataset, progress=False, **options)
    return datasets.load(dataset)


# ------------------------------------------------------------------------------- what is logged
def test_every_episode_has_a_policy_and_a_seed_of_its_own(home: Path) -> None:
    for dataset in (SQUEEZE, BEACH):
        data = make(dataset)
        assert data.policy.tolist() == list(range(30))
        assert len(set(data.seeds.tolist())) == 30
        assert data.seeds.min() >= VERIFICATION_SEEDS.start + 2**39
        logp = data.arrays["steps/agents/logp"][data.starts[:-1]]
        assert len(np.unique(logp[:, 0])) == 30


def test_the_logged_probability_is_that_of_the_policy_that_acted(home: Path) -> None:
    data = make(SQUEEZE)
    task = registry.task("meanfield/squeeze-n100-v1")
    model = task.model()
    assert model is not None
    logp = data.arrays["steps/agents/logp"]
    for e in range(5):
        rng = np.random.default_rng([int(data.seeds[e]), 1])
        pi = meanfield.behaviour(task, "medium", model, model.solve(), rng)
        assert np.allclose(logp[e], np.log(pi[0, 0][data.act[e]]), atol=1e-4)


def test_data_do_not_depend_on_how_many_episodes_run_in_lockstep(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(BEACH).content_sha256
    monkeypatch.setattr(meanfield, "CHUNK", 16 * 10 * 7)
    assert make(BEACH, force=True).content_sha256 == whole


@pytest.mark.parametrize("name", ["meanfield/squeeze-n100", "meanfield/beach-bar-n64"])
def test_tiers_differ_as_their_names_say(name: str, home: Path) -> None:
    mean = {tier: make(f"{name}/{tier}-v1").returns.mean() for tier in meanfield.TIERS}
    assert mean["random"] < mean["medium"] < mean["expert"]
    assert mean["random"] < mean["medium-replay"] < mean["expert"]
    assert mean["mixed"] == pytest.approx((mean["random"] + mean["expert"]) / 2, rel=0.05)
    if "squeeze" in name:
        assert mean["random"] < 0.1
        assert 0.15 < mean["medium"] < 0.5
        assert 0.95 < mean["expert"] <= 1


GAMES = [name for name in registry.task_ids() if name.startswith("meanfield/")]


@pytest.mark.parametrize("name", GAMES)
def test_the_average_behaviour_is_better_in_better_tiers(name: str) -> None:
    """Of the committed datasets: cloning one must not be as good as cloning the next better one."""
    found = {}
    for tier in meanfield.TIERS:
        card = datasets.card(f"{name.removesuffix('-v1')}/{tier}-v1")
        found[tier] = card["statistics"]
    task = registry.task(name)
    if task.spec.metric == "return":
        value = {tier: statistics["behaviour_value"] for tier, statistics in found.items()}
        model = task.model()
        assert model is not None
        best = policy_value(model, model.solve())
        assert value["random"] < 0.01 * best < 0.1 * best < value["medium"] < 0.3 * best
        assert value["expert"] > 0.95 * best
        means = {tier: statistics["return_mean"] for tier, statistics in found.items()}
        assert means["random"] < means["medium-replay"] < means["mixed"] < means["expert"]
        assert means["random"] < means["medium"] < means["expert"]
        return
    gap = {tier: statistics["behaviour_exploitability"] for tier, statistics in found.items()}
    reference = task.reference()
    assert reference is not None
    uniform = reference.uniform_exploitability
    assert gap["expert"] < 0.1 * uniform
    assert 0.4 * uniform < gap["medium"] < 0.9 * uniform
    assert gap["random"] > 1.1 * gap["medium"]
    assert gap["expert"] < gap["mixed"] < gap["random"]
    assert gap["expert"] < gap["medium-replay"] < gap["random"]


@pytest.mark.parametrize("name", ["meanfield/squeeze-n16-v1", "meanfield/queue-n16-b4-v1"])
def test_a_replay_is_of_one_learner_that_improves(name: str) -> None:
    task = registry.task(name)
    model = task.model()
    assert model is not None
    policies = [pi for pi, _ in meanfield.behaviours(task, "medium-replay", model, range(7, 37))]
    assert len({pi.tobytes() for pi in policies}) == 30  # each explores in its own way
    values = [policy_value(model, pi) for pi in policies]
    assert np.mean(values[-10:]) > np.mean(values[10:20]) > np.mean(values[:10])


def test_mixed_data_are_random_and_expert_in_turn(home: Path) -> None:
    returns = make("meanfield/squeeze-n100/mixed-v1").returns.mean(1)
    assert np.median(returns[::2]) < 0.01
    assert returns[1::2].min() > 0.5


def test_games_of_turns_log_whose_action_counted(home: Path) -> None:
    dataset = "meanfield/resource-n32-b8/medium-v1"
    data = make(dataset)
    active = data.arrays["steps/agents/active"][:]
    assert (active.sum(1) == 8).all()
    assert active.mean(0) == pytest.approx(np.full(32, 0.25), abs=0.06)
    same = data.starts[1] - data.starts[0]
    obs, act = np.asarray(data.obs)[:same, :, 0], np.asarray(data.act)[:same]
    moved = obs[1:] != obs[:-1]
    assert moved.any()
    assert (active[: same - 1][moved] == 1).all()  # who waits stays where it is
    assert (obs[1:] == np.where(active[: same - 1], act[:-1], obs[:-1])).all()
    task = registry.task("meanfield/resource-n32-b8-v1")
    model = task.model()
    assert model is not None
    pi, _ = next(iter(meanfield.behaviours(task, "medium", model, range(3, 4))))
    rounds = pi.reshape(10, 4, *pi.shape[1:])
    assert (rounds == rounds[:, :1]).all()  # one table a round
    assert not np.allclose(rounds[0], rounds[1])
    assert "steps/agents/active" not in make("meanfield/resource-n32/random-v1").arrays


def test_medium_squeeze_holds_good_and_bad_episodes(home: Path) -> None:
    returns = make(SQUEEZE).returns.mean(1)
    assert (returns > 0.7).mean() > 0.05
    assert (returns < 0.1).mean() > 0.2


def test_a_tilted_policy_has_the_mean_it_was_asked_for() -> None:
    pi = meanfield.random_policy(
        registry.task("meanfield/squeeze-n7-v1").model(),  # type: ignore[arg-type]
        np.random.default_rng(0),
    )
    for mean in (0.1, 1.0, 4.5, 8.5):
        tilted = meanfield.tilted(pi, np.array([mean]))[0, 0]
        assert tilted.sum() == pytest.approx(1)
        assert tilted @ np.arange(10) == pytest.approx(mean, abs=1e-6)


def test_cards_say_what_the_data_cover(home: Path) -> None:
    shares = {}
    for tier in ("medium", "expert"):
        dataset = f"meanfield/beach-bar-n64/{tier}-v1"
        make(dataset)
        found = datasets.card(dataset)["statistics"]
        assert 0 < found["mu_coverage"] <= 1
        assert found["state_action_coverage"] == 1.0
        shares[tier] = found["mu_spread"]
    assert shares["medium"] > 1.2 * shares["expert"]
    assert datasets.mean_return("meanfield/beach-bar-n64/expert-v1") == found["return_mean"]
    assert datasets.mean_return("meanfield/beach-bar-n64/random-v1") is None
