"""The exact tools against brute force, and populations of N agents against their formulas."""

import itertools
import re

import numpy as np
import pytest

from benchmark import registry
from benchmark.envs.meanfield import beach_bar, squeeze
from benchmark.envs.meanfield.game import PopulationEnv, TablePolicy, categorical
from benchmark.envs.meanfield.solve import (
    best_response_value,
    exploitability,
    flow,
    mirror_descent,
    policy_value,
    uniform_policy,
)
from benchmark.errors import UserError
from benchmark.evaluate import rollout


class Scripted:
    """Action (i + t) mod A of agent i at time t: no randomness of its own."""

    def __init__(self, n_actions):
        self.n_actions = n_actions

    def begin(self, n_envs, seed):
        pass

    def act(self, obs, alive, mask, t, deterministic):
        return np.broadcast_to((np.arange(obs.shape[1]) + t) % self.n_actions, obs.shape[:2])


# --------------------------------------------------------------------------------- exact tools
class TinyModel:
    """Two observations, two actions, two steps; kernel and reward depend on time and population."""

    n_obs, n_actions, horizon = 2, 2, 2
    mu0 = np.array([0.3, 0.7])

    def kernel(self, t, xi):
        stay = np.array([[0.9, 0.2], [0.4, 0.6]]) * (0.5 + 0.5 * xi[0, 0])  # [O, A]
        return np.stack([stay, 1 - stay], -1)

    def reward(self, t, xi):
        return np.array([[1.0, 0.0], [0.0, 2.0]]) - (1 + t) * xi.sum(-1, keepdims=True)


def test_best_response_is_the_best_of_all_deterministic_policies():
    model = TinyModel()
    pi = random_policy(model, 0)
    values = []
    for choice in itertools.product([0, 1], repeat=4):
        table = np.eye(2)[np.reshape(choice, (2, 2))]  # [H, O, A]
        values.append(policy_value(model, table, population=pi))
    assert best_response_value(model, pi) == pytest.approx(max(values))
    gap = max(values) - policy_value(model, pi)
    assert gap > 0.1
    assert exploitability(model, pi) == pytest.approx(gap)


def test_policy_value_is_the_return_along_the_flow():
    model, pi = beach_bar.BeachBarModel(), random_policy(beach_bar.BeachBarModel(), 1)
    mu, total = flow(model, pi), 0.0
    for t in range(model.horizon):
        xi = mu[t][:, None] * pi[t]
        total += (xi * model.reward(t, xi)).sum()
    np.testing.assert_allclose(mu.sum(1), 1)
    assert policy_value(model, pi) == pytest.approx(total)


def test_mirror_descent_lowers_exploitability_and_continues_from_a_start():
    model = beach_bar.BeachBarModel()
    first = mirror_descent(model, iterations=20, rate=1.0)
    second = mirror_descent(model, iterations=20, rate=1.0, start=first)
    uniform = uniform_policy(model)
    gaps = [exploitability(model, pi) for pi in (uniform, first, second)]
    assert gaps[0] > 5 * gaps[1]
    assert gaps[1] > gaps[2]
    whole = mirror_descent(model, iterations=40, rate=1.0)
    np.testing.assert_allclose(second, whole, atol=1e-9)


def random_policy(model, seed):
    shape = (model.horizon, model.n_obs)
    return np.random.default_rng(seed).dirichlet(np.ones(model.n_actions), shape)


# ------------------------------------------------------------------------------ N-agent games
def test_beach_bar_rewards_follow_the_formula_for_each_agent():
    task = registry.task("meanfield/beach-bar-n32-v1")
    env = task.arrays(2)
    obs = env.reset([3, 4])[..., 0]
    act = np.random.default_rng(0).integers(3, size=(2, 32))
    rew = env.step(act).rew
    for e in range(2):
        for i in range(32):
            crowd = (obs[e] == obs[e, i]).mean()
            expected = 1 - abs(obs[e, i] - 5) / 5 - abs(act[e, i] - 1) / 10 - np.log(crowd)
            assert rew[e, i] == pytest.approx(expected)


def test_beach_bar_moves_by_the_action_plus_uniform_noise_around_the_torus():
    task = registry.task("meanfield/beach-bar-n30000-v1")
    env = task.arrays(1)
    before = env.reset([5])[0, :, 0]
    act = np.random.default_rng(1).integers(3, size=(1, 30_000))
    after = env.step(act).obs[0, :, 0]
    noise = (after - before - (act[0] - 1) + 1) % 10  # 0, 1, 2 for -1, 0, 1
    counts = np.bincount(noise, minlength=10)
    assert counts[3:].sum() == 0
    np.testing.assert_allclose(counts[:3] / 30_000, 1 / 3, atol=0.015)


