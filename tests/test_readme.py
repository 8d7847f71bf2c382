"""README's two commands, and the presets that they and people use."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.cli.main import main
from launcher.ledger.ledger import Ledger
from runner.config import load_config
from runner.config.load import dump
from runner.envs.named import imports
from runner.training.tracking import SCORE
from tests.runner.builders import plain_config

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
SET_UP = "python3 -m venv .venv && . .venv/bin/activate && pip install -e "
KINDS = {
    (path.parent.name, *(layer for layer in ("lstm", "conv2d") if layer in path.read_text())): path
    for path in sorted((REPOSITORY / "configs").rglob("*.yaml"))
}
"""A preset of each family, and of each kind of network in it."""


def command_after(install: str) -> list[str]:
    """Words of the one README command that follows this set-up."""
    (found,) = re.findall(rf"^    {re.escape(SET_UP + install)} && (.*)$", README, re.MULTILINE)
    return shlex.split(found)


def test_the_main_command_is_a_launch_that_plans(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    program, *arguments = command_after(".")
    assert program == "launch"
    assert main([*arguments, "--dry-run"]) == 0
    assert "8 trials" in capsys.readouterr().out


def test_the_test_command_is_pytest() -> None:
    assert command_after('".[dev]"') == ["pytest"]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_python_snippet_runs_to_its_last_line(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = re.findall(r"^```python\n(import envpool\n.*?)^```$", README, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    config = plain_config({"seed": 3, "agent.experiment.experiment_name": "run"})
    Path("cfg.yaml").write_text(dump(config))
    found: dict[str, Any] = {}
    exec(snippet.replace("runner.jax", f"runner.{backend}"), found)
    assert found["actions"].shape == (64, 1) and len(found["observations"]) == 64
    assert "timestep 8 of 8" in capsys.readouterr().err
    assert Path("agent.safetensors").exists()
    assert load_config(Path("runs/run/config.yaml"))[0] == found["runner"].config


@pytest.mark.parametrize("preset", KINDS.values(), ids=lambda path: path.stem)
def test_every_kind_of_preset_trains_two_updates(preset: Path) -> None:
    """Those of packages that are not installed with the tests train on a stand-in."""
    from runner.envs.task import task
    from runner.torch import Runner

    rollouts = min(load_config(preset)[0].agent.rollouts, 16)
    shorter = {"agent.rollouts": rollouts, "agent.sequence_length": None, "trainer.timesteps": 2 * rollouts}
    config, _ = load_config(preset, [(tuple(key.split(".")), value) for key, value in shorter.items()])
    named = str(config.env.id or "Pendulum-v1")
    if ":" in named:
        named = "tests.parallel:" + ("Stated" if config.models.policy.cls == "CategoricalMixin" else "Pushed")
    env = {"id": named, "num_envs": config.env.num_envs or 4}
    config = config.model_copy(update={"env": config.env.model_copy(update=env)})
    with imports.scope():
        imports.allow(["tests"])
        *_, report = Runner(task(config.env), config, threads=1).reports()
    assert report.records[0] is not None
    assert report.records[0].timestep == 2 * rollouts
    assert not report.diverged


@pytest.mark.slow
def test_the_main_command_solves_cartpole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(REPOSITORY)
    _, *arguments = command_after(".")
    assert main([*arguments, "--out", str(tmp_path), "--name", "solved"]) == 0
    with Ledger(tmp_path / "solved", writer=False) as ledger:
        scores = [row.value for row in ledger.progress(SCORE)]
    assert len(scores) == 8
    assert np.mean(scores) >= 475
    assert min(scores) >= 400


@pytest.mark.slow
def test_the_minigrid_preset_learns_from_images(tmp_path: Path) -> None:
    preset = REPOSITORY / "configs" / "minigrid" / "empty.yaml"
    assert main([str(preset), "--seeds", "4", "--out", str(tmp_path), "--name", "solved"]) == 0
    with Ledger(tmp_path / "solved", writer=False) as ledger:
        scores = [row.value for row in ledger.progress(SCORE)]
    assert len(scores) == 4 and min(scores) >= 0.93
