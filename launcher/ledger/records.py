"""All records of one trial as columns, read at once: a report needs every number, not a row at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from launcher.ledger.storage import open_tables, readable
from runner.training.tracking import TIME

Grid = NDArray[np.float64]
"""[G] env steps, ascending."""
SPAN_POINTS = 60
"""Moments of an attempt that its line of throughput goes through, at most."""


@dataclass(frozen=True)
class Span:
    """The training of a trial in one attempt: [M] Unix seconds, [M] env steps it had added by then."""

    times: NDArray[np.float64]
    env_steps: NDArray[np.float64]


@dataclass(frozen=True)
class Records:
    """The records of a trial.

    Attributes:
        attempt: [N] which made each.
        env_steps: [N] ascending.
        seconds: [N] that its pack had trained by then.
        wall_time: [N] Unix seconds at which each was stored, in batches and after it was made.
        values: metric → [N], NaN where a record has no such value.
    """

    attempt: NDArray[np.int64]
    env_steps: NDArray[np.float64]
    seconds: NDArray[np.float64]
    wall_time: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]

    def spans(self) -> dict[int, Span]:
        """Attempt → when it trained, as far as records say.

        A record is stored some time after it was made, so the least delay is taken for none.
        """
        spans = {}
        steps, seconds = 0.0, 0.0
        for attempt in dict.fromkeys(self.attempt.tolist()):
            (rows,) = np.nonzero(self.attempt == attempt)
            shift = float(np.min(self.wall_time[rows] - self.seconds[rows]))
            some = rows[np.unique(np.linspace(0, len(rows) - 1, SPAN_POINTS).round().astype(int))]
            spans[attempt] = Span(
                np.concatenate([[seconds], self.seconds[some]]) + shift,
                np.concatenate([[0.0], self.env_steps[some] - steps]),
            )
            steps, seconds = float(self.env_steps[rows[-1]]), float(self.seconds[rows[-1]])
        return spans

    def split(self) -> dict[str, float]:
        """Seconds of each part of training that the records tell."""
        return {tag[len(TIME) :]: float(np.nansum(self.values[tag])) for tag in self.values if tag.startswith(TIME)}


def read_records(path: Path, trial: str) -> Records:
    """All records of `trial` in a ledger's file."""
    columns = "attempt, env_steps, seconds, wall_time, tag_set, numbers"
    with readable(path), contextlib.closing(open_tables(path.resolve(), writer=False)) as db:
        rows = db.execute(f"SELECT {columns} FROM records WHERE trial = ? ORDER BY position", (trial,)).fetchall()
        names = {number: json.loads(tags) for number, tags in db.execute("SELECT id, tags FROM tag_sets")}
    attempt, env_steps, seconds, wall_time, kinds, blobs = zip(*rows, strict=True) if rows else ((),) * 6
    values: dict[str, NDArray[np.float64]] = {}
    kind = np.array(kinds, dtype=np.int64)
    for number in dict.fromkeys(kinds):
        (places,) = np.nonzero(kind == number)
        matrix = np.frombuffer(b"".join(blobs[place] for place in places), "<f8").reshape(len(places), -1)
        for tag, column in zip(names[number], matrix.T, strict=True):
            values.setdefault(tag, np.full(len(rows), np.nan))[places] = column
    steps, spent, times = (np.array(column, dtype=np.float64) for column in (env_steps, seconds, wall_time))
    return Records(np.array(attempt, dtype=np.int64), steps, spent, times, values)


def grid_of(records: Sequence[Records], points: int) -> Grid:
    """At most `points` of the env steps at which trials reported, evenly among them, the last one included."""
    steps = np.unique(np.concatenate([one.env_steps for one in records])) if records else np.zeros(0)
    if len(steps) <= points:
        return steps
    return steps[np.unique(np.linspace(0, len(steps) - 1, points).round().astype(int))]
