"""Files of skrl's MAPPO act here as they act in skrl; the fixture is real: tests/fixtures/skrl/agents/make.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from runner.api import Runner
from runner.checkpoints import skrl
from runner.errors import UserError
from runner.torch import models
from tests.runner.builders import fingerprint, runner_class

STEM = Path(__file__).parents[2] / "fixtures" / "skrl" / "agents" / "torch_2.1.1_mappo"
NAMES = ("left", "right")


class Spaces:
    """An environment of which nothing but the spaces is asked."""

    metadata: ClassVar[dict[str, Any]] = {}
    possible_agents = NAMES
    state_space = Box(-np.inf, np.inf, (4,), np.float32)

    def observation_space(self, agent: str) -> Box:
        return Box(-np.inf, np.inf, (3,), np.float32)

    def action_space(self, agent: str) -> Box:
        return Box(-1.0, 1.0, (2,), np.float32)


def make_runner(backend: str = "torch") -> Runner:
    return runner_class(backend)(Spaces(), Runner.load_cfg_from_yaml(f"{STEM}.yaml"))


def test_a_file_of_skrls_mappo_gives_its_actions_and_values() -> None:
    runner, truth = make_runner(), np.load(f"{STEM}.npz")
    assert [float(hyper.learning_rate) for hyper in runner._members.pack.members_hyper] == [1e-3, 2e-3]
    runner.agent.load(f"{STEM}.pt")
    seen = {name: truth[f"{name}.observations"] for name in NAMES}
    actions = runner.agent.act(seen, deterministic=True)
    network = runner._members.network
    for name, state in zip(NAMES, runner.states(), strict=True):
        np.testing.assert_allclose(actions[name], truth[f"{name}.actions"], atol=1e-5)
        rows, moments, returns = np.hstack((seen[name], truth["states"])), state.observation_statistics, None
        assert moments is not None and state.value_statistics is not None and state.counters.optimizer_steps == 16
        rows = np.clip((rows - moments.mean) / (np.sqrt(moments.variance) + 1e-8), -5, 5).astype(np.float32)
        parameters = models.cut(network, torch.from_numpy(state.parameters)[None])
        _, values = models.policy_and_value(network, parameters, torch.from_numpy(rows)[None])
        returns = np.clip(values[0].numpy(), -5, 5) * np.sqrt(state.value_statistics.variance)
        np.testing.assert_allclose(returns + state.value_statistics.mean, truth[f"{name}.values"], atol=1e-4)
    other = make_runner("jax")
    other.agent.load(f"{STEM}.pt")
    assert [*map(fingerprint, other.states())] == [*map(fingerprint, runner.states())]


def test_files_of_skrl_1_name_the_statistics_of_states_otherwise(tmp_path: Path) -> None:
    runner, other = make_runner(), make_runner()
    modules = torch.load(f"{STEM}.pt", weights_only=True)
    old = {"observation_preprocessor": "state_preprocessor", "state_preprocessor": "shared_state_preprocessor"}
    renamed = {name: {old.get(key, key): value for key, value in modules[name].items()} for name in NAMES}
    torch.save(renamed, tmp_path / "agent.pt")
    runner.agent.load(f"{STEM}.pt")
    other.agent.load(tmp_path / "agent.pt")
    assert [*map(fingerprint, other.states())] == [*map(fingerprint, runner.states())]


def test_a_file_of_other_agents_is_refused() -> None:
    runner = make_runner()
    with pytest.raises(UserError, match="holds left, right; needed: the agents left, third"):
        skrl.read_trial(
            Path(f"{STEM}.pt").read_bytes(), ["left", "third"], runner._members.network, runner.config, "file"
        )
