"""TMF-PG: recursions against the exact tools, the learned game, the stops, and what it finds."""

import dataclasses
import re

import numpy as np
import pytest
import torch

import algorithms
import datasets
from algorithms.nn import game
from algorithms.nn.learned_game import LearnedGame
from algorithms.tmfpg import TMFPG
from benchmark import registry
from benchmark.algorithm import build_group
from benchmark.checks.algorithm import AlgorithmSubject, check_algorithm
from benchmark.checks.fixtures import POPULATION, toy_dataset
from benchmark.envs.meanfield import solve
from benchmark.envs.meanfield.resource import water_filling
from benchmark.errors import UserError
from datasets.recipes.meanfield import random_policy

TURNS = "meanfield/queue-n16-b4-v1"
TASKS = ["meanfield/queue-n16-v1", TURNS, "meanfield/resource-n16-b4-v1", "meanfield/rps-n16-v1"]


def data_of(name: str, tier: str = "medium"):
    return datasets.load(f"{name.removesuffix('-v1')}/{tier}-v1", make=True)


def trained(row, data, steps, seeds=(0,), **config):
    cls, _, variant = algorithms.registry().row(row)
    values, _ = variant.resolve(data.spec.id, "quick")
    group = build_group(cls, cls.Config(**values | config), data.spec, seeds)
    model = registry.task(data.spec.id).model() if variant.track == "oracle" else None
    group.prepare(data, steps, [np.random.default_rng([seed, 1]) for seed in seeds], model)
    rngs, losses = [np.random.default_rng([seed, 0]) for seed in seeds], []
    for _ in range(steps):
        losses.append(group.update(group.sample(data, rngs)))
    return group.members[0], losses


# ------------------------------------------------------------------------------------- recursions
@pytest.mark.parametrize("name", TASKS)
def test_courses_and_values_are_those_of_the_exact_tools(name):
    model = registry.task(name).model()
    pi = random_policy(model, np.random.default_rng(0))
    rho = 1 / getattr(model, "steps_per_round", 1)
    now = game.course(game.ExactGame(model), model.mu0, pi, rho)
    np.testing.assert_allclose(now.mu, solve.flow(model, pi), atol=1e-12)
    assert now.doubt == 0
    q, value = game.values(now.reward, now.kernel, pi, rho, chain=False)
    assert float(model.mu0 @ value[0]) == pytest.approx(solve.policy_value(model, pi), rel=1e-9)
    # An agent's averaged Q differs from its active one by what does not depend on the action.
    _, rewards, kernels = solve._trace(model, pi)
    gain = lambda x: x - (pi * x).sum(-1, keepdims=True)  # noqa: E731
    exact = solve.action_values(rewards, kernels, pi)
    np.testing.assert_allclose(rho * gain(q), gain(exact), atol=1e-9)


def test_a_chain_follows_an_agent_who_acts_at_every_step():
    model = registry.task(TURNS).model()
    pi = random_policy(model, np.random.default_rng(1))
    now = game.course(game.ExactGame(model), model.mu0, pi, 0.25)
    _, value = game.values(now.reward, now.kernel, pi, 0.25, chain=True)
    law, wanted = model.mu0.copy(), 0.0
    for t in range(model.horizon):  # forward: where the chain is, and what it is paid there
        xi = law[:, None] * pi[t]
        weight = model.discount ** (t * 0.25)
        wanted += weight * float((xi * model.active_reward(now.mu[t])).sum())
        law = np.tensordot(xi, model.active_kernel(now.mu[t]), axes=2)
    assert float(model.mu0 @ value[0]) == pytest.approx(wanted, rel=1e-9)


