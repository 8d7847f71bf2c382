"""What a person sees: the plan, one live table while it runs, and the result."""

from __future__ import annotations

import contextlib
import math
import shlex
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launcher import stats
from launcher.ledger import Ledger
from launcher.plan import Placement, Trial
from launcher.rows import Progress, StoredRecord
from runner.tracking import SCORE

LINES_EVERY = 10.0
"""Seconds between progress lines where the output is no terminal."""
LONGEST_PACK_CELL = 8
"""Configurations that the plan names per pack."""
TALLEST = 30
"""Trials that the live table lists; of more it shows those that run."""
LOST_STATES = ("failed", "diverged")
STYLES = {"finished": "green", "running": "cyan", "failed": "red", "diverged": "red", "interrupted": "yellow"}


def show_plan(
    console: Console,
    directory: Path,
    packs: Sequence[Sequence[Trial]],
    placement: Placement,
    begin: Mapping[str, int],
) -> None:
    """Print trials, packs, workers, and the env steps that are left from the timesteps at which trials `begin`."""

    def left(pack: Iterable[Trial]) -> int:
        return sum(trial.env_steps - begin.get(trial.id, 0) * (trial.config.env.num_envs or 0) for trial in pack)

    workers = min(placement.workers, len(packs))
    if placement.gpus:
        kind = "logical GPU" if placement.logical else "GPU"
        each = math.ceil(workers / placement.gpus)
        place = f"{count(placement.gpus, kind)}, {'one worker each' if each == 1 else f'{each} workers each'}"
    else:
        place = f"{count(workers, 'CPU worker')}, {'one core each' if workers > 1 else 'one core'}"
    trials = [trial for pack in packs for trial in pack]
    sizes = f"[bold]{count(len(trials), 'trial')}[/] in {count(len(packs), 'pack')}"
    console.print(f"{sizes} on {place}; {left(trials):,} env steps in all", highlight=False)
    if placement.logical:
        console.print(
            "[bold red]LOGICAL GPUs:[/] they are only counted; everything runs on the CPU and says nothing about GPUs"
        )
    table = _table("pack:", "trials", "what they share", "env steps:")
    for number, pack in enumerate(packs, 1):
        first = pack[0].config
        names = [f"{name} ({_seeds(pack, name)})" for name in dict.fromkeys(t.name for t in pack)]
        if len(names) > LONGEST_PACK_CELL:
            names = [*names[: LONGEST_PACK_CELL - 1], f"… {len(names) - LONGEST_PACK_CELL + 1} more"]
        shared = (
            f"{first.env.num_envs} x {first.env.id}, {placement.backend(first)}, "
            f"{count(first.updates, 'update')} of {count(first.agent.rollouts, 'step')}"
        )
        table.add_row(str(number), "\n".join(names), shared, f"{left(pack):,}")
    console.print(table)
    console.print("Trials with the same network, environment and loop sizes train as one batched program.")
    console.print(f"Directory: {directory}", soft_wrap=True, highlight=False)


def count(number: int, noun: str) -> str:
    """`1 trial`, `2,000 trials`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _table(*headings: str) -> Table:
    """A plain table, which breaks its texts where the terminal is narrow, never its numbers.

    A colon after a heading makes its column numbers, aligned right.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        if heading.endswith(":"):
            table.add_column(heading.rstrip(":"), justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold", no_wrap=heading == "state")
    return table


def _seeds(pack: Sequence[Trial], name: str) -> str:
    """`seed 3`, `seeds 0-7`, `seeds 3, 5, 7-9`."""
    seeds = sorted(t.config.seed or 0 for t in pack if t.name == name)
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and runs[-1][1] == seed - 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(shown)}"


