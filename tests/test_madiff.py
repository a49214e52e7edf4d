"""MADiff: its network, noise levels, masks, guidance and sampler against plain formulas."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from algorithms.madiff import MADiff
from algorithms.nn.agent_attention import HEADS, AgentAttention
from algorithms.nn.planning import (
    InverseDynamics,
    Normaliser,
    noise_levels,
    ranks_by_step,
    returns_to_go,
    step_down,
)
from algorithms.nn.unet import Block, Convolution, Doubling, TeamUNet
from benchmark.checks.fixtures import CHOICE, TEAM, toy_dataset
from benchmark.errors import UserError

SMALL = dict(MADiff.small)


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def built(spec=TEAM, data=None, **config):
    algorithm = MADiff(MADiff.Config(**SMALL | config), spec, (0,))
    data = data or toy_dataset(spec)
    algorithm.prepare(data, 10, [np.random.default_rng(0)])
    return algorithm, data


# ------------------------------------------------------------------------------------- the network
@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 2), (1, 1)])
def test_a_convolution_of_taps_is_the_librarys(kernel, stride):
    layer, x = Convolution(3, 4, kernel, stride), normal(2, 8, 3)
    weight = layer.taps.weight.view(4, kernel, 3).transpose(1, 2)
    wanted = F.conv1d(x.mT, weight, layer.taps.bias, stride, kernel // 2).mT
    torch.testing.assert_close(layer(x), wanted)


def test_doubling_is_a_transposed_convolution():
    layer, x = Doubling(3), normal(2, 4, 3)
    even, odd = (part.weight.view(3, 2, 3) for part in (layer.even, layer.odd))  # [out, tap, in]
    # Tap j of the transposed kernel carries input step s to output step 2 s + j - 1.
    taps = [odd[:, 1], even[:, 1], odd[:, 0], even[:, 0]]
    kernel = torch.stack([tap.mT for tap in taps], -1)  # [in, out, tap]
    wanted = F.conv_transpose1d(x.mT, kernel, None, 2, 1).mT
    wanted = wanted + torch.stack([layer.even.bias, layer.odd.bias]).repeat(4, 1)
    torch.testing.assert_close(layer(x), wanted)


def test_a_block_normalises_groups_over_time_and_channels():
    block, x = Block(3, 16, 5), normal(2, 4, 3)
    torch.nn.init.normal_(block.gain)
    wanted = F.group_norm(block.convolution(x).mT, 8, block.gain, block.bias).mT
    torch.testing.assert_close(block(x), F.mish(wanted))


def test_attention_equals_its_formula_agent_by_agent_and_starts_as_nothing():
    layer, h, e = AgentAttention(16, 5), normal(2, 3, 4, 16), normal(2, 3, 5)
    assert torch.equal(layer(h, e), h)
    torch.nn.init.constant_(layer.gamma, 0.7)
    read = layer.read(h) + layer.shift(F.mish(e))[:, :, None]
    found = layer(h, e)
    for b in range(2):
        for head in range(HEADS):
            q, k = read[b, :, :, head], read[b, :, :, HEADS + head]  # one channel each: 16 / 16
            v = read[b, :, :, 2 * HEADS + 4 * head : 2 * HEADS + 4 * head + 4]
            for i in range(3):
                scores = torch.stack([(q[i] * k[j]).sum() / 2 for j in range(3)])  # sqrt of 4 steps
                seen = (scores.softmax(0)[:, None, None] * v).sum(0)
                own = slice(4 * head, 4 * head + 4)
                torch.testing.assert_close(found[b, i, :, own], h[b, i, :, own] + 0.7 * seen)


def test_agents_meet_in_attention_only():
    e, x = normal(2, 3, 8), normal(2, 3, 8, 5)
    other = torch.cat([x[:, :1], normal(2, 2, 8, 5) + 1], 1)
    for attention in (True, False):
        net = TeamUNet(5, 16, 2, 3, 8, attention=attention)
        for layer in net.attention:
            torch.nn.init.ones_(layer.gamma)
        moved = (net(x, e)[:, 0] - net(other, e)[:, 0]).abs().max()
        assert (moved > 1e-3) == attention


# ------------------------------------------------------------------------------------ the diffusion
def test_noise_levels_are_the_capped_squared_cosine():
    def f(j):
        return np.cos((j / 20 + 0.008) / 1.008 * np.pi / 2) ** 2

    level, wanted = 1.0, []
    for k in range(1, 21):
        level *= 1 - min(0.999, 1 - f(k) / f(k - 1))
        wanted.append(level)
    np.testing.assert_allclose(noise_levels(20), wanted)


def test_steps_down_are_ddims_and_the_gaussian_posterior_of_ddpm():
    x, clean, noise = normal(3, 7).unbind(0)
    level, lower = 0.3, 0.5
    eps = (x - level**0.5 * clean) / (1 - level) ** 0.5
    wanted = lower**0.5 * clean + (1 - lower) ** 0.5 * eps
    torch.testing.assert_close(step_down(x, clean, level, lower, None), wanted)
    # Prior of the lower level given x_0, times the likelihood of x given it: precisions add up.
    alpha = level / lower
    precision = 1 / (1 - lower) + alpha / (1 - alpha)
    mean = (lower**0.5 * clean / (1 - lower) + alpha**0.5 * x / (1 - alpha)) / precision
    found = step_down(x, clean, level, lower, noise)
    torch.testing.assert_close(found, mean + noise * precision**-0.5)
    for last in (None, noise):
        torch.testing.assert_close(step_down(x, clean, level, 1.0, last), clean)


def test_guidance_in_one_batch_is_that_of_two_calls():
    algorithm, _ = built(guidance=2.5)
    x, k = normal(4, 2, 4, 5), torch.full((4,), 3)
    asked, ones, now = torch.full((4, 2), 0.9), torch.ones(4, 2), x[:, :, 0]
    with torch.no_grad():
        shown = algorithm.ema.denoise(x, k, asked, ones, now)
        hidden = algorithm.ema.denoise(x, k, asked, 0 * ones, now)
        wanted = hidden + 2.5 * (shown - hidden)
        torch.testing.assert_close(algorithm._guided(x, 3, now), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        algorithm.ema.denoise(x, k, asked, 0 * ones, now),
        algorithm.ema.denoise(x, k, -asked, 0 * ones, now),
    )


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("prediction", ["epsilon", "clean"])
def test_a_plan_finds_the_trajectory_that_the_network_knows(sampler, prediction):
    algorithm, _ = built(sampler=sampler, prediction=prediction, sampler_steps=4)
    truth = normal(3, 2, 4, 5).clamp(-1, 1) * algorithm.normaliser.used[:, None]
    visible = torch.tensor([[1.0, 0.0]])
    given = algorithm._given(visible).expand(3, -1, -1, -1)
    seen = []

    def oracle(x, k, present):
        known = truth[:, :, 0] * visible.unsqueeze(-1)
        assert torch.equal(present, (known - algorithm.centre) / algorithm.spread)
        seen.append(x)
        level = algorithm.abar[k]
        return truth if prediction == "clean" else (x - level**0.5 * truth) / (1 - level) ** 0.5

    algorithm._guided = oracle
    found = algorithm.plan(truth * visible[:, :, None, None], given)
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)
    assert len(seen) == algorithm.cost()["sampler_steps"] == {"ddim": 4, "ddpm": 8}[sampler]
    assert all(torch.equal(x[:, 0, 0], truth[:, 0, 0]) for x in seen)
    assert not any(torch.equal(x[:, 1, 0], truth[:, 1, 0]) for x in seen)
    # The first noise is .5 N(0, 1), which a network of clean plans sees as small as the plan in it.
    factor = algorithm.abar[algorithm.schedule()[0]] ** 0.5 if prediction == "clean" else 1.0
    assert float(seen[0][:, 1, :, :3].std()) == pytest.approx(0.5 * factor, rel=0.4)


# --------------------------------------------------------------------------------- what is learned
@pytest.mark.parametrize("planner", ["local", "joint"])
def test_the_loss_counts_what_is_to_be_found(planner):
    """A network that answers 0 has the mean square of the noise where nothing is given."""
    algorithm, data = built(planner=planner, history=2, horizon=6)
    batch = data.windows([np.random.default_rng(1)], 16, 8).seed(0)
    algorithm.generator.manual_seed(5)
    torch.nn.init.zeros_(algorithm.nets.denoise.unet.last[1].weight)
    torch.nn.init.zeros_(algorithm.nets.denoise.unet.last[1].bias)
    state = algorithm.generator.get_state()
    loss = algorithm.update(batch)["plan_loss"]
    algorithm.generator.set_state(state)
    x, _, valid, _, weight = algorithm._windows(batch)
    visible = algorithm._visible(16)
    algorithm._random(16, 8)
    eps = torch.randn(x.shape, generator=algorithm.generator)
    assert visible.sum(1).eq(2 if planner == "joint" else 1).all()
    total, count = 0.0, 0.0
    for b in range(16):
        for n, width in enumerate((5, 3)):  # the second agent's observations are padded
            for t in range(2, 8):
                if valid[b, n, t] and not (t == 2 and visible[b, n]):
                    total += weight[b] * eps[b, n, t, :width].square().mean()
                    count += weight[b]
    torch.testing.assert_close(loss, torch.as_tensor(total / count))


def test_presents_without_a_full_past_are_seen_as_often_as_others():
    algorithm, data = built(history=2, horizon=6)
    counts, rng = np.zeros(6), np.random.default_rng(0)
    for _ in range(60):
        batch = data.windows([rng], 128, 8).seed(0)
        x, _, valid, row, weight = algorithm._windows(batch)
        inside = valid[:, 0, 2] > 0  # the present is a step of the episode
        np.add.at(counts, row[inside].numpy() % 6, weight[inside].numpy())
        step = row % 6
        assert (valid[inside & (step == 0), 0, :2] == 0).all()
        wanted = algorithm.normaliser(torch.as_tensor(data.obs[row]))[inside]
        torch.testing.assert_close(x[inside, :, 2], wanted)
    assert np.abs(counts / counts.mean() - 1).max() < 0.15


def test_returns_are_discounted_to_the_end_and_ranked_within_a_step():
    data = toy_dataset(TEAM, n_episodes=5)
    found = returns_to_go(data, 0.9)
    for row in (0, 3, 5, 11, 29):
        rest = data.rew[row : row - row % 6 + 6]
        wanted = sum(0.9**i * rew for i, rew in enumerate(rest))
        np.testing.assert_allclose(found[row], wanted, rtol=1e-6)
    ranks = ranks_by_step(found, data.starts)
    at = np.arange(5) * 6 + 2
    for n in range(2):
        np.testing.assert_allclose(np.sort(ranks[at, n]), [0.1, 0.3, 0.5, 0.7, 0.9])
        assert (np.argsort(ranks[at, n]) == np.argsort(found[at, n])).all()
    assert (ranks_by_step(np.zeros((30, 2)), data.starts) == 0.5).all()


def test_normalisers_are_limits_and_quantiles_of_each_agent():
    data = toy_dataset(TEAM, n_episodes=200)
    data.obs[5::6] = data.obs[4::6]  # the last of an episode is left out of the fit
    obs = torch.as_tensor(data.obs)
    limits, cdf = Normaliser(TEAM, "limits"), Normaliser(TEAM, "cdf")
    limits.fit(data)
    cdf.fit(data)
    low, high = data.obs.min(0), data.obs.max(0)
    wanted = 2 * (data.obs - low) / np.where(high > low, high - low, 1) - 1
    wanted[:, 1, 3:] = 0  # padding
    np.testing.assert_allclose(limits(obs), wanted, atol=1e-6)
    uniform = cdf(obs)
    rank = np.argsort(np.argsort(data.obs[:, 0, 0])) / (len(obs) - 1)
    np.testing.assert_allclose(uniform[:, 0, 0], 2 * rank - 1, atol=0.02)
    assert (uniform[:, 1, 3:] == 0).all()
    assert cdf(10 * obs).abs().max() <= 1
    steps = np.abs(np.diff(wanted.reshape(200, 6, 2, 5), axis=1)).reshape(-1, 2, 5)
    share = (steps <= limits.stride.numpy()).mean(0)
    assert (np.abs(share[0] - 0.995) < 0.002).all()


def test_a_plan_holds_the_past_and_present_and_then_changes():
    algorithm, _ = built(history=2, horizon=6)
    x = normal(3, 2, 8, 5) / 10
    found, stride = algorithm._plan_of(x), algorithm.normaliser.stride
    torch.testing.assert_close(found[:, :, :3], x[:, :, :3])
    for t in range(3, 8):
        wanted = ((x[:, :, t] - x[:, :, t - 1]) / stride).clamp(-1, 1)
        torch.testing.assert_close(found[:, :, t], wanted)
    algorithm, _ = built(planned="absolute")
    assert torch.equal(algorithm._plan_of(x), x)


def test_independent_inverse_models_are_each_agents_own():
    now, after = normal(2, 4, 6, 2, 5).unbind(0)
    shared, own = InverseDynamics(0, 1, 5, 32, 3), InverseDynamics(0, 2, 5, 32, 3)
    assert shared(now, after).shape == own(now, after).shape == (4, 6, 2, 3)
    swapped = shared(now.flip(2), after.flip(2)).flip(2)
    torch.testing.assert_close(swapped, shared(now, after))
    assert (own(now.flip(2), after.flip(2)).flip(2) - own(now, after)).abs().max() > 0.01


@pytest.mark.parametrize("prediction", ["epsilon", "clean"])
def test_a_guess_is_a_part_of_clean_plans_and_sees_the_present_alone(prediction):
    algorithm, data = built(prediction=prediction, guess=1.0)
    denoise, present = algorithm.nets.denoise, normal(3, 2, 5)
    torch.nn.init.zeros_(denoise.unet.last[1].weight)
    torch.nn.init.zeros_(denoise.unet.last[1].bias)
    given = torch.full((3,), 2), torch.rand(3, 2), torch.ones(3, 2), present
    with torch.no_grad():
        found = denoise(normal(3, 2, 4, 5), *given)
        if prediction == "epsilon":
            assert not found.any()
            return
        guess = denoise.guess(present)
        torch.testing.assert_close(found, guess)
        moved = denoise.guess(torch.stack([present[:, 0], present[:, 1] + 1], 1))
        torch.testing.assert_close(moved[:, 0], guess[:, 0])
        assert (moved[:, 1] - guess[:, 1]).abs().max() > 1e-3
        # Its loss counts the steps after the present that are inside the episode.
        x, _, valid, _, _ = algorithm._windows(
            algorithm.sample(data, [np.random.default_rng(0)]).seed(0)
        )
        plan = algorithm._plan_of(x) * valid.unsqueeze(-1)
        error = (denoise.guess(algorithm._present(plan)) - plan).square()
        total, count = 0.0, 0.0
        for b in range(len(plan)):
            for n, width in enumerate((5, 3)):
                for t in range(1, 4):
                    if valid[b, n, 0] and valid[b, n, t]:
                        total += error[b, n, t, :width].mean()
                        count += 1
        loss = algorithm._guess_loss(plan, valid)
        torch.testing.assert_close(loss, torch.as_tensor(total / count))


# -------------------------------------------------------------------------------------- behaviour
@pytest.mark.parametrize(("planner", "planned"), [("local", "changes"), ("joint", "absolute")])
def test_madiff_learns_a_linear_behaviour_from_observations_alone(planner, planned):
    """Agents push themselves to 0: a = -0.8 o, o' = o + 0.5 a + noise."""
    data, rng = toy_dataset(TEAM, n_episodes=200), np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (200, 2, 1))
    for t in range(6):
        rows = np.arange(200) * 6 + t
        data.obs[rows], data.act[rows] = 0, 0
        data.obs[rows, :, :1], data.act[rows, :, :1] = obs, -0.8 * obs
        obs = obs + 0.5 * -0.8 * obs
    settings = {"lr": 3e-3, "ema": 0.9, "temperature": 0.0}
    algorithm, _ = built(data=data, planner=planner, planned=planned, **settings)
    for _ in range(150):
        algorithm.update(algorithm.sample(data, [rng]).seed(0))
    start = data.obs[::6]
    algorithm.begin(200, 0)
    found = algorithm.act(start, None, None, 0, True)
    assert np.abs(found[:, :, 0] + 0.8 * start[:, :, 0]).mean() < 0.15
    assert (found[:, 1, 1] == 0).all()  # padding


