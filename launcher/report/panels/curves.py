"""Learning curves: any metric against env steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from launcher.report.data import Configuration, Report
from launcher.report.figures import Axis, Figure, Series, written
from launcher.report.parts import Panel, Plot, Words, distinct, interval, slug
from launcher.watch.layout import LOST_STATES
from launcher.watch.tables import count
from runner.training.tracking import SCORE


def panel(report: Report) -> Panel | None:
    """All metrics of all tasks; the reader chooses one."""
    if not report.tags:
        return None
    pairs = [(task, tag) for task in report.tasks for tag in report.tags]
    several = len(report.tasks) > 1
    names = distinct(
        (slug("learning_curves", task if several else "", "" if tag == SCORE else tag) for task, tag in pairs), "{}_{}"
    )
    plots = [
        Plot(name, figure(report, task, tag), main=tag == SCORE) for name, (task, tag) in zip(names, pairs, strict=True)
    ]
    told = {
        "tasks": report.tasks,
        "tags": ["Return (last 100 episodes)" if tag == SCORE else tag for tag in report.tags],
        "names": names,
        "configurations": report.configurations,
        "caption": _caption(report),
    }
    return Panel("curves", "Learning curves", [Words("curves", told), *plots])


def _caption(report: Report) -> str:
    numbers = sorted({len(c.seeds) for c in report.configurations})
    seeds = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    standing = {int(number) for c in report.configurations for number in c.curve.seeds}
    lost = sum(c.lost for c in report.configurations)
    ends = f" \u00d7 marks where {count(lost, 'trial')} failed or diverged; points after it stand on the others."
    return (
        f"Thick lines: interquartile mean (IQM) over the seeds of a configuration ({seeds} each). Bands, of the return "
        f"only and at each point on its own: {interval(standing)} Thin lines: seeds. All trials are shown as far as "
        f"they got, finished or not.{ends if lost else ''}"
    )


def figure(report: Report, task: str, tag: str) -> Figure:
    """One metric of the configurations of a task."""
    series: list[Series] = []
    places = [(place, c) for place, c in enumerate(report.configurations) if c.task == task]
    for place, c in places:
        series += _of(c, place, tag)
    title = "return (mean of the last 100 episodes)" if tag == SCORE else tag
    return Figure(series, Axis("env steps"), Axis(title), 480)


def _of(c: Configuration, place: int, tag: str) -> Iterator[Series]:
    grid, seeds = (c.curve.env_steps if tag == SCORE else c.thin), [seed for seed in c.seeds if tag in seed.curves]
    if tag == SCORE:
        curve = c.curve
        notes = [
            f"{n} of {len(c.seeds)} seeds"
            + ("" if np.isnan(low) else f", 95% interval {written(low)} to {written(high)}")
            for n, low, high in zip(curve.seeds, curve.low, curve.high, strict=True)
        ]
        yield Series(c.label, grid, curve.iqm, c.style, "line", curve.low, curve.high, notes, place=place)
        ends = [seed for seed in seeds if seed.row.trial.state in LOST_STATES and not np.isnan(seed.curves[tag]).all()]
        last = [int(np.flatnonzero(~np.isnan(seed.curves[tag]))[-1]) for seed in ends]
        if last:
            y = [seed.curves[tag][at] for seed, at in zip(ends, last, strict=True)]
            notes = [f"seed {seed.row.trial.seed} {seed.row.trial.state}" for seed in ends]
            yield Series(c.label, grid[last], y, c.style, "crosses", notes=notes, place=place)
    elif tag in c.others:
        yield Series(c.label, grid, c.others[tag], c.style, place=place)
    for seed in seeds:
        state = "" if seed.row.trial.state == "finished" else f" ({seed.row.trial.state})"
        name = f"{c.label}, seed {seed.row.trial.seed}{state}"
        yield Series(name, grid, seed.curves[tag], c.style, "thin", place=place)
