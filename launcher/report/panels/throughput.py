"""The speed at which trials were trained, and what the time went to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from launcher.ledger.records import Span
from launcher.report.data import Launch, Report, Seed
from launcher.report.figures import PALETTE, Axis, Figure, Series, Style
from launcher.report.parts import Panel, Part, Plot, Table, named, num
from launcher.watch.tables import duration
from runner.training.tracking import STEPS_PER_SECOND

BINS = 100
STEPS = "All trials together, as records tell; a line for each host. Work that was lost and trained again counts once."


def panel(report: Report) -> Panel | None:
    """Env steps per second over time, and by configuration."""
    if not any(launch.standing.attempts for launch in report.launches):
        return None
    speed = throughput(report)
    over_time: list[Part] = [Plot("throughput", "Env steps per second", speed, STEPS)] if speed.series else []
    return Panel("throughput", "Throughput", [*over_time, speeds(report)])


def throughput(report: Report) -> Figure:
    """Env steps per second of all trials together, against time since the launch began; a line for each host."""
    lines = list(_lines(report))
    longest = max((times[-1] for _, times, _ in lines), default=0.0)
    scale, unit = next((u for u in ((3600.0, "h"), (60.0, "min")) if longest > 3 * u[0]), (1.0, "s"))
    series = [
        Series(name, times / scale, rates, Style(PALETTE[i % len(PALETTE)]))
        for i, (name, times, rates) in enumerate(lines)
    ]
    axes = Axis(f"time since the first attempt ({unit})"), Axis("env steps per second")
    return Figure(series, *axes, 320, legend=len(series) > 1)


def _lines(report: Report) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Host, and of each bin of time its middle and env steps per second."""
    for launch, seeds, suffix in report.by_launch():
        attempts = launch.standing.attempts
        hosts: dict[str, list[Span]] = {}
        for seed in seeds:
            for number, span in seed.spans.items():
                hosts.setdefault(attempts[number].host or "unknown host", []).append(span)
        if not hosts:
            continue
        start = min(attempt.opened_at for attempt in attempts.values())
        end = max(span.times[-1] for spans in hosts.values() for span in spans)
        edges = np.linspace(start, max(end, start + 1.0), BINS + 1)
        for host, spans in hosts.items():
            done = sum(np.interp(edges, span.times, span.env_steps) for span in spans)
            yield f"{host}{suffix}", (edges[1:] + edges[:-1]) / 2 - start, np.diff(done) / np.diff(edges)


def speeds(report: Report) -> Table:
    """Env steps per second of a trial, and what training time goes to where records tell it, by configuration."""
    parts = list(dict.fromkeys(part for seed in report.seeds for part in seed.split))
    rows = []
    for c in report.configurations:
        told = [seed.curves[STEPS_PER_SECOND] for seed in c.seeds if STEPS_PER_SECOND in seed.curves]
        values = np.concatenate([np.zeros(0), *told])
        values = values[np.isfinite(values)]
        speed = float(np.median(values)) if len(values) else None
        steps = sum(seed.row.env_steps for seed in c.seeds)
        seconds = [sum(seed.split.get(part, 0.0) for seed in c.seeds) for part in parts]
        shares = [num(100 * one / sum(seconds) if any(seconds) else None, ".0f") for one in seconds]
        rows.append([named(c), num(len(c.seeds), "d"), num(steps, ",d"), num(speed, ",.0f"), *shares])
    headings = ["configuration", "trials:", "env steps:", "steps/s of a trial, median:"]
    note = (
        "Percentages: shares of the seconds that records name, all trials of a configuration together. "
        if parts
        else ""
    )
    return Table("By configuration", [*headings, *(f"{part}, %:" for part in parts)], rows, note + _shares(report))


def spent(launch: Launch, seeds: Sequence[Seed]) -> NDArray[np.float64]:
    """Seconds of start-up, of training and of closing, of all attempts of a launch together."""
    total = np.zeros(3)
    for number, attempt in launch.standing.attempts.items():
        spans = [seed.spans[number] for seed in seeds if number in seed.spans]
        last = max([attempt.opened_at, *(float(span.times[-1]) for span in spans)])
        end = max(attempt.closed_at or last, last)
        first = max(min((float(span.times[0]) for span in spans), default=end), attempt.opened_at)
        total += (first - attempt.opened_at, max(last - first, 0.0), end - max(last, first))
    return total


def _shares(report: Report) -> str:
    """A sentence on the time of workers."""
    seconds = sum((spent(launch, seeds) for launch, seeds, _ in report.by_launch()), np.zeros(3))
    if not seconds.any():
        return ""
    names = ("start-up", "training", "closing")
    shares = ", ".join(f"{name} {part / seconds.sum():.0%}" for name, part in zip(names, seconds, strict=True))
    return (
        f"Of {duration(seconds.sum())} of worker time: {shares}. Start-up lasts until the first step that records tell "
        "of, imports and compilation included; closing is what follows the last record."
    )
