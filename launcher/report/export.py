"""Numbers as CSV and figures as SVG and PNG, for papers and other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from launcher.ledger.records import Records
from launcher.ledger.rows import Progress
from launcher.report import draw
from launcher.report.data import Report
from launcher.report.figures import plain, rows
from launcher.report.parts import Plot
from runner.files import write_whole
from runner.training.tracking import RETURN_MEAN, SCORE, STEPS_PER_SECOND

COLUMNS = {
    "return_last_100_episodes": SCORE,
    "return_mean": RETURN_MEAN,
    "env_steps_per_second": STEPS_PER_SECOND,
}
_EVALUATED = ("sha256", "settings", "environment_seed", "return", "length")


class Curves:
    """Writes `curves.csv`, every record of every trial, while these are read."""

    def __init__(self, folder: Path) -> None:
        """Nothing yet; `folder` is made when the first trial comes."""
        self._folder = folder
        self._file: IO[str] | None = None

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if self._file is None:
            return
        self._file.close()
        partial = Path(self._file.name)
        if kind is None:
            partial.replace(self._folder / "curves.csv")
        else:
            partial.unlink(missing_ok=True)

    def add(self, configuration: str, row: Progress, records: Records) -> None:
        """Write all records of one trial."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = (self._folder / ".curves.csv.partial").open("w", newline="")
            csv.writer(self._file).writerow(["configuration", "trial", "seed", "env_steps", "seconds", *COLUMNS])
        empty = np.full(len(records.env_steps), np.nan)
        columns = [records.values.get(tag, empty).tolist() for tag in COLUMNS.values()]
        who = (configuration, row.trial.id, row.trial.seed)
        steps, seconds = records.env_steps.astype(np.int64).tolist(), records.seconds.tolist()
        csv.writer(self._file).writerows(
            (*who, *rest) for rest in zip(steps, seconds, *(map(plain, column) for column in columns), strict=True)
        )


def write(report: Report, plots: Sequence[Plot], folder: Path) -> None:
    """Write all CSV files but that of the curves of trials, and all figures."""
    folder.mkdir(parents=True, exist_ok=True)
    _csv(folder / "aggregated.csv", _aggregated(report))
    _csv(folder / "scores.csv", _scores(report))
    _csv(folder / "evaluations.csv", _evaluations(report))
    for plot in plots:
        _csv(folder / f"{plot.name}.csv", rows(plot.figure))
        if plot.main:
            draw.write(plot.figure, folder / plot.name)


def _csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(rows)
    write_whole(path, buffer.getvalue().encode())


def _aggregated(report: Report) -> Iterator[Sequence[Any]]:
    yield "configuration", "task", "env_steps", "seeds", "iqm", "low_95", "high_95"
    for c in report.configurations:
        curve = c.curve
        columns = (curve.env_steps, curve.seeds, curve.iqm, curve.low, curve.high)
        for steps, seeds, *values in zip(*(column.tolist() for column in columns), strict=True):
            yield c.name, c.task, int(steps), seeds, *map(plain, values)


def _scores(report: Report) -> Iterator[Sequence[Any]]:
    yield "configuration", "task", "trial", "seed", "state", "env_steps", "return_last_100_episodes", "counted", "error"
    for c in report.configurations:
        for seed in c.seeds:
            trial = seed.row.trial
            score = "" if seed.score is None else seed.score
            who = (c.name, c.task, trial.id, trial.seed, trial.state, seed.row.env_steps)
            yield *who, score, int(seed.counts), trial.error or ""


def _evaluations(report: Report) -> Iterator[Sequence[Any]]:
    yield "launch", "configuration", "task", "trial", "seed", "env_steps", "timestep", *_EVALUATED
    seeds = {(seed.launch, seed.row.trial.id): (c, seed.row.trial) for c in report.configurations for seed in c.seeds}
    for index, launch in enumerate(report.launches):
        for one in launch.evaluations:
            found = seeds.get((index, one.trial))
            what = (found[0].name, found[0].task) if found else ("", "")
            number, steps = (found[1].seed, one.timestep * found[1].num_envs) if found else ("", "")
            who = (launch.name, *what, one.trial, number, steps, one.timestep, one.sha256, one.settings)
            for episode in zip(one.seeds, one.returns, one.lengths, strict=True):
                yield *who, *episode
