"""Statistics over seeds which do not hide how few there are: from scores to a number and its interval.

Axes: R run, that is one seed · G point of the grid of env steps. Runs are the last axis everywhere. A NaN among the
scores makes a result NaN, so what is to be left out must be left out, and counted, by the caller. A statistic of no
scores is a ValueError.

Reference: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021,
https://arxiv.org/abs/2108.13264. How often the intervals contain the truth is in docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]
"""Low and high end."""
Band = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Low and high ends, one of each for every point."""
Random = np.random.Generator | int
"""The source of resamples: a generator, or the seed of one, with which an interval is the same each time."""

FEWEST_RUNS = 3
"""Runs below which no spread is told."""
RESAMPLES = 2000
"""The more there are, the less noisy are the ends of an interval."""
_BATCH = 2**22
"""Numbers that the bootstrap holds in an array at a time."""


def interquartile_mean(scores: ArrayLike, axis: int = -1) -> Any:
    """The mean of the middle half of the runs, ⌊R / 4⌋ of which are cut off at either end."""
    ordered = np.sort(np.moveaxis(_some(scores), axis, -1))
    cut = ordered.shape[-1] // 4
    mean = ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)
    # Sorting has put a NaN to the end, which is cut off.
    return np.where(np.isnan(ordered[..., -1]), np.nan, mean)[()]


def bootstrap_interval(
    scores: ArrayLike, statistic: Callable[..., Any] = interquartile_mean, rng: Random = 0, level: float = 0.95
) -> Interval | None:
    """The expanded percentile interval of a statistic of the runs, [R]; None for fewer than 3.

    The plain percentile interval is too narrow for few runs, whose resamples have (R − 1) / R of the true variance;
    this one spans the quantiles Φ(∓ √(R / (R − 1)) z), with z the normal quantile of (1 + level) / 2 (Hesterberg, What
    Teachers Should Know About the Bootstrap, 2015, https://arxiv.org/abs/1411.5279). The statistic is called as
    `statistic(samples, axis=-1)`; `level` is the probability that the interval is to have.
    """
    return _interval((scores,), statistic, rng, level)


class OfSeeds(NamedTuple):
    """Mean, interquartile mean and its interval over seeds, of the mean return of each seed's episodes."""

    mean: float
    iqm: float
    interval: Interval | None


def of_seeds(returns: Iterable[Any]) -> OfSeeds:
    """The numbers of seeds, of each of which the returns of its episodes are given."""
    means = np.array([np.mean(episodes) for episodes in returns])
    return OfSeeds(float(means.mean()), float(interquartile_mean(means)), bootstrap_interval(means))


def probability_of_improvement(x: ArrayLike, y: ArrayLike, axis: int = -1) -> Any:
    """The probability that a run of `x` scores higher than a run of `y`, where equal ones count half.

    That is Mann and Whitney's U, by ranks, divided by R_x R_y.
    """
    from scipy.stats import rankdata

    x, y = (np.moveaxis(_some(scores), axis, -1) for scores in (x, y))
    runs_x, runs_y = x.shape[-1], y.shape[-1]
    ranks = rankdata(np.concatenate([x, y], -1), axis=-1)[..., :runs_x]
    return (ranks.sum(-1) - runs_x * (runs_x + 1) / 2) / (runs_x * runs_y)


def improvement_interval(x: ArrayLike, y: ArrayLike, rng: Random = 0, level: float = 0.95) -> Interval | None:
    """The interval of `probability_of_improvement`, as `bootstrap_interval`, with both groups resampled.

    None for fewer than 3 runs on either side, whose smaller number widens the interval. Where every run of one group
    beats all of the other it has no width: resamples know no other order.
    """
    return _interval((x, y), probability_of_improvement, rng, level)


def fraction_above(scores: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """The fraction of scores that are higher than each threshold."""
    return 1 - np.searchsorted(np.sort(_some(scores)), thresholds, side="right") / np.size(scores)


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


def sample_efficiency(values: Sequence[ArrayLike], grid: ArrayLike, rng: Random = 0, level: float = 0.95) -> Curve:
    """The interquartile mean over seeds against env steps, with its interval at each point on its own.

    A seed, [G] as `held` gives it, counts from its first value to its last step. One that failed or diverged early
    leaves the points after that to the others, which may look better for it: `Curve.seeds` tells.
    """
    grid = np.asarray(grid, dtype=np.float64)
    seeds, iqm, low, high = np.zeros(len(grid), np.int64), *(np.full(len(grid), np.nan) for _ in range(3))
    for points, scores in _by_seeds(values):
        seeds[points], iqm[points] = scores.shape[-1], interquartile_mean(scores)
        if (band := _band((scores,), interquartile_mean, rng, level)) is not None:
            low[points], high[points] = band
    return Curve(grid, seeds, iqm, low, high)


def middle(values: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """[G] the interquartile mean alone, as in `sample_efficiency`."""
    found = np.full(len(np.asarray(values[0])), np.nan)
    for points, scores in _by_seeds(values):
        found[points] = interquartile_mean(scores)
    return found


def _by_seeds(values: Sequence[ArrayLike]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """The points at which equally many seeds have a value, and these, [points, R], for each such number but 0."""
    ordered = np.sort(np.array(values, dtype=np.float64).T)  # [G, R], those without a value last
    seeds = np.count_nonzero(~np.isnan(ordered), axis=-1)
    for runs in np.unique(seeds[seeds > 0]):
        yield seeds == runs, ordered[seeds == runs, :runs]


def _interval(
    groups: tuple[ArrayLike, ...], statistic: Callable[..., Any], rng: Random, level: float
) -> Interval | None:
    band = _band(tuple(np.asarray(group, dtype=np.float64) for group in groups), statistic, rng, level)
    return None if band is None else (float(band[0]), float(band[1]))


def _band(
    groups: tuple[NDArray[np.float64], ...], statistic: Callable[..., Any], rng: Random, level: float
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


def _some(scores: ArrayLike) -> NDArray[np.float64]:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.size == 0:
        raise ValueError("statistics of no scores are undefined")
    return scores