def test_the_past_is_kept_from_begin_on():
    algorithm, data = built(history=2, horizon=6)
    obs = data.obs[:3]
    algorithm.begin(3, 0)
    for t in range(3):
        algorithm.act(obs + t, None, None, t, True)
    wanted = algorithm.normaliser(torch.as_tensor(np.stack([obs + 1, obs + 2], 2)).transpose(1, 2))
    torch.testing.assert_close(algorithm.past, wanted.transpose(1, 2))
    algorithm.begin(3, 0)
    assert not algorithm.past.any()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dim": 24}, "--config.dim is 24, expected a multiple of 16."),
        ({"horizon": 5}, "horizon is 5 with history = 0"),
        ({"sampler_steps": 9}, "sampler_steps is 9, expected 1 to 8"),
        ({"dropout": float("nan")}, "dropout is nan, expected 0 to 1."),
        ({"guidance": -1.0}, "guidance is -1.0, expected 0 to"),
        ({"sampler": "dpm"}, "sampler is 'dpm', expected ddim, ddpm."),
        ({"planner": "both"}, "planner is 'both', expected local, joint."),
    ],
)
def test_settings_out_of_range_are_refused_by_name(config, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        built(**config)


def test_games_of_one_step_and_populations_are_refused():
    for spec in (
        dataclasses.replace(CHOICE, horizon=1),
        dataclasses.replace(CHOICE, groups=(dataclasses.replace(CHOICE.groups[0], n_agents=65),)),
    ):
        with pytest.raises(UserError, match="at most 64 agents and at least 2 steps"):
            MADiff(MADiff.Config(**SMALL), spec, (0,))
