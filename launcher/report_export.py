"""Numbers as CSV and figures as SVG and PNG, for papers and other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from launcher.ledger.records import Records
from launcher.ledger.rows import Progress
from launcher.report_data import Configuration, Report
from launcher.report_figures import OTHERS, styles
from runner.files import write_whole
from runner.training.tracking import RETURN_MEAN, SCORE, STEPS_PER_SECOND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = {
    "return_last_100_episodes": SCORE,
    "return_mean": RETURN_MEAN,
    "env_steps_per_second": STEPS_PER_SECOND,
}
STYLE: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "sunflower",
    "svg.fonttype": "none",
}
LEGEND = 12
"""Names in a legend at most."""


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
        who = (configuration, row.trial.trial, row.trial.seed)
        steps, seconds = records.env_steps.astype(np.int64).tolist(), records.seconds.tolist()
        csv.writer(self._file).writerows(
            (*who, *rest) for rest in zip(steps, seconds, *(map(_plain, column) for column in columns), strict=True)
        )


def _plain(value: float) -> float | str:
    """Empty for what is not there."""
    return "" if value != value else value


def write(report: Report, folder: Path) -> None:
    """Write all CSV files but that of the curves of trials, and all figures."""
    folder.mkdir(parents=True, exist_ok=True)
    _csv(folder / "aggregated.csv", _aggregated(report))
    _csv(folder / "scores.csv", _scores(report))
    _csv(folder / "evaluations.csv", _evaluations(report))
    if not report.configurations:
        return
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        for name, draw in (("learning_curves", _draw_curves), ("final_returns", _draw_returns)):
            picture: Figure = draw(report, Figure)
            FigureCanvasAgg(picture)
            for kind in ("svg", "png"):
                buffer = io.BytesIO()
                picture.savefig(buffer, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else {})
                write_whole(folder / f"{name}.{kind}", buffer.getvalue())


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
            yield c.name, c.task, int(steps), seeds, *map(_plain, values)


def _scores(report: Report) -> Iterator[Sequence[Any]]:
    yield "configuration", "task", "trial", "seed", "state", "env_steps", "return_last_100_episodes", "counted", "error"
    for c in report.configurations:
        for seed in c.seeds:
            trial = seed.row.trial
            score = "" if seed.score is None else seed.score
            who = (c.name, c.task, trial.trial, trial.seed, trial.state, seed.row.env_steps)
            yield *who, score, int(seed.counts), trial.error or ""


def _evaluations(report: Report) -> Iterator[Sequence[Any]]:
    yield "launch", "trial", "timestep", "sha256", "settings", "environment_seed", "return", "length"
    for launch in report.launches:
        for one in launch.evaluations:
            for seed, value, length in zip(one.seeds, one.returns, one.lengths, strict=True):
                yield launch.name, one.trial, one.timestep, one.sha256, one.settings, seed, value, length


# Figures


def _draw_curves(report: Report, make: type[Figure]) -> Figure:
    tasks = report.tasks
    picture = make(figsize=(5.5, 3.2 * len(tasks)), layout="constrained")
    look = styles(len(report.configurations))
    for axes, task in zip(np.atleast_1d(picture.subplots(len(tasks), 1)), tasks, strict=True):
        pairs = [(c, one) for c, one in zip(report.configurations, look, strict=True) if c.task == task]
        for place, (c, (colour, dash)) in reversed(list(enumerate(pairs))):
            front = colour != OTHERS
            line = {"color": colour, "linestyle": "--" if dash == "dash" else "-", "linewidth": 1.6 if front else 0.7}
            name = _literal(c.label) if front and place < LEGEND else None
            axes.plot(c.curve.env_steps, c.curve.iqm, label=name, zorder=3 if front else 2, **line)
            if front:
                axes.fill_between(c.curve.env_steps, c.curve.low, c.curve.high, color=colour, alpha=0.16, linewidth=0)
        axes.set_xlabel("env steps")
        axes.set_ylabel("return (IQM, 95% interval)")
        axes.set_title(_literal(task))
        _legend(axes)
    return picture


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 2 if max(map(len, labels)) < 36 else 1
        legend = axes.legend(handles[::-1], labels[::-1], fontsize=7, ncols=columns, loc="upper left")
        legend.set_bbox_to_anchor((0.0, -0.2), axes.transAxes)


def _draw_returns(report: Report, make: type[Figure]) -> Figure:
    shown: list[tuple[Configuration, tuple[str, str]]] = list(
        zip(report.configurations, styles(len(report.configurations)), strict=True)
    )
    tasks = report.tasks
    rows = [sum(c.task == task for c, _ in shown) for task in tasks]
    height = sum(0.26 * n + 0.9 for n in rows)
    picture = make(figsize=(5.5, min(height, 60.0)), layout="constrained")
    grid = np.atleast_1d(picture.subplots(len(tasks), 1, height_ratios=rows))
    for axes, task in zip(grid, tasks, strict=True):
        group = [(c, one) for c, one in shown if c.task == task]
        for place, (c, (colour, _)) in enumerate(group):
            axes.scatter(c.scores, [place] * len(c.scores), s=10, color=[faint_rgb(colour)], zorder=2)
            if c.interval is not None:
                axes.plot(c.interval, [place, place], color=colour, linewidth=2, zorder=3)
            if c.iqm is not None:
                axes.scatter([c.iqm], [place], s=28, marker="D", color=colour, zorder=4)
        names = [
            _literal(c.label) + ("" if len(c.scores) == len(c.seeds) else f" ({len(c.scores)}/{len(c.seeds)})")
            for c, _ in group
        ]
        axes.set_yticks(range(len(group)), names)
        axes.set_ylim(len(group) - 0.5, -0.5)
        axes.set_xlabel("final return (IQM, 95% interval, seeds)")
        axes.set_title(_literal(task))
        axes.grid(visible=False, axis="y")
    return picture


def faint_rgb(colour: str) -> tuple[float, ...]:
    """A colour as the dots of seeds have it."""
    return (*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)), 0.4)


def _literal(text: str) -> str:
    """Text in which matplotlib finds no formulas."""
    return text.replace("$", r"\$")
