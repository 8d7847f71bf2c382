"""A pack's learner as numpy arrays: what backends give and take, and what checkpoints are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from runner.checkpoints.checkpoint import Moments


class StackedMoments(NamedTuple):
    """Running statistics of P members: `[P, K]`, `[P, K]` and rows seen `[P]`, float64."""

    mean: np.ndarray
    variance: np.ndarray
    seen: np.ndarray


class Snapshot(NamedTuple):
    """Everything that learning changes, on the host: `[P, n]` and `[P]` float32."""

    parameters: np.ndarray
    first_moment: np.ndarray
    second_moment: np.ndarray
    steps: np.ndarray
    learning_rate: np.ndarray
    observation_statistics: StackedMoments | None
    value_statistics: StackedMoments | None


def fresh(members: int, features: int) -> StackedMoments:
    """Statistics before any row: skrl's prior of one pseudo-row of mean 0 and variance 1."""
    return StackedMoments(np.zeros((members, features)), np.ones((members, features)), np.ones(members))


def moments_of(stacked: StackedMoments | None, member: int) -> Moments | None:
    """One member's, if there are any."""
    if stacked is None:
        return None
    return Moments(stacked.mean[member].copy(), stacked.variance[member].copy(), float(stacked.seen[member]))


def stacked(moments: Sequence[Moments | None]) -> StackedMoments | None:
    """Of members that all have some, or none."""
    present = [m for m in moments if m is not None]
    if not present:
        return None
    return StackedMoments(
        np.stack([m.mean for m in present]).astype(np.float64),
        np.stack([m.variance for m in present]).astype(np.float64),
        np.array([m.count for m in present], np.float64),
    )
