"""DoF, policy form: schedules, losses, quirks of the release and the choice among candidates."""

import numpy as np
import pytest
import torch

from algorithms.dof import DoF, clipped, noise_table
from algorithms.nn.encode import mean_rows
from algorithms.nn.team import rows_of
from benchmark.checks.fixtures import TEAM, toy_dataset
from benchmark.errors import UserError

SMALL = dict(DoF.small) | {"denoising_steps": 5, "compile": "off"}


def built(data=None, seeds=(0,), **config):
    algorithm = DoF(DoF.Config(**SMALL | config), TEAM, seeds)
    data = data or toy_dataset(TEAM)
    algorithm.prepare(data, 10, [np.random.default_rng(seed) for seed in seeds])
    return algorithm, data


def problem(**config):
    algorithm, data = built(**config)
    rows = rows_of(data.transitions([np.random.default_rng(1)], 32), TEAM)
    gen = torch.Generator().manual_seed(2)
    count = 1 + 2 * algorithm.config.denoising_steps
    noise = [torch.randn(rows.act.shape, generator=gen) for _ in range(count)]
    k = torch.randint(algorithm.config.denoising_steps, rows.act.shape[:3], generator=gen)
    return algorithm, rows, noise, k


@pytest.mark.parametrize("kind", ["vp", "linear"])
def test_schedules_are_those_of_their_formulas_and_end_where_the_header_says(kind):
    table, level = noise_table(kind, 10), 1.0
    for k in range(1, 11):
        if kind == "linear":
            alpha = 1 - (1e-4 + (0.02 - 1e-4) * (k - 1) / 9)
        else:
            alpha = np.exp(-0.1 / 10 - 0.5 * 9.9 * (2 * k - 1) / 100)
        before, level = level, level * alpha
        wanted = {
            "signal": level**0.5,
            "noise": (1 - level) ** 0.5,
            "from_x0": (1 - alpha) * before**0.5 / (1 - level),
            "from_x": (1 - before) * alpha**0.5 / (1 - level),
            "spread": ((1 - alpha) * (1 - before) / (1 - level)) ** 0.5,
        }
        for name, value in wanted.items():
            assert float(table[name][k - 1]) == pytest.approx(value, abs=1e-12)
    assert level == pytest.approx({"vp": 0.0064, "linear": 0.904}[kind], rel=0.01)


@pytest.mark.parametrize("predict", ["noise", "action"])
def test_imitation_is_the_error_of_each_agents_own_noise_or_action(predict):
    algorithm, rows, noise, k = problem(predict=predict)
    features = algorithm.encoder(rows.obs, rows.step)
    found = algorithm._imitation_loss(features, rows, noise[0], k)
    table = noise_table("vp", 5)
    for agent, width in enumerate((2, 1)):
        total = 0.0
        for row in range(32):
            step = int(k[0, agent, row])
            eps = noise[0][0, agent, row] * (torch.arange(2) < width)
            signal, level = float(table["signal"][step]), float(table["noise"][step])
            x = signal * rows.act[0, agent, row] + level * eps
            time = torch.tensor([(step + 1) / 5, level])
            x, wanted = (x, eps) if predict == "noise" else (signal * x, rows.act[0, agent, row])
            seen = torch.cat([features[0, agent, row], x, time])
            everyone = seen.expand(1, 2, 16, -1)
            output = algorithm.actor(everyone)[0, agent, 0, :width]
            if predict == "action":
                output = output.tanh()
            error = output - wanted[:width]
            total += float(error.square().mean().detach()) / 32
        assert float(found[0, agent].detach()) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("predict", ["noise", "action"])
def test_the_policy_follows_the_posterior_with_the_clean_action_clipped(predict):
    algorithm, rows, noise, _ = problem(predict=predict)
    features, mask = algorithm.encoder(rows.obs, rows.step), algorithm.action_mask
    table, x = noise_table("vp", 5), noise[0] * mask
    for k in range(4, -1, -1):
        c = {name: float(value[k]) for name, value in table.items()}
        time = torch.tensor([(k + 1) / 5, c["noise"]]).expand(*x.shape[:-1], 2)
        seen = x if predict == "noise" else c["signal"] * x
        clean = algorithm.actor(torch.cat([features, seen, time], -1)) * mask
        clean = (x - c["noise"] * clean) / c["signal"] if predict == "noise" else clean.tanh()
        x = c["from_x0"] * clean.clamp(-1, 1) + c["from_x"] * x
        x = x + c["spread"] * noise[5 - k] * mask if k else x
    found = algorithm._policy(algorithm.actor, features, noise[:5])
    torch.testing.assert_close(found, x)
    assert found.abs().max() <= 1


def test_values_are_divided_by_the_other_twins_size():
    algorithm, rows, noise, _ = problem()
    features = algorithm.encoder(rows.obs, rows.step)
    twin = torch.tensor([[True, False]])
    found = algorithm._value_loss(features, rows, noise[:5], twin)[0]
    chosen = algorithm._policy(algorithm.actor, features, noise[:5])
    q = algorithm._values(algorithm.critic, features, chosen)[0]  # [M, 2, R]
    torch.testing.assert_close(found[0], -q[0, 0].mean() / q[0, 1].abs().mean())
    torch.testing.assert_close(found[1], -q[1, 1].mean() / q[1, 0].abs().mean())


