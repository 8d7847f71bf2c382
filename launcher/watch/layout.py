"""The table of trials, in as much room as there is: a row for each, or for each configuration, and always the total.

Pure functions of what the ledger says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from launcher.ledger.rows import LOST_STATES, Progress
from launcher.parts import grouped
from launcher.watch.names import abbreviated, briefest, unshared
from launcher.watch.tables import LEAST_TEXT, Column, count, cut, duration, table

STYLES = {
    "finished": "green",
    "running": "cyan",
    "paused": "blue",
    "failed": "red",
    "diverged": "red",
    "interrupted": "yellow",
}
LEAVING = ("seed:", "return:", "state", "seeds:", "spread:", "steps/s:", "done:", "attempts:", "env steps:")
"""Columns that a narrow table does without, the last one first; and before all of them, where nothing runs, TIME."""
TIME = "time left:"

LONGEST_BRIEF = 24
"""Characters of a name with short keys up to which it is shown whole before columns are."""

Group = Sequence[Progress]
"""The trials that a row stands for: one, those of a configuration, or all."""


def layout(
    rows: Sequence[Progress],
    width: int,
    height: int | None = None,
    *,
    final: bool = False,
    whole_names: bool = False,
    attempts: Mapping[str, int] | None = None,
    rest: str = "",
) -> Table:
    """A row per trial, or per configuration where there are more trials than room, and a total.

    Without a `height` there is room for all; if there are more configurations than room, too, those are shown that tell
    most, and `rest` follows the number of the others. `final` is of a launch that is over: what there is to know of
    returns, nothing of speed. `whole_names` are broken into several lines; else long ones leave out what all share, and
    are shortened. `attempts`, trial → how many there were, are a column.
    """
    room = len(rows) if height is None else max(height - 2, 0)
    groups = by_configuration(rows)
    single = len(rows) <= room or len(groups) == len(rows)
    if single:
        groups = [[row] for row in rows]
    shown = groups if len(groups) <= room else most_telling(groups, max(room - 1, 0))
    shared, names = ("", {}) if whole_names else unshared([row.trial.config for row in rows])
    cells = _cells(single, final, attempts, width)
    lines = [[Text(names.get(g[0].trial.config, g[0].trial.config)), *(f(g) for f in cells.values())] for g in shown]
    if len(shown) < len(groups) and room:
        lines.append([Text(f"… {len(groups) - len(shown):,} more{rest}"), *[Text()] * len(cells)])
    said = {"seed:": "", "seeds:": f"{len(rows):,}", "attempts:": "", "state": f"{_finished(rows):,} finished"}
    totals = [Text(said[heading]) if heading in said else cell(rows) for heading, cell in cells.items()]
    lines.append([Text(count(len(rows), "trial"), "bold"), *totals])
    columns = [Column("config")]
    if not whole_names:
        least = max((len(briefest(name)) for name in names.values()), default=0)
        columns = [Column(f"config {shared}".rstrip(), 0, min(max(least, LEAST_TEXT), LONGEST_BRIEF), abbreviated)]
    leaving = LEAVING if any(row.trial.state == "running" for row in rows) else (*LEAVING, TIME)
    for heading in cells:
        rank = leaving.index(heading) + 1 if heading in leaving else 0
        columns.append(Column(heading, rank, len("9 running"), _first))
    return table(columns, lines, width, headings=height is None or height > 1)


def _cells(
    single: bool, final: bool, attempts: Mapping[str, int] | None, width: int
) -> dict[str, Callable[[Group], Text]]:
    """Heading of a column → the cell of a group."""
    cells: dict[str, Callable[[Group], Text]] = {
        "seed:" if single else "seeds:": lambda g: Text(str(g[0].trial.seed) if single else f"{len(g):,}"),
        "state": _states,
    }
    if attempts is not None:
        cells["attempts:"] = lambda g: Text(f"{sum(attempts.get(row.trial.id, 0) for row in g):,}")
    cells["env steps:"] = lambda g: Text(f"{_trained(g):,}")
    if not final:
        cells["done:"] = lambda g: Text(_percent(g))
        cells["steps/s:"] = lambda g: Text(_number(_rate(g) or None, ",.0f"))
    cells["return (last 100 episodes):" if final and width >= 80 else "return:"] = lambda g: Text(_number(_mean(g)))
    if not single:
        cells["spread:"] = lambda g: Text(_number(_spread(g)))
    if not final:
        cells[TIME] = lambda g: Text(_left(g))
    return cells


def by_configuration(rows: Sequence[Progress]) -> list[Group]:
    """The trials of each configuration, in order."""
    return list(grouped(rows, lambda row: row.trial.config).values())


def most_telling(groups: Sequence[Group], most: int) -> list[Group]:
    """At most `most` of the groups, in their order if that is all: first where trials failed, then where they run.

    Failed ones take up half of the places at most while others run.
    """
    if len(groups) <= most:
        return list(groups)
    sorts: dict[str, list[Group]] = {"lost": [], "running": [], "rest": []}
    for group in groups:
        states = {row.trial.state for row in group}
        sorts["lost" if states & {*LOST_STATES} else "running" if "running" in states else "rest"].append(group)
    lost, running, rest = sorts.values()
    kept = max(most // 2, most - len(running))
    return [*lost[:kept], *running, *lost[kept:], *rest][:most]


def totals(rows: Sequence[Progress]) -> str:
    """A line on the states of trials, and how far they are together."""
    states = ", ".join(f"{number:,} {state}" for state, number in Counter(map(_doing, rows)).items())
    return (
        f"{states}: {_trained(rows):,} of {_wanted(rows):,} env steps ({_percent(rows)}), "
        f"{_rate(rows):,.0f} steps/s, mean return {_number(_mean(rows))}, time left {_left(rows)}"
    )


def scores(rows: Sequence[Progress]) -> list[float]:
    """Returns of the trials in which an episode has ended."""
    return [row.value for row in rows if row.value is not None and not math.isnan(row.value)]


def _doing(row: Progress) -> str:
    """The state of a trial, or if it has begun but does not train, what it waits for."""
    trial = row.trial
    if trial.state == "pending" and trial.attempt is not None:
        return "retrying" if trial.error else "waiting"
    return trial.state if trial.state != "running" or row.note == "training" else row.note or "starting"


def _states(rows: Group) -> Text:
    """`running`, or where trials differ how many are in which state: `1 failed, 7 running`."""
    found = Counter(map(_doing, rows))
    order = sorted(found, key=lambda state: state not in LOST_STATES)
    text = order[0] if len(order) == 1 else ", ".join(f"{found[state]:,} {state}" for state in order)
    return Text(text, STYLES.get(order[0], "dim"))


def _first(states: Sequence[str], width: int) -> list[str]:
    """The first of `1 failed, 7 running`, where there is no room for all."""
    firsts = [text if len(text) <= width else text.partition(",")[0] + "…" for text in states]
    return [cut(first, width) if len(first) - 1 > width else first[:width] for first in firsts]


def _finished(rows: Group) -> int:
    return sum(row.trial.state == "finished" for row in rows)


def _rate(rows: Group) -> float:
    """Env steps per second of those that train now: what is said of others is of an attempt before."""
    return sum(row.steps_per_second or 0 for row in rows if _doing(row) == "running")


def _trained(rows: Group) -> int:
    return sum(row.env_steps for row in rows)


def _wanted(rows: Group) -> int:
    return sum(row.env_steps_total for row in rows)


def _percent(rows: Group) -> str:
    return f"{100 * _trained(rows) // max(_wanted(rows), 1)}%"


def _mean(rows: Group) -> float | None:
    values = _comparable(rows)
    return float(np.mean(values)) if values else None


def _spread(rows: Group) -> float | None:
    """The standard deviation of the return across seeds; None of fewer than two."""
    values = _comparable(rows)
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _comparable(rows: Group) -> list[float]:
    """Returns of one configuration; across configurations a mean of them would mean nothing."""
    return scores(rows) if len({row.trial.config for row in rows}) == 1 else []


def _number(value: float | None, spec: str = ",.2f") -> str:
    return "-" if value is None or math.isnan(value) else format(value, spec)


def _left(rows: Group) -> str:
    """Time until all is done at the present rate."""
    rate = _rate(rows)
    waiting = [row for row in rows if row.trial.state in ("running", "pending", "interrupted")]
    return duration((_wanted(waiting) - _trained(waiting)) / rate) if rate else "-"
