"""Every mean-field game against what is known of it: closed forms, bounds, published values."""

import numpy as np
import pytest

from benchmark import registry
from benchmark.envs.meanfield import (
    beach_bar,
    four_rooms,
    left_right,
    resource,
    rps,
    sis,
    squeeze,
    squeeze_context,
    squeeze_yang,
)
from benchmark.envs.meanfield.game import TablePolicy
from benchmark.envs.meanfield.solve import (
    exploitability,
    flow,
    mirror_descent,
    policy_value,
    uniform_policy,
)
from benchmark.errors import UserError
from benchmark.evaluate import rollout

TASKS = [name for name in registry.task_ids() if name.startswith("meanfield/")]
COMPETITIVE = [n for n in TASKS if registry.task(n).spec.metric == "exploitability"]


def random_policy(model, seed):
    shape = (model.horizon, model.n_obs)
    return np.random.default_rng(seed).dirichlet(np.ones(model.n_actions), shape)


# ----------------------------------------------------------------------------------- all games
@pytest.mark.parametrize("name", COMPETITIVE)
def test_a_reference_keeps_less_than_a_hundredth_of_the_exploitability_of_uniform_play(name):
    model = registry.task(name).model()
    assert (
        0
        <= exploitability(model, model.solve())
        < 0.01 * exploitability(model, uniform_policy(model))
    )


@pytest.mark.parametrize("model", [beach_bar.BeachBarModel(), four_rooms.FourRoomsModel()])
@pytest.mark.parametrize("seed", range(20))
def test_crowd_aversion_is_monotone(model, seed):
    one, two = np.random.default_rng(seed).dirichlet(np.ones(model.n_obs), 2)
    gap = model.reward(0, one[:, None]) - model.reward(0, two[:, None])
    assert (one - two) @ gap[:, 0] < 0


@pytest.mark.parametrize(
    ("model", "monotone"),
    [(left_right.LeftRightModel(), True), (rps.RockPaperScissorsModel(), False)],
)
def test_which_one_step_games_are_monotone(model, monotone):
    pairs = np.random.default_rng(0).dirichlet(np.ones(model.n_actions), (200, 2))
    products = [
        (one - two) @ (model.reward(0, one[None]) - model.reward(0, two[None]))[0]
        for one, two in pairs
    ]
    assert (max(products) < 0) == monotone


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("beach-bar-n16", [24.028902967159823, 24.048047601553602, 23.984784071338545]),
        ("squeeze-n16", [0.8727131752089841] * 3),
        ("left-right-n16", [-0.75] * 3),
        ("rps-n16", [0.625] * 3),
        ("squeeze-yang-n200", [72.47776496795949] * 3),
        ("squeeze-context-n16", [0.7298274792646018] * 3),
        ("sis-n16", [-33.375, -18.125, -28.875]),
        ("four-rooms-n16", [91.72846419691744, 90.43695271439783, 87.46814593824635]),
        ("resource-n16", [2.8629241387413167] * 3),
        ("resource-n16-b2", [3.3340609474973943, 3.269955742595572, 3.2577459932545914]),
        ("queue-n16", [1.2909533780574283, 1.0514374010230496, 0.7365596185613672]),
        ("queue-n16-b2", [1.8698783197262736, 2.458141423866231, 2.2643393188485326]),
    ],
)
def test_scripted_play_earns_its_golden_returns(name, golden):
    task = registry.task(f"meanfield/{name}-v1")
    returns = rollout(task, Scripted(min(task.spec.n_actions, 3)), [7, 8, 9])
    np.testing.assert_allclose(task.spec.team(returns), golden, rtol=1e-12)


class Scripted:
    """Action (i + t) mod A of agent i at time t: no randomness of its own."""

    def __init__(self, n_actions):
        self.n_actions = n_actions

    def begin(self, n_envs, seed):
        pass

    def act(self, obs, alive, mask, t, deterministic):
        return np.broadcast_to((np.arange(obs.shape[1]) + t) % self.n_actions, obs.shape[:2])


# ----------------------------------------------------------------------------------- one step
def test_two_thirds_go_left():
    model = left_right.LeftRightModel()
    solution, uniform = model.solve(), uniform_policy(model)
    assert solution[0, 0].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert policy_value(model, solution) == pytest.approx(-2 / 3)
    assert exploitability(model, solution) == pytest.approx(0, abs=1e-12)
    assert exploitability(model, uniform) == pytest.approx(0.25)


def test_rock_paper_scissors_has_its_closed_form_and_uniform_play_earns_more():
    model = rps.RockPaperScissorsModel()
    solution, uniform = model.solve(), uniform_policy(model)
    assert solution[0, 0] == pytest.approx(np.array([1.3, 1, 1.55]) / 3.85)
    assert policy_value(model, solution) == pytest.approx(6 / 11)
    assert exploitability(model, solution) == pytest.approx(0, abs=1e-12)
    assert policy_value(model, uniform) == pytest.approx(2 / 3)
    assert exploitability(model, uniform) == pytest.approx(1 / 3)


