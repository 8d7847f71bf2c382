"""The first tab: what was run, where, with what result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from launcher import stats
from launcher.ledger.rows import LOST_STATES
from launcher.report.data import Configuration, Launch, Report
from launcher.report.figures import written
from launcher.report.parts import Cell, Panel, Part, Table, Words, interval, named, num, span
from launcher.watch.tables import count

BETTER = "P(best > this):"
HEADINGS = ("#:", "configuration", "IQM:", "95% interval:", "mean:", "min:", "max:", BETTER, "seeds:", "not counted")


def panel(report: Report, missing: Sequence[str] = ()) -> Panel:
    """Warnings, numbers, a ranking for each task, each launch, and why tabs are `missing`."""
    parts: list[Part] = [Words("banners", list(_banners(report))), Words("tiles", list(_tiles(report)))]
    parts += [_ranking(task, group) for task, group, _, _ in report.by_task()]
    known = interval(len(c.scores) for c in report.configurations)
    note = (
        "Return: mean of a trial's last 100 episodes at its end. IQM: mean of the middle half of the seeds. Interval: "
        f"{known} P(best > this): probability that a run of the first configuration scores higher than one of this, "
        "equal ones counting half, and its 95% interval. Seeds: finished trials, the only ones that count."
    )
    parts.append(Words("note", note))
    parts += [Words("about", about(launch), f"What was run{name}") for launch, _, name in report.by_launch()]
    if missing:
        parts.append(Words("note", f"Not on this page: {', '.join(missing)}."))
    return Panel("summary", "Summary", parts)


class Banner(NamedTuple):
    """A warning that a reader needs before the numbers, and the tab that tells more."""

    bold: str
    text: str
    tab: str = ""


def _banners(report: Report) -> Iterator[Banner]:
    states = Counter(seed.trial.state for seed in report.seeds)
    trials = count(len(report.seeds), "trial")
    if lost := " and ".join(f"{states[state]} {state}" for state in LOST_STATES if states[state]):
        text = f"of {trials}. They are not in the statistics of final returns, which may look better for it."
        yield Banner(lost, text, "failures")
    if words := ", ".join(f"{n} {state}" for state, n in states.items() if state not in ("finished", *LOST_STATES)):
        text = f"{words} of {trials}. Final returns are those of finished trials; curves show all as far as they got."
        yield Banner("Not finished:", text)
    if few := sum(len(c.scores) < stats.FEWEST_RUNS for c in report.configurations):
        which = "All" if few == len(report.configurations) else f"{few} of {len(report.configurations)}"
        fewest = f"{which} configurations have fewer than {stats.FEWEST_RUNS} finished seeds."
        yield Banner("Few seeds:", f"{fewest} No interval is drawn for them: so few say nothing about the spread.")


def _tiles(report: Report) -> Iterator[tuple[str, str, bool]]:
    """Large numbers, what they are of, and whether they are bad news."""
    seeds, configurations = report.seeds, report.configurations
    best = next((c for c in configurations if c.iqm is not None), None)
    if best is not None and len(report.tasks) == 1:
        yield written(best.iqm or 0.0), f"best IQM: {best.label}"[:60], False
    numbers = sorted({len(c.seeds) for c in configurations}) or [0]
    each = "-".join(map(str, dict.fromkeys([numbers[0], numbers[-1]])))
    yield f"{sum(seed.trial.state == 'finished' for seed in seeds):,} of {len(seeds):,}", "trials finished", False
    yield f"{len(configurations):,} \u00d7 {each}", "configurations \u00d7 seeds", False
    yield brief(sum(seed.row.env_steps for seed in seeds)), "env steps trained", False
    lost = sum(c.lost for c in configurations)
    yield f"{lost:,}", "failed or diverged", lost > 0


def brief(value: float) -> str:
    """`950`, `12.3 k`, `4.5 M`."""
    size, letter = next((s for s in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if value >= s[0]), (1.0, ""))
    return f"{value / size:,.3g}{letter}"


def _ranking(task: str, group: Sequence[Configuration]) -> Table:
    """Configurations of a task, best first."""
    best, rows = group[0], []
    for place, c in enumerate(group, 1):
        scores = c.scores
        of_all = (scores.mean(), scores.min(), scores.max()) if len(scores) else (None,) * 3
        numbers = [num(c.iqm), span(c.interval, len(scores)), *map(num, of_all), _better(best, c)]
        states = Counter(
            "without an episode" if s.trial.state == "finished" else s.trial.state for s in c.seeds if not s.counts
        )
        left_out = ", ".join(f"{n} {word}" for word, n in states.items())
        rows.append([num(place, "d"), named(c), *numbers, num(len(scores), "d"), Cell(left_out or "-")])
    return Table(f"Final returns: {task}", HEADINGS, rows)


def _better(best: Configuration, c: Configuration) -> Cell:
    """The probability that a run of the best scores higher, and its interval if there are enough."""
    if c is best or not len(best.scores) or not len(c.scores):
        return num(None)
    found = float(stats.probability_of_improvement(best.scores, c.scores))
    ends = stats.improvement_interval(best.scores, c.scores)
    return Cell(f"{found:.2f}" + (f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else ""), found, "n")


def about(launch: Launch) -> dict[str, Any]:
    """Command, machine, versions and code of a launch, and the commands that resumed it."""
    standing = launch.standing
    hardware, placement, versions = map(standing.block, ("hardware", "placement", "versions"))
    gpus = f" on {count(placement['gpus'], 'GPU')}" if placement.get("gpus") else ""
    logical = " (logical: all ran on the CPU)" if placement.get("logical") else ""
    began, cores = standing.revision.get("time"), hardware.get("cores")
    machine = (hardware.get("host"), hardware.get("processor"), count(cores, "core") if isinstance(cores, int) else "")
    rows = {
        "directory": str(launch.directory),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(began)) if began else "not yet",
        "state": {True: "running", False: "not running", None: "whether it runs cannot be told"}[standing.running],
        "machine": ", ".join(str(part) for part in machine if part),
        "system": str(hardware.get("system", "")),
        "workers": f"{placement['workers']}{gpus}{logical}" if "workers" in placement else "",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "code": str(standing.revision.get("git_commit") or ""),
    }
    commands = [str(one.get("command")) for one in standing.revisions if one.get("command")]
    resumed = f"Resumed {count(len(commands) - 1, 'time')}: commands in order." if len(commands) > 1 else ""
    return {"commands": commands, "resumed": resumed, "rows": {key: value for key, value in rows.items() if value}}
