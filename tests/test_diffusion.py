"""Diffusion, the set denoiser and the coarse-to-fine sampler, each against what theory says."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from algorithms.nn.diffusion import (
    FLOOR,
    add_noise,
    alpha_bar,
    amplitudes,
    bell_weight,
    ddim_step,
    snr_weight,
    time_features,
    time_grid,
)
from algorithms.nn.hierarchy import (
    Level,
    cost_ratio,
    parents,
    sample,
    schedule,
    stratified_states,
)
from algorithms.nn.sets import FIELDS, SetDenoiser


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def free(x: Tensor) -> Tensor:
    """A clamp that knows nothing."""
    return x


def no_state(n: int, populations: int = 1) -> Tensor:
    return torch.zeros(populations, n, dtype=torch.int64)


def test_alpha_bar_falls_from_one_to_the_floor() -> None:
    level = alpha_bar(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert level[0] == 1 - FLOOR
    assert level[-1] == FLOOR
    assert (level.diff() <= 0).all()
    # cos^2 is symmetric: half the signal variance is gone just below half time.
    assert alpha_bar(torch.tensor(0.496, dtype=torch.float64)).item() == pytest.approx(
        0.5, abs=1e-3
    )


def test_noised_samples_have_the_scheduled_moments() -> None:
    x0 = torch.full((4, 50_000), 0.7)
    k = torch.tensor([0.1, 0.4, 0.7, 1.0])
    x = add_noise(x0, torch.randn(x0.shape, generator=seeded()), k)
    torch.testing.assert_close(x.mean(1), 0.7 * alpha_bar(k).sqrt(), atol=0.02, rtol=0)
    torch.testing.assert_close(x.var(1), 1 - alpha_bar(k), atol=0.02, rtol=0)


def test_bell_weight_peaks_where_signal_and_noise_are_equal() -> None:
    k = torch.linspace(0, 1, 1001)
    weight = bell_weight(k)
    peak = weight.argmax()
    assert alpha_bar(k[peak]).item() == pytest.approx(0.5, abs=2e-3)
    assert weight[peak].item() == pytest.approx(1, abs=1e-4)
    assert weight[0].item() == weight[-1].item() == pytest.approx(0.05)


def test_snr_weight_is_clipped_on_both_sides() -> None:
    weight = snr_weight(torch.tensor([0.0, 0.5, 1.0]))
    assert weight[0].item() == pytest.approx(5.0)
    assert 0.9 < weight[1].item() < 1.1
    assert weight[2].item() == pytest.approx(0.05)


def test_time_features_tell_times_apart() -> None:
    features = time_features(torch.linspace(0, 1, 21))
    assert features.shape == (21, 32)
    assert torch.cdist(features, features).add(torch.eye(21)).min() > 0.1


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_ddim_recovers_x0_with_a_perfect_denoiser(steps: int) -> None:
    x0 = torch.randn(3, 7, 5, generator=seeded())
    x = add_noise(x0, torch.randn(x0.shape, generator=seeded(1)), torch.ones(3))
    for now, after in itertools.pairwise(amplitudes(time_grid(steps))):
        x = ddim_step(x, x0, now, after)
    # What is left is the noise of abar(0) = 1 - FLOOR.
    torch.testing.assert_close(x, x0, atol=0.05, rtol=0)


def test_ddim_with_the_exact_gaussian_denoiser_samples_the_gaussian() -> None:
    mean, variance = 0.3, 0.04

    def denoise(x: Tensor, k: Tensor) -> Tensor:
        level = alpha_bar(k)
        gain = level.sqrt() * variance / (level * variance + 1 - level)
        return mean + gain * (x - level.sqrt() * mean)

    levels = (Level(20_000, 200),)
    x = sample(denoise, free, no_state(20_000), (1,), levels, seeded())
    assert x.mean().item() == pytest.approx(mean, abs=0.01)
    assert x.var().item() == pytest.approx(variance, rel=0.1)


@pytest.fixture
def denoiser() -> SetDenoiser:
    torch.manual_seed(0)
    return SetDenoiser(steps=4, dim=6, width=16, blocks=2)


def test_denoiser_is_permutation_equivariant_and_takes_any_size(denoiser: SetDenoiser) -> None:
    x, k = torch.randn(2, 9, 4, 6), torch.tensor([0.2, 0.8])
    order = torch.randperm(9)
    torch.testing.assert_close(denoiser(x[:, order], k), denoiser(x, k)[:, order])
    assert denoiser(torch.randn(2, 40, 4, 6), k).shape == (2, 40, 4, 6)


def test_context_stands_for_the_population(denoiser: SetDenoiser) -> None:
    x, k = torch.randn(2, 9, 4, 6), torch.tensor([0.2, 0.8])
    torch.testing.assert_close(denoiser(x, k, context=x), denoiser(x, k))
    # With a context, a particle no longer depends on its neighbours, only on the context.
    part = denoiser(x[:, :3], k, context=x)
    torch.testing.assert_close(part, denoiser(x, k)[:, :3])
    assert not torch.allclose(part, denoiser(x[:, :3], k, context=x + 1))


@pytest.mark.parametrize("field", FIELDS)
def test_the_field_is_what_lets_particles_feel_each_other(field: str) -> None:
    torch.manual_seed(0)
    net = SetDenoiser(steps=4, dim=6, width=16, blocks=2, field=field)
    x, k = torch.randn(1, 5, 4, 6), torch.tensor([0.5])
    moved = x.clone()
    moved[0, 0] += 1
    felt = not torch.equal(net(x, k)[0, 1:], net(moved, k)[0, 1:])
    assert felt == (field != "none")


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_equivariant_and_reads_the_context_alone(field: str) -> None:
    torch.manual_seed(0)
    net = SetDenoiser(steps=4, dim=6, width=16, blocks=2, field=field)
    x, k, context = torch.randn(2, 9, 4, 6), torch.tensor([0.2, 0.7]), torch.randn(2, 5, 4, 6)
    order = torch.randperm(9)
    torch.testing.assert_close(net(x[:, order], k), net(x, k)[:, order])
    torch.testing.assert_close(net(x[:, :3], k, context), net(x, k, context)[:, :3])
    torch.testing.assert_close(net(x, k, context[:, torch.randperm(5)]), net(x, k, context))


def test_what_is_known_beside_the_particles_reaches_each_of_them() -> None:
    torch.manual_seed(0)
    net = SetDenoiser(steps=2, dim=3, width=16, blocks=1, starts=5, seen=2, asked=2)
    x, k = torch.randn(1, 4, 2, 3), torch.tensor([0.5])
    told = {"start": torch.tensor([0]), "seen": torch.zeros(1, 2), "asked": torch.zeros(1, 2)}
    plain = net(x, k, **told)
    for name, other in (
        ("start", torch.tensor([4])),
        ("seen", torch.ones(1, 2)),
        ("asked", torch.ones(1, 2)),
    ):
        assert ((net(x, k, **(told | {name: other})) - plain).abs().amax((0, 2, 3)) > 1e-4).all()


def test_schedule_grows_geometrically_and_spends_every_step() -> None:
    levels = schedule("late", 4000, 20, first_level=256, branch=4)
    assert [level.particles for level in levels] == [256, 1024, 4000]
    assert levels[0].steps == 15
    assert sum(level.steps for level in levels) == 20
    assert all(level.steps >= 1 for level in levels)
    assert cost_ratio(levels) < 0.25
    assert schedule("late", 200, 20, 256, 4) == (Level(200, 20),)
    assert schedule("late", 1000, 20, 256, 4) == (Level(256, 15), Level(1000, 5))
    assert schedule("early", 1000, 20, 256, 4) == (Level(256, 5), Level(1000, 15))
    assert schedule("off", 1000, 20, 256, 4) == (Level(1000, 20),)
    with pytest.raises(ValueError, match="too few"):
        schedule("late", 10**6, 3, 256, 4)


def test_every_prefix_of_the_initial_states_is_stratified() -> None:
    law = torch.tensor([0.5, 0.2, 0.2, 0.1])
    state = stratified_states(law, 1000, seeded())
    for n in (50, 256, 1000):
        share = torch.bincount(state[:n], minlength=4) / n
        torch.testing.assert_close(share, law, atol=3 / n, rtol=0)


def test_children_branch_from_parents_of_their_own_state() -> None:
    state = stratified_states(torch.tensor([0.5, 0.3, 0.2]), 4000, seeded())
    other = state.flip(0)  # a second population, whose states stand elsewhere
    both = torch.stack([state, other])
    found = parents(both, 100, seeded(1))
    for own, parent in zip(both, found, strict=True):
        assert torch.equal(own[parent], own[100:])
        assert torch.bincount(parent, minlength=100).min() > 10  # each has about 39 children
    alone = torch.tensor([[0, 0, 1]])  # nobody of state 1 is known yet: any parent will do
    assert parents(alone, 2, seeded())[0, 0] in (0, 1)


def test_children_of_vectors_branch_from_the_nearest() -> None:
    points = torch.randn(2, 500, 3, generator=seeded())
    found = parents(points, 40, seeded(1))
    for own, parent in zip(points, found, strict=True):
        assert torch.equal(parent, torch.cdist(own[40:], own[:40]).argmin(-1))
    assert (parents(points, 400, seeded(1)) < 400).all()


def test_branching_keeps_the_noise_level() -> None:
    """Just after a branching, parents and children alike have mean sqrt(abar) x0, var 1 - abar."""
    target, seen = 0.8, []

    def denoise(x: Tensor, k: Tensor) -> Tensor:
        seen.append((x.clone(), k))
        return torch.full_like(x, target)

    levels = (Level(5_000, 3), Level(20_000, 1))
    sample(denoise, free, no_state(20_000), (1,), levels, seeded())
    x, k = seen[-1]
    level = alpha_bar(k)
    for part in (x[0, :5_000, 0], x[0, 5_000:, 0]):
        assert part.mean().item() == pytest.approx(target * level.sqrt().item(), abs=0.02)
        assert part.var().item() == pytest.approx(1 - level.item(), rel=0.05)


@pytest.mark.parametrize(("first_steps", "low", "high"), [(1, 0.5, 2.0), (17, 6.0, 25.0)])
def test_late_branching_leaves_the_spread_of_the_coarse_population(
    first_steps: int, low: float, high: float
) -> None:
    """N Var(population mean) / Var(particle): 1 if independent, N / N_0 if copies."""
    variance = 0.1

    def denoise(x: Tensor, k: Tensor) -> Tensor:
        level = alpha_bar(k)
        return level.sqrt() * variance / (level * variance + 1 - level) * x

    levels = (Level(16, first_steps), Level(256, 20 - first_steps))
    x = sample(denoise, free, no_state(256, 400), (1,), levels, seeded())
    ratio = 256 * x.mean(1).var() / x.var()
    assert low < ratio.item() < high


def test_sampler_keeps_what_is_given() -> None:
    given = torch.linspace(-1, 1, 64)

    def clamp(x: Tensor) -> Tensor:
        x[..., 0] = given[: x.shape[1]]
        return x

    def denoise(x: Tensor, k: Tensor) -> Tensor:
        assert torch.equal(x[0, :, 0], given[: x.shape[1]])
        return x

    levels = (Level(16, 5), Level(64, 5))
    x = sample(denoise, clamp, no_state(64, 2), (3,), levels, seeded())
    assert torch.equal(x[..., 0], given.expand(2, 64))
