"""ComaDICE: its divergence, losses against naive formulas, why Q cannot be held fixed, learning."""

import copy

import pytest
import torch

from algorithms.comadice import ComaDICE, ComaDICEConfig, conjugate, divergence, ratio
from algorithms.nn.encode import to_rows
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

X = torch.linspace(-3, 3, 61, dtype=torch.float64)


def soft_chi_square(omega):
    """f of (3)."""
    entropy = torch.special.xlogy(omega, omega) - omega + 1
    return torch.where(omega < 1, entropy, (omega - 1).square() / 2)


def test_the_ratio_is_where_the_conjugate_is_reached():
    omega = torch.linspace(0, 6, 60_001, dtype=torch.float64)
    lines = omega * X[:, None] - soft_chi_square(omega)
    best, index = lines.max(-1)
    torch.testing.assert_close(conjugate(X), best, rtol=0, atol=1e-7)
    torch.testing.assert_close(ratio(X), omega[index], rtol=0, atol=1e-4)
    torch.testing.assert_close(divergence(X), soft_chi_square(ratio(X)))
    torch.testing.assert_close(conjugate(X), ratio(X) * X - divergence(X))


def test_the_ratio_is_the_slope_of_the_conjugate():
    x = X.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(conjugate(x).sum(), x)[0], ratio(X))
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(conjugate(far).sum(), far)[0]).all()


def initial(comadice):
    """The initial states that the next update draws."""
    gens = [torch.Generator() for _ in comadice.noise]
    for gen, own in zip(gens, comadice.noise, strict=True):
        gen.set_state(own.get_state())
    drawn = [torch.randint(len(comadice.first), (48,), generator=gen) for gen in gens]
    return to_rows(comadice.first[torch.stack(drawn)], comadice.spec)


def naive(comadice, batch, k):
    """(2), (4) and (5) of seed k, agent by agent."""
    team, config, agents = comadice.team, comadice.config, range(2)
    rows = team.rows(batch)
    x = list(team.encoder(rows.obs, rows.step)[k])
    after = list(team.encoder(rows.next_obs, rows.step + 1)[k])
    first = initial(comadice)
    start = list(team.encoder(first, torch.zeros(first.shape[:-1], dtype=torch.int64))[k])
    a, alive = list(rows.act[k]), rows.alive[k]
    fast, slow = PlainValues(team, team.values, k), PlainValues(team, team.slow, k)
    shift, alpha = comadice.shift[k, 0, 0], config.alpha
    rew = batch.rew[k, :, 0].mean(-1) * team.reward_scale[0, 0]
    discount = config.gamma * (1 - batch.terminated[k, :, 0])
    critic = (fast.q_total(x, a) - rew - discount * slow.v_total(after)).square().mean()

    def advantages(values):
        w, _ = values.mix(x)
        return [w[i] * (values.q(i, x, a) - fast.v(i, x)) for i in agents]

    if config.value_loss == "released":
        e = torch.stack(advantages(fast))
        e = e.sum(0, keepdim=True) if config.ratio == "team" else e
        omega = ratio((e - shift) / alpha)
        parts = omega * (e - shift) - alpha * soft_chi_square(omega)
        level = torch.stack([fast.v(i, start).mean() for i in agents]).mean()
    else:
        level = fast.v_total(start).mean()
        if config.value_loss == "dual":
            e = rew + discount * fast.v_total(after) - fast.v_total(x)
        else:
            e = sum(advantages(fast))
        omega = ratio((e - shift) / alpha)
        parts = omega * (e - shift) - alpha * soft_chi_square(omega)
    value = (1 - config.gamma) * level + parts.mean() + shift
    e = torch.stack(advantages(slow))
    e = e.sum(0, keepdim=True) if config.ratio == "team" else e
    weight = ratio((e - shift) / alpha).sum(0).detach()
    policy = [
        -living_mean(weight * plain_log_prob(team, k, i, x[i], a[i]), alive[i]) for i in agents
    ]
    return {"critic_loss": critic, "value_loss": value, "policy_loss": sum(policy) / 2}


