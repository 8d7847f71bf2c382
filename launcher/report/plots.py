"""Figures as plotly.js draws them on the page: traces and layouts."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.report.figures import PERCENT, Axis, Figure, Kind, Series, Values, said

Trace = dict[str, Any]
_WIDTHS: dict[Kind, float] = {"line": 2.4, "thin": 1.0}
_MARKERS: dict[Kind, Trace] = {
    "dots": {"size": 7, "opacity": 0.45},
    "points": {"size": 11, "symbol": "diamond"},
    "crosses": {"size": 9, "symbol": "x"},
}


class Arrays:
    """Numbers of all figures, each array once; traces have the place of theirs."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def __call__(self, values: Values, kind: str = "f4") -> Any:
        """The place of an array; texts stay as they are."""
        if not isinstance(values, np.ndarray) and any(isinstance(value, str) for value in values):
            return list(values)
        data = base64.b64encode(np.asarray(values, dtype=f"<{kind}").tobytes()).decode()
        return self._places.setdefault(f"{kind}:{data}", len(self._places))

    def all(self) -> list[dict[str, str]]:
        """All of them as plotly.js reads them, by place."""
        return [{"dtype": kind, "bdata": data} for kind, _, data in (key.partition(":") for key in self._places)]


def plot(figure: Figure, arrays: Arrays) -> dict[str, Any]:
    """Traces and layout of a figure."""
    # Later traces lie on top: the best configuration, which is the first, is drawn last.
    traces = [trace for one in reversed(figure.series) for trace in _traces(figure, one, arrays)]
    layout = {"height": figure.height, "showlegend": False, "xaxis": _axis(figure.x), "yaxis": _axis(figure.y)}
    beside: Trace = {"xref": "paper", "showarrow": False}
    if figure.lying:
        layout["yaxis"] = {"visible": False, "range": [len(figure.y.labels) - 0.5, -0.75], "fixedrange": True}
        layout["margin"] = {"l": 12}
        # Beside the rows there is no room for names on a phone, so each stands above its own.
        above = beside | {"x": 0, "xanchor": "left", "yshift": 14, "font": {"size": 12}}
        layout["annotations"] = [above | {"y": y, "text": said(text, 50)} for y, text in figure.y.labels.items()]
    elif figure.is_empty:
        layout["annotations"] = [beside | {"x": 0.5, "y": 0.5, "yref": "paper", "text": said(figure.nothing)}]
    return {"data": traces, "layout": layout}


def _axis(axis: Axis) -> Trace:
    found: Trace = {"title": {"text": said(axis.title)}, "type": axis.kind}
    if axis.percent:
        found |= {"tickformat": ".0%", "range": PERCENT}
    if axis.labels:
        found |= {"tickvals": list(axis.labels), "ticktext": [said(text) for text in axis.labels.values()]}
    if axis.kind == "category":
        found |= {"automargin": True, "showgrid": False}
    return found


def _traces(figure: Figure, one: Series, arrays: Arrays) -> Iterator[Trace]:
    colour, front = one.style.colour, one.style.front
    common: Trace = {"type": "scatter", "meta": one.place}
    trace = common | {"name": said(one.name), "x": arrays(one.x, "f8"), "y": arrays(one.y)}
    trace |= {"hovertemplate": _hover(figure, one), "zorder": (2 if front else 1) + (one.kind == "line")}
    if len(one.notes):
        trace["text"] = list(one.notes)
    if one.kind in _MARKERS:
        marker = {"color": colour, **_MARKERS[one.kind]}
        if one.kind == "points" and one.style.dash != "solid":
            marker["symbol"] = "diamond-open"
        bars = {"error_x" if figure.lying else "error_y": _bars(one, figure.lying)} if one.ends else {}
        yield trace | {"mode": "markers", "marker": marker} | bars
        return
    if one.ends is not None:
        x, y = _band(one.x, *one.ends)
        fill = {"fill": "toself", "fillcolor": faint(colour), "line": {"width": 0}, "hoverinfo": "skip"}
        yield common | {"mode": "lines", "x": arrays(x, "f8"), "y": arrays(y)} | fill
    width = _WIDTHS[one.kind] if front or one.kind == "thin" else 1.2
    line = {"color": colour, "width": width, "dash": one.style.dash}
    shown = {"mode": "lines" if len(one.x) > 1 else "markers", "line": line}
    yield trace | shown | ({"opacity": 0.55, "thin": True} if one.kind == "thin" else {})


def _hover(figure: Figure, one: Series) -> str:
    x, y = ("%" if axis.percent else ",.5~g" for axis in (figure.x, figure.y))
    value = f"{said(figure.x.title)} %{{x:{x}}}"
    if not figure.lying:
        value += f"<br>{said(figure.y.title)} %{{y:{y}}}"
    return f"<b>{said(one.name)}</b><br>{value}{'<br>%{text}' if len(one.notes) else ''}<extra></extra>"


def _bars(one: Series, lying: bool) -> Trace:
    """Intervals around points."""
    middle, low, high = np.array([one.x if lying else one.y, *(one.ends or ())], dtype=float)
    ends = {"array": (high - middle).tolist(), "arrayminus": (middle - low).tolist()}
    return {"type": "data", "symmetric": False, "color": one.style.colour, "thickness": 2.5, "width": 6, **ends}


def _band(*columns: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A closed line around each stretch of points, x, low and high, that have an interval."""
    x, low, high = np.array(columns, dtype=float)
    (known,) = np.nonzero(~np.isnan(low))
    xs: list[NDArray[np.float64]] = []
    ys: list[NDArray[np.float64]] = []
    for stretch in np.split(known, np.nonzero(np.diff(known) > 1)[0] + 1):
        xs += [x[stretch], x[stretch][::-1], np.array([np.nan])]
        ys += [low[stretch], high[stretch][::-1], np.array([np.nan])]
    return np.concatenate(xs), np.concatenate(ys)


def faint(colour: str) -> str:
    """A colour as a band has it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
