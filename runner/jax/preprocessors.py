"""Running statistics of observations and values of one member, over valid rows only.

Merges are Chan, Golub and LeVeque's (1979) pairwise update in float64, the only float64 of the program besides what
environments insist on. Axes: B row · K feature.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float64, Num

from runner.training.pack import Rules


class Statistics(NamedTuple):
    """Mean, variance and number of rows seen: `[K]`, `[K]`, `[]`, all float64."""

    mean: Float64[Array, " K"]
    variance: Float64[Array, " K"]
    seen: Float64[Array, ""]


def absorb(statistics: Statistics, rows: Num[Array, "B K"], valid: Float[Array, " B"]) -> Statistics:
    """Merge the rows whose weight in `valid` is 1; without valid rows the statistics stay.

    The batch variance is unbiased, as skrl's; of a single row it is 0.
    """
    with jax.enable_x64(True):
        weight = valid[:, None].astype(jnp.float64)
        rows = rows.astype(jnp.float64)
        n = weight.sum()
        mean = (rows * weight).sum(0) / jnp.maximum(n, 1)
        deviation = (rows - mean) * weight
        variance = (deviation * deviation).sum(0) / jnp.maximum(n - 1, 1)
        delta = mean - statistics.mean
        total = statistics.seen + n
        moment = statistics.variance * statistics.seen + variance * n + delta * delta * (statistics.seen * n / total)
        return Statistics(
            jnp.where(n > 0, statistics.mean + delta * (n / total), statistics.mean),
            jnp.where(n > 0, moment / total, statistics.variance),
            total,
        )


class Scaler(NamedTuple):
    """Statistics made ready for float32 rows, and skrl's numbers for it, one for all columns or `[K]`."""

    mean: Float[Array, " K"]
    std: Float[Array, " K"]
    epsilon: float | np.ndarray
    clip: float | np.ndarray

    def normalize(self, rows: Num[Array, "B K"]) -> Float[Array, "B K"]:
        """clip((x − mean) / (std + ε), ±clip)."""
        return jnp.clip((rows - self.mean) / (self.std + self.epsilon), -self.clip, self.clip)

    def denormalize(self, rows: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """std · clip(x, ±clip) + mean."""
        return self.std * jnp.clip(rows, -self.clip, self.clip) + self.mean


def scaler(
    statistics: Statistics, epsilon: float | np.ndarray, clip: float | np.ndarray, untouched: np.ndarray | None = None
) -> Scaler:
    """Cast statistics for use on float32 rows.

    Args:
        statistics: of every column.
        epsilon: skrl's, one for all columns or `[K]`.
        clip: skrl's, one for all columns or `[K]`.
        untouched: columns that stay as they are `[K]`; their epsilon must be 0 and their clip infinite.
    """
    with jax.enable_x64(True):
        mean, std = statistics.mean.astype(jnp.float32), jnp.sqrt(statistics.variance).astype(jnp.float32)
    if untouched is not None:
        mean, std = jnp.where(untouched, 0, mean), jnp.where(untouched, 1, std)
    return Scaler(mean, std, epsilon, clip)


def observation_scaler(rules: Rules, statistics: Statistics | None) -> Scaler | None:
    """The scaler of observations, None for no normalisation."""
    return statistics and scaler(statistics, *rules.network.scaling)


def value_scaler(rules: Rules, statistics: Statistics | None) -> Scaler | None:
    """The scaler of values, None for no normalisation."""
    arguments = rules.config.agent.value_preprocessor_kwargs
    return statistics and scaler(statistics, arguments.epsilon, arguments.clip_threshold)
