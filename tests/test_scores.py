"""Statistics against frozen values of SciPy 1.17 and worked examples, and their invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderboard import scores

TEN = np.array([3.0, -20.5, 41.25, 88.0, 97.5, 99.0, 101.0, 64.0, 70.5, 250.0])
FIVE = np.array([10.0, 55.5, 64.0, 88.0, 20.0])

values = st.floats(-200, 300, allow_subnormal=False)
seeds = st.lists(values, min_size=1, max_size=12).map(np.array)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [(TEN, 76.70833333333333), (TEN[:7], 65.75), (np.array([1.0, 2, 3, 4, 100]), 3.0)],
)
def test_iqm_equals_the_trimmed_mean_of_scipy(runs: np.ndarray, expected: float) -> None:
    assert scores.iqm([runs]) == pytest.approx(expected, rel=1e-12)


def test_iqm_pools_the_runs_of_all_datasets() -> None:
    assert scores.iqm([TEN[:4], TEN[4:]]) == scores.iqm([TEN])


def test_mean_and_median_weigh_datasets_alike() -> None:
    strata = [np.array([0.0, 10.0]), np.array([20.0, 20.0, 20.0, 20.0]), np.array([90.0])]
    assert scores.mean(strata) == pytest.approx((5 + 20 + 90) / 3)
    assert scores.median(strata) == 20.0


def test_optimality_gap_gives_no_credit_above_the_target() -> None:
    assert scores.optimality_gap([np.array([90.0, 150.0])]) == 5.0


@pytest.mark.parametrize(
    ("runs", "low", "high"),
    [
        ([80, 83, 79], 75.4955216541244, 85.83781167920894),
        ([80, 83, 79, 90], 75.09710299971675, 90.90289700028325),
    ],
)
def test_fewer_than_five_seeds_get_the_t_interval_of_scipy(runs, low, high) -> None:
    found = scores.estimate(np.array(runs, dtype=float))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6)
    assert found.value == pytest.approx(np.mean(runs))
    assert found.method == "mean, t"


def test_one_seed_has_no_interval() -> None:
    found = scores.estimate(np.array([7.0]))
    assert (found.value, found.low, found.high) == (7.0, None, None)


def test_five_seeds_get_the_iqm_and_a_bootstrap_interval() -> None:
    found = scores.estimate(TEN)
    assert found.method == "IQM, bootstrap"
    assert found.value == pytest.approx(76.70833333333333)
    assert found.low is not None
    assert found.high is not None
    assert TEN.min() < found.low < found.value < found.high < TEN.max()


def test_bootstrap_of_two_seeds_matches_the_exact_distribution() -> None:
    """Of {0, 1} the resampled mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4."""
    (draws,) = scores.resample([np.array([0.0, 1.0])], 40_000)
    shares = [(draws.mean(-1) == mean).mean() for mean in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.01)  # 4 standard errors


def test_bootstrap_resamples_within_each_dataset() -> None:
    """Two datasets without spread have no interval, however far apart they lie."""
    found = scores.bootstrap([np.full(5, 0.0), np.full(5, 100.0)], scores.mean)
    assert (found.low, found.value, found.high) == (50.0, 50.0, 50.0)


def test_bootstrap_interval_of_a_normal_sample_is_near_the_exact_one() -> None:
    runs = np.random.default_rng(0).normal(50, 10, 200)
    found = scores.bootstrap([runs], scores.mean)
    half = 1.96 * runs.std() / 200**0.5
    assert found.low == pytest.approx(runs.mean() - half, abs=0.15)
    assert found.high == pytest.approx(runs.mean() + half, abs=0.15)


def test_bootstrap_never_changes_between_releases() -> None:
    """A frozen interval: a change would move every interval on the board."""
    found = scores.estimate(TEN)
    assert (found.low, found.high) == pytest.approx((36.03958333333333, 118.66875), rel=1e-9)


def test_improvement_equals_the_mann_whitney_statistic() -> None:
    assert scores.improvement([TEN], [FIVE]).value == pytest.approx(0.68)


def test_improvement_counts_ties_half_and_averages_datasets() -> None:
    x, y = [np.array([1.0]), np.array([1.0])], [np.array([1.0]), np.array([0.0])]
    assert scores.improvement(x, y).value == 0.75


def test_a_contrast_below_five_seeds_has_welchs_interval() -> None:
    """SciPy's ttest_ind(equal_var=False) has 3.775 degrees of freedom; ours rounds them down."""
    x, y = np.array([80.0, 83, 79]), np.array([60.0, 75, 71, 66])
    found = scores.contrast([x, y], [1.0, -1.0])
    assert found.value == pytest.approx(80.6666667 - 68)
    scipy = 2.841260540628605, 22.49207279270474
    half = (scipy[1] - scipy[0]) / 2 * scores.T_975[2] / 2.8421  # t at 3 over t at 3.775
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-3)
    assert scores.contrast([x[:1], y], [1.0, -1.0]).low is None
    assert scores.contrast([np.full(3, 7.0)], [1.0]).low == 7.0


