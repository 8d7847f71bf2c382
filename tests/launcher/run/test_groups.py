"""Trials on several devices: a launch whose attempts own groups of processes, and what their deaths leave."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import main
from launcher.ledger.ledger import Ledger
from launcher.run import pool
from tests.launcher.faulty import RECORD, assert_whole, counts, meanwhile, wait_until, write_config
from tests.launcher.held import held, let
from tests.launcher.local_ray import local_ray

pytestmark = pytest.mark.cluster
RECORDS, FIRST = 100, 15


def processes(directory: Path) -> list[int]:
    """The processes that train now: the one that reports, then its mates; they write one log."""
    with Ledger(directory, writer=False) as ledger:
        attempt = ledger.attempts()[-1]
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and os.readlink(process / "fd" / "1").endswith(
                f"{directory.name}/logs/attempt-{attempt.number}.log"
            ):
                found.append(int(process.name))
        except OSError:
            continue
    return sorted(found, key=lambda pid: pid != attempt.pid)


def outcomes(directory: Path) -> list[str | None]:
    with Ledger(directory, writer=False) as ledger:
        return [row.outcome for row in ledger.attempts()]


def test_a_group_whose_process_dies_starts_again_from_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """First a mate dies, then the one that reports, then a person stops the launch and goes on on one device."""
    directory, gate = tmp_path / "run", tmp_path / "gate"

    def further(by: int) -> Callable[[], bool]:
        reached = sum(counts(directory).values()) + by
        let(gate, reached)
        return lambda: sum(counts(directory).values()) >= reached and len(processes(directory)) == 2

    def harm() -> None:
        wait_until(lambda: sum(counts(directory).values()) >= FIRST, "records")
        for place, attempt in ((1, 2), (0, 3)):
            os.kill(processes(directory)[place], signal.SIGKILL)
            wait_until(lambda: len(outcomes(directory)) == attempt, "a new attempt")  # noqa: B023
            wait_until(further(12), "more records")
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(pool, "Worker", held(gate, at=FIRST))
    with local_ray(num_cpus=3) as address:
        config: Any = write_config(tmp_path, RECORDS * RECORD)
        arguments = ("--backend", "torch", "--gpus-per-trial", "2", "--workers", "1")
        with meanwhile(harm):
            assert main([str(config), "--out", str(tmp_path), "--name", "run", *arguments, *address]) == 130
        assert outcomes(directory) == ["crash", "crash", "stopped"]
        let(gate)
        assert main(["resume", str(directory), "--gpus-per-trial", "1", "--workers", "1", *address]) == 0
        assert main(["eval", str(directory), "--episodes", "2", *address]) == 0
    assert_whole(directory, RECORDS)
    with Ledger(directory, writer=False) as ledger:
        begun = [member.timestep for member in ledger.members()]
    assert begun == sorted(begun) and begun[-1] > 0
    shown = capsys.readouterr().out
    assert "2 processes, 2 for each pack, on a CPU core each" in shown and "the worker process died" in shown
