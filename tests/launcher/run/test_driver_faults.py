"""Faults of the launcher's own process on a real Ray, each in a process as a person starts it: `pytest -m cluster`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from launcher.ledger.ledger import Ledger
from tests.launcher.commands import command, launch, said, session_of, wait_for_records
from tests.launcher.faulty import (
    CHECKPOINT,
    ENDLESS,
    RECORD,
    assert_whole,
    saved,
    wait_until,
    worker_pids,
    write_config,
)
from tests.launcher.held import held_launch

pytestmark = pytest.mark.cluster


RECORDS = 200


def words(tmp_path: Path, timesteps: int) -> list[object]:
    """The arguments of a launch of two seeds into `tmp_path / "run"`."""
    return [write_config(tmp_path, timesteps), "--seeds", 2, "--out", tmp_path, "--name", "run"]


def start(tmp_path: Path, timesteps: int = ENDLESS) -> tuple[subprocess.Popen[str], Path]:
    """Such a launch, and its directory."""
    return launch(*words(tmp_path, timesteps)), tmp_path / "run"


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was changed last, and its bytes."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_killed_launcher_leaves_no_process_and_a_resume_goes_on(tmp_path: Path) -> None:
    held = held_launch(tmp_path / "never", at=RECORDS // 2)
    process, directory = command([*held, *words(tmp_path, RECORDS * RECORD)]), tmp_path / "run"
    wait_for_records(process, directory, 2 * CHECKPOINT // RECORD)
    wait_until(lambda: saved(directory), "checkpoints")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not worker_pids(directory), "the end of the workers")
    wait_until(lambda: not session_of(process.pid), "the end of Ray")  # whose agents look once a minute
    with Ledger(directory, writer=False) as ledger:
        assert {row.state for row in ledger.trials()} == {"running"}
        begin = ledger.last_agents()
    assert min(begin.values()) >= CHECKPOINT

    status = launch("status", directory)
    shown = said(status)
    assert status.returncode == 0
    assert f"launch resume {directory}" in shown

    again = launch("resume", directory)
    output = said(again)
    assert again.returncode == 0, output
    assert_whole(directory, RECORDS)
    with Ledger(directory, writer=False) as ledger:
        assert {m.trial: m.timestep for m in ledger.members() if m.attempt > 2} == begin


def test_a_launch_at_work_lets_no_other_in(tmp_path: Path) -> None:
    """It stands still meanwhile, so whatever changed in its directory would be the others' work."""
    process, directory = start(tmp_path)
    wait_for_records(process, directory, 3)
    whole = session_of(process.pid)
    for one in whole:
        os.kill(one, signal.SIGSTOP)
    try:
        before = contents(directory)
        seconds = []
        for words in ([], ["--dry-run"], ["--seeds", 8], ["--set", "trainer.timesteps=2_000_000"], ["--retry-failed"]):
            began = time.monotonic()
            resume = launch("resume", directory, *words)
            output = said(resume)
            seconds.append(time.monotonic() - began)
            assert (resume.returncode, output.count("\n")) == (2, 1)
            assert output.startswith(f"error: {directory} is in use by another launch. Wait until it ends")
        other = start(tmp_path, 320)[0]
        assert "never overwritten" in said(other) and other.returncode == 2
        assert contents(directory) == before
        print("refused in", *(f"{one:.1f}" for one in seconds), "s")
    finally:
        for one in whole:
            os.kill(one, signal.SIGCONT)
        os.kill(process.pid, signal.SIGTERM)
        output = said(process)
    assert process.returncode == 143, output


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_the_launcher_stops_in_good_order(tmp_path: Path, number: int, status: int) -> None:
    process, directory = start(tmp_path)
    wait_for_records(process, directory, 3)
    # A terminal tells the foreground group, Slurm and systemd all processes, `timeout` its child twice.
    for told in [process.pid, *session_of(process.pid)]:
        os.kill(told, number)
    output = said(process)
    assert process.returncode == status, output
    assert "return (last 100 episodes)" in output
    assert f"launch resume {directory}" in output
    with Ledger(directory, writer=False) as ledger:
        for row in ledger.progress():
            assert row.trial.state == "interrupted"
            assert max(c.records for c in ledger.checkpoints(row.trial.id)) == row.records
    assert not worker_pids(directory)