def test_mirror_descent_circles_the_equilibrium_of_rock_paper_scissors():
    model = rps.RockPaperScissorsModel()
    pi, gaps = mirror_descent(model, 2_000, 0.2), []
    for _ in range(20):
        gaps.append(exploitability(model, pi))
        pi = mirror_descent(model, 1, 0.2, start=pi)
    assert min(gaps) > 0.05


def test_squeeze_optimum_is_the_root_of_its_derivative():
    m = np.linspace(0, 9, 900_001)
    values = m * np.exp(-(((m - 1) / 0.5) ** 2))
    assert squeeze.best_mean() == pytest.approx(m[values.argmax()], abs=2e-5)
    assert squeeze.squeeze(squeeze.best_mean()) == pytest.approx(1.0576, abs=5e-5)
    model = squeeze.SqueezeModel()
    assert policy_value(model, model.solve()) == pytest.approx(1.0, abs=1e-12)


def test_squeeze_optimum_has_the_least_variance_of_its_mean():
    pi, actions = squeeze.SqueezeModel().solve()[0, 0], np.arange(10)
    assert pi @ actions == pytest.approx(squeeze.best_mean())
    assert np.flatnonzero(pi).tolist() == [1, 2]  # the two integers around the mean


def test_no_agent_can_gain_in_a_cooperative_stage_game_of_infinitely_many():
    model = squeeze.SqueezeModel()
    assert exploitability(model, uniform_policy(model)) == 0.0


def test_uniform_play_earns_nothing_in_the_normalised_squeeze_at_100_agents():
    task = registry.task("meanfield/squeeze-n100-v1")
    returns = rollout(task, TablePolicy(uniform_policy(task.model())), range(20))
    assert returns.max() < 1e-6


@pytest.mark.parametrize("n_agents", [500, 1000])
def test_yangs_squeeze_has_its_published_optimum_and_uniform_play_is_worth_nothing(n_agents):
    assert squeeze_yang.best_sum() == pytest.approx(444.95, abs=0.005)
    model = registry.task(f"meanfield/squeeze-yang-n{n_agents}-v1").model()
    solution = model.solve()
    assert n_agents * solution[0, 0] @ np.arange(10) == pytest.approx(444.95, abs=0.005)
    assert policy_value(model, solution) == pytest.approx(423.03, abs=0.005)
    assert policy_value(model, uniform_policy(model)) < 1e-20


def test_yangs_squeeze_at_100_agents_is_won_by_doing_nothing_and_not_offered():
    model = squeeze_yang.YangSqueezeModel(100)
    uniform, best = policy_value(model, uniform_policy(model)), policy_value(model, model.solve())
    assert uniform / best > 0.97  # 0.978 of it with 100 agents, whose sum is noisy
    with pytest.raises(UserError, match="N is 100, expected 200 or more"):
        registry.task("meanfield/squeeze-yang-n100-v1")


def test_all_agents_see_one_context_and_each_context_has_its_optimum():
    task = registry.task("meanfield/squeeze-context-n64-v1")
    obs = task.arrays(300).reset(range(300))[..., 0]
    assert (obs == obs[:, :1]).all()
    np.testing.assert_allclose(np.bincount(obs[:, 0]) / 300, 1 / 3, atol=0.08)
    for context, centre in enumerate((0.5, 1.0, 2.0)):
        m = np.linspace(0, 9, 90_001)
        best = m[(m * np.exp(-(((m - centre) / 0.5) ** 2))).argmax()]
        assert task.model().solve()[0, context] @ np.arange(10) == pytest.approx(best, abs=1e-4)


def test_contexts_of_the_limit_pay_what_the_populations_that_see_them_earn():
    task = registry.task("meanfield/squeeze-context-n50000-v1")
    model, actions = task.model(), np.arange(10)
    pi = squeeze_context.ContextModel().solve() * 0.9 + uniform_policy(model) * 0.1
    exact = model.reward(0, pi[0] / 3)[:, 0]  # [O]
    assert policy_value(model, pi) == pytest.approx(exact.mean())
    env, policy = task.arrays(12), TablePolicy(pi)
    obs = env.reset(range(12))
    policy.begin(12, 0)
    rew = env.step(policy.act(obs, None, None, 0, False)).rew
    assert np.unique(obs[:, 0]).tolist() == [0, 1, 2]
    np.testing.assert_allclose(rew[:, 0], exact[obs[:, 0, 0]], atol=0.05)
    for context, centre in enumerate((0.5, 1.0, 2.0)):
        m, low = pi[0, context] @ actions, (centre + np.sqrt(centre**2 + 0.5)) / 2
        top = low * np.exp(-(((low - centre) / 0.5) ** 2))
        assert exact[context] == pytest.approx(m * np.exp(-(((m - centre) / 0.5) ** 2)) / top)


