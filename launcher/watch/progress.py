"""What a person sees: the plan, one live table while it runs, and the result."""

from __future__ import annotations

import contextlib
import functools
import math
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from launcher import stats
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Progress, StoredRecord
from launcher.ledger.storage import REFUSED
from launcher.plan.experiment import Placement, Trial
from launcher.watch.layout import LOST_STATES, by_configuration, layout, scores, totals
from launcher.watch.tables import count, duration, table
from runner.training.tracking import SCORE

LINES_EVERY = 10.0
"""Seconds between progress lines where the output is no terminal."""
LONGEST_PACK_CELL = 8
"""Configurations that the plan names per pack."""
ROWS = 40
"""Trials that a table lists which is printed once; of more it shows the configurations."""


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
        place = f"{count(placement.gpus, kind)}, {'one worker' if each == 1 else count(each, 'worker')} each"
    else:
        place = count(workers, "CPU worker")
        # With cores to spare, how many each gets is told once the environments are known.
        if placement.cpus > 1 or len(packs) >= placement.workers:
            cores = "one core" if placement.cpus == 1 else f"{placement.cpus} cores"
            place += f", {cores} each" if workers > 1 else f", {cores}"
    trials = [trial for pack in packs for trial in pack]
    sizes = f"[bold]{count(len(trials), 'trial')}[/] in {count(len(packs), 'pack')}"
    console.print(f"{sizes} on {place}; {left(trials):,} env steps in all", highlight=False)
    if placement.logical:
        console.print(
            "[bold red]LOGICAL GPUs:[/] they are only counted; everything runs on the CPU and says nothing about GPUs"
        )
    rows: list[list[str]] = []
    for number, pack in enumerate(packs, 1):
        first = pack[0].config
        names = [f"{name} ({_seeds(pack, name)})" for name in dict.fromkeys(t.name for t in pack)]
        if len(names) > LONGEST_PACK_CELL:
            names = [*names[: LONGEST_PACK_CELL - 1], f"… {len(names) - LONGEST_PACK_CELL + 1} more"]
        shared = (
            f"{first.env.num_envs} x {first.env.id}, {placement.backend(first)}, "
            f"{count(first.updates, 'update')} of {count(first.agent.rollouts, 'step')}"
        )
        rows.append([str(number), "\n".join(names), shared, f"{left(pack):,}"])
    console.print(table(["pack:", "trials", "what they share", "env steps:"], rows, console.width))
    console.print("Trials with the same network, environment and loop sizes train as one batched program.")
    console.print(f"Directory: {directory}", soft_wrap=True, highlight=False)


def show_cores(console: Console, placement: Placement) -> None:
    """Print how many cores a worker has and why, where some would stand idle if it were one."""
    if placement.why:
        most = count(placement.cpus, "core") + " for each worker"
        more = "; more would not be faster" if placement.cpus == 1 else ""
        console.print(f"{most}{more}: {placement.why}", highlight=False, soft_wrap=True)


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
        with contextlib.suppress(*REFUSED):  # a full disk: readers need a little of it too
            self._rows = self._ledger.progress(SCORE)
        if self._live is not None:
            self._live.update(_Screen(self._rows, full))
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


class _Screen:
    """What a live table shows, laid out for the terminal as it is at each refresh.

    Args:
        rows: all trials.
        notice: below the table.
    """

    def __init__(self, rows: Sequence[Progress], notice: str) -> None:
        self._rows = rows
        self._notice = notice
        # Ten thousand trials are not laid out four times a second for a terminal that stays as it is.
        self._table = functools.cache(functools.partial(layout, rows))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.size.height
        notice = Text(self._notice, "bold red").wrap(console, width)[: max(height - 1, 0)] if self._notice else []
        yield self._table(width, height - len(notice))
        yield from notice


