"""Games of turns: who acts, what the passive do, and the average over both against many agents."""

import time

import numpy as np
import pytest

from benchmark import registry
from benchmark.envs.meanfield.game import TablePolicy
from benchmark.envs.meanfield.queue import CAPACITY, FLOOR, QueueModel
from benchmark.envs.meanfield.resource import VALUES, ResourceModel, water_filling
from benchmark.envs.meanfield.solve import (
    exploitability,
    flow,
    mirror_descent,
    policy_value,
    uniform_policy,
)
from benchmark.envs.meanfield.turns import MAX_STEPS
from benchmark.errors import UserError
from benchmark.evaluate import rollout
from benchmark.task import TurnsModel
from tests.studies import population_error as study

MODELS = [ResourceModel, QueueModel]


def mixed(model, share=0.3):
    """The equilibrium with a share of uniform play: no action is impossible."""
    return (1 - share) * model.solve() + share * uniform_policy(model)


# --------------------------------------------------------------------------------- who acts
@pytest.mark.parametrize("n_active", [1, 8, 32])
def test_exactly_b_of_n_agents_act_and_all_are_as_likely(n_active):
    task = registry.task(f"meanfield/resource-n64-b{n_active}-v1")
    env = task.arrays(4)
    env.reset(range(4))
    steps = min(task.spec.horizon, 400)
    active = np.array([env.step(np.zeros((4, 64), int)).active for _ in range(steps)])  # [T, E, N]
    assert active.dtype == bool
    assert (active.sum(-1) == n_active).all()
    rho, draws = n_active / 64, 4 * steps
    times = active.sum((0, 1))
    assert np.abs(times - rho * draws).max() < 4.5 * np.sqrt(draws * rho * (1 - rho))
    both = (active[..., 0] & active[..., 1]).mean()  # without replacement: less often than rho^2
    assert both == pytest.approx(rho * (n_active - 1) / 63, abs=5 * rho / np.sqrt(draws))


def test_all_act_where_the_name_has_no_b():
    env = registry.task("meanfield/resource-n16-v1").arrays(1)
    env.reset([0])
    assert env.step(np.zeros((1, 16), int)).active is None


def test_who_acts_depends_on_the_seed_alone():
    task = registry.task("meanfield/queue-n32-b4-v1")
    rng = np.random.default_rng(0)

    def turns(seeds):
        env = task.arrays(len(seeds))
        env.reset(seeds)
        plays = rng.integers(4, size=(10, len(seeds), 32))  # other actions at each call
        return np.array([env.step(act).active for act in plays])

    together, alone = turns([5, 6, 7]), turns([6])
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])
    assert (together[:, 0] != together[:, 1]).any()


@pytest.mark.parametrize("game", ["resource", "queue"])
def test_actions_of_the_passive_do_not_count(game):
    task = registry.task(f"meanfield/{game}-n64-b8-v1")
    rng, env, other = np.random.default_rng(0), task.arrays(3), task.arrays(3)
    env.reset([1, 2, 3])
    other.reset([1, 2, 3])
    for _ in range(20):
        act = rng.integers(task.spec.n_actions, size=(3, 64))
        step = env.step(act)
        noise = rng.integers(task.spec.n_actions, size=(3, 64))
        again = other.step(np.where(step.active, act, noise))
        np.testing.assert_array_equal(step.obs, again.obs)
        np.testing.assert_array_equal(step.rew, again.rew)
        np.testing.assert_array_equal(step.active, again.active)


def test_pettingzoo_tells_who_acted():
    task = registry.task("meanfield/queue-n16-b2-v1")
    env, arrays = task.parallel_env(), task.arrays(1)
    env.reset(seed=4)
    arrays.reset([4])
    for _ in range(5):
        infos = env.step(dict.fromkeys(env.agents, 1))[4]
        active = arrays.step(np.ones((1, 16), int)).active[0]
        assert [infos[f"agent_{i}"]["active"] for i in range(16)] == active.tolist()
    env = registry.task("meanfield/queue-n16-v1").parallel_env()
    env.reset(seed=4)
    assert env.step(dict.fromkeys(env.agents, 1))[4]["agent_0"] == {}


# --------------------------------------------------------------------------------- formulas
def test_resources_pay_their_users_and_the_active_who_move_pay_for_it():
    task = registry.task("meanfield/resource-n40-b10-v1")
    env = task.arrays(2)
    obs, rng = env.reset([0, 1])[..., 0], np.random.default_rng(1)
    assert (obs == 4).all()
    for t in range(12):
        act = rng.integers(5, size=(2, 40))
        step = env.step(act)
        for e in range(2):
            mu = np.bincount(obs[e], minlength=5) / 40
            moved = step.active[e] & (act[e] != obs[e])
            pay = (VALUES - mu)[obs[e]] / 4 - 0.05 * moved
            np.testing.assert_allclose(step.rew[e], 0.95 ** (t / 4) * pay)
        np.testing.assert_array_equal(step.obs[..., 0], np.where(step.active, act, obs))
        obs = step.obs[..., 0]


