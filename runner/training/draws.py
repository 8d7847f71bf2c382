"""Random numbers of training, drawn on the host: functions of (seed, purpose, draw), the same for both backends.

There is nothing to store in a checkpoint and nothing that members share. Drawing them costs less than a hundredth of
the environments' steps that they are for; XLA on a CPU takes longer to sort one permutation than to learn from it.

Axes: P member · T rollout step · N environment · A action · W number of a draw · E epoch · B row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

PURPOSES = {"update": 1, "act": 2}


def generators(seeds: Sequence[int], purpose: Literal["update", "act"], draw: int) -> list[np.random.Generator]:
    """The draw-th generator of each member.

    Args:
        seeds: of the members.
        purpose: "update" (rollout and minibatches of one update) or "act" (actions outside training).
        draw: number of the update, or of the call.
    """
    return [np.random.default_rng((seed, PURPOSES[purpose], draw)) for seed in seeds]


def noise(members: Sequence[np.random.Generator], steps: int, envs: int, width: int, gaussian: bool) -> np.ndarray:
    """What actions are drawn with, `[T, P, N, W]` float32: standard normal, or Gumbel(0, 1) for logits."""
    shape = (steps, envs, width)
    out = np.empty((steps, len(members), envs, width), np.float32)
    for member, rng in enumerate(members):
        out[:, member] = (
            rng.standard_normal(shape, np.float32) if gaussian else rng.standard_exponential(shape, np.float32)
        )
    if not gaussian:
        # −log of an exponential variable; its least value keeps the logarithm finite.
        np.negative(np.log(np.maximum(out, np.finfo(np.float32).tiny, out=out), out=out), out=out)
    return out


def shifts(
    members: Sequence[np.random.Generator], epochs: int, rows: int, actions: int, alpha: np.ndarray
) -> np.ndarray:
    """Uniform numbers within ± `alpha` of each member, `[E, P, B, A]` float32."""
    drawn = [(2 * rng.random((epochs, rows, actions), np.float32) - 1) for rng in members]
    return np.stack([x * np.float32(width) for x, width in zip(drawn, alpha, strict=True)], 1)


def orders(members: Sequence[np.random.Generator], epochs: int, rows: int) -> np.ndarray:
    """A permutation of every member's rows per epoch, `[E, P, B]` int64."""
    return np.stack([[rng.permutation(rows) for rng in members] for _ in range(epochs)])
