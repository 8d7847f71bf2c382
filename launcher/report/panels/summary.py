"""What was run, where, with what result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from launcher import stats
from launcher.report.data import Configuration, Launch, Report
from launcher.report.figures import written
from launcher.report.parts import Cell, Panel, Part, Table, Words, interval, num, of, span
from launcher.watch.layout import LOST_STATES
from launcher.watch.tables import count

HEADINGS = (
    "#:",
    "configuration",
    "IQM:",
    "95% interval:",
    "mean:",
    "min:",
    "max:",
    "P(best > this):",
    "seeds:",
    "not counted",
)


def panel(report: Report) -> Panel:
    """Warnings, numbers, a ranking for each task, and each launch."""
    parts: list[Part] = [Words("banners", list(_banners(report))), Words("tiles", list(_tiles(report)))]
    for task in report.tasks:
        parts += [Words("heading", f"Final returns: {task}"), _ranking(report.of_task(task))]
    known = interval(len(c.scores) for c in report.configurations)
    note = (
        "Return: mean of a trial's last 100 episodes at its end. IQM: mean of the middle half of the seeds. Interval: "
        f"{known} P(best > this): probability that a run of the first configuration scores higher than one of this, "
        "equal ones counting half, and its 95% interval. Seeds: finished trials, the only ones that count."
    )
    parts.append(Words("note", note))
    for launch in report.launches:
        heading = "What was run" if len(report.launches) == 1 else f"What was run: {launch.name}"
        parts += [Words("heading", heading), Words("about", about(launch))]
    return Panel("summary", "Summary", parts)


class Banner(NamedTuple):
    """What a reader must know before the numbers, and the tab that tells more."""

    bold: str
    text: str
    tab: str = ""


def _banners(report: Report) -> Iterator[Banner]:
    seeds = report.seeds
    states = Counter(seed.row.trial.state for seed in seeds)
    trials = count(len(seeds), "trial")
    lost = " and ".join(f"{states[state]} {state}" for state in ("failed", "diverged") if states[state])
    if lost:
        text = f"of {trials}. They are not in the statistics of final returns, which may look better for it."
        yield Banner(lost, text, "failures")
    words = ", ".join(f"{n} {state}" for state, n in states.items() if state not in ("finished", *LOST_STATES))
    if words:
        text = f"{words} of {trials}. Final returns are those of finished trials; curves show all as far as they got."
        yield Banner("Not finished:", text)
    few = sum(len(c.scores) < stats.FEWEST_RUNS for c in report.configurations)
    if few:
        which = "All" if few == len(report.configurations) else f"{few} of {len(report.configurations)}"
        fewest = stats.FEWEST_RUNS
        text = f"{which} configurations have fewer than {fewest} finished seeds. No interval is drawn for them: so few "
        yield Banner("Few seeds:", f"{text}say nothing about the spread.")


def _tiles(report: Report) -> Iterator[tuple[str, str, bool]]:
    """Large numbers, what they are of, and whether they are bad news."""
    seeds = report.seeds
    best = [c for c in report.configurations if c.iqm is not None]
    if best and len(report.tasks) == 1:
        yield written(best[0].iqm or 0.0), f"best IQM: {best[0].label}"[:60], False
    numbers = sorted({len(c.seeds) for c in report.configurations}) or [0]
    each = "-".join(map(str, dict.fromkeys([numbers[0], numbers[-1]])))
    yield f"{sum(seed.row.trial.state == 'finished' for seed in seeds):,} of {len(seeds):,}", "trials finished", False
    yield f"{len(report.configurations):,} \u00d7 {each}", "configurations \u00d7 seeds", False
    yield brief(sum(seed.row.env_steps for seed in seeds)), "env steps trained", False
    lost = sum(c.lost for c in report.configurations)
    yield f"{lost:,}", "failed or diverged", lost > 0


def brief(value: float) -> str:
    """`950`, `12.3 k`, `4.5 M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.3g} {letter}"
    return f"{value:,.3g}"


def _ranking(group: list[Configuration]) -> Table:
    """Configurations of a task, best first."""
    best, rows = group[0].scores, []
    for place, c in enumerate(group, 1):
        scores = c.scores
        of_all = (scores.mean(), scores.min(), scores.max()) if len(scores) else (None,) * 3
        compared = c is not group[0] and len(best) and len(scores)
        better = _better(best, scores) if compared else num(None)
        numbers = [num(c.iqm), span(c.interval, len(scores)), *map(num, of_all), better]
        rows.append([num(place, "d"), of(c), *numbers, num(len(scores), "d"), Cell(_left_out(c) or "-")])
    return Table(HEADINGS, rows)


def _better(best: NDArray[np.float64], scores: NDArray[np.float64]) -> Cell:
    """The probability that a run of the best scores higher, and its interval if there are enough."""
    found = float(stats.probability_of_improvement(best, scores))
    ends = stats.improvement_interval(best, scores, np.random.default_rng(0))
    return Cell(f"{found:.2f}" + (f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else ""), found, "n")


def _left_out(c: Configuration) -> str:
    """Trials that are not in the statistics, by state: `2 failed, 1 running`."""
    states = (seed.row.trial.state for seed in c.seeds if not seed.counts)
    found = Counter("without an episode" if state == "finished" else state for state in states)
    return ", ".join(f"{n} {word}" for word, n in found.items())


def about(launch: Launch) -> dict[str, Any]:
    """Command, machine, versions and code of a launch, and the commands that resumed it."""
    revision, standing = launch.revision, launch.standing
    hardware, placement = launch.block("hardware"), launch.block("placement")
    gpus = f" on {count(placement['gpus'], 'GPU')}" if placement.get("gpus") else ""
    logical = " (logical: all ran on the CPU)" if placement.get("logical") else ""
    began, cores = revision.get("time"), hardware.get("cores")
    machine = (hardware.get("host"), hardware.get("processor"), count(cores, "core") if isinstance(cores, int) else "")
    rows = {
        "directory": str(standing.directory),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(began)) if began else "not yet",
        "state": {True: "running", False: "not running", None: "whether it runs cannot be told"}[standing.running],
        "machine": ", ".join(str(part) for part in machine if part),
        "system": str(hardware.get("system", "")),
        "workers": f"{placement['workers']}{gpus}{logical}" if "workers" in placement else "",
        "versions": ", ".join(f"{name} {version}" for name, version in launch.block("versions").items()),
        "code": str(revision.get("git_commit") or ""),
    }
    commands = [str(one.get("command")) for one in standing.revisions if one.get("command")]
    resumed = f"Resumed {count(len(commands) - 1, 'time')}: commands in order." if len(commands) > 1 else ""
    return {"commands": commands, "resumed": resumed, "rows": {key: value for key, value in rows.items() if value}}
