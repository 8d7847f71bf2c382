"""Statistics over seeds which do not hide how few there are: from scores to a number and its interval."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of all `scores`, whatever their shape.

    With the n scores in ascending order and k = ⌊n / 4⌋:  IQM = (x₍ₖ₎ + … + x₍ₙ₋ₖ₋₁₎) / (n − 2k), which is
    `scipy.stats.trim_mean(scores, 0.25, axis=None)`. One NaN makes the result NaN.

    Reference: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS
    2021, https://arxiv.org/abs/2108.13264, and its library rliable.

    Raises:
        ValueError: there are no scores.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if ordered.size == 0:
        raise ValueError("the interquartile mean of no scores is undefined")
    if np.isnan(ordered[-1]):  # NaNs are sorted to the end, where trimming would hide them
        return float("nan")
    cut = ordered.size // 4
    return float(np.mean(ordered[cut : ordered.size - cut]))


def bootstrap_interval(
    scores: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], float],
    rng: np.random.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """The percentile interval of `statistic` under a bootstrap stratified by task.

    Each of the `resamples` draws, for every task on its own, as many runs as there are, with replacement; the
    interval spans the quantiles (1 ∓ level) / 2 of the statistic over them (Agarwal et al. 2021, section 4.1,
    https://arxiv.org/abs/2108.13264).

    Args:
        scores: [runs] or [runs, tasks].
        statistic: takes an array of the shape of `scores`, such as `interquartile_mean`.
        rng: the only source of randomness.
        resamples: more make the ends less noisy.
        level: probability that the interval is to have, in (0, 1).

    Returns:
        Its low and high end; None for fewer than 3 runs, from which no spread can be told.
    """
    scores = np.asarray(scores, dtype=np.float64)
    runs = scores.shape[0]
    if runs < 3:
        return None
    draws = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(runs, size=scores.shape)
        draws[i] = statistic(np.take_along_axis(scores, chosen, axis=0))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
