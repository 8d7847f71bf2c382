"""Which era a configuration is read as, what its keys mean there, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.config import Config, load_config, resolve
from runner.config.overrides import parse_override
from runner.config.skrl.eras import Era, era_of
from runner.errors import UserError
from tests.runner.builders import SCALER, plain_config

FIXTURES = Path(__file__).parents[2] / "fixtures" / "yaml"


def fixture(name: str, *sets: str) -> tuple[Config, list[str]]:
    return load_config(FIXTURES / f"{name}.yaml", [(key, values[0]) for key, values in map(parse_override, sets)])


# ---------------------------------------------------------------------------------------------- marks


def network(role: str = "policy", **changes: Any) -> dict[str, Any]:
    """`plain_config` (a network list, no mark of any era), the role's model changed."""
    data = plain_config()
    del data["agent"]["observation_preprocessor"]
    data["models"][role] = {**data["models"][role], **changes}
    return data


def with_input(text: str) -> dict[str, Any]:
    return network(network=[{"name": "net", "input": text, "layers": [4], "activations": "elu"}])


@pytest.mark.parametrize(
    ("data", "agent", "era"),
    [
        (network(), {}, Era.CANONICAL),
        (network(), {"lambda": 0.9}, Era.NETWORK),
        (network(), {"clip_predicted_values": True}, Era.NETWORK),
        (network(), {"state_preprocessor": SCALER}, Era.NETWORK),
        (network(), {"shared_state_preprocessor": None}, Era.NETWORK),
        (network(), {"learning_rate_scheduler": "KLAdaptiveRL"}, Era.NETWORK),
        (with_input("Shape.STATES"), {}, Era.NETWORK),
        (with_input("STATES_ACTIONS"), {}, Era.NETWORK),
        (with_input("STATES"), {}, Era.CANONICAL),
        (with_input("OBSERVATIONS['Shape.STATES']"), {}, Era.CANONICAL),
        (network(), {"lambda": 0.9, "observation_preprocessor": None}, Era.CANONICAL),
        (network(), {"state_preprocessor": SCALER, "observation_preprocessor": None}, Era.CANONICAL),
        (network(), {"clip_predicted_values": True, "gae_lambda": 0.9}, Era.CANONICAL),
        (network(clip_mean_actions=True), {"lambda": 0.9}, Era.CANONICAL),
        ({"models": {"policy": {"hiddens": [4]}, "value": {}}}, {}, Era.ORBIT),
        ({"models": {"policy": {}, "value": {}}}, {"lambda": 0.9}, Era.ORBIT),
        ({"models": {"policy": {"hiddens": [4]}, "value": {}}}, {"gae_lambda": 0.9}, Era.ORBIT),
        ({"models": {"policy": {"hiddens": [4]}}, "memory": {}}, {}, Era.LAYERS),
        ({"models": {"policy": {"hiddens": [4]}}, "trainer": {"class": "SequentialTrainer"}}, {}, Era.LAYERS),
        ({"models": 3, "agent": None}, {}, Era.CANONICAL),
        ({"models": {"policy": 3}}, {"lambda": 0.9}, Era.ORBIT),
    ],
)
def test_eras_are_told_by_their_marks(data: dict[str, Any], agent: dict[str, Any], era: Era) -> None:
    assert era_of({**data, "agent": {**(data.get("agent") or {}), **agent}}) is era


@pytest.mark.parametrize(
    ("agent", "scale", "clip"),
    [
        # 2.x: clipping is on
        ({}, 2.5, 0.2),
        ({"gae_lambda": 0.9, "value_clip": 0.3}, 2.5, 0.3),
        ({"gae_lambda": 0.9, "clip_predicted_values": True}, 2.5, 0.2),
        ({"gae_lambda": 0.9, "clip_predicted_values": False, "value_clip": 0.3}, 2.5, 0.0),
        # 1.x: off unless `clip_predicted_values`, whatever value_clip says
        ({"lambda": 0.9}, 1.0, 0.0),
        ({"lambda": 0.9, "value_clip": 0.3}, 1.0, 0.0),
        ({"lambda": 0.9, "value_clip": 0.3, "clip_predicted_values": False}, 1.0, 0.0),
        ({"lambda": 0.9, "value_clip": 0.3, "clip_predicted_values": True}, 1.0, 0.3),
        ({"clip_predicted_values": True}, 1.0, 0.2),
        ({"lambda": 0.9, "class": "RPO"}, 1.0, 0.0),
    ],
)
def test_value_loss_is_that_of_the_era(agent: dict[str, Any], scale: float, clip: float) -> None:
    config = resolve({**network(), "agent": {"rollouts": 8, **agent}})[0]
    assert (config.agent.value_loss_scale, config.agent.value_clip) == (scale, clip)


def test_a2c_has_no_value_clip_to_switch() -> None:
    config, (note,) = resolve({**network(), "agent": {"class": "a2c", "rollouts": 8, "lambda": 0.9}})
    assert config.agent.cls == "A2C" and "defaults" not in note


