"""Coordination probes: the games, their known answers, and data of exactly the promised laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import algorithms
import datasets
from benchmark import registry
from benchmark.batch import Rngs
from benchmark.checks.task import check_task
from benchmark.envs import probe
from benchmark.errors import UserError
from benchmark.evaluate import rollout
from datasets import cardfile
from datasets.recipes import probe as recipe


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cardfile, "CARDS", tmp_path / "cards")
    return tmp_path


def make(name: str, tier: str) -> datasets.Dataset:
    dataset = f"{name.removesuffix('-v1')}/{tier}-v1"
    datasets.make_dataset(dataset, progress=False)
    return datasets.load(dataset)


def game(name: str) -> probe.ProbeTask:
    task = registry.task(name)
    assert isinstance(task, probe.ProbeTask)
    return task


# -------------------------------------------------------------------------------- the games
@pytest.mark.parametrize("name", probe.FAMILY.examples)
def test_a_probe_keeps_the_contract_of_a_task(name: str) -> None:
    failed = [result.line() for result in check_task(registry.task(name)) if not result.ok]
    assert failed == []


def test_the_bandit_pays_the_product_of_clipped_actions() -> None:
    task = game("probe/bandit-v1")
    act = np.array([[[0.5], [-0.4]], [[3.0], [1.0]], [[-1.0], [-2.0]]], np.float32)
    env = task.arrays(3)
    assert (env.reset([1, 2, 3]) == 1).all()
    step = env.step(act)
    assert np.allclose(step.rew, [[-0.2, -0.2], [1, 1], [1, 1]])
    assert step.terminated.all()
    assert not step.truncated.any()


def test_payoffs_are_those_of_the_text() -> None:
    for n in range(2, 7):
        payoff = game(f"probe/modes-n{n}-v1").payoff
        assert payoff is not None
        assert payoff.shape == (2,) * n
        assert payoff.sum() == 2
        assert payoff[(0,) * n] == payoff[(1,) * n] == 1
    xor = game("probe/xor-v1").payoff
    assert xor is not None
    assert xor.tolist() == [[0, 1], [1, 0]]


def test_pure_equilibria_are_found_by_brute_force() -> None:
    assert probe.pure_equilibria(probe.STAG_HUNT) == [(0, 0), (1, 1)]
    assert sorted(probe.pure_equilibria(1.0 - np.eye(2))) == [(0, 1), (1, 0)]
    three = game("probe/modes-n3-v1").payoff
    assert three is not None
    # With three agents of which two agree, the third alone can mend it: only agreement is stable.
    assert sorted(probe.pure_equilibria(three)) == [(0, 0, 0), (1, 1, 1)]
    assert probe.pure_equilibria(np.array([[1.0, -1.0], [-1.0, -2.0]])) == [(0, 0)]


@pytest.mark.parametrize("name", probe.FAMILY.examples)
def test_references_are_the_exact_values(name: str) -> None:
    task = game(name)
    reference = task.reference()
    assert reference is not None
    uniform = 0.0 if task.payoff is None else float(task.payoff.mean())
    assert abs(reference.random - uniform) < 4 * reference.random_sem
    assert reference.expert == 1.0


def test_the_expert_is_paid_the_most_there_is() -> None:
    for name in probe.FAMILY.examples:
        task = game(name)
        assert (rollout(task, task.expert(), range(3)) == 1.0).all()
    lines = {name: set(game(name).reference_lines()) for name in probe.FAMILY.examples}
    assert lines.pop("probe/bandit-v1") == lines.pop("probe/mne-v1") == {"mode of the data"}
    assert not any(lines.values())


def test_wrong_names_and_actions_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'probe/modes-n6-v1'"):
        registry.task("probe/modes-n7-v1")
    env = game("probe/bandit-v1").arrays(1)
    with pytest.raises(UserError, match="call reset first"):
        env.step(np.zeros((1, 2, 1)))
    env.reset([1])
    with pytest.raises(UserError, match=r"the shape \(1, 2\), expected \(1, 2, 1\)"):
        env.step(np.zeros((1, 2)))


# -------------------------------------------------------------------------- laws and distances
def test_the_law_of_joint_actions_is_counted() -> None:
    act = np.array([[0, 1, 1], [0, 1, 1], [1, 0, 0], [1, 1, 1]])
    law = probe.joint_law(act)
    assert law.shape == (2, 2, 2)
    assert (law[0, 1, 1], law[1, 0, 0], law[1, 1, 1], law.sum()) == (0.5, 0.25, 0.25, 1.0)
    signs = probe.joint_law(np.array([[[-0.3], [0.2]], [[0.9], [0.0]]]))
    assert signs.tolist() == [[0, 0.5], [0, 0.5]]


def test_total_variation_is_the_largest_difference_of_an_events_probabilities() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4))
    events = (np.arange(16)[:, None] >> np.arange(4)) & 1
    assert probe.total_variation(p, q) == pytest.approx(np.abs(events @ (p - q)).max())


@pytest.mark.parametrize("n", range(2, 7))
def test_independent_imitation_of_two_modes_misses_by_the_formula(n: int) -> None:
    task = game(f"probe/modes-n{n}-v1")
    law = recipe.law(task, "two-mode")
    product = probe.factorised(law)
    assert np.allclose(product, 2.0**-n)
    assert probe.total_variation(law, product) == pytest.approx(probe.factorised_distance(n))
    assert task.payoff is not None
    assert (product * task.payoff).sum() == pytest.approx(1 - probe.factorised_distance(n))


def test_factorising_an_independent_law_changes_nothing() -> None:
    a, b, c = (np.random.default_rng(k).dirichlet(np.ones(2)) for k in range(3))
    law = a[:, None, None] * b[:, None] * c
    assert np.allclose(probe.factorised(law), law)


# ------------------------------------------------------------------------------------- the data
@pytest.mark.parametrize("tier", recipe.TIERS)
@pytest.mark.parametrize("name", ["probe/xor-v1", "probe/mne-v1", "probe/modes-n4-v1"])
def test_data_have_the_law_that_the_recipe_states(name: str, tier: str, home: Path) -> None:
    task, data = game(name), make(name, tier)
    law, found = recipe.law(task, tier), probe.joint_law(np.asarray(data.act))
    assert law.sum() == pytest.approx(1)
    error = np.sqrt(law * (1 - law) / data.n_episodes)
    assert (np.abs(found - law) <= 4 * error).all()
    assert task.payoff is not None
    assert np.allclose(data.returns[:, 0], task.payoff[tuple(np.asarray(data.act).T)])
    assert (data.terminated == 1).all()


def test_two_mode_data_hold_the_modes_and_nothing_else(home: Path) -> None:
    data = make("probe/modes-n6-v1", "two-mode")
    assert set(np.unique(np.asarray(data.act).sum(1))) == {0, 6}
    assert (data.returns == 1).all()
    assert (data.policy == np.asarray(data.act)[:, 0]).all()


def test_bandit_data_are_two_clipped_gaussians(home: Path) -> None:
    data = make("probe/bandit-v1", "two-mode")
    act = np.asarray(data.act)[..., 0]
    for mode, centre in enumerate((0.8, -0.8)):
        part = act[data.policy == mode]
        assert len(part) / len(act) == pytest.approx(0.5, abs=0.02)
        assert np.median(part, axis=0) == pytest.approx(np.full(2, centre), abs=0.01)
        inside = np.abs(part - centre) < 0.1
        assert inside.mean() == pytest.approx(0.6827, abs=0.02)
        assert abs(np.corrcoef(part.T)[0, 1]) < 0.05
    assert np.abs(act).max() <= 1
    assert probe.total_variation(probe.joint_law(data.act), np.diag([0.5, 0.5])) < 0.02


def test_the_poor_equilibrium_is_the_better_answer_to_the_logged_behaviour(home: Path) -> None:
    """What makes M-NE hard, and what makes it solvable: the best joint action is in the data."""
    data, payoff = make("probe/mne-v1", "mixed"), probe.STAG_HUNT
    law = probe.joint_law(np.asarray(data.act))
    marginals = [law.sum(1), law.sum(0)]
    for agent in (0, 1):
        table = payoff if agent == 0 else payoff.T
        answers = table @ marginals[1 - agent]  # to the other's behaviour
        logged = np.moveaxis(law * payoff, agent, 0).sum(1) / marginals[agent]  # reward by action
        assert answers[1] > answers[0]
        assert logged[1] > logged[0]
    assert law[0, 0] > 0.1
    assert np.unravel_index(payoff.argmax(), payoff.shape) == (0, 0)


# ----------------------------------------------------------------------- what the probes measure
def actions_of(task: probe.ProbeTask, policy: Any, episodes: int) -> np.ndarray:
    """Sampled joint actions of a group of one seed: [E, N]."""
    policy.begin(episodes, 7)
    obs = task.arrays(episodes).reset(range(episodes))
    return policy.act(obs[None], None, None, 0, False)[0]


@pytest.mark.parametrize("n", [2, 5])
def test_behaviour_cloning_loses_the_modes(n: int, home: Path) -> None:
    name = f"probe/modes-n{n}-v1"
    data, task = make(name, "two-mode"), game(name)
    cls, _, variant = algorithms.registry().row("bc")
    config = cls.Config(**{**variant.config, "lr": 1e-2, "width": 16, "compile": "off"})
    bc = cls(config, task.spec, (0,), "cpu")
    rngs: Rngs = [np.random.default_rng(0)]
    bc.prepare(data, 100, rngs)
    for _ in range(100):
        bc.update(bc.sample(data, rngs))
    bc.finish()
    found = probe.joint_law(actions_of(task, bc, 20_000))
    distance = probe.total_variation(found, recipe.law(task, "two-mode"))
    assert distance == pytest.approx(probe.factorised_distance(n), abs=0.05)
