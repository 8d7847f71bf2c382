"""Random numbers, all of them, drawn on the host: functions of (seed, purpose, draw), the same for both backends.

There is nothing to store in a checkpoint and nothing that members share. Drawing them costs less than a hundredth of
the environments' steps that they are for; XLA on a CPU takes longer to sort one permutation than to learn from it.

Axes: P member · T rollout step · N environment · A action · W number of a draw · E epoch · B row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

PURPOSES = {"update": 1, "act": 2, "parameters": 0x1217, "group": 0x1221}
"""Purposes of a member's generators. Its environments' seeds are of (seed, environment, timestep of the reset)."""


class Draws(NamedTuple):
    """All that one iteration takes from outside, drawn in this order.

    Attributes:
        noise: what actions are drawn with `[T, P, N, W]`.
        orders: per epoch a permutation of every member's rows, or sequences where networks remember, `[E, P, U]`; one
            minibatch needs none.
        shifts: what RPO adds to the means in each epoch `[E, P, B, A]`; None for others.
        random: which steps take actions of no policy `[T]`; None in a run without such.
        rates: learning rates of the epochs `[P, E]`; None where they are not counted.
    """

    noise: np.ndarray
    orders: np.ndarray | None
    shifts: np.ndarray | None
    random: np.ndarray | None
    rates: np.ndarray | None


def fresh_seed() -> int:
    """A seed for `seed: null`, from the operating system."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def environment_seeds(seed: int, num_envs: int, timestep: int = 0) -> list[int]:
    """Seeds of one member's environments: functions of its seed, the environment's index and the reset's timestep.

    Nothing about a pack enters, so a member meets the same environments alone and in any company.
    """
    return [int(np.random.SeedSequence((seed, index, timestep)).generate_state(1)[0] >> 1) for index in range(num_envs)]


def seed_of_group(seed: int, group: int) -> int:
    """The seed of a trial's group of agents, of which the first has the trial's own."""
    if group == 0:
        return seed
    return int(np.random.SeedSequence((seed, PURPOSES["group"], group)).generate_state(1, np.uint64)[0] >> 1)


def for_parameters(seed: int) -> np.random.Generator:
    """The generator of a member's initial parameters."""
    return np.random.default_rng((seed, PURPOSES["parameters"]))


def generators(seeds: Sequence[int], purpose: Literal["update", "act"], draw: int) -> list[np.random.Generator]:
    """The generator of each member for the draw-th update, rollout and minibatches, or action outside training."""
    return [np.random.default_rng((seed, PURPOSES[purpose], draw)) for seed in seeds]


def noise(members: Sequence[np.random.Generator], steps: int, envs: int, width: int, gaussian: bool) -> np.ndarray:
    """Noise that actions are drawn with, `[T, P, N, W]` float32: standard normal, or Gumbel(0, 1) for logits."""
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
    """RPO's shifts of the means, uniform within ± `alpha` of each member, `[E, P, B, A]` float32.

    Source: Rahman and Xue 2022, "Robust Policy Optimization in Deep Reinforcement Learning".
    """
    drawn = [(2 * rng.random((epochs, rows, actions), np.float32) - 1) for rng in members]
    return np.stack([x * np.float32(width) for x, width in zip(drawn, alpha, strict=True)], 1)


def orders(members: Sequence[np.random.Generator], epochs: int, rows: int) -> np.ndarray:
    """A permutation of every member's rows per epoch, `[E, P, B]` int64."""
    return np.stack([[rng.permutation(rows) for rng in members] for _ in range(epochs)])
