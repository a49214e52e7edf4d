"""MA-ICQ: losses against naive formulas, the released target, learning, options."""

import copy

import pytest
import torch

from algorithms.maicq import MAICQ, MAICQConfig, batch_softmax
from benchmark.checks.fixtures import CHOICE, TEAM
from benchmark.errors import UserError
from tests.insample import (
    CONTINUOUS,
    DISCRETE,
    PlainValues,
    grown,
    living_mean,
    plain,
    plain_log_prob,
    played,
)


def naive_softmax(x, counted):
    """B exp(x_b) / sum_b exp(x_b) over what is counted."""
    weight = (x - x[counted > 0].max()).exp() * counted
    return counted.sum() * weight / weight.sum()


def naive(maicq, batch, k):
    """(3) and (4) of seed k, agent by agent."""
    team, config, agents = maicq.team, maicq.config, range(2)
    rows = maicq._pair(batch).now
    x = list(team.encoder(rows.obs, rows.step)[k])
    after = list(team.encoder(rows.next_obs, rows.step + 1)[k])
    a, next_a = ([batch.act[k, :, t, i] for i in agents] for t in (0, 1))
    fast, slow = PlainValues(team, team.values, k), PlainValues(team, team.slow, k)
    ended, follows = batch.terminated[k, :, 0], batch.valid[k, :, 1].float()
    q = slow.q_total(after, next_a)
    goes_on = follows * (1 - ended)
    omega = naive_softmax(q / config.alpha_target, goes_on)
    if not config.batch_factor:
        omega = omega / goes_on.sum()
    rew = batch.rew[k, :, 0].mean(-1) * team.reward_scale[0, 0]
    target = rew + config.gamma * (1 - ended) * omega * q
    usable = ((ended + follows) > 0).float()
    critic = living_mean((fast.q_total(x, a) - target.detach()).square(), usable)
    w, _ = fast.mix(x)
    policy = []
    for i in agents:
        preference = fast.q(i, x, a)
        if config.baseline == "policy" and maicq.spec.discrete:
            chances = plain(team.policy.body, k, i)(x[i]).softmax(-1)
            preference = preference - (fast.critics[i](x[i]) * chances).sum(-1)
        elif config.baseline == "policy":
            preference = preference - fast.q(i, x, list(team.policy.mode(torch.stack(x)[None])[0]))
        alive = batch.alive[k, :, 0, i].float()
        weight = naive_softmax(w[i] * preference / config.alpha, alive).detach()
        policy.append(-living_mean(weight * plain_log_prob(team, k, i, x[i], a[i]), alive))
    return {"critic_loss": critic, "policy_loss": sum(policy) / 2}


@pytest.mark.parametrize("spec", [TEAM, CHOICE], ids=lambda spec: spec.id)
@pytest.mark.parametrize(
    "config",
    [{}, {"baseline": "none", "alpha": 3.0, "alpha_target": 0.7}, {"batch_factor": False}],
    ids=str,
)
def test_losses_are_those_of_a_naive_learner(spec, config):
    maicq, batch = grown(MAICQ, spec, seeds=(4,), **config)
    losses = maicq.update(copy.deepcopy(batch))
    maicq, _ = grown(MAICQ, spec, seeds=(4,), **config)
    for name, wanted in naive(maicq, batch, 0).items():
        torch.testing.assert_close(losses[name][0], wanted.detach(), rtol=1e-4, atol=1e-5)


def test_a_softmax_over_the_batch_has_mean_one():
    x = torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(0)) * 3
    torch.testing.assert_close(batch_softmax(x, None).mean(-1), torch.ones(2, 3))
    counted = (torch.arange(48) % 3 > 0).float().expand(2, 3, -1)
    weights = batch_softmax(x, counted)
    torch.testing.assert_close(weights.sum(-1), counted.sum(-1))
    assert not weights[..., ::3].any()
    assert not batch_softmax(x, torch.zeros(2, 3, 48)).any()  # nobody lives


def test_without_the_batch_factor_almost_nothing_is_bootstrapped():
    """The target is then within gamma |Q'| / B of the reward on average."""
    released, batch = grown(MAICQ, TEAM, batch_factor=False)
    sound, _ = grown(MAICQ, TEAM)
    sound.load_state_dict(released.state_dict())
    gaps = []
    for maicq in (released, sound):
        pair = maicq._pair(batch)
        gaps.append((maicq._target(pair) - pair.now.rew).abs().sum(-1))
    counted = (pair.usable * (1 - pair.now.ended)).sum(-1)
    torch.testing.assert_close(gaps[0] * counted, gaps[1])


@pytest.mark.parametrize("mean", [-300.0, 300.0])
def test_the_bootstrap_contracts_where_values_are_far_from_zero(monkeypatch, mean):
    """Differences between states' values must not grow: with the authors' alpha_target = 1000 they
    are multiplied by 0.99 (1 + 300 / 1000) at every update of the target, and Q diverges."""
    maicq, batch = grown(MAICQ, TEAM)
    pair = maicq._pair(batch)
    goes_on = pair.usable * (1 - pair.now.ended) > 0
    q = mean + 10 * torch.randn(goes_on.shape, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(maicq.team.slow, "q_total", lambda features, act: q)
    bootstrap = (maicq._target(pair) - pair.now.rew)[goes_on]
    assert 0.98 < bootstrap.std() / q[goes_on].std() < 1.0


def test_a_step_cut_by_the_time_limit_has_no_target():
    maicq, batch = grown(MAICQ, TEAM)
    batch.terminated = torch.zeros_like(batch.terminated)
    pair = maicq._pair(batch)
    assert torch.equal(pair.usable[:, 0], batch.valid[:, :, 1].float())
    assert (pair.usable == 0).any()
    batch.terminated = torch.ones_like(batch.terminated)
    assert (maicq._pair(batch).usable == 1).all()


@pytest.mark.parametrize("baseline", ["policy", "none"])
@pytest.mark.parametrize(("spec", "imitated"), [(CONTINUOUS, -0.5), (DISCRETE, 0.5)])
def test_it_plays_better_than_its_data(spec, imitated, baseline):
    assert played(MAICQ, spec, 150, baseline=baseline).mean() > imitated + 0.15


@pytest.mark.parametrize(("name", "value"), [("alpha", 0.0), ("alpha_target", -1.0), ("depth", 0)])
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(UserError, match=rf"^--config\.{name} is .*, expected .*\.$"):
        MAICQ(MAICQConfig(**{name: value}), TEAM, (0,))


def test_a_word_that_is_none_of_the_choices_is_named():
    with pytest.raises(UserError, match=r"--config\.baseline is 'mean', expected policy or none\."):
        MAICQ(MAICQConfig(baseline="mean"), TEAM, (0,))