# ---------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("STATES", "OBSERVATIONS"),
        ("Shape.STATES", "OBSERVATIONS"),
        ('STATES["STATES"]', 'OBSERVATIONS["STATES"]'),
        ("concatenate([STATES[:, 0:1], OBSERVATIONS])", "concatenate([OBSERVATIONS[:, 0:1], OBSERVATIONS])"),
        ("one_hot_encoding(STATE_SPACE, STATES)", "one_hot_encoding(OBSERVATION_SPACE, OBSERVATIONS)"),
    ],
)
def test_states_of_1x_are_observations(text: str, expected: str) -> None:
    data = with_input(text)
    data["agent"]["lambda"] = 0.9
    policy = resolve(data)[0].models.policy
    assert policy.network[0].input == expected


def test_units_named_after_states_are_those_of_observations() -> None:
    data = with_input("STATES")
    data["models"]["policy"]["network"][0] |= {"name": "STATES_", "layers": ["STATES", {"linear": "Shape.STATES"}]}
    data["agent"]["lambda"] = 0.9
    container = resolve(data)[0].models.policy.network[0]
    assert (container.name, container.layers) == ("STATES_", ["OBSERVATIONS", {"linear": "OBSERVATIONS"}])


@pytest.mark.parametrize("era", [{"lambda": 0.9}, {"gae_lambda": 0.9}])
def test_none_as_text_is_null_where_skrl_evaluates_it(era: dict[str, Any]) -> None:
    texts = dict.fromkeys(("learning_rate_scheduler", "state_preprocessor", "value_preprocessor"), "None")
    agent = resolve({**network(), "agent": {"rollouts": 8, **era, **texts}})[0].agent
    assert (agent.learning_rate_scheduler, agent.observation_preprocessor, agent.value_preprocessor) == (None,) * 3


def test_shared_states_are_not_read_by_1x_and_are_the_states_of_2x() -> None:
    shared = {"rollouts": 8, "shared_state_preprocessor": SCALER, "shared_state_preprocessor_kwargs": None}
    config, (note,) = resolve({**network(), "agent": shared})
    assert config.agent.state_preprocessor is None and config.agent.observation_preprocessor is None
    assert note.endswith("; ignored: agent.shared_state_preprocessor (skrl 1.x reads it for MAPPO alone)")
    config, (note,) = resolve({**network(), "agent": {**shared, "gae_lambda": 0.9}})
    assert config.agent.state_preprocessor == SCALER
    assert note == (
        "read as skrl 2.x; translated: shared_state_preprocessor → state_preprocessor; not as in skrl: "
        "time_limit_bootstrap is missing, which is True here and was False in skrl"
    )


def test_nulls_and_arguments_without_meaning_are_left_out() -> None:
    agent = {
        "rollouts": 8,
        "rewards_shaper": None,
        "rewards_shaper_scale": None,
        "learning_rate_scheduler": "KLAdaptiveLR",
        "learning_rate_scheduler_kwargs": {"kl_threshold": 0.01, "verbose": True, "last_epoch": -1},
    }
    config, (note,) = resolve({**network(), "agent": agent})
    assert (config.agent.rewards_shaper_scale, config.agent.learning_rate_scheduler_kwargs.kl_threshold) == (1.0, 0.01)
    assert ".verbose (" in note and ".last_epoch (" in note


@pytest.mark.parametrize("scale", ["2", "2.0", " 2e0"])
def test_a_scale_in_quotes_is_the_number_in_them(scale: str) -> None:
    models = {"policy": {"hiddens": [8], "output_scale": scale}, "value": {"hiddens": [8]}}
    config = resolve({"models": models, "agent": {}, "trainer": {"timesteps": 100}})[0]
    assert config.models.policy.output == "2.0 * tanh(ACTIONS)"


def test_orbit_shares_the_layers_of_the_policy_whichever_is_first() -> None:
    models = {"separate": False, "value": {"hiddens": [4]}, "policy": {"hiddens": [8]}}
    config = resolve({"models": models, "agent": {}, "trainer": {"timesteps": 100}})[0]
    assert config.models.policy.network[0].layers == config.models.value.network[0].layers == [8]


