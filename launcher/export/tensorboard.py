"""From the ledger to TensorBoard: a folder per trial, and two per configuration with averages over its seeds.

A trial's settings are written before its points (see `launcher.export.hparams`).

The exporter follows the ledger from the revision in `tensorboard/cursor.json`, which it writes after the
event files are flushed; what a crash leaves between the two is written again by the next exporter. Each time
a folder is opened or its trial was rewound, a SessionLog START event comes first: it makes TensorBoard drop
what it holds from that step on, so every point is shown once. Without `tensorboard/`, all is written anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from launcher.export.hparams import HParams
from launcher.export.wandb import WandbExport
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import LOST_STATES, OVER_STATES, Progress, StoredRecord, TrialRow
from launcher.ledger.storage import REFUSED
from launcher.stats import interquartile_mean
from launcher.watch.layout import by_configuration
from runner.training.tracking import TensorBoard

CHUNK = 200
"""Records of a trial that are read at once: bounds the memory of a first export."""
RETRY_SECONDS = 60.0
"""Pause after an error, since each retry makes new event files."""
LONGEST_POLL = 0.5
"""Seconds that a poll writes at most: the launcher, which polls, has leases to watch."""
SHORT_POLL = 0.1
"""One that takes longer, as with ten thousand trials, is followed by a pause of ten times as long."""
STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda numbers: float(np.mean(numbers)),
    "iqm": interquartile_mean,
}
"""Folder of a configuration → how it averages the values of a tag that are not NaN."""


class TensorBoardExport:
    """Keeps `DIR/tensorboard` up to date with the ledger of `DIR`. Errors are logged, never raised.

    Nothing is opened before the first `poll`; `wandb` is told which folders are opened, and which complete.
    """

    def __init__(self, ledger_directory: Path, wandb: WandbExport | None = None) -> None:
        self._directory = ledger_directory
        self._wandb = wandb
        self._tail: _Tail | None = None
        self._failing = False
        self._due = 0.0

    def poll(self, longest: float = LONGEST_POLL) -> None:
        """Write what is new, and after `longest` seconds leave the rest to the next poll.

        After an error, logged once until it is over, try again a minute later.
        """
        began = time.monotonic()
        if began < self._due:
            return
        try:
            if self._tail is None:
                self._tail = _Tail(self._directory, self._wandb)
            self._tail.follow(began + longest)
            self._failing = False
            spent = time.monotonic() - began
            self._due = began + (10 * spent if spent > SHORT_POLL else 0.0)
        except Exception as error:  # whatever it is, training goes on
            if not self._failing:
                trace = None if isinstance(error, REFUSED) else error
                text = "%s/tensorboard is not up to date: %s"
                logging.getLogger(__name__).error(text, self._directory, error, exc_info=trace)
            self._failing = True
            self._due = time.monotonic() + RETRY_SECONDS
            # The cursor knows what is safely written: a new tail goes on from there.
            self._close_tail()

    def close(self) -> None:
        """Write what is left and close all files."""
        self._due = 0.0
        self.poll(longest=math.inf)
        self._close_tail()

    def _close_tail(self) -> None:
        if self._tail is not None:
            self._tail.close()
            self._tail = None


class _Run:
    """One folder of event files; `next` is the index that continues it, None before the first record."""

    def __init__(self, folder: Path) -> None:
        self.board = TensorBoard(folder)
        self.next: int | None = None

    def write(self, index: int, rows: Sequence[StoredRecord], values: Mapping[str, float]) -> None:
        """Write the values of a record, or those that stand for records of several trials."""
        wall_time = max(row.wall_time for row in rows)
        if index != self.next:
            self.board.restart(max(row.previous_env_steps for row in rows) + 1, wall_time)
        self.board.write(max(row.record.env_steps for row in rows), values, wall_time)
        self.next = index + 1


class _Tail:
    """Open files, and how far in the ledger they are."""

    def __init__(self, directory: Path, wandb: WandbExport | None) -> None:
        self._wandb = wandb
        self._root = directory / "tensorboard"
        self._root.mkdir(exist_ok=True)
        self._ledger = Ledger(directory, writer=False)
        self._hparams = HParams(self._ledger)
        self._runs: dict[str, _Run] = {}
        self._ended: dict[str, str] = {}  # folder, closed → state of its trial
        self._revision = 0
        self._averaged: dict[str, int] = defaultdict(int)  # configuration → records that its averages cover
        with contextlib.suppress(FileNotFoundError, ValueError):  # none yet, or cut short by a power cut
            cursor = json.loads((self._root / "cursor.json").read_text())
            self._revision = cursor["revision"]
            self._averaged.update(cursor["averaged"])

    def follow(self, until: float) -> None:
        """Write all that the ledger has beyond the cursor, then move the cursor.

        Where that is not done `until` then, averages and ends of trials wait for the time when it is.
        """
        before = (self._revision, dict(self._averaged))
        rows: dict[str, TrialRow] = {}
        while changes := self._ledger.changes(self._revision, CHUNK):
            rows = rows or {row.id: row for row in self._ledger.trials()}
            self._write_trials(changes, rows)
            if time.monotonic() > until:
                self._save()
                return
        trials = self._ledger.progress()
        for seeds in by_configuration(trials):
            if len(seeds) > 1:
                self._write_averages(seeds[0].trial.config, seeds)
        if (self._revision, self._averaged) != before:
            self._save()
        for progress in trials:
            if progress.trial.state in OVER_STATES:
                self._end(progress)

    def close(self) -> None:
        """Close all files. What was not flushed, because it could not be, is behind the cursor."""
        self._ledger.disconnect()
        for run in self._runs.values():
            with contextlib.suppress(Exception):
                run.board.close()

    def _save(self) -> None:
        for run in self._runs.values():
            run.board.flush()
        partial = self._root / "cursor.partial"
        partial.write_text(json.dumps({"revision": self._revision, "averaged": self._averaged}))
        partial.replace(self._root / "cursor.json")

    def _write_trials(self, changes: Sequence[StoredRecord], trials: Mapping[str, TrialRow]) -> None:
        for stored in changes:
            row, record = trials[stored.trial], stored.record
            run = self._trial_run(row, stored.wall_time)
            if record.index != run.next:  # perhaps rewound: then the averages are wrong from here on
                self._averaged[row.config] = min(self._averaged[row.config], record.index)
            run.write(record.index, [stored], record.values)
            self._revision = stored.revision

    def _write_averages(self, config: str, seeds: Sequence[Progress]) -> None:
        """Average each record index which all trials have reached, or all but the failed and diverged.

        Those count as far as they got. So the averages do not depend on when the exporter looks.
        """
        counts = {p.trial.id: self._written(p) for p in seeds}
        live = [counts[p.trial.id] for p in seeds if p.trial.state not in LOST_STATES]
        end = min(live) if live else max(counts.values())
        for first in range(self._averaged[config], end, CHUNK):
            at: dict[int, list[StoredRecord]] = defaultdict(list)
            for trial in counts:
                for stored in self._ledger.records(trial, first, min(CHUNK, end - first)):
                    at[stored.record.index].append(stored)
            for index in sorted(at):
                self._write_average(config, index, at[index])
        self._averaged[config] = end  # less than before if a trial was added, or runs again after it failed

    def _write_average(self, config: str, index: int, rows: Sequence[StoredRecord]) -> None:
        numbers: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            for tag, value in row.record.values.items():
                numbers[tag] += [] if math.isnan(value) else [value]
        for name, statistic in STATISTICS.items():
            with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, and that is what is to be seen
                values = {tag: statistic(some) if some else math.nan for tag, some in numbers.items()}
            self._run(f"{config}/{name}").write(index, rows, values)

    def _written(self, progress: Progress) -> int:
        """The number of a trial's records that are both in its folder and, not rewound since, in the ledger."""
        run = self._runs.get(_folder(progress.trial))
        return progress.records if run is None or run.next is None else min(run.next, progress.records)

    def _trial_run(self, row: TrialRow, wall_time: float) -> _Run:
        """A trial's folder; if it must be opened, from `wall_time` on the trial is in training."""
        folder = _folder(row)
        if folder not in self._runs:
            self._ended.pop(folder, None)
            self._run(folder).board.add_summary(self._hparams.start(row, folder, wall_time), wall_time)
            if self._wandb is not None:
                self._wandb.opened(row, self._root / folder)
        return self._runs[folder]

    def _end(self, progress: Progress) -> None:
        """Close the folder of a trial that is over, if all is written."""
        row, folder = progress.trial, _folder(progress.trial)
        run = self._runs.get(folder)
        if self._ended.get(folder) == row.state or (run is not None and run.next != progress.records):
            return
        if not (self._root / folder).is_dir():  # it failed before its first record
            self._trial_run(row, time.time())
        if folder in self._runs:
            self._runs.pop(folder).board.close()  # a process may have a thousand files open, and there may be more
        if self._wandb is not None:
            self._wandb.completed(row, self._root / folder)
        self._ended[folder] = row.state

    def _run(self, folder: str) -> _Run:
        if folder not in self._runs:
            self._runs[folder] = _Run(self._root / folder)
        return self._runs[folder]


def _folder(trial: TrialRow) -> str:
    return f"{trial.config}/seed_{trial.seed}"
