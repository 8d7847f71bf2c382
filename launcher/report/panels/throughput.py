"""At what speed trials were trained, and what the time went to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from launcher.ledger.rows import AttemptRow
from launcher.report.data import Launch, Report, Seed
from launcher.report.figures import PALETTE, Axis, Figure, Series, Style
from launcher.report.parts import Cell, Panel, Part, Plot, Table, Words, num, of
from launcher.watch.tables import duration
from runner.training.tracking import STEPS_PER_SECOND

BINS = 100
ATTEMPTS = (
    "attempt:",
    "host",
    "trials:",
    "start-up, s:",
    "training, s:",
    "closing, s:",
    "env steps:",
    "steps/s:",
    "outcome",
)


class Spent(NamedTuple):
    """What the seconds of an attempt went to, and how many env steps it trained."""

    start_up: float
    training: float
    closing: float
    env_steps: int


def panel(report: Report) -> Panel | None:
    """Env steps per second, configurations, attempts."""
    if not any(launch.standing.attempts for launch in report.launches):
        return None
    parts: list[Part] = []
    if (speed := throughput(report)) is not None:
        words = (
            "All trials together, as their records tell; a line for each host. Work that was lost with a worker and "
            "trained again is counted once."
        )
        parts += [Words("heading", "Env steps per second"), Plot("throughput", speed, words)]
    return Panel(
        "throughput", "Throughput", [*parts, Words("heading", "By configuration"), speeds(report), *attempts(report)]
    )


def _began(launch: Launch) -> float:
    """When the first attempt of a launch was opened, in Unix seconds."""
    return min((attempt.opened_at for attempt in launch.standing.attempts.values()), default=0.0)


def _ended(launch: Launch, seeds: Sequence[Seed]) -> float:
    """When its last attempt was closed, or was last heard of."""
    times = [attempt.closed_at or attempt.opened_at for attempt in launch.standing.attempts.values()]
    return max([*times, *(float(span.times[-1]) for seed in seeds for span in seed.spans.values())], default=0.0)


def throughput(report: Report) -> Figure | None:
    """Env steps per second of all trials together, against time since the launch began; a line for each host."""
    lines: list[tuple[str, Any, Any]] = []
    for index, launch in enumerate(report.launches):
        seeds, start = report.of_launch(index), _began(launch)
        hosts: dict[str, list[Any]] = {}
        for seed in seeds:
            for attempt, span in seed.spans.items():
                hosts.setdefault(launch.standing.attempts[attempt].host or "unknown host", []).append(span)
        if (end := _ended(launch, seeds)) <= start:
            continue
        edges = np.linspace(start, end, BINS + 1)
        for host, spans in hosts.items():
            done = sum(np.interp(edges, span.times, span.env_steps) for span in spans)
            name = host if len(report.launches) == 1 else f"{launch.name}, {host}"
            lines.append((name, (edges[1:] + edges[:-1]) / 2 - start, np.diff(done) / np.diff(edges)))
    if not lines:
        return None
    longest = max(times[-1] for _, times, _ in lines)
    scale, unit = next((u for u in ((3600.0, "h"), (60.0, "min")) if longest > 3 * u[0]), (1.0, "s"))
    series = [
        Series(name, times / scale, rates, Style(PALETTE[i % len(PALETTE)]))
        for i, (name, times, rates) in enumerate(lines)
    ]
    axes = Axis(f"time since the first attempt ({unit})"), Axis("env steps per second")
    return Figure(series, *axes, 320, legend=len(series) > 1)


def spent(report: Report, index: int) -> dict[int, Spent]:
    """Attempt of a launch → what its time went to."""
    launch, seeds = report.launches[index], report.of_launch(index)
    found = {}
    for attempt in launch.standing.attempts.values():
        spans = [seed.spans[attempt.number] for seed in seeds if attempt.number in seed.spans]
        first = max(min((float(span.times[0]) for span in spans), default=math.inf), attempt.opened_at)
        last = max((float(span.times[-1]) for span in spans), default=attempt.opened_at)
        end = attempt.closed_at or last
        if not spans:
            found[attempt.number] = Spent(max(end - attempt.opened_at, 0.0), 0.0, 0.0, 0)
            continue
        steps = int(sum(span.env_steps[-1] for span in spans))
        times = (first - attempt.opened_at, max(last - first, 0.0), max(end - last, 0.0))
        found[attempt.number] = Spent(*times, steps)
    return found


def attempts(report: Report) -> Iterator[Part]:
    """Every attempt, and what its time went to."""
    for index, launch in enumerate(report.launches):
        members = Counter(number for numbers in launch.standing.members.values() for number in numbers)
        if not (found := spent(report, index)):
            continue
        rows = [_attempt(launch, launch.standing.attempts[at], members[at], one) for at, one in found.items()]
        sums = [sum(times) for times in zip(*(one[:3] for one in found.values()), strict=True)]
        names = zip(("start-up", "training", "closing"), sums, strict=True)
        shares = ", ".join(f"{name} {part / (sum(sums) or 1.0):.0%}" for name, part in names)
        note = (
            f"Of {duration(sum(sums))} of worker time: {shares}. An attempt is one life of one pack of trials in one "
            "worker process. Start-up lasts from its opening to the first step that its records tell of, imports and "
            "compilation included; closing is what follows the last record. Steps/s: of all trials of the pack."
        )
        yield Words("heading", "Attempts" if len(report.launches) == 1 else f"Attempts: {launch.name}")
        yield Table(ATTEMPTS, rows, note)


def _attempt(launch: Launch, row: AttemptRow, members: int, one: Spent) -> list[Cell]:
    outcome = row.outcome or ("not closed" if launch.standing.running is False else "open")
    error = f": {row.error}" if row.error else ""
    return [
        num(row.number, "d"),
        Cell(row.host or "-"),
        num(members, "d"),
        *(num(part, ",.1f") for part in one[:3]),
        num(one.env_steps, ",d"),
        num(one.env_steps / one.training if one.training else None, ",.0f"),
        Cell(f"{outcome}{error}"[:300], None, "wrap"),
    ]


def speeds(report: Report) -> Table:
    """Env steps per second of a trial, and what training time goes to where records tell it, by configuration."""
    named = list(dict.fromkeys(part for seed in report.seeds for part in seed.split))
    rows = []
    for c in report.configurations:
        told = [seed.curves[STEPS_PER_SECOND] for seed in c.seeds if STEPS_PER_SECOND in seed.curves]
        values = np.concatenate(told) if told else np.zeros(0)
        values = values[np.isfinite(values)]
        speed = float(np.median(values)) if len(values) else None
        steps = sum(seed.row.env_steps for seed in c.seeds)
        seconds = [sum(seed.split.get(part, 0.0) for seed in c.seeds) for part in named]
        shares = [num(100 * one / sum(seconds) if any(seconds) else None, ".0f") for one in seconds]
        rows.append([of(c), num(len(c.seeds), "d"), num(steps, ",d"), num(speed, ",.0f"), *shares])
    headings = ["configuration", "trials:", "env steps:", "steps/s of a trial, median:"]
    note = "Percentages: shares of the seconds that records name, all trials of a configuration together."
    return Table([*headings, *(f"{part}, %:" for part in named)], rows, note if named else "")
