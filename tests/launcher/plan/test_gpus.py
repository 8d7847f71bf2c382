"""Which GPUs there are, and which a worker gets, on a real Ray that only counts them (`pytest -m cluster`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.ledger.ledger import Ledger
from launcher.plan import gpus
from launcher.plan.experiment import Placement
from launcher.plan.gpus import Device, devices, usable, visible_gpus
from launcher.plan.resources import Resources, gpu_note, look, place
from launcher.run import pool as processes
from launcher.run.process import Location
from launcher.run.worker import Worker
from runner.errors import UserError
from tests.launcher.faulty import PATIENCE, write_config
from tests.launcher.local_ray import local_ray

A, B = Device("GPU-aa11-2222"), Device("GPU-aa33-4444", ("MIG-5555-6", "MIG-5577-8"))


@pytest.mark.parametrize(
    ("mask", "there", "found"),
    [
        (None, (A, B), ["0", "1"]),
        (None, (), []),
        ("", (A, B), []),
        (" ", (A,), []),
        ("-1", (A,), []),
        ("NoDevFiles", (A,), []),
        ("0", (), []),
        ("7", (A,), []),
        ("1", (A, B), ["1"]),
        ("0,1", (A,), ["0"]),
        ("0,1", (A, B), ["0", "1"]),
        ("1, 0", (A, B), ["1", " 0"]),
        ("0,7,1", (A, B), ["0"]),
        ("7,0", (A, B), []),
        ("0,-1,1", (A, B), ["0"]),
        ("0,0", (A, B), ["0"]),
        ("0,GPU-aa11", (A, B), ["0"]),
        ("0,", (A, B), ["0"]),
        ("GPU-aa33-4444,GPU-aa11-2222", (A, B), ["GPU-aa33-4444", "GPU-aa11-2222"]),
        ("GPU-aa33", (A, B), ["GPU-aa33"]),
        ("GPU-aa", (A, B), []),  # either
        ("GPU-ff", (A, B), []),
        ("MIG-5577-8,MIG-5555-6", (A, B), ["MIG-5577-8", "MIG-5555-6"]),
        ("MIG-9999", (A, B), []),
        ("MIG-GPU-aa33-4444/1/0", (A, B), ["MIG-GPU-aa33-4444/1/0"]),
        ("MIG-GPU-ff/1/0", (A, B), []),
        ("all", (A, B), []),
        ("cuda:0", (A,), []),
        ("²", (A, B), []),
    ],
)
def test_gpus_that_can_be_used_are_those_that_are_named_and_there(
    mask: str | None, there: Sequence[Device], found: list[str]
) -> None:
    assert usable(mask, there) == found


def test_gpus_and_their_parts_are_those_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.thirdparty import pynvml

    class Refused(pynvml.NVMLError):  # type: ignore[misc]
        """Of a GPU that is not divided."""

    def parts(handle: Device) -> int:
        if not handle.parts:
            raise Refused(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 7

    def part(handle: Device, index: int) -> Device:
        if index >= len(handle.parts):
            raise Refused(pynvml.NVML_ERROR_NOT_FOUND)
        return Device(handle.parts[index])

    fakes = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: (A, B)[index],
        "nvmlDeviceGetUUID": lambda handle: handle.uuid.encode(),
        "nvmlDeviceGetMaxMigDeviceCount": parts,
        "nvmlDeviceGetMigDeviceHandleByIndex": part,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pynvml, name, fake)
    assert devices() == [A, B]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert visible_gpus() == 1


@pytest.mark.parametrize(
    ("mask", "there", "note"),
    [
        ("0,1", (), "CUDA_VISIBLE_DEVICES=0,1: this machine has 0 GPUs, none of these can be used; training runs on"),
        ("0,7", (A,), "CUDA_VISIBLE_DEVICES=0,7: this machine has 1 GPU, only 0 can be used"),
        ("junk", (A, B), "this machine has 2 GPUs, none of these can be used"),
        ("0", (A,), None),
        ("", (A,), None),
        ("-1", (), None),
        (None, (A,), None),
        (None, (), None),
    ],
)
def test_a_mask_that_names_more_than_there_is_gets_a_note(
    monkeypatch: pytest.MonkeyPatch, mask: str | None, there: Sequence[Device], note: str | None
) -> None:
    monkeypatch.setattr(gpus, "devices", lambda: there)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if mask is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    said = gpu_note(Resources())
    assert said == note if note is None else note in str(said)
    # Whoever chooses has been heard, and a cluster's GPUs are not this machine's.
    for wanted in (Resources(gpus=0), Resources(logical_gpus=True), Resources(address="auto")):
        assert gpu_note(wanted) is None


@pytest.mark.parametrize("mask", ["0", "0,1", "GPU-aa11"])
def test_gpus_that_are_not_there_are_not_promised(monkeypatch: pytest.MonkeyPatch, mask: str) -> None:
    monkeypatch.setattr(gpus, "devices", list)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    wanted = Resources(workers=1)
    assert place(wanted, look(wanted)) == Placement(1, 0, 1)
    expected = rf"--gpus 1: Ray finds 0 on this machine \(CUDA_VISIBLE_DEVICES={mask}\); leave --gpus out to train"
    with pytest.raises(UserError, match=expected):
        place(Resources(gpus=1), look(Resources(gpus=1)))


# Which GPU a worker gets


@pytest.fixture(scope="module")
def ray_address() -> Iterator[list[str]]:
    with local_ray(num_cpus=2, num_gpus=2) as address:
        yield address


def telling_worker() -> type[Worker]:
    """A worker that says in the place of its machine's name which GPUs Ray gave it."""

    class Telling(Worker):
        def where(self) -> Location:
            import ray

            return replace(super().where(), host=",".join(map(str, ray.get_gpu_ids())))

    return Telling


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("seeds", "flags", "shown", "given"),
    [
        ("2", [], "2 logical GPUs, one worker each", ["0", "1"]),
        ("4", ["--workers-per-gpu", "2"], "2 logical GPUs, 2 workers each", ["0", "0", "1", "1"]),
        ("2", ["--workers-per-gpu", "4"], "2 logical GPUs, one worker each", ["0", "1"]),
        ("2", ["--trials-per-pack", "1", "--gpus", "1"], "1 logical GPU, one worker each", None),
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
    given: list[str] | None,
) -> None:
    monkeypatch.setattr(processes, "Worker", telling_worker())
    config = write_config(tmp_path, 64)
    wanted = ["--gpus", "2", *flags] if "--gpus" not in flags else flags
    arguments = [str(config), "--seeds", seeds, *wanted, "--logical-gpus", "--out", str(tmp_path), "--name", "run"]
    assert main([*arguments, *ray_address]) == 0
    assert shown in capsys.readouterr().out
    with Ledger(tmp_path / "run", writer=False) as ledger:
        attempts = sorted(ledger.attempts(), key=lambda row: row.opened_at)
    if given is None:  # one after the other; a new worker may get the other GPU
        assert len(attempts) == 2 and (attempts[0].closed_at or inf) <= attempts[1].opened_at
    else:
        assert sorted(str(row.host) for row in attempts) == given


