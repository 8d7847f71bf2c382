"""The space of a search: its dimensions, and the settings that are drawn from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any

import numpy as np

from launcher.plan import sweep
from launcher.plan.sweep import Axis, Choice
from runner.config import Config, canonical_key
from runner.config.load import Key, Source, dotted
from runner.config.marks import OF_MEMBERS, Mark, dump_without
from runner.config.overrides import Range
from runner.config.skrl.eras import Era
from runner.errors import UserError

EXHAUSTED = 1000
"""Draws that in a row bring nothing new, after which the space is taken for empty."""


@dataclass(frozen=True)
class Dimension:
    """A choice made at once: a number of a range for one key, or one of several steps of values for some keys."""

    keys: tuple[Key, ...]
    range: Range | None = None
    steps: tuple[tuple[Any, ...], ...] = ()

    @property
    def name(self) -> str:
        """The keys, dotted."""
        return " ".join(map(dotted, self.keys))

    def step(self, place: int) -> list[tuple[Key, Any]]:
        """The values of a step."""
        return list(zip(self.keys, self.steps[place], strict=True))

    def __str__(self) -> str:
        if self.range is not None:
            return str(self.range)
        texts = [", ".join(map(str, step)) for step in self.steps]
        return f"{len(texts)} values: {' | '.join(texts)}" if len(texts) <= 8 else f"{len(texts)} values"

    def as_json(self) -> dict[str, Any]:
        """Plain data of it."""
        keys = [list(key) for key in self.keys]
        if self.range is None:
            return {"keys": keys, "steps": [list(step) for step in self.steps]}
        return {"keys": keys, "distribution": self.range.distribution, "low": self.range.low, "high": self.range.high}

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Dimension:
        """The dimension of such data."""
        keys = tuple(tuple(key) for key in data["keys"])
        if "steps" in data:
            return cls(keys, steps=tuple(tuple(step) for step in data["steps"]))
        return cls(keys, Range(data["low"], data["high"], data["distribution"]))


def dimensions(axes: Iterable[Axis]) -> list[Dimension]:
    """The dimensions of axes: those with several steps, and ranges."""
    found = []
    for axis in axes:
        keys = tuple(choice.key for choice in axis[0])
        if (drawn := sweep.range_of(axis)) is not None:
            found.append(Dimension(keys, drawn))
        elif varies(axis):
            found.append(Dimension(keys, steps=tuple(tuple(choice.value for choice in step) for step in axis)))
    return found


def shares(seed: int, number: int, size: int) -> list[float]:
    """Independent shares, from 0 up to 1, of setting `number`: a function of the search's seed and that number."""
    return np.random.default_rng((seed, number)).random(size).tolist()


def draw(axes: Sequence[Axis], seed: int, number: int) -> list[tuple[Choice, ...]]:
    """Setting `number`: a step of each axis, of which those with one step have no part in the draw."""
    drawn = iter(shares(seed, number, sum(map(varies, axes))))
    return [_at(axis, next(drawn) if varies(axis) else 0.0) for axis in axes]


def extremes(axes: Sequence[Axis]) -> Iterator[tuple[Choice, ...]]:
    """Settings whose ranges are all at their first end, with each step of every axis once, and at their last.

    If these can be trained, so can what is drawn, but for keys that do not go together.
    """
    for end in (0.0, 1.0):
        steps = [_at(axis, end) for axis in axes]
        yield tuple(chain(*steps))
    first = [_at(axis, 0.0) for axis in axes]
    for place, axis in enumerate(axes):
        for step in axis[1:]:
            yield tuple(chain(*first[:place], step, *first[place + 1 :]))


def _at(axis: Axis, share: float) -> tuple[Choice, ...]:
    """The step of an axis at a share, from 0 to 1."""
    if (numbers := sweep.range_of(axis)) is not None:
        return (replace(axis[0][0], value=numbers.at(share)),)
    return axis[min(int(share * len(axis)), len(axis) - 1)]


def points(axes: Sequence[Axis], seed: int) -> Iterator[tuple[Choice, ...]]:
    """The choices of setting 0, 1, …, each point once; they end where none new is drawn any more."""
    seen: set[str] = set()
    repeated = 0
    for number in count():
        chosen = tuple(chain(*draw(axes, seed, number)))
        point = repr([choice.value for choice in chosen])
        repeated = repeated + 1 if point in seen else 0
        if repeated > EXHAUSTED:
            return
        if not repeated:
            seen.add(point)
            yield chosen


def varies(axis: Axis) -> bool:
    """An axis has something to choose."""
    return len(axis) > 1 or sweep.range_of(axis) is not None


def refuse_seeds(axes: Iterable[Axis], era: Era, source: Source) -> None:
    """Refuse a search over the seed."""
    for choice in chain.from_iterable(axis[0] for axis in axes if varies(axis)):
        if canonical_key(choice.key, era) == sweep.SEED:
            raise UserError(
                f"{choice.where(source)}: seeds are not searched: a setting is scored over all its seeds; see --seeds"
            )


def static_names(dimensions: Iterable[Dimension], config: Config, era: Era) -> list[str]:
    """The dimensions in which settings do not share packs, in a configuration: all that are no Hyper numbers."""
    static = dump_without(config, (*OF_MEMBERS, Mark.NAME))
    keys = {d.name: [sweep.inside(static, canonical_key(key, era)) for key in d.keys] for d in dimensions}
    return [name for name, found in keys.items() if any(value is not sweep.NOTHING for value in found)]