def test_targets_take_the_smaller_twin_at_the_averaged_policys_action():
    algorithm, rows, noise, _ = problem()
    torch.nn.init.normal_(algorithm.average.linears[-1].weight)
    features, after = (algorithm.encoder(x, rows.step) for x in (rows.obs, rows.next_obs))
    ended = rows._replace(ended=(torch.arange(32) % 2).float().expand_as(rows.ended))
    found = algorithm._critic_loss(features, ended, noise[:5])
    best = algorithm._values(
        algorithm.target_critic, after, algorithm._policy(algorithm.average, after, noise[:5])
    ).amin(2)
    y = ended.rew * algorithm.reward_scale + 0.99 * (1 - ended.ended) * best
    values = algorithm._values(algorithm.critic, features, ended.act)
    wanted = sum(mean_rows((values[:, :, j] - y).square(), None) for j in range(2))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("detach", [True, False])
def test_the_releases_value_has_no_gradient(detach):
    """With Q detached eta changes nothing; else it does."""
    found = []
    for eta in (0.0, 5.0):
        algorithm, rows, noise, k = problem(detach_q=detach, eta=eta, clip=1e6)
        _, gradients = algorithm._gradients(rows, noise, k, torch.tensor([[True, True]]))
        found.append(gradients[: len(algorithm.actor_weights)])
    same = all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert same == detach


def test_gradients_are_clipped_network_by_network():
    gen = torch.Generator().manual_seed(0)
    gradients = [torch.randn(2, 3, 4, 5, generator=gen), torch.randn(2, 3, 1, 16, generator=gen)]
    gradients = [g * torch.tensor([0.01, 1.0, 10.0]).view(3, 1, 1) for g in gradients]
    for k in range(2):
        for m in range(3):
            norm = sum(float(g[k, m].square().sum()) for g in gradients) ** 0.5
            for g, c in zip(gradients, clipped(gradients, 0.5), strict=True):
                wanted = g[k, m] * min(1.0, 0.5 / norm)
                torch.testing.assert_close(c[k, m], wanted, rtol=1e-4, atol=1e-6)


def test_the_average_is_the_policy_until_it_starts_and_moves_every_fifth_update():
    algorithm, data = built(ema_start=5, ema=0.9)
    rng, history = [np.random.default_rng(0)], []
    for _ in range(7):
        algorithm.update(algorithm.sample(data, rng))
        weights = (algorithm.actor.linears[0].weight, algorithm.average.linears[0].weight)
        history.append([w.detach().clone() for w in weights])
    torch.testing.assert_close(history[0][1], history[0][0])
    assert all(torch.equal(history[i][1], history[0][1]) for i in range(1, 5))
    torch.testing.assert_close(history[5][1], 0.9 * history[0][1] + 0.1 * history[5][0])
    assert torch.equal(history[6][1], history[5][1])


def test_the_best_of_the_candidates_is_chosen_and_a_random_one_is_a_single_action():
    algorithm, data = built(candidates=8)
    made = []
    policy, algorithm._values = algorithm._policy, lambda critic, features, act: act.mT[:, :, :1]
    algorithm._policy = lambda *arguments: made.append(policy(*arguments)) or made[-1]
    algorithm.begin(20, 0)
    found = algorithm.act(data.obs[None, :20], None, None, 0, True)  # the value is a's first entry
    best = made[0].unflatten(2, (20, 8))[..., 0].amax(-1)  # [K, M, E]
    np.testing.assert_allclose(found[..., 0], best.mT, atol=1e-6)
    algorithm, _ = built(choose="random")
    algorithm.begin(20, 0)
    assert algorithm.act(data.obs[None, :20], None, None, 0, True).shape == (1, 20, 2, 2)


@pytest.mark.parametrize("detach", [True, False])
def test_dof_moves_from_the_data_towards_reward_unless_its_value_is_detached(detach):
    """Behaviour is uniform, reward wants a = 0.6; one action is drawn, so that imitation shows."""
    data, rng = toy_dataset(TEAM, n_episodes=200), np.random.default_rng(0)
    data.act = (rng.uniform(-1, 1, data.act.shape) * [[1, 1], [1, 0]]).astype(np.float32)
    data.rew = -((data.act[..., 0] - 0.6) ** 2).astype(np.float32)
    algorithm, _ = built(
        data, detach_q=detach, choose="random", gamma=0.0, lr=3e-3, eta=3.0, clip=10.0
    )
    rngs = [rng]
    for _ in range(200):
        algorithm.update(algorithm.sample(data, rngs))
    algorithm.begin(200, 0)
    mean = algorithm.act(data.obs[None, :200], None, None, 0, False)[0, ..., 0].mean(0)
    assert (np.abs(mean) < 0.15).all() if detach else (mean > 0.25).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"denoising_steps": 0}, "denoising_steps is 0, expected 1 to 1000."),
        ({"eta": float("nan")}, "eta is nan, expected 0 to"),
        ({"clip": 0.0}, "clip is 0.0, expected 1e-06 to"),
        ({"schedule": "cosine"}, "schedule is 'cosine', expected vp, linear."),
        ({"choose": "best"}, "choose is 'best', expected value, random."),
    ],
)
def test_settings_out_of_range_are_refused_by_name(config, message):
    with pytest.raises(UserError, match=message):
        built(**config)