class View:
    """Follows a launch: a live table on a terminal, else a line every ten seconds."""

    def __init__(self, console: Console, directory: Path) -> None:
        self._console = console
        self._directory = directory
        self._ledger = Ledger(directory, writer=False)
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._began = time.monotonic()
        self._due = self._began
        self._rows: list[Progress] = []

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._ledger.disconnect()

    def refresh(self, refusing: float = 0.0) -> None:
        """Show how things stand; what cannot be read just now is shown later.

        Args:
            refusing: for how many seconds the disk has taken nothing.
        """
        now = time.monotonic()
        if now < self._due:
            return
        full = f"DISK FULL for {duration(refusing)}: training waits for room in {self._directory}" if refusing else ""
        with contextlib.suppress(sqlite3.OperationalError):  # a full disk: readers need a little of it too
            self._rows = self._ledger.progress(SCORE)
        if self._live is not None:
            self._live.update(Group(progress_table(self._rows), Text(full, "bold red")))
            # Of tens of thousands of trials reading takes a second: a launch has more to do than to be looked at.
            self._due = now + 10 * (time.monotonic() - now)
            return
        self._due = now + LINES_EVERY
        for line in (self._rows and progress_line(self._rows, now - self._began), full):
            if line:
                self.say(line)

    def say(self, text: str) -> None:
        """Print a line, above the table if there is one."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def progress_line(rows: Sequence[Progress], seconds: float) -> str:
    """Where a launch stands after `seconds`."""
    return f"[{seconds:5.0f} s] {totals(rows)}"


def totals(rows: Sequence[Progress]) -> str:
    """How many trials are in which state, and how far they are together."""
    states = Counter(map(_doing, rows))
    counts = ", ".join(f"{number:,} {state}" for state, number in states.items())
    steps, total = sum(row.env_steps for row in rows), _steps(rows)
    return (
        f"{counts}: {steps:,} of {total:,} env steps ({_percent(steps, total)}), "
        f"{_rate(rows):,.0f} steps/s, mean return {_number(_mean(rows))}, time left {_left(rows)}"
    )


def _running(rows: Sequence[Progress]) -> list[Progress]:
    return [row for row in rows if row.trial.state == "running"]


def _rate(rows: Sequence[Progress]) -> float:
    return sum(row.steps_per_second or 0 for row in _running(rows))


def _steps(rows: Sequence[Progress]) -> int:
    """Env steps that the trials are to reach."""
    return sum(row.trial.timesteps * row.trial.num_envs for row in rows)


def _percent(steps: int, total: int) -> str:
    return f"{100 * steps // max(total, 1)}%"


def _scores(rows: Sequence[Progress]) -> list[float]:
    """Returns of the trials in which an episode has ended."""
    return [row.value for row in rows if row.value is not None and not math.isnan(row.value)]


def _mean(rows: Sequence[Progress]) -> float | None:
    """Mean return; None across configurations, where it would mean nothing."""
    values = _scores(rows)
    return float(np.mean(values)) if values and len({row.trial.config for row in rows}) == 1 else None


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:,.2f}"


def _left(rows: Sequence[Progress]) -> str:
    """Time until all is done at the present rate."""
    rate = _rate(rows)
    waiting = [r for r in rows if r.trial.state in ("running", "pending", "interrupted")]
    missing = sum(r.trial.timesteps * r.trial.num_envs - r.env_steps for r in waiting)
    return duration(missing / rate) if rate else "-"


def duration(seconds: float) -> str:
    """`1:05`, `2:00:00`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress_table(
    rows: Sequence[Progress],
    shown: Sequence[Progress] | None = None,
    attempts: Mapping[str, int] | None = None,
    rest: str = "",
) -> Table:
    """A row per trial and a total.

    Args:
        rows: all trials, which the total counts.
        shown: those with a row of their own; None: all, or of more than TALLEST those that run.
        attempts: trial → number, for a column of them.
        rest: follows the number of trials that are not shown.
    """
    column = [] if attempts is None else ["attempts:"]
    table = _table("config", "seed:", "state", *column, "env steps:", "done:", "steps/s:", "return:", "time left:")
    if shown is None:
        shown = rows if len(rows) <= TALLEST else _running(rows)[:TALLEST]
    for row in shown:
        running = row.trial.state == "running"
        table.add_row(
            row.trial.config,
            str(row.trial.seed),
            _state(_doing(row)),
            *([] if attempts is None else [str(attempts.get(row.trial.trial, 0))]),
            f"{row.env_steps:,}",
            _percent(row.env_steps, _steps([row])),
            f"{row.steps_per_second:,.0f}" if running and row.steps_per_second else "-",
            _number(row.value),
            _left([row]) if running else "-",
        )
    if len(shown) < len(rows):
        table.add_row(f"… {len(rows) - len(shown):,} more{rest}")
    steps = sum(row.env_steps for row in rows)
    table.add_row(
        f"[bold]{count(len(rows), 'trial')}[/]",
        "",
        f"{sum(r.trial.state == 'finished' for r in rows):,} finished",
        *([] if attempts is None else [""]),
        f"{steps:,}",
        _percent(steps, _steps(rows)),
        f"{_rate(rows):,.0f}",
        _number(_mean(rows)),
        _left(rows),
    )
    return table


def _doing(row: Progress) -> str:
    """The state of a trial; of one that runs but does not train yet, what it waits for."""
    state = row.trial.state
    if state == "pending" and row.trial.error:
        return "retrying"
    return state if state != "running" or row.note == "training" else row.note or "starting"


