"""Statistics over seeds which do not hide how few there are: from scores to a number and its interval.

Axes: R run, that is one seed · G point of the grid of env steps · T threshold. Runs are the last axis everywhere. A NaN
among the scores makes a result NaN, so what is to be left out must be left out, and counted, by the caller.

Reference: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021,
https://arxiv.org/abs/2108.13264. How often the intervals contain the truth is in docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]
"""Low and high end."""
Band = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Low and high ends, one of each for every point."""

FEWEST_RUNS = 3
"""Of fewer runs no spread is told."""
RESAMPLES = 2000
"""The more, the less noisy are the ends of an interval."""
_BATCH = 2**22
"""Numbers that the bootstrap holds in an array at a time."""


def interquartile_mean(scores: ArrayLike, axis: int = -1) -> Any:
    """The mean of the middle half of the runs, ⌊R / 4⌋ of which are cut off at either end.

    Raises:
        ValueError: there are no scores.
    """
    ordered = np.sort(np.moveaxis(_some(scores), axis, -1))
    cut = ordered.shape[-1] // 4
    middle = ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)
    # Sorting has put a NaN to the end, which is cut off.
    return np.where(np.isnan(ordered[..., -1]), np.nan, middle)[()]


def bootstrap_interval(
    scores: ArrayLike, statistic: Callable[..., Any], rng: np.random.Generator, level: float = 0.95
) -> Interval | None:
    """The expanded percentile interval of a statistic of the runs.

    The plain percentile interval is too narrow for few runs, whose resamples have (R − 1) / R of the true variance;
    this one spans the quantiles Φ(∓ √(R / (R − 1)) z), with z the normal quantile of (1 + level) / 2 (Hesterberg, What
    Teachers Should Know About the Bootstrap, 2015, https://arxiv.org/abs/1411.5279).

    Args:
        scores: [R].
        statistic: called as `statistic(samples, axis=-1)`, such as `interquartile_mean`.
        rng: the only source of randomness.
        level: probability that the interval is to have, in (0, 1).

    Returns:
        None for fewer than 3 runs.

    Raises:
        ValueError: there are no scores.
    """
    band = _band((_some(scores),), statistic, rng, level)
    return None if band is None else (float(band[0]), float(band[1]))


def probability_of_improvement(x: ArrayLike, y: ArrayLike, axis: int = -1) -> Any:
    """The probability that a run of `x` scores higher than a run of `y`, where equal ones count half.

    That is Mann and Whitney's U, by ranks, divided by R_x R_y.

    Raises:
        ValueError: there are no scores.
    """
    from scipy.stats import rankdata

    x, y = (np.moveaxis(_some(scores), axis, -1) for scores in (x, y))
    runs_x, runs_y = x.shape[-1], y.shape[-1]
    ranks = rankdata(np.concatenate([x, y], -1), axis=-1)[..., :runs_x]
    return (ranks.sum(-1) - runs_x * (runs_x + 1) / 2) / (runs_x * runs_y)


def improvement_interval(x: ArrayLike, y: ArrayLike, rng: np.random.Generator, level: float = 0.95) -> Interval | None:
    """The interval of `probability_of_improvement`, as `bootstrap_interval`, with both groups resampled.

    Where every run of one group beats all of the other the interval has no width: resamples know no other order.

    Returns:
        None for fewer than 3 runs on either side, whose smaller number widens the interval.

    Raises:
        ValueError: there are no scores.
    """
    band = _band((_some(x), _some(y)), probability_of_improvement, rng, level)
    return None if band is None else (float(band[0]), float(band[1]))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """The fraction of runs which score higher than each threshold, [R], [T] → [T].

    Raises:
        ValueError: there are no scores.
    """
    return _exceeds(scores, thresholds).mean(axis=-1)


def profile_band(
    scores: ArrayLike, thresholds: ArrayLike, rng: np.random.Generator, level: float = 0.95
) -> Band | None:
    """The interval of `performance_profile` at each threshold on its own, as `bootstrap_interval`.

    Returns:
        [T] low and [T] high ends; None for fewer than 3 runs.

    Raises:
        ValueError: there are no scores.
    """
    return _band((_exceeds(scores, thresholds),), np.mean, rng, level)


