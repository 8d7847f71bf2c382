"""What a person sees: the plan, one live table while it runs, and the result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from launcher import stats
from launcher.ledger import Ledger, Progress
from launcher.plan import Placement, Trial
from runner.tracking import SCORE

LINES_EVERY = 10.0
"""Seconds between progress lines where the output is no terminal."""
TALLEST = 30
"""Trials that the live table lists; of more it shows those that run."""
STYLES = {"finished": "green", "running": "cyan", "failed": "red", "diverged": "red", "interrupted": "yellow"}


def show_plan(console: Console, directory: Path, packs: Sequence[Sequence[Trial]], placement: Placement) -> None:
    """Print trials, packs, workers and sizes."""
    if placement.gpus:
        place = f"{placement.gpus} {'logical ' if placement.logical else ''}GPUs, one worker each"
    else:
        pinned = "pinned to a core each" if placement.workers > 1 or placement.cpus == 1 else ""
        place = f"{min(placement.workers, len(packs))} single-threaded CPU workers {pinned}"
    trials = [trial for pack in packs for trial in pack]
    steps = sum(trial.env_steps for trial in trials)
    console.print(f"[bold]{len(trials)} trials[/] in {len(packs)} packs on {place}; {steps:,} env steps in all")
    if placement.logical:
        console.print(
            "[bold red]LOGICAL GPUs:[/] they are only counted; everything runs on the CPU and says nothing about GPUs"
        )
    table = Table(box=None, pad_edge=False)
    for heading in ("pack", "trials", "what they share", "env steps"):
        table.add_column(heading, justify="right" if heading == "env steps" else "left")
    for number, pack in enumerate(packs, 1):
        first = pack[0].config
        names = ", ".join(f"{name} (seeds {_seeds(pack, name)})" for name in dict.fromkeys(t.name for t in pack))
        shared = (
            f"{first.env.id} x {first.env.num_envs}, {first.backend}, "
            f"{first.agent.rollouts}-step rollouts, {first.updates:,} updates"
        )
        table.add_row(str(number), names, shared, f"{sum(t.env_steps for t in pack):,}")
    console.print(table)
    console.print("Trials with the same network, environment and loop sizes train as one batched program.")
    console.print(f"Directory: {directory}", soft_wrap=True)


def _seeds(pack: Sequence[Trial], name: str) -> str:
    return ",".join(str(t.config.seed) for t in pack if t.name == name)


class View:
    """Follows a launch: a live table on a terminal, else a line every ten seconds."""

    def __init__(self, console: Console, directory: Path) -> None:
        self._console = console
        self._ledger = Ledger(directory, writer=False)
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._began = time.monotonic()
        self._line_due = self._began

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._ledger.disconnect()

    def refresh(self) -> None:
        """Show how things stand."""
        if self._live is None and time.monotonic() < self._line_due:
            return
        rows = self._ledger.progress(SCORE)
        if self._live is not None:
            self._live.update(progress_table(rows))
            return
        self._line_due = time.monotonic() + LINES_EVERY
        states = {state: sum(row.trial.state == state for row in rows) for state in dict.fromkeys(_states(rows))}
        counts = ", ".join(f"{number} {state}" for state, number in states.items())
        steps, total = sum(r.env_steps for r in rows), sum(r.trial.timesteps * r.trial.num_envs for r in rows)
        self._console.print(
            f"[{time.monotonic() - self._began:5.0f} s] {counts}: {steps:,} of {total:,} env steps, "
            f"{_rate(rows):,.0f} steps/s, return {_number(_mean(rows))}, time left {_left(rows)}",
            highlight=False,
            markup=False,
        )


def _states(rows: Sequence[Progress]) -> list[str]:
    return [row.trial.state for row in rows]


def _running(rows: Sequence[Progress]) -> list[Progress]:
    return [row for row in rows if row.trial.state == "running"]


def _rate(rows: Sequence[Progress]) -> float:
    return sum(row.steps_per_second or 0 for row in _running(rows))


def _mean(rows: Sequence[Progress]) -> float | None:
    values = [row.value for row in rows if row.value is not None]
    return float(np.mean(values)) if values else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _left(rows: Sequence[Progress]) -> str:
    """Time until all is done at the present rate."""
    rate = _rate(rows)
    waiting = [r for r in rows if r.trial.state in ("running", "pending", "interrupted")]
    missing = sum(r.trial.timesteps * r.trial.num_envs - r.env_steps for r in waiting)
    return _duration(missing / rate) if rate else "-"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress_table(rows: Sequence[Progress]) -> Table:
    """A row per trial and a total."""
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "state", "env steps", "steps/s", "return", "time left"):
        table.add_column(heading, justify="left" if heading in ("trial", "state") else "right", no_wrap=True)
    shown = rows if len(rows) <= TALLEST else _running(rows)[:TALLEST]
    for row in shown:
        state = row.trial.state
        running = state == "running"
        starting = running and not row.records
        table.add_row(
            row.trial.trial,
            f"[{STYLES.get(state, 'dim')}]{'starting' if starting else state}[/]",
            f"{row.env_steps:,}",
            f"{row.steps_per_second:,.0f}" if running and row.steps_per_second else "-",
            _number(row.value),
            _left([row]) if running else "-",
        )
    if len(shown) < len(rows):
        table.add_row(f"… {len(rows) - len(shown)} more", "", "", "", "", "")
    table.add_row(
        f"[bold]{len(rows)} trials[/]",
        f"{sum(r.trial.state == 'finished' for r in rows)} finished",
        f"{sum(r.env_steps for r in rows):,}",
        f"{_rate(rows):,.0f}",
        _number(_mean(rows)),
        _left(rows),
    )
    return table


def show_result(console: Console, directory: Path, seconds: float) -> None:
    """Print the final return of every trial, the statistics of every configuration, and where everything is.

    Args:
        console: where to.
        directory: of the launch.
        seconds: wall-clock time of the launch.
    """
    with Ledger(directory, writer=False) as ledger:
        rows = ledger.progress(SCORE)
        logs = {attempt.number: attempt.log for attempt in ledger.attempts()}
        last = {row.trial.trial: ledger.records(row.trial.trial, row.records - 1) for row in rows if row.records}
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "state", "env steps", "final return"):
        table.add_column(heading, justify="left" if heading in ("trial", "state") else "right", no_wrap=True)
    for row in rows:
        state = row.trial.state
        table.add_row(
            row.trial.trial, f"[{STYLES.get(state, 'dim')}]{state}[/]", f"{row.env_steps:,}", _number(row.value)
        )
    console.print(table)
    for row in rows:
        if row.trial.state in ("failed", "diverged"):
            log = logs.get(row.trial.attempt or 0)
            what = (
                row.trial.error or "a loss or parameter stopped being a finite number; the last finite state is saved"
            )
            where = "" if log is None or row.trial.error else f" (log: {log})"
            console.print(f"[red]{row.trial.trial} {row.trial.state}:[/] ", end="")
            console.print(f"{what}{where}", markup=False, highlight=False, soft_wrap=True)
    for name in dict.fromkeys(row.trial.config for row in rows):
        console.print(summary(name, [row for row in rows if row.trial.config == name]), soft_wrap=True)
    trained = sum(row.env_steps for row in rows)
    busy = [records[-1].record.seconds for records in last.values() if records]
    rate = sum(r.env_steps / s for r, s in zip([r for r in rows if r.records], busy, strict=True) if s > 0)
    console.print(
        f"{trained:,} env steps in {seconds:.1f} s, start-up included; while training the trials ran at {rate:,.0f} "
        "steps/s summed over all",
        highlight=False,
    )
    console.print(f"Directory:   {directory}", soft_wrap=True, highlight=False)
    console.print(f"TensorBoard: tensorboard --logdir {directory / 'tensorboard'}", soft_wrap=True, highlight=False)


def summary(name: str, rows: Sequence[Progress]) -> str:
    """One line: final return of a configuration across its seeds, and how many seeds it stands on."""
    scores = np.array([r.value for r in rows if r.value is not None and r.trial.state == "finished"])
    lost = [r for r in rows if r.trial.state in ("failed", "diverged")]
    note = f"; {len(lost)} of {len(rows)} seeds failed or diverged and are not in these numbers" if lost else ""
    if not len(scores):
        return f"[bold]{name}[/]: no finished trial has ended an episode{note}"
    rng = np.random.default_rng(0)
    interval = stats.bootstrap_interval(scores, stats.interquartile_mean, rng)
    spread = (
        f"95% bootstrap interval of the IQM {interval[0]:,.2f} to {interval[1]:,.2f}"
        if interval
        else "fewer than 3 seeds: no interval"
    )
    return (
        f"[bold]{name}[/]: {len(scores)} seeds, final return mean {scores.mean():,.2f}, "
        f"IQM {stats.interquartile_mean(scores):,.2f}, {spread}{note}"
    )