def test_queues_serve_by_their_rate_and_the_active_idle_join_one():
    task = registry.task("meanfield/queue-n30000-b6000-v1")
    env = task.arrays(1)
    obs, rng = env.reset([0])[0, :, 0], np.random.default_rng(1)
    assert (obs == 0).all()
    for t in range(8):
        act = rng.integers(4, size=30_000)
        step = env.step(act[None])
        after, active = step.obs[0, :, 0], step.active[0]
        np.testing.assert_array_equal(after[(obs == 0) & active], act[(obs == 0) & active] + 1)
        assert (after[(obs == 0) & ~active] == 0).all()
        for k in range(1, 5):
            here = obs == k
            rate = CAPACITY[k - 1] / (here.mean() + FLOOR) / 5  # dt = 1/5
            served = 1 - np.exp(-rate)
            if here.sum() > 500:
                assert (after[here] == 0).mean() == pytest.approx(served, abs=0.05)
            assert np.isin(after[here], [0, k]).all()
            pay = 0.95 ** (t / 5) * (served - 0.2 / 5)
            np.testing.assert_allclose(step.rew[0, here], pay)
        obs = after


@pytest.mark.parametrize("make", MODELS)
def test_the_model_is_the_average_over_who_is_active(make):
    model, rng = make(4), np.random.default_rng(0)
    xi = rng.dirichlet(np.ones(model.n_obs * model.n_actions)).reshape(model.n_obs, -1)
    mu = xi.sum(1)
    for o in range(model.n_obs):
        for a in range(model.n_actions):
            row = 0.25 * model.active_kernel(mu)[o, a] + 0.75 * model.passive_kernel(mu)[o]
            assert model.kernel(0, xi)[o, a] == pytest.approx(row)
            pay = 0.25 * model.active_reward(mu)[o, a] + 0.75 * model.passive_reward(mu)[o]
            assert model.reward(6, xi)[o, a] == pytest.approx(0.95**1.5 * pay)


def test_an_algorithm_can_tell_games_of_turns_by_the_contract():
    assert isinstance(registry.task("meanfield/queue-n16-b2-v1").model(), TurnsModel)
    assert not isinstance(registry.task("meanfield/beach-bar-n16-v1").model(), TurnsModel)


@pytest.mark.parametrize("name", ["resource-n4000-b500", "queue-n4000-b500", "queue-n4000"])
def test_many_agents_move_and_earn_as_the_average_says(name):
    task = registry.task(f"meanfield/{name}-v1")
    model, env = task.model(), task.arrays(4)
    pi = mixed(model)
    exact, policy, total = flow(model, pi), TablePolicy(pi), 0.0
    obs = env.reset(range(4))
    policy.begin(4, 0)
    for t in range(model.horizon):
        found = np.bincount(obs.ravel(), minlength=model.n_obs) / obs.size
        assert np.abs(found - exact[t]).max() < 0.02
        step = env.step(policy.act(obs, None, None, t, False))
        obs, total = step.obs, total + step.rew.mean()
    value = policy_value(model, pi)
    assert total == pytest.approx(value, abs=0.01 * abs(value))


