"""Which configuration is better, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from launcher import stats
from launcher.report.data import Configuration, Report
from launcher.report.figures import Axis, Figure, Series
from launcher.report.parts import FEW, Panel, Part, Plot, Words, interval, slug, span

CROWD = 24
"""Configurations beyond which rows are lower."""


def panel(report: Report) -> Panel | None:
    """Final returns and performance profiles of each task."""
    if len(report.configurations) < 2:
        return None
    parts: list[Part] = []
    for task in report.tasks:
        group, suffix, name = report.of_task(task), report.suffix(task), task if len(report.tasks) > 1 else ""
        known = interval(len(c.scores) for c in group)
        caption = (
            f"Diamonds: IQM of the final returns (mean of the last 100 episodes); bars: {known} Dots: "
            "seeds. Best first. Trials that did not finish are left out and counted."
        )
        parts += [
            Words("heading", f"Final returns{suffix}"),
            Plot(slug("final_returns", name), returns(group), caption),
        ]
        if (profile := profiles(group)) is not None:
            shown = sum(c.style.front for c in group)
            top = f" The best {shown} of {len(group)} configurations are shown." if shown < len(group) else ""
            bands = f"Bands: 95% bootstrap interval; {FEW}."
            words = f"Fraction of finished runs whose final return is higher than τ.{top} {bands}"
            parts += [Words("heading", f"Performance profile{suffix}"), Plot(slug("profile", name), profile, words)]
    return Panel("comparison", "Comparison", parts)


def returns(group: Sequence[Configuration]) -> Figure:
    """A row for each configuration: every seed, IQM and interval."""
    series = []
    for row, c in enumerate(group):
        if c.iqm is not None:
            low, high = ([c.interval[0]], [c.interval[1]]) if c.interval else (None, None)
            known = span(c.interval, len(c.scores)).text
            words = f"95% interval {known}" if c.interval else "fewer than 3 seeds: no interval"
            series.append(Series(c.label, [c.iqm], [row], c.style, "points", low, high, [words]))
        seeds = [seed for seed in c.seeds if seed.counts]
        notes = [f"seed {seed.row.trial.seed}" for seed in seeds]
        series.append(Series(c.label, c.scores, [row] * len(seeds), c.style, "dots", notes=notes))
    labels = {row: _label(row, c) for row, c in enumerate(group)}
    tall = 44 if len(group) <= CROWD else 32
    return Figure(series, Axis("final return"), Axis("configuration", labels=labels), 90 + tall * len(group), True)


def _label(row: int, c: Configuration) -> str:
    counted = f" ({len(c.scores)} of {len(c.seeds)})" if len(c.scores) < len(c.seeds) else ""
    return f"{row + 1}. {c.label}{counted}" + ("" if c.iqm is not None else ": no final return")


def profiles(group: Sequence[Configuration]) -> Figure | None:
    """Fraction of runs that score higher than each threshold, of the configurations that stand out."""
    shown = [c for c in group if len(c.scores) and c.style.front]
    if not shown:
        return None
    series = above([(c, c.scores) for c in shown])
    return Figure(series, Axis("final return τ"), Axis("runs above τ", percent=True, limits=(-0.02, 1.02)))


def above(groups: Sequence[tuple[Configuration, np.ndarray]], bands: bool = True) -> list[Series]:
    """For each configuration the fraction of its scores above each threshold."""
    if not groups:
        return []
    everything = np.concatenate([scores for _, scores in groups])
    room = 0.03 * float(np.ptp(everything)) or 1.0
    thresholds = np.linspace(everything.min() - room, everything.max() + room, 121)
    series = []
    for c, scores in groups:
        band = stats.profile_band(scores, thresholds, np.random.default_rng(0)) if bands else None
        fractions = stats.performance_profile(scores, thresholds)
        series.append(Series(c.label, thresholds, fractions, c.style, "line", *(band or (None, None))))
    return series
