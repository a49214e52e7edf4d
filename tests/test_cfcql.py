"""CFCQL: its counterfactual penalty and weights against plain formulas, and what it learns."""

import math

import numpy as np
import pytest
import torch

from algorithms.cfcql import CFCQL
from algorithms.nn.team import rows_of
from benchmark import registry
from benchmark.checks.fixtures import CHOICE, POPULATION, TEAM, toy_dataset
from benchmark.errors import UserError
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


def naive_lambdas(cfcql, features, alive, k):
    """(3) row by row: [N, R]."""
    logits = torch.zeros(2, alive.shape[1])
    if cfcql.config.weights == "softmax":
        for i in range(2):
            output = plain(cfcql.team.actor.body, k, i)(features[i])
            model = plain(cfcql.behaviour.body, k, i)(features[i])
            if cfcql.spec.discrete:
                law = output.softmax(-1)
                kl = (law * (law.log() - model.log_softmax(-1))).sum(-1)
            else:
                act = output.reshape(-1, 2).tanh() * PAD[i]
                mean_, log_std = model.chunk(2, -1)
                std, inner = log_std.clamp(-5, 2).exp(), act.clamp(1e-4 - 1, 1 - 1e-4)
                normal = torch.distributions.Normal(mean_, std)
                density = normal.log_prob(inner.atanh()) - (1 - inner.square()).log()
                height = -math.log(0.2 * math.sqrt(2 * math.pi)) * PAD[i].sum()
                kl = height - (density * PAD[i]).sum(-1)
            logits[i] = -cfcql.config.tau_lambda * kl.detach()
    weights = logits.exp() * alive
    return weights / weights.sum(0).clamp(min=1e-30)


CASES = [
    {},
    {"policy_samples": 4},
    {"cql_batch": 16, "logged": False},
    {"weights": "softmax", "tau_lambda": 0.3},
]


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("spec", [TEAM, CHOICE])
def test_cfcql_has_the_losses_of_its_equations(spec, options):
    cfcql, batch = grown(CFCQL, spec, seeds=(0, 1), cql_alpha=2.0, policy_delay=1, **options)
    rows, team, config = rows_of(batch, spec), cfcql.team, cfcql.config
    gen = torch.Generator().manual_seed(3)
    u = noise = None
    used = 32
    if not spec.discrete:
        used = options.get("cql_batch", 32)
        u = torch.rand(2, 2, 10 + config.policy_samples, used, 2, generator=gen)
        noise = 0.05 * torch.randn(rows.act.shape, generator=gen)
    losses, gradients = cfcql._critic_gradients(rows, u, noise)
    actor_loss, _ = cfcql._actor_gradients(rows)
    for k in range(2):
        features, acts, (y,), (weight,) = naive_team(cfcql, rows, k, noise)
        values = naive_values(team.critic, k, features, acts, 0)
        seen, cut = [f[:used] for f in features], [a[:used] for a in acts]
        highest = []
        for i in range(2):
            if spec.discrete:
                tried = [(torch.eye(3)[a].expand(32, 3), torch.zeros(32)) for a in range(3)]
            else:
                tried = [
                    ((2 * u[k, i, s] - 1) * PAD[i], torch.full((used,), -PAD[i].sum() * 0.6931472))
                    for s in range(10)
                ]
                centre = plain(team.actor.body, k, i)(seen[i]).reshape(used, 2).tanh()
                for s in range(10, u.shape[2]):
                    law = torch.distributions.Normal(centre, 0.2)
                    low, high = law.cdf(torch.tensor(-1.0)), law.cdf(torch.tensor(1.0))
                    act = law.icdf(low + u[k, i, s] * (high - low)).clamp(-1, 1).detach()
                    density = (law.log_prob(act) - (high - low).log()).detach()
                    tried.append((act * PAD[i], (density * PAD[i]).sum(-1)))
                if config.logged:
                    tried.append((cut[i], tried[0][1]))
            terms = torch.stack(
                [naive_values(team.critic, k, seen, replaced(cut, i, a), 0) - q for a, q in tried]
            )
            count = 1 if spec.discrete else len(tried)
            highest.append((terms.exp().sum(0) / count).log())
        share = naive_lambdas(cfcql, seen, rows.alive[k, :, :used], k)
        together = (torch.stack(highest) * share[:, None]).sum(0)
        here = weight[:used]
        penalty = mean(((together - values[:, :used]).sum(0) * here).where(here > 0, here), here)
        wanted = mean((values - y).square().sum(0), weight) + 2.0 * penalty
        torch.testing.assert_close(losses["critic_loss"][k], wanted, rtol=1e-3, atol=1e-3)
        layer = team.critic.body.linears[0].weight
        index = [p is layer for p in team.critic_optimiser.parameters].index(True)
        naive = torch.autograd.grad(wanted, layer)[0][k]
        torch.testing.assert_close(gradients[index][k], naive, rtol=3e-3, atol=3e-4)
        actors = []
        for i in range(2):
            output = plain(team.actor.body, k, i)(features[i])
            if spec.discrete:
                law = output.softmax(-1)
                q = [
                    naive_values(
                        team.critic,
                        k,
                        features,
                        replaced(acts, i, torch.eye(3)[a].expand(32, 3)),
                        0,
                    )[0]
                    for a in range(3)
                ]
                loss = (law * (0.1 * law.log() - torch.stack(q, -1))).sum(-1)
            else:
                output = output.reshape(32, 2) * PAD[i]
                act = output.tanh()
                small = (1e-3 * act.square() + 1e-2 * output.square()).sum(-1) / PAD[i].sum()
                loss = small - naive_values(team.critic, k, features, replaced(acts, i, act), 0)[0]
            actors.append(mean(loss, rows.alive[k, i]))
        torch.testing.assert_close(actor_loss[k], torch.stack(actors).mean(), rtol=1e-3, atol=1e-4)


