"""Numbers as CSV and figures as SVG and PNG, for papers and other programs."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from launcher.ledger.records import Records
from launcher.ledger.rows import TrialRow
from launcher.report import draw
from launcher.report.data import Each, Report
from launcher.report.figures import listed, rows
from launcher.report.parts import Plot
from runner.training.tracking import RETURN_MEAN, SCORE, STEPS_PER_SECOND

COLUMNS = {
    "return_last_100_episodes": SCORE,
    "return_mean": RETURN_MEAN,
    "env_steps_per_second": STEPS_PER_SECOND,
}
Rows = Iterable[Sequence[Any]]


@contextlib.contextmanager
def curves(folder: Path) -> Iterator[Each]:
    """`curves.csv`: takes every record of every trial while these are read."""
    with _table(folder / "curves.csv") as write:
        write([("configuration", "trial", "seed", "env_steps", "seconds", *COLUMNS)])

        def add(configuration: str, trial: TrialRow, records: Records) -> None:
            empty = np.full(len(records.env_steps), np.nan)
            columns = (records.seconds, *(records.values.get(tag, empty) for tag in COLUMNS.values()))
            steps = records.env_steps.astype(np.int64).tolist()
            values = zip(steps, *map(listed, columns), strict=True)
            write((configuration, trial.id, trial.seed, *rest) for rest in values)

        yield add


def write(report: Report, plots: Sequence[Plot], folder: Path) -> None:
    """Write all CSV files but that of the curves of trials, and all figures."""
    tables = {"aggregated": _aggregated(report), "scores": _scores(report), "evaluations": _evaluations(report)}
    if any(one.each for launch in report.launches for one in launch.evaluations):
        tables["evaluations_of_agents"] = _of_agents(report)
    for name, found in (tables | {plot.name: rows(plot.figure) for plot in plots}).items():
        with _table(folder / f"{name}.csv") as write_rows:
            write_rows(found)
    for plot in plots:
        if plot.main:
            draw.write(plot.figure, folder / plot.name)


@contextlib.contextmanager
def _table(path: Path) -> Iterator[Callable[[Rows], None]]:
    """A CSV file that takes rows, and is there when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", newline="") as file:
            yield csv.writer(file).writerows
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _aggregated(report: Report) -> Iterator[Sequence[Any]]:
    yield "configuration", "task", "env_steps", "seeds", "iqm", "low_95", "high_95"
    for c in report.configurations:
        curve = c.curve
        columns = (curve.env_steps.astype(np.int64), curve.seeds, curve.iqm, curve.low, curve.high)
        for numbers in zip(*map(listed, columns), strict=True):
            yield c.name, c.task, *numbers


def _scores(report: Report) -> Iterator[Sequence[Any]]:
    yield "configuration", "task", "trial", "seed", "state", "env_steps", "return_last_100_episodes", "counted", "error"
    for c in report.configurations:
        for seed in c.seeds:
            trial, score = seed.trial, "" if seed.score is None else seed.score
            who = (c.name, c.task, trial.id, trial.seed, trial.state, seed.row.env_steps)
            yield *who, score, int(seed.counts), trial.error or ""


def _of_agents(report: Report) -> Iterator[Sequence[Any]]:
    """The returns of each of several agents; those of `_evaluations` are the teams'."""
    yield "launch", "trial", "timestep", "sha256", "settings", "environment_seed", "agent", "return"
    for launch in report.launches:
        for one in launch.evaluations:
            for agent, returns in one.each.items():
                for seed, number in zip(one.seeds, returns, strict=True):
                    yield launch.name, one.trial, one.timestep, one.sha256, one.settings, seed, agent, number


def _evaluations(report: Report) -> Iterator[Sequence[Any]]:
    who = "launch", "configuration", "task", "trial", "seed", "env_steps", "timestep"
    yield *who, "sha256", "settings", "environment_seed", "return", "length"
    seeds = {(seed.launch, seed.trial.id): (c, seed.trial) for c in report.configurations for seed in c.seeds}
    for index, launch in enumerate(report.launches):
        for one in launch.evaluations:
            what, number, steps = ("", ""), "", ""
            if (found := seeds.get((index, one.trial))) is not None:
                c, trial = found
                what, number, steps = (c.name, c.task), str(trial.seed), str(one.timestep * trial.num_envs)
            for episode in zip(one.seeds, one.returns, one.lengths, strict=True):
                yield launch.name, *what, one.trial, number, steps, one.timestep, one.sha256, one.settings, *episode
