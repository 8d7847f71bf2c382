"""The results of a search so far, as its ledger has them: every setting with its seeds and score, and the winner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launcher import stats
from launcher.ledger.reader import Reader
from launcher.ledger.rows import LOST_STATES, OVER_STATES, SEARCH, TrialRow
from launcher.parts import grouped
from launcher.search.record import Record, Role, Setting
from launcher.search.score import WORST, score, value_at


@dataclass(frozen=True)
class Result:
    """A setting with its trials, the value of each (None: lost, or none yet), and the part of its length so far."""

    setting: Setting
    trials: tuple[TrialRow, ...]
    values: tuple[float | None, ...]
    reached: float

    @property
    def over(self) -> bool:
        """Nothing of it is left to train."""
        return bool(self.trials) and all(trial.state in OVER_STATES for trial in self.trials)

    @property
    def lost(self) -> int:
        """Seeds that failed or diverged."""
        return sum(trial.state in LOST_STATES for trial in self.trials)

    @property
    def score(self) -> float:
        """The score over its seeds; the worst of one that has not begun."""
        return score(self.values) if self.trials else WORST

    @property
    def scores(self) -> NDArray[np.float64]:
        """[R] values of its seeds, those that were lost as the worst."""
        return np.array([WORST if value is None else value for value in self.values], dtype=np.float64)

    @property
    def interval(self) -> stats.Interval | None:
        """The interval of the score; None where a seed is lost, or for fewer than 3."""
        return None if not np.isfinite(self.scores).all() else stats.bootstrap_interval(self.scores)


@dataclass(frozen=True)
class Results:
    """A search and its settings, in the order in which they were chosen."""

    record: Record
    settings: tuple[Result, ...]

    def of(self, role: Role) -> list[Result]:
        """The settings of a role, with the best first: one that got further before one that was stopped."""
        found = [one for one in self.settings if one.setting.role == role]
        return sorted(found, key=lambda one: (one.score == WORST, -one.reached, -one.score))

    @property
    def winner(self) -> Result | None:
        """The best setting of those that were tried; None where all are lost or none is over."""
        best = max((one for one in self.of("search") if one.over), key=lambda one: one.score, default=None)
        return best if best is not None and best.score > WORST else None


def read(ledger: Reader) -> Results | None:
    """The results of a launch's search; None of a launch without one."""
    events = ledger.events()
    record = next((Record.of_event(event.data) for event in events if event.kind == SEARCH), None)
    if record is None:
        return None
    rows, agents = grouped(ledger.trials(), lambda row: row.config), ledger.last_agents()
    found = []
    for event in (event for event in events if event.kind == "setting"):
        data, trials = event.data, rows.get(event.key, [])
        setting = Setting(data["number"], event.key, data["values"], data["role"])
        values = tuple(value_at(ledger, trial, record.metric) for trial in trials)
        parts = [1.0 if t.state in OVER_STATES else agents.get(t.id, 0) / t.timesteps for t in trials]
        reached = min(parts, default=0.0)
        found.append(Result(setting, tuple(trials), values, reached))
    return Results(record, tuple(found))


def improvement(winner: Sequence[float], own: Sequence[float]) -> tuple[float, stats.Interval | None]:
    """The probability that a run of the winner scores higher than one of the file's own settings, and its interval."""
    return float(stats.probability_of_improvement(winner, own)), stats.improvement_interval(winner, own)
