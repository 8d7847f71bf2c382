"""Attempts: the legs that wait for a worker, those that have one, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.ledger.rows import Attempt, agent_path
from launcher.plan.experiment import Trial
from launcher.run.pool import Process
from launcher.run.process import Job, Location
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


def log_of(attempt: int) -> Path:
    """The path of an attempt's log, relative to the launch directory."""
    return Path("logs") / f"attempt-{attempt}.log"


def begun(attempt: Attempt, leg: Leg, process: Process, aggregator: Any, directory: Path, threads: int) -> Running:
    """An attempt that a process has just been given."""
    files = [attempt.resume[trial.id] for trial in leg.pack]
    data = tuple((directory / file.path).read_bytes() for file in files if file is not None)
    job = Job(
        attempt.number,
        tuple(trial.id for trial in leg.pack),
        tuple(trial.config.dump() for trial in leg.pack),
        data or None,
        directory / log_of(attempt.number),
        threads,
        leg.until,
        _copies(attempt, leg, directory),
    )
    mates = [mate.worker.assist.remote(job) for mate in process.mates]
    return Running(attempt.number, leg, process, process.worker.train.remote(job, aggregator), mates)


def _copies(attempt: Attempt, leg: Leg, directory: Path) -> dict[int, tuple[bytes | int, Mapping[str, float], float]]:
    """The members that begin as copies: those that have not gone on as such before."""
    found: dict[int, tuple[bytes | int, Mapping[str, float], float]] = {}
    begins = {trial: file.timestep for trial, file in attempt.resume.items() if file is not None}
    places = {trial.id: place for place, trial in enumerate(leg.pack)}
    for place, trial in enumerate(leg.pack):
        copy = leg.copies.get(trial.id)
        if copy is None or begins.get(trial.id) != copy.timestep:
            continue
        if begins.get(copy.source) == copy.timestep:
            found[place] = places[copy.source], copy.hyper, copy.rate
        else:
            file = directory / agent_path(copy.source, copy.timestep)
            found[place] = file.read_bytes(), copy.hyper, copy.rate
    return found


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
