"""How the update runs: a function of the configuration alone."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from runner.torch import Runner, accelerate, train
from tests.runner.builders import make_config, make_env

ROOT = Path(__file__).parents[3]
STEPS = {"agent.learning_epochs": 10, "agent.mini_batches": 4, "agent.rollouts": 8, "compile": "auto"}


def long_enough(updates: int, **changes: object) -> bool:
    return accelerate.compiles(make_config({**STEPS, "trainer.timesteps": 8 * updates, **changes}))


def test_long_runs_are_compiled_and_short_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++" if name == "g++" else None)
    worth = accelerate.WORTH_COMPILING // 40
    assert long_enough(worth) and not long_enough(worth - 1)
    assert long_enough(1, compile=True) and not long_enough(worth, compile=False)


def test_convolutions_on_a_cpu_are_compiled_only_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    network = {f"models.{role}.network.0.layers": [{"conv2d": [4, 3]}, "flatten"] for role in ("policy", "value")}
    assert not long_enough(10**6, **network) and long_enough(1, **network, compile=True)
    monkeypatch.setattr(accelerate, "sees_gpu", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++")
    assert long_enough(10**6, **network)


def test_without_a_compiler_the_run_is_eager_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert not long_enough(10**6)
    assert "no C++ compiler found" in caplog.text


@pytest.mark.parametrize("compile", [True, False, "auto"])
def test_recurrent_networks_are_not_compiled_and_who_asks_is_told(
    compile: bool | str, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {f"models.{role}.network.0.layers": [{"lstm": 2}] for role in ("policy", "value")}
    config = make_config({**changes, "compile": compile, "agent.mini_batches": 1})
    with caplog.at_level(logging.WARNING):
        assert not Runner(make_env("Pendulum-v1"), config, threads=1).compiles
    told = [
        record for record in caplog.messages if "compile: True has no effect on networks with lstm or gru" in record
    ]
    assert len(told) == (compile is True)


def test_training_leaves_torchs_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        runner = Runner(make_env("Pendulum-v1"), make_config({"trainer.timesteps": 24}), threads=1)
        reports = runner.reports()
        next(reports)
        reports.close()  # type: ignore[attr-defined]  # abandoned half-way
        assert torch.get_num_threads() == 3
        list(runner.reports())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_there_are_no_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []
    for cores in (1, 2, 8):
        monkeypatch.setattr(accelerate, "_cores", lambda cores=cores: cores)
        torch.set_num_threads(3)
        try:
            with accelerate.own_settings():
                seen.append(torch.get_num_threads())
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(before)
    assert seen == [1, 2, 3]


WRITTEN = (
    'torch.set_float32_matmul_precision("high")',
    "torch.backends.cuda.matmul.allow_tf32 = True; torch.backends.cudnn.allow_tf32 = False",
    'torch.backends.fp32_precision = "tf32"',
    'torch.backends.cuda.matmul.fp32_precision = "tf32"',
    'torch.backends.cudnn.conv.fp32_precision = "ieee"',
    "torch.backends.cudnn.benchmark = True",
)
"""Ways in which somebody has chosen products before; torch raises where one is read after another was written."""
CHOICES = """
import os, sys
import torch
from runner.torch import accelerate

def read():
    b = torch.backends
    kinds = b.cuda.matmul, b.mkldnn.matmul, b.cudnn.conv, b.cudnn.rnn
    return [kind.fp32_precision for kind in kinds], b.cudnn.deterministic, b.cudnn.benchmark

def check(written):
    accelerate.sees_gpu = lambda: True
    exec(written)
    before = read()
    for asked in (True, False):
        with accelerate._products(asked):
            assert read() == (["tf32" if asked else "ieee"] * 4, True, False), read()
            assert torch.get_float32_matmul_precision() == ("high" if asked else "highest")
            assert [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32] == [asked] * 2
        assert read() == before, (before, read())

for written in sys.argv[1:]:
    if not (child := os.fork()):
        check(written)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, written
"""


def test_products_are_in_tf32_only_where_that_is_asked_for() -> None:
    """In processes of their own, whose choices no other test finds."""
    done = subprocess.run([sys.executable, "-c", CHOICES, *WRITTEN], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("asked", [True, False])
def test_agents_act_with_the_products_that_they_train_with(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found, policy = [], train.policy
    runner = Runner(make_env("Pendulum-v1"), make_config({"agent.tf32": asked}), threads=1)
    monkeypatch.setattr(
        train, "policy", lambda *given: (found.append(torch.backends.cudnn.allow_tf32), policy(*given))[1]
    )
    monkeypatch.setattr(accelerate, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(accelerate, "sees_gpu", lambda: True)
    runner.agent.act(np.zeros((2, 3), np.float32))
    assert found == [asked]