def _state(state: str) -> str:
    return f"[{STYLES.get(state, 'dim')}]{state}[/]"


def show_result(console: Console, directory: Path, seconds: float, before: int) -> None:
    """Print the final return of every trial, the statistics of every configuration, and where everything is.

    Args:
        console: where to.
        directory: of the launch.
        seconds: wall-clock time of the launch.
        before: env steps that were trained before it.
    """
    with Ledger(directory, writer=False) as ledger:
        rows = ledger.progress(SCORE)
        logs = {attempt.number: attempt.log for attempt in ledger.attempts()}
        last = list(ledger.last_records().values())
    table = _table("config", "seed:", "state", "env steps:", "return (last 100 episodes):")
    for row in rows:
        trial = row.trial
        table.add_row(trial.config, str(trial.seed), _state(trial.state), f"{row.env_steps:,}", _number(row.value))
    console.print(table)
    for row in rows:
        if row.trial.state in LOST_STATES:
            log = logs.get(row.trial.attempt or 0)
            where = "" if log is None or row.trial.error else f" (log: {log})"
            show_failure(console, row.trial.trial, row, where)
    show_statistics(console, rows)
    trained = max(sum(row.env_steps for row in rows) - before, 0)
    busy = _busy_seconds(last, time.time() - seconds)
    speed = f", {trained / busy:,.0f} steps/s while training" if busy else ""
    console.print(
        f"{trained:,} env steps in {seconds:,.1f} s, start-up included{speed}", highlight=False, soft_wrap=True
    )
    console.print(f"Directory:   {directory}", soft_wrap=True, highlight=False)
    console.print(
        f"TensorBoard: tensorboard --logdir {shlex.quote(str(directory / 'tensorboard'))}",
        soft_wrap=True,
        highlight=False,
    )


def show_failure(console: Console, who: str, row: Progress, more: str = "") -> None:
    """Print that `who` failed or diverged, why, and then `more`."""
    what = row.trial.error or "a loss or parameter stopped being a finite number; the last finite state is saved"
    console.print(f"[red]{who} {row.trial.state}:[/] ", end="")
    console.print(f"{what}{more}", markup=False, highlight=False, soft_wrap=True)


def show_statistics(console: Console, rows: Sequence[Progress], most: int | None = None) -> None:
    """Print a line of statistics for each configuration, or for the first `most` of them."""
    by_name: dict[str, list[Progress]] = {}
    for row in rows:
        by_name.setdefault(row.trial.config, []).append(row)
    for name, seeds in list(by_name.items())[:most]:
        console.print(summary(name, seeds), soft_wrap=True, highlight=False)
    if most is not None and len(by_name) > most:
        console.print(f"… and {count(len(by_name) - most, 'more configuration')}", highlight=False)


def _busy_seconds(last: Sequence[StoredRecord], began: float) -> float:
    """Seconds since `began` in which at least one trial was training, from the last record of each."""
    spans = sorted((max(stored.wall_time - stored.record.seconds, began), stored.wall_time) for stored in last)
    total, reached = 0.0, began
    for start, end in spans:
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def summary(name: str, rows: Sequence[Progress]) -> str:
    """One line: final return of a configuration across its seeds, and how many seeds it stands on."""
    finished = [row for row in rows if row.trial.state == "finished"]
    scores = np.array(_scores(finished))
    lost = sum(row.trial.state in LOST_STATES for row in rows)
    unfinished = len(rows) - len(finished) - lost
    notes = [
        f"{number} of {count(len(rows), 'seed')} {what}"
        for number, what in (
            (lost, "failed or diverged"),
            (unfinished, "did not finish"),
            (len(finished) - len(scores), "never ended an episode"),
        )
        if number
    ]
    left_out = f"; not in these numbers: {', '.join(notes)}" if notes else ""
    if not len(scores):
        return f"[bold]{name}[/]: no final return: {', '.join(notes)}"
    rng = np.random.default_rng(0)
    interval = stats.bootstrap_interval(scores, stats.interquartile_mean, rng)
    spread = (
        f"95% bootstrap interval of the IQM {interval[0]:,.2f} to {interval[1]:,.2f}"
        if interval
        else "fewer than 3 seeds: no interval"
    )
    return (
        f"[bold]{name}[/]: {count(len(scores), 'seed')}, final return mean {scores.mean():,.2f}, "
        f"IQM {stats.interquartile_mean(scores):,.2f}, {spread}{left_out}"
    )
