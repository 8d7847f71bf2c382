"""Switches of the frameworks that a user has set for his own code: they change no number, and end no training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest
import torch

from runner.envs.envpool import EnvPoolTask
from tests.runner.builders import fingerprint, make_config, runner_class


@contextlib.contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def every_jax_switch() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for switch in (
            jax.debug_nans(True),
            jax.enable_x64(True),
            jax.disable_jit(True),
            jax.numpy_dtype_promotion("strict"),
            jax.numpy_rank_promotion("raise"),
        ):
            stack.enter_context(switch)
        yield


SWITCHES: dict[str, tuple[str, Callable[[], Any]]] = {
    "jax": ("jax", every_jax_switch),
    "default dtype": ("torch", default_dtype),
    "default device": ("torch", lambda: torch.device("meta")),
    "no gradients": ("torch", lambda: torch.set_grad_enabled(False)),
    "inference": ("torch", torch.inference_mode),
    "anomaly detection": ("torch", lambda: torch.autograd.set_detect_anomaly(True, check_nan=True)),
}


def trained(backend: str) -> list[str]:
    """Two members, of which the second diverges."""
    changes = {"trainer.timesteps": 24, "agent.value_clip": 0.0, "agent.entropy_loss_scale": 0.1}
    configs = [make_config({**changes, "agent.learning_rate": rate}) for rate in (1e-3, 1e30)]
    runner = runner_class(backend)(EnvPoolTask("Pendulum-v1", 3, {}), configs[0], configs=configs, threads=1)
    assert [member for report in runner.reports() for member in report.diverged] == [1]
    runner.evaluate(episodes=1)
    return [fingerprint(state) for state in runner.states()]


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_users_switches_change_nothing(name: str) -> None:
    backend, switch = SWITCHES[name]
    plain = trained(backend)
    with switch():
        assert trained(backend) == plain
