"""What a configuration of any skrl era means: names, defaults of its era, numbers, overrides."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.config import Config, load_config, resolve
from runner.config.load import dump, parse_scalar
from runner.config.load import parse as read
from runner.config.models import Model
from runner.config.network.expressions import Binary, Call, Expression, Name, Number, Part, parse
from runner.config.network.layers import Linear
from runner.config.overrides import parse_override, split_top_level
from tests.runner.builders import make_config, plain_config


def hidden(model: Model) -> list[tuple[Any, str]]:
    """Units and activation of every layer."""
    layers = [layer for container in model.plan.containers for layer in container.layers]
    assert all(isinstance(layer, Linear) for layer, _ in layers)
    return [(layer.units, activation) for layer, activation in layers if isinstance(layer, Linear)]


ROOT = Path(__file__).parents[3]
SKRL = ROOT / "configs/skrl/ppo.yaml"
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def loaded(*sets: str, path: Path = SKRL) -> Config:
    return load_config(path, [(key, values[0]) for key, values in map(parse_override, sets)])[0]


# ---------------------------------------------------------------------------------------------- eras


def test_skrls_example_means_what_skrl_13_made_of_it() -> None:
    config, notes = load_config(SKRL)
    agent, models = config.agent, config.models
    assert (config.seed, config.env.id, config.env.num_envs, config.backend) == (42, None, None, "auto")
    assert not models.separate
    assert models.policy.cls == "GaussianMixin" and models.value.cls == "DeterministicMixin"
    assert hidden(models.policy) == hidden(models.value) == [(32, "elu"), (32, "elu")]
    assert models.policy.plan.output == Call("tanh", (Name("ACTIONS"),)) and models.value.plan.output == Name("ONE")
    assert models.policy.clip_actions and models.policy.clip_log_std
    assert (models.policy.initial_log_std, models.policy.min_log_std, models.policy.max_log_std) == (0, -20, 2)
    assert (agent.rollouts, agent.learning_epochs, agent.mini_batches) == (16, 8, 1)
    assert (agent.discount_factor, agent.gae_lambda, agent.learning_rate) == (0.99, 0.95, 3e-4)
    assert agent.learning_rate_scheduler == "KLAdaptiveLR"
    schedule = agent.learning_rate_scheduler_kwargs
    assert (schedule.kl_threshold, schedule.min_lr, schedule.max_lr) == (0.008, 1e-6, 1e-2)
    assert agent.observation_preprocessor == agent.value_preprocessor == "RunningStandardScaler"
    assert (agent.grad_norm_clip, agent.ratio_clip, agent.value_clip, agent.kl_threshold) == (1.0, 0.2, 0.2, 0)
    assert (agent.entropy_loss_scale, agent.value_loss_scale, agent.rewards_shaper_scale) == (0, 2, 1)
    assert (config.trainer.timesteps, config.updates) == (1600, 100)
    assert (config.interval("write_interval"), config.interval("checkpoint_interval")) == (16, 80)
    assert notes == [
        "read as skrl 1.x (1.3 or 1.4, layers as `hiddens`); translated: hiddens → network, "
        "state_preprocessor → observation_preprocessor, lambda → gae_lambda, clip_predicted_values → value_clip; "
        "not as in skrl: time_limit_bootstrap is missing, which is True here and was False in skrl"
    ]


NETWORK_2X = """
models:
  separate: True
  policy:
    class: gaussianmixin
    network:
      - {name: first, input: OBSERVATIONS, layers: [64, {linear: 32}], activations: relu}
      - {name: second, input: first, layers: [{linear: {out_features: 16}}, {linear: [8]}], activations: [tanh, ""]}
    output: 0.5 * tanh(ACTIONS)
  value:
    class: skrl.DeterministicMixin
    network: [{name: net, input: STATES, layers: [4], activations: [swish]}]
    output: ONE
