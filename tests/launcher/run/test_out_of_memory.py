"""A machine that runs out of memory, as Ray sees it: `pytest -m cluster`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.ledger.ledger import Ledger
from launcher.run import pool as processes
from tests.launcher.faulty import worker_that, write_config
from tests.launcher.local_ray import local_ray

pytestmark = pytest.mark.cluster
STEP = 100 * 2**20
ROOM = 15 * STEP
"""What may be taken of this machine's memory, in bytes, before Ray ends a worker."""


@pytest.fixture
def ray_address() -> Iterator[list[str]]:
    """A Ray which is content with the memory that is in use now, and a little more."""

    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    memory = {name.rstrip(":"): 1024 * int(number) for name, number, *_ in lines}
    share = (memory["MemTotal"] - memory["MemAvailable"] + ROOM) / memory["MemTotal"]
    with pytest.MonkeyPatch.context() as patch:
        # Read by the raylet when it starts.
        patch.setenv("RAY_memory_usage_threshold", f"{share:.4f}")
        patch.setenv("RAY_memory_monitor_refresh_ms", "50")
        with local_ray(num_cpus=1) as address:
            yield address


def test_a_trial_that_takes_all_memory_fails_alone(
    ray_address: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, most = STEP, 3 * ROOM

    def swell() -> None:
        kept = []
        while len(kept) * step < most:
            kept.append(bytearray(b"\1") * step)
            time.sleep(0.05)
        raise AssertionError("nobody ended this process")

    monkeypatch.setattr(processes, "Worker", worker_that(swell, seed=1, at=3))
    config = write_config(tmp_path, 640)
    assert main([str(config), "--seeds", "2", "--out", str(tmp_path), "--name", "run", *ray_address]) == 1
    with Ledger(tmp_path / "run", writer=False) as ledger:
        rows = {row.seed: row for row in ledger.trials()}
        outcomes = [row.outcome for row in ledger.attempts()]
    assert (rows[0].state, rows[1].state) == ("finished", "failed")
    assert outcomes.count("crash") == 4
    assert rows[1].error is not None
    assert "ran out of memory" in rows[1].error
    assert "tried again in 2 packs" in capsys.readouterr().out
