"""What a report tells of launch directories: configurations by final return, their seeds, curves, attempts, failures.

In come launch directories; out goes one `Report`, from which pages, tables and figures are made. Final returns are
those of finished trials, as in `launch status`; the others are kept, shown and counted.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher import stats
from launcher.ledger import evaluations
from launcher.ledger.evaluations import Evaluation
from launcher.ledger.records import Grid, Records, Span, grid_of, read_records
from launcher.ledger.rows import Progress
from launcher.ledger.storage import LEDGER
from launcher.report.figures import PLAIN, Style, styles
from launcher.report.settings import read_settings
from launcher.watch import status
from launcher.watch.layout import LOST_STATES
from runner.errors import UserError
from runner.training.tracking import SCORE, TIME

CURVE_POINTS = 250
"""Points of a curve of returns on the page, at most."""
OTHER_POINTS = 80
"""Points of a curve of any other metric."""
CURVE_NUMBERS = 400_000
"""Numbers of all curves of seeds together, at most: 2 MB of the page."""

Each = Callable[[str, Progress, Records], None]


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
    def score(self) -> float | None:
        """Mean return of its last 100 episodes so far; None before the first has ended."""
        value = self.row.value
        return value if value is not None and math.isfinite(value) else None

    @property
    def counts(self) -> bool:
        """Whether its final return enters the statistics."""
        return self.row.trial.state == "finished" and self.score is not None


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
        others: metric → interquartile mean over seeds, on `thin`.
        interval: of the IQM of the final returns; None for fewer than 3.
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
    others: Mapping[str, NDArray[np.float64]]
    iqm: float | None
    interval: stats.Interval | None
    style: Style = PLAIN

    @property
    def task(self) -> str:
        """The environment: returns of different ones are not compared."""
        return str(self.settings.get("env.id", "?"))

    @property
    def scores(self) -> NDArray[np.float64]:
        """[R] final returns of finished trials."""
        return np.array([seed.score for seed in self.seeds if seed.counts], dtype=np.float64)

    @property
    def states(self) -> Counter[str]:
        """How many trials are in which state."""
        return Counter(seed.row.trial.state for seed in self.seeds)

    @property
    def lost(self) -> int:
        """Trials that failed or diverged."""
        return sum(self.states[state] for state in LOST_STATES)


@dataclass(frozen=True)
class Launch:
    """One launch directory."""

    name: str
    standing: status.Standing
    evaluations: Sequence[Evaluation]

    @property
    def revision(self) -> Mapping[str, Any]:
        """The last launch or resume; empty before the first has begun to train."""
        return self.standing.revisions[-1] if self.standing.revisions else {}

    def block(self, key: str) -> Mapping[str, Any]:
        """A block of the last revision, empty where it is missing or is none."""
        found = self.revision.get(key)
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Report:
    """All that is told: launches as given, configurations by task and final IQM, best first."""

    launches: Sequence[Launch]
    configurations: Sequence[Configuration]
    tags: Sequence[str] = field(default_factory=tuple)

    @property
    def tasks(self) -> list[str]:
        """Environments, each once."""
        return list(dict.fromkeys(c.task for c in self.configurations))

    @property
    def seeds(self) -> list[Seed]:
        """All trials."""
        return [seed for c in self.configurations for seed in c.seeds]

    def of_task(self, task: str) -> list[Configuration]:
        """Configurations that can be compared with each other, best first."""
        return [c for c in self.configurations if c.task == task]

    def of_launch(self, index: int) -> list[Seed]:
        """The trials of a launch."""
        return [seed for seed in self.seeds if seed.launch == index]

    def suffix(self, task: str) -> str:
        """Of a heading: names the task where there are several."""
        return f": {task}" if len(self.tasks) > 1 else ""


def axes(configurations: Sequence[Configuration]) -> dict[str, list[Any]]:
    """Settings that differ between configurations, with their values: one for each configuration, None if unset."""
    keys = dict.fromkeys(key for c in configurations for key in c.settings)
    columns = {key: [c.settings.get(key) for c in configurations] for key in keys}
    return {key: values for key, values in columns.items() if len({str(value) for value in values}) > 1}


def read(directories: Sequence[Path], each: Each | None = None) -> Report:
    """Read launch directories.

    Args:
        directories: of launches, each once.
        each: called with (configuration's name, progress row, all its records) of every trial, for exports.

    Raises:
        UserError: one is no launch directory, is damaged, or is given twice.
    """
    folders = [directory.resolve() for directory in directories]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(f"{folder}: given twice; name each launch directory once")
    standings = [status.read(folder) for folder in folders]
    names = _launch_names(folders)
    taken = Counter(name for standing in standings for name in {row.trial.config for row in standing.rows})
    total = sum(len(standing.rows) for standing in standings)
    configurations = []
    for index, standing in enumerate(standings):
        groups: dict[str, list[Progress]] = {}
        for row in standing.rows:
            groups.setdefault(row.trial.config, []).append(row)
        for name, rows in groups.items():
            shown = f"{names[index]}: {name}" if taken[name] > 1 else name
            configurations.append(_configuration(standing, index, shown, rows, total, each))
    labels = _labels([c.name for c in configurations], axes(configurations))
    configurations = [replace(c, label=label) for c, label in zip(configurations, labels, strict=True)]
    tasks = list(dict.fromkeys(c.task for c in configurations))
    configurations.sort(key=lambda c: (tasks.index(c.task), *_rank(c)))
    looks = styles(len(configurations))
    configurations = [replace(c, style=look) for c, look in zip(configurations, looks, strict=True)]
    tags = dict.fromkeys(tag for c in configurations for seed in c.seeds for tag in seed.curves)
    launches = [
        Launch(name, standing, _evaluations(folder))
        for name, standing, folder in zip(names, standings, folders, strict=True)
    ]
    return Report(launches, configurations, sorted(tags, key=lambda tag: (tag != SCORE, tag)))


def last_value(curve: stats.Curve) -> float:
    """The IQM at the last point that has one; minus infinity without any."""
    known = curve.iqm[~np.isnan(curve.iqm)]
    return float(known[-1]) if len(known) else -math.inf


def _rank(c: Configuration) -> tuple[bool, float, float, str]:
    """Best first: by final IQM; those without after all others, by where their curve ended."""
    return c.iqm is None, -(c.iqm or 0.0), -last_value(c.curve), c.name


def _configuration(
    standing: status.Standing, index: int, name: str, rows: Sequence[Progress], trials: int, each: Each | None
) -> Configuration:
    records = []
    for row in rows:
        records.append(read_records(standing.directory / LEDGER, row.trial.id))
        if each is not None:
            each(name, row, records[-1])
    tags = dict.fromkeys(tag for one in records for tag in one.values if not tag.startswith(TIME))
    grid = grid_of(records, max(20, min(CURVE_POINTS, CURVE_NUMBERS // (2 * trials))))
    thin = grid_of(records, max(10, min(OTHER_POINTS, CURVE_NUMBERS // (2 * trials * max(len(tags), 1)))))
    curves: list[dict[str, NDArray[np.float64]]] = [{} for _ in rows]
    others = {}
    for tag in tags:
        for one, held in zip(records, curves, strict=True):
            if tag in one.values:
                held[tag] = stats.held(one.env_steps, one.values[tag], grid if tag == SCORE else thin)
        if tag != SCORE:
            others[tag] = _middle([held[tag] for held in curves if tag in held])
    returns = [(one.env_steps, one.values[SCORE]) for one in records if SCORE in one.values]
    curve = stats.sample_efficiency(returns, grid, np.random.default_rng(0))
    seeds = []
    for row, held, one in zip(rows, curves, records, strict=True):
        # An attempt that has begun since the launch was read is left to the next report.
        spans = {attempt: span for attempt, span in one.spans().items() if attempt in standing.attempts}
        seeds.append(Seed(row, index, held, spans, one.split()))
    settings, text = read_settings(standing.directory, rows[0].trial.id)
    scores = np.array([seed.score for seed in seeds if seed.counts])
    iqm = float(stats.interquartile_mean(scores)) if len(scores) else None
    rng = np.random.default_rng(0)
    interval = stats.bootstrap_interval(scores, stats.interquartile_mean, rng) if len(scores) else None
    return Configuration(name, name, index, settings, text, seeds, curve, thin, others, iqm, interval)


def _middle(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """[G] interquartile mean of the seeds that have a value there."""
    ordered = np.sort(np.array(values), axis=0).T
    counts = np.count_nonzero(~np.isnan(ordered), axis=1)
    result = np.full(len(ordered), np.nan)
    for runs in np.unique(counts[counts > 0]):
        result[counts == runs] = stats.interquartile_mean(ordered[counts == runs, :runs])
    return result


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


def _evaluations(folder: Path) -> list[Evaluation]:
    """All evaluations; none where the table cannot be read, as in ledgers made before there were any."""
    try:
        return evaluations.read(folder)
    except UserError:
        return []
