"""MF-Diffuser: weights and tilted law, coding, policies, resume, and that weighting pays."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from algorithms.mfdiffuser import MFDiffuser, MFDiffuserConfig, denoising_loss
from algorithms.nn import planner
from algorithms.nn.diffusion import alpha_bar, snr_weight
from algorithms.nn.game import ExactGame, Parts
from algorithms.nn.population_policy import count_table
from algorithms.nn.value_weights import mirror, value_weights
from benchmark import registry
from benchmark.batch import Batch, Rngs
from benchmark.envs.meanfield import solve
from benchmark.errors import UserError
from benchmark.task import Array, TaskSpec

torch.set_num_threads(1)  # the networks here are too small to share

TINY = MFDiffuserConfig(
    width=32, blocks=1, batch_size=8, agents=8, sampler_steps=8, table_agents=512, lr=3e-3
)


class Populations:
    """An in-memory data set of whole episodes: obs, act and rew [E, T, N]."""

    id = "test/populations/tiny-v1"
    active = logp = None

    def __init__(self, spec: TaskSpec, obs: Array, act: Array, rew: Array) -> None:
        self.spec, self.episodes, self.actions = spec, obs, act
        horizon, agents = act.shape[1:]
        self.starts = np.arange(len(act) + 1) * horizon
        self.obs, self.act = obs.reshape(-1, agents, 1), act.reshape(-1, agents)
        self.rew, self.returns = rew.reshape(-1, agents), rew.sum(1)
        self.n_episodes, self.n_steps = len(act), len(self.act)

    def windows(self, rngs: Rngs, batch_size: int, length: int, *, agents: int) -> Batch:
        assert len(rngs) == 1
        row = rngs[0].integers(0, self.n_steps, batch_size)
        first = rngs[0].integers(0, self.spec.n_agents - agents + 1, batch_size)
        step = row % self.spec.horizon
        at = row[:, None] + np.arange(length)
        inside = step[:, None] + np.arange(length) < self.spec.horizon  # [B, T]
        rows = (
            np.minimum(at, self.n_steps - 1)[..., None],
            first[:, None, None] + np.arange(agents),
        )
        obs, act = (
            torch.as_tensor(x[rows] * inside[..., None])[None] for x in (self.obs[..., 0], self.act)
        )
        return Batch(
            obs=obs[..., None],
            act=act,
            rew=torch.zeros(act.shape),
            terminated=torch.zeros(act.shape[:3]),
            truncated=torch.zeros(act.shape[:3]),
            valid=torch.as_tensor(inside)[None],
            episode=torch.as_tensor(row // self.spec.horizon)[None],
            step=torch.as_tensor(step)[None],
            agent=torch.as_tensor(first)[None],
        )

    def transitions(self, rngs: Rngs, batch_size: int, *, agents: int) -> Batch:
        batch = self.windows(rngs, batch_size, 2, agents=agents)
        cut = batch.map(lambda x: x[:, :, :1] if x.ndim > 2 else x)
        return dataclasses.replace(cut, next_obs=batch.obs[:, :, 1:])


def squeeze(episodes: int = 100, agents: int = 64) -> Populations:
    """A behaviour policy per episode, from greedy for small actions to uniform."""
    task = registry.task(f"meanfield/squeeze-n{agents}-v1")
    rng = np.random.default_rng(2_000)
    logits = -rng.uniform(0, 1, (episodes, 1)) * np.arange(10) + rng.normal(size=(episodes, 10))
    law = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    act = np.stack([rng.choice(10, (1, agents), p=p) for p in law])  # [E, 1, N]
    rew = np.repeat(squeeze_reward(act.mean((1, 2)))[:, None, None], agents, 2)
    return Populations(task.spec, np.zeros_like(act), act, rew)


def squeeze_reward(mean: Array) -> Array:
    """Share of the optimum: the maths of `benchmark/envs/meanfield/squeeze.py`, vectorised."""
    return mean * np.exp(-(((mean - 1) / 0.5) ** 2)) / 1.0576


def beach(episodes: int = 12, agents: int = 32) -> Populations:
    """Random walks on the beach: right where the place is even, left where it is odd."""
    spec = registry.task(f"meanfield/beach-bar-n{agents}-v1").spec
    rng = np.random.default_rng(2_000)
    obs = np.empty((episodes, spec.horizon, agents), np.int64)
    obs[:, 0] = rng.integers(0, 10, (episodes, agents))
    act = np.empty_like(obs)
    for t in range(spec.horizon):
        act[:, t] = np.where(obs[:, t] % 2 == 0, 2, 0)
        if t + 1 < spec.horizon:
            noise = rng.integers(-1, 2, (episodes, agents))
            obs[:, t + 1] = (obs[:, t] + act[:, t] - 1 + noise) % 10
    return Populations(spec, obs, act, rng.normal(size=act.shape))


def build(data: Populations, config: MFDiffuserConfig = TINY, seed: int = 0) -> MFDiffuser:
    algorithm = MFDiffuser(config, data.spec, (seed,))
    algorithm.prepare(data, 6, [np.random.default_rng(seed)])  # type: ignore[arg-type]
    return algorithm


def train(algorithm: MFDiffuser, data: Populations, steps: int, rng: np.random.Generator) -> None:
    for _ in range(steps):
        algorithm.update(algorithm.sample(data, [rng]).seed(0))  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------- weights
def test_return_weights_are_the_exponential_tilt() -> None:
    returns = np.random.default_rng(0).normal(size=(50, 1)).repeat(6, 1)
    weight = value_weights(returns, "return", 0.7, 10.0, 20.0, competitive=False)
    z = (returns - returns.mean()) / returns.std()
    np.testing.assert_allclose(weight, np.exp(0.7 * z) / np.exp(0.7 * z).mean())


def test_competitive_weights_compare_agents_within_their_population() -> None:
    returns = np.array([[0.0, 1.0], [10.0, 11.0]])  # the second population is better off
    weight = value_weights(returns, "return", 1.0, 10.0, 20.0, competitive=True)
    np.testing.assert_allclose(weight[0], weight[1])
    assert weight[0, 1] / weight[0, 0] == pytest.approx(np.exp(2.0))


@pytest.mark.parametrize("weighting", ["none", "return", "rank"])
@pytest.mark.parametrize("competitive", [True, False])
def test_weights_have_mean_one(weighting: str, competitive: bool) -> None:
    returns = np.random.default_rng(0).standard_cauchy((200, 5))
    weight = value_weights(returns, weighting, 4.0, 10.0, 20.0, competitive)
    assert weight.shape == returns.shape
    assert weight.mean() == pytest.approx(1.0)
    assert weight.min() >= 0
    if weighting == "none":
        assert (weight == 1).all()


def test_equal_returns_and_ties_weigh_alike() -> None:
    equal = np.full((9, 4), 0.1) + np.random.default_rng(0).normal(size=(9, 4)) * 1e-16
    np.testing.assert_allclose(value_weights(equal, "return", 2.0, 10.0, 20.0, False), 1.0)
    weight = value_weights(np.array([[0.0]] * 3 + [[5.0]]), "rank", 2.0, 10.0, 1e9, False)[:, 0]
    assert weight[0] == weight[1] == weight[2]
    assert weight[3] / weight[0] == pytest.approx(np.exp(10 * 0.5))  # mid-ranks 3/8 and 7/8


def test_minimiser_of_the_weighted_loss_is_the_denoiser_of_the_tilted_law() -> None:
    """Two bins, x0 = -1 or +1: at the tilted posterior mean the loss has gradient zero, exactly."""
    returns = np.array([[0.0], [0.0], [0.0], [1.0]])  # bins: x0 = -1 three times, +1 once
    weight = torch.tensor(value_weights(returns, "return", 1.5, 10.0, 1e9, False))  # [4, 1]
    x0 = torch.tensor([-1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    z = (returns[:, 0] - returns.mean()) / returns.std()
    odds = np.exp(1.5 * (z[3] - z[0])) / 3  # of +1 against -1 under the tilted law
    k = torch.tensor([0.6], dtype=torch.float64)
    level = alpha_bar(k)
    points = torch.linspace(-2, 2, 9, dtype=torch.float64)  # values of x_k
    # Posterior mean of x0 given x_k under the tilted law, for equal noise in both bins.
    posterior = torch.tanh(points * level.sqrt() / (1 - level) + 0.5 * np.log(odds))
    predicted = posterior.clone().requires_grad_()
    likelihood = torch.exp(-((points[:, None] - level.sqrt() * x0) ** 2) / (2 * (1 - level)))

    def gradient(weights: Tensor) -> Tensor:
        """Of the loss over the data at fixed x_k, each sample as likely as its x0 makes it."""
        loss = sum(
            denoising_loss(
                predicted[:, None, None],
                x0[e].expand(9, 1, 1),
                weights[e] * likelihood[:, e : e + 1],
                snr_weight(k).expand(9),
            )
            for e in range(4)
        )
        return torch.autograd.grad(loss, predicted)[0]  # type: ignore[arg-type]

    assert gradient(weight).abs().max() < 1e-12
    assert gradient(torch.ones_like(weight)).abs().max() > 1e-3


# ------------------------------------------------------------------------- coding and policies
def test_particles_decode_to_what_was_encoded() -> None:
    data = beach()
    code = build(data).code
    obs, act = torch.as_tensor(data.episodes[:, :4]), torch.as_tensor(data.actions[:, :4])
    particles = code.encode(obs[..., None], act)
    assert particles.shape == (12, 32, 4, 13)
    assert set(particles.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(code.state(particles)[..., 0], obs.transpose(1, 2))
    assert torch.equal(code.action(particles), act.transpose(1, 2))


def test_before_finish_the_table_is_the_behaviour_policy() -> None:
    data = beach()
    table = build(data).policy_table()
    assert table.shape == (10, 10, 3)
    np.testing.assert_allclose(table.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(table[:, 0::2, 2], 1, atol=1e-3)  # even places: always right
    np.testing.assert_allclose(table[:, 1::2, 0], 1, atol=1e-3)


def test_table_counts_generated_decisions_over_the_behaviour_policy() -> None:
    algorithm = build(squeeze())
    act = torch.tensor([[[0, 0, 0, 4]]])  # one population of four agents
    table = count_table(torch.zeros_like(act), act, algorithm.behaviour, 1.0)[0, 0]
    counts = torch.zeros(10)
    counts[0], counts[4] = 3, 1
    torch.testing.assert_close(table, (counts + algorithm.behaviour[0, 0]) / 5)


@pytest.mark.parametrize("hierarchy", ["off", "late", "early"])
def test_generated_populations_start_where_the_data_starts(hierarchy: str) -> None:
    data = beach()
    algorithm = build(data, dataclasses.replace(TINY, first_level=16, context=8))
    obs, act = algorithm.generate(3, 100, hierarchy)
    assert obs.shape == act.shape == (3, 10, 100)
    start = np.bincount(data.episodes[:, 0].ravel(), minlength=10) / data.episodes[:, 0].size
    share = torch.bincount(obs[:, 0].flatten(), minlength=10) / 300
    np.testing.assert_allclose(share, start, atol=0.03)
    assert obs.max() < 10
    assert act.max() < 3


def test_generation_repeats_with_its_generator() -> None:
    algorithm = build(squeeze())
    draws = [
        algorithm.generate(2, 50, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    ]
    assert torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][1], draws[2][1])


def test_acting_samples_the_table() -> None:
    data = beach(agents=1000)
    algorithm = build(data)
    algorithm.table = torch.tensor([0.2, 0.5, 0.3]).expand(10, 10, 3)
    obs = np.random.default_rng(0).integers(0, 10, (40, 1000, 1))
    algorithm.begin(40, seed=10_000)
    act = algorithm.act(obs, None, None, 3, deterministic=False)
    assert act.shape == (40, 1000)
    np.testing.assert_allclose(np.bincount(act.ravel()) / act.size, [0.2, 0.5, 0.3], atol=0.01)
    assert (algorithm.act(obs, None, None, 3, deterministic=True) == 1).all()
    mask = np.ones((40, 1000, 3), bool)
    mask[..., 1] = False
    masked = algorithm.act(obs, None, mask, 3, deterministic=False)
    assert set(np.unique(masked)) == {0, 2}
    algorithm.begin(40, seed=10_000)
    assert np.array_equal(act, algorithm.act(obs, None, None, 3, deterministic=False))


def test_distilled_policy_learns_the_generated_decisions_and_answers_to_the_population() -> None:
    data = beach(episodes=40)
    config = dataclasses.replace(TINY, policy="distil", distil_steps=400, distil_batch=256)
    algorithm = build(data, config)
    obs, act = torch.as_tensor(data.episodes), torch.as_tensor(data.actions)  # [E, T, N]
    features = algorithm.code.features(obs[..., None])
    step = torch.arange(10).repeat(40)
    algorithm.distil(step, features.flatten(0, 1), act.flatten(0, 1))
    table = algorithm.head.table(features.mean((0, 2))).numpy()
    assert table[:, 0::2, 2].mean() > 0.9
    assert table[:, 1::2, 0].mean() > 0.9
    crowd = torch.zeros(1, 100, 1, dtype=torch.int64)
    even = torch.arange(100)[None, :, None] % 10
    law = [algorithm.head.law(obs, 4)[0] for obs in (crowd, even, even.flip(1))]
    assert not np.allclose(law[0][0], law[1][0])
    # What it is executed on is the population's distribution, not who stands where.
    np.testing.assert_allclose(law[1], law[2].flip(0), rtol=1e-5)


def test_one_step_of_the_mirror_is_the_exponentiated_advantage() -> None:
    """On beach bar's own model, from uniform play: log pi / pi_b is A / std A, step by step."""
    model = registry.task("meanfield/beach-bar-n32-v1").model()
    assert model is not None
    start = np.full((10, 10, 3), 1 / 3)
    tilt = mirror(ExactGame(model), model.mu0, start, 10, 1.0, 0.7, 1, 1.5)
    flow, rewards, kernels = solve._trace(model, start)
    q = solve.action_values(rewards, kernels, start)
    gain = q - q.mean(-1, keepdims=True)
    scale = np.sqrt((flow[:10, :, None] / 3 * gain**2).sum() / 10)
    log_pi = 0.7 * gain / scale
    log_pi -= np.log(np.exp(log_pi).mean(-1, keepdims=True))
    np.testing.assert_allclose(tilt, log_pi, atol=1e-9)


