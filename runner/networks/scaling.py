"""The columns of the observation that the configuration's preprocessors normalise, and the numbers for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runner.config import Config
from runner.envs.spaces import Layout


@dataclass(frozen=True)
class Scaling:
    """Columns of the observation that are normalised by their running statistics, and skrl's two numbers for it."""

    start: int
    stop: int
    epsilon: float
    clip: float


class Columns(NamedTuple):
    """Two numbers where all columns are normalised alike; else one per column `[O]`.

    Attributes:
        epsilon: skrl's; 0 for columns that are left alone.
        clip: skrl's; infinite for columns that are left alone.
        untouched: which columns are left alone `[O]`; None where none is.
    """

    epsilon: float | np.ndarray
    clip: float | np.ndarray
    untouched: np.ndarray | None


def scalings(config: Config, observations: Layout) -> tuple[Scaling, ...]:
    """The columns that the configuration's preprocessors normalise: never an action mask's."""
    agent = config.agent
    parts = [(observations.observed, agent.observation_preprocessor, agent.observation_preprocessor_kwargs)]
    if observations.states != observations.observed:
        parts.append((observations.states, agent.state_preprocessor, agent.state_preprocessor_kwargs))
    mask = observations.mask
    found: list[Scaling] = []
    for part, preprocessor, arguments in parts:
        if preprocessor is None:
            continue
        ranges = [(part.start, part.stop)]
        if mask is not None and part.start <= mask.start < part.stop:
            ranges = [(part.start, mask.start), (mask.stop, part.stop)]
        found += [Scaling(a, b, arguments.epsilon, arguments.clip_threshold) for a, b in ranges if a < b]
    return tuple(found)


def columns(scalings: Sequence[Scaling], size: int) -> Columns:
    """The numbers for every one of `size` columns."""
    if len(scalings) == 1 and scalings[0].stop - scalings[0].start == size:
        return Columns(scalings[0].epsilon, scalings[0].clip, None)
    epsilon, clip = np.zeros(size, np.float32), np.full(size, np.inf, np.float32)
    for part in scalings:
        epsilon[part.start : part.stop], clip[part.start : part.stop] = part.epsilon, part.clip
    return Columns(epsilon, clip, np.isinf(clip))
