"""Off-MMD: its target and loss move by move, its outer iterations, and that it improves on data."""

import re

import numpy as np
import pytest
import torch

import algorithms
import datasets
from algorithms.nn.game import logged
from algorithms.offmmd import LEAST, OffMMD
from benchmark import registry
from benchmark.algorithm import build_group
from benchmark.checks.algorithm import AlgorithmSubject, check_algorithm
from benchmark.checks.fixtures import POPULATION
from benchmark.envs.meanfield import solve
from benchmark.errors import UserError

TURNS = "meanfield/queue-n16-b4/medium-v1"


def built(name=TURNS, row="offmmd", steps=30, **config):
    data = datasets.load(name, make=True)
    cls, _, variant = algorithms.registry().row(row)
    values = dict(variant.config) | OffMMD.small | {"compile": None} | config
    values.pop("compile")
    group = build_group(cls, cls.Config(**values), data.spec, (0,))
    model = registry.task(data.spec.id).model() if variant.track == "model" else None
    group.prepare(data, steps, [np.random.default_rng(1)], model)
    return group, data


def train(group, data, steps):
    rng = np.random.default_rng(0)
    return [group.update(group.sample(data, [rng])) for _ in range(steps)]


def test_the_loss_is_that_of_the_equations_move_by_move():
    group, data = built(fit_steps=5, every=4, steps=30)
    train(group, data, 14)  # inside the third outer iteration
    made = group.members[0]
    batch = group.sample(data, [np.random.default_rng(5)])[0]
    config, (horizon, n_obs, n_actions) = made.config, made.shape

    def q(net, t, o):
        x = torch.zeros(1, horizon + n_obs)
        x[0, t], x[0, horizon + o] = 1, 1
        return net(x.expand(16, -1)[None, None])[0, 0, 0].double().detach().numpy()

    errors, penalties = [], []
    for b in range(batch.obs.shape[0]):
        t = int(batch.step[b])
        for i in range(batch.obs.shape[2]):
            o, a = int(batch.obs[b, 0, i, 0]), int(batch.act[b, 0, i])
            active = bool(batch.active[b, 0, i])
            y = made.paid[t, o, a if active else n_actions]
            y += config.alpha * config.tau * np.log(max(made.pi[t, o, a], LEAST)) * active
            if t + 1 < horizon:
                after = int(batch.next_obs[b, 0, i, 0])
                then, law = q(made.slow, t + 1, after), made.pi[t + 1, after]
                bonus = config.tau * np.log(np.maximum(law, LEAST))
                y += 0.25 * (law * (then[:-1] - bonus)).sum() + 0.75 * then[-1]
            own = q(made.critic, t, o)
            errors.append(0.5 * (own[a if active else n_actions] - y) ** 2)
            if active:
                penalties.append(np.log(np.exp(own[:-1]).sum()) - own[a])
    found = made._learn(batch)
    assert float(found["critic_loss"]) == pytest.approx(np.mean(errors), rel=1e-4)
    assert float(found["penalty"]) == pytest.approx(np.mean(penalties), rel=1e-4)


def test_an_outer_iteration_takes_the_policy_its_population_and_its_rewards():
    group, data = built(row="offmmd.known", every=3)
    made = group.members[0]
    known = logged(data, data.spec, 1.0)
    np.testing.assert_allclose(made.pi[:4], np.repeat(known.behaviour[:1], 4, axis=0))
    train(group, data, 3)
    first = made.pi.copy()
    wanted = made._softmax()
    train(group, data, 1)
    np.testing.assert_allclose(made.pi, wanted)
    assert np.abs(made.pi - first).max() > 1e-4
    mu, _ = made.weights.flow(made.mu0, made.pi)
    for t in (0, 11):
        parts = made.game.parts(t, mu[t][:, None] * made.pi[t])
        np.testing.assert_allclose(made.paid[t], parts.reward)


def test_the_last_policy_is_that_of_the_last_values():
    group, data = built(row="offmmd.known", every=4)
    train(group, data, 6)
    made = group.members[0]
    group.finish()
    np.testing.assert_allclose(made.policy_table(), made._softmax())


@pytest.mark.slow
@pytest.mark.parametrize(("row", "game"), [("offmmd", "queue"), ("offmmd.known", "resource")])
def test_it_improves_on_its_data(row, game):
    data = datasets.load(f"meanfield/{game}-n128/medium-v1", make=True)
    cls, _, variant = algorithms.registry().row(row)
    group = build_group(cls, cls.Config(**variant.config), data.spec, (0,))
    model = registry.task(data.spec.id).model()
    known = model if variant.track == "model" else None
    group.prepare(data, 5000, [np.random.default_rng(1)], known)
    start = solve.exploitability(model, group.members[0].policy_table())
    train(group, data, 5000)
    group.finish()
    assert solve.exploitability(model, group.members[0].policy_table()) < 0.6 * start


def test_known_rewards_keep_the_contract_given_a_model():
    task = registry.task("meanfield/beach-bar-n16-v1")
    subject = AlgorithmSubject(
        "offmmd", OffMMD, "known", OffMMD.small, specs=(task.spec,), model=task.model()
    )
    results = check_algorithm(subject)
    assert [result.line() for result in results if not result.ok] == []


@pytest.mark.parametrize(("option", "value"), [("tau", 0.0), ("alpha", 1.1), ("reward", "paid")])
def test_an_option_out_of_range_is_named(option, value):
    with pytest.raises(UserError, match=re.escape(f"--config.{option} is ")):
        OffMMD(OffMMD.Config(**{option: value}), POPULATION, (0,))
