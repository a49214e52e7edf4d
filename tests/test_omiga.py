"""OMIGA: losses against naive formulas, what (3) is least at, learning, options."""

import copy
import math

import pytest
import torch

from algorithms.nn.team import rows_of
from algorithms.omiga import OMIGA, OMIGAConfig
from benchmark.checks.fixtures import CHOICE, POPULATION, TEAM
from benchmark.errors import UserError
from tests.insample import (
    CONTINUOUS,
    DISCRETE,
    PlainValues,
    grown,
    living_mean,
    plain_log_prob,
    played,
)


def naive(omiga, batch, k):
    """(2), (3) and (4) of seed k, agent by agent."""
    team, config, rows = omiga.team, omiga.config, rows_of(batch, omiga.spec)
    agents = range(omiga.spec.n_agents)
    x = list(team.encoder(rows.obs, rows.step)[k])
    after = list(team.encoder(rows.next_obs, rows.step + 1)[k])
    a = list(rows.act[k])
    fast, slow = PlainValues(team, team.values, k), PlainValues(team, team.slow, k)
    rew = rows.rew[k].mean(0) * team.reward_scale[0, 0]
    target = rew + config.gamma * (1 - batch.terminated[k, :, 0]) * slow.v_total(after)
    critic = (fast.q_total(x, a) - target.detach()).square().mean()
    w, _ = slow.mix(x)
    z = [(w[i] * (slow.q(i, x, a) - fast.v(i, x)) / config.alpha).detach() for i in agents]
    assert max(float(z[i].max()) for i in agents) < config.clip
    top = max(max(float(z[i].max()) for i in agents), -1.0)
    value = [
        math.exp(-top) * (z[i].exp() + w[i] * fast.v(i, x) / config.alpha).mean() for i in agents
    ]
    policy = [
        -living_mean(z[i].exp() * plain_log_prob(team, k, i, x[i], a[i]), rows.alive[k, i])
        for i in agents
    ]
    return {
        "critic_loss": critic,
        "value_loss": sum(value) / len(value),
        "policy_loss": sum(policy) / len(policy),
    }


@pytest.mark.parametrize("spec", [TEAM, CHOICE], ids=lambda spec: spec.id)
@pytest.mark.parametrize("std", ["shared", "state"])
def test_losses_are_those_of_a_naive_learner(spec, std):
    omiga, batch = grown(OMIGA, spec, std=std, alpha=2.0)
    losses = omiga.update(copy.deepcopy(batch))
    omiga, _ = grown(OMIGA, spec, std=std, alpha=2.0)
    for k in range(2):
        for name, wanted in naive(omiga, batch, k).items():
            torch.testing.assert_close(losses[name][k], wanted.detach(), rtol=1e-4, atol=1e-5)


def gradient_of_value(omiga, q, v):
    """d L_V / d V of one agent with w = 1, scaled as L_V is."""
    v = torch.full_like(q, v).requires_grad_()
    alpha = omiga.config.alpha
    loss = omiga._value_loss((q - v) / alpha, v / alpha).sum()
    return float(torch.autograd.grad(loss, v)[0].sum())


def test_a_value_is_least_where_ratios_have_mean_one():
    omiga, _ = grown(OMIGA, TEAM)
    q = torch.randn(1, 1, 512, generator=torch.Generator().manual_seed(0)) * 0.3
    alpha = omiga.config.alpha
    best = float(alpha * (q / alpha).exp().mean().log())
    assert q.mean() < best < q.max()
    assert gradient_of_value(omiga, q, best) == pytest.approx(0, abs=1e-5)
    assert gradient_of_value(omiga, q, best + 0.2) > 0 > gradient_of_value(omiga, q, best - 0.2)


def test_a_value_far_below_rises_unless_the_gradient_is_cut():
    q = torch.zeros(1, 1, 16)
    sound, _ = grown(OMIGA, TEAM)
    cut, _ = grown(OMIGA, TEAM, cut_gradient=True)
    assert gradient_of_value(sound, q, -20.0) < 0  # descent raises V
    assert gradient_of_value(cut, q, -20.0) > 0  # and here lowers it further


def test_slow_copies_follow():
    omiga, batch = grown(OMIGA, TEAM, tau=0.25)
    before = copy.deepcopy(omiga.team.slow)
    omiga.update(batch)
    for old, new, now in zip(
        before.parameters(),
        omiga.team.slow.parameters(),
        omiga.team.values.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * now.detach())


def test_agents_of_a_population_are_teams_of_one():
    omiga, batch = grown(OMIGA, POPULATION)
    rows = omiga.team.rows(batch)
    features = omiga.team.encoder(rows.obs, rows.step)
    assert torch.equal(omiga.team.values.v_total(features), omiga.team.values.v(features))
    torch.testing.assert_close(
        rows.rew[:, 0].unflatten(1, (-1, 8)), batch.rew[:, :, 0] * omiga.team.reward_scale
    )


@pytest.mark.parametrize(("spec", "imitated"), [(CONTINUOUS, -0.5), (DISCRETE, 0.5)])
def test_it_plays_better_than_its_data(spec, imitated):
    assert played(OMIGA, spec, 150, alpha=0.2).mean() > imitated + 0.15


def test_a_large_alpha_imitates():
    assert played(OMIGA, DISCRETE, 150, alpha=1e4).mean() == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", 0.0), ("clip", -1.0), ("gamma", 1.1), ("tau", 0.0), ("lr", float("nan"))],
)
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(UserError, match=rf"^--config\.{name} is .*, expected .*\.$"):
        OMIGA(OMIGAConfig(**{name: value}), TEAM, (0,))


def test_a_word_that_is_none_of_the_choices_is_named():
    with pytest.raises(UserError, match=r"--config\.std is 'wide', expected shared or state\."):
        OMIGA(OMIGAConfig(std="wide"), TEAM, (0,))
