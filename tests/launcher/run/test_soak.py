"""Ten minutes of random kills: `pytest -m slow tests/launcher/test_soak.py -s`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.ledger.ledger import Ledger
from tests.launcher.faulty import aggregator_pid, assert_whole, meanwhile, wait_until, worker_pids

PPO = Path(__file__).parents[3] / "configs" / "skrl" / "ppo.yaml"
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
RECORD, CHECKPOINT = 1_600, 6_400
TIMESTEPS = RECORD * int(SECONDS / 1.7)
"""Undisturbed that takes about half of the time on two quiet cores: a worker that is killed is back after seconds."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_random_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    killed: Counter[str] = Counter()
    ended = False

    def kill() -> None:
        rng = random.Random(0)
        wait_until(lambda: worker_pids(directory), "a worker")
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and not ended:
            time.sleep(rng.uniform(6, 36))
            kind = rng.choice(["worker", "worker", "aggregator"])
            pids = list(worker_pids(directory).values())
            aggregator = aggregator_pid(directory)
            victim = aggregator if kind == "aggregator" else rng.choice(pids or [None])
            if victim is not None and not ended:
                os.kill(victim, signal.SIGKILL)
                killed[kind] += 1

    settings = (
        f"trainer.timesteps={TIMESTEPS}",
        f"agent.experiment.write_interval={RECORD}",
        f"agent.experiment.checkpoint_interval={CHECKPOINT}",
        "agent.learning_rate=1e-4,5e-4",
    )
    flags = [word for setting in settings for word in ("--set", setting)]
    task = ["--env", "Pendulum-v1", "--num-envs", "64", "--seeds", "2", "--workers", "2"]
    began = time.monotonic()
    with meanwhile(kill):
        try:
            status = main([str(PPO), *task, *flags, "--out", str(tmp_path), "--name", "run"])
        finally:
            ended = True
    with Ledger(directory, writer=False) as ledger:
        outcomes = Counter(row.outcome for row in ledger.attempts())
    print(f"killed {dict(killed)} in {time.monotonic() - began:.0f} s; attempts {dict(outcomes)}")
    assert status == 0
    assert_whole(directory, TIMESTEPS // RECORD)
    assert killed["worker"] >= SECONDS / 90
    assert killed["aggregator"] >= SECONDS / 120
    replay = [sys.executable, "-m", "tests.launcher.replay", str(directory)]
    done = subprocess.run(replay, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
