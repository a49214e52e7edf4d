"""Diffusion-QL per agent: the schedule, the chain and the losses against naive formulas."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from algorithms.diffusion_ql import DiffusionQL, schedule
from algorithms.nn.team import rows_of
from algorithms.om2p import OM2P
from benchmark import registry
from benchmark.algorithm import build_group
from benchmark.checks.fixtures import TEAM, toy_dataset
from benchmark.errors import UserError
from tests.test_om2p import WIDTHS, plain


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_the_schedule_is_the_papers(steps):
    table, level = schedule(steps), 1.0
    for k in range(1, steps + 1):
        alpha = np.exp(-0.1 / steps - 0.5 * 9.9 * (2 * k - 1) / steps**2)
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
    assert float(table["signal"][-1]) < 0.09  # the chain starts from noise
    assert float(table["spread"][0]) == 0.0


def test_the_posterior_takes_clean_samples_down_one_level():
    """x_k and the true x0 give an x_(k-1) with the mean and spread of (1)."""
    table = schedule(10)
    gen = torch.Generator().manual_seed(0)
    x0 = torch.full((200_000,), 0.6, dtype=torch.float64)
    eps, e = torch.randn(2, 200_000, generator=gen, dtype=torch.float64)
    k = 6
    x = table["signal"][k] * x0 + table["noise"][k] * eps
    x = table["from_x0"][k] * x0 + table["from_x"][k] * x + table["spread"][k] * e
    assert float(x.mean()) == pytest.approx(float(table["signal"][k - 1]) * 0.6, abs=0.01)
    assert float(x.std()) == pytest.approx(float(table["noise"][k - 1]), abs=0.01)


def grown(seeds=(0,), **config):
    data, rngs = toy_dataset(TEAM), [np.random.default_rng(seed) for seed in seeds]
    settings = DiffusionQL.Config(width=32, batch_size=48, **config)
    algorithm = build_group(DiffusionQL, settings, TEAM, seeds)
    algorithm.prepare(data, 1, rngs)
    for _ in range(5):
        algorithm.update(algorithm.sample(data, rngs))
    batch = algorithm.sample(data, rngs)
    gen = torch.Generator().manual_seed(9)
    batch.terminated = (torch.rand(batch.terminated.shape, generator=gen) < 0.3).float()
    batch.alive = torch.rand(batch.rew.shape, generator=gen) < 0.8
    return algorithm, batch


def naive_chain(actor, features, noise, pad, config):
    """Ancestral sampling as the paper writes it, from x_K = noise[0]."""
    steps = config.denoising_steps
    table, x = schedule(steps), noise[0] * pad
    for k in range(steps, 0, -1):
        c = {name: float(value[k - 1]) for name, value in table.items()}
        time = torch.tensor([k / steps, c["noise"]]).expand(len(x), 2)
        if config.predict == "action":
            clean = actor(torch.cat([features, c["signal"] * x, time], -1)).tanh() * pad
        else:
            epsilon = actor(torch.cat([features, x, time], -1)) * pad
            clean = (x - c["noise"] * epsilon) / c["signal"]
        clean = clean + (clean.clamp(-1, 1) - clean).detach()
        x = c["from_x0"] * clean + c["from_x"] * x
        if k > 1:
            x = x + c["spread"] * noise[steps - k + 1] * pad
    return x


@pytest.mark.parametrize(
    "options", [{}, {"denoising_steps": 1}, {"q_agg": "mean", "eta": 0.1, "predict": "action"}]
)
def test_losses_and_gradients_are_those_of_the_equations(options):
    dql, batch = grown((0, 1), **options)
    config, rows, steps = dql.config, rows_of(batch, TEAM), dql.config.denoising_steps
    gen = torch.Generator().manual_seed(3)
    noise = [torch.randn(rows.act.shape, generator=gen) for _ in range(1 + 2 * steps)]
    level = torch.randint(steps, rows.rew.shape, generator=gen)
    losses, gradients = dql._gradients(rows, noise, level)
    table = schedule(steps)
    features = dql.encoder(rows.obs, rows.step)
    after = dql.encoder(rows.next_obs, rows.step + 1)
    for seed in range(2):
        wanted = []
        for i, width in enumerate(WIDTHS):
            pad = (torch.arange(2) < width).float()
            actor, alive = plain(dql.actor, seed, i), rows.alive[seed, i]
            o, o2, a = features[seed, i], after[seed, i], rows.act[seed, i]

            def mean(x, alive=alive):
                return (x * alive).sum() / alive.sum()

            def q(body, o, act, where=(seed, i)):
                x = torch.cat([o, act], -1)
                return torch.stack([plain(body, *where, j)(x)[:, 0] for j in range(2)])

            k = level[seed, i]
            signal, spread = (table[n].float()[k][:, None] for n in ("signal", "noise"))
            eps = noise[0][seed, i] * pad
            x = signal * a + spread * eps
            time = torch.cat([(k[:, None] + 1) / steps, spread], -1)
            if config.predict == "noise":
                found = actor(torch.cat([o, x, time], -1)) - eps
            else:
                found = actor(torch.cat([o, signal * x, time], -1)).tanh() - a
            error = (found * pad).square().sum(-1) / width
            own = [n[seed, i] for n in noise]
            chosen = naive_chain(actor, o, own[1 : 1 + steps], pad, config)
            later = naive_chain(actor, o2, own[1 + steps :], pad, config).detach()
            values = q(dql.critic.body, o, chosen)
            value_loss = -mean(values.mean(0)) / mean(values.detach().abs().mean(0))
            both = q(dql.target_critic.body, o2, later)
            best = both.amin(0) if config.q_agg == "min" else both.mean(0)
            reward = rows.rew[seed, i] * dql.reward_scale[i]
            y = (reward + config.gamma * (1 - rows.ended[seed, i]) * best).detach()
            td = (q(dql.critic.body, o, a) - y).square().sum(0)
            wanted.append((mean(error), value_loss, mean(td)))
            actor_loss = mean(error) + config.eta * value_loss
            slope = torch.autograd.grad(actor_loss, actor[2].weight)[0]  # of the second layer
            torch.testing.assert_close(gradients[2][seed, i].T, slope, rtol=5e-3, atol=1e-5)
        for j, name in enumerate(("denoising_loss", "value_loss", "critic_loss")):
            expected = torch.stack([agent[j] for agent in wanted]).mean()
            torch.testing.assert_close(losses[name][seed], expected, rtol=2e-4, atol=1e-5)


def test_its_network_and_critic_are_those_of_om2p():
    """So that a comparison compares policies."""
    spec = registry.task("mpe/spread-v1").spec
    shapes = []
    for cls in (OM2P, DiffusionQL):
        algorithm = cls(cls.Config(), spec, (0,))
        modules: list[nn.Module] = [algorithm.actor, algorithm.critic]
        shapes.append([tuple(p.shape) for module in modules for p in module.parameters()])
        shared = {f.name for f in dataclasses.fields(OM2P.Config)}
        shared &= {f.name for f in dataclasses.fields(DiffusionQL.Config)}
    assert shapes[0] == shapes[1]
    ours, theirs = OM2P.Config(), DiffusionQL.Config()
    assert all(getattr(ours, name) == getattr(theirs, name) for name in shared)
    assert {"batch_size", "width", "depth", "eta", "gamma", "tau"} <= shared


@pytest.mark.parametrize(("row", "steps"), [("default", 5), ("k1", 1), ("k10", 10), ("k20", 20)])
def test_rows_differ_in_the_number_of_steps(row, steps):
    overrides, _ = DiffusionQL.variants[row].resolve("probe/bandit-v1", "quick")
    algorithm = DiffusionQL(DiffusionQL.Config(**overrides), TEAM, (0,))
    assert algorithm.cost()["sampler_steps"] == steps


def test_a_deterministic_action_has_no_noise():
    dql, batch = grown()
    obs = batch.obs[:, :, 0].numpy()
    first = dql.act(obs, None, None, 0, True)
    assert np.array_equal(first, dql.act(obs, None, None, 0, True))
    assert not np.array_equal(first, dql.act(obs, None, None, 0, False))


def test_it_moves_from_the_data_towards_reward():
    """Behaviour is uniform and the reward wants a = 0.6: cloning gives 0, Q moves the policy up."""
    data = toy_dataset(TEAM, n_episodes=200)
    widths = np.array([[1, 1], [1, 0]])
    drawn = np.random.default_rng(0).uniform(-1, 1, data.act.shape)
    data.act = (drawn * widths).astype(np.float32)
    data.rew = -((data.act[..., 0] - 0.6) ** 2).astype(np.float32)
    obs, means = data.obs[None, :100], []
    for eta in (0.0, 10.0):
        rngs = [np.random.default_rng(0)]
        config = DiffusionQL.Config(
            width=32, depth=2, batch_size=64, lr=3e-3, gamma=0.0, eta=eta, denoising_steps=2
        )
        dql = DiffusionQL(config, TEAM, (0,))
        dql.prepare(data, 150, rngs)
        for _ in range(150):
            dql.update(dql.sample(data, rngs))
        dql.begin(1, 0)
        act = dql.act(obs, None, None, 0, True)[0]
        means.append(act[..., 0].mean(0))
        assert (act[:, 1, 1] == 0).all()
    assert np.abs(means[0]).max() < 0.25
    assert means[1].min() > 0.3


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"denoising_steps": 0}, "denoising_steps"),
        ({"eta": -0.1}, "eta"),
        ({"critic": "joint"}, "critic"),
        ({"q_agg": "max"}, "q_agg"),
        ({"tau": 0.0}, "tau"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_a_setting_out_of_range_is_named(options, field):
    with pytest.raises(UserError, match=rf"--config\.{field} is .*expected"):
        DiffusionQL(DiffusionQL.Config(**options), TEAM, (0,))
