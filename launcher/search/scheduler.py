"""The scheduler of a launch: asked for the next trials to train whenever a worker is free.

A search's scheduler keeps nothing to itself: what it has decided and seen are events of the ledger, so that one that
is made anew, after a crash or for a resume, goes on with the same decisions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from launcher.plan import directory as folder
from launcher.plan.experiment import Trial


@dataclass(frozen=True)
class Leg:
    """Trials to train together up to a timestep; None: to their end."""

    pack: list[Trial]
    until: int | None = None


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
