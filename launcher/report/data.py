"""The contents of a report: configurations of launches by final return, with their seeds, curves and attempts.

Final returns are those of finished trials, as in `launch status`; the others are kept, shown and counted.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher import stats
from launcher.ledger import evaluations
from launcher.ledger.configurations import settings_of
from launcher.ledger.evaluations import Evaluation
from launcher.ledger.ledger import reading
from launcher.ledger.records import Grid, Records, Span, grid_of, read_records
from launcher.ledger.rows import LOST_STATES, Progress, TrialRow
from launcher.ledger.storage import LEDGER
from launcher.report import runners
from launcher.report.figures import PLAIN, Style, styles
from launcher.watch import standing
from launcher.watch.layout import by_configuration
from launcher.watch.standing import Standing
from runner.config.load import dump
from runner.errors import UserError
from runner.training.tracking import SCORE, TIME

CURVE_POINTS = 250
"""Points of a curve of returns on the page, at most."""
OTHER_POINTS = 80
"""Points of a curve of any other metric."""
CURVE_NUMBERS = 400_000
"""Numbers of all curves of seeds together, at most: 2 MB of the page."""

Each = Callable[[str, TrialRow, Records], None]


@dataclass(frozen=True)
class Seed:
    """One trial.

    Attributes:
        row: as the ledger has it.
        launch: index of its launch.
        curves: metric → [G] values on its configuration's grid of that metric.
        spans: attempt → when it trained there.
        split: part of training → seconds.
    """

    row: Progress
    launch: int
    curves: Mapping[str, NDArray[np.float64]]
    spans: Mapping[int, Span]
    split: Mapping[str, float]

    @property
    def trial(self) -> TrialRow:
        """Its name, number and state."""
        return self.row.trial

    @property
    def score(self) -> float | None:
        """Mean return of its last 100 episodes so far; None before the first has ended."""
        value = self.row.value
        return value if value is not None and math.isfinite(value) else None

    @property
    def counts(self) -> bool:
        """Its final return enters the statistics."""
        return self.trial.state == "finished" and self.score is not None


@dataclass(frozen=True)
class Configuration:
    """One configuration of one launch.

    Attributes:
        name: unique in the report.
        label: the part of `name` that differs from the others'.
        launch: index of its launch.
        settings: dotted key → value, seed and logging left out.
        text: its YAML.
        curve: interquartile mean of the returns; its grid is that of the seeds' curves, too.
        thin: grid of all other metrics.
        style: in all figures and tables.
    """

    name: str
    label: str
    launch: int
    settings: Mapping[str, Any]
    text: str
    seeds: Sequence[Seed]
    curve: stats.Curve
    thin: Grid
    style: Style = PLAIN

    @property
    def task(self) -> str:
        """The environment: returns of different ones are not compared."""
        return str(self.settings.get("env.id", "?"))

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """[R] final returns of finished trials."""
        return np.array([seed.score for seed in self.seeds if seed.counts], dtype=np.float64)

    @cached_property
    def iqm(self) -> float | None:
        """Their interquartile mean."""
        return float(stats.interquartile_mean(self.scores)) if len(self.scores) else None

    @cached_property
    def interval(self) -> stats.Interval | None:
        """The interval of the IQM; None for fewer than 3."""
        return stats.bootstrap_interval(self.scores)

    @property
    def states(self) -> Counter[str]:
        """State → number of trials."""
        return Counter(seed.trial.state for seed in self.seeds)

    @property
    def lost(self) -> int:
        """Trials that failed or diverged."""
        return sum(self.states[state] for state in LOST_STATES)


@dataclass(frozen=True)
class Launch:
    """One launch; `directory` is the one that was given, `winner` the file of what has won its search."""

    name: str
    directory: Path
    standing: Standing
    evaluations: Sequence[Evaluation]
    winner: Path | None = None


@dataclass(frozen=True)
class Report:
    """Launches as given, and configurations by task and final IQM, best first."""

    launches: Sequence[Launch]
    configurations: Sequence[Configuration]

    @property
    def tags(self) -> list[str]:
        """Metrics, the return first."""
        tags = {tag for c in self.configurations for seed in c.seeds for tag in seed.curves}
        return sorted(tags, key=lambda tag: (tag != SCORE, tag))

    @property
    def tasks(self) -> list[str]:
        """Environments, each once."""
        return list(dict.fromkeys(c.task for c in self.configurations))

    @property
    def seeds(self) -> list[Seed]:
        """All trials."""
        return [seed for c in self.configurations for seed in c.seeds]

    def by_task(self) -> Iterator[tuple[str, list[Configuration], str, str]]:
        """Task, its configurations, best first, and how headings and files name it where there are several."""
        for task in self.tasks:
            several = len(self.tasks) > 1
            group = [c for c in self.configurations if c.task == task]
            yield task, group, f": {task}" if several else "", task if several else ""

    def by_launch(self) -> Iterator[tuple[Launch, list[Seed], str]]:
        """Launch, its trials, and how headings name it where there are several."""
        for index, launch in enumerate(self.launches):
            heading = f": {launch.name}" if len(self.launches) > 1 else ""
            yield launch, [seed for seed in self.seeds if seed.launch == index], heading


def axes(configurations: Sequence[Configuration]) -> dict[str, list[Any]]:
    """Settings that differ between configurations, with their values: one for each configuration, None if unset."""
    keys = dict.fromkeys(key for c in configurations for key in c.settings)
    columns = {key: [c.settings.get(key) for c in configurations] for key in keys}
    return {key: values for key, values in columns.items() if len({str(value) for value in values}) > 1}


def find(directories: Sequence[Path], read_in: Path) -> list[Launch]:
    """The launches of directories, none of which may be given twice; those of Runners are read into a folder."""
    folders = [directory.resolve() for directory in directories]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(f"{folder}: given twice; name each launch directory once")
    names = _launch_names(folders)
    ledgers = [runners.as_launch(f, read_in / str(i)) if runners.written(f) else f for i, f in enumerate(folders)]
    return [
        Launch(name, folder, standing.read(ledger), evaluations.read(ledger))
        for name, folder, ledger in zip(names, folders, ledgers, strict=True)
    ]


def read(launches: Sequence[Launch], each: Each = lambda *_: None) -> Report:
    """Read all records; `each` is called with the configuration's name, row and records of every trial, for exports."""
    taken = Counter(name for launch in launches for name in {row.trial.config for row in launch.standing.rows})
    trials = sum(len(launch.standing.rows) for launch in launches)
    found = []
    for index, launch in enumerate(launches):
        for rows in by_configuration(launch.standing.rows):
            name = rows[0].trial.config
            shown = f"{launch.name}: {name}" if taken[name] > 1 else name
            found.append(_configuration(launch, index, shown, rows, trials, each))
    labels = _labels([c.name for c in found], axes(found))
    found = [replace(c, label=label) for c, label in zip(found, labels, strict=True)]
    tasks = list(dict.fromkeys(c.task for c in found))
    found.sort(key=lambda c: (tasks.index(c.task), c.iqm is None, -(c.iqm or 0.0), -_last_value(c.curve), c.name))
    return Report(launches, [replace(c, style=look) for c, look in zip(found, styles(len(found)), strict=True)])


