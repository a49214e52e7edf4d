"""Stochastic policies against torch.distributions; choice among allowed actions."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from algorithms.nn import heads
from algorithms.nn.heads import StochasticPolicy, choose
from algorithms.nn.stacked import generators
from benchmark.checks.fixtures import CHOICE, TEAM

WIDTHS = (2, 1)  # action widths of TEAM


def policy_of(spec, seeds=(3, 5), **options):
    policy = StochasticPolicy(generators(seeds), spec, [32], **options)
    if policy.log_std is not None:
        policy.log_std.data.copy_(torch.linspace(-1, 0.5, policy.log_std.numel()).reshape(
            policy.log_std.shape
        ))  # fmt: skip
    return policy


def features_of(spec, seeds=(3, 5), rows=16):
    gen = torch.Generator().manual_seed(1)
    return torch.randn(len(seeds), spec.n_agents, rows, spec.obs_dim, generator=gen)


def law_of(policy, features, k, i):
    """The distribution of agent i of seed k over its own dimensions."""
    output = policy.body(features)[k, i]
    if policy.log_std is None:
        mean, log_std = output.chunk(2, -1)
    else:
        mean, log_std = output, policy.log_std[k, i, :, :2].expand_as(output)
    own = slice(0, WIDTHS[i])
    normal = Normal(mean[:, own], log_std.exp()[:, own])
    return Independent(TransformedDistribution(normal, [TanhTransform(cache_size=1)]), 1)


@pytest.mark.parametrize("shared_std", [False, True])
def test_the_density_of_logged_actions_is_that_of_a_squashed_gaussian(shared_std):
    policy, features = policy_of(TEAM, shared_std=shared_std), features_of(TEAM)
    act = torch.rand(2, 2, 16, 2, generator=torch.Generator().manual_seed(2)) * 1.9 - 0.95
    density = policy.log_prob(features, act)
    for k in range(2):
        for i in range(2):
            wanted = law_of(policy, features, k, i).log_prob(act[k, i, :, : WIDTHS[i]])
            torch.testing.assert_close(density[k, i], wanted)


@pytest.mark.parametrize("shared_std", [False, True])
def test_samples_follow_their_law_and_know_their_density(shared_std):
    policy, features = policy_of(TEAM, shared_std=shared_std), features_of(TEAM)
    noise = torch.randn(2, 2, 16, 2, generator=torch.Generator().manual_seed(2))
    act, density = policy.sample(features, noise)
    assert (act.abs() <= 1).all()
    assert not act[:, 1, :, 1].any()  # padding
    for k in range(2):
        for i in range(2):
            law = law_of(policy, features, k, i)
            base = law.base_dist.base_dist
            torch.testing.assert_close(
                act[k, i, :, : WIDTHS[i]],
                torch.tanh(base.loc + base.scale * noise[k, i, :, : WIDTHS[i]]),
            )
            inner = act[k, i, :, : WIDTHS[i]].clamp(-0.9999, 0.9999)
            same = (inner == act[k, i, :, : WIDTHS[i]]).all(-1)
            wanted = law.log_prob(inner)[same]
            torch.testing.assert_close(density[k, i][same], wanted, rtol=1e-3, atol=1e-3)


def test_a_density_integrates_to_one():
    policy, features = policy_of(TEAM, shared_std=True), features_of(TEAM, rows=1)
    grid = torch.linspace(-0.99, 0.99, 4001)
    act = torch.stack([grid, torch.zeros(4001)], -1).expand(2, 2, -1, -1)
    density = policy.log_prob(features.expand(-1, -1, 4001, -1), act).exp()[:, 1]  # one dimension
    inside = law_of(policy, features, 0, 1).base_dist
    covered = inside.cdf(torch.tensor([[0.99]])) - inside.cdf(torch.tensor([[-0.99]]))
    mass = torch.trapezoid(density[0], grid)
    torch.testing.assert_close(mass, covered[0, 0], rtol=1e-3, atol=1e-3)


def test_actions_on_the_edge_count_as_those_just_inside():
    policy, features = policy_of(TEAM), features_of(TEAM)
    edge = torch.ones(2, 2, 16, 2)
    density = policy.log_prob(features, edge)
    assert torch.isfinite(density).all()
    torch.testing.assert_close(density, policy.log_prob(features, edge * (1 - heads.EDGE)))


def test_the_density_of_a_far_sample_does_not_underflow():
    policy, features = policy_of(TEAM), features_of(TEAM)
    noise = torch.full((2, 2, 16, 2), 40.0)
    act, density = policy.sample(features, noise)
    assert (act[:, 0] == 1).all()
    assert torch.isfinite(density).all()


def test_a_mode_is_the_squashed_mean():
    policy, features = policy_of(TEAM), features_of(TEAM)
    mode = policy.mode(features)
    mean = policy.body(features).chunk(2, -1)[0]
    torch.testing.assert_close(mode[:, 0], torch.tanh(mean[:, 0]))
    assert not mode[:, 1, :, 1].any()


def test_a_spread_is_bounded():
    policy, features = policy_of(TEAM, shared_std=True), features_of(TEAM)
    for value, bound in ((-50.0, heads.LOG_STD[0]), (50.0, heads.LOG_STD[1])):
        policy.log_std.data.fill_(value)
        act = torch.zeros(2, 2, 16, 2)
        mean = policy.body(features)[0, 1, :, :1]
        wanted = Normal(mean, torch.tensor(bound).exp()).log_prob(act[0, 1, :, :1]).sum(-1)
        torch.testing.assert_close(policy.log_prob(features, act)[0, 1], wanted)


def test_a_shared_spread_learns_the_spread_of_the_data():
    policy = policy_of(TEAM, seeds=(3,), shared_std=True)
    gen = torch.Generator().manual_seed(2)
    features = torch.zeros(1, 2, 256, 5)
    adam = torch.optim.Adam(policy.parameters(), 2e-2)
    for _ in range(250):
        act = torch.tanh(0.3 + 0.2 * torch.randn(1, 2, 256, 2, generator=gen))
        adam.zero_grad()
        (-policy.log_prob(features, act).mean()).backward()
        adam.step()
    own = torch.cat([policy.log_std[0, 0, 0, :2], policy.log_std[0, 1, 0, :1]])
    torch.testing.assert_close(own.exp(), torch.full((3,), 0.2), rtol=0.1, atol=0)
    mode = policy.mode(features).detach()[0, 0]
    assert float((mode - np.tanh(0.3)).abs().max()) < 0.03


def test_discrete_actions_are_categorical():
    policy, features = policy_of(CHOICE), features_of(CHOICE)
    law = Categorical(logits=policy.body(features))
    act = law.sample()
    torch.testing.assert_close(policy.log_prob(features, act), law.log_prob(act))
    torch.testing.assert_close(policy.probabilities(features).float(), law.probs)
    assert torch.equal(policy.mode(features), law.probs.argmax(-1))
    assert policy_of(CHOICE, shared_std=True).log_std is None


def test_a_seed_is_the_same_alone():
    for shared_std in (False, True):
        group = StochasticPolicy(generators((3, 5)), TEAM, [32], shared_std=shared_std)
        alone = StochasticPolicy(generators((5,)), TEAM, [32], shared_std=shared_std)
        features, act = features_of(TEAM), torch.full((2, 2, 16, 2), 0.3)
        both = group.log_prob(features, act)
        assert torch.equal(both[1:], alone.log_prob(features[1:], act[1:]))


def test_choices_keep_to_allowed_actions_and_their_chances():
    chances = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).expand(1, 20_000, 1, 3)
    drawn = choose(chances, None, [np.random.default_rng(0)])
    counts = np.bincount(drawn.ravel(), minlength=3) / drawn.size
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.2], atol=0.02)
    mask = np.broadcast_to(np.array([False, True, True]), chances.shape)
    drawn = choose(chances, mask, [np.random.default_rng(0)])
    counts = np.bincount(drawn.ravel(), minlength=3) / drawn.size
    np.testing.assert_allclose(counts, [0.0, 0.6, 0.4], atol=0.02)
