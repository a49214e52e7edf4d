"""OM2P and its released form: mean-flow identities, losses against naive formulas, learning."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from algorithms.nn import meanflow
from algorithms.nn.generative import clip_through
from algorithms.nn.optim import Adam
from algorithms.nn.stacked import StackedMLP, generators
from algorithms.nn.team import rows_of
from algorithms.om2p import OM2P
from algorithms.om2p_release import OM2PRelease, times
from benchmark import registry
from benchmark.algorithm import build_group
from benchmark.checks.fixtures import TEAM, toy_dataset
from benchmark.errors import UserError

STD = 0.5  # of the Gaussian data below


def gaussian_velocity(z, t):
    """Marginal velocity E[e - x | z_t] where x ~ N(0, STD^2) and e ~ N(0, 1)."""
    return z * (t - (1 - t) * STD**2) / spread(t).square()


def spread(t):
    return ((1 - t).square() * STD**2 + t.square()).sqrt()


def gaussian_average(z, r, t):
    """The average of that velocity along its flow, which scales z by spread(r) / spread(t)."""
    return z * (1 - spread(r) / spread(t)) / (t - r)


def times_of_test():
    gen = torch.Generator().manual_seed(0)
    t = 0.3 + 0.6 * torch.rand(64, 1, generator=gen, dtype=torch.float64)
    return t * torch.rand(64, 1, generator=gen, dtype=torch.float64), t, gen


def test_an_average_velocity_keeps_the_identity_and_its_sampler_is_exact():
    r, t, gen = times_of_test()
    z = torch.randn(64, 2, generator=gen, dtype=torch.float64)
    v, value = gaussian_velocity(z, t), gaussian_average(z, r, t)
    slope = meanflow.time_derivative(gaussian_average, z, r, t, v, value, "jvp", 0.0)
    torch.testing.assert_close(meanflow.average_target(v, r, t, slope), value)
    for n_steps in (1, 2, 5):
        torch.testing.assert_close(meanflow.generate(gaussian_average, z, n_steps), STD * z)


def test_interpolation_runs_from_data_to_noise_at_the_speed_v():
    x, e = torch.randn(2, 8, 3)
    for t in (0.0, 0.25, 1.0):
        z, v = meanflow.interpolate(x, e, torch.full((8, 1), t))
        torch.testing.assert_close(z, (1 - t) * x + t * e)
        torch.testing.assert_close(v, e - x)


def small_net(dtype=torch.float32, width=32):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
    net.append(nn.Linear(width, 2)).to(dtype)
    o = torch.randn(32, 2, dtype=torch.float64).to(dtype)
    return lambda z, r, t: net(torch.cat([o, z, t, t - r], -1))


def problem(dtype=torch.float32):
    gen = torch.Generator().manual_seed(1)
    z, v = torch.randn(2, 32, 2, generator=gen, dtype=torch.float64).to(dtype)
    t = (0.1 + 0.9 * torch.rand(32, 1, generator=gen, dtype=torch.float64)).to(dtype)
    return z, t * 0.5, t, v


def slope(u, how, delta=5e-3, dtype=torch.float32):
    z, r, t, v = problem(dtype)
    with torch.no_grad():
        value = u(z, r, t)
    return meanflow.time_derivative(u, z, r, t, v, value, how, delta)


def test_exact_estimators_equal_a_jacobian_row_by_row():
    u, (z, r, t, v) = small_net(torch.float64), problem(torch.float64)
    wanted = torch.zeros(32, 2, dtype=torch.float64)
    for i in range(32):
        by_z, by_t = torch.autograd.functional.jacobian(
            lambda a, b: u(a, r, b)[i],  # noqa: B023
            (z, t),
        )
        wanted[i] = by_z[:, i] @ v[i] + by_t[:, i, 0]
    torch.testing.assert_close(slope(u, "jvp", dtype=torch.float64), wanted)
    torch.testing.assert_close(slope(u, "vjac", dtype=torch.float64), wanted)
    assert not slope(u, "zero", dtype=torch.float64).any()
    assert not any(slope(u, how, dtype=torch.float64).requires_grad for how in meanflow.ESTIMATORS)


def test_differences_are_accurate_at_the_default_width_and_not_far_from_it():
    exact = slope(small_net(torch.float64), "jvp", dtype=torch.float64).float()

    def error(delta):
        return float((slope(small_net(), "fd", delta) - exact).norm() / exact.norm())

    assert error(5e-3) < 6e-3
    assert error(1e-1) > 4 * error(5e-3)
    assert error(1e-6) > 10 * error(5e-3)
    assert error(1e-8) > 1


def test_the_released_difference_is_zero_in_float32_and_fine_in_float64():
    z, r, t, v = problem()
    u = small_net()
    with torch.no_grad():
        value = u(z, r, t)
    wide = t > 1e-4  # all of them: t - 1e-12 is t
    assert wide.all()
    assert not meanflow.time_derivative(u, z, r, t, v, value, "fd", 1e-12).any()
    double = slope(small_net(torch.float64), "fd", 1e-8, torch.float64)
    exact = slope(small_net(torch.float64), "jvp", dtype=torch.float64)
    torch.testing.assert_close(double, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("law", meanflow.TIME_LAWS)
def test_times_are_ordered_and_follow_their_law(law):
    draws = {rho: meanflow.draw_times(generators((5,)), (20_000,), law, rho) for rho in (0, 0.5)}
    r, t = draws[0.5]
    assert ((r <= t) & (r >= 0) & (t <= 1)).all()
    assert float((r == t).float().mean()) == pytest.approx(0.5, abs=0.02)
    r, t = (x.flatten().double() for x in draws[0])
    rng = np.random.default_rng(0)
    sample = {
        "logit_normal": 1 / (1 + np.exp(0.4 - rng.normal(size=(2, 50_000)))),
        "uniform": rng.random((2, 50_000)),
        "beta": rng.beta(2, 2, (2, 50_000)),
        "exp": np.clip(0.2 * rng.exponential(size=(2, 50_000)), 0, 1),
    }[law]
    if law == "exp":
        sample[1] = 1 - sample[1]
    for mine, wanted in ((r, sample.min(0)), (t, sample.max(0))):
        for q in (0.1, 0.5, 0.9):
            assert float(mine.quantile(q)) == pytest.approx(np.quantile(wanted, q), abs=0.02)


@pytest.mark.parametrize("law", meanflow.TIME_LAWS)
def test_times_of_a_seed_do_not_depend_on_its_group(law):
    group = meanflow.draw_times(generators((3, 8)), (2, 32, 1), law, 0.5)
    alone = meanflow.draw_times(generators((8,)), (2, 32, 1), law, 0.5)
    for a, b in zip(group, alone, strict=True):
        assert torch.equal(a[1:], b)


def test_a_clip_that_passes_gradients_on():
    x = torch.tensor([-3.0, -0.2, 1.0000001, 7.0], requires_grad=True)
    y = clip_through(x)
    assert torch.equal(y, x.clamp(-1, 1))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones(4))


# ----------------------------------------------------------------------------- one step, two modes
def one_step_samples(how, steps=400, rho=0.5):
    """One-step samples of a net that learned two tied modes, (.8, .8) and (-.8, -.8)."""
    gens = generators((0,))
    net = StackedMLP(gens, (), (4, 32, 32, 2), F.gelu)
    adam = Adam(list(net.parameters()), 5e-3)

    def u(z, r, t):
        return net(torch.cat([z, t, t - r], -1))

    gen = gens[0]
    for _ in range(steps):
        mode = torch.randint(2, (1, 256, 1), generator=gen) * 1.6 - 0.8
        x = mode + 0.1 * torch.randn(1, 256, 2, generator=gen)
        r, t = meanflow.draw_times(gens, (256, 1), "logit_normal", rho)
        t = t.clamp(min=5e-3)
        z, v = meanflow.interpolate(x, torch.randn(1, 256, 2, generator=gen), t)
        value = u(z, r, t)
        d = meanflow.time_derivative(u, z, r, t, v, value.detach(), how, 5e-3)
        loss = (value - meanflow.average_target(v, r, t, d)).square().mean()
        adam.step(torch.autograd.grad(loss, adam.parameters))
    with torch.no_grad():
        return meanflow.generate(u, torch.randn(1, 512, 2, generator=gen))[0]


def test_the_derivative_is_what_makes_one_step_enough():
    """Without it one jump lands on the mean of the data, with it on the modes, tied in sign."""
    for how in ("fd", "jvp"):
        made = one_step_samples(how)
        assert float((made[:, 0] * made[:, 1] > 0).float().mean()) > 0.93
        assert float(made.abs().mean()) > 0.6
    collapsed = one_step_samples("zero")
    assert float(collapsed.abs().mean()) < 0.25


# --------------------------------------------------------------------------- losses, one by one
def plain(mlp, *entry):
    """An ordinary GELU network with the weights of one entry of the stack."""
    layers = []
    for i, linear in enumerate(mlp.linears):
        n_in, n_out = linear.weight.shape[-2:]
        layer = nn.Linear(n_in, n_out)
        layer.weight.data = linear.weight[entry].T.clone()
        layer.bias.data = linear.bias[entry][0, :n_out].clone()
        layers.append(layer)
        if i < len(mlp.linears) - 1:
            if mlp.norms:
                norm = nn.LayerNorm(n_out)
                norm.weight.data = mlp.norms[i].gain[entry][0].clone()
                norm.bias.data = mlp.norms[i].bias[entry][0].clone()
                layers.append(norm)
            layers.append(nn.GELU())
    return nn.Sequential(*layers)


WIDTHS = (2, 1)  # action widths of TEAM


def grown(cls, seeds=(0,), **config):
    """An algorithm after some updates, and a batch with ends and deaths in it."""
    data, rngs = toy_dataset(TEAM), [np.random.default_rng(seed) for seed in seeds]
    algorithm = build_group(cls, cls.Config(width=32, batch_size=48, **config), TEAM, seeds)
    algorithm.prepare(data, 1, rngs)
    for _ in range(5):
        algorithm.update(algorithm.sample(data, rngs))
    batch = algorithm.sample(data, rngs)
    gen = torch.Generator().manual_seed(9)
    batch.terminated = (torch.rand(batch.terminated.shape, generator=gen) < 0.3).float()
    batch.alive = torch.rand(batch.rew.shape, generator=gen) < 0.8
    return algorithm, batch


def naive_om2p(om2p, batch, k, noise, r, t):
    """The losses of seed k, agent by agent and row by row where that matters."""
    config, rows = om2p.config, rows_of(batch, TEAM)
    features = om2p.encoder(rows.obs, rows.step)[k]
    after = om2p.encoder(rows.next_obs, rows.step + 1)[k]
    actors = [plain(om2p.actor, k, i) for i in range(2)]
    pad = [torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])]

    def velocity(i, o, z, r, t):
        return actors[i](torch.cat([o, z, t, t - r], -1)) * pad[i]

    def play(i, o, e):
        x, n = e * pad[i], config.n_steps
        for j in range(n):
            t = torch.full_like(e[:, :1], 1 - j / n)
            x = x - velocity(i, o, x, t - 1 / n, t) / n
        return x + (x.clamp(-1, 1) - x).detach()

    acts = [rows.act[k, i] for i in range(2)]
    next_acts = [play(i, after[i], noise[2][k, i]).detach() for i in range(2)]
    losses = []
    for i in range(2):
        alive = rows.alive[k, i]

        def mean(x, alive=alive):
            return (x * alive).sum() / alive.sum()

        def q(body, features, acts, i=i):
            if config.critic == "centralised":
                x = torch.cat([features[0], acts[0], features[1], acts[1]], -1)
            else:
                x = torch.cat([features[i], acts[i]], -1)
            return torch.stack([plain(body, k, i, j)(x)[:, 0] for j in range(2)])

        e = noise[0][k, i] * pad[i]
        z, v = (1 - t[k, i]) * acts[i] + t[k, i] * e, e - acts[i]
        value = velocity(i, features[i], z, r[k, i], t[k, i])
        with torch.no_grad():
            d = config.delta
            back = velocity(i, features[i], z - d * v, r[k, i], t[k, i] - d)
            target = v - (t[k, i] - r[k, i]) * (value - back) / d
        error = (value - target).square().sum(-1) / WIDTHS[i]
        if config.adaptive:
            error = error / (error.detach() + 0.01) ** config.adaptive
        flow = mean(error)
        own = [play(i, features[i], noise[1][k, i]) if j == i else acts[j] for j in range(2)]
        values = q(om2p.critic.body, features, own)
        value_loss = -mean(values.mean(0)) / mean(values.detach().abs().mean(0))
        both = q(om2p.target_critic.body, after, next_acts)
        best = both.amin(0) if config.q_agg == "min" else both.mean(0)
        y = rows.rew[k, i] * om2p.reward_scale[i] + config.gamma * (1 - rows.ended[k, i]) * best
        td = (q(om2p.critic.body, features, acts) - y.detach()).square().sum(0)
        losses.append((flow, value_loss, mean(td)))
    return losses, actors


CASES = [
    {},
    {"critic": "centralised", "eta": 0.1},
    {"n_steps": 3, "q_agg": "mean", "adaptive": 0.75, "delta": 1e-2},
]


@pytest.mark.parametrize("options", CASES)
def test_om2p_has_the_losses_and_gradients_of_its_equations(options):
    om2p, batch = grown(OM2P, seeds=(0, 1), **options)
    rows = rows_of(batch, TEAM)
    noise = [torch.randn(rows.act.shape) for _ in range(3)]
    r, t = meanflow.draw_times(generators((4, 5)), (2, 48, 1), "logit_normal", 0.5)
    t = t.clamp(min=om2p.config.delta)
    losses, gradients = om2p._gradients(rows, noise, r, t)
    for k in range(2):
        naive, actors = naive_om2p(om2p, batch, k, noise, r, t)
        for j, name in enumerate(("flow_loss", "value_loss", "critic_loss")):
            wanted = torch.stack([agent[j] for agent in naive]).mean()
            torch.testing.assert_close(losses[name][k], wanted, rtol=2e-4, atol=1e-5)
        for i, (flow, value_loss, _) in enumerate(naive):
            wanted = torch.autograd.grad(
                flow + om2p.config.eta * value_loss, actors[i][2].weight, retain_graph=True
            )[0]
            mine = gradients[2][k, i].T  # of the second layer
            torch.testing.assert_close(mine, wanted, rtol=2e-3, atol=1e-5)


def test_dead_agents_and_padding_change_nothing():
    om2p, batch = grown(OM2P)
    rows = rows_of(batch, TEAM)
    noise = [torch.randn(rows.act.shape) for _ in range(3)]
    r, t = meanflow.draw_times(generators((4,)), (2, 48, 1), "uniform", 0.5)
    t = t.clamp(min=om2p.config.delta)
    before, gradients = om2p._gradients(rows, noise, r, t)
    other = [x.clone() for x in noise]
    act = torch.where(rows.alive.bool()[..., None], rows.act, torch.rand_like(rows.act))
    for x in (act, *other):
        x[:, 1, :, 1] = 0.77  # the second agent has one action dimension only
    act[:, 1, :, 1] = 0.0
    after, changed = om2p._gradients(rows._replace(act=act), other, r, t)
    for name in before:
        torch.testing.assert_close(before[name], after[name])
    for a, b in zip(gradients, changed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", meanflow.ESTIMATORS)
def test_every_estimator_trains(how):
    om2p, batch = grown(OM2P, estimator=how)
    assert all(torch.isfinite(loss).all() for loss in om2p.update(batch).values())


@pytest.mark.parametrize("task", ["mpe/world-flee-v1", "mamujoco/halfcheetah-6x1-v1"])
@pytest.mark.parametrize("cls", [OM2P, OM2PRelease])
def test_heterogeneous_teams_train_and_their_padding_is_never_played(cls, task):
    spec = registry.task(task).spec
    data, rngs = toy_dataset(spec, n_episodes=2), [np.random.default_rng(0)]
    algorithm = cls(cls.Config(width=16, batch_size=16), spec, (0,))
    algorithm.prepare(data, 1, rngs)
    algorithm.update(algorithm.sample(data, rngs))
    act = algorithm.act(data.obs[None, :3], None, None, 0, False)
    widths = np.repeat([g.act_dim for g in spec.groups], [g.n_agents for g in spec.groups])
    assert act.shape == (1, 3, spec.n_agents, spec.act_dim)
    assert not act[0][:, np.arange(spec.act_dim) >= widths[:, None]].any()


# -------------------------------------------------------------------------------------- learning
def fit(cls, data, steps, **config):
    algorithm = cls(cls.Config(width=32, batch_size=64, **config), data.spec, (0,))
    rngs = [np.random.default_rng(0)]
    algorithm.prepare(data, steps, rngs)
    for _ in range(steps):
        algorithm.update(algorithm.sample(data, rngs))
    algorithm.begin(1, 0)
    return algorithm


def test_om2p_moves_from_the_data_towards_reward():
    """Behaviour is uniform and the reward wants a = 0.6: cloning gives 0, Q moves the policy up."""
    data = toy_dataset(TEAM, n_episodes=200)
    widths = np.array([[1, 1], [1, 0]])
    drawn = np.random.default_rng(0).uniform(-1, 1, data.act.shape)
    data.act = (drawn * widths).astype(np.float32)
    data.rew = -((data.act[..., 0] - 0.6) ** 2).astype(np.float32)
    obs = data.obs[None, :100]
    means = {}
    for eta in (0.0, 10.0):
        om2p = fit(OM2P, data, 200, eta=eta, lr=3e-3, gamma=0.0, depth=2)
        act = om2p.act(obs, None, None, 0, True)[0]
        means[eta] = act[..., 0].mean(0)
        assert (act[:, 1, 1] == 0).all()
    assert np.abs(means[0.0]).max() < 0.2
    assert means[10.0].min() > 0.3


def test_a_cloned_policy_draws_both_modes_of_the_bandit():
    task = registry.task("probe/bandit-v1")
    data = toy_dataset(task.spec, n_episodes=400)
    signs = np.random.default_rng(0).integers(2, size=(400, 1, 1)) * 2.0 - 1
    data.obs = np.ones_like(data.obs)
    data.act = np.broadcast_to(0.8 * signs, data.act.shape).astype(np.float32).copy()
    om2p = fit(OM2P, data, 400, eta=0.0, lr=3e-3)
    obs = np.ones((1, 500, 2, 1), np.float32)
    act = om2p.act(obs, None, None, 0, False)[0, ..., 0]  # [E, N]
    assert (np.abs(act) > 0.4).mean() > 0.75
    assert ((act > 0).mean(0) > 0.3).all()
    assert ((act < 0).mean(0) > 0.3).all()


# ------------------------------------------------------------------------------------ the release
def test_the_release_has_the_losses_of_its_code():
    release, batch = grown(OM2PRelease, estimator="jacobian", q_weight=0.1)
    rows = rows_of(batch, TEAM)
    noise = [torch.randn(rows.act.shape) for _ in range(3)]
    start, stop = times(generators((4,)), (2, 48, 1), "exp")
    losses, _ = release._gradients(rows, noise, start, stop)
    wanted = []
    for i, pad in enumerate((torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))):
        actor, alive = plain(release.actor, 0, i), rows.alive[0, i]

        def u(o, x, a, b, actor=actor, pad=pad):
            return actor(torch.cat([o, x, a, b], -1)) * pad

        def q(body, o, act, i=i):
            x = torch.cat([o, act], -1)
            return torch.stack([plain(body, 0, i, j)(x)[:, 0] for j in range(2)])

        o, o2, a = rows.obs[0, i], rows.next_obs[0, i], rows.act[0, i]
        t0, t1 = start[0, i], stop[0, i]
        x0 = noise[0][0, i] * pad
        x, vel = (1 - t1) * x0 + t1 * a, a - x0
        _, slope = torch.autograd.functional.jvp(
            lambda x, b: u(o, x, t0, b),  # noqa: B023
            (x, t1),
            (vel, torch.ones_like(t1)),
        )
        error = (u(o, x, t0, t1) - (vel - (t0 - t1) * slope)).square().sum(-1) / pad.sum()
        nil = torch.zeros_like(t0)
        played = u(o, noise[1][0, i] * pad, nil, nil + 1).clamp(-1, 1)
        later = u(o2, noise[2][0, i] * pad, nil, nil + 1).clamp(-1, 1)
        y = rows.rew[0, i] + 0.99 * (1 - rows.ended[0, i]) * q(
            release.target_critic.body, o2, later
        ).mean(0)
        td = (q(release.critic.body, o, a) - y).square().mean(0)
        value = q(release.critic.body, o, played).mean(0)
        wanted.append([(part * alive).sum() / alive.sum() for part in (error, -value, td)])
    for j, name in enumerate(("flow_loss", "value_loss", "critic_loss")):
        expected = torch.stack([agent[j] for agent in wanted]).mean()
        torch.testing.assert_close(losses[name][0], expected, rtol=2e-4, atol=1e-5)


def test_the_released_estimator_is_the_zero_estimator():
    ends = []
    for how in ("fd", "zero", "jacobian"):
        release, batch = grown(OM2PRelease, estimator=how)
        release.update(batch)
        ends.append(copy.deepcopy(release.actor.state_dict()))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert any(not torch.equal(ends[0][name], ends[2][name]) for name in ends[0])


def test_the_release_plays_its_velocity():
    release, batch = grown(OM2PRelease)
    rows = rows_of(batch, TEAM)
    x0 = torch.randn(rows.act.shape)
    for i, pad in enumerate((1.0, 0.0)):
        mask = torch.tensor([1.0, pad])
        x = [rows.obs[0, i], x0[0, i] * mask, torch.zeros(48, 1), torch.ones(48, 1)]
        wanted = plain(release.actor, 0, i)(torch.cat(x, -1)).clamp(-1, 1) * mask
        torch.testing.assert_close(release._policy(rows.obs, x0)[0, i], wanted)


def test_the_released_times_crowd_where_their_names_say():
    def median(law):
        return [float(x.median()) for x in times(generators((0,)), (20_000,), law)]

    rng = np.random.default_rng(0)
    exp = np.median(np.clip(0.2 * rng.exponential(size=50_000), 0, 1))
    assert median("uniform") == pytest.approx([0.5, 0.5], abs=0.02)
    assert median("exp") == pytest.approx([exp, 1 - exp], abs=0.02)
    assert median("quadratic") == pytest.approx([0.25, 0.75], abs=0.02)
    for law, b in (("beta", 2), ("high_beta", 5), ("adaptive_beta", 1)):
        start, stop = times(generators((0,)), (20_000,), law)
        for drawn in (start, 1 - stop):
            assert float(drawn.std()) == pytest.approx(rng.beta(b, b, 50_000).std(), abs=0.01)
    starts, stops = times(generators((0,)), (1000,), "uniform")
    assert 0.3 < float((starts > stops).float().mean()) < 0.7  # in no order


# ------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("cls", "options", "field"),
    [
        (OM2P, {"estimator": "central"}, "estimator"),
        (OM2P, {"p_time": "normal"}, "p_time"),
        (OM2P, {"critic": "joint"}, "critic"),
        (OM2P, {"delta": 0.0}, "delta"),
        (OM2P, {"delta": 1e-12}, "delta"),
        (OM2P, {"rho": 1.5}, "rho"),
        (OM2P, {"eta": -1.0}, "eta"),
        (OM2P, {"n_steps": 0}, "n_steps"),
        (OM2P, {"gamma": 1.1}, "gamma"),
        (OM2P, {"lr": 0.0}, "lr"),
        (OM2P, {"width": 0}, "width"),
        (OM2PRelease, {"estimator": "jvp"}, "estimator"),
        (OM2PRelease, {"p_time": "logit_normal"}, "p_time"),
        (OM2PRelease, {"q_weight": float("nan")}, "q_weight"),
    ],
)
def test_a_setting_out_of_range_is_named(cls, options, field):
    with pytest.raises(UserError, match=rf"--config\.{field} is .*expected"):
        cls(cls.Config(**options), TEAM, (0,))


def test_a_centralised_critic_of_a_population_is_refused():
    swarm = dataclasses.replace(TEAM, groups=TEAM.groups[:1] * 2, exchangeable=True)
    with pytest.raises(UserError, match=r"--config\.critic.*exchangeable"):
        OM2P(OM2P.Config(critic="centralised"), swarm, (0,))