def test_the_mirror_goes_to_the_equilibrium() -> None:
    model = registry.task("meanfield/beach-bar-n32-v1").model()
    assert model is not None
    start = np.full((10, 10, 3), 1 / 3)
    found = []
    for steps in (5, 300):
        pi = start * np.exp(mirror(ExactGame(model), model.mu0, start, 10, 1.0, 0.1, steps, 1.5))
        found.append(solve.exploitability(model, pi / pi.sum(-1, keepdims=True)))
    assert found[1] < 0.1 < 1 < found[0]  # LIMITS keep it from going all the way


def test_the_mirror_stops_before_it_is_doubted_too_much() -> None:
    """A game that doubts more of each step: the budget is what decides how many are taken."""

    class Doubted(ExactGame):
        seen = 0

        def parts(self, t: int, xi: Array) -> Parts:
            found = super().parts(t, xi)
            self.seen += 1
            return found._replace(doubt=found.doubt + 1 + 0.1 * ((self.seen - 1) // 10))

    model = registry.task("meanfield/beach-bar-n32-v1").model()
    assert model is not None
    start = np.full((10, 10, 3), 1 / 3)

    def run(game: ExactGame, steps: int, budget: float) -> Array:
        return mirror(game, model.mu0, start, 10, 1.0, 0.1, steps, budget)

    stopped = run(Doubted(model), 50, 1.45)  # courses are doubted 1, 1.1, .., 1.4, 1.5 times
    np.testing.assert_array_equal(stopped, run(ExactGame(model), 4, 9.0))


def test_the_particles_of_a_tilted_law_are_played_as_the_tilt_says() -> None:
    """Mirror on the track of known games, beach bar: the plan's policy is nearer to the target
    than the behaviour is by far, though no reward weighs anything.
    """
    data = beach(episodes=60)
    rng = np.random.default_rng(1)
    data.act[:] = np.where(
        rng.random(data.act.shape) < 0.6, rng.integers(0, 3, data.act.shape), data.act
    )
    config = dataclasses.replace(
        TINY, weighting="mirror", field="none", window=2, batch_size=32, agents=32, omega="bell"
    )
    algorithm = MFDiffuser(config, data.spec, (0,))
    model = registry.task(data.spec.id).model()
    algorithm.prepare(data, 300, [np.random.default_rng(0)], model)  # type: ignore[arg-type]
    assert algorithm.fit_steps == 0
    train(algorithm, data, 300, np.random.default_rng(0))
    algorithm.finish()
    behaviour = algorithm.behaviour.numpy()
    target = behaviour * np.exp(algorithm.tilt.numpy())
    target /= target.sum(-1, keepdims=True)
    mu = np.full((10, 10, 1), 0.1)  # where the data stand, about
    apart = [(mu * np.abs(pi - target)).sum() / 20 for pi in (behaviour, algorithm.policy_table())]
    assert apart[1] < 0.5 * apart[0], apart


@pytest.mark.parametrize("policy", ["plan", "inv_dyn"])
def test_plans_are_executed_from_the_states_that_are(policy: str) -> None:
    data = beach(episodes=40)
    config = dataclasses.replace(TINY, policy=policy, window=3, execute=2, field="none")  # type: ignore[arg-type]
    algorithm = build(data, config)
    train(algorithm, data, 400, np.random.default_rng(0))
    algorithm.begin(4, 10_000)
    obs = np.random.default_rng(0).integers(0, 10, (4, 32, 1))
    act = algorithm.act(obs, None, None, 0, False)
    right = np.where(obs[..., 0] % 2 == 0, 2, 0)  # what the data do in each state
    assert (act == right).mean() > 0.8
    mask = np.ones((4, 32, 3), bool)
    mask[..., 2] = False
    assert (algorithm.act(obs, None, mask, 1, False) != 2).all()  # the same plan's second step
    algorithm.begin(4, 10_000)
    assert np.array_equal(algorithm.act(obs, None, None, 0, False), act)


@pytest.mark.parametrize("guidance", ["cfg", "classifier"])
def test_guidance_asks_for_more(guidance: str) -> None:
    """Tiny squeeze without weights: guided plans earn more than unguided ones."""
    data, found = squeeze(), {}
    config = dataclasses.replace(TINY, width=64, batch_size=32, weighting="none", guidance=guidance)  # type: ignore[arg-type]
    algorithm = build(data, config)
    train(algorithm, data, 300, np.random.default_rng(0))
    for scale in (0.0, 2.0):
        algorithm.planner.config = dataclasses.replace(config, scale=scale)
        act = algorithm.generate(8, 64, generator=torch.Generator().manual_seed(0))[1]
        found[scale] = squeeze_reward(act.numpy().mean((1, 2))).mean()
    assert found[2.0] > found[0.0] + 0.05, found


def test_a_population_of_fighters_plans_with_its_dead() -> None:
    """States are vectors there: plans are made for the living, distilled or executed."""
    spec = registry.task("battle/skirmish-n4-rush-v1").spec
    for policy in ("plan", "distil"):
        algorithm = MFDiffuser(dataclasses.replace(TINY, policy=policy), spec, (0,))  # type: ignore[arg-type]
        algorithm.begin(3, 0)
        obs = np.random.default_rng(0).uniform(-1, 1, (3, 4, spec.obs_dim)).astype(np.float32)
        alive = np.array([[True] * 4, [True, False] * 2, [False] * 4])
        act = algorithm.act(obs, alive, None, 7, True)
        assert act.shape == (3, 4)
        moved = obs.copy()
        moved[~alive] = 9.0  # what the dead see is nothing
        algorithm.begin(3, 0)
        assert np.array_equal(algorithm.act(moved, alive, None, 7, True)[alive], act[alive])


@pytest.mark.parametrize("guidance", ["none", "cfg", "classifier"])
@pytest.mark.parametrize("field", ["none", "mean", "isab", "attention"])
def test_populations_plan_alike_in_parts(field: str, guidance: str, monkeypatch) -> None:
    """A few populations and particles at a time, none of which leaves its own population."""
    spec = registry.task("battle/skirmish-n12-rush-v1").spec
    how: dict[str, Any] = {"field": field, "guidance": guidance, "window": 2, "see_mu": True}
    for context in (4, 12):  # fewer than the population, or all of it
        config = dataclasses.replace(TINY, policy="plan", context=context, **how)
        algorithm = MFDiffuser(config, spec, (0,))
        rng, found = np.random.default_rng(0), []
        obs = torch.as_tensor(rng.standard_normal((7, 12, spec.obs_dim)), dtype=torch.float32)
        alive = torch.as_tensor(rng.random((7, 12)) < 0.7)
        for several, chunk in ((10_000, 10_000), (25, 5)):
            monkeypatch.setattr(planner, "SEVERAL", several)
            monkeypatch.setattr(planner, "CHUNK", chunk)
            dice = torch.Generator().manual_seed(0)
            found.append(algorithm.planner.plan(obs, 3, dice, alive))
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["plan", "inv_dyn"])
def test_a_plan_without_noise_is_a_function_of_the_state(policy: str) -> None:
    """So it is where the protocol asks for deterministic actions, and at temperature 0."""
    spec = registry.task("battle/skirmish-n8-rush-v1").spec
    obs = np.random.default_rng(0).uniform(-1, 1, (30, 8, spec.obs_dim)).astype(np.float32)

    def differ(temperature: float, deterministic: bool) -> bool:
        options: dict[str, Any] = {"policy": policy, "temperature": temperature}
        algorithm = MFDiffuser(dataclasses.replace(TINY, **options), spec, (0,))
        acts = []
        for seed in range(2):
            algorithm.begin(30, seed)
            acts.append(algorithm.act(obs, None, None, 0, deterministic))
        return not np.array_equal(*acts)

    assert differ(1.0, False)
    assert not differ(1.0, True)
    assert differ(0.0, False) == (policy == "inv_dyn")  # it draws its actions, then


def test_state_share_weighs_states_against_actions() -> None:
    """At 0 the loss is that of the actions alone, whatever is planned of the states."""
    data, slopes = beach(), []
    for share in (0.0, 0.5, 1.0):
        config = dataclasses.replace(TINY, weighting="none", state_share=share)
        algorithm, rngs = MFDiffuser(config, data.spec, (0,)), [np.random.default_rng(0)]
        algorithm.prepare(data, 1, rngs)  # type: ignore[arg-type]
        algorithm.update(algorithm.sample(data, rngs).seed(0))  # type: ignore[arg-type]
        slopes.append(algorithm.net.head[-1].weight.grad)  # type: ignore[union-attr]
    states = algorithm.code.states
    none, half, whole = (slope[:states] for slope in slopes)
    assert not none.any()
    torch.testing.assert_close(2 * half, whole)
    assert torch.equal(slopes[0][states:], slopes[2][states:])


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("battle/skirmish-n4-rush-v1", {}, "policy table needs a finite game"),
        (
            "battle/skirmish-n4-rush-v1",
            {"policy": "plan", "weighting": "mirror"},
            "weighting mirror",
        ),
        ("meanfield/beach-bar-n32-v1", {"execute": 4}, "less than the window of 4 steps"),
        ("meanfield/squeeze-n64-v1", {"policy": "inv_dyn"}, "inv_dyn needs states to plan"),
        ("meanfield/queue-n16-b4-v1", {"temperature": 0.0}, "expected 1 in a finite game"),
        ("meanfield/squeeze-n64-v1", {"field": "all"}, "--config.field is 'all'"),
    ],
)
def test_settings_without_room_are_refused_in_one_sentence(
    task: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        MFDiffuser(dataclasses.replace(TINY, **options), registry.task(task).spec, (0,))


def test_every_variant_resolves_to_a_valid_config() -> None:
    for name, variant in MFDiffuser.variants.items():
        for task in ("meanfield/squeeze-n1000-v1", "meanfield/beach-bar-n256-v1"):
            config, steps = variant.resolve(task, "quick")
            assert steps > 0, name
            MFDiffuserConfig(**config)
    config, _ = MFDiffuser.variants["cold"].resolve("battle/skirmish-n64-rush-v1", "quick")
    assert config["temperature"] == 0


def test_rows_that_say_they_are_local_see_no_population_in_a_battle() -> None:
    """There a plan is executed, not a table: it may have a field only where the row says so."""
    for name, variant in MFDiffuser.variants.items():
        config, _ = variant.resolve("battle/skirmish-n64-rush-v1", "quick")
        sees = config["field"] != "none" or config["policy"] == "distil"
        assert not sees or variant.execution == "mean-field", name


# --------------------------------------------------------------------------- resume and learning
@pytest.mark.parametrize(
    ("data", "options"),
    [
        (squeeze(20), {"policy": "table"}),
        (squeeze(20), {"policy": "distil", "distil_steps": 5}),
        (squeeze(20), {"guidance": "classifier", "field": "isab", "see_mu": True}),
        (beach(), {"policy": "inv_dyn", "weighting": "advantage", "guidance": "cfg"}),
        (beach(), {"weighting": "mirror", "iterations": 5}),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(data: Populations, options: dict[str, Any]) -> None:
    config = dataclasses.replace(TINY, **options)
    whole, rng = build(data, config), np.random.default_rng(0)
    train(whole, data, 6, rng)
    first, rng = build(data, config), np.random.default_rng(0)
    train(first, data, 3, rng)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = build(data, config, seed=0)
    second.load_state_dict(torch.load(file, weights_only=True))
    train(second, data, 3, rng)
    for algorithm in (whole, second):
        algorithm.finish()
    assert np.array_equal(whole.policy_table(), second.policy_table())
    for ours, theirs in zip(whole.ema.parameters(), second.ema.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    finished = build(data, config)
    finished.load_state_dict(whole.state_dict())
    assert np.array_equal(finished.policy_table(), whole.policy_table())


def test_the_update_learns_from_every_seed_differently() -> None:
    data = squeeze(episodes=20)
    tables = []
    for seed in (0, 1):
        algorithm = build(data, seed=seed)
        train(algorithm, data, 3, np.random.default_rng(0))
        algorithm.finish()
        tables.append(algorithm.policy_table())
    assert not np.array_equal(tables[0], tables[1])


def test_weighting_pays_on_suboptimal_data() -> None:
    """Tiny squeeze, N = 64: the tilted planner is far above the data and its ablation."""
    data = squeeze()
    assert data.returns.mean() < 0.45
    score = {}
    for weighting in ("none", "return"):
        config = dataclasses.replace(TINY, width=64, batch_size=32, weighting=weighting)
        algorithm = build(data, config)
        train(algorithm, data, 300, np.random.default_rng(0))
        algorithm.finish()
        mean = algorithm.policy_table()[0, 0] @ np.arange(10)
        score[weighting] = squeeze_reward(mean)
    assert score["return"] > 0.7, score
    assert score["return"] > score["none"] + 0.3, score
