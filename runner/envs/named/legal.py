"""Actions to try an environment with, possible where its observations say which are."""

from __future__ import annotations

import numpy as np

from runner.envs.base import VectorEnv
from runner.envs.spaces import mask_columns


def legal(env: VectorEnv, observations: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Actions `[N, …]`, real numbers among them as moderate as the space has.

    Args:
        env: has the spaces.
        observations: the last ones, `[N, O]`, whose mask of possible actions is obeyed.
        numbers: `[A]` or `[K]`, from 0 to 1, which choose among what is possible; the same for all environments.
    """
    space, part = env.actions, env.layout.mask
    if not space.discrete:
        low, high = np.maximum(space.low, space.rest - 1), np.minimum(space.high, space.rest + 1)
        return np.tile(low + numbers * (high - low), (len(observations), 1)).reshape(-1, *space.shape)
    columns, joint = mask_columns(space, part) if part is not None else ((), False)
    sizes = (len(columns),) if joint else space.sizes
    found = np.tile((numbers[: len(sizes)] * sizes).astype(np.int64), (len(observations), 1))
    if columns:
        possible = np.split(observations[:, list(columns)] > 0.5, np.cumsum(sizes)[:-1], 1)
        found = np.stack([_chosen(*each) for each in zip(possible, numbers[: len(sizes)], strict=True)], 1)
    if joint:
        found = np.stack(np.unravel_index(found[:, 0], space.sizes), 1)
    return (space.low + found).reshape(-1, *space.shape)


def _chosen(possible: np.ndarray, number: float) -> np.ndarray:
    """The categories that a number chooses of those that are possible `[N, categories]`: of all, where none is."""
    some = possible | ~possible.any(1, keepdims=True)
    return np.argmax(some.cumsum(1) > (number * some.sum(1)).astype(np.int64)[:, None], 1)
