"""OMAR: its search and losses against plain formulas, and what it learns."""

import numpy as np
import pytest
import torch

from algorithms.nn import cem
from algorithms.nn.team import rows_of
from algorithms.omar import OMAR
from benchmark import registry
from benchmark.checks.fixtures import TEAM, toy_dataset
from benchmark.errors import UserError
from tests.perf import bench_team
from tests.test_macql import (
    PAD,
    fit,
    grown,
    mean,
    naive_team,
    naive_values,
    plain,
    replaced,
    uniform_team,
)


# --------------------------------------------------------------------------------------- search
def naive_search(score, noise, pad, elites):
    """The search for one agent of one seed, row by row; score maps actions [S, A] of row r."""
    best = []
    for r in range(noise.shape[2]):
        mu, sigma, kept = torch.zeros(2), torch.full((2,), 2.0), None
        for e in noise[:, :, r]:
            tried = (mu + sigma * e).clamp(-1, 1) * pad
            if elites and kept is not None:
                tried = torch.cat([tried, kept])
            q = score(tried, r)
            if elites:
                order = q.argsort(descending=True)[:elites]
                kept = tried = tried[order]
                q = q[order]
                mu, sigma = tried.mean(0), tried.std(0)
            else:
                weight = q.exp() / q.exp().sum()
                mu = (weight[:, None] * tried).sum(0)
                sigma = ((tried - mu) ** 2).mean(0) ** 0.5
            sigma = sigma.clamp(min=1e-6)
        best.append(tried[q.argmax()])
    return torch.stack(best)


@pytest.mark.parametrize("elites", [0, 3])
def test_the_search_is_that_of_its_equations(elites):
    gen = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 2, 2, 8, 4, 2, generator=gen)  # [I, K, M, S, R, A]
    peak = torch.rand(2, 2, 1, 4, 2, generator=gen) * 2 - 1

    def score(tried):
        return -3 * (tried - peak).square().sum(-1)

    best, value = cem.search(score, noise, PAD.unsqueeze(1), elites=elites)
    torch.testing.assert_close(value, score(best.unsqueeze(2))[:, :, 0])
    for k in range(2):
        for i in range(2):
            wanted = naive_search(
                lambda a, r, k=k, i=i: -3 * (a - peak[k, i, 0, r]).square().sum(-1),
                noise[:, k, i],
                PAD[i],
                elites,
            )
            torch.testing.assert_close(best[k, i], wanted)
    assert not best[:, 1, :, 1].any()


@pytest.mark.parametrize("elites", [0, 5])
def test_the_search_finds_a_peak(elites):
    noise = torch.randn(6, 1, 1, 50, 16, 2, generator=torch.Generator().manual_seed(0))
    peak = torch.tensor([0.3, -0.7])

    def score(tried):
        return -20 * (tried - peak).square().sum(-1)

    best, _ = cem.search(score, noise, torch.ones(1, 1, 2), elites=elites)
    assert float((best - peak).abs().median()) < 0.05


# --------------------------------------------------------------------------------------- losses
@pytest.mark.parametrize(
    "options", [{}, {"c": 0.7, "output_l2": 0.01}, {"cql_batch": 16, "logged": False}]
)
def test_omar_has_the_losses_of_its_equations(options):
    omar, batch = grown(OMAR, seeds=(0, 1), cql_alpha=2.0, **options)
    rows, team, config = rows_of(batch, TEAM), omar.team, omar.config
    used = options.get("cql_batch", 32)
    gen = torch.Generator().manual_seed(3)
    u = torch.rand(2, 2, 10, used, 2, generator=gen)
    noise = torch.randn(3, 2, 2, 10, 32, 2, generator=gen)
    losses, _ = omar._critic_gradients(rows, u)
    actor, gradients = omar._actor_gradients(rows, noise)
    for k in range(2):
        features, acts, targets, weights = naive_team(omar, rows, k)
        critics, actors = [], []
        for i in range(2):
            values = naive_values(team.critic, k, features, acts, i)
            td = mean((values - targets[i]).square().sum(0), weights[i])
            seen, cut = [f[:used] for f in features], [a[:used] for a in acts]
            q = torch.stack(
                [
                    naive_values(
                        team.critic, k, seen, replaced(cut, i, (2 * u[k, i, s] - 1) * PAD[i]), i
                    )
                    for s in range(10)
                ]
            )
            if config.logged:
                q = torch.cat([q, values[None, :, :used]])
            volume = 2.0 ** float(PAD[i].sum())
            highest = (q.exp() * volume).mean(0).log()
            penalty = mean((highest - values[:, :used]).sum(0), weights[i][:used])
            critics.append(td + 2.0 * penalty)
            output = plain(team.actor.body, k, i)(features[i]).reshape(32, 2)
            chosen = output.tanh() * PAD[i]

            def score(tried, r, i=i, k=k, features=features, acts=acts):
                one = [f[r].expand(len(tried), -1) for f in features]
                other = [a[r].expand(len(tried), -1) for a in acts]
                return naive_values(team.critic, k, one, replaced(other, i, tried), i)[0]

            with torch.no_grad():
                found = naive_search(score, noise[:, k, i], PAD[i], 0)
                own = torch.stack([score(chosen[r : r + 1], r)[0] for r in range(32)])
                there = torch.stack([score(found[r : r + 1], r)[0] for r in range(32)])
                best = torch.where((own >= there)[:, None], chosen, found)
            value = naive_values(team.critic, k, features, replaced(acts, i, chosen), i)[0]
            dims = PAD[i].sum()
            loss = config.c * (chosen - best).square().sum(-1) / dims - (1 - config.c) * value
            loss = loss + 1e-3 * chosen.square().sum(-1) / dims
            loss = loss + config.output_l2 * (output * PAD[i]).square().sum(-1) / dims
            actors.append(mean(loss, weights[i]))
        wanted = torch.stack(critics).mean()
        torch.testing.assert_close(losses["critic_loss"][k], wanted, rtol=1e-4, atol=1e-4)
        wanted = torch.stack(actors)
        torch.testing.assert_close(actor["actor_loss"][k], wanted.mean(), rtol=1e-4, atol=1e-5)
        layer = team.actor.body.linears[1].weight
        index = [p is layer for p in team.actor_optimiser.parameters].index(True)
        naive = torch.autograd.grad(wanted.sum(), layer)[0][k]
        torch.testing.assert_close(gradients[index][k], naive, rtol=2e-3, atol=1e-5)


