"""The state of a member: all that its further training depends on; of one member, or stacked on P for a pack.

Axes: P member · n parameter · K feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from runner.config.schema import Agent
from runner.networks.parameters import Network
from runner.training.pack import Hyper


@dataclass(frozen=True)
class Moments:
    """Running statistics: mean and variance `[K]`, and the number of rows, float64."""

    mean: np.ndarray
    variance: np.ndarray
    count: Any


@dataclass(frozen=True)
class Counters:
    """The point at which a member stands; numbers of one member, arrays `[P]` of several.

    Attributes:
        update: updates done.
        timestep: steps of every environment.
        env_steps: timestep × num_envs.
        records: metric records emitted.
        seconds: training time.
        optimizer_steps: gradient steps taken.
        learning_rate: as the schedule left it.
        score: mean return of the last episodes; NaN before the first ends.
        best: best score so far; −inf before the first.
        diverged: numbers stopped being finite; the state is the last finite one.
    """

    update: Any
    timestep: Any
    env_steps: Any
    records: Any
    seconds: Any
    optimizer_steps: Any
    learning_rate: Any
    score: Any
    best: Any
    diverged: Any


@dataclass(frozen=True)
class MemberState:
    """Parameters and Adam's moments `[n]` float32, statistics, counters and Hyper numbers.

    Random numbers are functions of seed and update. `hyper` is None in a state that was read from a file, where it is
    that of the configuration.
    """

    parameters: np.ndarray
    first_moment: np.ndarray
    second_moment: np.ndarray
    observation_statistics: Moments | None
    value_statistics: Moments | None
    counters: Counters
    hyper: Hyper | None = None


def initial(network: Network, agent: Agent, seed: int, hyper: Hyper) -> MemberState:
    """A member before any training; statistics begin with skrl's pseudo-row of mean 0 and variance 1."""
    parameters = network.initial(seed)
    zeros, sizes = np.zeros_like(parameters), (network.observation_size, 1)
    observation, value = (Moments(np.zeros(size), np.ones(size), 1.0) for size in sizes)
    observed = observation if network.scalings else None
    counters = Counters(0, 0, 0, 0, 0.0, 0.0, hyper.learning_rate, float("nan"), -float("inf"), False)
    return MemberState(parameters, zeros, zeros, observed, value if agent.value_preprocessor else None, counters, hyper)


def exploited(own: MemberState, source: MemberState, hyper: Hyper, rate: float) -> MemberState:
    """A copy of another member, with Hyper numbers and a factor of its rate, that counts on as the one it replaces."""
    mine = own.counters
    counters = replace(
        source.counters,
        learning_rate=source.counters.learning_rate * rate,
        records=mine.records,
        seconds=mine.seconds,
        score=mine.score,
        best=mine.best,
    )
    return replace(source, counters=counters, hyper=hyper)


def stacked(states: Sequence[MemberState]) -> MemberState:
    """Members' states as one, with the axis P in front of every number."""
    found: MemberState = _mapped(lambda *numbers: np.stack(numbers), *states)
    return found


def members(state: MemberState) -> list[MemberState]:
    """The inverse of `stacked`."""
    return [member_of(state, p) for p in range(len(state.parameters))]


def member_of(state: MemberState, place: int) -> MemberState:
    """One of stacked members."""
    found: MemberState = _mapped(lambda x: x[place].copy() if x.ndim > 1 else x[place].item(), state)
    return found


def replace_member(state: MemberState, place: int, new: MemberState) -> None:
    """Put a member into its place among stacked ones."""

    def put(rows: np.ndarray, row: Any) -> None:
        rows[place] = row

    _mapped(put, state, new)


def _mapped(function: Callable[..., Any], *trees: Any) -> Any:
    """A state of what `function` makes of each number of these states."""
    first = trees[0]
    if first is None:
        return None
    if is_dataclass(first):
        parts = ([getattr(tree, field.name) for tree in trees] for field in fields(first))
        return type(first)(*(_mapped(function, *part) for part in parts))  # type: ignore[misc]
    if isinstance(first, Hyper):
        return Hyper(*(_mapped(function, *part) for part in zip(*trees, strict=True)))
    return function(*trees)
