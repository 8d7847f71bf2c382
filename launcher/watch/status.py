"""`launch status` and the end of a launch: how it stands, for people and for programs."""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console

from launcher import stats
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import LOST_STATES, Progress, State, StoredRecord
from launcher.plan.revision import short_commit
from launcher.watch.layout import by_configuration, layout, scores, totals
from launcher.watch.standing import Standing, read
from launcher.watch.tables import count, say

ROWS = 40
"""Trials that a table lists which is printed once; of more it shows the configurations."""
CONFIGURATIONS = 20
"""Configurations that get a line of statistics at most: the interval of each takes about 0.1 s."""
FAILURES = 5
"""Failed attempts whose log is shown at most."""
LAST_WORDS = 5
"""Lines of the log of a failed attempt."""


# For people


def show(console: Console, standing: Standing) -> None:
    """Print how a launch stands, in at most about a hundred lines however many trials it has."""
    rows = standing.rows
    for line in (*_about(standing), totals(rows)):
        say(console, line)
    attempts = {row.trial.id: len(standing.attempts_of(row)) for row in rows}
    whole = not console.is_terminal
    console.print(layout(rows, console.width, ROWS + 2, whole_names=whole, attempts=attempts, rest="; --json has all"))
    _show_failures(console, standing)
    _show_statistics(console, rows, CONFIGURATIONS)
    say(console, f"Directory:   {standing.directory}")


def show_result(console: Console, directory: Path, seconds: float, before: int) -> None:
    """Print the final return of every trial, the statistics of every configuration, and where everything is.

    The launch took so many seconds; `before` it so many env steps had been trained.
    """
    standing = read(directory, over=True)
    rows, shown = standing.rows, console.is_terminal
    console.print(layout(rows, console.width, ROWS + 2 if shown else None, final=True, whole_names=not shown))
    _show_failures(console, standing)
    _show_statistics(console, rows, len(rows))
    with Ledger(directory, writer=False) as ledger:
        busy = _busy_seconds(list(ledger.last_records().values()), time.time() - seconds)
    trained = max(sum(row.env_steps for row in rows) - before, 0)
    speed = f", {trained / busy:,.0f} steps/s while training" if busy else ""
    say(console, f"{trained:,} env steps in {seconds:,.1f} s, start-up included{speed}")
    say(console, f"Directory:   {directory}")
    say(console, f"TensorBoard: tensorboard --logdir {shlex.quote(str(directory / 'tensorboard'))}")
    say(console, f"Next:        launch report {shlex.quote(str(directory))}, or eval: every checkpoint plays again")


def _about(standing: Standing) -> list[str]:
    """The state of the launch, when it began, what was typed; and what it runs on and with."""
    if not standing.revisions:
        words = {True: "Starting", False: "Ended before it trained", None: "Starting, or ended before it trained"}
        return [words[standing.running]]
    last = standing.revision
    began = last["time"] if isinstance(last.get("time"), int | float) else 0.0
    when = time.strftime(" %Y-%m-%d %H:%M:%S", time.localtime(began)) if began else ""
    words = {True: "Running since", False: "Not running; last started", None: "Whether it runs cannot be told; started"}
    if all(attempt.opened_at < began for attempt in standing.attempts.values()):
        words |= {True: "Starting since", False: "Ended before it trained; started"}
    resumes = len(standing.revisions) - 1
    before = f" (resumed {count(resumes, 'time')})" if resumes else ""
    used = ", ".join(_used(standing))
    return [
        f"{words[standing.running]}{when}{before}: {last.get('command')}",
        *([f"With:        {used}"] if used else []),
    ]


def _used(standing: Standing) -> list[str]:
    """Workers, machine, versions and code of the last revision, as far as it names them."""
    placement, hardware, versions = map(standing.block, ("placement", "hardware", "versions"))
    kind = "logical GPU" if placement.get("logical") else "GPU"
    on = f" on {count(placement['gpus'], kind)}" if placement.get("gpus") else ""
    workers = [f"{count(placement['workers'], 'worker')}{on}"] if "workers" in placement else []
    machine = [str(hardware[key]) for key in ("host", "processor") if hardware.get(key)]
    names = ("sunflower", "python", "torch", "jax", "envpool", "ray")
    packages = [f"{name} {versions[name]}" for name in names if name in versions]
    code = [f"code {short_commit(standing.revision)}"] if standing.revision.get("git_commit") else []
    return [*workers, *machine, *packages, *code]


