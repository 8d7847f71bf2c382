"""Attempts: the legs that wait for a worker, those that have one, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from launcher.plan.experiment import Trial
from launcher.run.pool import Process
from launcher.run.process import Location
from launcher.search.scheduler import Leg

MATES_SECONDS = 5.0
"""The time that the processes of a group have to end after one of them, before the reason is looked for."""
GRAVEST = ("node", "crash", "refused", "error")
"""Kinds of failures; where processes of a group fail in several ways, the first of them is the reason."""


@dataclass
class Waiting:
    """A leg without a worker, and from when on it may have one."""

    leg: Leg
    due: float = 0.0


@dataclass
class Running:
    """An attempt: its leg, its process, and the futures of how the training ends, there and in the process's mates."""

    attempt: int
    leg: Leg
    process: Process
    done: Any
    mates: list[Any] = field(default_factory=list)
    location: Location | None = None
    imported: bool = False
    since: float = field(default_factory=time.monotonic)
    """When one of these two came to be known, or the worker was asked for."""

    @property
    def pack(self) -> list[Trial]:
        """The trials that it trains."""
        return self.leg.pack

    def look(self) -> bool:
        """Say whether its process has ended its work, or a mate has failed; wait no more for mates that are done."""
        found = [future for future in self.mates if answered(future)]
        if raised_by(found):
            return True
        self.mates = [future for future in self.mates if future not in found]
        return answered(self.done)


def answered(future: Any) -> bool:
    """A future has its answer, or an error."""
    import ray

    return bool(ray.wait([future], timeout=0)[0])


def raised_by(futures: Iterable[Any]) -> list[Exception]:
    """The errors of futures that are answered."""
    import ray

    errors = []
    for future in filter(answered, futures):
        try:
            ray.get(future)
        except Exception as error:
            errors.append(error)
    return errors


def ended(item: Running) -> tuple[str, list[Exception]]:
    """The outcome of an attempt that is over, or the errors that its processes ended with.

    Of a group the others are waited for: what one died of is the reason, not that the others miss it.
    """
    import ray

    futures = [item.process.ready, item.done, *item.mates]
    if item.mates:
        ray.wait(futures, num_returns=len(futures), timeout=MATES_SECONDS)
    errors = raised_by(futures[:2]) if answered(item.done) else []
    if not errors and answered(item.done):
        return ray.get(item.done), []
    return "lost", errors[:1] + raised_by(item.mates)
