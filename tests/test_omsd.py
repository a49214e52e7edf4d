"""OMSD: the equations against plain formulas, its stages and controls, and that it coordinates."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from algorithms.nn import vpsde
from algorithms.nn.iql import IQL, expectile_loss
from algorithms.nn.stacked import generators
from algorithms.omsd import LAST_RATE, OMSD, OMSDConfig, cosine
from benchmark import checkpoint, registry
from benchmark.checks import acting, run_check, training
from benchmark.checks.algorithm import AlgorithmSubject
from benchmark.checks.fixtures import TEAM, ToyDataset, toy_dataset
from benchmark.errors import UserError
from benchmark.task import TaskSpec
from datasets.recipes import probe as recipe
from tests.studies.omsd_bandit import exact, exact_eps

torch.set_num_threads(1)

SMALL: dict[str, Any] = {"width": 16, "batch_size": 16, "blocks": 1, "lr": 3e-3, "compile": "off"}
BANDIT = registry.task("probe/bandit-v1")


def bandit_data(n_episodes: int = 2_000) -> ToyDataset:
    """Two-mode data in memory; r = a_0 a_1, one step, which terminates."""
    _, act = recipe.draw(BANDIT, "two-mode", n_episodes, np.random.default_rng(0))
    obs = np.ones((n_episodes, 2, 1), np.float32)
    rew = np.repeat(act.prod(1), 2, axis=1).astype(np.float32)
    return ToyDataset(
        id="probe/bandit/two-mode-v1",
        spec=BANDIT.spec,
        starts=np.arange(n_episodes + 1),
        returns=rew.astype(np.float64),
        obs=obs,
        act=act,
        rew=rew,
        policy=np.zeros(n_episodes, np.int64),
        next_obs=obs,
    )


def make(data: ToyDataset, steps: int, seeds: tuple[int, ...] = (0,), **config: Any) -> OMSD:
    algorithm = OMSD(OMSDConfig(**(SMALL | config)), data.spec, seeds)
    algorithm.prepare(data, steps, rngs(seeds))
    return algorithm


def rngs(seeds: tuple[int, ...]) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, 0]) for seed in seeds]


def train(algorithm: OMSD, data: ToyDataset, steps: int) -> list[dict[str, Tensor]]:
    own = rngs(algorithm.seeds)
    losses = []
    for _ in range(steps):
        batch = algorithm.sample(data, own)
        losses.append(
            algorithm.update(
                dataclasses.replace(batch, terminated=torch.ones_like(batch.terminated))
            )
        )
    return losses


# ------------------------------------------------------------------------------------- diffusion
def test_alpha_and_sigma_integrate_the_linear_schedule() -> None:
    for time in (0.001, 0.02, 0.3, 0.98):
        grid = np.linspace(0, time, 20_001)
        rate = vpsde.BETA_0 + grid * (vpsde.BETA_1 - vpsde.BETA_0)
        alpha = math.exp(-0.5 * np.trapezoid(rate, grid))
        found = vpsde.alpha_sigma(torch.tensor(time))
        assert [x.item() for x in found] == pytest.approx(
            [alpha, math.sqrt(1 - alpha**2)], rel=1e-4
        )


def test_exact_noise_is_the_gradient_of_the_diffused_log_density() -> None:
    modes, weights, spread = torch.tensor([[0.8, 0.2], [-0.5, 0.1]]), torch.tensor([0.3, 0.7]), 0.2
    t = torch.tensor([0.1, 0.4, 0.9])
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    alpha, sigma = vpsde.alpha_sigma(t)
    log_p = torch.zeros(())
    for row in range(3):
        parts = torch.distributions.MultivariateNormal(
            alpha[row] * modes, torch.eye(2) * (alpha[row] ** 2 * spread**2 + sigma[row] ** 2)
        )
        log_p = log_p + (weights.log() + parts.log_prob(x[row])).logsumexp(0)
    (score,) = torch.autograd.grad(log_p, x)
    found = vpsde.mixture_noise(x.detach(), t, modes, weights.expand(3, -1), spread)
    torch.testing.assert_close(found, -sigma[:, None] * score, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------- IQL
def test_iql_losses_are_those_of_the_plain_formulas() -> None:
    iql = IQL(generators((0,)), 1, 3, 2, [16])
    gen = torch.Generator().manual_seed(1)
    state, after = (torch.randn(1, 1, 16, 3, generator=gen) for _ in range(2))
    act = torch.randn(1, 1, 16, 2, generator=gen)
    rew = torch.randn(1, 1, 16, generator=gen)
    ended = (torch.rand(1, 1, 16, generator=gen) < 0.5).float()
    with torch.no_grad():
        for p in iql.slow.parameters():
            p.add_(0.1)
        v_loss, q_loss = iql.losses(state, act, rew, after, ended, 0.7, 0.9)
        for row in range(16):
            q = [iql.twins(c, state, act)[0, 0, :, row] for c in (iql.critic, iql.slow)]
            u = q[1].min() - iql.value(state)[0, 0, row, 0]
            weight = 0.3 if u < 0 else 0.7
            v_after = iql.value(after)[0, 0, row, 0]
            y = rew[0, 0, row] + (0.9 * v_after if ended[0, 0, row] == 0 else 0.0)
            assert v_loss[0, 0, row].item() == pytest.approx((weight * u**2).item(), rel=1e-4)
            wanted = ((y - q[0]) ** 2).sum().item()
            assert q_loss[0, 0, row].item() == pytest.approx(wanted, rel=1e-4)


def test_an_expectile_minimises_its_loss() -> None:
    draws = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    grid = torch.linspace(-1, 1, 201)
    best = grid[torch.stack([expectile_loss(draws - v, 0.9).mean() for v in grid]).argmin()]
    above, below = (draws - best).clamp(min=0).mean(), (best - draws).clamp(min=0).mean()
    assert (0.9 * above).item() == pytest.approx((0.1 * below).item(), abs=0.01)


# --------------------------------------------------------------------------------------- stage 1
@pytest.mark.parametrize("score", ["own", "prefix", "joint"])
def test_a_score_sees_its_prefix_and_nothing_after_it(score: Any) -> None:
    algorithm = make(toy_dataset(TEAM), 10, score=score)
    gen = torch.Generator().manual_seed(0)
    features, act = torch.randn(1, 2, 16, 5, generator=gen), torch.rand(1, 2, 16, 2, generator=gen)
    t, z = algorithm._draw(act, 0.1, 0.9)

    def eps(changed: int) -> Tensor:
        """Change one agent's clean action; the noisy ones stay, as far as they can."""
        other = act.clone()
        other[:, changed] += 0.5
        alpha, sigma = vpsde.alpha_sigma(t.unsqueeze(-1))
        shift = alpha / sigma * algorithm._of_score(other - act)
        return algorithm._eps(features, other, t, z - shift)

    before = algorithm._eps(features, act, t, z)
    for changed in range(2):
        moved = (eps(changed) - before).abs().amax((0, 2, 3)) > 1e-4
        assert (
            moved.tolist()
            == {
                "own": [False, False],
                "prefix": [False, changed == 0],
                "joint": [False],
            }[score]
        )


