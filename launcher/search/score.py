"""The score of a setting: what its seeds have reached at a timestep, as one number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from launcher.ledger.reader import Reader
from launcher.ledger.rows import LOST_STATES, TrialRow
from launcher.stats import interquartile_mean
from runner.training.tracking import EVALUATION_MEAN, SCORE

Metric = Literal["evaluation", "return"]
TAGS: dict[Metric, str] = {"evaluation": EVALUATION_MEAN, "return": SCORE}
"""Metric → the tag of its numbers in records."""
WORST = -math.inf


def score(values: Iterable[float | None]) -> float:
    """The interquartile mean over seeds; a seed without a finite value (None: it failed or diverged) is the worst."""
    return float(interquartile_mean([WORST if v is None or not math.isfinite(v) else v for v in values]))


def value_at(ledger: Reader, trial: TrialRow, metric: Metric, timestep: int | None = None) -> float | None:
    """The last value of a trial, up to a timestep if one is given; None of one that failed, diverged or has none."""
    if trial.state in LOST_STATES:
        return None
    found = ledger.latest(trial.id, TAGS[metric], timestep)
    return found if found is not None and math.isfinite(found) else None


def score_at(metric: Metric, ledger: Reader, trials: Sequence[str], timestep: int | None = None) -> float:
    """The score of the setting that has these trials, up to a timestep if one is given."""
    return score(value_at(ledger, row, metric, timestep) for row in ledger.rows(trials))
