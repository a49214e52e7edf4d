"""MA-CQL and what the conservative learners share: against plain formulas, and what it learns."""

import numpy as np
import pytest
import torch

from algorithms.macql import MACQL
from algorithms.nn import critics
from algorithms.nn.critics import CandidateCritics
from algorithms.nn.stacked import generators
from algorithms.nn.team import rows_of
from benchmark import registry
from benchmark.algorithm import build_group
from benchmark.checks.fixtures import CHOICE, POPULATION, TEAM, toy_dataset
from benchmark.errors import UserError

PAD = torch.tensor([[1.0, 1.0], [1.0, 0.0]])  # action dimensions that the agents of TEAM have


# ------------------------------------------------------------------------------- naive counterparts
def plain(mlp, *entry):
    """x -> the output of one entry of a stack of ReLU networks, layer by layer."""

    def run(x):
        for i, linear in enumerate(mlp.linears):
            weight, bias = linear.weight[entry], linear.bias[entry][0]
            x = x @ weight + bias[: weight.shape[-1]]
            x = x if i == len(mlp.linears) - 1 else x.clamp(min=0)
        return x[..., 0] if x.shape[-1] == 1 else x

    return run


def naive_values(critic, k, features, acts, i):
    """Both values [2, R] of agent i of seed k; features and acts are lists over agents."""
    if critic.joint:
        x, i = torch.cat([*features, *acts], -1), 0
    else:
        x = torch.cat([features[i], acts[i]], -1)
    return torch.stack([plain(critic.body, k, i, j)(x) for j in range(2)])


def grown(cls, spec=TEAM, seeds=(0,), updates=3, deaths=True, **config):
    """An algorithm after some updates, and a batch with ends and deaths in it."""
    data, rngs = toy_dataset(spec), [np.random.default_rng(seed) for seed in seeds]
    algorithm = build_group(cls, cls.Config(width=32, batch_size=32, **config), spec, seeds)
    algorithm.prepare(data, 1, rngs)
    for _ in range(updates):
        algorithm.update(algorithm.sample(data, rngs))
    batch = algorithm.sample(data, rngs)
    gen = torch.Generator().manual_seed(9)
    batch.terminated = (torch.rand(batch.terminated.shape, generator=gen) < 0.3).float()
    if deaths:
        batch.alive = torch.rand(batch.rew.shape, generator=gen) < 0.8
    return algorithm, batch


def naive_team(algorithm, rows, k, noise=None):
    """Features, actions, target (1) and weights of seed k, by agent, or by team where joint."""
    team, n = algorithm.team, rows.obs.shape[1]
    features = list(team.encoder(rows.obs, rows.step)[k])
    after = list(team.encoder(rows.next_obs, rows.step + 1)[k])
    acts = list(team.actions(rows.act)[k])
    next_acts = []
    for i in range(n):
        output = plain(team.target_actor.body, k, i)(after[i])
        if algorithm.spec.discrete:
            chosen = torch.eye(output.shape[-1])[output.argmax(-1)]
        else:
            chosen = output.tanh() * PAD[i]
            if noise is not None:
                chosen = (chosen + noise[k, i]).clamp(-1, 1) * PAD[i]
        next_acts.append(chosen)
    alive = torch.ones_like(rows.rew[k]) if rows.alive is None else rows.alive[k]
    targets, weights = [], []
    for i in range(1 if team.critic.joint else n):
        rew = rows.rew[k] * team.reward_scale
        if team.critic.joint:
            rew = (rew * alive).sum(0) / alive.sum(0).clamp(min=1)
            weight = (alive.sum(0) > 0).float()
        else:
            rew, weight = rew[i], alive[i]
        best = naive_values(team.target_critic, k, after, next_acts, i).amin(0)
        y = rew + algorithm.config.gamma * (1 - rows.ended[k, i]) * best
        targets.append(y.detach())
        weights.append(weight)
    return features, acts, targets, weights