def test_the_score_loss_is_the_error_of_the_noise_over_real_dimensions() -> None:
    data = toy_dataset(TEAM)
    algorithm = make(data, 10)
    batch = algorithm.sample(data, rngs((0,)))
    features, act = batch.obs[:, :, 0].transpose(1, 2), batch.act[:, :, 0].transpose(1, 2)
    t, z = algorithm._draw(act, 0.1, 0.9)
    (found,), _ = algorithm._score_gradients(features, act, None, t, z)
    eps = algorithm._eps(features, act, t, z).detach()
    wide = (eps - z)[:, 0].square().mean()
    narrow = (eps - z)[:, 1, :, 0].square().mean()  # agent 1 has one action
    assert found.item() == pytest.approx((wide + narrow).item() / 2, rel=1e-5)
    alive = torch.ones(1, 2, 16)
    alive[:, 1, 3:] = 0
    (found,), _ = algorithm._score_gradients(features, act, alive, t, z)
    narrow = (eps - z)[:, 1, :3, 0].square().mean()
    assert found.item() == pytest.approx((wide + narrow).item() / 2, rel=1e-5)


def test_a_network_of_clean_actions_has_their_error_and_gives_the_noise() -> None:
    """(6): at the true action eps is z; the loss is the squared error of the action."""
    algorithm = make(toy_dataset(TEAM), 10, predict="action")
    gen = torch.Generator().manual_seed(0)
    features, act = torch.randn(1, 2, 16, 5, generator=gen), torch.rand(1, 2, 16, 2, generator=gen)
    act = act * algorithm.action_mask
    t, z = algorithm._draw(act, 0.1, 0.9)
    z = z * algorithm.action_mask
    guess = act + 0.1 * torch.randn(act.shape, generator=gen)
    seen = []
    algorithm.score.forward = lambda *args: (seen.append(args[0]), act)[1]  # type: ignore
    torch.testing.assert_close(algorithm._eps(features, act, t, z), z, rtol=1e-3, atol=1e-4)
    alpha, sigma = vpsde.alpha_sigma(t.unsqueeze(-1))
    torch.testing.assert_close(seen[0], alpha * (alpha * act + sigma * z))
    zero = sum(p.sum() * 0 for p in algorithm.score.parameters())
    algorithm.score.forward = lambda *args: guess + zero  # type: ignore[method-assign]
    (found,), _ = algorithm._score_gradients(features, act, None, t, z)
    error = (guess - act).square()
    wanted = (error[:, 0].mean() + error[:, 1, :, 0].mean()) / 2
    assert found.item() == pytest.approx(wanted.item(), rel=1e-3)


