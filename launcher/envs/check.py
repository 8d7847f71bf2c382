"""`launch check`: an environment is tried in a process of its own, and what was found is printed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from launcher.envs.examine import Finding
from launcher.run.process import of_program
from runner.config.schema import EnvConfig

SECONDS = 8.0
"""For the trial."""
LONGEST_SECONDS = 60.0
"""After which it is given up."""
ABORT_SECONDS = 5.0
"""For it to say where it is."""
MARKS = {"right": ("✓", "green"), "note": ("!", "yellow"), "wrong": ("✗", "red")}


def check(env: EnvConfig, longest: float = LONGEST_SECONDS) -> list[Finding]:
    """Try an environment, whatever becomes of the process that does, and of those that it starts."""
    with tempfile.TemporaryDirectory() as folder:
        file, log, ending = Path(folder) / "findings", Path(folder) / "log", None
        file.touch()
        command = [sys.executable, "-P", "-m", "launcher.envs.examine", env.model_dump_json(), str(SECONDS), str(file)]
        with (
            log.open("wb") as printed,  # for the end of a pipe one may wait, if others write to it too
            subprocess.Popen(
                command,
                env=of_program() | {"PYTHONFAULTHANDLER": "1", "PYTHONWARNINGS": "ignore"},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as trial,
        ):
            try:
                trial.wait(longest)
            except subprocess.TimeoutExpired:
                ending = f"it has not come to an end within {longest:.0f} s"
                trial.send_signal(signal.SIGABRT)  # which says where it is
                with contextlib.suppress(subprocess.TimeoutExpired):
                    trial.wait(ABORT_SECONDS)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(trial.pid, signal.SIGKILL)
        found = [json.loads(line) for line in file.read_text().splitlines()]
        code = None if found[-1:] == [None] and not trial.returncode else trial.returncode
        told = [Finding(*line) for line in found if line is not None]
        return [*told, *_ending(code, ending, log.read_text(errors="replace"))]


def _ending(code: int | None, ending: str | None, printed: str) -> Iterator[Finding]:
    """Findings on how the process ended, with this status if that was before its last finding, and what it printed."""
    lines = [line for line in printed.splitlines() if line.strip()]
    if ending is None and code is not None:
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        ending = f"it ended its process: {how}"
    if ending is not None:
        place = next((line.strip() for line in lines if line.strip().startswith("File ")), "")
        yield Finding(
            "wrong", f"{ending} ({place})" if place else ending, "wait for nothing, and leave errors to Python"
        )
    elif lines:
        fix = "each of many environments would; print nothing, or to a log of its own"
        yield Finding("note", f"it prints {len(lines):,} lines, the first: {lines[0][:100]}", fix)


def show(console: Console, name: str, found: list[Finding]) -> None:
    """Print findings, with a fix beside each fault."""
    console.print(Text(name, style="bold"))
    for level, what, fix in found:
        mark, style = MARKS[level]
        console.print(Text.assemble("  ", (mark, style), f" {what}"), soft_wrap=True)
        if fix:
            console.print(Text(f"      {fix}", style="dim"), soft_wrap=True)