@dataclass(frozen=True)
class Curve:
    """Sample efficiency of one configuration.

    Attributes:
        env_steps: [G] the grid.
        seeds: [G] on how many seeds each point stands.
        iqm: [G] interquartile mean over them; NaN where there are none.
        low: [G] end of its interval; NaN where there are fewer than 3 seeds.
        high: [G] likewise.
    """

    env_steps: NDArray[np.float64]
    seeds: NDArray[np.int64]
    iqm: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def held(env_steps: ArrayLike, values: ArrayLike, grid: ArrayLike) -> NDArray[np.float64]:
    """The latest value that a seed had at each point of `grid`.

    Held, not interpolated: a value sums up the episodes that ended before its step, so a line to the next value
    would show a return before it was reached.

    Args:
        env_steps: [N] ascending.
        values: [N], NaN where no episode had ended since the one before.
        grid: [G].

    Returns:
        [G], NaN before the first value, and after the last step, where nothing is known of this seed.
    """
    env_steps, values, grid = (np.asarray(numbers, dtype=np.float64) for numbers in (env_steps, values, grid))
    known = ~np.isnan(values)
    before = np.searchsorted(env_steps[known], grid, side="right")  # how many values there are up to each point
    latest = np.concatenate([[np.nan], values[known]])[before]
    return np.where(grid <= env_steps.max(initial=-np.inf), latest, np.nan)


def sample_efficiency(
    curves: Sequence[tuple[ArrayLike, ArrayLike]], grid: ArrayLike, rng: np.random.Generator, level: float = 0.95
) -> Curve:
    """The interquartile mean over seeds against env steps, with its interval at each point on its own.

    A seed counts from its first value to its last step. One that failed or diverged early leaves the points after
    that to the others, which may look better for it: `Curve.seeds` tells.

    Args:
        curves: `env_steps` and `values` of each seed, as `held` takes them; lengths and steps may differ.
        grid: [G] env steps.
        rng: the only source of randomness.
        level: probability that the interval is to have, as in `bootstrap_interval`.
    """
    grid = np.asarray(grid, dtype=np.float64)
    values = np.array([held(*curve, grid) for curve in curves]).reshape(len(curves), len(grid))
    ordered = np.sort(values, axis=0).T  # [G, R], those without a value last
    seeds = np.count_nonzero(~np.isnan(ordered), axis=1)
    iqm, low, high = (np.full(len(grid), np.nan) for _ in range(3))
    for runs in np.unique(seeds[seeds > 0]):
        points = seeds == runs
        iqm[points] = interquartile_mean(ordered[points, :runs])
        band = _band((ordered[points, :runs],), interquartile_mean, rng, level)
        if band is not None:
            low[points], high[points] = band
    return Curve(grid, seeds, iqm, low, high)


def _band(
    groups: tuple[NDArray[np.float64], ...], statistic: Callable[..., Any], rng: np.random.Generator, level: float
) -> Band | None:
    """[…, R] per group → […] ends of the interval; None where a group has fewer than 3 runs."""
    runs = min(group.shape[-1] for group in groups)
    if runs < FEWEST_RUNS:
        return None
    if any(np.isnan(group).any() for group in groups):
        unknown = np.full(groups[0].shape[:-1], np.nan)
        return unknown, unknown
    from scipy.stats import bootstrap, norm  # a second to import, which a dry run need not wait

    expanded = 1 - 2 * norm.cdf((runs / (runs - 1)) ** 0.5 * norm.ppf((1 - level) / 2))
    found = bootstrap(
        groups,
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, _BATCH // sum(group.size for group in groups)),
        vectorized=True,
        axis=-1,
        confidence_level=expanded,
        method="percentile",
        rng=rng,
    ).confidence_interval
    return found.low, found.high


def _exceeds(scores: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """[R], [T] → [T, R]: 1 where the score is higher than the threshold, else 0, NaN where it is no number."""
    return np.heaviside(_some(scores) - np.asarray(thresholds, dtype=np.float64)[:, None], 0.0)


def _some(scores: ArrayLike) -> NDArray[np.float64]:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.size == 0:
        raise ValueError("statistics of no scores are undefined")
    return scores
