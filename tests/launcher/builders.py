"""Trials, records and checkpoints for tests of the ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.ledger.ledger import Ledger, reading
from launcher.ledger.rows import Batch, Published, TrialRow
from launcher.plan.directory import trials_of
from launcher.plan.experiment import Experiment, Trial
from launcher.search import begin
from runner.training.tracking import RETURN_MEAN, STEPS_PER_SECOND, Record

A, B = TrialRow("a-1", "a", 1, 4, 1000), TrialRow("b-1", "b", 1, 8, 1000)


def records(first: int, end: int, shift: float = 0.0) -> list[Record]:
    return [
        Record(i, 10 * (i + 1), 40 * (i + 1), 0.5 * i, {RETURN_MEAN: i + shift, STEPS_PER_SECOND: 100.0})
        for i in range(first, end)
    ]


def batch(first: int, end: int, shift: float = 0.0) -> Batch:
    return Batch(first, records(first, end, shift))


def agent(timestep: int, covered: int, data: bytes = b"weights", **changes: object) -> Published:
    return dataclasses.replace(Published(timestep, data, "agent", covered, "running"), **changes)


def give_up(ledger: Ledger, attempt: int, trials: Sequence[str], error: str) -> None:
    """The attempt dies, and `trials` of it are not tried again."""
    ledger.close(attempt, "crash", error)
    ledger.fail(trials, error)


def stored(ledger: Ledger, trial: str = "a-1") -> list[Record]:
    return [row.record for row in ledger.records(trial)]


def read_experiment(*given: Any, **named: Any) -> Experiment:
    """The experiment alone of what `begin.read` gives."""
    return begin.read(*given, **named)[0]


def read_trials(directory: Path) -> list[Trial]:
    """The trials of a launch, with their configurations."""
    with reading(directory) as ledger:
        return trials_of(ledger)


def state(ledger: Ledger, trial: str = "a-1") -> str:
    return next(row.state for row in ledger.trials() if row.id == trial)
