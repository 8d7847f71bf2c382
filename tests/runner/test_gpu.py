"""What only a GPU can show: `pytest -m gpu`. Each training is a process of its own, on a GPU or without one."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
WITHOUT = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""JAX would take three quarters of the GPU's memory, whatever else runs on it."""
TOLERANCE = 1e-3
"""Of the largest parameter, after 3 updates of 8 minibatches: float32 sums in another order, through Adam."""
TASKS = ("Pendulum-v1", "CartPole-v1")


@cache
def sees_gpu(backend: str) -> bool:
    """A process of this backend would train on a GPU."""
    code = f"import runner.{backend} as framework; print(framework.sees_gpu())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ | SHARED
    )
    return done.stdout.split()[-1:] == ["True"]


def trained(backend: str, task: str, device: str, folder: Path, *flags: str) -> np.ndarray:
    """The parameters after a training on this device."""
    command = [sys.executable, "-m", "tests.runner.devices", backend, task, str(folder), "--device", device, *flags]
    environment = os.environ | (WITHOUT if device == "cpu" else SHARED)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(folder / "parameters.npy")


def assert_near(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * np.abs(other).max())


@pytest.fixture(params=["torch", "jax"])
def backend(request: pytest.FixtureRequest) -> str:
    """A backend that sees a GPU."""
    if not sees_gpu(request.param):
        pytest.skip(f"not run: {request.param} sees no GPU here")
    return str(request.param)


@pytest.mark.gpu
@pytest.mark.parametrize("task", TASKS)
def test_a_gpu_trains_as_a_cpu_does(backend: str, task: str, tmp_path: Path) -> None:
    gpu, cpu = (trained(backend, task, device, tmp_path / device) for device in ("gpu", "cpu"))
    assert_near(gpu, cpu)


@pytest.mark.gpu
@pytest.mark.parametrize("task", TASKS)
def test_a_gpu_repeats_itself_and_graphs_are_bit_equal(backend: str, task: str, tmp_path: Path) -> None:
    first = trained(backend, task, "gpu", tmp_path / "first")
    np.testing.assert_array_equal(trained(backend, task, "gpu", tmp_path / "again"), first)
    if backend == "torch":
        np.testing.assert_array_equal(trained(backend, task, "gpu", tmp_path / "eager", "--eager"), first)


@pytest.mark.gpu
@pytest.mark.parametrize(("first", "then"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_a_checkpoint_goes_on_on_another_device(backend: str, first: str, then: str, tmp_path: Path) -> None:
    half = ("--updates", "4", "--until", "32")
    trained(backend, TASKS[0], first, tmp_path / "half", *half)
    resumed = ("--updates", "4", "--resume", str(tmp_path / "half"))
    same, other = (trained(backend, TASKS[0], device, tmp_path / device, *resumed) for device in (first, then))
    assert_near(other, same)


@pytest.mark.gpu
def test_noise_differs_between_replays() -> None:
    if not sees_gpu("torch"):
        pytest.skip("not run: torch sees no GPU here")
    import torch

    from runner.torch.accelerate import Captured

    with torch.no_grad():
        sample = Captured(lambda mean, noise: mean + noise)
        mean = torch.zeros(64, device="cuda")
        drawn = [sample(mean, torch.randn(64).cuda()).clone() for _ in range(3)]
    assert None not in sample._plans.values(), "it was not recorded"
    assert not drawn[0].equal(drawn[1]) and not drawn[1].equal(drawn[2])


@pytest.mark.slow
def test_the_trainings_that_devices_are_compared_by_run_without_a_gpu(tmp_path: Path) -> None:
    """So that the first call on a GPU is not the first of all: to an end, and resumed."""
    whole = trained("torch", TASKS[1], "cpu", tmp_path / "half", "--updates", "2", "--until", "16", "--eager")
    rest = trained("torch", TASKS[1], "cpu", tmp_path / "whole", "--updates", "2", "--resume", str(tmp_path / "half"))
    assert whole.shape == rest.shape and not np.array_equal(whole, rest)
