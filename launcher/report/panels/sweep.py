"""Final returns by the settings that were swept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from launcher.plan.sweep import endings
from launcher.report.data import Configuration, Report, axes
from launcher.report.figures import Axis, Figure, Series
from launcher.report.panels.comparison import bar
from launcher.report.parts import Panel, Plot, distinct, interval, short, slug
from launcher.watch.tables import count, cut

SETTINGS = 6
"""Figures at most."""
LONGEST = 24
"""Characters of a value, at most."""


def panel(report: Report) -> Panel | None:
    """A figure for each setting."""
    parts: list[Plot] = []
    for _, group, suffix, name in report.by_task():
        none = sum(c.iqm is None for c in group)
        left = f" {count(none, 'configuration')} without a finished trial {'is' if none == 1 else 'are'} left out."
        known = interval(len(c.scores) for c in group)
        words = f"Diamonds: final IQM of each configuration. Line: their mean for each value. Bars: {known}"
        found = by_setting(group).values()
        names = distinct((slug("by", figure.x.title, name) for figure in found), "{}_{}")
        for file, figure in zip(names, found, strict=True):
            title = f"Final return by {figure.x.title}{suffix}"
            parts.append(Plot(file, title, figure, words + (left if none else "")))
    return Panel("sweep", "Sweep", parts) if parts else None


def swept(group: Sequence[Configuration]) -> dict[str, list[Any]]:
    """Settings that differ in `group`, those with the most values first; of settings that go together, the first."""
    found: dict[tuple[int, ...], tuple[str, list[Any]]] = {}
    for key, values in axes(group).items():
        order = list(dict.fromkeys(map(str, values)))
        if key != "env.id":
            found.setdefault(tuple(order.index(str(value)) for value in values), (key, values))
    return dict(sorted(found.values(), key=lambda item: -len(set(map(str, item[1])))))


def by_setting(group: Sequence[Configuration]) -> dict[str, Figure]:
    """Final IQM against each swept setting on its own."""
    scored = [c for c in group if c.iqm is not None]
    titles = endings(tuple(key.split(".")) for key in axes(scored))
    found = list(swept(scored).items())[:SETTINGS]
    return {key: _by(titles[tuple(key.split("."))].replace("_", " "), values, scored) for key, values in found}


def apart(texts: Sequence[str]) -> list[str]:
    """Texts that are all different and short: of long ones what is before the difference is left out, then the end."""
    start = 0
    if max(map(len, texts)) > LONGEST:
        columns = enumerate(zip(*texts, strict=False))
        shared = next((place for place, letters in columns if len(set(letters)) > 1), min(map(len, texts)))
        start = texts[0].rfind(", ", 0, shared) + 2 if ", " in texts[0][:shared] else 0
        start = start if shared - start < LONGEST // 2 else shared
    return distinct(cut(f"…{text[start:]}" if start else text, LONGEST) for text in texts)


def _by(title: str, values: Sequence[Any], scored: Sequence[Configuration]) -> Figure:
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    known = sorted(set(values)) if numeric else list({str(value): value for value in values}.values())
    places = known if numeric else apart([short(value) for value in known])
    place_of = dict(zip(map(str, known), places, strict=True))
    xs = values if numeric else [place_of[str(value)] for value in values]
    means = [np.mean([c.iqm for c, x in zip(scored, xs, strict=True) if x == place]) for place in places]
    points = [Series(c.label, [x], [c.iqm], c.style, "points", bar(c)) for x, c in zip(xs, scored, strict=True)]
    wide = numeric and known[0] > 0 and known[-1] >= 20 * known[0]
    labels = {x: short(x) for x in places} if numeric and len(places) <= 8 else {}
    axis = Axis(title, "log" if wide else "linear" if numeric else "category", labels)
    return Figure([*points[::-1], Series("mean", places, means)], axis, Axis("final return (IQM)"))
