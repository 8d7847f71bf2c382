"""From the ledger to Weights & Biases: a run per trial, grouped by configuration.

A thread of its own does it, since wandb takes a fifth of a second to start a run, and minutes where the network
fails: neither the table nor the supervision of workers waits for that. A run is started at its trial's first
record and finished when the trial has ended, so only those of trials in training are open.

`wandb/cursor.json` says how many records of each trial were sent; a resumed launch goes on there, in the same runs.
Their ids are the trials' with a random ending that is the launch's: another launch of the same configuration has
other runs. A record is sent with its index as wandb's step, and a server ignores steps that it has already: so what
a crash leaves unnoted is not shown twice. wandb cannot take points back: where a trial was rewound, those of the
first time stay, and the run goes on once training has come past them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
from collections import Counter
from pathlib import Path

from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Progress, TrialRow
from runner.config import Config, load_config
from runner.files import write_whole
from runner.training.wandb import WandbRun, restart

CHUNK = 200
"""Records of a trial that are read at once: bounds the memory of a first export."""
POLL_SECONDS = 1.0
RETRY_SECONDS = 60.0
"""Pause after an error."""
CLOSE_SECONDS = 60.0
"""How long the end of a launch waits for wandb."""
SETTINGS = {"silent": True, "finish_timeout": 30.0}
"""Nothing is printed into the table, and a network that has failed does not hold up the end forever."""


class WandbExport:
    """Keeps wandb up to date with the ledger of `DIR`, in a thread. Errors are logged, never raised.

    Attributes:
        where: to look at the runs (see `WandbRun`); None while there are none.
    """

    def __init__(self, ledger_directory: Path) -> None:
        """Start the thread; wandb itself is not touched before the first record of a trial that asks for it."""
        self.where: str | None = None
        self._directory = ledger_directory
        self._tail: _Tail | None = None
        self._failing = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left and finish all runs, or give up after a minute."""
        self._end.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logging.getLogger(__name__).error("%s/wandb: gave up waiting for wandb", self._directory)

    def _work(self) -> None:
        while not self._end.wait(RETRY_SECONDS if self._failing else POLL_SECONDS):
            self._follow()
        self._follow()
        self._close_tail(arrived=True)

    def _follow(self) -> None:
        try:
            if self._tail is None:
                self._tail = _Tail(self._directory)
            self._tail.follow()
            self.where = self._tail.where
            self._failing = False
        except Exception as error:  # whatever it is, training goes on
            self._log()
            if isinstance(error, ConnectionError):
                # To wandb's own process: it is gone, and all runs with it. The cursor knows where to go on.
                self._close_tail(arrived=False)
                restart()

    def _close_tail(self, arrived: bool) -> None:
        tail, self._tail = self._tail, None
        try:
            if tail is not None:
                tail.close(arrived)
        except Exception:
            self._log()

    def _log(self) -> None:
        """Of an error, once until it is over."""
        if not self._failing:
            logging.getLogger(__name__).exception("%s: wandb is not up to date", self._directory)
        self._failing = True


class _Tail:
    """Open runs, and how far in the ledger they are."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cursor = directory / "wandb/cursor.json"
        self._ledger = Ledger(directory, writer=False)
        self._configs: dict[str, Config] = {}
        self._runs: dict[str, WandbRun] = {}
        self._failures: Counter[str] = Counter()
        self._launch = secrets.token_hex(4)
        self._written: dict[str, int] = {}
        self._saved: dict[str, int] | None = None
        self.where: str | None = None
        with contextlib.suppress(FileNotFoundError):
            cursor = json.loads(self._cursor.read_text())
            self._launch, self._written = cursor["launch"], cursor["written"]

    def follow(self) -> None:
        """Write what the ledger has beyond the cursor, then move the cursor."""
        # Only what was sent a pause ago: wandb's process, which dies with this one, takes a moment to write it.
        self._save()
        self._send()

    def _send(self) -> None:
        # A trial that wandb refuses comes last, so that it keeps back no other.
        for progress in sorted(self._ledger.progress(), key=lambda row: self._failures[row.trial.trial]):
            trial = progress.trial
            if progress.records > self._written.get(trial.trial, 0) and self._config(trial).agent.experiment.wandb:
                try:
                    self._write(trial)
                except Exception:
                    self._failures[trial.trial] += 1
                    self._drop(trial.trial, failed=True)
                    raise
            if trial.state in ("finished", "diverged", "failed") and self._complete(progress):
                self._drop(trial.trial, failed=trial.state != "finished")

    def close(self, arrived: bool) -> None:
        """Finish all runs; `arrived`: nothing that was sent need be sent again."""
        states = {row.trial: row.state for row in self._ledger.trials()}
        self._ledger.disconnect()
        for trial in list(self._runs):
            self._drop(trial, failed=states[trial] != "finished")
        if arrived:
            self._save()

    def _complete(self, progress: Progress) -> bool:
        return self._written.get(progress.trial.trial, 0) >= progress.records

    def _write(self, trial: TrialRow) -> None:
        written = self._written.get(trial.trial, 0)
        if trial.trial not in self._runs:
            names = {
                "id": f"{trial.trial}-{self._launch}",
                "name": f"{trial.config}_seed_{trial.seed}",
                "group": trial.config,
                "resume": "allow",
                "settings": SETTINGS,
            }
            run = self._runs[trial.trial] = WandbRun(self._directory, self._config(trial), names, written)
            self.where = run.where
        while records := self._ledger.records(trial.trial, written, CHUNK):
            for stored in records:
                self._runs[trial.trial].write(stored.record.env_steps, stored.record.values, stored.wall_time)
            written += len(records)
            self._written[trial.trial] = written

    def _config(self, trial: TrialRow) -> Config:
        if trial.trial not in self._configs:
            path = self._directory / "trials" / trial.trial / "config.yaml"
            self._configs[trial.trial] = load_config(path)[0]
        return self._configs[trial.trial]

    def _drop(self, trial: str, failed: bool) -> None:
        run = self._runs.pop(trial, None)
        if run is not None:
            with contextlib.suppress(Exception):  # what did not arrive is in the run's folder
                run.close(failed)

    def _save(self) -> None:
        if self._written != self._saved:
            write_whole(self._cursor, json.dumps({"launch": self._launch, "written": self._written}).encode())
            self._saved = dict(self._written)