@pytest.mark.parametrize("spec", [TEAM, CHOICE], ids=lambda spec: spec.id)
@pytest.mark.parametrize(
    "config",
    [{}, {"value_loss": "fixed_q"}, {"value_loss": "released", "ratio": "agents"}],
    ids=str,
)
def test_losses_are_those_of_a_naive_learner(spec, config):
    comadice, batch = grown(ComaDICE, spec, **config)
    wanted = [naive(comadice, batch, k) for k in range(2)]
    losses = comadice.update(copy.deepcopy(batch))
    for k in range(2):
        for name, value in wanted[k].items():
            torch.testing.assert_close(losses[name][k], value.detach(), rtol=1e-4, atol=1e-5)


def value_loss(comadice, batch, rise=0.0, shift=0.0):
    """L_V of a population (w = 1) with all V raised and lambda moved."""
    team = comadice.team
    with torch.no_grad():
        team.values.value.linears[-1].bias += rise
        comadice.shift += shift
        rows, first = team.rows(batch), initial(comadice)
        x = team.encoder(rows.obs, rows.step)
        after = team.encoder(rows.next_obs, rows.step + 1)
        loss = comadice._value_loss(rows, x, after, first)
        team.values.value.linears[-1].bias -= rise
        comadice.shift -= shift
    return loss


def test_with_q_held_fixed_the_loss_has_no_lower_bound_and_the_dual_has():
    c = 3.0
    fixed, batch = grown(ComaDICE, POPULATION, value_loss="fixed_q")
    batch.terminated = torch.zeros_like(batch.terminated)
    gamma = fixed.config.gamma
    change = value_loss(fixed, batch, c, -c) - value_loss(fixed, batch)
    torch.testing.assert_close(change, torch.full_like(change, -gamma * c), rtol=1e-3, atol=1e-3)
    dual, _ = grown(ComaDICE, POPULATION)
    change = value_loss(dual, batch, c, -(1 - gamma) * c) - value_loss(dual, batch)
    torch.testing.assert_close(change, torch.zeros_like(change), rtol=0, atol=1e-3)


def test_lambda_stands_still_where_the_ratio_has_mean_one():
    comadice, batch = grown(ComaDICE, POPULATION)
    rows, first = comadice.team.rows(batch), initial(comadice)
    x = comadice.team.encoder(rows.obs, rows.step)
    after = comadice.team.encoder(rows.next_obs, rows.step + 1)
    values, gamma = comadice.team.values, comadice.config.gamma
    e = rows.rew + gamma * (1 - rows.ended) * values.v(after) - values.v(x)
    mean = ratio((e - comadice.shift[..., :1]) / comadice.config.alpha).mean((1, 2))
    loss = comadice._value_loss(rows, x, after, first).sum()
    (slope,) = torch.autograd.grad(loss, [comadice.shift])
    torch.testing.assert_close(slope[:, 0, 0], 1 - mean.detach(), rtol=1e-4, atol=1e-5)
    assert not slope[..., 1:].any()


@pytest.mark.parametrize(("spec", "imitated"), [(CONTINUOUS, -0.5), (DISCRETE, 0.5)])
@pytest.mark.parametrize(
    "config", [{}, {"value_loss": "released", "ratio": "agents"}], ids=["dual", "released"]
)
def test_it_plays_better_than_its_data(spec, imitated, config):
    assert played(ComaDICE, spec, 150, alpha=0.2, **config).mean() > imitated + 0.15


@pytest.mark.parametrize(("name", "value"), [("alpha", 0.0), ("batch_size", 0)])
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(UserError, match=rf"^--config\.{name} is .*, expected .*\.$"):
        ComaDICE(ComaDICEConfig(**{name: value}), TEAM, (0,))


def test_a_word_that_is_none_of_the_choices_is_named():
    with pytest.raises(UserError, match=r"--config\.ratio is 'all', expected team or agents\."):
        ComaDICE(ComaDICEConfig(ratio="all"), TEAM, (0,))
