"""Learning curves: any metric against env steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from launcher import stats
from launcher.ledger.rows import LOST_STATES
from launcher.report.data import Configuration, Report
from launcher.report.figures import Axis, Figure, Series, written
from launcher.report.parts import Panel, Plot, Words, distinct, interval, slug
from launcher.watch.tables import count
from runner.training.tracking import SCORE


def panel(report: Report) -> Panel | None:
    """All metrics of all tasks; the reader chooses one."""
    if not report.tags:
        return None
    pairs = [(task, name, tag) for task, _, _, name in report.by_task() for tag in report.tags]
    names = distinct((slug("learning_curves", name, "" if tag == SCORE else tag) for _, name, tag in pairs), "{}_{}")
    plots = [
        Plot(name, "", figure(report, task, tag), main=tag == SCORE)
        for name, (task, _, tag) in zip(names, pairs, strict=True)
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
    places = [(place, c) for place, c in enumerate(report.configurations) if c.task == task]
    series = [one for place, c in places for one in _series(c, place, tag)]
    if tag == SCORE:
        nothing = "no episode has ended yet"
        return Figure(series, Axis("env steps"), Axis("return (mean of the last 100 episodes)"), 480, nothing=nothing)
    return Figure(series, Axis("env steps"), Axis(tag), 480, nothing="no trial of this task has reported this metric")


def _series(c: Configuration, place: int, tag: str) -> Iterator[Series]:
    grid, seeds = (c.curve.env_steps if tag == SCORE else c.thin), [seed for seed in c.seeds if tag in seed.curves]
    if tag == SCORE:
        curve = c.curve
        known = zip(curve.seeds, curve.low, curve.high, strict=True)
        notes = [
            f"{n} of {len(c.seeds)} seeds"
            + ("" if np.isnan(low) else f", 95% interval {written(low)} to {written(high)}")
            for n, low, high in known
        ]
        yield Series(c.label, grid, curve.iqm, c.style, "line", (curve.low, curve.high), notes, place)
        ends = [seed for seed in seeds if seed.trial.state in LOST_STATES and not np.isnan(seed.curves[tag]).all()]
        if last := [int(np.flatnonzero(~np.isnan(seed.curves[tag]))[-1]) for seed in ends]:
            y = [seed.curves[tag][at] for seed, at in zip(ends, last, strict=True)]
            notes = [f"seed {seed.trial.seed} {seed.trial.state}" for seed in ends]
            yield Series(c.label, grid[last], y, c.style, "crosses", notes=notes, place=place)
    elif seeds:
        yield Series(c.label, grid, stats.middle([seed.curves[tag] for seed in seeds]), c.style, place=place)
    for seed in seeds:
        state = "" if seed.trial.state == "finished" else f" ({seed.trial.state})"
        yield Series(f"{c.label}, seed {seed.trial.seed}{state}", grid, seed.curves[tag], c.style, "thin", place=place)