# ------------------------------------------------------------------------------- many steps
def test_beach_bar_reproduces_the_published_equilibrium():
    model = beach_bar.BeachBarModel()
    solution = model.solve()
    assert policy_value(model, solution) == pytest.approx(28.337, abs=0.005)
    assert exploitability(model, uniform_policy(model)) == pytest.approx(2.853, abs=0.001)
    assert exploitability(model, solution) < 1e-4


def test_four_rooms_are_104_cells_joined_by_four_doors():
    model, cells = four_rooms.FourRoomsModel(), four_rooms.CELLS.tolist()
    assert len(cells) == model.n_obs == 104
    assert cells[int(model.mu0.argmax())] == [1, 1]
    reach = model.kernel(0, np.zeros((104, 5)))[:, 0] > 0  # [O, O] neighbours
    doors = [cells.index(door) for door in ([3, 6], [6, 3], [6, 9], [9, 6])]
    apart = np.delete(np.delete(reach, doors, 0), doors, 1).astype(int)
    room = np.linalg.matrix_power(apart, 20) > 0
    assert (room.sum(1) == 25).all()  # 5 x 5 cells each, shut without the doors
    assert (np.linalg.matrix_power(reach.astype(float), 20) > 0).all()


def test_a_move_in_four_rooms_is_the_action_and_then_one_random_step():
    model, cells = four_rooms.FourRoomsModel(), four_rooms.CELLS.tolist()
    kernel = model.kernel(0, np.zeros((104, 5)))
    row = kernel[cells.index([2, 2]), 4]  # to the right, away from walls
    landed = {tuple(cells[o]): p for o, p in enumerate(row) if p > 0}
    around = [(2, 3), (1, 3), (3, 3), (2, 2), (2, 4)]
    assert landed == pytest.approx(dict.fromkeys(around, 0.2))
    corner = kernel[cells.index([1, 1]), 1]  # up, into the wall
    landed = {tuple(cells[o]): p for o, p in enumerate(corner) if p > 0}
    assert landed == pytest.approx(dict.fromkeys([(1, 1), (2, 1), (1, 2)], 1 / 3))


def test_the_value_of_four_rooms_is_the_entropy_of_the_crowd():
    model = four_rooms.FourRoomsModel()
    solution = model.solve()
    mu = flow(model, solution)[:-1]
    entropy = -(mu * np.log(np.maximum(mu, 1e-10))).sum()
    assert policy_value(model, solution) == pytest.approx(entropy)
    assert np.exp(-(mu[-1] * np.log(mu[-1])).sum()) > 0.98 * 104  # all but even at the end
    assert policy_value(model, uniform_policy(model)) < entropy - 20


def test_sis_moves_as_epidemics_do():
    model = sis.SISModel()
    kernel = model.kernel(0, np.array([[0.3, 0.1], [0.5, 0.1]]))
    assert kernel[0].tolist() == [[1 - 0.81 * 0.6, pytest.approx(0.81 * 0.6)], [1, 0]]
    assert kernel[1] == pytest.approx(np.array([[0.3, 0.7], [0.3, 0.7]]))
    assert model.reward(0, np.zeros((2, 2))).tolist() == [[0, -0.5], [-1, -1.5]]


def test_sis_has_an_equilibrium_that_mirror_descent_does_not_find():
    model = sis.SISModel()
    uniform = exploitability(model, uniform_policy(model))
    assert exploitability(model, model.solve()) < 1e-6 * uniform
    for rate in (0.05, 0.2):
        assert exploitability(model, mirror_descent(model, 300, rate)) > 0.02 * uniform


def test_sis_has_many_equilibria_of_different_values(monkeypatch):
    model = sis.SISModel()
    uniform = exploitability(model, uniform_policy(model))
    found = []
    for seed in (1, 2):
        letters, last, start = sis.search(2_000, seed)
        assert start == pytest.approx(0.6, abs=0.01)
        monkeypatch.setattr(sis, "LETTERS", letters)
        monkeypatch.setattr(sis, "LAST", last)
        solution = model.solve()
        assert exploitability(model, solution) < 0.01 * uniform
        found.append((policy_value(model, solution), solution))
    assert abs(found[0][0] - found[1][0]) > 0.02
    assert np.abs(found[0][1] - found[1][1]).max() > 0.5


def test_water_filling_shares_out_the_good_resources_evenly():
    mu = resource.water_filling()
    assert mu == pytest.approx([0.425, 0.325, 0.225, 0.025, 0])
    level = resource.VALUES - mu
    np.testing.assert_allclose(level[mu > 0], 0.575)
    assert (level[mu == 0] <= 0.575).all()
