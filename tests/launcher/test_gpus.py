"""Which GPU a worker gets, on a real Ray that only counts them: `pytest -m cluster`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import processes
from launcher.cli import main
from launcher.ledger import Ledger
from launcher.worker import Place, Worker
from tests.launcher.faulty import write_config
from tests.launcher.local_ray import local_ray

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def ray_address() -> Iterator[list[str]]:
    with local_ray(num_cpus=2, num_gpus=2) as address:
        yield address


def telling_worker() -> type[Worker]:
    """A worker that says in the place of its machine's name which GPUs Ray gave it."""

    class Telling(Worker):
        def where(self) -> Place:
            import ray

            return replace(super().where(), host=",".join(map(str, ray.get_gpu_ids())))

    return Telling


@pytest.mark.parametrize(
    ("seeds", "flags", "shown", "gpus"),
    [
        ("2", [], "2 logical GPUs, one worker each", ["0", "1"]),
        ("4", ["--workers-per-gpu", "2"], "2 logical GPUs, 2 workers each", ["0", "0", "1", "1"]),
        ("2", ["--workers-per-gpu", "4"], "2 logical GPUs, one worker each", ["0", "1"]),
        ("2", ["--trials-per-pack", "1", "--gpus", "1"], "1 logical GPU, one worker each", ["0", "0"]),
    ],
)
def test_every_gpu_has_work_and_none_too_much(
    ray_address: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seeds: str,
    flags: list[str],
    shown: str,
    gpus: list[str],
) -> None:
    monkeypatch.setattr(processes, "Worker", telling_worker())
    config = write_config(tmp_path, 64)
    wanted = ["--gpus", "2", *flags] if "--gpus" not in flags else flags
    arguments = [str(config), "--seeds", seeds, *wanted, "--logical-gpus", "--out", str(tmp_path), "--name", "run"]
    assert main([*arguments, *ray_address]) == 0
    assert shown in capsys.readouterr().out
    with Ledger(tmp_path / "run", writer=False) as ledger:
        assert sorted(str(row.host) for row in ledger.attempts()) == gpus


@pytest.mark.parametrize("masks", ["GPU-11111111,GPU-22222222", "MIG-aaaa,MIG-bbbb", "2,5"])
def test_a_mask_is_respected_and_a_promised_gpu_that_is_not_there_is_an_error(tmp_path: Path, masks: str) -> None:
    config = write_config(tmp_path, 64)
    arguments = [str(config), "--seeds", "2", "--backend", "torch", "--out", str(tmp_path), "--name", "run"]

    def launch(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launcher.cli", *arguments, *more]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": masks}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)

    refused = launch("--gpus", "3")
    assert refused.returncode == 2
    assert "--gpus 3: Ray finds 2 on this machine" in refused.stderr
    failed = launch("--gpus", "2")
    assert failed.returncode == 1, failed.stdout
    for mask in masks.split(","):
        assert f"(CUDA_VISIBLE_DEVICES={mask}), but torch sees none there" in failed.stdout
    with Ledger(tmp_path / "run", writer=False) as ledger:
        assert [row.outcome for row in ledger.attempts()] == ["refused", "refused"]