@pytest.mark.parametrize(
    ("name", "override", "expected"),
    [
        ("a_orbit_cartpole", "models.policy.hiddens=[8,8]", [8, 8]),
        ("b_docs_1_3", "models.policy.hiddens.1=6", [28, 6]),
        ("c_lab_1_3_cartpole", "models.policy.network.0.layers=[9]", [9]),
    ],
)
def test_the_command_line_speaks_the_language_of_the_file(name: str, override: str, expected: list[int]) -> None:
    assert fixture(name, override)[0].models.policy.network[0].layers == expected


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden_activation: [elu, tanh, elu]", "hidden_activation: 3 activations for 2 layers; give one, or one per"),
        ("output_shape: Shape.STATES", "output_shape: found 'Shape.STATES'; allowed: Shape.ACTIONS, Shape.ONE"),
        ("input_shape: Shape.STATES_ACTIONS", "input_shape: found 'Shape.STATES_ACTIONS'; allowed: Shape.STATES, Shap"),
        ("output_scale: null", "output_scale: found None; allowed: a number"),
        ("output_scale: '1.0x'", "output_scale: found '1.0x'; allowed: a number"),
        ("hiddens: 32", "hiddens: found 32; allowed: a list of layer sizes such as [64, 64]"),
        ("hidens: [32]", "hidens: unknown key. Did you mean 'hiddens'?"),
    ],
)
def test_models_that_no_skrl_could_build_are_refused_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    key = text.partition(":")[0]
    model = {"hiddens": "[32, 32]", "hidden_activation": "[elu, elu]"}
    lines = [f"    {name}: {value}" for name, value in model.items() if name != key]
    path = tmp_path / "cfg.yaml"
    path.write_text("\n".join(["models:", "  value: {hiddens: [8]}", "  policy:", f"    {text}", *lines, "agent: {}"]))
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert f"cfg.yaml:4: models.policy.{message}" in str(caught.value)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ({"lambda": 0.9, "gae_lambda": 0.9}, "agent.lambda: 'lambda' and 'gae_lambda' are two names of one setting"),
        ({"class": "SAC", "lambda": 0.9}, "agent.class: class SAC of skrl is not supported; allowed: PPO, RPO"),
        ({"rewards_shaper": "lambda r: r"}, "agent.rewards_shaper: unknown key. Did you mean 'rewards_shaper_scale'"),
        ({"clip_predicted_values": 1}, "agent.clip_predicted_values: found 1; allowed: True or False"),
        ({"gae_lambda": 0.9, "checkpoint_max": 3}, "agent.checkpoint_max: unknown key."),
        (
            {"gae_lambda": 0.9, "state_preprocessor": None, "shared_state_preprocessor": SCALER,
             "observation_preprocessor": None},
            "agent.shared_state_preprocessor: 'shared_state_preprocessor' and 'state_preprocessor' are two names",
        ),
    ],
)  # fmt: skip
def test_agents_that_cannot_be_read_are_refused(agent: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve({**network(), "agent": {"rollouts": 8, **agent}})
    assert message in str(caught.value)


def test_a_model_of_hiddens_has_one_preprocessor() -> None:
    data = yaml.safe_load((FIXTURES / "b_docs_1_3.yaml").read_text())
    data["agent"]["observation_preprocessor"] = None
    with pytest.raises(UserError, match="'state_preprocessor' and 'observation_preprocessor' are two names of one"):
        resolve(data)


@pytest.mark.parametrize("era", [{"lambda": 0.9}, {"gae_lambda": 0.9}])
def test_null_is_what_it_is_to_skrl_where_that_only_asks_whether_a_key_is_set(era: dict[str, Any]) -> None:
    agent = {**era, "kl_threshold": None, "entropy_loss_scale": None, "time_limit_bootstrap": None}
    experiment = {"directory": None, "experiment_name": None, "wandb": None, "store_separately": None}
    config, _ = resolve(
        {**network(), "agent": {**agent, "experiment": experiment}, "trainer": {"headless": None, "timesteps": 16}}
    )
    assert config.agent.kl_threshold == config.agent.entropy_loss_scale == 0.0
    assert config.agent.time_limit_bootstrap is config.agent.experiment.wandb is config.trainer.headless is False
    assert config.agent.experiment.directory == config.agent.experiment.experiment_name == ""


def test_a2c_of_1x_does_not_read_learning_epochs() -> None:
    agent = {"class": "A2C", "rollouts": 8, "learning_epochs": 8}
    config, (note,) = resolve({**network(), "agent": {**agent, "lambda": 0.9}})
    assert config.agent.learning_epochs == 1 and "agent.learning_epochs (A2C of skrl 1.x learns once" in note
    with pytest.raises(UserError, match="A2C learns once from each rollout"):
        resolve({**network(), "agent": {**agent, "gae_lambda": 0.9}})


def test_what_only_ppo_reads_is_ignored_for_a2c_of_skrl_1() -> None:
    ppos = {"clip_predicted_values": False, "value_clip": 0.2, "value_loss_scale": 2.0, "kl_threshold": 0.01}
    data = yaml.safe_load((FIXTURES / "b_docs_1_3.yaml").read_text())
    data["agent"] |= {"class": "A2C", "mini_batches": 1, **ppos}
    config, (note,) = resolve(data)
    agent = config.agent
    assert (agent.value_clip, agent.value_loss_scale, agent.kl_threshold) == (0.0, 1.0, 0.0)
    assert "kl_threshold (PPO's; A2C of skrl 1.x has none)" in note and "clip_predicted_values →" not in note
    assert resolve(data, None, [(("agent", "kl_threshold"), 0.02)])[0].agent.kl_threshold == 0.02
