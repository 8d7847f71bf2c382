"""Figures as pictures for papers: SVG and PNG, by matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher.report.figures import PERCENT, Figure, Series
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
    colour, front = one.style.colour, one.style.front
    ends = np.array(one.ends, dtype=float) if one.ends is not None else None
    if one.kind == "line":
        line: dict[str, Any] = {"color": colour, "linestyle": "--" if one.style.dash == "dash" else "-"}
        line |= {"linewidth": 1.6 if front else 0.7, "marker": "o" if len(one.x) == 1 else None}
        axes.plot(one.x, one.y, label=_literal(one.name) if front else None, zorder=3, **line)
        if ends is not None:
            axes.fill_between(one.x, *ends, color=colour, alpha=0.16, linewidth=0)
    elif one.kind == "points":
        if ends is not None:
            bars = np.abs(ends - np.asarray(one.x if figure.lying else one.y, dtype=float))
            along: dict[str, Any] = {"xerr" if figure.lying else "yerr": bars}
            axes.errorbar(one.x, one.y, fmt="none", ecolor=colour, elinewidth=2, zorder=3, **along)
        axes.scatter(one.x, one.y, s=28, marker="D", color=colour, zorder=4)
    elif one.kind != "thin":
        size, marker = (16, "x") if one.kind == "crosses" else (10, "o")
        axes.scatter(one.x, one.y, s=size, marker=marker, color=colour, alpha=0.6, zorder=2)


def _dress(axes: Axes, figure: Figure, inches: float) -> None:
    for axis, name in ((figure.x, "x"), (figure.y, "y")):
        wanted: dict[str, Any] = {f"{name}label": _literal(axis.title)}
        if axis.kind == "log":
            wanted[f"{name}scale"] = "log"
        axes.set(**wanted)
        if axis.labels:
            axes.set(
                **{f"{name}ticks": list(axis.labels), f"{name}ticklabels": list(map(_literal, axis.labels.values()))}
            )
        if axis.percent:
            axes.set(**{f"{name}lim": PERCENT})
            getattr(axes, f"{name}axis").set_major_formatter("{x:.0%}")
    if figure.lying:
        axes.set_ylim(len(figure.y.labels) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
    elif figure.is_empty:
        axes.text(0.5, 0.5, figure.nothing, transform=axes.transAxes, ha="center")
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        # Drawn last is the first: it comes first here, too.
        handles, labels = handles[::-1][:LEGEND], labels[::-1][:LEGEND]
        columns = 2 if max(map(len, labels)) < 36 else 1
        axes.legend(handles, labels, fontsize=7, ncols=columns, loc="upper left", bbox_to_anchor=(0.0, -0.45 / inches))


def _literal(text: object) -> str:
    """Text in which matplotlib finds no formulas."""
    return str(text).replace("$", r"\$")
