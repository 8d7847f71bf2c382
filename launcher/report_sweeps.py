"""Figures of a sweep and of what the machine did, as plain data for plotly.js (see `report_figures`)."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from launcher.report_data import Configuration, Launch, Report, Seed, axes
from launcher.report_figures import OTHERS, PALETTE, Figure, Style, number, numbers, said, written

DIMENSIONS = 8
"""Axes of parallel coordinates at most."""
PAIRS = 3
"""Heat maps at most."""
BINS = 100
TIMELINE = 40
"""Attempts of the timeline at most."""
SCALE = "Cividis"
"""Even in lightness, and the same to colour-blind people."""
PARTS = {"start-up": "#de8f05", "training": "#0173b2", "closing": "#8b929c"}


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


def short(value: object) -> str:
    """A setting's value on an axis."""
    return f"{value:.4g}" if isinstance(value, float) else said(value, 24)


def distinct(texts: Iterable[str]) -> list[str]:
    """Names of rows, all different: plotly merges equal ones, such as names cut to the same, so these are numbered."""
    seen: Counter[str] = Counter()
    names = []
    for text in texts:
        seen[text] += 1
        names.append(text if seen[text] == 1 else f"{text} ({seen[text]})")
    return names


def leaf(key: str) -> str:
    """`agent.learning_rate` → `learning rate`."""
    return key.rpartition(".")[2].replace("_", " ")


def parallel(group: Sequence[Configuration], look: Sequence[Style]) -> Figure | None:
    """Parallel coordinates: a line for each configuration with a final return, which is the last axis.

    None where nothing is swept, or one number is, which `one_axis` shows.
    """
    pairs = [(c, one) for c, one in zip(group, look, strict=True) if c.iqm is not None]
    settings = list(swept([c for c, _ in pairs]).items())[:DIMENSIONS]
    if len(pairs) < 2 or not settings or (len(settings) == 1 and _is_numeric(settings[0][1])):
        return None
    returns = np.array([c.iqm for c, _ in pairs])
    low, size = float(returns.min()), float(np.ptp(returns)) or 1.0
    columns, notes = [], []
    for x, (key, values) in enumerate(settings):
        known = steps(values)
        place = {str(value): i / max(len(known) - 1, 1) for i, value in enumerate(known)}
        columns.append([place[str(value)] for value in values])
        notes += [_note(x, y, short(value)) for value, y in zip(known, place.values(), strict=True)]
        notes.append(_note(x, 1.16, f"<b>{leaf(key)}</b>", "center"))
    end = len(settings)
    columns.append(((returns - low) / size).tolist())
    notes += [_note(end, y, written(low + y * size), "left") for y in (0.0, 0.25, 0.5, 0.75, 1.0)]
    notes.append(_note(end, 1.16, "<b>final IQM</b>", "center"))
    data = []
    for (c, (colour, dash)), ys in zip(pairs, zip(*columns, strict=True), strict=True):
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(range(end + 1)),
                "y": numbers(ys),
                "line": {"color": colour, "dash": dash, "width": 1.2 if colour == OTHERS else 2.4},
                "marker": {"size": 6, "color": colour},
                "zorder": 1 if colour == OTHERS else 2,
                "hovertemplate": f"<b>{said(c.label)}</b><br>final IQM {c.iqm:,.5g}<extra></extra>",
            }
        )
    layout = {
        "height": 400,
        "margin": {"l": 72, "r": 72, "t": 16, "b": 16},
        "showlegend": False,
        "hovermode": "closest",
        "annotations": notes,
        "shapes": [{"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "layer": "below"} for x in range(end + 1)],
        "xaxis": {"visible": False, "range": [-0.05, end + 0.05], "fixedrange": True},
        "yaxis": {"visible": False, "range": [-0.08, 1.26], "fixedrange": True},
    }
    return {"data": data[::-1], "layout": layout, "width": 130 * (end + 1)}


def _note(x: int, y: float, text: str, side: str = "right") -> Figure:
    """A text beside an axis."""
    shift = {"right": -9, "left": 9, "center": 0}[side]
    return {"x": x, "y": y, "text": text, "xanchor": side, "xshift": shift, "showarrow": False, "font": {"size": 12}}


def heat_maps(group: Sequence[Configuration]) -> list[tuple[str, Figure]]:
    """Final IQM over each pair of swept settings whose cells are mostly there; titles and figures."""
    scored = [c for c in group if c.iqm is not None]
    found = []
    for (x, across), (y, up) in itertools.combinations(swept(scored).items(), 2):
        columns, rows = steps(across), steps(up)
        cells: dict[tuple[str, str], list[float]] = {}
        for a, b, c in zip(across, up, scored, strict=True):
            cells.setdefault((str(b), str(a)), []).append(c.iqm or 0.0)
        if len(cells) < 0.5 * len(columns) * len(rows) or min(len(columns), len(rows)) < 2:
            continue
        found.append((f"{leaf(x)} \u00d7 {leaf(y)}", _heat_map(x, y, columns, rows, cells)))
    return found[:PAIRS]


def _heat_map(x: str, y: str, columns: list[Any], rows: list[Any], cells: dict[tuple[str, str], list[float]]) -> Figure:
    means = [[number(float(np.mean(cells.get((str(b), str(a)), [np.nan])))) for a in columns] for b in rows]
    labels = [["" if cell is None else written(cell) for cell in row] for row in means]
    trace = {
        "type": "heatmap",
        "z": means,
        "x": distinct(map(short, columns)),
        "y": distinct(map(short, rows)),
        "text": labels,
        "texttemplate": "%{text}" if len(columns) <= 10 else "",
        "hovertemplate": f"{leaf(x)} %{{x}}<br>{leaf(y)} %{{y}}<br>final IQM %{{z:,.5~g}}<extra></extra>",
        "hoverongaps": False,
        "colorscale": SCALE,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"title": {"text": "IQM", "side": "top"}, "thickness": 12, "outlinewidth": 0},
    }
    layout = {
        "height": 170 + 44 * min(len(rows), 12),
        "margin": {"l": 12, "r": 12, "t": 16, "b": 56},
        "xaxis": {"title": {"text": leaf(x)}, "type": "category", "showgrid": False},
        "yaxis": {"title": {"text": leaf(y)}, "type": "category", "showgrid": False, "automargin": True},
    }
    return {"data": [trace], "layout": layout}


def one_axis(group: Sequence[Configuration], look: Sequence[Style]) -> Figure | None:
    """Final IQM against the only swept setting; None if there are more, or it has no order."""
    scored = [c for c in group if c.iqm is not None]
    found = swept(scored)
    if len(found) != 1:
        return None
    ((key, values),) = found.items()
    if not _is_numeric(values) or len(values) < 2:
        return None
    colours = {c.name: colour for c, (colour, _) in zip(group, look, strict=True)}
    points = sorted(zip(values, scored, strict=True), key=lambda point: point[0])
    ends = [c.interval or (c.iqm or 0.0, c.iqm or 0.0) for _, c in points]
    wide = points[0][0] > 0 and points[-1][0] >= 20 * points[0][0]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [x for x, _ in points],
        "y": [number(c.iqm) for _, c in points],
        "marker": {"size": 11, "symbol": "diamond", "color": [colours[c.name] for _, c in points]},
        "line": {"color": OTHERS, "width": 1.5},
        "error_y": {
            "color": OTHERS,
            "type": "data",
            "symmetric": False,
            "array": [number(high - (c.iqm or 0.0)) for (_, high), (_, c) in zip(ends, points, strict=True)],
            "arrayminus": [number((c.iqm or 0.0) - low) for (low, _), (_, c) in zip(ends, points, strict=True)],
        },
        "hovertemplate": f"{leaf(key)} %{{x}}<br>final IQM %{{y:,.5~g}}<extra></extra>",
    }
    ticks = {"tickvals": [x for x, _ in points], "ticktext": [short(x) for x, _ in points]} if len(points) <= 8 else {}
    axis = {"title": {"text": leaf(key)}, "type": "log" if wide else "linear", "zeroline": False, **ticks}
    layout = {
        "height": 360,
        "margin": {"l": 64, "r": 16, "t": 12, "b": 56},
        "xaxis": axis,
        "yaxis": {"title": {"text": "final return (IQM)"}, "zeroline": False},
    }
    return {"data": [trace], "layout": layout}


