"""Trainings that no machine is too fast for: they wait, at a gate, until a test has done its harm.

`python -m tests.launcher.held GATE AT PACE WORD...` is `launch WORD...` with workers of that kind.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launcher.cli.main import main
from launcher.run import pool
from launcher.run.worker import Link, Worker

PROGRAM = (sys.executable, "-m", "tests.launcher.held")


def recording(beside: Callable[[Link, Any], None]) -> type[Worker]:
    """A worker which calls `beside(link, records)` before each of its records; Ray carries it as it is here."""

    class Recording(Worker):
        def _follow(self, runner: Any, link: Any, job: Any, account: Any) -> str:
            record = link.record

            def recorded(records: Any) -> None:
                beside(link, records)
                record(records)

            link.record = recorded
            return super()._follow(runner, link, job, account)

    return Recording


def held(gate: Path, at: int = sys.maxsize, pace: float = 0.0) -> type[Worker]:
    """A worker that makes no more than `at` records of a trial, `pace` seconds apart, until `let` says otherwise.

    What it is ordered meanwhile, to stop or that its trials are lost, it obeys.
    """

    def wait(link: Link, records: Any) -> None:
        time.sleep(0 if gate.exists() else pace)
        made = max((record.index for record in records.values()), default=0)
        while made >= (int(gate.read_text()) if gate.exists() else at) and set(link.orders.values()) == {"go"}:
            time.sleep(0.01)

    return recording(wait)


def let(gate: Path, at: int = sys.maxsize) -> None:
    """Let whoever is held there make so many records of each trial, without a pause."""
    new = gate.with_suffix(".new")
    new.write_text(str(at))
    new.replace(gate)


def held_launch(gate: Path, at: int = sys.maxsize, pace: float = 0.0) -> list[str]:
    """The words that begin the command of such a launch."""
    return [*PROGRAM, str(gate), str(at), str(pace)]


def run(words: Sequence[str]) -> int:
    """Launch."""
    gate, at, pace, *rest = words
    pool.Worker = held(Path(gate), int(at), float(pace))
    sys.argv[1:] = rest
    return main()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
