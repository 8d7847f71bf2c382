"""The directory that `run("train")` leaves, which is skrl's: event files, checkpoints, config.yaml, wandb's runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from runner.config.load import dump
from runner.errors import UserError
from runner.files import write_whole
from runner.training import wandb as weights_and_biases
from runner.training.pack import Pack
from runner.training.progress import Progress
from runner.training.state import Counters
from runner.training.tracking import Report, TensorBoard


class Training(Protocol):
    """The training that is written of: a Runner."""

    def reports(self, stop: Callable[[], bool]) -> Iterator[Report]:
        """Train, yielding what is due."""

    def checkpoints(self) -> list[tuple[Counters, Callable[[], bytes]]]:
        """The standing of every trial, and what makes its file."""


def write(training: Training, pack: Pack, directory: Path, progress: Progress) -> None:
    """Train to the end and write everything below `directory`.

    Args:
        training: yields what is due.
        pack: of the training.
        directory: of one trial; those of a pack have folders in it.
        progress: is shown meanwhile.
    """
    experiment = pack.static.agent.experiment
    folders = _member_folders(directory, pack.trial_seeds)
    if experiment.wandb:
        weights_and_biases.check(experiment.wandb_kwargs, several=pack.trials > 1)
        weights_and_biases.check_login(experiment.wandb_kwargs)
    keeps = pack.static.interval("checkpoint_interval") > 0
    with contextlib.ExitStack() as stack:
        failed: set[int] = set()
        if experiment.wandb:
            failed = stack.enter_context(weights_and_biases.member_runs(directory, folders, pack.configs))
        try:
            boards = [stack.enter_context(contextlib.closing(TensorBoard(folder))) for folder in folders]
            for folder, config in zip(folders, pack.configs, strict=True):
                write_whole(folder / "config.yaml", dump(config.dump()).encode())
        except OSError as error:
            raise UserError(f"{directory}: cannot be written: {error.strerror}") from None
        stack.enter_context(progress)
        for report in training.reports(progress.advance):
            for board, record in zip(boards, report.records, strict=True):
                if record is not None:
                    board.write(record.env_steps, record.values, time.time())
            failed.update(report.diverged)
            if keeps and (report.checkpoint or report.best):
                _save(training, folders, report)
            progress.report(report.records)


def _save(training: Training, folders: Sequence[Path], report: Report) -> None:
    for trial, (folder, (counters, made)) in enumerate(zip(folders, training.checkpoints(), strict=True)):
        data = made()
        checkpoints = folder / "checkpoints"
        if report.checkpoint:
            write_whole(checkpoints / f"agent_{counters.timestep}.safetensors", data)
        if trial in report.best:
            write_whole(checkpoints / "best_agent.safetensors", data)


def _member_folders(directory: Path, seeds: Sequence[int]) -> list[Path]:
    if len(seeds) == 1:
        return [directory]
    # Members of equal seed differ in Hyper numbers; their place in the pack tells them apart.
    names = [f"seed_{s}" if seeds.count(s) == 1 else f"seed_{s}_member_{i}" for i, s in enumerate(seeds)]
    return [directory / name for name in names]
