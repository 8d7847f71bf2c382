"""What can be said of the numbers of updates: their means, and why some are not finite.

Axes: P member · T rollout step · N environment · C number of an update.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LARGE = 1e15
"""Sums of squares of float32 numbers that are larger than this may overflow."""


def suspicion(rewards: np.ndarray, valid: np.ndarray, observations: np.ndarray) -> str:
    """What may have made numbers of an update infinite or NaN.

    Args:
        rewards: `[T, N]`.
        valid: which of them are experience `[T, N]`.
        observations: `[T1, N, O]`.
    """
    for what, numbers in (("a reward", rewards[valid.astype(bool)]), ("an observation", observations)):
        largest = float(np.abs(numbers).max(initial=0.0))
        if not np.isfinite(largest):
            return f"the environment gave {what} that is not finite"
        if largest > LARGE:
            return f"the environment gave {what} of size {largest:.0e}, with which float32 numbers overflow"
    return "a number of its update is not finite"


def means_of(updates: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Means over updates, of each number over those updates in which it is defined.

    Args:
        updates: of each update its numbers `[P, C]`, and which members' are finite `[P]`; of a finite member, not a
            number means undefined.

    Returns:
        `[P, C]`; not a number where it is undefined in all updates, or a member is not finite.
    """
    numbers = np.stack([columns for columns, _ in updates])
    undefined = np.isnan(numbers) & np.stack([finite for _, finite in updates])[..., None]
    with np.errstate(all="ignore"):
        means: np.ndarray = np.where(undefined, 0, numbers).sum(0) / (~undefined).sum(0).astype(numbers.dtype)
    return means
