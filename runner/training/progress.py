"""The progress of a training, for who waits for it: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from statistics import fmean
from types import TracebackType

from runner.training.tracking import SCORE, STEPS_PER_SECOND, Record

REFRESH_SECONDS = 0.2
LINE_SECONDS, LINE_SHARE = 10.0, 0.1
"""Least time, and least share of the whole, between two lines."""


UNWRITABLE = AttributeError, OSError, ValueError
"""What output raises that cannot be written: no stream at all, a pipe that was closed, a full disk, a closed file."""


def say(line: str) -> None:
    """Print a line, in ASCII where the output knows nothing else; what cannot be written takes no result with it."""
    try:
        try:
            print(line)
        except UnicodeEncodeError:
            print(line.replace("±", "+/-").encode("ascii", "replace").decode())
    except UNWRITABLE:
        pass


class Progress:
    """Progress of one training on stderr; an output that cannot be written is given up, never the training."""

    def __init__(self, timestep: Callable[[], int], total: int, shown: bool) -> None:
        """Show nothing yet.

        Args:
            timestep: where training is.
            total: where it ends.
            shown: else nothing ever is.
        """
        self._timestep, self._total = timestep, total
        self._shown = shown and sys.stderr is not None
        self._began = self._looked = time.perf_counter()
        self._said = timestep()
        self._measured = ""

    def __enter__(self) -> Progress:
        self._try(self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._try(self._close)

    def advance(self) -> bool:
        """Look at the clock after every update, and seldom write; never ends training."""
        now = time.perf_counter()
        if self._shown and now - self._looked > REFRESH_SECONDS:
            self._looked = now
            self._try(self._refresh)
        return False

    def report(self, records: Sequence[Record | None]) -> None:
        """Keep what records say of speed and returns, for the next refresh."""
        known = [record.values for record in records if record is not None]
        if known:
            self._measured = f"{known[0][STEPS_PER_SECOND] * len(records):,.0f} env steps/s"
            if scores := [values[SCORE] for values in known if SCORE in values]:
                self._measured += f", return {fmean(scores):.4g}"

    def _try(self, write: Callable[[], None]) -> None:
        if self._shown:
            try:
                write()
            except UNWRITABLE:
                self._shown = False

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar: Bar | None = None

        class Ours(Console):
            def on_broken_pipe(self) -> None:
                raise  # rich would end the process

        console = Ours(stderr=True)
        if console.is_terminal:
            words = TextColumn("timestep {task.completed:,} of {task.total:,}"), TextColumn("{task.fields[measured]}")
            self._bar = Bar(BarColumn(), *words, TimeRemainingColumn(), console=console, auto_refresh=False)
            self._task = self._bar.add_task("", total=self._total, completed=self._said, measured="")
            self._bar.start()

    def _refresh(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._timestep(), measured=self._measured, refresh=True)
        elif self._looked - self._began > LINE_SECONDS and self._timestep() - self._said > LINE_SHARE * self._total:
            self._line()

    def _close(self) -> None:
        if self._bar is not None:
            self._refresh()
            self._bar.stop()
        else:
            self._line()

    def _line(self) -> None:
        self._began, self._said = self._looked, self._timestep()
        measured = f" ({self._measured})" if self._measured else ""
        print(f"timestep {self._said:,} of {self._total:,}{measured}", file=sys.stderr, flush=True)
