"""`launch` in a process of its own, as a person starts it, and what it leaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launcher.ledger.ledger import Ledger
from tests.launcher.faulty import PATIENCE, counts, wait_until

LAUNCH = (sys.executable, "-m", "launcher.cli.main")


def command(words: Sequence[object], **streams: Any) -> subprocess.Popen[str]:
    """A program in a session of its own, as a terminal makes one; stderr goes where stdout does."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True} | streams
    return subprocess.Popen(list(map(str, words)), text=True, **streams)


def launch(*arguments: object) -> subprocess.Popen[str]:
    return command([*LAUNCH, *arguments])


def said(process: subprocess.Popen[str]) -> str:
    """All that it has printed, once it has ended."""
    return process.communicate(timeout=PATIENCE)[0]


def wait_for_records(process: subprocess.Popen[str], directory: Path, least: int) -> None:
    """Until every trial has `least` records; fails when the launch ends before."""
    trained: Callable[[], bool] = lambda: bool(found := counts(directory)) and min(found.values()) >= least  # noqa: E731
    ended: Callable[[], str] = lambda: process.poll() is not None and said(process)  # noqa: E731
    wait_until(trained, f"{least} records", failed=ended)


def session_of(number: int) -> list[int]:
    """Processes that the process of this number started, at any depth, and itself."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit():
                fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[3]) == number and fields[0] != "Z":
                    found.append(int(process.name))
        except OSError:
            continue
    return found


def assert_saved(directory: Path, state: str) -> None:
    """Every trial is in this state, its last checkpoint holds all that was trained, and the ledger is one file."""
    assert sorted(path.name for path in directory.glob("ledger.*")) == ["ledger.lock", "ledger.sqlite"]
    with Ledger(directory, writer=False) as ledger:
        agents = ledger.last_agents()
        for row in ledger.progress():
            assert row.trial.state == state, row
            assert row.env_steps == agents[row.trial.id] * row.trial.num_envs > 0, row
            assert row.records == max(one.records for one in ledger.checkpoints(row.trial.id)), row
