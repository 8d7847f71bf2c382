"""The scheduler of a launch: asked for the next trials to train whenever a worker is free.

A search's scheduler keeps nothing to itself: what it has decided and seen are events of the ledger, so that one that
is made anew, after a crash or for a resume, goes on with the same decisions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from launcher.plan import directory as folder
from launcher.plan.experiment import Trial


@dataclass(frozen=True)
class Copy:
    """A trial that goes on at a timestep as the member of another one, with these Hyper numbers.

    `rate` is the factor by which its learning rate differs, also where a schedule has moved it.
    """

    timestep: int
    source: str
    hyper: Mapping[str, float]
    rate: float


@dataclass(frozen=True)
class Leg:
    """Trials to train together up to a timestep; None: to their end. By trial, the copy as which it begins."""

    pack: list[Trial]
    until: int | None = None
    copies: Mapping[str, Copy] = field(default_factory=dict)


@dataclass(frozen=True)
class Desk:
    """The means of a scheduler: the launch directory, whose ledger it may read, and the way to write there.

    Attributes:
        directory: of the launch.
        write: calls a method of the ledger (`Aggregator.CALLS`), and has it on disk when it returns.
        workers: that there may be at a time.
        busy: something is being trained, or is to be tried again.
    """

    directory: Path
    write: Callable[..., Any]
    workers: int
    busy: bool

    def add(self, trials: Sequence[Trial]) -> None:
        """Let the launch have more trials; the same again changes nothing."""
        folder.write_configs(self.directory, trials)
        self.write("add_trials", *folder.rows_and_texts(trials))


class Scheduler(Protocol):
    """The order of a launch."""

    def next(self, desk: Desk) -> Leg | None:
        """The next leg, which is then begun; None if there is none before something else settles.

        It is for good if nothing is `busy`.
        """


class Fixed:
    """Packs that are known from the beginning, one after another."""

    def __init__(self, packs: Iterable[Sequence[Trial]]) -> None:
        self._packs = deque(map(list, packs))

    def next(self, desk: Desk) -> Leg | None:
        """The next pack, to its end."""
        return Leg(self._packs.popleft()) if self._packs else None
