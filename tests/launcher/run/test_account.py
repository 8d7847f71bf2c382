"""What logs say of networks; what they say of attempts is tested where there are attempts, in test_launch."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.run.account import describe
from runner.config import load_config
from runner.envs.envpool import EnvPoolTask
from runner.networks.parameters import Network

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize(
    ("file", "settings", "expected"),
    [
        ("classic/cartpole", {}, "policy net (64 tanh, 64 tanh) → 2; value the same → 1; 4,675 parameters a member"),
        (
            "classic/cartpole",
            {("models", "separate"): True},
            "policy net (64 tanh, 64 tanh) → 2; value net (64 tanh, 64 tanh) → 1; 9,155 parameters a member",
        ),
        (
            "atari/pong",
            {},
            "policy cnn (16 of 8x8 relu, 32 of 4x4 relu, flatten, 256 relu) → 6; value the same → 1; "
            "677,943 parameters a member",
        ),
        (
            "classic/cartpole",
            {("models", "policy", "network"): []},
            "policy none → 2; value the same → 1; 15 parameters a member",
        ),
    ],
)
def test_networks(file: str, settings: dict[tuple[str, ...], object], expected: str) -> None:
    config, _ = load_config(CONFIGS / f"{file}.yaml", list(settings.items()))
    task = EnvPoolTask(str(config.env.id), config.env.num_envs or 0, config.env.arguments)
    assert describe(Network.of(config, task.layout, task.actions)) == expected
