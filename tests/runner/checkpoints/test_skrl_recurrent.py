"""Checkpoints of skrl's PPO_RNN, whose networks are people's own classes: read where `net` follows recurrent modules.

The files are of real skrl: see tests/fixtures/skrl/recurrent/make.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from runner.api import Runner
from runner.errors import UserError
from runner.torch import models
from runner.torch.recurrent import Memory
from tests.runner.builders import make_config, runner_class

FILES = Path(__file__).parents[2] / "fixtures" / "skrl" / "recurrent"


class Spaces(gymnasium.Env[Any, Any]):
    """An environment of which nothing but the spaces is asked."""

    observation_space, action_space = Box(-np.inf, np.inf, (3,)), Box(-1, 1, (2,))


def runner_of(cell: str, layers: list[Any] | None = None) -> Runner:
    layers = layers or [{cell: {"hidden_size": 5, "num_layers": 2}}, 4]
    net = {"name": "net", "input": "OBSERVATIONS", "layers": layers, "activations": "relu"}
    keys: dict[str, Any] = {f"models.{role}.network": [net] for role in ("policy", "value")}
    keys |= {"models.separate": True, "models.policy.output": "2 * tanh(ACTIONS)", "agent.mini_batches": 1}
    return runner_class("torch")(Spaces(), make_config(keys))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_file_acts_and_judges_as_in_skrl(cell: str) -> None:
    runner, right = runner_of(cell), np.load(FILES / f"{cell}.npz")
    runner.agent.load(FILES / f"{cell}.pt")
    state = None
    for rows, expected in zip(right["observations"], right["outputs"], strict=True):
        actions, state = runner.agent.act(rows, state, deterministic=True)
        np.testing.assert_allclose(actions, expected, atol=1e-5)
    (member,), network = runner.states(), runner._members.network
    seen, judged = member.observation_statistics, member.value_statistics
    assert seen is not None and judged is not None and member.counters.optimizer_steps == 16
    rows = np.clip((right["observations"] - seen.mean) / (np.sqrt(seen.variance) + 1e-8), -5, 5).astype(np.float32)
    steps, envs, size = rows.shape
    memory = Memory(torch.zeros(1, envs, network.memory), torch.zeros(1, steps * envs, dtype=torch.bool))
    named = models.cut(network, torch.from_numpy(member.parameters)[None])
    values = models.value(network, named, torch.from_numpy(rows).view(1, -1, size), memory)[0].view(steps, envs)
    values = values.clip(-5, 5) * np.sqrt(judged.variance[0]) + judged.mean[0]
    np.testing.assert_allclose(values, right["values"], atol=1e-5)


def test_moments_go_on() -> None:
    runner = runner_of("lstm")
    runner.agent.load(FILES / "lstm.pt")
    found = torch.load(FILES / "lstm.pt", weights_only=True)["optimizer"]["state"]
    first = runner._members.network.split(runner.states()[0].first_moment)
    for place, name in ((0, "policy.log_std"), (2, "policy.net.0.weight_hh_l0"), (14, "value.net.0.weight_hh_l0")):
        np.testing.assert_array_equal(first[name], found[place]["exp_avg"])


def renamed(modules: dict[str, Any]) -> None:
    modules["policy"] = {key.replace("net.2", "head"): value for key, value in modules["policy"].items()}


def of_another_agent(modules: dict[str, Any]) -> None:
    modules["critic_1"] = modules.pop("value")


@pytest.mark.parametrize(
    ("layers", "file", "message"),
    [
        ([{"lstm": 5}, 4], None, r"policy lacks parameters .none. or has unknown ones .lstm.bias_hh_l1, "),
        ([4, 4], None, r"policy lacks parameters .* or has unknown ones .lstm.bias_hh_l0"),
        ([{"gru": {"hidden_size": 5, "num_layers": 2}}, 4], None, r"lstm.weight_ih_l0 of policy is \[20, 3"),
        (
            None,
            renamed,
            r"policy lacks parameters .net.2.bias, net.2.weight. or has unknown ones .head.bias",
        ),
        (None, of_another_agent, "holds policy, optimizer, .*critic_1; needed: policy and value"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_names(
    layers: list[Any] | None, file: Callable[[dict[str, Any]], None] | None, message: str, tmp_path: Path
) -> None:
    modules, out = torch.load(FILES / "lstm.pt", weights_only=True), io.BytesIO()
    if file is not None:
        file(modules)
    torch.save(modules, out)
    (tmp_path / "agent_32.pt").write_bytes(out.getvalue())
    with pytest.raises(UserError, match=f"agent_32.pt: .*{message}"):
        runner_of("lstm", layers).agent.load(tmp_path / "agent_32.pt")