def _show_failures(console: Console, standing: Standing) -> None:
    """Print why trials failed or diverged, once for all that did so together, and how the log of each ends."""
    found = standing.failures(FAILURES, LAST_WORDS)
    for one in found[:FAILURES]:
        more = f" and {len(one.trials) - 1:,} more" if len(one.trials) > 1 else ""
        console.print(f"[red]{one.trials[0]}{more} {one.state}:[/] ", end="")
        say(console, one.reason)
        for line in (f"{one.log}:" if one.lines else one.log, *(f"| {line}" for line in one.lines)):
            say(console, f"  {line}")
    if hidden := sum(len(one.trials) for one in found[FAILURES:]):
        say(console, f"… and {count(hidden, 'trial')} more failed or diverged; --json has all")


def _show_statistics(console: Console, rows: Sequence[Progress], most: int) -> None:
    """Print a line of statistics for each configuration, or for the first `most` of them."""
    groups = by_configuration(rows)
    for seeds in groups[:most]:
        console.print(summary(seeds[0].trial.config, seeds), soft_wrap=True, highlight=False)
    if len(groups) > most:
        say(console, f"… and {count(len(groups) - most, 'more configuration')}")


def summary(name: str, rows: Sequence[Progress]) -> str:
    """One line: final return of a configuration across its seeds, and how many seeds it stands on."""
    finished = [row for row in rows if row.trial.state == "finished"]
    returns = np.array(scores(finished))
    lost = sum(row.trial.state in LOST_STATES for row in rows)
    paused = sum(row.trial.state == "paused" for row in rows)
    left_out = {
        "failed or diverged": lost,
        "paused by the search": paused,
        "did not finish": len(rows) - len(finished) - lost - paused,
        "never ended an episode": len(finished) - len(returns),
    }
    notes = ", ".join(f"{number} of {count(len(rows), 'seed')} {what}" for what, number in left_out.items() if number)
    if not len(returns):
        return f"[bold]{name}[/]: no final return: {notes}"
    mean, iqm, interval = stats.of_seeds(returns)
    spread = "fewer than 3 seeds: no interval"
    if interval is not None:
        spread = f"95% bootstrap interval of the IQM {interval[0]:,.2f} to {interval[1]:,.2f}"
    return (
        f"[bold]{name}[/]: {count(len(returns), 'seed')}, final return mean {mean:,.2f}, IQM {iqm:,.2f}, {spread}"
    ) + (f"; not in these numbers: {notes}" if notes else "")


def _busy_seconds(last: Sequence[StoredRecord], began: float) -> float:
    """Seconds since `began` in which at least one trial was training, from the last record of each."""
    spans = sorted((max(stored.wall_time - stored.record.seconds, began), stored.wall_time) for stored in last)
    total, reached = 0.0, began
    for start, end in spans:
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


# For programs


def describe(standing: Standing) -> dict[str, Any]:
    """A launch as one JSON object, for `launch status --json` (see docs/guide.md)."""
    rows = standing.rows
    found = Counter(row.trial.state for row in rows)
    return {
        "directory": str(standing.directory),
        "running": standing.running,
        "command": standing.revision.get("command"),
        "started": standing.revision.get("time"),
        "revisions": len(standing.revisions),
        "counts": {state: found[state] for state in get_args(State)},
        "env_steps": sum(row.env_steps for row in rows),
        "env_steps_total": sum(row.env_steps_total for row in rows),
        "trials": [_describe_trial(standing, row) for row in rows],
    }


def _describe_trial(standing: Standing, row: Progress) -> dict[str, Any]:
    trial = row.trial
    attempt = standing.attempts.get(trial.attempt or 0)
    return {
        "trial": trial.id,
        "config": trial.config,
        "seed": trial.seed,
        "state": trial.state,
        "note": row.note if trial.state == "running" else None,
        "env_steps": row.env_steps,
        "env_steps_total": row.env_steps_total,
        "records": row.records,
        "score": row.value if row.value is not None and math.isfinite(row.value) else None,
        "attempts": standing.attempts_of(row),
        "checkpoint_timestep": standing.agents.get(trial.id),
        "log": None if attempt is None else attempt.log,
        "error": trial.error,
    }