def test_squeeze_pays_everyone_the_formula_of_the_mean_action():
    task = registry.task("meanfield/squeeze-n5-v1")
    env = task.arrays(1)
    env.reset([0])
    rew = env.step(np.array([[0, 1, 1, 2, 3]])).rew
    m = 7 / 5
    expected = m * np.exp(-(((m - 1) / 0.5) ** 2)) / squeeze.squeeze(squeeze.best_mean())
    np.testing.assert_allclose(rew, expected)


def test_an_episode_depends_on_its_own_seed_only():
    task = registry.task("meanfield/beach-bar-n16-v1")
    policy = Scripted(3)
    together = rollout(task, policy, [1, 2, 3])
    for e, seed in enumerate([1, 2, 3]):
        np.testing.assert_array_equal(rollout(task, policy, [seed])[0], together[e])
    assert len(np.unique(task.spec.team(together))) == 3


def test_a_policy_seeded_like_an_episode_does_not_see_its_draws():
    task = registry.task("meanfield/beach-bar-n4096-v1")
    obs = task.arrays(1).reset([42])[0, :, 0]
    policy = TablePolicy(np.full((1, 10, 10), 0.1))
    policy.begin(1, 42)
    act = policy.act(obs[None, :, None], None, None, 0, False)[0]
    assert abs(np.corrcoef(obs, act)[0, 1]) < 0.1


def test_a_million_agents_play_the_squeeze():
    task = registry.task("meanfield/squeeze-n1000000-v1")
    returns = rollout(task, task.expert(), [0])
    assert returns.shape == (1, 1_000_000)
    assert returns[0, 0] == pytest.approx(1.0, abs=1e-4)


# ------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize("value", [-1, 3])
def test_an_action_out_of_range_is_refused_with_agent_and_value(value):
    env = registry.task("meanfield/beach-bar-n16-v1").arrays(2)
    env.reset([0, 1])
    act = np.ones((2, 16), int)
    act[1, 5] = value
    with pytest.raises(UserError, match=rf"agent_5 of episode 1 plays {value}.* 0 to 2"):
        env.step(act)


@pytest.mark.parametrize("act", [np.ones((1, 15), int), np.ones((1, 16)), np.ones(16, int)])
def test_actions_of_wrong_shape_or_type_are_refused(act):
    env = registry.task("meanfield/beach-bar-n16-v1").arrays(1)
    env.reset([0])
    with pytest.raises(UserError, match="expected integers of shape"):
        env.step(act)


def test_a_step_needs_a_running_episode():
    env = registry.task("meanfield/squeeze-n4-v1").arrays(1)
    with pytest.raises(UserError, match="call reset first"):
        env.step(np.zeros((1, 4), int))
    env.reset([0])
    env.step(np.zeros((1, 4), int))
    with pytest.raises(UserError, match="call reset first"):
        env.step(np.zeros((1, 4), int))


@pytest.mark.parametrize("number", ["0", "007", "10000000", "-4"])
def test_a_population_size_has_one_spelling(number):
    assert re.fullmatch(squeeze.FAMILY.pattern, f"meanfield/squeeze-n{number}-v1") is None


# ------------------------------------------------------------------------------------ sampling
def test_categorical_draws_each_row_from_its_own_distribution():
    table = np.array([[0.2, 0.0, 0.8], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25]])
    rows = np.repeat([0, 1, 2], 40_000)
    draws = categorical(table, rows, np.random.default_rng(0).random(len(rows)))
    for row in range(3):
        shares = np.bincount(draws[rows == row], minlength=3) / 40_000
        np.testing.assert_allclose(shares, table[row], atol=0.01)
        assert (shares[table[row] == 0] == 0).all()


def test_table_policy_takes_the_likeliest_action_where_asked():
    policy = TablePolicy(np.array([[[0.3, 0.7], [0.6, 0.4]]]))
    obs = np.array([[[0], [1], [0]]])
    policy.begin(1, 0)
    assert policy.act(obs, None, None, 0, True).tolist() == [[1, 0, 1]]


def test_reset_starts_from_mu0():
    class Corner(beach_bar.BeachBarModel):
        def __init__(self):
            super().__init__()
            self.mu0 = np.eye(10)[9]

    env = PopulationEnv(registry.task("meanfield/beach-bar-n16-v1").spec, Corner())
    assert (env.reset([0]) == 9).all()