def replaced(acts, i, act):
    return [act if j == i else other for j, other in enumerate(acts)]


def mean(x, weight):
    return (x * weight).sum() / weight.sum()


def uniform_team(n_episodes=200):
    """TEAM where behaviour is uniform and the reward wants a = 0.6."""
    data = toy_dataset(TEAM, n_episodes=n_episodes)
    drawn = np.random.default_rng(0).uniform(-1, 1, data.act.shape)
    data.act = (drawn * PAD.numpy()).astype(np.float32)
    data.rew = -((data.act[..., 0] - 0.6) ** 2).astype(np.float32)
    return data


def fit(cls, data, steps, seeds=(0,), **config):
    algorithm = cls(cls.Config(**({"width": 32, "batch_size": 64} | config)), data.spec, seeds)
    rngs = [np.random.default_rng(seed) for seed in seeds]
    algorithm.prepare(data, steps, rngs)
    for _ in range(steps):
        algorithm.update(algorithm.sample(data, rngs))
    algorithm.begin(1, 0)
    return algorithm


# ---------------------------------------------------------------------------- critics of candidates
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("head", [None, 0, 1])
def test_candidates_are_valued_as_if_each_stood_alone(joint, head):
    critic = CandidateCritics(generators((0, 1)), TEAM, [32, 32], joint)
    features, act, tried = (
        torch.randn(2, 2, 16, 5),
        torch.randn(2, 2, 16, 2),
        torch.randn(2, 2, 3, 16, 2),
    )
    values = critic.own(features, act, tried, head)
    heads = [0, 1] if head is None else [head]
    assert values.shape == (2, 2, len(heads), 3, 16)
    for k in range(2):
        for i in range(2):
            for s in range(3):
                acts = replaced(list(act[k]), i, tried[k, i, s])
                wanted = naive_values(critic, k, list(features[k]), acts, i)[heads]
                torch.testing.assert_close(values[k, i, :, s], wanted)
    whole = critic(features, act)
    for k in range(2):
        for i in range(1 if joint else 2):
            wanted = naive_values(critic, k, list(features[k]), list(act[k]), i)
            torch.testing.assert_close(whole[k, i], wanted)


def test_a_joint_critic_values_joint_candidates():
    critic = CandidateCritics(generators((0, 1)), TEAM, [32, 32], True)
    features, tried = torch.randn(2, 2, 16, 5), torch.randn(2, 2, 3, 16, 2)
    values = critic.together(features, tried)
    for k in range(2):
        for s in range(3):
            wanted = naive_values(critic, k, list(features[k]), list(tried[k, :, s]), 0)
            torch.testing.assert_close(values[k, 0, :, s], wanted)


@pytest.mark.parametrize("joint", [False, True])
def test_all_discrete_actions_are_valued_at_once(joint):
    critic = CandidateCritics(generators((0,)), CHOICE, [32, 32], joint)
    act = torch.eye(3)[torch.randint(3, (1, 2, 16))]
    features, one_hots = torch.randn(1, 2, 16, 4), torch.eye(3)[:, None].expand(1, 2, 3, 16, 3)
    torch.testing.assert_close(critic.own(features, act, None), critic.own(features, act, one_hots))


# --------------------------------------------------------------------------------- soft maxima
def quadratic(a, target):
    """Q of candidates [K, M, S, R, A], for both critics: [K, M, 2, S, R]."""
    return -4 * (a - target).square().sum(-1).unsqueeze(2).expand(-1, -1, 2, -1, -1)