def _last_value(curve: stats.Curve) -> float:
    """The IQM at the last point that has one; minus infinity without any."""
    known = curve.iqm[~np.isnan(curve.iqm)]
    return float(known[-1]) if len(known) else -math.inf


def _configuration(
    launch: Launch, index: int, name: str, rows: Sequence[Progress], trials: int, each: Each
) -> Configuration:
    directory = launch.standing.directory
    with reading(directory) as ledger:
        (text,) = ledger.configurations([rows[0].trial.id]).values()
    records = []
    for row in rows:
        records.append(read_records(directory / LEDGER, row.trial.id))
        each(name, row.trial, records[-1])
    tags = dict.fromkeys(tag for one in records for tag in one.values if not tag.startswith(TIME))
    grid = grid_of(records, max(20, min(CURVE_POINTS, CURVE_NUMBERS // (2 * trials))))
    thin = grid_of(records, max(10, min(OTHER_POINTS, CURVE_NUMBERS // (2 * trials * max(len(tags), 1)))))
    seeds = []
    for row, one in zip(rows, records, strict=True):
        curves = {
            tag: stats.held(one.env_steps, one.values[tag], grid if tag == SCORE else thin)
            for tag in tags
            if tag in one.values
        }
        # An attempt that has begun since the launch was read is left to the next report.
        spans = {attempt: span for attempt, span in one.spans().items() if attempt in launch.standing.attempts}
        seeds.append(Seed(row, index, curves, spans, one.split()))
    curve = stats.sample_efficiency([seed.curves[SCORE] for seed in seeds if SCORE in seed.curves], grid)
    return Configuration(name, name, index, settings_of(text), dump(json.loads(text)), seeds, curve, thin)


def _launch_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart."""
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("folders differ")


def _labels(names: Sequence[str], keys: Iterable[str]) -> list[str]:
    """Names from the first swept setting on, which is among `keys`, if what is before is the same in all of them."""
    common = os.path.commonprefix(list(names))  # noqa: RUF071 (names are no paths)
    swept = "|".join(re.escape(key.rpartition(".")[2]) for key in keys)
    found = re.search(f"_(?=(?:{swept})=)", names[0]) if swept and names else None
    cut = found.end() if found and found.end() <= len(common) else 0
    return [re.sub(f"_(?=(?:{swept})=)", ", ", name[cut:]) if swept else name for name in names]
