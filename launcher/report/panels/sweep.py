"""How final returns depend on the settings that were swept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from launcher.report.data import Configuration, Report, axes
from launcher.report.figures import Axis, Figure, Series, Style
from launcher.report.parts import Panel, Part, Plot, Words, distinct, interval, short, slug
from launcher.watch.tables import count, cut

SETTINGS = 6
"""Figures at most."""


def panel(report: Report) -> Panel | None:
    """A figure for each setting."""
    parts: list[Part] = []
    for task in report.tasks:
        group, suffix, name = report.of_task(task), report.suffix(task), task if len(report.tasks) > 1 else ""
        none = sum(c.iqm is None for c in group)
        left = f" {count(none, 'configuration')} without a finished trial {'is' if none == 1 else 'are'} left out."
        known = interval(len(c.scores) for c in group)
        for key, found in by_setting(group).items():
            words = f"Diamonds: final IQM of each configuration. Line: their mean for each value. Bars: {known}"
            parts.append(Words("heading", f"Final return by {leaf(key)}{suffix}"))
            parts.append(Plot(slug("by", leaf(key), name), found, words + (left if none else "")))
    return Panel("sweep", "Sweep", parts) if parts else None


def swept(group: Sequence[Configuration]) -> dict[str, list[Any]]:
    """Settings that differ in `group`, those with the most values first; of settings that go together, the first."""
    found: dict[str, list[Any]] = {}
    seen: set[tuple[int, ...]] = set()
    for key, values in axes(group).items():
        order = list(dict.fromkeys(map(str, values)))
        pattern = tuple(order.index(str(value)) for value in values)
        if pattern not in seen and key != "env.id":
            seen.add(pattern)
            found[key] = values
    return dict(sorted(found.items(), key=lambda item: -len(set(map(str, item[1])))))


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def steps(values: Sequence[Any]) -> list[Any]:
    """The different values of a setting, ascending if they are numbers."""
    if _is_numeric(values):
        return sorted(set(values))
    return list({str(value): value for value in values}.values())


def leaf(key: str) -> str:
    """`agent.learning_rate` → `learning rate`."""
    return key.rpartition(".")[2].replace("_", " ")


def by_setting(group: Sequence[Configuration]) -> dict[str, Figure]:
    """Final IQM against each swept setting on its own."""
    scored = [c for c in group if c.iqm is not None]
    return {key: _by(key, values, scored) for key, values in list(swept(scored).items())[:SETTINGS]}


def _by(key: str, values: Sequence[Any], scored: Sequence[Configuration]) -> Figure:
    known = steps(values)
    numeric = _is_numeric(known)
    places = known if numeric else distinct(cut(short(value), 24) for value in known)
    x_of = {str(value): place for value, place in zip(known, places, strict=True)}
    xs = list(values) if numeric else [x_of[str(value)] for value in values]
    means = [np.mean([c.iqm for c, x in zip(scored, xs, strict=True) if x == place]) for place in places]
    series = [Series("mean", places, means, Style(), "line")]
    for x, c in zip(xs, scored, strict=True):
        ends = ([c.interval[0]], [c.interval[1]]) if c.interval else (None, None)
        series.append(Series(c.label, [x], [c.iqm], c.style, "points", *ends))
    wide = numeric and known[0] > 0 and known[-1] >= 20 * known[0]
    labels = {x: short(x) for x in places} if numeric and len(places) <= 8 else {}
    axis = Axis(leaf(key), "log" if wide else "linear" if numeric else "category", labels)
    return Figure(series[::-1], axis, Axis("final return (IQM)"))