@pytest.mark.parametrize("kind", ["uniform", "near"])
def test_draws_estimate_the_integral_over_the_box(kind):
    """log of the integral of exp(-4 |a - 0.9|^2), in two dimensions and in one."""
    mask = PAD.unsqueeze(1)  # [M, 1, A]
    u = torch.rand(1, 2, 4000, 16, 2, generator=torch.Generator().manual_seed(0))
    if kind == "uniform":
        tried, log_q = critics.uniform_candidates(u, mask)
        log_q = log_q.expand(tried.shape[:-1])
    else:
        mean = torch.full((1, 2, 16, 2), 0.7) * mask
        tried, log_q = critics.nearby_candidates(u, mean, 0.5, mask)
    assert float(tried.abs().max()) <= 1
    assert not tried[:, 1, ..., 1].any()
    found = critics.soft_maximum(quadratic(tried, 0.9 * mask.unsqueeze(1)), log_q)
    line = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    integral = torch.trapezoid((-4 * (line - 0.9).square()).exp(), line).log()
    for i, dims in enumerate((2, 1)):
        torch.testing.assert_close(
            found[:, i].double().mean(), dims * integral, atol=0.02, rtol=0.01
        )


def test_draws_near_an_edge_have_the_density_of_a_cut_off_normal():
    """The mean of 1 / q is the volume of the box."""
    u = torch.rand(1, 1, 50_000, 16, 1, generator=torch.Generator().manual_seed(0))
    mean = torch.linspace(-1, 1, 16).reshape(1, 1, 16, 1)
    tried, log_q = critics.nearby_candidates(u, mean, 0.6, torch.ones(1, 1, 1))
    volume = (-log_q).exp().mean(2)
    torch.testing.assert_close(volume, torch.full_like(volume, 2.0), atol=0.15, rtol=0)
    assert float(tried.std(2).min()) > 0.3


def test_the_soft_maximum_of_discrete_actions_is_exact():
    values = torch.randn(1, 2, 2, 3, 16)
    torch.testing.assert_close(critics.soft_maximum(values, None), values.exp().sum(3).log())


