"""The command line run in this process, and a launch directory without a launch."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.plan import directory
from launcher.plan.experiment import Placement
from launcher.plan.revision import revision as revision_of
from tests.launcher.builders import read_experiment

CONFIGS = Path(__file__).parents[2] / "configs"
CARTPOLE, PPO = CONFIGS / "classic" / "cartpole.yaml", CONFIGS / "skrl" / "ppo.yaml"


class Refused:
    """Runs the command line and takes what it says about it."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        shown, said = self._capsys.readouterr()
        assert said.startswith("error: ")
        assert "\n\n" not in said and "Traceback" not in said + shown
        return said.removeprefix("error: ").removesuffix("\n")


def small_launch(folder: Path, name: str = "one") -> Path:
    """The directory of a launch that has not begun to train."""
    trials = read_experiment([CARTPOLE], [], {}, "2").trials
    path = folder / name
    directory.create(path, trials)
    directory.add_revision(path, revision_of("launch", Placement(2, 0, 1), [trials]))
    return path
