"""skrl's other algorithms are refused in one sentence, by the name that the file gives or by its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.config import load_config, resolve
from runner.config.skrl.algorithms import OURS
from runner.errors import UserError
from tests.runner.builders import plain_config

NETS = {"policy": {"hiddens": [8]}, "value": {"hiddens": [8]}}
CRITICS = {"policy": {"hiddens": [8]}, "critic_1": {"hiddens": [8]}, "critic_2": {"hiddens": [8]}}
OFF_POLICY = {"batch_size": 64, "polyak": 0.005, "actor_learning_rate": 1e-3, "state_preprocessor": None}


@pytest.mark.parametrize("name", ["SAC", "td3", "DDPG", "DDQN", "DQN", "CEM", "TRPO", "AMP", "IPPO_RNN", "SAC_RNN",
                                  "Q_LEARNING", "SARSA", "PPO_RNN", "skrl.agents.torch.sac.SAC"])  # fmt: skip
def test_another_algorithm_is_named_first_and_alone(name: str) -> None:
    named = name.rsplit(".", 1)[-1].upper()
    ours = {f"{ours}_RNN": f"{ours}, with layers such as {{lstm: 64}} in a network" for ours in OURS}
    message = f"class {named} of skrl is not supported; allowed: {ours.get(named, 'PPO, RPO, A2C, IPPO, MAPPO')}"
    data = {**plain_config(), "agent": {"class": name, "gradient_steps": 1, "lambda": 1, "gae_lambda": 1}, "foo": 1}
    with pytest.raises(UserError) as caught:
        resolve(data)
    assert str(caught.value) == f"configuration: agent.class: {message}"
    with pytest.raises(UserError) as caught:
        resolve(plain_config(), overrides=[(("agent", "class"), name), (("agent", "x"), 1)])
    assert str(caught.value) == f"command line: agent.class: {message}"
    data = {**plain_config(), "agent": {"class": name, "rollouts": 8}}
    assert resolve(data, overrides=[(("agent", "class"), "PPO")])[0].agent.cls == "PPO"


@pytest.mark.parametrize(
    ("file", "models", "agent", "line", "named"),
    [
        ("cfg", CRITICS, {**OFF_POLICY, "learn_entropy": True}, "agent.learn_entropy", "SAC"),
        ("cfg", CRITICS, {**OFF_POLICY, "policy_delay": 2}, "agent.policy_delay", "TD3"),
        ("cfg", NETS, {"lambda": 0.9, "target_entropy": -1}, "agent.target_entropy", "SAC"),
        ("cfg", CRITICS, OFF_POLICY, "agent.actor_learning_rate", "DDPG"),
        ("skrl_sac_cfg", CRITICS, OFF_POLICY, "agent.actor_learning_rate", "SAC"),
        ("skrl_td3_cfg", CRITICS, {}, "models.critic_1", "TD3"),
        ("skrl_sac_cfg", NETS, OFF_POLICY, "agent.actor_learning_rate", "SAC"),
        ("cfg", NETS, {"lambda": 0.9, "discriminator_loss_scale": 5}, "agent.discriminator_loss_scale", "AMP"),
    ],
)
def test_a_file_without_a_class_is_told_by_its_keys(
    tmp_path: Path, file: str, models: dict[str, Any], agent: dict[str, Any], line: str, named: str
) -> None:
    path = tmp_path / f"{file}.yaml"
    path.write_text(yaml.safe_dump({"agent": agent, "models": models, "trainer": {"timesteps": 100}, "what": 1}))
    with pytest.raises(UserError) as caught:
        load_config(path)
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"{path}:")
    assert message.endswith(f": {line}: class {named} of skrl is not supported; allowed: PPO, RPO, A2C, IPPO, MAPPO")


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("skrl_trpo_cfg", "TRPO"),
        ("firefly_skrl_RPO_cfg", "RPO"),
        ("rpo", "RPO"),
        ("skrl_ppo_cfg", None),
        ("corporate", None),
    ],
)
def test_a_file_without_a_class_is_ppo_whatever_its_name_says(tmp_path: Path, file: str, named: str | None) -> None:
    agent = {"rollouts": 8, "lambda": 0.9, "damping": 0.1, "alpha": 0.5}
    path = tmp_path / f"{file}.yaml"
    path.write_text(yaml.safe_dump({"agent": agent, "models": NETS, "trainer": {"timesteps": 100}}))
    config, (note,) = load_config(path)
    assert config.agent.cls == "PPO" and "agent.damping (skrl 1.x ignores it)" in note
    said = f"not as in skrl: PPO, as agent.class is missing (the file's name says {named})"
    assert (said in note) == (named is not None)
    assert "PPO, as" not in load_config(path, [(("agent", "class"), "RPO")])[1][0]