# What the machine did


def unit(seconds: float) -> tuple[float, str]:
    """Seconds of one unit of an axis of time as long as this, and its name."""
    return next((u for u in ((3600.0, "h"), (60.0, "min")) if seconds > 3 * u[0]), (1.0, "s"))


def began(launch: Launch) -> float:
    """When the first attempt of a launch was opened, in Unix seconds."""
    return min((attempt.opened_at for attempt in launch.standing.attempts.values()), default=0.0)


def ended(launch: Launch, seeds: Sequence[Seed]) -> float:
    """When its last attempt was closed, or was last heard of."""
    times = [attempt.closed_at or attempt.opened_at for attempt in launch.standing.attempts.values()]
    return max([*times, *(float(span.times[-1]) for seed in seeds for span in seed.spans.values())], default=0.0)


def of_launch(report: Report, index: int) -> list[Seed]:
    """The trials of a launch."""
    return [seed for seed in report.seeds if seed.launch == index]


def throughput(report: Report) -> Figure | None:
    """Env steps per second of all trials together, against time since the launch began; a line for each host."""
    lines = []
    for index, launch in enumerate(report.launches):
        seeds, start = of_launch(report, index), began(launch)
        hosts: dict[str, list[Any]] = {}
        for seed in seeds:
            for attempt, span in seed.spans.items():
                host = launch.standing.attempts[attempt].host or "unknown host"
                hosts.setdefault(host, []).append(span)
        end = ended(launch, seeds)
        edges = np.linspace(start, end, BINS + 1) if end > start else np.zeros(0)
        for host, spans in hosts.items():
            if not len(edges):
                continue
            done = sum(np.interp(edges, span.times, span.env_steps) for span in spans)
            name = host if len(report.launches) == 1 else f"{launch.name}, {host}"
            lines.append((name, (edges[1:] + edges[:-1]) / 2 - start, np.diff(done) / np.diff(edges)))
    if not lines:
        return None
    scale, name = unit(max(times[-1] for _, times, _ in lines))
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": said(who, 40),
            "x": numbers(times / scale),
            "y": numbers(rates),
            "line": {"color": PALETTE[i % len(PALETTE)], "width": 2, "shape": "hvh"},
            "hovertemplate": f"{said(who)}<br>%{{x:.3~g}} {name}: %{{y:,.0f}} env steps/s<extra></extra>",
        }
        for i, (who, times, rates) in enumerate(lines)
    ]
    layout = {
        "height": 320,
        "margin": {"l": 64, "r": 16, "t": 12, "b": 52},
        "showlegend": len(data) > 1,
        "legend": {"orientation": "h", "y": -0.28},
        "xaxis": {"title": {"text": f"time since the first attempt ({name})"}, "zeroline": False},
        "yaxis": {"title": {"text": "env steps per second"}, "rangemode": "tozero"},
    }
    return {"data": data, "layout": layout}


