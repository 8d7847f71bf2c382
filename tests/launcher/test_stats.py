"""Statistics against closed forms, scipy and hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import trim_mean

from launcher.stats import bootstrap_interval, interquartile_mean


def test_interquartile_mean_by_hand() -> None:
    # 8 scores, 2 are cut at each end: (3 + 4 + 5 + 6) / 4
    assert interquartile_mean([1000, 1, 2, 3, 4, 5, 6, -1000]) == 3.5
    # 5 scores, ⌊5 / 4⌋ = 1 is cut at each end: (2 + 3 + 10) / 3
    assert interquartile_mean([2, 3, 10, 99, -99]) == 5.0
    # 3 scores, none is cut
    assert interquartile_mean([1, 2, 9]) == 4.0


@pytest.mark.parametrize("shape", [(1,), (4,), (7,), (32,), (5, 3), (8, 4)])
def test_interquartile_mean_is_the_trimmed_mean_of_all_scores(shape: tuple[int, ...]) -> None:
    scores = np.random.default_rng(0).normal(size=shape)
    assert interquartile_mean(scores) == pytest.approx(trim_mean(scores, 0.25, axis=None), rel=1e-14)


def test_interquartile_mean_does_not_trim_nan_away() -> None:
    assert np.isnan(interquartile_mean([1.0, 2.0, 3.0, float("nan")]))


def test_interquartile_mean_of_nothing() -> None:
    with pytest.raises(ValueError, match="no scores"):
        interquartile_mean([])


def test_interval_of_a_mean_has_the_width_of_the_central_limit_theorem() -> None:
    scores = np.random.default_rng(1).normal(loc=5.0, size=400)
    interval = bootstrap_interval(scores, np.mean, np.random.default_rng(2))
    assert interval is not None
    half = 1.959964 * scores.std() / np.sqrt(400)
    # The quantiles of 2000 resamples are themselves uncertain by about 2 % of the width.
    assert interval == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.15 * half)


def test_interval_is_narrower_at_a_lower_level() -> None:
    scores = np.random.default_rng(1).normal(size=50)
    wide = bootstrap_interval(scores, np.mean, np.random.default_rng(2))
    narrow = bootstrap_interval(scores, np.mean, np.random.default_rng(2), level=0.5)
    assert wide is not None and narrow is not None
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_resampling_stays_within_each_task() -> None:
    # Equal runs within a task: however runs are drawn, the mean of the two tasks is (0 + 100) / 2.
    scores = np.tile([0.0, 100.0], (5, 1))
    assert bootstrap_interval(scores, np.mean, np.random.default_rng(0)) == (50.0, 50.0)


def test_tasks_are_resampled_independently() -> None:
    # a − b is 0 in each run, so only draws which differ between the tasks give the mean difference a spread.
    run = np.arange(10.0)
    scores = np.stack([run, run], axis=1)
    interval = bootstrap_interval(scores, lambda s: float((s[:, 0] - s[:, 1]).mean()), np.random.default_rng(0))
    assert interval is not None
    assert interval[0] < -1.0 and interval[1] > 1.0


def test_statistic_gets_the_shape_of_the_scores_and_every_resample() -> None:
    shapes = []

    def statistic(sample: np.ndarray) -> float:
        shapes.append(sample.shape)
        return float(sample.mean())

    bootstrap_interval(np.ones(4), statistic, np.random.default_rng(0), resamples=7)
    bootstrap_interval(np.ones((4, 2)), statistic, np.random.default_rng(0), resamples=3)
    assert shapes == [(4,)] * 7 + [(4, 2)] * 3


def test_same_generator_same_interval() -> None:
    scores = np.random.default_rng(3).normal(size=(6, 2))
    first = bootstrap_interval(scores, interquartile_mean, np.random.default_rng(7))
    again = bootstrap_interval(scores, interquartile_mean, np.random.default_rng(7))
    other = bootstrap_interval(scores, interquartile_mean, np.random.default_rng(8))
    assert first == again != other


def test_two_runs_have_no_interval() -> None:
    rng = np.random.default_rng(0)
    assert bootstrap_interval([1.0, 2.0], np.mean, rng) is None
    assert bootstrap_interval(np.zeros((2, 50)), np.mean, rng) is None
    assert bootstrap_interval([1.0, 2.0, 3.0], np.mean, rng) is not None
