"""Every key that a version of skrl has is read in its files; what skrl 1.x ignores is told and left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.config import Config, resolve
from runner.config.load import Key, plain_copy
from runner.config.overrides import parse_override
from runner.config.skrl.eras import Era, era_of
from runner.errors import UserError
from tests.runner.builders import plain_config

KEYS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "skrl" / "keys.json").read_text()
)
"""Version → section → key → its default, read from the wheels by keys.py beside it."""
POLICIES = [name for name in KEYS["2.1.1"] if name.endswith("Mixin") and name != "DeterministicMixin"]
CASES = [
    (version, agent, policy)
    for version, sections in KEYS.items()
    for agent in (("ppo", "rpo", "a2c") if version >= "1.3" else ("ppo",))
    for policy in (POLICIES if version >= "1.3" else POLICIES[:1])
    if sections[policy]
]


def whole(version: str, agent: str, policy: str) -> dict[str, Any]:
    """A file of a version with every key that it has."""
    keys, runner = KEYS[version], version >= "1.3"
    layers: dict[str, Any] = {"input_shape": "Shape.STATES"}
    if runner:
        state = "OBSERVATIONS" if version >= "2" else "STATES"
        layers = {"network": [{"name": "net", "input": state, "layers": [8], "activations": "elu"}]}
    data: dict[str, Any] = {"seed": 1, "models": {"separate": True}}
    for role, mixin, token in (("policy", policy, "ACTIONS"), ("value", "DeterministicMixin", "ONE")):
        output = {"output": token} if runner else {"output_shape": f"Shape.{token}"}
        data["models"][role] = {**keys[mixin], **layers, **output, **({"class": mixin} if runner else {})}
    data["agent"] = {**keys[agent], **({"class": agent.upper(), "rewards_shaper_scale": 1.0} if runner else {})}
    data["trainer"] = {**keys["trainer"], **({"class": "SequentialTrainer"} if runner else {})}
    if runner:
        memory = {name: default for name, default in keys["memory"].items() if name != "num_envs"}
        data["memory"] = {**memory, "class": "RandomMemory", "memory_size": -1}
    return plain_copy(data)


@pytest.mark.parametrize(("version", "agent", "policy"), CASES)
def test_every_key_of_a_version_is_read_in_its_files(version: str, agent: str, policy: str) -> None:
    data = whole(version, agent, policy)
    eras = {"1": Era.ORBIT if version < "1.3" else Era.NETWORK, "2": Era.CANONICAL}
    assert era_of(data) is eras[version[0]]
    config, notes = resolve(data)
    assert not any("ignored" in note for note in notes)
    assert config.agent.time_limit_bootstrap is False and config.trainer.timesteps == 100_000
    assert config.trainer.headless is False and config.models.policy.cls == (
        policy if version >= "1.3" else "GaussianMixin"
    )


@pytest.mark.parametrize("version", ["1.2.0", "1.4.3", "2.1.1"])
def test_how_checkpoints_are_cut_into_files_is_told_and_left_out(version: str) -> None:
    data = whole(version, "ppo", "GaussianMixin")
    data["agent"]["experiment"] = {"store_separately": True}
    config, (note,) = resolve(data)
    assert config.agent.experiment.store_separately is False
    assert note.endswith("; ignored: agent.experiment.store_separately (a checkpoint is one file)")


# ---------------------------------------------------------------------------------------------- what 1.x ignores


def of_1x(**changes: Any) -> dict[str, Any]:
    """A file of skrl 1.4 with these keys by dotted path; two underscores are a dot."""
    data = whole("1.4.3", "ppo", "GaussianMixin")
    for path, value in changes.items():
        *sections, name = path.split("__")
        block: Any = data
        for section in sections:
            block = block[int(section) if section.isdecimal() else section]
        block[name] = value
    return data


IGNORED = {
    "agent__checkpoint_max": "agent.checkpoint_max (skrl 1.x ignores it)",
    "agent__rolouts": "agent.rolouts (skrl 1.x ignores it; did you mean 'rollouts'?)",
    "agent__rewards_shaper": "agent.rewards_shaper (skrl 1.x overwrites it; rewards_shaper_scale scales rewards)",
    "agent__experiment__keep": "agent.experiment.keep (skrl 1.x ignores it)",
    "trainer__num_envs": "trainer.num_envs (skrl 1.x ignores it)",
    "motion_dataset": "motion_dataset (skrl 1.x ignores it)",
    "models__policy__squashed": "models.policy.squashed (skrl 1.x ignores it)",
    "models__value__initial_log_std": "models.value.initial_log_std (skrl 1.x ignores it)",
    "models__value__network__0__type": "models.value.network.0.type (skrl 1.x ignores it)",
    "models__discriminator": "models.discriminator (skrl 1.x ignores it)",
}


@pytest.mark.parametrize("path", IGNORED)
def test_a_key_that_skrl_1x_ignores_is_told_and_left_out(path: str) -> None:
    plain, (said,) = resolve(of_1x())
    config, (note,) = resolve(of_1x(**{path: {"a": 1.0}}))
    assert config == plain
    assert note == f"{said}; ignored: {IGNORED[path]}"


@pytest.mark.parametrize("path", [path for path in IGNORED if path != "agent__rewards_shaper"])
def test_the_command_line_may_set_no_such_key(path: str) -> None:
    key: Key = parse_override(f"{path.replace('__', '.')}=1")[0]
    with pytest.raises(UserError, match=f"command line: {'.'.join(map(str, key))}: unknown key"):
        resolve(of_1x(**{path: 2.0}), overrides=[(key, 1)])


NOT_IGNORED: dict[str, tuple[dict[str, Any], str]] = {
    "an argument of a function": ({"memory__size": 3}, "memory.size: unknown key"),
    "an argument of a schedule": (
        {"agent__learning_rate_scheduler": "KLAdaptiveLR", "agent__learning_rate_scheduler_kwargs": {"kl_treshold": 1}},
        "kl_treshold: unknown key",
    ),
    "beside a layer list that is missing": (
        {"models__policy__network": [], "models__policy__netwrok": []}, "models.policy.netwrok: unknown key",
    ),
    "beside an output that is missing": ({"models__value": {
        "class": "DeterministicMixin", "network": [{"name": "n", "input": "STATES", "layers": [4]}], "outputt": "ONE",
    }}, "models.value.outputt: unknown key"),
    "beside an agent that is missing": ({"agent": None, "agnet": {}}, "agnet: unknown key"),
    "a third role of shared layers": ({"models__separate": False, "models__critic": {}}, "models.critic: unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_IGNORED)
def test_what_skrl_1x_would_stumble_over_is_refused(name: str) -> None:
    changes, message = NOT_IGNORED[name]
    with pytest.raises(UserError, match=message):
        resolve(of_1x(**changes))


@pytest.mark.parametrize("separate", [True, False])
def test_separate_models_up_to_12_refuse_unknown_keys_and_shared_ones_ignore_them(separate: bool) -> None:
    data = whole("1.2.0", "ppo", "GaussianMixin")
    data["models"] |= {"separate": separate, "target": {}}
    data["models"]["policy"]["squashed"] = 1
    if separate:
        with pytest.raises(UserError, match=r"models\.policy\.squashed: unknown key"):
            resolve(data)
    else:
        assert "ignored: models.target (skrl 1.x ignores it), models.policy.squashed (" in resolve(data)[1][0]


def test_keys_that_no_skrl_knew_are_refused_in_files_of_2x() -> None:
    for path in ("agent__checkpoint_max", "trainer__num_envs", "models__policy__squashed", "motion_dataset"):
        data = whole("2.1.1", "ppo", "GaussianMixin")
        *sections, name = path.split("__")
        block: Any = data
        for section in sections:
            block = block[section]
        block[name] = 1
        with pytest.raises(UserError, match=f"{path.replace('__', '.')}: unknown key"):
            resolve(data)


def test_true_with_a_comma_is_true_in_1x_as_to_python_and_false_is_refused() -> None:
    config, (note,) = resolve(of_1x(agent__experiment__wandb="True,", trainer__headless="True,"))
    assert config.agent.experiment.wandb and config.trainer.headless
    assert "agent.experiment.wandb 'True,' → True, trainer.headless 'True,' → True" in note
    with pytest.raises(UserError, match=r"agent\.experiment\.wandb: found 'False,'"):
        resolve(of_1x(agent__experiment__wandb="False,"))


# ---------------------------------------------------------------------------------------------- shared layers


@pytest.mark.parametrize("version", ["1.2.0", "1.4.3", "2.1.1"])
@pytest.mark.parametrize("first", ["policy", "value"])
def test_layers_of_the_other_role_are_told_where_they_are_shared(version: str, first: str) -> None:
    data = whole(version, "ppo", "GaussianMixin")
    name, orbit = ("hiddens", True) if version == "1.2.0" else ("network", False)
    built, second = ("policy", "value") if first == "policy" or orbit else ("value", "policy")
    models = {first: data["models"].pop(first), **data["models"], "separate": False}
    for role in ("policy", "value"):
        sizes = [8] if role == built else [9]
        models[role] |= {name: sizes} if orbit else {name: [{**models[role][name][0], "layers": sizes}]}
    said = f"ignored: models.{second}.{name} (separate: False: both read that of {built})"
    config, (note,) = resolve({**data, "models": models})
    assert said in note and resolve(config.dump()) == (config, [])
    assert config.models.policy.network[0].layers == config.models.value.network[0].layers == [8]
    assert said not in "".join(resolve({**data, "models": {**models, "separate": True}})[1])
    for silent in (models[built][name], []):
        models[second] = {**models[second], name: silent}
        assert said not in "".join(resolve({**data, "models": models})[1])


# ---------------------------------------------------------------------------------------------- time limits


def test_a_missing_time_limit_bootstrap_is_told_where_the_file_is_skrls() -> None:
    said = "not as in skrl: time_limit_bootstrap is missing, which is True here and was False in skrl"
    data = of_1x()
    assert said not in resolve(data)[1][0]
    del data["agent"]["time_limit_bootstrap"]
    config, (note,) = resolve(data)
    assert config.agent.time_limit_bootstrap and said in note
    assert "bootstrap" not in resolve(data, overrides=[(("agent", "time_limit_bootstrap"), False)])[1][0]
    assert resolve(plain_config())[1] == []


# ---------------------------------------------------------------------------------------------- clipping


def clip(data: dict[str, Any], *overrides: tuple[Key, Any]) -> Any:
    data["models"]["policy"]["clip_actions"] = True
    return resolve(data, overrides=overrides)[0].models.policy.clip_actions


def test_actions_of_1x_are_clipped_where_they_have_bounds() -> None:
    assert clip(of_1x()) == clip(whole("1.2.0", "ppo", "GaussianMixin")) == "bounded"
    assert clip(whole("2.1.1", "ppo", "GaussianMixin")) is True
    assert clip(of_1x(), (("models", "policy", "clip_actions"), True)) is True


def test_a_trial_is_the_same_whichever_way_it_clips() -> None:
    from runner.training.pack import identity, policy_key, program_key, static_key

    data = of_1x()
    data["models"]["policy"]["clip_actions"] = True
    bounded = resolve(data)[0]
    dumped = bounded.dump()
    assert dumped["models"]["policy"]["clip_actions"] == "bounded" and resolve(dumped) == (bounded, [])
    dumped["models"]["policy"]["clip_actions"] = True
    always: Config = resolve(dumped)[0]
    for key in (identity, static_key, program_key, policy_key):
        assert key(bounded) == key(always)
