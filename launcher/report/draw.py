"""Figures as pictures for papers: SVG and PNG, by matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher.report.figures import Axis, Figure, Series
from runner.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
TALLEST = 60.0
"""Inches."""


def write(figure: Figure, path: Path) -> None:
    """Write `path` with the endings .svg and .png."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(5.5, min(0.9 + (figure.height - 90) / 130, TALLEST)))
        FigureCanvasAgg(picture)
        axes = picture.subplots()
        for one in reversed(figure.series):
            _draw(axes, figure, one)
        _dress(axes, figure, picture.get_size_inches()[1])
        for kind in ("svg", "png"):
            buffer = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else {}
            picture.savefig(buffer, format=kind, dpi=160, metadata=metadata, bbox_inches="tight")
            write_whole(path.with_name(f"{path.name}.{kind}"), buffer.getvalue())


def _draw(axes: Axes, figure: Figure, one: Series) -> None:
    colour = one.style.colour
    ends = None if one.low is None or one.high is None else np.array([one.low, one.high], dtype=float)
    if one.kind == "line":
        name = _literal(one.name) if one.style.front else None
        line: dict[str, Any] = {"color": colour, "linestyle": "--" if one.style.dash == "dash" else "-"}
        marker = "o" if len(one.x) == 1 else None
        width = 1.6 if one.style.front else 0.7
        axes.plot(one.x, one.y, label=name, linewidth=width, zorder=3, marker=marker, **line)
        if ends is not None:
            axes.fill_between(one.x, *ends, color=colour, alpha=0.16, linewidth=0)
    elif one.kind == "points":
        if ends is not None:
            middle = np.asarray(one.x if figure.lying else one.y, dtype=float)
            bars = {"xerr" if figure.lying else "yerr": np.abs(ends - middle)}
            axes.errorbar(one.x, one.y, fmt="none", ecolor=colour, elinewidth=2, zorder=3, **bars)
        axes.scatter(one.x, one.y, s=28, marker="D", color=colour, zorder=4)
    elif one.kind in ("dots", "crosses"):
        crosses = one.kind == "crosses"
        axes.scatter(
            one.x, one.y, s=16 if crosses else 10, marker="x" if crosses else "o", color=colour, alpha=0.6, zorder=2
        )


def _dress(axes: Axes, figure: Figure, inches: float) -> None:
    for axis, name in ((figure.x, "x"), (figure.y, "y")):
        _set_axis(axes, axis, name)
    if figure.lying:
        axes.set_ylim(len(figure.y.labels) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        # Drawn last is the first: it comes first here, too.
        handles, labels = handles[::-1][:LEGEND], labels[::-1][:LEGEND]
        columns = 2 if max(map(len, labels)) < 36 else 1
        axes.legend(handles, labels, fontsize=7, ncols=columns, loc="upper left", bbox_to_anchor=(0.0, -0.45 / inches))


def _set_axis(axes: Axes, axis: Axis, name: str) -> None:
    set_ = {key: getattr(axes, f"set_{name}{key}") for key in ("label", "scale", "lim", "ticks")}
    set_["label"](_literal(axis.title))
    if axis.kind == "log":
        set_["scale"]("log")
    if axis.labels:
        set_["ticks"](list(axis.labels), [_literal(text) for text in axis.labels.values()], minor=False)
    if axis.limits is not None:
        set_["lim"](*axis.limits)
    if axis.percent:
        getattr(axes, f"{name}axis").set_major_formatter("{x:.0%}")


def _literal(text: object) -> str:
    """Text in which matplotlib finds no formulas."""
    return str(text).replace("$", r"\$")
