"""The plan of a launch before it runs, and a live view of it, or of an evaluation, while it does."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Progress
from launcher.ledger.storage import REFUSED
from launcher.plan.experiment import Placement, Trial
from launcher.watch.layout import layout, totals
from launcher.watch.standing import at_present
from launcher.watch.tables import count, duration, say, table
from runner.training.tracking import SCORE

LINES_EVERY = 10.0
"""Seconds between progress lines where the output is no terminal."""
LONGEST_PACK_CELL = 8
"""Configurations that the plan names per pack."""


def show_plan(
    console: Console,
    directory: Path,
    packs: Sequence[Sequence[Trial]],
    placement: Placement,
    begin: Mapping[str, int],
    search: bool = False,
) -> None:
    """Print trials, packs, workers, and the env steps that are left from the timesteps at which trials `begin`.

    A `search` may leave some of them, and add others.
    """

    def left(pack: Iterable[Trial]) -> int:
        return sum(trial.config.env_steps - begin.get(trial.id, 0) * (trial.config.env.num_envs or 0) for trial in pack)

    trials = [trial for pack in packs for trial in pack]
    sizes = f"[bold]{count(len(trials), 'trial')}[/] in {count(len(packs), 'pack')}"
    whole = "if all are trained to their ends" if search else "in all"
    place = _place(min(placement.workers, len(packs)), placement, len(packs))
    console.print(f"{sizes} on {place}; {left(trials):,} env steps {whole}", highlight=False)
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
        loop = f"{count(first.updates, 'update')} of {count(first.agent.rollouts, 'step')}"
        shared = f"{first.env.num_envs} x {first.env.id}, {placement.backend(first)}, {loop}"
        rows.append([str(number), "\n".join(names), shared, f"{left(pack):,}"])
    console.print(table(["pack:", "trials", "what they share", "env steps:"], rows, console.width))
    console.print("Trials with the same network, environment and loop sizes train as one batched program.")
    say(console, f"Directory: {directory}")


def _place(workers: int, placement: Placement, packs: int) -> str:
    """`2 CPU workers, one core each`."""
    if placement.devices > 1:
        device = "CPU core" if not placement.gpus else "logical GPU" if placement.logical else "GPU"
        cores = "" if placement.gpus or placement.cpus == 1 else f" of {placement.cpus} cores"
        return f"{workers * placement.devices} processes{cores}, {placement.devices} for each pack, on a {device} each"
    if placement.gpus:
        each = math.ceil(workers / placement.gpus)
        on = "one worker" if each == 1 else count(each, "worker")
        return f"{count(placement.gpus, 'logical GPU' if placement.logical else 'GPU')}, {on} each"
    place = count(workers, "CPU worker")
    # With cores to spare, how many each gets is told once the environments are known.
    if placement.cpus == 1 and packs < placement.workers:
        return place
    cores = "one core" if placement.cpus == 1 else f"{placement.cpus} cores"
    return f"{place}, {cores} each" if workers > 1 else f"{place}, {cores}"


def show_cores(console: Console, placement: Placement) -> None:
    """Print how many cores a worker has and why, where some would stand idle if it were one."""
    if placement.why:
        most = count(placement.cpus, "core") + " for each worker"
        more = "; more would not be faster" if placement.cpus == 1 else ""
        say(console, f"{most}{more}: {placement.why}")


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
    """A launch while it runs: a live table on a terminal, else a line every ten seconds."""

    def __init__(self, console: Console, directory: Path) -> None:
        self._console, self._directory = console, directory
        self._ledger = Ledger(directory, writer=False)
        self._began = self._due = time.monotonic()
        self._show([], "")
        self._live = Live(get_renderable=self._screen, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:  # to a pipe it would write an empty line
            self._live.stop()
        self._ledger.disconnect()

    def refresh(self, refusing: float = 0.0) -> None:
        """Show the launch as it is, where the disk has taken nothing for `refusing` seconds, a few times a second."""
        now = time.monotonic()
        if now < self._due:
            return
        full = f"DISK FULL for {duration(refusing)}: training waits for room in {self._directory}" if refusing else ""
        rows = self._rows
        with contextlib.suppress(*REFUSED):  # a full disk: readers need a little of it too
            rows = at_present(self._ledger.progress(SCORE), True, self._ledger.stop_requested())
        self._show(rows, full)
        if self._console.is_terminal:
            # Of tens of thousands of trials reading takes a second: a launch has more to do than to be looked at.
            self._due = now + 10 * (time.monotonic() - now)
            return
        self._due = now + LINES_EVERY
        for line in (progress_line(rows, now - self._began) if rows else "", full):
            if line:
                self.say(line)

    def say(self, text: str) -> None:
        """Print a line, above the table if there is one."""
        say(self._console, text)

    def _show(self, rows: Sequence[Progress], notice: str) -> None:
        self._rows, self._notice = rows, notice
        # Ten thousand trials are not laid out four times a second for a terminal that stays as it is.
        self._table = functools.cache(functools.partial(layout, rows))

    def _screen(self) -> Group:
        """The table and the notice below it, laid out for the terminal as it is at each refresh."""
        if not self._rows:  # nothing has been read yet
            return Group()
        width, height = self._console.size
        notice = Text(self._notice, "bold red").wrap(self._console, width)[: max(height - 1, 0)] if self._notice else []
        return Group(self._table(width, height - len(notice)), *notice)


class EvaluationView:
    """`launch eval` while it runs, of `total` checkpoints: a bar on a terminal, else a line every ten seconds.

    `known` are those of which there was a score before.
    """

    def __init__(self, console: Console, total: int, known: int) -> None:
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
            done = f"{scored:,} of {count(self._total, 'checkpoint')} evaluated"
            say(self._console, f"[{now - self._began:5.0f} s] {done}, {left}")


def time_left(done: int, missing: int, seconds: float) -> str:
    """The time for what is `missing`, where `done` took so long: `0:30 left`; nothing before there is an end."""
    return f"{duration(seconds * missing / done)} left" if done else ""


def progress_line(rows: Sequence[Progress], seconds: float) -> str:
    """A line on a launch after `seconds`."""
    return f"[{seconds:5.0f} s] {totals(rows)}"