def test_a_contrast_of_one_stratum_is_its_mean_and_order_is_no_matter() -> None:
    assert scores.contrast([TEN], [1.0]) == scores.contrast([TEN[::-1]], [1.0])
    found = scores.contrast([TEN, FIVE], [0.5, 0.5])
    assert found.value == pytest.approx((TEN.mean() + FIVE.mean()) / 2)
    back = scores.contrast([FIVE, TEN], [-1.0, 1.0])
    forth = scores.contrast([TEN, FIVE], [1.0, -1.0])
    assert back.value == forth.value
    assert back.low == pytest.approx(forth.low, abs=3)  # other draws


def test_profile_is_the_share_of_runs_above_each_threshold() -> None:
    found = scores.profile([np.array([0.0, 50.0]), np.array([100.0])], np.array([-1, 0, 60, 100]))
    np.testing.assert_allclose(found, [1.0, 0.75, 0.5, 0.0])


def test_a_failed_seed_scores_as_random_play_or_as_the_worst_seed_if_lower() -> None:
    np.testing.assert_array_equal(scores.with_failures(np.array([80.0, np.nan])), [80, 0])
    np.testing.assert_array_equal(scores.with_failures(np.array([-9.0, np.nan])), [-9, -9])
    np.testing.assert_array_equal(scores.with_failures(np.array([np.nan])), [0])


@settings(deadline=None)  # a busy machine is no failure
@given(finished=st.lists(values, min_size=1, max_size=5))
def test_a_failure_never_raises_the_mean(finished: list[float]) -> None:
    with_one = scores.with_failures(np.array([*finished, np.nan]))
    assert with_one.mean() <= np.mean(finished) + 1e-9


@settings(deadline=None, max_examples=25)
@given(strata=st.lists(seeds, min_size=1, max_size=4), data=st.data())
def test_order_of_seeds_and_datasets_changes_no_bit(strata, data) -> None:
    shuffled = [
        np.array(data.draw(st.permutations(list(s)))) for s in data.draw(st.permutations(strata))
    ]
    for statistic in (scores.mean, scores.median, scores.iqm, scores.optimality_gap):
        assert scores.bootstrap(strata, statistic, 200) == scores.bootstrap(
            shuffled, statistic, 200
        )


@settings(deadline=None, max_examples=25)
@given(x=seeds, y=seeds, data=st.data())
def test_improvement_is_complementary_and_ignores_the_order_of_seeds(x, y, data) -> None:
    forth, back = scores.improvement([x], [y], 200), scores.improvement([y], [x], 200)
    assert forth.value + back.value == pytest.approx(1.0)
    shuffled = np.array(data.draw(st.permutations(list(x))))
    assert scores.improvement([shuffled], [y], 200) == forth


@given(runs=seeds, which=st.integers(0, 11), gain=st.floats(0, 100))
def test_a_better_seed_never_lowers_an_aggregate(runs, which, gain) -> None:
    better = runs.copy()
    better[which % runs.size] += gain
    for statistic in (scores.mean, scores.median, scores.iqm):
        assert statistic([better]) >= statistic([runs]) - 1e-9
    assert scores.optimality_gap([better]) <= scores.optimality_gap([runs]) + 1e-9


@given(runs=seeds)
def test_the_profile_falls_with_the_threshold(runs: np.ndarray) -> None:
    found = scores.profile([runs], np.linspace(-250, 350, 40))
    assert (np.diff(found) <= 1e-12).all()
    assert (found[0], found[-1]) == (1.0, 0.0)


@pytest.mark.parametrize("bad", [[], [np.nan], [1.0, np.inf]])
def test_scores_that_are_no_numbers_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        scores.estimate(np.array(bad))
