"""Weights & Biases: a run per trial, grouped by configuration, that shows the trial's folder in `DIR/tensorboard`.

A run starts when its folder is opened and ends when that is complete, so only those of trials in training are open. It
reads the folder from the first event on, under an id of the trial and the launch: a resumed launch writes the same run
again, whole, whatever was lost with a process that was killed.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from launcher.ledger.rows import TrialRow
from runner.config import Config
from runner.files import write_whole
from runner.training import wandb as weights_and_biases

if TYPE_CHECKING:
    from wandb import Run

Task = Callable[[TrialRow, Path], None]
log = logging.getLogger(__name__)

CLOSE_SECONDS = 60.0
"""Seconds for which the end of a launch waits for wandb."""
SETTINGS = {"silent": True, "init_timeout": 30.0, "finish_timeout": 30.0}
"""Nothing is printed into the table, and a network that has failed does not hold up the end forever."""


class WandbExport:
    """Runs of trials, in a thread: each takes a fifth of a second to start. Errors are logged, never raised.

    Attributes:
        where: to look at the runs (see `runner.training.wandb.address`); None while there are none.

    `configs` are by trial, of those that ask for a run.
    """

    def __init__(self, directory: Path, configs: Mapping[str, Config]) -> None:
        self.where: str | None = None
        self._directory = directory
        self._configs = configs
        self._unfinished: dict[str, tuple[TrialRow, Path]] = {}
        self._runs: dict[str, Run] = {}
        self._failing = False
        self._tasks: SimpleQueue[tuple[Task, TrialRow, Path] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def opened(self, row: TrialRow, folder: Path) -> None:
        """Show a folder in which events of a trial are written from now on."""
        if row.id in self._configs:
            self._unfinished[row.id] = row, folder
            self._tasks.put((self._start, row, folder))

    def completed(self, row: TrialRow, folder: Path) -> None:
        """Finish the run of a trial that is over."""
        if row.id in self._unfinished:
            self._unfinished[row.id] = row, folder
            self._tasks.put((self._finish, row, folder))

    def close(self) -> None:
        """Finish all runs, whose folders are closed by now, or give up after a minute."""
        self._tasks.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.error("%s/wandb: gave up waiting for wandb", self._directory)

    def _work(self) -> None:
        for task in iter(self._tasks.get, None):
            self._try(*task)
        for row, folder in list(self._unfinished.values()):
            self._try(self._finish, row, folder)
        if self.where is not None:
            weights_and_biases.end()

    def _try(self, task: Task, row: TrialRow, folder: Path) -> None:
        """Start or finish a run. Where that fails, its end, or else that of the launch, tries again."""
        try:
            task(row, folder)
            self._failing = False
        except Exception as error:  # whatever it is, training goes on
            if not self._failing:
                log.exception("%s: wandb is not up to date", self._directory)
            self._failing = True
            if weights_and_biases.is_gone(error):
                self._runs.clear()
                weights_and_biases.end()

    def _start(self, row: TrialRow, folder: Path) -> None:
        if row.id not in self._runs:
            names = {"id": f"{row.id}-{self._launch()}", "name": f"{row.config}_seed_{row.seed}", "group": row.config}
            asked = names | {"settings": SETTINGS}
            run = weights_and_biases.start(self._configs[row.id], folder, self._directory, asked, whole=True)
            self._runs[row.id], self.where = run, weights_and_biases.address(run)

    def _finish(self, row: TrialRow, folder: Path) -> None:
        self._start(row, folder)
        self._runs.pop(row.id).finish(exit_code=int(row.state != "finished"))
        del self._unfinished[row.id]

    def _launch(self) -> str:
        """A word that only this launch's runs have, kept in a file."""
        file = self._directory / "wandb/launch.txt"
        if not file.exists():
            write_whole(file, secrets.token_hex(4).encode())
        return file.read_text()
