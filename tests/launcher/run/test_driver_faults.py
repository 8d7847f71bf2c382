"""Faults of the launcher's own process on a real Ray, each in a process as a person starts it: `pytest -m cluster`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.ledger.ledger import Ledger
from tests.launcher.faulty import CHECKPOINT, assert_whole, counts, wait_until, worker_pids, write_config

pytestmark = pytest.mark.cluster


def launch(*arguments: object) -> subprocess.Popen[str]:
    """`launch` in a session of its own, as a terminal makes one."""
    return subprocess.Popen(
        [sys.executable, "-m", "launcher.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def start(tmp_path: Path, timesteps: int) -> tuple[subprocess.Popen[str], Path]:
    """A launch of two seeds, and its directory."""
    return launch(write_config(tmp_path, timesteps), "--seeds", 2, "--out", tmp_path, "--name", "run"), tmp_path / "run"


def wait_for_records(process: subprocess.Popen[str], directory: Path, least: int) -> None:
    """Until every trial has `least` records; fails when the launch ends before."""
    trained: Callable[[], bool] = lambda: bool(found := counts(directory)) and min(found.values()) >= least  # noqa: E731
    ended: Callable[[], str] = lambda: process.poll() is not None and process.communicate()[0]  # noqa: E731
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


def test_a_killed_launcher_leaves_no_process_and_a_resume_goes_on(tmp_path: Path) -> None:
    process, directory = start(tmp_path, 12_800)
    wait_for_records(process, directory, 2 * CHECKPOINT // 32)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not worker_pids(directory), "the end of the workers", 30)
    wait_until(lambda: not session_of(process.pid), "the end of Ray", 120)  # whose agents look once a minute
    with Ledger(directory, writer=False) as ledger:
        assert {row.state for row in ledger.trials()} == {"running"}
        begin = ledger.last_agents()
    assert min(begin.values()) >= CHECKPOINT

    status = launch("status", directory)
    shown, _ = status.communicate(timeout=60)
    assert status.returncode == 0
    assert f"launch resume {directory}" in shown

    again = launch("resume", directory)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output
    assert_whole(directory, 400)
    with Ledger(directory, writer=False) as ledger:
        assert {m.trial: m.timestep for m in ledger.members() if m.attempt > 2} == begin


def test_a_launch_at_work_lets_no_other_in(tmp_path: Path) -> None:
    process, directory = start(tmp_path, 1_000_000)
    try:
        wait_for_records(process, directory, 3)
        for second in (launch("resume", directory), start(tmp_path, 320)[0]):
            output, _ = second.communicate(timeout=60)
            assert second.returncode == 2, output
            assert "in use by another launch" in output or "never overwritten" in output
        assert process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=120)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_the_launcher_stops_in_good_order(tmp_path: Path, number: int, status: int) -> None:
    process, directory = start(tmp_path, 1_000_000)
    wait_for_records(process, directory, 3)
    # As a terminal does: to every process of the foreground group.
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output
    assert "return (last 100 episodes)" in output
    assert f"launch resume {directory}" in output
    with Ledger(directory, writer=False) as ledger:
        for row in ledger.progress():
            assert row.trial.state == "interrupted"
            assert max(c.records for c in ledger.checkpoints(row.trial.trial)) == row.records
    assert not worker_pids(directory)
