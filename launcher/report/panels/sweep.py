"""Final returns by the settings that were swept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from launcher.report.data import Configuration, Report, axes
from launcher.report.figures import Axis, Figure, Series
from launcher.report.panels.comparison import bar
from launcher.report.parts import Panel, Plot, distinct, interval, short, slug
from launcher.watch.tables import count, cut

SETTINGS = 6
"""Figures at most."""


def panel(report: Report) -> Panel | None:
    """A figure for each setting."""
    parts = []
    for _, group, suffix, name in report.by_task():
        none = sum(c.iqm is None for c in group)
        left = f" {count(none, 'configuration')} without a finished trial {'is' if none == 1 else 'are'} left out."
        known = interval(len(c.scores) for c in group)
        words = f"Diamonds: final IQM of each configuration. Line: their mean for each value. Bars: {known}"
        for key, found in by_setting(group).items():
            setting = leaf(key)
            title = f"Final return by {setting}{suffix}"
            parts.append(Plot(slug("by", setting, name), title, found, words + (left if none else "")))
    return Panel("sweep", "Sweep", parts) if parts else None


def swept(group: Sequence[Configuration]) -> dict[str, list[Any]]:
    """Settings that differ in `group`, those with the most values first; of settings that go together, the first."""
    found: dict[tuple[int, ...], tuple[str, list[Any]]] = {}
    for key, values in axes(group).items():
        order = list(dict.fromkeys(map(str, values)))
        if key != "env.id":
            found.setdefault(tuple(order.index(str(value)) for value in values), (key, values))
    return dict(sorted(found.values(), key=lambda item: -len(set(map(str, item[1])))))


def leaf(key: str) -> str:
    """`agent.learning_rate` → `learning rate`."""
    return key.rpartition(".")[2].replace("_", " ")


def by_setting(group: Sequence[Configuration]) -> dict[str, Figure]:
    """Final IQM against each swept setting on its own."""
    scored = [c for c in group if c.iqm is not None]
    return {key: _by(key, values, scored) for key, values in list(swept(scored).items())[:SETTINGS]}


def _by(key: str, values: Sequence[Any], scored: Sequence[Configuration]) -> Figure:
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    known = sorted(set(values)) if numeric else list({str(value): value for value in values}.values())
    places = known if numeric else distinct(cut(short(value), 24) for value in known)
    place_of = {str(value): place for value, place in zip(known, places, strict=True)}
    xs = [place_of[str(value)] for value in values]
    means = [np.mean([c.iqm for c, x in zip(scored, xs, strict=True) if x == place]) for place in places]
    points = [Series(c.label, [x], [c.iqm], c.style, "points", bar(c)) for x, c in zip(xs, scored, strict=True)]
    wide = numeric and known[0] > 0 and known[-1] >= 20 * known[0]
    labels = {x: short(x) for x in places} if numeric and len(places) <= 8 else {}
    axis = Axis(leaf(key), "log" if wide else "linear" if numeric else "category", labels)
    return Figure([*points[::-1], Series("mean", places, means)], axis, Axis("final return (IQM)"))