def test_the_actor_imitates_itself_where_the_search_finds_nothing_better():
    omar, batch = grown(OMAR)
    rows = rows_of(batch, TEAM)
    features = omar.team.encoder(rows.obs, rows.step)
    chosen = omar.team.actor(features)
    noise = torch.randn(3, 1, 2, 10, 32, 2)
    best = omar.best_action(features, rows.act, chosen, noise)
    q = omar.team.critic.own(features, rows.act, torch.stack([best, chosen], 2), head=0)[:, :, 0]
    assert (q[:, :, 0] >= q[:, :, 1]).all()
    same = (best == chosen).all(-1)
    assert same.any()
    assert not same.all()


# -------------------------------------------------------------------------------------- learning
@pytest.mark.parametrize("options", [{}, {"elites": 5, "search_samples": 20}, {"c": 0.5}])
def test_omar_moves_towards_reward_where_data_cover_it(options):
    data = uniform_team()
    omar = fit(OMAR, data, 150, cql_alpha=0.05, lr=5e-3, gamma=0.0, **options)
    act = omar.act(data.obs[None, :100], None, None, 0, True)[0]
    assert act[..., 0].mean(0).min() > 0.3
    assert not act[:, 1, 1].any()  # padding


def test_the_search_leaves_a_hill_that_gradients_climb():
    """Two hills in Q: the low one at -0.6, where the actor starts, the high one at 0.6. Following
    the gradient stays on the low one, imitation of the search's best action crosses over.
    """
    ends = {}
    for c in (0.0, 1.0):
        data = uniform_team()
        a = data.act[..., 0]
        data.rew = np.maximum(1 - 4 * np.abs(a + 0.6), 2 - 4 * np.abs(a - 0.6)).clip(0)
        data.rew = data.rew.astype(np.float32)
        omar = OMAR(
            OMAR.Config(width=32, batch_size=64, lr=5e-3, gamma=0.0, cql_alpha=0.01, c=c),
            TEAM,
            (0,),
        )
        rngs = [np.random.default_rng(0)]
        omar.prepare(data, 1, rngs)
        with torch.no_grad():  # the actor's output near tanh^-1(-0.6), whatever it sees
            omar.team.actor.body.linears[-1].weight.mul_(0.1)
            omar.team.actor.body.linears[-1].bias.fill_(-0.7)
        rows = [rows_of(omar.sample(data, rngs), TEAM) for _ in range(300)]
        for each in rows[:200]:
            _, gradients = omar._critic_gradients(each, torch.rand(1, 2, 10, 64, 2))
            omar.team.critic_optimiser.step(gradients)
        gen = torch.Generator().manual_seed(0)
        for each in rows[200:]:
            noise = torch.randn(3, 1, 2, 10, 64, 2, generator=gen)
            _, gradients = omar._actor_gradients(each, noise)
            omar.team.actor_optimiser.step(gradients)
        ends[c] = omar.act(data.obs[None, :100], None, None, 0, True)[0, :, 1, 0].mean()
    assert ends[0.0] < -0.3
    assert ends[1.0] > 0.3


@pytest.mark.parametrize("task", ["mpe/world-flee-v1", "mamujoco/halfcheetah-6x1-v1"])
def test_heterogeneous_teams_train_and_their_padding_is_never_played(task):
    spec = registry.task(task).spec
    data = toy_dataset(spec, n_episodes=2)
    omar = fit(OMAR, data, 2, width=16, batch_size=16)
    act = omar.act(data.obs[None, :3], None, None, 0, False)
    widths = np.repeat([g.act_dim for g in spec.groups], [g.n_agents for g in spec.groups])
    assert not act[0][:, np.arange(spec.act_dim) >= widths[:, None]].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c": 1.2}, r"--config.c is 1.2, expected 0 to 1"),
        ({"elites": 11}, r"--config.elites is 11, expected 0 to 10"),
        ({"elites": 1}, r"--config.elites is 1, expected 0 or at least 2"),
        ({"search_std": 0.0}, r"--config.search_std is 0.0"),
        ({"search_iterations": 0}, r"--config.search_iterations is 0, expected 1 to"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        OMAR(OMAR.Config(**options), TEAM, (0,))


def test_the_floor_of_an_update_is_its_matrix_products():
    group, cycle = bench_team.trained("bc", 32, compile=False)
    _, operations = bench_team.products(cycle)
    weights = [linear.weight[0] for linear in group.policy.linears]
    forward = sum(2 * bench_team.BATCH * weight.numel() for weight in weights)
    backward = 2 * forward - 2 * bench_team.BATCH * weights[0].numel()  # no gradient of the input
    wanted = bench_team.CYCLE * len(bench_team.SEEDS) * (forward + backward)
    assert operations == pytest.approx(wanted / 1e9)
    found = bench_team.measure("bc", 32, rounds=1, seconds=0.01)
    assert found["update_ms"] > found["floor_ms"] > 0
    assert found["ratio"] > 1