def test_weights_sum_to_one_over_the_living():
    cfcql, batch = grown(CFCQL, weights="softmax", policy_delay=1)
    rows = rows_of(batch, TEAM)
    share = cfcql.lambdas(cfcql.team.encoder(rows.obs, rows.step), rows.alive)
    some = rows.alive.amax(1) > 0
    assert not share[(rows.alive == 0) & some.unsqueeze(1)].any()
    torch.testing.assert_close(share.sum(1)[some], torch.ones(int(some.sum())))


def test_the_weight_is_with_the_agent_that_keeps_to_the_data():
    """A large tau_lambda picks the agent of the least divergence, 0 gives all the same."""
    cfcql, batch = grown(CFCQL, weights="softmax", deaths=False, tau_lambda=1000.0)
    rows = rows_of(batch, TEAM)
    features = cfcql.team.encoder(rows.obs, rows.step)
    share, kl = cfcql.lambdas(features, None), cfcql._divergence(features)
    assert torch.equal(share.argmax(1), kl.argmin(1))
    assert float(share.amax(1).median()) > 0.99
    flat, _ = grown(CFCQL, weights="softmax", deaths=False, tau_lambda=0.0)
    assert torch.equal(flat.lambdas(features, None), torch.full((1, 2, 32), 0.5))


def test_actors_and_targets_wait_for_five_critic_updates():
    cfcql, batch = grown(CFCQL, updates=0, deaths=False)
    seen = []
    for _ in range(10):
        before = [p.clone() for p in cfcql.team.target_critic.parameters()]
        losses = cfcql.update(batch)
        after = cfcql.team.target_critic.parameters()
        moved = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert moved == ("actor_loss" in losses)
        seen.append(moved)
    assert seen == [False] * 4 + [True] + [False] * 4 + [True]


# -------------------------------------------------------------------------------------- learning
@pytest.mark.parametrize("weights", ["uniform", "softmax"])
def test_cfcql_moves_towards_reward_where_data_cover_it(weights):
    data = uniform_team()
    options = {"cql_alpha": 0.05, "lr": 3e-3, "gamma": 0.0, "policy_delay": 1}
    cfcql = fit(CFCQL, data, 250, weights=weights, **options)
    act = cfcql.act(data.obs[None, :100], None, None, 0, True)[0]
    assert act[..., 0].mean(0).min() > 0.35
    assert not act[:, 1, 1].any()  # padding


@pytest.mark.parametrize("task", ["probe/xor-v1", "probe/modes-n3-v1"])
def test_cfcql_plays_a_mode_where_the_data_prefer_one(task):
    """Three quarters of the data are the last mode, the others uniform: agents that each answer
    the others' logged actions agree on that mode.
    """
    task = registry.task(task)
    data, rng = toy_dataset(task.spec, n_episodes=1000), np.random.default_rng(0)
    n = task.spec.n_agents
    mode = np.array(task.modes[-1]).astype(int)
    act = np.where(rng.random((1000, 1)) < 0.75, mode, rng.integers(2, size=(1000, n)))
    data.act[:] = act
    data.rew[:] = task.pay(act)[:, None]
    data.obs[:] = 0
    cfcql = fit(CFCQL, data, 200, cql_alpha=0.1, lr=3e-3, gamma=0.0, policy_delay=1)
    played = cfcql.act(np.zeros((1, 200, n, 1), np.int64), None, None, 0, False)[0]
    assert task.pay(played).mean() > 0.9


def test_a_population_shares_one_policy_and_has_a_table():
    data = toy_dataset(POPULATION, n_episodes=200)
    data.rew = (data.act == data.obs[..., 0] % 3).astype(np.float32)
    options = {"lr": 1e-2, "gamma": 0.0, "cql_alpha": 0.1, "policy_delay": 1}
    cfcql = fit(CFCQL, data, 150, agents=4, weights="softmax", **options)
    assert (cfcql.policy_table()[0].argmax(-1) == np.arange(5) % 3).mean() > 0.9


@pytest.mark.parametrize("task", ["mpe/world-flee-v1", "mamujoco/halfcheetah-6x1-v1"])
def test_heterogeneous_teams_train_and_their_padding_is_never_played(task):
    spec = registry.task(task).spec
    data = toy_dataset(spec, n_episodes=2)
    cfcql = fit(CFCQL, data, 5, width=16, batch_size=16, weights="softmax")
    act = cfcql.act(data.obs[None, :3], None, None, 0, False)
    widths = np.repeat([g.act_dim for g in spec.groups], [g.n_agents for g in spec.groups])
    assert not act[0][:, np.arange(spec.act_dim) >= widths[:, None]].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "learned"}, r"--config.weights is 'learned', expected uniform or softmax"),
        ({"tau_lambda": -1.0}, r"--config.tau_lambda is -1.0, expected 0 to"),
        ({"policy_delay": 0}, r"--config.policy_delay is 0, expected 1 to"),
        ({"target_noise": float("inf")}, r"--config.target_noise is inf"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        CFCQL(CFCQL.Config(**options), TEAM, (0,))