# --------------------------------------------------------------------------------------- losses
@pytest.mark.parametrize("critic", ["local", "joint"])
@pytest.mark.parametrize("options", [{}, {"policy_samples": 4}, {"cql_batch": 16, "logged": False}])
def test_macql_has_the_losses_of_its_equations(critic, options):
    macql, batch = grown(MACQL, seeds=(0, 1), critic=critic, cql_alpha=2.0, **options)
    rows, config, team = rows_of(batch, TEAM), macql.config, macql.team
    used = options.get("cql_batch", 32)
    u = macql._draws(rows, used)
    losses, gradients = macql._critic_gradients(rows, u, used)
    actor_loss, _ = macql._actor_gradients(rows)
    for k in range(2):
        features, acts, targets, weights = naive_team(macql, rows, k)
        total, actors = [], []
        for i, (y, weight) in enumerate(zip(targets, weights, strict=True)):
            values = naive_values(team.critic, k, features, acts, i)
            td = mean((values - y).square().sum(0), weight)
            terms = []
            for s in range(u.shape[2]):
                drawn, log_q = [], []
                for j in range(2):
                    if s < config.cql_samples:
                        drawn.append((2 * u[k, j, s] - 1) * PAD[j])
                        log_q.append(torch.full((used,), -0.6931472 * float(PAD[j].sum())))
                    else:
                        centre = team.actor(team.encoder(rows.obs, rows.step))[:, :, :used].detach()
                        near, density = critics.nearby_candidates(
                            u[:, :, s : s + 1], centre, config.policy_noise, PAD.unsqueeze(1)
                        )
                        drawn.append(near[k, j, 0])
                        log_q.append(density[k, j, 0])
                seen = [f[:used] for f in features]
                if critic == "joint":
                    q, density = naive_values(team.critic, k, seen, drawn, i), sum(log_q)
                else:
                    cut = [a[:used] for a in acts]
                    q = naive_values(team.critic, k, seen, replaced(cut, i, drawn[i]), i)
                    density = log_q[i]
                terms.append(q - density)
            if config.logged:
                dims = float(PAD.sum() if critic == "joint" else PAD[i].sum())
                terms.append(values[:, :used] + 0.6931472 * dims)
            highest = torch.stack(terms).exp().mean(0).log()
            penalty = mean((highest - values[:, :used]).sum(0), weight[:used])
            total.append(td + 2.0 * penalty)
        for i in range(2):
            output = plain(team.actor.body, k, i)(features[i]).reshape(32, 2) * PAD[i]
            chosen = output.tanh()
            value = naive_values(team.critic, k, features, replaced(acts, i, chosen), i)[0]
            small = (1e-3 * chosen.square() + 1e-2 * output.square()).sum(-1) / PAD[i].sum()
            actors.append(mean(small - value, rows.alive[k, i]))
        wanted = torch.stack(total)
        torch.testing.assert_close(losses["critic_loss"][k], wanted.mean(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(actor_loss[k], torch.stack(actors).mean(), rtol=1e-4, atol=1e-5)
        layer = team.critic.body.linears[0].weight
        naive = torch.autograd.grad(wanted.sum(), layer)[0][k]
        index = [p is layer for p in team.critic_optimiser.parameters].index(True)
        torch.testing.assert_close(gradients[index][k], naive, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("critic", ["local", "joint"])
def test_macql_of_discrete_actions_has_the_losses_of_its_equations(critic):
    macql, batch = grown(MACQL, CHOICE, critic=critic, cql_alpha=2.0)
    rows, team = rows_of(batch, CHOICE), macql.team
    u = macql._draws(rows, 32)
    losses, _ = macql._critic_gradients(rows, u, 32)
    actor_loss, _ = macql._actor_gradients(rows)
    features, acts, targets, weights = naive_team(macql, rows, 0)
    total, actors = [], []
    for i, (y, weight) in enumerate(zip(targets, weights, strict=True)):
        values = naive_values(team.critic, 0, features, acts, i)
        if critic == "joint":
            tried = [
                [torch.eye(3)[(3 * u[0, j, s, :, 0]).long()] for j in range(2)] for s in range(10)
            ]
        else:
            tried = [replaced(acts, i, torch.eye(3)[a].expand(32, 3)) for a in range(3)]
        q = torch.stack([naive_values(team.critic, 0, features, a, i) for a in tried])
        if critic == "joint":
            q = torch.cat([q, values[None]]) - float(np.log(11))
        penalty = (q.exp().sum(0).log() - values).sum(0)
        total.append(mean((values - y).square().sum(0) + 2.0 * penalty, weight))
    for i in range(2):
        law = plain(team.actor.body, 0, i)(features[i]).softmax(-1)
        tried = [replaced(acts, i, torch.eye(3)[a].expand(32, 3)) for a in range(3)]
        q = torch.stack([naive_values(team.critic, 0, features, a, i)[0] for a in tried], -1)
        actors.append(mean((law * (0.1 * law.log() - q)).sum(-1), rows.alive[0, i]))
    torch.testing.assert_close(losses["critic_loss"][0], torch.stack(total).mean())
    torch.testing.assert_close(actor_loss[0], torch.stack(actors).mean())


def test_the_releases_density_is_a_flag():
    macql, batch = grown(MACQL, policy_samples=4, policy_noise=0.5)
    released, _ = grown(MACQL, policy_samples=4, policy_noise=0.5, density="plain")
    rows = rows_of(batch, TEAM)
    features, u = macql.team.encoder(rows.obs, rows.step), macql._draws(rows, 32)
    released.team.parts.load_state_dict(macql.team.parts.state_dict())
    a, b = (x._soft_maximum(features, rows.act, u, None) for x in (macql, released))
    assert not torch.allclose(a, b)


def test_dead_agents_and_padding_change_nothing():
    macql, batch = grown(MACQL)
    rows = rows_of(batch, TEAM)
    u = macql._draws(rows, 32)
    before, gradients = macql._critic_gradients(rows, u, 32)
    act = torch.where(rows.alive.bool()[..., None], rows.act, torch.rand_like(rows.act))
    act[:, 1, :, 1] = 0.0
    changed = u.clone()
    changed[:, 1, ..., 1] = 0.3  # the second agent has one action dimension only
    after, others = macql._critic_gradients(rows._replace(act=act), changed, 32)
    for name in before:
        torch.testing.assert_close(before[name], after[name])
    for a, b in zip(gradients, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_actor_waits_for_its_turn():
    macql, batch = grown(MACQL, updates=0, deaths=False, policy_delay=3)
    seen = ["actor_loss" in macql.update(batch) for _ in range(6)]
    assert seen == [False, False, True, False, False, True]


# -------------------------------------------------------------------------------------- learning
@pytest.mark.parametrize("critic", ["local", "joint"])
def test_macql_moves_towards_reward_where_data_cover_it(critic):
    data = uniform_team()
    macql = fit(MACQL, data, 250, critic=critic, cql_alpha=0.05, lr=3e-3, gamma=0.0)
    act = macql.act(data.obs[None, :100], None, None, 0, True)[0]
    assert act[..., 0].mean(0).min() > 0.35
    assert not act[:, 1, 1].any()  # padding


def test_the_penalty_keeps_the_actor_at_the_data():
    """Behaviour is near -0.5, and reward grows with a: without a penalty the actor leaves it."""
    data = uniform_team()
    drawn = np.random.default_rng(0).normal(-0.5, 0.1, data.act.shape)
    data.act = (drawn.clip(-1, 1) * PAD.numpy()).astype(np.float32)
    data.rew = data.act[..., 0].copy()
    means = []
    for alpha in (0.0, 5.0):
        macql = fit(MACQL, data, 150, cql_alpha=alpha, lr=3e-3, gamma=0.0)
        means.append(macql.act(data.obs[None, :100], None, None, 0, True)[0][:, 1, 0].mean())
    assert means[0] > 0.5
    assert means[1] < -0.25


def test_the_penalty_ends_at_the_log_density_of_the_data():
    """Where nothing is earned and the penalty outweighs the error, Q = log mu + const, for any
    number of draws: half the data at -0.5, half, but drawn three times as wide, at 0.4.
    """
    data = uniform_team()
    rng = np.random.default_rng(0)
    wide = rng.random(data.act.shape) < 0.5
    drawn = np.where(wide, rng.normal(0.4, 0.3, wide.shape), rng.normal(-0.5, 0.1, wide.shape))
    data.act = (drawn.clip(-1, 1) * PAD.numpy()).astype(np.float32)
    data.rew = np.zeros_like(data.rew)
    a = torch.linspace(-0.8, 0.95, 36)
    mu = (-(((a + 0.5) / 0.1) ** 2) / 2).exp() / 0.1 + (-(((a - 0.4) / 0.3) ** 2) / 2).exp() / 0.3
    for draws in (1, 10):
        macql = fit(MACQL, data, 500, cql_alpha=100.0, cql_samples=draws, lr=5e-3, gamma=0.0)
        obs = torch.as_tensor(data.obs[:64]).transpose(0, 1)[None]
        features = macql.team.encoder(obs, torch.zeros(1, 2, 64).long())
        tried = torch.stack([a, torch.zeros(36)], -1)[None, None, :, None].expand(1, 2, -1, 64, -1)
        with torch.no_grad():  # of agent 1, whose only action dimension is the first
            q = macql.team.critic.own(features, tried[:, :, 0], tried).mean(2)[0, 1].mean(-1)
        assert (q - mu.log()).std() < 0.4 * mu.log().std()
        assert a[q.argmax()] == pytest.approx(-0.5, abs=0.06)


def test_values_bootstrap_unless_terminated():
    """Reward 1 at every step, gamma 0.5: values are 2, and 1 where every step is terminal."""
    found = []
    for terminated in (0.0, 1.0):
        data, rngs = toy_dataset(TEAM), [np.random.default_rng(0)]
        data.rew[:] = 1.0
        config = MACQL.Config(width=32, batch_size=64, lr=3e-3, gamma=0.5, tau=0.1, cql_alpha=0.0)
        macql = MACQL(config, TEAM, (0,))
        macql.prepare(data, 1, rngs)
        for _ in range(120):
            batch = macql.sample(data, rngs)
            batch.terminated[:] = terminated
            macql.update(batch)
        with torch.no_grad():
            values = macql.team.critic(torch.randn(1, 2, 16, 5), torch.zeros(1, 2, 16, 2))
        found.append(float(values.mean()))
    assert found == pytest.approx([2.0, 1.0], abs=0.2)


@pytest.mark.parametrize(("critic", "pays"), [("local", False), ("joint", True)])
def test_the_stag_hunt_needs_a_critic_of_the_team(critic, pays):
    """The rich mode (0, 0) pays 1 and is a fifth of the data, the poor one (1, 1) pays 0.5; apart
    from them 0 is punished by -1. An agent that averages the other out prefers 1.
    """
    task = registry.task("probe/mne-v1")
    data, rng = toy_dataset(task.spec, n_episodes=1000), np.random.default_rng(0)
    act = rng.choice([0, 1], size=(1000, 2), p=[0.35, 0.65])
    data.act[:] = act
    data.rew[:] = task.pay(act)[:, None]
    data.obs[:] = 0
    macql = fit(MACQL, data, 250, critic=critic, cql_alpha=0.01, lr=3e-3, gamma=0.0)
    team = macql.team
    features = team.encoder(
        torch.zeros(1, 2, 16, 1, dtype=torch.long), torch.zeros(1, 2, 16).long()
    )
    others = torch.eye(2)[torch.zeros(1, 2, 16, dtype=torch.long)]  # the other one plays 0
    values = team.critic.own(features, others, None, head=0)[0, :, 0, :, 0]  # [N, A]
    assert (values[:, 0] > values[:, 1]).all() == pays


def test_a_population_shares_one_policy_and_has_a_table():
    data = toy_dataset(POPULATION, n_episodes=200)
    data.rew = (data.act == data.obs[..., 0] % 3).astype(np.float32)
    macql = fit(MACQL, data, 200, agents=4, lr=1e-2, gamma=0.0, cql_alpha=0.1, critic="joint")
    table = macql.policy_table()[0]
    assert table.shape == (4, 5, 3)
    assert (table.argmax(-1) == np.arange(5) % 3).mean() > 0.9


@pytest.mark.parametrize("task", ["mpe/world-flee-v1", "mamujoco/halfcheetah-6x1-v1"])
@pytest.mark.parametrize("critic", ["local", "joint"])
def test_heterogeneous_teams_train_and_their_padding_is_never_played(task, critic):
    spec = registry.task(task).spec
    data = toy_dataset(spec, n_episodes=2)
    macql = fit(MACQL, data, 2, width=16, batch_size=16, critic=critic)
    act = macql.act(data.obs[None, :3], None, None, 0, False)
    widths = np.repeat([g.act_dim for g in spec.groups], [g.n_agents for g in spec.groups])
    assert act.shape == (1, 3, spec.n_agents, spec.act_dim)
    assert not act[0][:, np.arange(spec.act_dim) >= widths[:, None]].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cql_alpha": -1.0}, r"--config.cql_alpha is -1.0, expected 0 to"),
        ({"lr": float("nan")}, r"--config.lr is nan"),
        ({"gamma": 1.5}, r"--config.gamma is 1.5, expected 0 to 1"),
        ({"critic": "global"}, r"--config.critic is 'global', expected local or joint"),
        ({"density": "pdf"}, r"--config.density is 'pdf', expected log or plain"),
        ({"policy_noise": 0.0}, r"--config.policy_noise is 0.0"),
        ({"cql_samples": 0}, r"--config.cql_samples is 0, expected 1 to"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MACQL(MACQL.Config(**options), TEAM, (0,))