def attempt_parts(report: Report, index: int) -> dict[int, tuple[float, float, float, int]]:
    """Attempt of a launch → seconds of start-up, of training and after the last record, and env steps."""
    launch = report.launches[index]
    seeds = of_launch(report, index)
    parts = {}
    for attempt in launch.standing.attempts.values():
        spans = [seed.spans[attempt.number] for seed in seeds if attempt.number in seed.spans]
        first = min((float(span.times[0]) for span in spans), default=math.nan)
        last = max((float(span.times[-1]) for span in spans), default=math.nan)
        end = attempt.closed_at or (last if spans else attempt.opened_at)
        if not spans:
            parts[attempt.number] = (max(end - attempt.opened_at, 0.0), 0.0, 0.0, 0)
            continue
        trained = int(sum(span.env_steps[-1] for span in spans))
        first = max(first, attempt.opened_at)
        parts[attempt.number] = (first - attempt.opened_at, max(last - first, 0.0), max(end - last, 0.0), trained)
    return parts


def timeline(report: Report) -> Figure | None:
    """What each attempt did when: start-up, training, closing."""
    rows: list[tuple[str, float, tuple[float, float, float]]] = []
    for index, launch in enumerate(report.launches):
        start = began(launch)
        for attempt, (*spent, _) in attempt_parts(report, index).items():
            row = launch.standing.attempts[attempt]
            prefix = f"{launch.name} " if len(report.launches) > 1 else ""
            rows.append((f"{prefix}#{attempt}", row.opened_at - start, (spent[0], spent[1], spent[2])))
    if not rows:
        return None
    rows = rows[-TIMELINE:]
    scale, name = unit(max(begun + sum(spent) for _, begun, spent in rows))
    data = []
    for part, (words, colour) in enumerate(PARTS.items()):
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": words,
                "y": distinct(said(who, 20) for who, _, _ in rows),
                "base": numbers((begun + sum(spent[:part])) / scale for _, begun, spent in rows),
                "x": numbers(spent[part] / scale for _, _, spent in rows),
                "marker": {"color": colour},
                "hovertemplate": f"attempt %{{y}}<br>{words}: %{{x:.3~g}} {name}<extra></extra>",
            }
        )
    layout = {
        "height": 130 + 24 * len(rows),
        "barmode": "overlay",
        "bargap": 0.35,
        "margin": {"l": 12, "r": 16, "t": 12, "b": 52},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": f"time since the first attempt ({name})"}, "zeroline": False},
        "yaxis": {"automargin": True, "autorange": "reversed", "type": "category", "showgrid": False},
    }
    return {"data": data, "layout": layout}


def time_split(report: Report) -> Figure | None:
    """Share of training time that each part took, a bar for each configuration; None where no record tells."""
    parts = list(dict.fromkeys(part for seed in report.seeds for part in seed.split))
    told = [c for c in report.configurations if any(seed.split for seed in c.seeds)][:TIMELINE]
    if not told:
        return None
    sums = [[sum(seed.split.get(part, 0.0) for seed in c.seeds) for part in parts] for c in told]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": said(part, 30),
            "y": distinct(f"{i}. {said(c.label, 24)}" for i, c in enumerate(told, 1)),
            "x": numbers(row[i] / (sum(row) or 1.0) for row in sums),
            "marker": {"color": PALETTE[i % len(PALETTE)]},
            "hovertemplate": f"%{{y}}<br>{said(part)}: %{{x:.1%}}<extra></extra>",
        }
        for i, part in enumerate(parts)
    ]
    layout = {
        "height": 130 + 26 * len(told),
        "barmode": "stack",
        "margin": {"l": 12, "r": 16, "t": 12, "b": 52},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        "xaxis": {"title": {"text": "share of training time"}, "tickformat": ".0%", "range": [0, 1]},
        "yaxis": {"automargin": True, "autorange": "reversed", "type": "category", "showgrid": False},
    }
    return {"data": data, "layout": layout}