FINDS = """
import sys
from launcher.cli import main as cli
from launcher.plan import resources
resources.visible_gpus = lambda: 2
sys.exit(cli.main())
"""


@pytest.mark.cluster
@pytest.mark.parametrize("masks", ["GPU-11111111,GPU-22222222", "MIG-aaaa,MIG-bbbb", "2,5"])
def test_a_mask_is_respected_and_a_promised_gpu_that_is_not_there_is_an_error(tmp_path: Path, masks: str) -> None:
    config = write_config(tmp_path, 64)
    arguments = [str(config), "--seeds", "2", "--backend", "torch", "--out", str(tmp_path), "--name", "run"]

    def launch(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", FINDS, *arguments, *more]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": masks}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)

    refused = launch("--gpus", "3")
    assert refused.returncode == 2
    assert "--gpus 3: Ray finds 2 on this machine" in refused.stderr
    failed = launch("--gpus", "2")
    assert failed.returncode == 1, failed.stdout
    for mask in masks.split(","):
        assert f"(CUDA_VISIBLE_DEVICES={mask}), but torch sees none there" in failed.stdout
    with Ledger(tmp_path / "run", writer=False) as ledger:
        assert [row.outcome for row in ledger.attempts()] == ["refused", "refused"]
    for log in (tmp_path / "run" / "logs").iterdir():
        assert "torch sees none there: install" in log.read_text()
        assert "AttributeError" not in log.read_text()
