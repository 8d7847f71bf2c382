"""Figures as data: what is drawn, from which the page's plots, pictures for papers and CSV files are made.

Every configuration has one colour in all figures; colours of ink and paper are those of the page's theme.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

OTHERS = "#8b929c"
"""The colour of configurations beyond those that are highlighted."""
PALETTE = ("#0173b2", "#d55e00", "#029e73", "#cc78bc", "#56b4e9", "#de8f05")
"""Told apart by colour-blind people, too, on white and on black (seaborn's `colorblind`, in another order)."""
DASHES = ("solid", "dash")
PERCENT = (-0.02, 1.02)
"""The range of an axis of fractions."""
Values = Sequence[Any] | NDArray[Any]
Kind = Literal["line", "thin", "dots", "points", "crosses"]


@dataclass(frozen=True)
class Style:
    """The look of a configuration."""

    colour: str = OTHERS
    dash: str = "solid"

    @property
    def front(self) -> bool:
        """It stands out from a crowd."""
        return self.colour != OTHERS


PLAIN = Style()


def styles(number: int) -> list[Style]:
    """A style for each of `number` configurations, best first; of many only the best stand out."""
    pairs = [Style(colour, dash) for dash in DASHES for colour in PALETTE]
    shown = pairs if number <= len(pairs) else pairs[: len(PALETTE)]
    return [shown[i] if i < len(shown) else PLAIN for i in range(number)]


@dataclass(frozen=True)
class Series:
    """Points that are drawn alike, with a text for each if there are `notes`.

    `thin` lines, `crosses` and `dots` are details of other series. `ends` are the low and high ends of intervals around
    the points: a band of a line, else bars. `place` is that of its configuration in the report, -1 for what is of none.
    """

    name: str
    x: Values
    y: Values
    style: Style = PLAIN
    kind: Kind = "line"
    ends: tuple[Values, Values] | None = None
    notes: Sequence[Any] = ()
    place: int = -1


@dataclass(frozen=True)
class Axis:
    """An axis: `labels` are texts for numbers."""

    title: str
    kind: Literal["linear", "log", "category"] = "linear"
    labels: Mapping[Any, str] = field(default_factory=dict)
    percent: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure: `lying` where it has a row for each label of y, and intervals along x.

    `nothing` is said where it has no values.
    """

    series: Sequence[Series]
    x: Axis
    y: Axis
    height: int = 360
    lying: bool = False
    legend: bool = False
    nothing: str = "nothing to show yet"

    @property
    def is_empty(self) -> bool:
        """It has no values."""
        return all(value == "" for one in self.series for value in listed(one.y))


def written(value: float) -> str:
    """A return with as many decimals as tell: `12,345`, `500.0`, `61.25`, `0.0123`."""
    size = abs(value)
    spec = next((spec for least, spec in ((1000, ",.0f"), (100, ".1f"), (1, ".2f")) if size >= least), ".3g")
    return format(value, spec)


def said(text: object, longest: int = 60) -> str:
    """A text for plotly, which reads tags; of a long one the beginning and the end, where names differ."""
    shown = str(text)
    if len(shown) > longest:
        shown = f"{shown[: longest // 2]}…{shown[len(shown) + longest // 2 + 1 - longest :]}"
    return html.escape(shown, quote=False)


def rows(figure: Figure) -> Iterator[Sequence[Any]]:
    """The numbers of a figure as a CSV file has them."""
    yield "series", figure.x.title, figure.y.title, "low", "high", "note"
    for one in figure.series:
        empty = [""] * len(one.x)
        columns = (one.x, one.y, *(one.ends or (empty, empty)), one.notes or empty)
        for x, y, *rest in zip(*map(listed, columns), strict=True):
            yield one.name, figure.x.labels.get(x, x), figure.y.labels.get(y, y), *rest


def listed(values: Any) -> list[Any]:
    """Numbers as Python has them, empty for what is not there."""
    plain = values.tolist() if isinstance(values, np.ndarray) else values
    return ["" if isinstance(value, float) and math.isnan(value) else value for value in plain]