def test_what_is_logged_is_counted_agent_by_agent():
    data = data_of(TURNS)
    known = game.logged(data, data.spec, smooth=2.0)
    assert known.rho == 0.25
    assert known.behaviour.shape == (10, 5, 4)
    obs, act, active = np.array(data.obs)[..., 0], np.array(data.act), data.active
    counts = np.full((10, 5, 4), 2.0 / 4)
    for s in range(data.n_steps):
        t = s - data.starts[np.searchsorted(data.starts, s, side="right") - 1]
        for i in range(16):
            if active[s, i]:
                counts[t // 4, obs[s, i], act[s, i]] += 1
    np.testing.assert_allclose(known.behaviour, counts / counts.sum(-1, keepdims=True))
    s = 7
    np.testing.assert_allclose(known.populations[s], np.bincount(obs[s], minlength=5) / 16)
    chosen = np.bincount(act[s][active[s]], minlength=4)
    np.testing.assert_allclose(known.choices[s], chosen / max(chosen.sum(), 1))


# -------------------------------------------------------------------------------- the learned game
def test_an_untrained_game_is_what_was_counted_and_its_doubt_is_nothing():
    data = data_of(TURNS)
    learned = LearnedGame(data.spec, 3, 16, seed=0, pessimism=1.0)
    learned.prepare(data, game.logged(data, data.spec, 1.0))
    parts = learned.parts(3, np.full((5, 4), 1 / 20))
    obs, act, active = np.array(data.obs)[..., 0], np.array(data.act), data.active
    rew, last = np.array(data.rew), set(data.starts[1:] - 1)
    all_act = np.where(active, act, 4)
    for o, a in ((0, 1), (0, 4), (2, 4)):
        here = (obs == o) & (all_act == a)
        assert parts.reward[o, a] == pytest.approx(rew[here].mean(), rel=1e-4)
        inner = [s for s in range(data.n_steps) if s not in last]
        after = np.concatenate([obs[s + 1][here[s]] for s in inner])
        share = np.bincount(after, minlength=5) / len(after)
        np.testing.assert_allclose(parts.kernel[o, a], share, atol=0.02)
    np.testing.assert_allclose(parts.kernel.sum(-1), 1)
    assert parts.doubt.max() < 1e-6


def test_a_learned_game_comes_near_the_true_one():
    data = data_of("meanfield/queue-n16-v1")
    found, losses = trained("tmfpg", data, 1500, fit_share=1.0, agents=16, batch_size=64)
    model = game.ExactGame(registry.task(data.spec.id).model())
    known = game.logged(data, data.spec, 1.0)
    errors, first = [], []
    for s in range(0, data.n_steps, 97):
        t = int(s - data.starts[np.searchsorted(data.starts, s, side="right") - 1])
        xi = known.populations[s][:, None] * known.behaviour[min(t, 9)]
        true, own = model.parts(t, xi), found.learned.parts(t, xi)
        seen = known.populations[s] > 0
        errors.append(np.abs(true.reward - own.reward)[seen, :-1].mean())
        first.append(np.abs(true.reward - found.learned.paid.numpy())[seen, :-1].mean())
    assert np.mean(errors) < 0.35 * np.mean(first)
    assert losses[-1]["kernel_loss"] < losses[0]["kernel_loss"]


# ----------------------------------------------------------------------------------- what it finds
@pytest.mark.parametrize("name", ["meanfield/queue-n16-v1", "meanfield/resource-n16-v1"])
def test_the_oracle_reaches_the_equilibrium(name):
    found, _ = trained("tmfpg.oracle", data_of(name), 800)
    model = registry.task(name).model()
    uniform = solve.exploitability(model, solve.uniform_policy(model))
    assert solve.exploitability(model, found.policy_table()) < 0.01 * uniform
    if "resource" in name:  # where moves cost little, agents stand as water does
        mu = solve.flow(model, found.policy_table())[4]
        assert np.abs(mu - water_filling()).max() < 0.01


@pytest.mark.parametrize("gradient", ["natural", "vanilla"])
@pytest.mark.parametrize(("inner", "damping"), [(1, 0.0), (3, 0.8)])
def test_all_forms_of_the_update_climb(gradient, inner, damping):
    rate = 1.0 if gradient == "vanilla" else 0.1
    options = {"gradient": gradient, "inner": inner, "damping": damping, "rate": rate}
    found, _ = trained("tmfpg.oracle", data_of("meanfield/queue-n16-v1"), 100, **options)
    model = registry.task("meanfield/queue-n16-v1").model()
    uniform = solve.exploitability(model, solve.uniform_policy(model))
    assert solve.exploitability(model, found.policy_table()) < 0.5 * uniform


@pytest.mark.slow
@pytest.mark.parametrize(("row", "steps", "share"), [("tmfpg", 4400, 0.1), ("tmfpg.mis", 500, 0.8)])
def test_the_offline_forms_improve_on_their_data(row, steps, share):
    data = data_of("meanfield/queue-n128-v1")
    model = registry.task(data.spec.id).model()
    start = solve.exploitability(model, trained(row, data, 0)[0].policy_table())
    found, _ = trained(row, data, steps, fit_share=0.9)
    assert solve.exploitability(model, found.policy_table()) < share * start


@pytest.mark.parametrize("row", ["tmfpg", "tmfpg.mis"])
def test_doubt_beyond_the_budget_brings_the_last_policy_back_and_stops(row):
    data = data_of(TURNS)
    found, _ = trained(row, data, 60, fit_share=0.5, budget=1e3, rate=1.0, every=1)
    assert not found.stopped
    known = found._policy(found.before)  # the last policy whose course was looked at
    assert np.abs(known - found.policy_table()).max() > 1e-4
    found.doubt /= 1e6
    for _ in range(2):
        found.update(found.sample(data, [np.random.default_rng(0)]).seed(0))
        np.testing.assert_array_equal(found.policy_table(), known)
    assert found.stopped


def test_an_anchor_keeps_the_policy_near_the_behaviour():
    data, distances = data_of("meanfield/queue-n16-v1"), []
    for tau_kl in (0.0, 5.0):
        found, _ = trained("tmfpg", data, 300, fit_share=0.8, tau_kl=tau_kl, budget=1e9)
        distances.append(np.abs(found.policy_table() - np.exp(found.anchor)).mean())
    assert distances[1] < 0.5 * distances[0]


def test_moves_weighted_by_importance_are_the_flow_of_the_policy():
    """The behaviour's own policy stands where the data stood."""
    data = data_of("meanfield/queue-n16-v1", "expert")
    found, _ = trained("tmfpg.mis", data, 0)
    mu, doubt = found.weights.flow(found.mu0, found.policy_table())
    np.testing.assert_allclose(mu, found.weights.stood, atol=0.05)
    other = random_policy(registry.task(data.spec.id).model(), np.random.default_rng(0))
    flow, more = found.weights.flow(found.mu0, other)
    assert more > doubt
    exact = solve.flow(registry.task(data.spec.id).model(), other)[1]
    np.testing.assert_allclose(flow[1], exact, atol=0.1)  # one step: no mean field is involved yet


# -------------------------------------------------------------------------------------- contracts
def test_the_oracle_keeps_the_contract_given_a_model():
    task = registry.task("meanfield/beach-bar-n16-v1")
    subject = AlgorithmSubject(
        "tmfpg", TMFPG, "oracle", TMFPG.small, specs=(task.spec,), model=task.model()
    )
    results = check_algorithm(subject, {"seeds": "the game is known: nothing is drawn"})
    assert [result.line() for result in results if not result.ok] == []


@pytest.mark.parametrize("row", ["tmfpg", "tmfpg.mis", "tmfpg.oracle"])
def test_a_resumed_run_ends_with_the_same_bits(row):
    data, variant = data_of("meanfield/queue-n16-v1"), algorithms.registry().row(row)[2]
    values, _ = variant.resolve(data.spec.id, "quick")
    model = registry.task(data.spec.id).model() if variant.track == "oracle" else None
    tables = []
    for cut in (None, 20):
        rng, group = np.random.default_rng(3), None
        for step in range(40):
            if step in (0, cut):
                state = None if group is None else group.state_dict()
                made = TMFPG(
                    TMFPG.Config(**values | {"fit_share": 0.3, "every": 2}), data.spec, (0,)
                )
                made.prepare(data, 40, [np.random.default_rng(1)], model)
                if state is not None:
                    made.load_state_dict(state)
                group = made
            group.update(group.sample(data, [rng]).seed(0))
        tables.append(group.policy_table())
    np.testing.assert_array_equal(tables[0], tables[1])
    assert np.ptp(tables[0]) > 0


def test_data_without_log_probabilities_are_refused_by_weights():
    data = dataclasses.replace(toy_dataset(POPULATION), logp=None)
    made = TMFPG(TMFPG.Config(source="weights"), POPULATION, (0,))
    with pytest.raises(UserError, match="no log-probabilities"):
        made.prepare(data, 10, [np.random.default_rng(0)])


@pytest.mark.parametrize(
    ("option", "value"), [("rate", 0.0), ("damping", 1.0), ("members", 0), ("source", "oracle")]
)
def test_an_option_out_of_range_is_named(option, value):
    with pytest.raises(UserError, match=re.escape(f"--config.{option} is ")):
        TMFPG(TMFPG.Config(**{option: value}), POPULATION, (0,))


def test_networks_are_counted():
    made = TMFPG(TMFPG.Config(members=2, width=16), POPULATION, (0,))
    weights = sum(p.numel() for p in made.learned.parameters())
    assert made.cost()["parameters"] == made.theta.size + weights
    assert all(torch.isfinite(p).all() for p in made.learned.parameters())
