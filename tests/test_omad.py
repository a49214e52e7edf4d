"""OMAD, its controls and its offline adaptation, against the formulas written out one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import algorithms
from algorithms.nn.dime import DiffusionPolicy, cosine_steps
from algorithms.nn.distributional import atoms, cross_entropy, mean, project
from algorithms.nn.online import clip_by_norm
from algorithms.nn.stacked import generators
from algorithms.omad_off import EDGE, ReadingPolicy
from benchmark import checkpoint, registry
from benchmark.algorithm import Algorithm
from benchmark.checks.algorithm import AlgorithmSubject, check_algorithm
from benchmark.checks.fixtures import POPULATION, TEAM, ToyDataset, toy_dataset
from benchmark.errors import UserError
from tests.test_online import make_run, trainer_of

ONLINE = ("omad", "masac", "matd3")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class OnToys(AlgorithmSubject):
    """An online algorithm on logged transitions: its updates do not ask where a batch is from."""

    def obstacle(self, data: ToyDataset) -> str:
        missing = self.cls.requires - data.spec.properties()
        return f"{data.spec.id} is not {sorted(missing)[0]}" if missing else ""


@pytest.mark.parametrize("name", ONLINE)
def test_online_algorithms_keep_the_contract_on_logged_transitions(name: str) -> None:
    cls = algorithms.registry().cls(name)
    results = check_algorithm(OnToys(name, cls, config=cls.small))
    assert [result.line() for result in results if not result.ok] == []


def build(name: str, seeds=(0,), spec=TEAM, **overrides: Any) -> Any:
    cls: Any = algorithms.registry().cls(name)
    return cls(cls.Config(**(cls.small | overrides)), spec, seeds)


def batch_of(group: Algorithm, seeds=(0,)) -> Any:
    rngs = [np.random.default_rng([seed, 0]) for seed in seeds]
    return toy_dataset(group.spec).transitions(rngs, group.config.batch_size)


def awake(policy: DiffusionPolicy) -> DiffusionPolicy:
    """The policy with a network that is far from zero, as after some training."""
    with torch.no_grad():
        policy.net.linears[-1].weight.mul_(1e9)
    return policy


# --------------------------------------------------------------------------- value distributions
def test_projection_is_that_of_c51() -> None:
    support = atoms(-2.0, 3.0, 11)
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(11), 5)
    z = rng.uniform(-4, 5, (5, 11))
    wanted = np.zeros((5, 11))
    for i in range(5):
        for j in range(11):
            at = (min(max(z[i, j], -2.0), 3.0) + 2.0) / 0.5
            low, high = math.floor(at), math.ceil(at)
            wanted[i, low] += p[i, j] * (high - at if high > low else 1.0)
            wanted[i, high] += p[i, j] * (at - low)
    found = project(torch.tensor(p), torch.tensor(z), support.double())
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)
    inside = torch.tensor(rng.uniform(-2, 3, (5, 11)))  # there, means are kept
    moved = project(torch.tensor(p), inside, support.double())
    expected = (torch.tensor(p) * inside).sum(-1)
    np.testing.assert_allclose((moved * support).sum(-1), expected, atol=1e-6)


def test_cross_entropy_and_mean_as_written() -> None:
    logits, target = torch.randn(4, 7), torch.rand(4, 7).softmax(-1)
    p = logits.softmax(-1)
    wanted = [
        sum((0.005 * p[i, j] - target[i, j]) * math.log(p[i, j]) for j in range(7))
        for i in range(4)
    ]
    np.testing.assert_allclose(cross_entropy(target, logits, 0.005), wanted, rtol=1e-5)
    support = atoms(0.0, 6.0, 7)
    wanted = [sum(p[i, j] * j for j in range(7)) for i in range(4)]
    np.testing.assert_allclose(mean(logits, support), wanted, rtol=1e-5)


# ------------------------------------------------------------------------------ diffusion policies
def test_path_costs_are_the_densities_of_the_two_kernels() -> None:
    """(1) to (4) of dime.py, one row and one dimension at a time, by torch's own densities."""
    policy = awake(DiffusionPolicy(generators([0]), TEAM, (16,), 4, 2.5, 0.3))
    features, noise = torch.randn(1, 2, 16, 5), torch.randn(1, 5, 2, 16, 2)
    act, run, term = (part.detach() for part in policy(features, noise))
    rate = policy.rate()[0, 0, 0, 0].item()
    assert rate == pytest.approx(0.3)
    prior = Normal(0.0, 2.5)
    for i, n_dims in ((0, 2), (1, 1)):  # the second agent's second dimension is padding
        for row in range(3):
            x = torch.zeros(2)
            x[:n_dims] = 2.5 * noise[0, 0, i, row, :n_dims]
            log_prior, log_w = prior.log_prob(x[:n_dims]).sum(), torch.zeros(())
            for k in range(4):
                eta = rate * cosine_steps(4)[k].item()
                cell = features[:, :, :, :].clone()
                whole = torch.zeros(1, 2, 16, 2)
                whole[0, i, row] = x
                f = policy.drift(cell, whole, k)[0, i, row].detach()
                spread = math.sqrt(2 * eta)
                forward = Normal((x + eta * (f - x / 6.25))[:n_dims], spread)
                after = torch.zeros(2)
                after[:n_dims] = forward.mean + spread * noise[0, k + 1, i, row, :n_dims]
                backward = Normal((after - eta * after / 6.25)[:n_dims], spread)
                log_w += backward.log_prob(x[:n_dims]).sum()
                log_w -= forward.log_prob(after[:n_dims]).sum()
                x = after
            squash = torch.log(1 - torch.tanh(x[:n_dims].double()) ** 2).sum()
            np.testing.assert_allclose(act[0, i, row], torch.tanh(x), atol=1e-5)
            np.testing.assert_allclose(run[0, i, row], -(log_w + squash), rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(term[0, i, row], log_prior, rtol=1e-5)
    assert act[0, 1, :, 1].abs().max() == 0


@pytest.mark.parametrize(("scale", "gap"), [(2.0, None), (0.05, 0.02)])
def test_entropy_bound_lies_below_the_entropy_and_meets_it_for_small_steps(scale, gap) -> None:
    """Without a network x_0 is Gaussian, and its entropy before tanh is known."""
    policy = DiffusionPolicy(generators([0]), TEAM, (16,), 8, 2.5, scale)
    noise = torch.randn(1, 9, 2, 40_000, 2, generator=torch.Generator().manual_seed(1))
    act, run, term = policy(torch.zeros(1, 2, 40_000, 5), noise)
    x = torch.atanh(act[0, 1, :, 0].double().clamp(-1 + 1e-9, 1 - 1e-9))
    squash = torch.log1p(-(act[0, 1, :, 0].double() ** 2))
    kept = squash > -14  # beyond, float32 has no more digits of 1 - tanh(x)^2
    bound = (-(run + term)[0, 1].double() - squash)[kept].mean().item()
    variance = 2.5**2
    for dt in cosine_steps(8).tolist():
        eta = scale * dt
        variance = variance * (1 - eta / 6.25) ** 2 + 2 * eta
    assert x[kept].var().item() == pytest.approx(variance, rel=0.03)
    entropy = 0.5 * math.log(2 * math.pi * math.e * variance)
    assert bound < entropy + 0.02
    if gap is not None:
        assert bound > entropy - gap


def test_a_step_of_the_offline_chain_has_the_mean_given_the_action_that_is_read() -> None:
    """(3) and (4) of omad_off, by conditioning the Gaussian of a chain that is written out."""
    steps, prior = 5, 1.3
    policy = awake(ReadingPolicy(generators([0]), TEAM, (16,), steps, prior, 0.6))
    features, act = torch.randn(1, 2, 16, 5), torch.rand(1, 2, 16, 2) * 2.4 - 1.2
    act = act.clamp(-1, 1) * policy.mask
    index = torch.arange(16).remainder(steps).expand(1, 2, -1)
    noise = torch.randn(1, 2, 16, 2)
    found = policy.matching_loss(features, act, index, noise).detach()
    dt = (0.6 * cosine_steps(steps)).tolist()
    for i, n_dims in ((0, 2), (1, 1)):
        for row in range(steps):
            k = int(index[0, i, row])  # position in the order of denoising
            start = torch.atanh(act[0, i, row].clamp(-EDGE, EDGE))
            mu, var = [1.0], [0.0]  # of x_j | x_0, in units of x_0, from the action outwards
            for j in reversed(range(k + 1, steps)):
                mu.append(mu[-1] * (1 - dt[j] / prior**2))
                var.append(var[-1] * (1 - dt[j] / prior**2) ** 2 + 2 * dt[j])
            shrink = 1 - dt[k] / prior**2
            inner = torch.tensor([[var[-1], shrink * var[-1]], [shrink * var[-1], 0.0]])
            inner[1, 1] = shrink**2 * var[-1] + 2 * dt[k]
            x = torch.zeros(2)
            x[:n_dims] = (shrink * mu[-1] * start + inner[1, 1].sqrt() * noise[0, i, row])[:n_dims]
            whole = torch.zeros(1, 2, 16, 2)
            whole[0, i, row] = x
            h = policy.read(features, whole, index)[0, i, row].detach()
            given = features, shrink * mu[-1] * whole, k  # h sees what is left of the signal
            np.testing.assert_allclose(
                h, DiffusionPolicy.drift(policy, *given)[0, i, row].detach(), rtol=1e-4, atol=1e-6
            )
            error = ((h - start) ** 2)[:n_dims].sum()
            np.testing.assert_allclose(found[0, i, row], error, rtol=2e-3, atol=1e-4)
            gain = inner[0, 1] / inner[1, 1]
            posterior = mu[-1] * h + gain * (x - shrink * mu[-1] * h)
            f = policy.drift(features, whole, k)[0, i, row].detach()
            step = x + dt[k] * (f - x / prior**2)
            np.testing.assert_allclose(step, posterior, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------- OMAD
def test_critic_of_omad_learns_the_entropy_augmented_projection() -> None:
    """(4), row by row and atom by atom."""
    group = build("omad", v_min=-5.0, v_max=5.0, alpha=0.3, gamma=0.9)
    awake(group.policy)
    batch = batch_of(group)
    batch.terminated[:, ::2] = 1.0
    noise = group._draw(64)
    from algorithms.nn.online import team_of

    team = team_of(batch, group.encoder, TEAM)
    loss, _ = group._critic_gradients(team, group.log_alpha[:, :1].exp(), noise)
    act, run, term = (part.detach() for part in group.policy(team.after, noise))
    support = group.support.tolist()

    def heads_of(net: Any, obs: Any, actions: Any, row: int) -> Any:
        joint = torch.cat([obs[0, :, row].flatten(), actions[0, :, row].flatten()])
        rows = joint.expand(1, 1, 2, 16, -1)
        return net(rows)[0, 0, :, 0].detach()

    total = 0.0
    for row in range(64):
        cost = float((run + term)[0, :, row].sum())  # the bounds of the agents add up
        reward = float(batch.rew[0, row, 0].mean())
        keep = 0.9 * (1.0 - float(batch.terminated[0, row, 0]))
        p = heads_of(group.target, team.after, act, row).softmax(-1).mean(0)
        target = np.zeros(101)
        for m in range(101):
            z = min(max(reward - keep * 0.3 * cost + keep * support[m], -5.0), 5.0)
            at = (z + 5.0) / 0.1
            low = min(math.floor(at), 99)
            target[low] += float(p[m]) * (1 - (at - low))
            target[low + 1] += float(p[m]) * (at - low)
        for head in heads_of(group.critic, team.features, team.act, row):
            logp = head.log_softmax(-1).numpy()
            total += float(-(target * logp).sum() + 0.005 * (np.exp(logp) * logp).sum())
    assert float(loss) == pytest.approx(total / 64, rel=1e-3)


def test_one_step_of_the_actors_moves_every_policy() -> None:
    group = build("omad", policy_delay=1)
    before = [p.detach().clone() for p in group.policy.net.parameters()]
    group.update(batch_of(group))
    for old, new in zip(before, group.policy.net.parameters(), strict=True):
        assert all((old[0, i] != new[0, i]).any() for i in range(2))


def test_actor_loss_weighs_the_summed_cost_by_alpha() -> None:
    group = build("omad", alpha=0.7)
    from algorithms.nn.online import team_of

    team, noise = team_of(batch_of(group), group.encoder, TEAM), group._draw(64)
    loss, entropy, run_cost, _ = group._actor_gradients(team, torch.full((1, 1), 0.7), noise)
    act, run, term = (part.detach() for part in group.policy(team.features, noise))
    joint = torch.cat([x.transpose(1, 2).flatten(2) for x in (team.features, act)], -1)
    z = group.critic(joint[:, None, None].expand(-1, 1, 2, -1, -1)).softmax(-1) * group.support
    cost = (run + term).sum(1).mean()
    wanted = 0.7 * cost - z.sum(-1).mean().detach()
    assert float(loss) == pytest.approx(float(wanted), rel=1e-4)
    assert float(entropy) == pytest.approx(-float(cost), rel=1e-4)
    assert float(run_cost) == pytest.approx(float(run.sum(1).mean()), rel=1e-4)


@pytest.mark.parametrize(("target", "rises"), [(-100.0, True), (100.0, False)])
def test_temperature_rises_where_the_running_cost_exceeds_its_target(target, rises) -> None:
    group = build("omad", target_cost=target, policy_delay=1)
    before = group.log_alpha.clone()
    group.update(batch_of(group))
    assert bool((group.log_alpha > before).all()) is rises
    assert group.n_dims == 3  # two and one: padding is no dimension
    fixed = build("omad", target_cost=target, policy_delay=1, learn_alpha=False)
    fixed.update(batch_of(fixed))
    assert torch.equal(fixed.log_alpha, before)


def test_gradients_are_clipped_seed_by_seed() -> None:
    big, small = torch.full((3,), 10.0), torch.full((3,), 0.01)
    clipped = clip_by_norm([torch.stack([big, small]), torch.stack([big, small])], 1.0)
    norms = torch.stack(clipped).square().sum((0, 2)).sqrt()
    assert norms[0] == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(clipped[0][1], small)


def test_critics_of_the_controls_as_written() -> None:
    """(1) of masac and of matd3 on one batch."""
    from algorithms.nn.online import team_of

    for name in ("masac", "matd3"):
        group = build(name)
        batch = batch_of(group)
        batch.terminated[:, ::3] = 1.0
        team = team_of(batch, group.encoder, TEAM)
        noise = torch.randn(team.act.shape).clamp(-0.5, 0.5)
        keep = 0.99 * (1 - batch.terminated[0, :, 0])
        target_net = group.target if name == "masac" else group.target_critic

        def values(net: Any, obs: Any, act: Any) -> Any:
            joint = torch.cat([x.transpose(1, 2).flatten(2) for x in (obs, act)], -1)
            return net(joint[:, None, None].expand(-1, 1, 2, -1, -1))[0, 0, :, :, 0]

        if name == "masac":
            loss, _ = group._critic_gradients(team, torch.full((1, 1), 0.2), noise)
            act, logp = group.policy.sample(team.after, noise)
            after = values(target_net, team.after, act).amin(0) - 0.2 * logp[0].sum(0)
        else:
            loss, _ = group._critic_gradients(team, noise)
            act = (group.target_policy(team.after) + noise).clamp(-1, 1) * group.action_mask
            after = values(target_net, team.after, act).amin(0)
        y = batch.rew[0, :, 0].mean(-1) + keep * after
        q = values(group.critic, team.features, team.act)
        wanted = (q - y).square().sum(0).mean().detach()
        assert float(loss) == pytest.approx(float(wanted), rel=1e-4)


# --------------------------------------------------------------------------------------- learning
@pytest.mark.parametrize("name", ONLINE)
def test_teams_agree_on_a_mode_of_the_bandit(tmp_path: Path, name: str) -> None:
    """Both answers pay 1; agents that averaged them, or chose alone, would be paid 0."""
    overrides: dict[str, Any] = {"lr": 3e-3, "utd": 0.25, "warmup": 64, "n_envs": 16}
    if name == "omad":
        overrides |= {"v_min": -3.0, "v_max": 3.0, "alpha": 0.01, "lr_alpha": 3e-3}
    if name == "masac":
        overrides |= {"alpha": 0.05}
    task = registry.task("probe/bandit-v1")
    trainer = trainer_of(make_run(tmp_path, task, (0,), 250, row=name, **overrides))
    trainer._prepare()
    for _ in range(250):
        trainer.group.update(trainer._batch())
        trainer.step += 1
    act = trainer.group.act(np.ones((1, 1, 2, 1), np.float32), None, None, 0, True)
    assert float(act[0, 0, 0, 0] * act[0, 0, 1, 0]) > 0.8


def test_offline_adaptation_imitates_with_lambda_and_drifts_without() -> None:
    """The matching loss falls with the behaviour term, and is no part of the loss without."""
    found = {}
    for weight in (1.0, 0.0):
        group = build("omad_off", imitation=weight, lr=3e-3)
        data, rngs = toy_dataset(TEAM), [np.random.default_rng(0)]
        group.prepare(data, 60, rngs)
        losses = [group.update(group.sample(data, rngs)) for _ in range(60)]
        found[weight] = [float(loss["imitation_loss"]) for loss in losses]
        held = group.last["actor_loss"] - weight * group.last["imitation_loss"]
        assert abs(float(held)) < 20  # -Q / |Q|
    assert np.mean(found[1.0][-10:]) < 0.7 * np.mean(found[1.0][2:6])
    assert np.mean(found[0.0][-10:]) > np.mean(found[1.0][-10:])


def test_offline_adaptation_noises_data_until_they_reach_the_prior() -> None:
    """Difference 3 of omad_off: what score matching teaches must be what play starts from."""
    cls: Any = algorithms.registry().cls("omad_off")
    config = cls.Config()
    signal, variance = 1.0, 0.0
    for dt in reversed((config.step_scale * cosine_steps(config.denoising_steps)).tolist()):
        shrink = 1 - dt / config.prior**2
        signal, variance = signal * shrink, variance * shrink**2 + 2 * dt
    assert signal < 0.1
    assert variance == pytest.approx(config.prior**2, rel=0.5)


# ----------------------------------------------------------------------------------------- options
@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("omad", {"v_min": 1.0, "v_max": 1.0}, "--config.v_min is 1.0, expected less than v_max"),
        ("omad", {"denoising_steps": 0}, "--config.denoising_steps is 0, expected 1 to 1000"),
        ("omad", {"gamma": 1.5}, "--config.gamma is 1.5, expected 0 to 1"),
        ("masac", {"alpha": 0.0}, "--config.alpha is 0.0, expected 1e-12 to 1e\\+06"),
        ("matd3", {"policy_delay": 0}, "--config.policy_delay is 0, expected 1 to"),
        ("omad_off", {"imitation": -1.0}, "--config.imitation is -1.0, expected 0 to"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, overrides: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(name, **overrides)


@pytest.mark.parametrize("name", [*ONLINE, "omad_off"])
def test_populations_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="sees all agents side by side"):
        build(name, spec=POPULATION)


def test_state_of_omad_fits_a_checkpoint_and_counts_its_parameters() -> None:
    group = build("omad", (0, 1))
    group.update(batch_of(group, (0, 1)))
    checkpoint.flatten(group.state_dict())
    policy = 2 * ((5 + 2 + 8) * 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2 + 2)
    critic = 2 * ((2 * 7) * 32 + 32 + 32 * 32 + 32 + 4 * 32 + 32 * 101 + 101)
    assert group.cost() == {"parameters": policy + critic, "sampler_steps": 3}
