"""MF-CQL: target and penalty move by move, and the table that it plays."""

import re

import numpy as np
import pytest
import torch

import datasets
from algorithms.mfcql import MFCQL
from algorithms.nn.game import logged
from benchmark import registry
from benchmark.checks.fixtures import POPULATION
from benchmark.envs.meanfield import solve
from benchmark.errors import UserError

TURNS = "meanfield/queue-n16-b4/medium-v1"


def built(**config):
    data = datasets.load(TURNS, make=True)
    made = MFCQL(MFCQL.Config(**MFCQL.small | config), data.spec, (0,))
    made.prepare(data, 30, [np.random.default_rng(1)])
    rng = np.random.default_rng(0)
    for _ in range(8):
        made.update(made.sample(data, [rng]).seed(0))
    return made, data


def test_the_loss_is_that_of_the_equations_move_by_move():
    made, data = built(temperature=0.7)
    batch = made.sample(data, [np.random.default_rng(5)]).seed(0)
    known, (horizon, n_obs, n_actions) = logged(data, data.spec, 1.0), made.shape

    def q(net, t, o, s):
        seen = [np.eye(n_obs)[o], np.eye(horizon)[t], known.populations[s], known.choices[s]]
        x = torch.as_tensor(np.concatenate(seen), dtype=torch.float32)
        return net(x.expand(16, -1)[None, None])[0, 0, 0].double().detach().numpy()

    errors, penalties = [], []
    for b in range(batch.obs.shape[0]):
        t, s = int(batch.step[b]), int(data.starts[batch.episode[b]] + batch.step[b])
        for i in range(batch.obs.shape[2]):
            o, a = int(batch.obs[b, 0, i, 0]), int(batch.act[b, 0, i])
            active = bool(batch.active[b, 0, i])
            y = float(batch.rew[b, 0, i]) / made.spread
            if t + 1 < horizon:
                then = q(made.slow, t + 1, int(batch.next_obs[b, 0, i, 0]), s + 1)
                law = np.exp(then[:-1] / 0.7) / np.exp(then[:-1] / 0.7).sum()
                y += 0.25 * (law * then[:-1]).sum() + 0.75 * then[-1]
            own = q(made.critic, t, o, s)
            errors.append((own[a if active else n_actions] - y) ** 2)
            if active:
                penalties.append(np.log(np.exp(own[:-1]).sum()) - own[a])
    found = made.update(batch)
    assert float(found["critic_loss"]) == pytest.approx(np.mean(errors), rel=1e-3)
    assert float(found["penalty"]) == pytest.approx(np.mean(penalties), rel=1e-3)


def test_the_table_is_a_softmax_at_the_datas_mean_population():
    made, data = built(temperature=2.0)
    known = logged(data, data.spec, 1.0)
    t, o = 9, 2
    mean = np.concatenate(
        [x[data.starts[:-1] + t].mean(0) for x in (known.populations, known.choices)]
    )
    np.testing.assert_allclose(made.typical[t], mean, atol=1e-6)
    step, obs = torch.tensor([t]), torch.tensor([[o]])
    q = made._q(made.critic, step, obs, made.typical[t : t + 1])[0, 0, :-1]
    np.testing.assert_allclose(made.policy_table()[t, o], (q / 2.0).softmax(-1).detach(), rtol=1e-4)


def test_it_is_far_less_exploitable_than_uniform_play_on_the_queue():
    data = datasets.load("meanfield/queue-n128/medium-v1", make=True)
    made = MFCQL(MFCQL.Config(), data.spec, (0,))
    made.prepare(data, 600, [np.random.default_rng(1)])
    rng = np.random.default_rng(0)
    for _ in range(600):
        made.update(made.sample(data, [rng]).seed(0))
    model = registry.task(data.spec.id).model()
    uniform = solve.exploitability(model, solve.uniform_policy(model))
    assert solve.exploitability(model, made.policy_table()) < 0.6 * uniform


@pytest.mark.parametrize(("option", "value"), [("temperature", 0.0), ("cql_alpha", -1.0)])
def test_an_option_out_of_range_is_named(option, value):
    with pytest.raises(UserError, match=re.escape(f"--config.{option} is ")):
        MFCQL(MFCQL.Config(**{option: value}), POPULATION, (0,))
