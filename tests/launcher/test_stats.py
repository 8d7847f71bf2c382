"""Statistics against closed forms, scipy and hand-computed values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from launcher import stats
from launcher.stats import bootstrap_interval, interquartile_mean

NAN = float("nan")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Statistics


def test_interquartile_mean_by_hand() -> None:
    # 8 scores, 2 are cut at each end: (3 + 4 + 5 + 6) / 4
    assert interquartile_mean([1000, 1, 2, 3, 4, 5, 6, -1000]) == 3.5
    # 5 scores, ⌊5 / 4⌋ = 1 is cut at each end: (2 + 3 + 10) / 3
    assert interquartile_mean([2, 3, 10, 99, -99]) == 5.0
    # 3 scores, none is cut
    assert interquartile_mean([1, 2, 9]) == 4.0


def test_leading_axes_are_kept() -> None:
    scores = generator().normal(size=(2, 5, 6))
    each = [[interquartile_mean(scores[i, j]) for j in range(5)] for i in range(2)]
    np.testing.assert_allclose(interquartile_mean(scores), each, rtol=1e-14)


def test_nan_is_not_hidden() -> None:
    assert np.isnan(interquartile_mean([1.0, 2.0, 3.0, NAN]))
    assert np.isnan(interquartile_mean([1.0, NAN, 2.0, 3.0, 4.0]))
    # Only where it is.
    np.testing.assert_array_equal(np.isnan(interquartile_mean([[1.0, 2.0], [1.0, NAN]])), [False, True])


def test_statistic_of_nothing() -> None:
    with pytest.raises(ValueError, match="no scores"):
        interquartile_mean([])


def test_a_number_is_a_float() -> None:
    assert isinstance(interquartile_mean([1, 2, 3]), float)
    assert isinstance(stats.probability_of_improvement([1, 2], [3]), float)


# Bootstrap intervals


def test_interval_of_three_runs_by_enumeration() -> None:
    # The 27 resamples of 0, 1 and 10 have these sums, in ascending order:
    #   0 (once), 1 (three times), 2 (three), …, 20 (three), 21 (three), 30 (once)
    # At level 0.5 the tail is Φ(√(3 / 2) · −0.674) = 0.204, between 4 / 27 and 7 / 27: the sums 2 and 20.
    assert bootstrap_interval([0, 1, 10], np.mean, generator(), level=0.5) == pytest.approx((2 / 3, 20 / 3))
    # At level 0.95 it is 0.008, less than 1 / 27.
    assert bootstrap_interval([0, 1, 10], np.mean, generator()) == (0.0, 10.0)


def test_interval_of_a_mean_has_the_width_of_the_central_limit_theorem() -> None:
    scores = generator(1).normal(loc=5.0, size=400)
    interval = bootstrap_interval(scores, np.mean, generator(2))
    assert interval is not None
    half = 1.959964 * scores.std() / np.sqrt(400)
    # The quantiles of 2000 resamples are themselves uncertain by about 2 % of the width.
    assert interval == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.15 * half)


@pytest.mark.parametrize("statistic", [np.mean, interquartile_mean])
def test_coverage_of_the_interval_of_ten_seeds(statistic: Callable[..., np.ndarray]) -> None:
    """About 92% for the mean, which is P(|t₉| < 1.96), and 95% for the IQM, each ± 0.8% of 1,000 samples."""
    samples = generator(12).normal(size=(1000, 10))
    band = stats._band((samples,), statistic, generator(13), 0.95)
    assert band is not None
    covered = np.mean((band[0] <= 0) & (band[1] >= 0))
    assert 0.90 <= covered <= 0.97


def test_interval_is_narrower_at_a_lower_level() -> None:
    scores = generator(1).normal(size=50)
    wide = bootstrap_interval(scores, np.mean, generator(2))
    narrow = bootstrap_interval(scores, np.mean, generator(2), level=0.5)
    assert wide is not None and narrow is not None
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_same_generator_same_interval() -> None:
    scores = generator(3).normal(size=6)
    first = bootstrap_interval(scores, interquartile_mean, generator(7))
    again = bootstrap_interval(scores, interquartile_mean, generator(7))
    other = bootstrap_interval(scores, interquartile_mean, generator(8))
    assert first == again != other


def test_two_runs_have_no_interval() -> None:
    assert bootstrap_interval([1.0, 2.0], np.mean, generator()) is None
    assert bootstrap_interval([1.0, 2.0, 3.0], np.mean, generator()) is not None


def test_interval_of_nan_is_nan() -> None:
    interval = bootstrap_interval([1.0, 2.0, 3.0, NAN], np.mean, generator())
    assert interval is not None and np.isnan(interval).all()


# Probability of improvement


def test_probability_of_improvement_by_hand() -> None:
    # 2 beats 1, ties 2 and loses to 3; 3 beats 1 and 2 and ties 3: (1.5 + 2.5) / 6
    assert stats.probability_of_improvement([2, 3], [1, 2, 3]) == 4 / 6


@pytest.mark.parametrize(("runs_x", "runs_y"), [(3, 3), (8, 5), (4, 30)])
def test_probability_of_improvement_is_the_u_statistic(runs_x: int, runs_y: int) -> None:
    rng = generator()
    x, y = rng.integers(6, size=runs_x), rng.integers(5, size=runs_y)  # with ties
    u = mannwhitneyu(x, y, alternative="greater").statistic
    assert stats.probability_of_improvement(x, y) == pytest.approx(u / (runs_x * runs_y), rel=1e-14)
    assert stats.probability_of_improvement(y, x) == pytest.approx(1 - u / (runs_x * runs_y), rel=1e-14)


def test_improvement_interval_has_the_width_of_the_u_test() -> None:
    # Of two samples from one distribution, Var[U / n²] = (2 n + 1) / (12 n²); half of it is due to either sample.
    runs = 300
    x, y = generator().normal(size=(2, runs))
    interval = stats.improvement_interval(x, y, generator(1))
    assert interval is not None
    half = 1.959964 * np.sqrt((2 * runs + 1) / (12 * runs**2))
    middle = stats.probability_of_improvement(x, y)
    assert interval == pytest.approx((middle - half, middle + half), abs=0.2 * half)


def test_improvement_interval_by_enumeration() -> None:
    # Against one fixed value a resample's probability is the share of its three runs which are higher: 0, 1 / 3,
    # 2 / 3 or 1 with probabilities 8, 12, 6 and 1 in 27. At level 0.5 the tail is 0.204: from 0 to 2 / 3 (7 / 27).
    high_once, fixed = [0, 0, 2], [1, 1, 1]
    assert stats.improvement_interval(high_once, fixed, generator(), level=0.5) == pytest.approx((0, 2 / 3))
    assert stats.improvement_interval(fixed, high_once, generator(), level=0.5) == pytest.approx((1 / 3, 1))


def test_improvement_interval_needs_three_runs_on_both_sides() -> None:
    assert stats.improvement_interval([1, 2], [1, 2, 3], generator()) is None
    assert stats.improvement_interval([1, 2, 3], [1, 2], generator()) is None
    assert stats.improvement_interval([1, 2, 3], [1, 2, 3], generator()) is not None


def test_improvement_over_nan_is_nan() -> None:
    assert np.isnan(stats.probability_of_improvement([1, 2, NAN], [1, 2, 3]))
    assert np.isnan(stats.probability_of_improvement([1, 2, 3], [1, NAN, 3]))
    interval = stats.improvement_interval([1, 2, NAN], [1, 2, 3], generator())
    assert interval is not None and np.isnan(interval).all()


# Distributions


def test_fraction_above_by_hand() -> None:
    # Higher than, not as high as.
    np.testing.assert_array_equal(stats.fraction_above([0, 1, 1, 2], [-1, 0, 1, 2]), [1, 0.75, 0.25, 0])


def test_area_under_the_fractions_is_the_mean() -> None:
    scores = generator().random(21)
    thresholds = (np.arange(10_000) + 0.5) / 10_000
    assert stats.fraction_above(scores, thresholds).mean() == pytest.approx(scores.mean(), abs=1e-4)


# Sample efficiency


def test_values_are_held_between_steps_and_never_beyond_the_last() -> None:
    grid = [0, 10, 15, 20, 29, 30, 31]
    np.testing.assert_array_equal(stats.held([10, 20, 30], [1, 2, 3], grid), [NAN, 1, 1, 2, 2, 3, NAN])


def test_steps_without_an_ended_episode() -> None:
    # Absent before the first value, the latest value after it, up to the last step whether or not it has one.
    held = stats.held([10, 20, 30, 40], [NAN, 2, NAN, NAN], [10, 19, 20, 35, 40, 41])
    np.testing.assert_array_equal(held, [NAN, NAN, 2, 2, 2, NAN])
    np.testing.assert_array_equal(stats.held([10, 20], [NAN, NAN], [5, 15]), [NAN, NAN])
    np.testing.assert_array_equal(stats.held([], [], [5, 15]), [NAN, NAN])


def test_curve_says_on_how_many_seeds_each_point_stands() -> None:
    curves: list[tuple[list[float], list[float]]] = [
        ([10, 20, 30], [1, 2, 3]),
        ([10, 25, 30], [3, 6, 9]),
        ([15, 30], [8, 9]),
        ([5, 10], [-6, NAN]),  # diverged at 10
        ([10, 20], [NAN, NAN]),  # ended no episode
    ]
    grid = [0, 5, 10, 15, 20, 30, 40]
    values = [stats.held(*each, grid) for each in curves]
    curve = stats.sample_efficiency(values, grid, generator(), level=0.5)
    np.testing.assert_array_equal(curve.iqm, stats.middle(values))
    np.testing.assert_array_equal(curve.env_steps, [0, 5, 10, 15, 20, 30, 40])
    np.testing.assert_array_equal(curve.seeds, [0, 1, 3, 3, 3, 3, 0])
    # At 10: 1, 3 and -6; at 15: 1, 3 and 8; at 20: 2, 3 and 8; at 30: 3, 9 and 9.
    np.testing.assert_allclose(curve.iqm, [NAN, -6, -2 / 3, 4, 13 / 3, 7, NAN])
    np.testing.assert_array_equal(np.isnan(curve.low), [True, True, False, False, False, False, True])
    np.testing.assert_array_equal(np.isnan(curve.high), np.isnan(curve.low))


def test_curve_of_three_seeds_by_enumeration() -> None:
    # As the interval of three runs above; which seed has which score differs from point to point.
    curve = stats.sample_efficiency([[0, 10], [1, 0], [10, 1]], [1, 2], generator(), level=0.5)
    np.testing.assert_allclose(curve.low, [2 / 3, 2 / 3])
    np.testing.assert_allclose(curve.high, [20 / 3, 20 / 3])


@pytest.mark.parametrize("seeds", [4, 11, 42])
def test_interval_of_a_curve_is_that_of_its_scores(seeds: int) -> None:
    scores = generator(seeds).normal(size=(seeds, 5))
    steps = np.arange(5)
    curve = stats.sample_efficiency(scores, steps, generator(1))
    for point in steps:
        interval = bootstrap_interval(scores[:, point], interquartile_mean, generator(2))
        assert (curve.low[point], curve.high[point]) == pytest.approx(interval, abs=0.15)
        assert curve.iqm[point] == pytest.approx(interquartile_mean(scores[:, point]), rel=1e-14)


def test_points_with_the_same_scores_have_the_same_interval() -> None:
    # More points than are computed at a time, in the middle of which a fifth seed ends.
    steps = np.arange(1000)
    values = [np.full(1000, score) for score in (1.0, 2.0, 4.0, 8.0)] + [np.where(steps < 500, 16.0, NAN)]
    curve = stats.sample_efficiency(values, steps, generator())
    for numbers in (curve.iqm, curve.low, curve.high):
        assert len(set(numbers[:500])) == len(set(numbers[500:])) == 1
    np.testing.assert_array_equal(curve.seeds, [5] * 500 + [4] * 500)
    assert curve.high[0] > curve.high[999]


def test_curve_of_no_seeds() -> None:
    curve = stats.sample_efficiency([], [1, 2], generator())
    np.testing.assert_array_equal(curve.seeds, [0, 0])
    assert np.isnan([curve.iqm, curve.low, curve.high]).all()


def test_same_generator_same_intervals() -> None:
    scores = generator().normal(size=(50, 3))
    first_scores = scores[:, 0]

    def intervals(seed: int) -> list[np.ndarray]:
        curve = stats.sample_efficiency(scores, [1, 2, 3], generator(seed))
        return [
            np.array([curve.low, curve.high]),
            np.array(stats.improvement_interval(first_scores, first_scores + 0.5, generator(seed))),
        ]

    for first, again, other in zip(intervals(1), intervals(1), intervals(2), strict=True):
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