def test_learned_noise_is_near_the_exact_one() -> None:
    """Both agents of the bandit: the first does not know the mode, the second is told it."""
    data = bandit_data()
    algorithm = make(data, 500, policy_share=0.2, width=32, batch_size=64, lr=1e-2)
    train(algorithm, data, 400)
    gen = torch.Generator().manual_seed(3)
    act = torch.as_tensor(data.act[:256]).transpose(0, 1)[None]  # [1, 2, R, 1]
    t = 0.1 + 0.8 * torch.rand(1, 2, 256, generator=gen)
    z = torch.randn(1, 2, 256, 1, generator=gen)
    features = torch.zeros(1, 2, 256, 1)
    with torch.no_grad():
        found = algorithm._eps(features, act, t, z)[0, ..., 0].T
    wanted = exact_eps("SEQ", act[0, ..., 0].T, t[0].T, z[0, ..., 0].T)
    assert (found - wanted).square().mean() < 0.25 * wanted.square().mean()


# --------------------------------------------------------------------------------------- stage 2
def plain_loss(algorithm: OMSD, features: Tensor, act: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """(3) by loops over agents and rows, for a prefix score and a joint critic: [N]."""
    config, n = algorithm.config, act.shape[1]
    losses = []
    for i in range(n):
        alpha, sigma = (x[0, i, :, None] for x in vpsde.alpha_sigma(t))
        prefix = torch.cat([act[0, j] * (j < i) for j in range(n)], -1)
        condition = torch.cat([features[0, i], prefix], -1)
        noisy = (alpha * act[0, i] + sigma * z[0, i]) * algorithm.action_mask[i]
        stack = [x.expand(1, n, *x.shape) for x in (noisy, t[0, i], condition)]
        eps = algorithm.score(*stack)[0, i]
        own = act.clone().requires_grad_()
        state = torch.cat(list(features[0]), -1)
        q = algorithm.iql.slow(
            torch.cat([state, torch.cat(list(own[0]), -1)], -1).expand(1, 1, 2, -1, -1)
        )
        (ascent,) = torch.autograd.grad(q.mean(2).sum(), own)
        noise = z[0, i] if config.subtract_noise else 0.0
        pull = sigma**2 * (eps - noise) * algorithm.action_mask[i]
        losses.append(((pull - config.beta * ascent[0, i]) * act[0, i]).sum(-1).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("subtract_noise", [False, True])
def test_the_policy_gradient_is_that_of_the_plain_formula(subtract_noise: bool) -> None:
    data = toy_dataset(TEAM)
    algorithm = make(data, 10, beta=0.7, subtract_noise=subtract_noise)
    features = torch.randn(1, 2, 16, 5, generator=torch.Generator().manual_seed(0))
    data_act = torch.zeros(1, 2, 16, 2)
    t, z = algorithm._draw(data_act, 0.1, 0.9)
    (loss,), gradients = algorithm._policy_gradients(features, data_act, None, t, z)
    act = (algorithm.policy(features) * algorithm.action_mask).detach()
    wanted = plain_loss(algorithm, features, act, t, z)
    assert loss.item() == pytest.approx(wanted.mean().item(), rel=1e-4)
    # (3) is linear in a_i given what is held fixed: a small step of an agent's action moves it so.
    direction = torch.autograd.grad(
        (algorithm.policy(features) * algorithm.action_mask).sum(),
        algorithm.policy_parameters,
        retain_graph=True,
    )
    assert all(g.shape == d.shape for g, d in zip(gradients, direction, strict=True))
    with torch.no_grad():
        eps = algorithm._imitation(features, act, t, z)
    pull = eps - 0.7 * algorithm._ascent(features, act)
    chosen = algorithm.policy(features) * algorithm.action_mask
    plain = torch.autograd.grad((pull * chosen).sum() / 16, algorithm.policy_parameters)
    for found, own in zip(gradients, plain, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-6)


def test_a_local_critic_is_asked_for_each_agents_own_action() -> None:
    algorithm = make(toy_dataset(TEAM), 10, score="own", critic="local")
    gen = torch.Generator().manual_seed(0)
    features, act = torch.randn(1, 2, 16, 5, generator=gen), torch.rand(1, 2, 16, 2, generator=gen)
    other = act.clone()
    other[:, 0] += 0.3
    moved = (algorithm._ascent(features, other) - algorithm._ascent(features, act)).abs()
    assert moved[:, 1].max() == 0 < moved[:, 0].max()


@pytest.mark.parametrize("prefix", ["jacobi", "gauss_seidel"])
def test_agents_update_together_or_in_turn(prefix: Any) -> None:
    """The second agent's gradient is taken before or after the first one's step."""
    data = toy_dataset(TEAM)
    algorithm = make(data, 1, policy_share=0.9, prefix=prefix)
    seen: list[list[Tensor]] = []
    inner = algorithm._policy

    def spy(*args: Any) -> Any:
        seen.append([p[:, 0].detach().clone() for p in algorithm.policy_parameters])
        return inner(*args)

    algorithm._policy = spy
    before = [p.detach().clone() for p in algorithm.policy_parameters]
    train(algorithm, data, 1)
    assert len(seen) == (2 if prefix == "gauss_seidel" else 1)
    first_moved = any(not torch.equal(a, b) for a, b in zip(seen[0], seen[-1], strict=True))
    assert first_moved == (prefix == "gauss_seidel")
    for agent in range(2):
        assert not torch.equal(before[0][:, agent], algorithm.policy_parameters[0][:, agent])


def test_gauss_seidel_gives_each_agent_adam_of_its_own() -> None:
    """With a score and critic that ignore the others, the order cannot matter."""
    data = toy_dataset(TEAM)
    options: dict[str, Any] = {"score": "own", "critic": "local", "policy_share": 0.5}
    together = make(data, 12, (0, 1), **options)
    in_turn = make(data, 12, (0, 1), prefix="gauss_seidel", **options)
    train(together, data, 12)
    train(in_turn, data, 12)
    for a, b in zip(together.policy_parameters, in_turn.policy_parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------- stages
def test_stages_share_the_steps_and_every_curve_has_every_point() -> None:
    data = toy_dataset(TEAM)
    algorithm = make(data, 20, policy_share=0.25)
    policy = [p.detach().clone() for p in algorithm.policy_parameters]
    losses = train(algorithm, data, 15)
    assert all(torch.equal(a, b) for a, b in zip(policy, algorithm.policy_parameters, strict=True))
    score = [p.detach().clone() for p in algorithm.score.parameters()]
    losses += train(algorithm, data, 5)
    assert all(torch.equal(a, b) for a, b in zip(score, algorithm.score.parameters(), strict=True))
    assert [loss["stage"].item() for loss in losses] == [1.0] * 15 + [2.0] * 5
    assert all(loss.keys() == losses[0].keys() for loss in losses)
    assert len({loss["score_loss"].item() for loss in losses[14:]}) == 1
    assert len({loss["policy_loss"].item() for loss in losses}) == 6


@pytest.mark.parametrize("at", [7, 13])
def test_a_run_resumed_inside_either_stage_ends_with_the_same_bits(at: int) -> None:
    data, seeds = toy_dataset(TEAM), (4, 9)
    algorithm, own = make(data, 16, seeds, prefix="gauss_seidel", policy_share=0.4), rngs(seeds)
    for step in range(16):
        if step == at:
            tree, flat = checkpoint.flatten(algorithm.state_dict())
            flat = {name: tensor.clone() for name, tensor in flat.items()}
            stored = [rng.bit_generator.state for rng in own]
        algorithm.update(algorithm.sample(data, own))
    resumed, again = make(data, 16, seeds, prefix="gauss_seidel", policy_share=0.4), rngs(seeds)
    resumed.load_state_dict(checkpoint.unflatten(tree, flat))
    for rng, state in zip(again, stored, strict=True):
        rng.bit_generator.state = state
    for _ in range(at, 16):
        resumed.update(resumed.sample(data, again))
    ends = [checkpoint.flatten(x.state_dict())[1] for x in (algorithm, resumed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_learning_rates_fall_by_a_cosine_unless_they_stay() -> None:
    assert cosine(1.0, 0.0) == 1.0
    assert cosine(1.0, 0.5) == pytest.approx((1 + LAST_RATE) / 2)
    assert cosine(1.0, 1.0) == pytest.approx(LAST_RATE)
    for decay, last in ((True, cosine(1e-2, 0.8)), (False, 1e-2)):
        data = toy_dataset(TEAM)
        algorithm = make(data, 10, decay=decay, lr=1e-2, policy_share=0.5)
        for _ in range(10):
            algorithm.update(algorithm.sample(data, rngs((0,))))
        assert algorithm.score_optimiser.lr == pytest.approx(last)
        assert algorithm.policy_optimisers[0].lr == pytest.approx(last)


@pytest.mark.parametrize("variant", ["ind", "ctde", "jal"])
def test_the_controls_keep_groups_resumes_and_local_execution(variant: str) -> None:
    subject = AlgorithmSubject("omsd", OMSD, variant, SMALL)
    for check in (training.check_group, training.check_state, acting.check_execution):
        result = run_check(check, subject)
        assert result.ok, result.message


# ------------------------------------------------------------------------------------ the bandit
def test_with_exact_scores_prefixes_coordinate_and_own_scores_do_not() -> None:
    """The cell without a parameter of Q: beta = 0, small noise levels."""
    rewards = {control: exact(control, 0.0, 0.2, 200, 200) for control in ("IND", "CTDE", "SEQ")}
    assert (rewards["SEQ"] > 0).mean() > 0.97
    assert (rewards["IND"] == rewards["CTDE"]).all()
    assert 0.4 < (rewards["IND"] > 0).mean() < 0.6


def test_with_exact_scores_a_joint_critic_coordinates_too() -> None:
    """CTDE's failure is no law: enough weight of Q mends it."""
    assert (exact("CTDE", 0.3, 0.2, 200, 400) > 0).mean() > 0.97
    assert 0.35 < (exact("IND", 0.3, 0.2, 200, 400) > 0).mean() < 0.65


def test_it_finds_an_equilibrium_of_the_bandit() -> None:
    data, seeds = bandit_data(), (0, 1)
    options: dict[str, Any] = {"lr": 1e-2, "beta": 0.03, "t_max": 0.2, "batch_size": 64}
    algorithm = make(data, 400, seeds, policy_share=0.45, **options)
    train(algorithm, data, 400)
    act = algorithm.act(np.ones((2, 1, 2, 1), np.float32), None, None, 0, True)
    assert act[:, 0, :, 0].prod(-1).min() > 0.2


# --------------------------------------------------------------------------------------- options
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("score", "state"),
        ("critic", "own"),
        ("prefix", "random"),
        ("predict", "score"),
        ("policy_share", 1.0),
        ("beta", -0.1),
        ("beta", math.nan),
        ("t_min", 0.0),
        ("t_min", 0.99),
        ("t_max", 1.1),
        ("gamma", 1.5),
        ("expectile", 1.0),
        ("tau", 0.0),
        ("lr", 0.0),
        ("batch_size", 0),
        ("width", 0),
        ("depth", 0),
        ("blocks", 0),
    ],
)
def test_an_option_out_of_range_is_named(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"--config\.{option} is .*, expected "):
        OMSD(OMSDConfig(**(SMALL | {option: value})), TEAM, (0,))


def test_a_population_is_refused() -> None:
    swarm: TaskSpec = dataclasses.replace(TEAM, groups=TEAM.groups[:1] * 2, exchangeable=True)
    with pytest.raises(UserError, match="exchangeable"):
        OMSD(OMSDConfig(**SMALL), swarm, (0,))
