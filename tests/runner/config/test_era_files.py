"""Files of every skrl era: which era is read, what it means in canonical names, what the user is told.

The fixtures have the form of published files, which their first lines name, and numbers of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.config import Config, load_config, resolve
from runner.config.overrides import parse_override
from runner.config.skrl.eras import Era, era_of
from tests.runner.builders import SCALER

FIXTURES = Path(__file__).parents[2] / "fixtures" / "yaml"
FILES = sorted(path.stem for path in FIXTURES.glob("*.yaml"))
ERAS = {"a": Era.ORBIT, "b": Era.LAYERS, "c": Era.NETWORK, "d": Era.CANONICAL}

Layers = list[tuple[str, list[int], str]]


def fixture(name: str, *sets: str) -> tuple[Config, list[str]]:
    return load_config(FIXTURES / f"{name}.yaml", [(key, values[0]) for key, values in map(parse_override, sets)])


def mlp(model: Any) -> Layers:
    """Input, sizes and the one activation of every container of linear layers."""
    found = []
    for item in model.network:
        (activation,) = set(item.activations) if isinstance(item.activations, list) else {item.activations}
        found.append((item.input, item.layers, str(activation)))
    return found


def at(config: Config, key: str) -> Any:
    value: Any = config.dump()
    for part in key.split("."):
        value = value[part]
    return value


# ---------------------------------------------------------------------------------------------- every file


@pytest.mark.parametrize("name", FILES)
def test_every_file_loads_as_its_era_and_is_the_same_when_its_dump_is_read(name: str) -> None:
    data = yaml.safe_load((FIXTURES / f"{name}.yaml").read_text())
    assert era_of(data) is ERAS[name[0]]
    config, notes = fixture(name)
    assert resolve(config.dump()) == (config, [])
    assert len(notes) <= 1 and all("\n" not in note for note in notes)
    if name[0] != "d":
        assert notes[0].startswith(f"read as {ERAS[name[0]].value}; translated: ")


EXPECTED: dict[str, tuple[Layers, str, dict[str, Any]]] = {
    # name: layers of the policy, its output, values
    "a_orbit_first": (
        [("OBSERVATIONS", [24, 24], "elu")], "ACTIONS",
        {"models.separate": True, "agent.mini_batches": 1, "trainer.timesteps": 1200},
    ),
    "a_orbit_use_api": (
        [("OBSERVATIONS", [256, 64, 32], "elu")], "tanh(ACTIONS)",
        {"models.separate": True, "agent.value_loss_scale": 1.5, "agent.rewards_shaper_scale": 0.01},
    ),
    "a_orbit_lift_limits": (
        [("OBSERVATIONS", [256, 128, 64], "elu")], "tanh(ACTIONS)",
        {
            "seed": 7, "agent.rollouts": 96, "agent.learning_rate": 5e-4, "agent.entropy_loss_scale": 0.01,
            "agent.learning_rate_scheduler_kwargs.min_lr": 1e-5, "agent.learning_rate_scheduler_kwargs.max_lr": 1e-2,
        },
    ),
    "a_orbit_cartpole": (
        [("OBSERVATIONS", [48, 32], "elu")], "tanh(ACTIONS)",
        {
            "models.separate": False, "models.policy.clip_actions": "bounded", "models.policy.initial_log_std": 0.0,
            "agent.learning_rate": 4e-4, "agent.learning_rate_scheduler": "KLAdaptiveLR",
            "agent.learning_rate_scheduler_kwargs.kl_threshold": 0.008, "agent.value_clip": 0.2,
            "agent.value_loss_scale": 2.0, "agent.experiment.write_interval": 16,
            "agent.experiment.checkpoint_interval": 80, "agent.observation_preprocessor": SCALER,
            "agent.state_preprocessor": None, "agent.value_preprocessor": SCALER, "trainer.timesteps": 1600,
        },
    ),
    "a_orbit_anymal": (
        [("OBSERVATIONS", [96, 96, 96], "elu")], "tanh(ACTIONS)",
        {"agent.rollouts": 24, "agent.learning_epochs": 5, "agent.learning_rate_scheduler": "KLAdaptiveLR"},
    ),
    "a_lab_1_0_ant": (
        [("OBSERVATIONS", [192, 96, 48], "elu")], "tanh(ACTIONS)",
        {"agent.learning_rate": 2e-4, "agent.value_loss_scale": 1.0, "trainer.timesteps": 8000},
    ),
    "a_lab_1_1_quadcopter": (
        [("OBSERVATIONS", [80, 80], "elu")], "tanh(ACTIONS)",  # three activations for two layers
        {"agent.learning_rate": 6e-4, "trainer.environment_info": "log"},
    ),
    "a_lab_1_1_anymal_d": (
        [("OBSERVATIONS", [384, 192, 96], "elu")], "ACTIONS",  # two activations for three layers
        {"agent.entropy_loss_scale": 0.004, "agent.experiment.checkpoint_interval": 1800},
    ),
    "a_instantiator_defaults": (
        [("OBSERVATIONS", [256, 256], "relu")], "0.5 * tanh(ACTIONS)",
        {
            "models.separate": True, "models.value.output": "ONE", "agent.gae_lambda": 0.9, "agent.value_clip": 0.0,
            "agent.value_loss_scale": 1.0, "agent.learning_rate": 1e-3, "agent.observation_preprocessor": None,
            "agent.experiment.write_interval": 250, "agent.experiment.checkpoint_interval": 1000,
        },
    ),
    "b_docs_1_3": (
        [("OBSERVATIONS", [28, 28], "elu")], "tanh(ACTIONS)",
        {"models.separate": False, "agent.value_clip": 0.2, "agent.experiment.write_interval": "auto"},
    ),
    "b_lab_shadow_hand_over": (
        [("OBSERVATIONS", [256, 128, 64], "elu")], "ACTIONS",
        {"models.separate": True, "models.policy.clip_actions": False, "agent.learning_rate": 5e-4},
    ),
    "b_without_value_keys": (
        [("OBSERVATIONS", [32], "elu")], "tanh(ACTIONS)",
        {
            "agent.value_clip": 0.0, "agent.value_loss_scale": 1.0, "agent.experiment.write_interval": "auto",
            "agent.experiment.checkpoint_interval": "auto",
        },
    ),
    "c_lab_1_3_cartpole": (
        [("OBSERVATIONS", [40, 40], "elu")], "ACTIONS",
        {"models.separate": False, "agent.time_limit_bootstrap": False, "agent.rewards_shaper_scale": 0.1},
    ),
    "c_lab_2_0_allegro": (
        [("OBSERVATIONS", [512, 256, 128], "elu")], "ACTIONS",
        {"agent.learning_rate_scheduler_kwargs.kl_threshold": 0.016, "trainer.timesteps": 72000},
    ),
    "c_lab_2_0_fixed_rate": (
        [("OBSERVATIONS", [128, 64], "elu")], "2.0 * tanh(ACTIONS)",
        {
            "agent.learning_rate": 1e-3, "agent.learning_rate_scheduler": None, "agent.observation_preprocessor": None,
            "agent.value_preprocessor": None, "agent.experiment.checkpoint_interval": 0, "trainer.timesteps": 20000,
            "agent.time_limit_bootstrap": True,
        },
    ),
    "c_so_arm_reach": (
        [("OBSERVATIONS", [64, 48], "elu")], "ACTIONS",
        {"agent.entropy_loss_scale": 0.01, "agent.value_loss_scale": 1.0},
    ),
    "c_openarm_lift": (
        [("OBSERVATIONS", [128, 64, 32], "elu")], "ACTIONS", {"agent.discount_factor": 0.98, "agent.mini_batches": 4},
    ),
    "c_value_first": ([("OBSERVATIONS", [20], "elu")], "ACTIONS", {"models.separate": False}),
    "d_docs_2_0": (
        [("OBSERVATIONS", [36, 36], "elu")], "ACTIONS",
        {
            "agent.observation_preprocessor": SCALER, "agent.state_preprocessor": None, "agent.value_clip": 0.2,
            "agent.value_loss_scale": 2.0, "agent.gae_lambda": 0.95, "agent.learning_rate": 5e-4,
        },
    ),
    "d_asymmetric": (
        [("OBSERVATIONS", [96, 48], "elu")], "ACTIONS",
        {"agent.observation_preprocessor": SCALER, "agent.state_preprocessor": SCALER, "models.separate": True},
    ),
    "d_defaults": (
        [("OBSERVATIONS", [16], "elu")], "ACTIONS",
        {
            "agent.value_loss_scale": 2.5, "agent.value_clip": 0.2, "agent.learning_rate": [1e-4, 1e-3],
            "models.policy.clip_mean_actions": True, "agent.experiment.write_interval": "auto",
        },
    ),
    "d_old_names": (
        [("OBSERVATIONS", [24], "elu")], "ACTIONS",
        {
            "agent.observation_preprocessor": SCALER, "agent.observation_preprocessor_kwargs.epsilon": 1e-5,
            "agent.state_preprocessor": None, "agent.value_clip": 0.0, "agent.value_loss_scale": 2.5,
            "agent.learning_rate_scheduler": "KLAdaptiveLR", "agent.gae_lambda": 0.9,
        },
    ),
    "d_discrete": (
        [("one_hot_encoding(OBSERVATION_SPACE, OBSERVATIONS)", [32, 32], "elu")], "ACTIONS",
        {"models.policy.class": "CategoricalMixin", "models.policy.unnormalized_log_prob": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_what_a_file_means(name: str) -> None:
    layers, output, values = EXPECTED[name]
    config = fixture(name)[0]
    assert mlp(config.models.policy) == layers
    assert config.models.policy.output == output
    assert {key: at(config, key) for key in values} == values
    assert config.agent.cls == "PPO" and config.models.value.cls == "DeterministicMixin"


def test_models_that_are_no_plain_mlp() -> None:
    scaled, _ = fixture("b_scaled_output")
    (policy,), (value,) = scaled.models.policy.network, scaled.models.value.network
    assert (policy.layers, policy.activations, value.activations) == ([32, 16], ["relu", "tanh"], ["relu", "relu"])
    assert (scaled.models.policy.output, scaled.models.value.output) == ("2.0 * tanh(ACTIONS)", "0.5 * tanh(ONE)")
    assert (scaled.models.policy.initial_log_std, scaled.agent.value_clip) == (-1.0, 0.0)

    camera, _ = fixture("c_lab_1_3_camera")
    features, net = camera.models.policy.network
    assert (features.input, net.input, net.layers) == (
        "permute(OBSERVATIONS, (0, 3, 1, 2))", "features_extractor", [256],
    )  # fmt: skip
    assert features.layers[0] == {"conv2d": {"out_channels": 16, "kernel_size": 8, "stride": 4, "padding": 0}}
    assert camera.agent.observation_preprocessor is None

    parts, _ = fixture("c_lab_showcase_dict")
    assert parts.models.policy.cls == "MultiCategoricalMixin"
    assert [item.input for item in parts.models.policy.network] == [
        'OBSERVATIONS["STATES of joints"]', 'OBSERVATIONS["joint-velocities"]', "net_pos + net_vel",
    ]  # fmt: skip

    asymmetric, _ = fixture("d_asymmetric")
    assert [item.input for item in asymmetric.models.value.network] == ["STATES"]


# ---------------------------------------------------------------------------------------------- notes

TOLD = {
    "a_orbit_cartpole": (
        "read as skrl 1.x (1.2 or older, as of Orbit and early Isaac Lab); translated: hiddens → network, "
        "state_preprocessor → observation_preprocessor, lambda → gae_lambda, KLAdaptiveRL → KLAdaptiveLR, "
        "clip_predicted_values → value_clip"
    ),
    "a_orbit_use_api": "; ignored: trainer.use_api (",
    "a_instantiator_defaults": (
        "; 1.x defaults used: models.policy.hiddens [256, 256], models.policy.hidden_activation relu, "
        "models.policy.output_activation tanh, models.value.hidden_activation relu, value_loss_scale 1.0, "
        "no value clipping (clip_predicted_values is missing), write_interval 250, checkpoint_interval 1000"
    ),
    "b_scaled_output": "; ignored: agent.learning_rate_scheduler_kwargs.verbose (does not change training)",
    "b_without_value_keys": (
        "; 1.x defaults used: value_loss_scale 1.0, no value clipping (clip_predicted_values is missing)"
    ),
    "c_lab_1_3_cartpole": (
        "read as skrl 1.x (1.3 or 1.4, layers as `network`); translated: STATES → OBSERVATIONS, "
        "state_preprocessor → observation_preprocessor, lambda → gae_lambda, clip_predicted_values → value_clip"
    ),
    "d_old_names": (
        "read as skrl 2.x; translated: state_preprocessor → observation_preprocessor, KLAdaptiveRL → KLAdaptiveLR, "
        "clip_predicted_values → value_clip"
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_one_line_says_what_was_read_and_how(name: str) -> None:
    (note,) = fixture(name)[1]
    assert TOLD[name] in note


@pytest.mark.parametrize("name", ["d_docs_2_0", "d_asymmetric", "d_defaults", "d_discrete"])
def test_canonical_files_need_no_note(name: str) -> None:
    assert fixture(name)[1] == []


def test_a_default_that_the_command_line_sets_is_not_told() -> None:
    config, (note,) = fixture("b_without_value_keys", "agent.value_loss_scale=3", "agent.value_clip=0.1")
    assert (config.agent.value_loss_scale, config.agent.value_clip) == (3.0, 0.1)
    assert "defaults" not in note
