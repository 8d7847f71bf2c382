"""Figures of the page as plain data for plotly.js: traces and layouts without colours of paper and ink.

The page adds those, for light, dark and print. Every configuration has one colour in all figures.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher import stats
from launcher.report_data import Configuration, Report

Figure = dict[str, Any]
Style = tuple[str, str]
"""Colour and dash."""

PALETTE = ("#0173b2", "#d55e00", "#029e73", "#cc78bc", "#56b4e9", "#de8f05")
"""Told apart by colour-blind people, too, on white and on black (seaborn's `colorblind`, in another order)."""
OTHERS = "#8b929c"
"""Of configurations beyond those that are highlighted."""
DASHES = ("solid", "dash")
CROWD = 24
"""Configurations beyond which rows are lower."""
MATRIX = 16
"""Configurations of the matrix of probabilities at most."""
LONGEST_NAME = 24
"""Letters of a name beside the matrix; longer ones leave it to their places."""
DIVERGING = [[0, "#b04a00"], [0.25, "#e8a36b"], [0.5, "#eceef0"], [0.75, "#7db4d8"], [1, "#01588a"]]


def styles(number: int) -> list[Style]:
    """Colour and dash of each of `number` configurations, best first; of many only the best stand out."""
    pairs = [(colour, dash) for dash in DASHES for colour in PALETTE]
    shown = pairs if number <= len(pairs) else pairs[: len(PALETTE)]
    return [shown[i] if i < len(shown) else (OTHERS, "solid") for i in range(number)]


def packed(values: Iterable[float] | NDArray[np.float64], kind: str = "<f4") -> str:
    """Numbers as base64 of little-endian floats: half of their text, and read at once."""
    return base64.b64encode(np.asarray(values, dtype=kind).tobytes()).decode()


def number(value: float | None) -> float | None:
    """Five digits; None for what is not finite, which JSON has no word for."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def numbers(values: Iterable[float]) -> list[float | None]:
    """As `number`."""
    return [number(float(value)) for value in values]


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


def curves(report: Report) -> dict[str, Any]:
    """What the page draws learning curves from, by metric and task, as the reader asks."""
    shown = []
    for c, (colour, dash) in zip(report.configurations, styles(len(report.configurations)), strict=True):
        one = {
            "label": c.label,
            "name": c.name,
            "task": c.task,
            "colour": colour,
            "dash": dash,
            "front": colour != OTHERS,
            "x": packed(c.curve.env_steps, "<f8"),
            "thin": packed(c.thin, "<f8"),
            "seeds": packed(c.curve.seeds),
            "iqm": packed(c.curve.iqm),
            "low": packed(c.curve.low),
            "high": packed(c.curve.high),
            "others": {report.tags.index(tag): packed(values) for tag, values in c.others.items()},
            "trials": [
                {
                    "seed": seed.row.trial.seed,
                    "state": seed.row.trial.state,
                    "y": {report.tags.index(tag): packed(values) for tag, values in seed.curves.items()},
                }
                for seed in c.seeds
            ],
        }
        shown.append(one)
    return {"tags": list(report.tags), "tasks": report.tasks, "configurations": shown}


def final_returns(group: Sequence[Configuration], look: Sequence[Style]) -> Figure:
    """A row for each configuration: every seed, IQM and interval."""
    data = []
    for place, (c, (colour, dash)) in enumerate(zip(group, look, strict=True)):
        scores = [seed for seed in c.seeds if seed.counts]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [number(seed.score) for seed in scores],
                "y": [place] * len(scores),
                "text": [f"seed {seed.row.trial.seed}" for seed in scores],
                "marker": {"color": colour, "size": 7, "opacity": 0.45},
                "hovertemplate": f"<b>{said(c.label)}</b><br>%{{text}}: %{{x:,.5~g}}<extra></extra>",
            }
        )
        if c.iqm is None:
            continue
        low, high = c.interval or (c.iqm, c.iqm)
        interval = f"95% interval {low:,.5g} to {high:,.5g}" if c.interval else "fewer than 3 seeds: no interval"
        ends: Figure = {
            "type": "data",
            "array": [number(high - c.iqm)],
            "arrayminus": [number(c.iqm - low)],
            "symmetric": False,
            "color": colour,
            "thickness": 2.5,
            "width": 6,
        }
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [number(c.iqm)],
                "y": [place],
                "marker": {"color": colour, "size": 12, "symbol": "diamond" if dash == "solid" else "diamond-open"},
                "error_x": ends if c.interval else {"visible": False},
                "hovertemplate": f"<b>{said(c.label)}</b><br>IQM %{{x:,.5~g}}<br>{interval}<extra></extra>",
            }
        )
    tall = 44 if len(group) <= CROWD else 32
    labels = [
        {
            "x": 0,
            "xref": "paper",
            "y": place,
            "yshift": 0.3 * tall,
            "xanchor": "left",
            "yanchor": "middle",
            "showarrow": False,
        }
        | {"text": _row_label(place, c), "font": {"size": 12}}
        for place, c in enumerate(group)
    ]
    return {
        "data": data,
        "layout": {
            "height": 90 + tall * len(group),
            "margin": {"l": 12, "r": 16, "t": 16, "b": 52},
            "showlegend": False,
            "annotations": labels,
            "xaxis": {"title": {"text": "final return"}, "zeroline": False},
            "yaxis": {"visible": False, "range": [len(group) - 0.5, -0.75], "fixedrange": True},
        },
    }


def _row_label(place: int, c: Configuration) -> str:
    left = len(c.seeds) - len(c.scores)
    note = f" ({len(c.scores)} of {len(c.seeds)})" if left else ""
    return f"{place + 1}. {said(c.label, 44)}{note}" + ("" if c.iqm is not None else ": no final return")


def improvement(group: Sequence[Configuration]) -> Figure | None:
    """Probability that a run of the row scores higher than one of the column; None for fewer than two."""
    scored = [c for c in group if len(c.scores)][:MATRIX]
    if len(scored) < 2:
        return None
    rng = np.random.default_rng(0)
    cells: list[list[float | None]] = []
    hover: list[list[str]] = []
    for i, row in enumerate(scored):
        cells.append([])
        hover.append([])
        for j, column in enumerate(scored):
            if i == j:
                cells[-1].append(None)
                hover[-1].append("")
                continue
            probability = stats.probability_of_improvement(row.scores, column.scores)
            ends = stats.improvement_interval(row.scores, column.scores, rng)
            spread = f"95% interval {ends[0]:.2f} to {ends[1]:.2f}" if ends else "fewer than 3 seeds: no interval"
            cells[-1].append(number(probability))
            hover[-1].append(f"P({said(row.label)} > {said(column.label)}) = {probability:.2f}<br>{spread}")
    names = [f"{i + 1}. {said(c.label)}" for i, c in enumerate(scored)]
    if max(map(len, names)) > LONGEST_NAME:
        names = [f"{i + 1}" for i in range(len(scored))]
    trace = {
        "type": "heatmap",
        "z": cells,
        "x": [f"{i + 1}" for i in range(len(scored))],
        "y": names,
        "text": [["" if cell is None else f"{cell:.2f}" for cell in row] for row in cells],
        "texttemplate": "%{text}",
        "textfont": {"size": 12 if len(scored) < 9 else 10},
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "zmin": 0,
        "zmax": 1,
        "colorscale": DIVERGING,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
    }
    layout = {
        "height": 90 + 30 * len(scored),
        "margin": {"l": 12, "r": 12, "t": 12, "b": 48},
        "xaxis": {"title": {"text": "than a run of"}, "type": "category", "showgrid": False, "fixedrange": True},
        "yaxis": {
            "title": {"text": "a run of"},
            "type": "category",
            "autorange": "reversed",
            "automargin": True,
            "showgrid": False,
            "fixedrange": True,
            "ticks": "",
        },
    }
    return {"data": [trace], "layout": layout, "width": 60 + 7 * max(map(len, names)) + 30 * len(scored)}


def profiles(group: Sequence[Configuration], look: Sequence[Style]) -> Figure | None:
    """Fraction of runs that score higher than each threshold, of the configurations that stand out."""
    pairs = [(c, one) for c, one in zip(group, look, strict=True) if len(c.scores) and one[0] != OTHERS]
    if not pairs:
        return None
    everything = np.concatenate([c.scores for c, _ in pairs])
    room = 0.03 * float(np.ptp(everything)) or 1.0
    thresholds = np.linspace(everything.min() - room, everything.max() + room, 121)
    data: list[Figure] = []
    for c, (colour, dash) in pairs:
        band = stats.profile_band(c.scores, thresholds, np.random.default_rng(0))
        if band is not None:
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": numbers([*thresholds, *thresholds[::-1]]),
                    "y": numbers([*band[0], *band[1][::-1]]),
                    "fill": "toself",
                    "fillcolor": faint(colour),
                    "line": {"width": 0},
                    "hoverinfo": "skip",
                }
            )
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": numbers(thresholds),
                "y": numbers(stats.performance_profile(c.scores, thresholds)),
                "line": {"color": colour, "width": 2, "dash": dash, "shape": "hv"},
                "hovertemplate": f"<b>{said(c.label)}</b><br>%{{y:.0%}} of runs above %{{x:,.5~g}}<extra></extra>",
            }
        )
    layout = {
        "height": 360,
        "margin": {"l": 56, "r": 16, "t": 12, "b": 52},
        "showlegend": False,
        "xaxis": {"title": {"text": "final return τ"}, "zeroline": False},
        "yaxis": {"title": {"text": "runs above τ"}, "tickformat": ".0%", "range": [-0.02, 1.02], "zeroline": False},
    }
    return {"data": data, "layout": layout}


def faint(colour: str, alpha: float = 0.18) -> str:
    """A colour as a band has it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def histograms(values: Sequence[tuple[str, NDArray[np.float64], str]]) -> Figure:
    """Shares of episodes by return, a row for each (label, returns, colour), all of one scale."""
    everything = np.concatenate([returns for _, returns, _ in values])
    ends = np.histogram_bin_edges(everything[np.isfinite(everything)], bins=40)
    rows = len(values)
    data = []
    layout: Figure = {
        "height": 70 + 78 * rows,
        "bargap": 0,
        "margin": {"l": 12, "r": 16, "t": 12, "b": 52},
        "showlegend": False,
        "annotations": [],
        "xaxis": {
            "title": {"text": "return of an episode"},
            "zeroline": False,
            "anchor": f"y{rows if rows > 1 else ''}",
        },
    }
    shares = [np.histogram(returns, ends)[0] / max(len(returns), 1) for _, returns, _ in values]
    tallest = max(float(share.max()) for share in shares)
    for row, ((label, returns, colour), share) in enumerate(zip(values, shares, strict=True), 1):
        axis = f"y{row if row > 1 else ''}"
        top, bottom = 1 - (row - 1) / rows, 1 - row / rows
        layout[f"yaxis{row if row > 1 else ''}"] = {
            "domain": [bottom + 0.02 / rows, top],
            "range": [0, 1.45 * tallest],
            "visible": False,
            "fixedrange": True,
        }
        note = {"x": 0, "xref": "paper", "y": top, "yref": "paper", "yanchor": "top", "xanchor": "left"}
        text = f"{said(label, 44)} (mean {written(float(np.mean(returns)))})"
        layout["annotations"].append(note | {"text": text, "showarrow": False, "font": {"size": 11}})
        data.append(
            {
                "type": "bar",
                "x": numbers((ends[1:] + ends[:-1]) / 2),
                "y": numbers(share),
                "yaxis": axis,
                "marker": {"color": faint(colour, 0.7), "line": {"width": 0}},
                "hovertemplate": f"<b>{said(label)}</b><br>return about %{{x:,.4~g}}: %{{y:.1%}}<extra></extra>",
            }
        )
    return {"data": data, "layout": layout}