# --------------------------------------------------------------------------------- solutions
@pytest.mark.parametrize("steps", [1, 8])
def test_resources_settle_at_water_filling(steps):
    model = ResourceModel(steps)
    mu = flow(model, model.solve())[model.horizon // 2 :: steps]
    np.testing.assert_allclose(mu.mean(0), water_filling(), atol=0.01)


@pytest.mark.parametrize("steps", [1, 8])
def test_all_queues_serve_at_one_rate(steps):
    model = QueueModel(steps)
    mu = flow(model, model.solve())[model.horizon // 2]
    rates = CAPACITY / (mu[1:] + FLOOR)
    np.testing.assert_allclose(rates / rates.mean(), 1, atol=0.01)
    if steps == 1:
        assert mu == pytest.approx([0.376, 0.305, 0.197, 0.088, 0.034], abs=0.002)


@pytest.mark.parametrize("make", MODELS)
def test_a_round_shares_one_table(make):
    table = make(5).solve().reshape(10, 5, make.n_obs, make.n_actions)
    np.testing.assert_array_equal(table, np.repeat(table[:, :1], 5, axis=1))
    np.testing.assert_allclose(table.sum(-1), 1)


@pytest.mark.parametrize(("make", "tolerance"), [(ResourceModel, 0.02), (QueueModel, 0.05)])
def test_the_game_hardly_changes_with_the_number_of_steps_in_a_round(make, tolerance):
    values = [policy_value(make(steps), make(steps).solve()) for steps in (8, 16)]
    assert values[1] == pytest.approx(values[0], rel=tolerance)
    for steps in (3, 16):  # any number of them can be solved for
        model = make(steps)
        gap, uniform = (exploitability(model, x) for x in (model.solve(), uniform_policy(model)))
        assert gap < 0.01 * uniform


def test_payment_before_the_move_would_be_an_equilibrium_of_hopping():
    class PaidBefore(ResourceModel):
        """Pays an agent for the resource that it chooses, at the crowd before the move."""

        def active_reward(self, mu):
            return np.repeat((VALUES - mu)[None], 5, axis=0) - self._cost

    hopping, ours = PaidBefore(), ResourceModel()
    pi = mirror_descent(hopping, 200, 0.5)
    mu = flow(hopping, pi)[2:-1]
    assert exploitability(hopping, pi) < 0.01
    assert mu.max(1).min() > 0.95  # all in one place
    assert (mu.argmax(1)[1:] != mu.argmax(1)[:-1]).all()  # and each time in another
    assert flow(ours, ours.solve())[5:].max() < 0.5


# ------------------------------------------------------------------------------- populations
def test_the_slope_of_a_power_law_is_its_power_and_lies_in_its_interval():
    rng = np.random.default_rng(0)
    sizes = [16, 64, 256, 1024]
    samples = [n**-0.5 * rng.uniform(0.8, 1.2, 100) for n in sizes]
    found = study.slope(sizes, samples)
    assert found["low"] < -0.5 < found["high"]
    assert found["slope"] == pytest.approx(-0.5, abs=0.02)
    assert study.slope(sizes, [np.full(3, 2.0 * n**-0.3) for n in sizes])["slope"] == pytest.approx(
        -0.3
    )


def test_populations_come_nearer_to_their_mean_field_for_any_number_of_turns():
    rows = study.measure(256, ("resource",), work=1_000_000)
    assert [row["b"] for row in rows] == ["1", "N/8", "N/2", "N"]
    for row in rows:
        assert -0.65 < row["slope"] < -0.35
        assert [cell["n"] for cell in row["cells"]] == [16, 64, 256]
        gaps = [abs(cell["return_gap"]) - 4 * cell["return_gap_sem"] for cell in row["cells"]]
        assert gaps[-1] < 0.02


@pytest.mark.slow
def test_population_errors_fall_with_the_root_of_n_whatever_b_is():
    for row in study.measure(1024, work=3_000_000):
        assert -0.6 < row["slope"] < -0.4, row


def test_one_of_a_million_agents_acts_without_a_permutation_of_all():
    task = registry.task("meanfield/resource-n1000000-b1-v1")
    env = task.arrays(1)
    env.reset([0])
    act = np.zeros((1, 1_000_000), np.int64)
    step = env.step(act)
    assert step.active.sum() == 1
    assert (step.obs[0, :, 0] == 0).sum() == 1
    begun = time.process_time()
    env.turn_rngs[0].choice(1_000_000, 1, replace=False, shuffle=False)
    assert time.process_time() - begun < 0.005


# ------------------------------------------------------------------------------------ names
def test_b_must_divide_n():
    with pytest.raises(UserError, match=r"B is 30, expected a divisor of N = 256.* is 32"):
        registry.task("meanfield/queue-n256-b30-v1")
    with pytest.raises(UserError, match=r"B is 512, expected a divisor of N = 256.* is 128"):
        registry.task("meanfield/queue-n256-b512-v1")


def test_the_synchronous_game_has_one_name():
    with pytest.raises(UserError, match=r"has no B: meanfield/resource-n64-v1"):
        registry.task("meanfield/resource-n64-b64-v1")


def test_episodes_too_long_for_a_table_are_played_but_not_solved():
    model = registry.task("meanfield/queue-n1000000-b1-v1").model()
    assert model.horizon == 10_000_000
    with pytest.raises(UserError, match=rf"10000000 steps is too large.* {MAX_STEPS} steps"):
        model.solve()


def test_a_reference_policy_of_turns_is_evaluated_like_any_other():
    task = registry.task("meanfield/resource-n256-b32-v1")
    earned = task.spec.team(rollout(task, task.expert(), range(3)))
    assert earned == pytest.approx(task.reference().expert, abs=0.15)
