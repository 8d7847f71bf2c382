"""Running statistics of observations and values, one set per member, over valid rows only.

Merges are Chan, Golub and LeVeque's (1979) pairwise update in float64. Axes: P member · B row · K feature.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from runner.torch import accelerate
from runner.training.pack import Rules


class Statistics(NamedTuple):
    """Mean, variance and number of rows seen: `[P, K]`, `[P, K]`, `[P, 1]`, all float64."""

    mean: Float[Tensor, "P K"]
    variance: Float[Tensor, "P K"]
    seen: Float[Tensor, "P 1"]


def absorb(statistics: Statistics, rows: Num[Tensor, "P B K"], valid: Float[Tensor, "P B"]) -> Statistics:
    """Merge the rows whose weight in `valid` is 1; a member without valid rows keeps its statistics.

    The batch variance is unbiased, as skrl's; of a single row it is 0.
    """
    weight = valid.unsqueeze(-1).double()
    rows = rows.double()
    n = weight.sum(1)
    at_least_one = n.clamp_min(1)
    mean = (rows * weight).sum(1) / at_least_one
    deviation = (rows - mean.unsqueeze(1)) * weight
    variance = (deviation * deviation).sum(1) / (n - 1).clamp_min(1)
    delta = mean - statistics.mean
    total = statistics.seen + n
    moment = statistics.variance * statistics.seen + variance * n + delta * delta * (statistics.seen * n / total)
    any_row = n > 0
    return Statistics(
        torch.where(any_row, statistics.mean + delta * (n / total), statistics.mean),
        torch.where(any_row, moment / total, statistics.variance),
        total,
    )


class Scaler(NamedTuple):
    """Statistics made ready for float32 rows, and skrl's numbers for it, one for all columns or `[K]`."""

    mean: Float[Tensor, "P 1 K"]
    std: Float[Tensor, "P 1 K"]
    epsilon: Any
    clip: Any

    def normalize(self, rows: Num[Tensor, "P B K"]) -> Float[Tensor, "P B K"]:
        """clip((x − mean) / (std + ε), ±clip)."""
        return ((rows - self.mean) / (self.std + self.epsilon)).clamp(-self.clip, self.clip)

    def denormalize(self, rows: Float[Tensor, "P B K"]) -> Float[Tensor, "P B K"]:
        """std · clip(x, ±clip) + mean."""
        return self.std * rows.clamp(-self.clip, self.clip) + self.mean


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
    mean, std = statistics.mean.float().unsqueeze(1), statistics.variance.sqrt().float().unsqueeze(1)
    if untouched is None:
        return Scaler(mean, std, epsilon, clip)
    columns = zip((untouched, epsilon, clip), (torch.bool, torch.float32, torch.float32), strict=True)
    same, *numbers = (accelerate.constant(tuple(np.asarray(x)), kind, mean.device) for x, kind in columns)
    return Scaler(mean.masked_fill(same, 0.0), std.masked_fill(same, 1.0), *numbers)


def observation_scaler(rules: Rules, statistics: Statistics | None) -> Scaler | None:
    """The scaler of observations, None for no normalisation."""
    return statistics and scaler(statistics, *rules.network.scaling)


def value_scaler(rules: Rules, statistics: Statistics | None) -> Scaler | None:
    """The scaler of values, None for no normalisation."""
    arguments = rules.config.agent.value_preprocessor_kwargs
    return statistics and scaler(statistics, arguments.epsilon, arguments.clip_threshold)