class EvaluationView:
    """Follows `launch eval`: a bar on a terminal, else a line at most every ten seconds."""

    def __init__(self, console: Console, total: int, known: int) -> None:
        """Begin.

        Args:
            console: where to.
            total: checkpoints of which a score is wanted.
            known: those of which there is one already.
        """
        self._console, self._total, self._known = console, total, known
        columns = BarColumn(), MofNCompleteColumn(), TextColumn("checkpoints in"), TimeElapsedColumn()
        self._bar = Bar(*columns, TextColumn("{task.fields[left]}"), console=console, transient=True)
        self._task = self._bar.add_task("", total=total, completed=known, left="")
        self._began = self._said = time.monotonic()

    def __enter__(self) -> EvaluationView:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:  # to a pipe it would write an empty line
            self._bar.stop()

    def show(self, scored: int) -> None:
        """Show that so many checkpoints have a score now."""
        now = time.monotonic()
        left = time_left(scored - self._known, self._total - scored, now - self._began)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=scored, left=f"· {left}" if left else "")
        elif now - self._said >= LINES_EVERY:
            self._said = now
            line = f"[{now - self._began:5.0f} s] {scored:,} of {count(self._total, 'checkpoint')} evaluated, {left}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def time_left(done: int, missing: int, seconds: float) -> str:
    """How long what is `missing` will take, where `done` took so long: `0:30 left`; nothing before there is an end."""
    return f"{duration(seconds * missing / done)} left" if done else ""


def progress_line(rows: Sequence[Progress], seconds: float) -> str:
    """Where a launch stands after `seconds`."""
    return f"[{seconds:5.0f} s] {totals(rows)}"


def show_result(console: Console, directory: Path, seconds: float, before: int) -> None:
    """Print the final return of every trial, the statistics of every configuration, and where everything is.

    Args:
        console: where to.
        directory: of the launch.
        seconds: wall-clock time of the launch.
        before: env steps that were trained before it.
    """
    with Ledger(directory, writer=False) as ledger:
        rows = ledger.progress(SCORE, saved=True)
        logs = {attempt.number: attempt.log for attempt in ledger.attempts()}
        last = list(ledger.last_records().values())
    shown = console.is_terminal
    console.print(layout(rows, console.width, ROWS + 2 if shown else None, final=True, whole_names=not shown))
    for row in rows:
        if row.trial.state in LOST_STATES:
            log = logs.get(row.trial.attempt or 0)
            where = "" if log is None or row.trial.error else f" (log: {log})"
            show_failure(console, row.trial.id, row, where)
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
    groups = by_configuration(rows)
    for seeds in groups[:most]:
        console.print(summary(seeds[0].trial.config, seeds), soft_wrap=True, highlight=False)
    if most is not None and len(groups) > most:
        console.print(f"… and {count(len(groups) - most, 'more configuration')}", highlight=False)


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
    returns = np.array(scores(finished))
    lost = sum(row.trial.state in LOST_STATES for row in rows)
    unfinished = len(rows) - len(finished) - lost
    notes = [
        f"{number} of {count(len(rows), 'seed')} {what}"
        for number, what in (
            (lost, "failed or diverged"),
            (unfinished, "did not finish"),
            (len(finished) - len(returns), "never ended an episode"),
        )
        if number
    ]
    left_out = f"; not in these numbers: {', '.join(notes)}" if notes else ""
    if not len(returns):
        return f"[bold]{name}[/]: no final return: {', '.join(notes)}"
    rng = np.random.default_rng(0)
    interval = stats.bootstrap_interval(returns, stats.interquartile_mean, rng)
    spread = (
        f"95% bootstrap interval of the IQM {interval[0]:,.2f} to {interval[1]:,.2f}"
        if interval
        else "fewer than 3 seeds: no interval"
    )
    return (
        f"[bold]{name}[/]: {count(len(returns), 'seed')}, final return mean {returns.mean():,.2f}, "
        f"IQM {stats.interquartile_mean(returns):,.2f}, {spread}{left_out}"
    )
