"""Final returns beside each other: which configuration is better, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.report.data import Configuration, Report
from launcher.report.figures import Axis, Figure, Series
from launcher.report.parts import Panel, Plot, interval, slug, span

CROWD = 24
"""Configurations beyond which rows are lower."""


def panel(report: Report) -> Panel | None:
    """Final returns of each task."""
    if len(report.configurations) < 2:
        return None
    parts = []
    for _, group, suffix, name in report.by_task():
        known = interval(len(c.scores) for c in group)
        caption = (
            f"Diamonds: IQM of the final returns (mean of the last 100 episodes); bars: {known} Dots: "
            "seeds. Best first. Trials that did not finish are left out and counted."
        )
        parts.append(Plot(slug("final_returns", name), f"Final returns{suffix}", returns(group), caption))
    return Panel("comparison", "Comparison", parts)


def returns(group: Sequence[Configuration]) -> Figure:
    """A row for each configuration: every seed, IQM and interval."""
    series = []
    for row, c in enumerate(group):
        if c.iqm is not None:
            words = f"95% interval {span(c.interval, 0).text}" if c.interval else "fewer than 3 seeds: no interval"
            series.append(Series(c.label, [c.iqm], [row], c.style, "points", bar(c), [words]))
        seeds = [seed for seed in c.seeds if seed.counts]
        notes = [f"seed {seed.trial.seed}" for seed in seeds]
        series.append(Series(c.label, c.scores, [row] * len(seeds), c.style, "dots", notes=notes))
    labels = {row: _label(row, c) for row, c in enumerate(group)}
    tall = 44 if len(group) <= CROWD else 32
    return Figure(series, Axis("final return"), Axis("configuration", labels=labels), 90 + tall * len(group), True)


def bar(c: Configuration) -> tuple[list[float], list[float]] | None:
    """The ends of a configuration's interval."""
    return ([c.interval[0]], [c.interval[1]]) if c.interval else None


def _label(row: int, c: Configuration) -> str:
    counted = f" ({len(c.scores)} of {len(c.seeds)})" if len(c.scores) < len(c.seeds) else ""
    return f"{row + 1}. {c.label}{counted}" + ("" if c.iqm is not None else ": no final return")
