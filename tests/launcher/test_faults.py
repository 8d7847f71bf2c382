"""Faults on a real Ray: `pytest -m cluster`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from launcher.ledger import Ledger

pytestmark = pytest.mark.cluster
CARTPOLE = Path(__file__).parents[2] / "configs" / "classic" / "cartpole.yaml"


def start(tmp_path: Path, timesteps: int, *arguments: str) -> tuple[subprocess.Popen[str], Path]:
    """`launch` as a person starts it, in a session of its own; the process and its launch directory."""
    data = yaml.safe_load(CARTPOLE.read_text())
    data["trainer"]["timesteps"] = timesteps
    data["agent"]["experiment"].update(write_interval=32, checkpoint_interval=320)
    config = tmp_path / "cartpole.yaml"
    config.write_text(yaml.safe_dump(data))
    command = [sys.executable, "-m", "launcher.cli", str(config), "--seeds", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--name", "run", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    return process, tmp_path / "run"


def wait_for_records(process: subprocess.Popen[str], directory: Path, count: int) -> None:
    """Until every trial has `count` records."""
    for _ in range(1200):
        assert process.poll() is None, process.stdout and process.stdout.read()
        if (directory / "ledger.sqlite").exists():
            with Ledger(directory, writer=False) as ledger:
                rows = ledger.progress()
                if rows and all(row.records >= count for row in rows):
                    return
        time.sleep(0.1)
    raise AssertionError("no records")


def worker_pids(directory: Path) -> list[int]:
    """Processes whose output goes to this launch's logs."""
    logs = {path.resolve() for path in (directory / "logs").iterdir()}
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if (process / "fd" / "1").resolve() in logs:
                    found.append(int(process.name))
            except OSError:
                continue
    return found


def test_a_killed_worker_fails_its_trials_and_spares_the_others(tmp_path: Path) -> None:
    process, directory = start(tmp_path, 25_600, "--workers", "2")
    wait_for_records(process, directory, 3)
    victim = worker_pids(directory)[0]
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    with Ledger(directory, writer=False) as ledger:
        states = sorted(row.state for row in ledger.trials())
    assert states == ["failed", "finished"]
    assert "the worker process died" in output
    assert "logs/attempt-" in output
    assert "launch resume" in output

    again = [sys.executable, "-m", "launcher.cli", "resume", str(directory)]
    assert subprocess.run(again, capture_output=True, timeout=240, check=False).returncode == 0
    with Ledger(directory, writer=False) as ledger:
        for row in ledger.trials():
            indices = [stored.record.index for stored in ledger.records(row.trial)]
            assert indices == list(range(800)), row.trial


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_launcher_stops_in_good_order(tmp_path: Path, number: int, status: int) -> None:
    process, directory = start(tmp_path, 1_000_000)
    wait_for_records(process, directory, 3)
    # As a terminal does: to every process of the foreground group.
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output
    assert "launch resume" in output
    with Ledger(directory, writer=False) as ledger:
        for row in ledger.progress():
            assert row.trial.state == "interrupted"
            assert max(c.records for c in ledger.checkpoints(row.trial.trial)) == row.records
    assert not worker_pids(directory)