memory: {class: RandomMemory, memory_size: -1}
agent: {class: ppo, gae_lambda: 0.9}
trainer: {class: SequentialTrainer, timesteps: 1e6}
"""


def test_a_2x_network_list_is_read_container_by_container(tmp_path: Path) -> None:
    path = tmp_path / "cfg.yaml"
    path.write_text(NETWORK_2X)
    config, notes = load_config(path)
    policy = config.models.policy
    assert policy.cls == "GaussianMixin" and config.agent.cls == "PPO"
    assert hidden(policy) == [(64, "relu"), (32, "relu"), (16, "tanh"), (8, "identity")]
    assert policy.plan.output == Binary("*", Number(0.5), Call("tanh", (Name("ACTIONS"),)))
    assert hidden(config.models.value) == [(4, "silu")]
    assert config.trainer.timesteps == 1_000_000
    assert notes == []
    # skrl 2.x's defaults
    assert (config.agent.value_loss_scale, config.agent.value_clip, config.agent.mini_batches) == (2.5, 0.2, 2)


LEGACY = ("lambda", "state_preprocessor", "state_preprocessor_kwargs", "clip_predicted_values")


@pytest.mark.parametrize(
    ("agent", "scale", "clip"),
    [
        ({}, 2.5, 0.2),  # 2.x: clipping is on
        ({"value_loss_scale": 0.7, "value_clip": 0.1}, 0.7, 0.1),
        ({"lambda": 0.9}, 1.0, 0.0),  # 1.x: off unless asked for
        ({"lambda": 0.9, "value_clip": 0.3}, 1.0, 0.0),
        ({"clip_predicted_values": True}, 1.0, 0.2),
        ({"clip_predicted_values": True, "value_clip": 0.3}, 1.0, 0.3),
        ({"clip_predicted_values": False, "value_clip": 0.3}, 1.0, 0.0),
        ({"clip_predicted_values": False, "value_loss_scale": 2.0}, 2.0, 0.0),
    ],
)
def test_defaults_are_those_of_the_era(agent: dict[str, Any], scale: float, clip: float) -> None:
    data = plain_config()
    data["agent"] = agent
    data["trainer"]["timesteps"] = 100
    config = resolve(data)[0]
    assert config.agent.value_loss_scale == scale
    assert config.agent.value_clip == clip


@pytest.mark.parametrize("key", LEGACY)
def test_each_legacy_name_is_translated_and_said_so(key: str) -> None:
    values = {"lambda": 0.5, "state_preprocessor": None, "state_preprocessor_kwargs": {"epsilon": 1e-4}}
    data = plain_config()
    del data["agent"]["observation_preprocessor"]
    data["agent"][key] = values.get(key, False)
    config, notes = resolve(data)
    assert notes and "skrl 1.x" in notes[0]
    told = {
        "lambda": config.agent.gae_lambda == 0.5,
        "state_preprocessor": config.agent.observation_preprocessor is None,
        "state_preprocessor_kwargs": config.agent.observation_preprocessor_kwargs.epsilon == 1e-4,
        "clip_predicted_values": config.agent.value_clip == 0.0,
    }
    assert told[key]


def test_skrls_misspelt_scheduler_and_null_scale_are_understood() -> None:
    agent = {"learning_rate_scheduler": "KLAdaptiveRL", "rewards_shaper_scale": None, "experiment": None}
    data = plain_config()
    data["agent"] = agent
    data["trainer"]["timesteps"] = 100
    config = resolve(data)[0]
    assert config.agent.learning_rate_scheduler == "KLAdaptiveLR"
    assert config.agent.rewards_shaper_scale == 1.0
    assert config.agent.experiment.directory == ""


def test_resolving_leaves_its_argument_alone() -> None:
    with SKRL.open() as file:
        data = yaml.safe_load(file)
    before = json.dumps(data)
    resolve(data, None, [(("models", "policy", "hiddens"), [8, 8]), (("agent", "lambda"), 0.5)])
    assert json.dumps(data) == before


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3e-4", 3e-4), ("3.e-4", 3e-4), ("3.0e-4", 3e-4), ("1e6", 1e6), ("+1E+2", 100.0), ("-2e0", -2.0), ("7", 7),
        ("1_000", 1000), ("2020-01-01", "2020-01-01"), ("{on: 1, 5: 2}", {"on": 1, "5": 2}),
        ("{a: &a 5, *a : 1}", {"a": 5, "5": 1}), ("'3e-4'", "3e-4"), ("1e", "1e"), ("e5", "e5"), ("true", True),
        ("null", None), ("", None), ("[1e3, a]", [1000.0, "a"]), ("{a: 1e-3}", {"a": 1e-3}),
        # YAML 1.2, not 1.1: no octal by a leading zero, no base 60, no base 2
        ("010", 10), ("-010", -10), ("08", 8), ("0o10", 8), ("0x1F", 31), ("010000", 10000), ("1:40", "1:40"),
        ("1:40.5", "1:40.5"), ("0b11", "0b11"), ("-0o10", "-0o10"), ("+0x1F", "+0x1F"), ("0o8", "0o8"), ("+1", 1),
        ("01.50", 1.5), ("1.", 1.0), (".5", 0.5), ("-.5e1", -5.0), ("1_000.2_5", 1000.25), ("1__0", "1__0"),
        ("1_", "1_"), ("_1", "_1"), (".inf", math.inf), ("-.INF", -math.inf), ("inf", "inf"), (".", "."),
        ("~", None), ("NULL", None), ("[010, 1:40]", [10, "1:40"]), ("!!float 010", 10.0), ("'010'", "010"),
        ("yes", True), ("off", False),  # PyYAML's, as in skrl
    ],
)  # fmt: skip
def test_scalars_are_what_they_look_like(text: str, expected: Any) -> None:
    value = parse_scalar(text)
    assert value == expected and type(value) is type(expected)


def test_the_number_rule_does_not_leak_into_other_users_of_yaml() -> None:
    assert yaml.safe_load("3e-4") == "3e-4"


@pytest.mark.parametrize("text", ["1e6", "'1e6'", "1000000", "1_000_000", "1000000.0", "'1000000'", "1.0e+6"])
def test_whole_numbers_may_be_written_in_any_way(text: str) -> None:
    timesteps = loaded(f"trainer.timesteps={text}").trainer.timesteps
    assert timesteps == 1_000_000 and type(timesteps) is int


def test_a_whole_number_in_quotes_keeps_all_its_digits() -> None:
    assert loaded("seed='9007199254740993'").seed == 9_007_199_254_740_993


@pytest.mark.parametrize("text", ["3e-4", "'3e-4'", "0.0003", "3.e-4", "'.0003'"])
def test_real_numbers_may_be_written_in_any_way(text: str) -> None:
    assert loaded(f"agent.learning_rate={text}").agent.learning_rate == 3e-4


TANH = Call("tanh", (Name("ACTIONS"),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ACTIONS", Name("ACTIONS")), ("Shape.ONE", Name("ONE")), (" tanh( ACTIONS ) ", TANH),
        ("2 * tanh(ACTIONS)", Binary("*", Number(2.0), TANH)),
        ("ACTIONS / -0.5", Binary("/", Name("ACTIONS"), Number(-0.5))),
        ("Linear(ONE)", Call("identity", (Name("ONE"),))), ("swish(ACTIONS)", Call("silu", (Name("ACTIONS"),))),
        ("-ACTIONS + net", Binary("+", Binary("*", Number(-1.0), Name("ACTIONS")), Name("net"))),
        ("OBSERVATIONS['a'][\"b\"]", Name("OBSERVATIONS", ("a", "b"))),
        ("STATES[:, 0:3]", Part(Name("STATES"), ((0, 3, None),))),
        ("net[:, -1, ::2]", Part(Name("net"), (-1, (None, None, 2)))),
        ("concatenate([a, b])", Call("concatenate", (Name("a"), Name("b")))),
        ("concatenate(a, b)", Call("concatenate", (Name("a"), Name("b")))),
        ("permute(STATES, (0, 3, 1, 2))", Call("permute", (Name("STATES"),), (0, 3, 1, 2))),
        ("one_hot_encoding(OBSERVATION_SPACE, OBSERVATIONS)", Call("one_hot_encoding", (Name("OBSERVATIONS"),))),
        (
            "one_hot_encoding(STATE_SPACE['a'], STATES['a'])",
            Call("one_hot_encoding", (Name("STATES", ("a",)),)),
        ),
        ("2 * 3 / -4 * ACTIONS", Binary("*", Number(-1.5), Name("ACTIONS"))),
    ],
)  # fmt: skip
def test_expressions_are_read(text: str, expected: Expression) -> None:
    assert parse(text, "output") == expected


def test_intervals_are_timesteps_and_auto_is_a_share_of_the_run() -> None:
    config = make_config({"trainer.timesteps": 10_000, "agent.experiment": {}})
    assert (config.interval("write_interval"), config.interval("checkpoint_interval")) == (100, 1000)
    short = make_config({"trainer.timesteps": 50, "agent.experiment": {}})
    assert (short.interval("write_interval"), short.interval("checkpoint_interval")) == (8, 8)
    never = make_config({"agent.experiment": {"write_interval": 0, "checkpoint_interval": -1}})
    assert (never.interval("write_interval"), never.interval("checkpoint_interval")) == (0, 0)
    assert make_config({"trainer.timesteps": 31}).updates == 3


# ---------------------------------------------------------------------------------------------- dump


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_shipped_configuration_resolves_and_its_dump_reads_back_equal(path: Path, tmp_path: Path) -> None:
    config = load_config(path)[0]
    dumped = config.dump()
    again, notes = resolve(dumped)
    assert again == config and again.dump() == dumped and notes == []
    file = tmp_path / "dump.yaml"
    file.write_text(dump(dumped))
    assert load_config(file)[0] == config
    assert resolve(json.loads(json.dumps(dumped)))[0] == config
    assert not any(math.isnan(v) for v in dumped["agent"].values() if isinstance(v, float))


def test_texts_that_look_like_something_else_survive_a_dump() -> None:
    texts = ["1e5", "3e-4", "on", "null", "2026-11-23", "0x10", "", " a", "é: ü", "1:30", "=", "~", "- x", "a\nb"]
    texts += ["010", "0o10", "0b1", "1_0", "0x_1", "yes", ".inf", "-.5", "+1", "1.", "1:40.5", "190:20:30"]
    data = {"texts": texts, "nested": [[1, 2.5], {"a": None, "b": True}], **{text or "empty": text for text in texts}}
    assert read(dump(data), "dump")[0] == data
    assert yaml.safe_load(dump(data)) == data


# ---------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("agent.gae_lambda=0.5", 0.5),  # the file says `lambda`
        ("agent.lambda=0.5", 0.5),
    ],
)
def test_overrides_beat_the_file_under_either_name(override: str, value: float) -> None:
    assert loaded(override).agent.gae_lambda == value


def test_overrides_beat_the_file_for_every_kind_of_key() -> None:
    config = loaded(
        "agent.observation_preprocessor=null",
        "agent.clip_predicted_values=false",
        "agent.learning_rate_scheduler=KLAdaptiveRL",
        "agent.learning_rate_scheduler_kwargs.kl_threshold=0.1",
        "models.separate=true",
        "models.policy.hiddens=[8, 16]",
        "models.value.hiddens.0=4",
        "models.policy.output_scale=2",
        "env.id=Pendulum-v1",
        "env.num_envs=3",
        "env.max_episode_steps=7",
        "seed=null",
    )
    assert config.agent.observation_preprocessor is None and config.agent.value_clip == 0
    assert config.agent.learning_rate_scheduler == "KLAdaptiveLR"
    assert config.agent.learning_rate_scheduler_kwargs.kl_threshold == 0.1
    assert [units for units, _ in hidden(config.models.policy)] == [8, 16]
    assert [units for units, _ in hidden(config.models.value)] == [4, 32]
    assert config.models.policy.plan.output == Binary("*", Number(2.0), TANH)
    assert (config.env.id, config.env.num_envs, config.env.arguments) == ("Pendulum-v1", 3, {"max_episode_steps": 7})
    assert config.seed is None


def test_the_last_override_wins() -> None:
    assert loaded("agent.rollouts=4", "agent.rollouts=8").agent.rollouts == 8


def test_an_override_does_not_change_the_era_of_the_file() -> None:
    data = plain_config()
    output = ("models", "policy", "output"), "tanh(Shape.ACTIONS)"
    for override in ((("agent", "lambda"), 0.5), output):
        assert resolve(data, None, [override])[0].agent.value_loss_scale == 2.5
        assert resolve(data, None, [], [(*override, ("sweep", "x"))])[0].agent.value_loss_scale == 2.5
    del data["agent"]["observation_preprocessor"]
    data["agent"]["lambda"] = 0.5
    for name, value in (("clip_mean_actions", False), ("class", "GaussianMixin")):
        config, notes = resolve(data, None, [(("models", "policy", name), value)])
        assert config.agent.value_loss_scale == 1.0 and notes[0].startswith("read as skrl 1.x")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1,2,3", ["1", "2", "3"]), ("[64,64]", ["[64,64]"]), ("[64,64],[32]", ["[64,64]", "[32]"]), ("a", ["a"]),
        ("{a: 1, b: 2},3", ["{a: 1, b: 2}", "3"]), ("'a,b',\"c,d\"", ["'a,b'", '"c,d"']), ("f(a,b),c", ["f(a,b)", "c"]),
        ("", [""]), ("1,", ["1", ""]), ("[[1,2],[3]],4", ["[[1,2],[3]]", "4"]),
    ],
)  # fmt: skip
def test_only_a_comma_outside_brackets_and_quotes_separates_alternatives(text: str, parts: list[str]) -> None:
    assert split_top_level(text) == parts


def test_an_override_is_a_key_and_its_alternatives() -> None:
    assert parse_override("agent.learning_rate=3e-4,1e-3") == (("agent", "learning_rate"), [3e-4, 1e-3])
    assert parse_override("models.policy.network.0.layers=[64,64],[8]") == (
        ("models", "policy", "network", 0, "layers"),
        [[64, 64], [8]],
    )
    assert parse_override("env.id=a=b") == (("env", "id"), ["a=b"])
    assert parse_override(" seed =1") == (("seed",), [1])
