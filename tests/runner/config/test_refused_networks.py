"""Networks and outputs that cannot be built are refused when the file is read, with path and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runner.config.refusing import CARTPOLE, edited, message_of

OUTPUTS = {
    "__import__('os').system('touch pwned')": "cannot use",
    "tanh(__import__('os').system('touch pwned'))": "cannot use",
    "ACTIONS.__class__": "cannot use 'ACTIONS.__class__' in 'ACTIONS.__class__'; allowed: names, numbers, + - * /",
    "[ACTIONS]": "cannot use '[ACTIONS]'",
    "ACTIONS ** 2": "cannot use 'ACTIONS ** 2'",
    "1 / 0 * ACTIONS": "cannot use '1 / 0' in '1 / 0 * ACTIONS'; allowed: a divisor other than 0",
    "ACTIONS / (1 - 1)": "allowed: a divisor other than 0",
    "1e29 * 1e29 * ACTIONS": "cannot use '1e29 * 1e29'",
    "tanh(2) * ACTIONS": "cannot use '2' in 'tanh(2) * ACTIONS'; allowed: something with a name in it, such as",
    "concatenate([2, ACTIONS])": "cannot use '2'",
    "tanh(ACTIONS, ACTIONS)": "allowed: tanh(x)",
    "tanh(x=ACTIONS)": "allowed: tanh(x)",
    "True * ACTIONS": "cannot use 'True'",
    "'2' * ACTIONS": "cannot use",
    "(lambda: ACTIONS)()": "cannot use 'lambda: ACTIONS'",
    "ACTIONS if 1 else ONE": "cannot use 'ACTIONS if 1 else ONE'",
    "ACTIONS ACTIONS": "cannot read the expression",
    "(" * 300 + "ACTIONS" + ")" * 300: "cannot read the expression",
    "-" * 60 + "ACTIONS": "is nested deeper than 30",
    "ACTIONS" + ".b" * 480 + "(ONE)": "cannot use 'ACTIONS.b.b",
    "ACTION": "unknown name ACTION; allowed: net, ACTIONS, ONE. Did you mean 'ACTIONS'?",
    "ACTIONS['a']": "unknown name ACTIONS['a']",
    "1e999 * ACTIONS": "cannot use '1e999'",
    "1" + "0" * 1999 + " * ACTIONS": "allowed: an expression of at most 1,000 characters",
    "2 * 3": "depends on nothing",
    "ONE": "output 'ONE' must be built on ACTIONS",
    "ACTIONS + ONE": "has both ACTIONS and ONE",
    "ACTIONS[0]": "an index whose first axis, the batch, is ':'",
    "ACTIONS[:, 0.5]": "allowed: a whole number",
    "ACTIONS[:, ::-1]": "allowed: a step of 1 or more",
    "permute(ACTIONS, (1, 0))": "allowed: permute with axes that are 0 (the batch)",
    "tanj(ACTIONS)": "unknown function 'tanj' in 'tanj(ACTIONS)'; allowed: an activation (elu, ",
    "one_hot_encoding(OBSERVATION_SPACE['a'], OBSERVATIONS['b'])": "allowed: one_hot_encoding(OBSERV",
    "one_hot_encoding(ACTIONS)": "allowed: one_hot_encoding(OBSERVATION_SPACE, OBSERVATIONS)",
}


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda text: text[:30])
def test_outputs_that_are_not_understood_are_refused_and_never_run(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quoted = "'" + output.replace("'", "''") + "'"
    message = message_of(tmp_path, edited("output: ACTIONS", f"output: {quoted}", base=CARTPOLE))
    assert "models.policy" in message and OUTPUTS[output] in message
    assert [p.name for p in tmp_path.iterdir()] == ["cfg.yaml"]


NETWORKS: dict[str, str] = {
    "layers: [64, {conv2d: 3}]": "network.0.layers.1.conv2d.kernel_size: required, but not given",
    "layers: [{conv2d: [3, 0]}]": "network.0.layers.0.conv2d.kernel_size: found 0; allowed: a whole number of 1",
    "layers: [{conv2d: [3, 2, 2, same]}]": "padding: 'same' needs a stride of 1, found 2",
    "layers: [{conv2d: {filters: 3}}]": "conv2d.filters: unknown argument; allowed: out_channels, kernel_size, stride",
    "layers: [{conv2d: {features: 3, out_channels: 3, kernel_size: 1}}]": "out_channels is given twice",
    "layers: [{conv2d: [3, 1, 1, 0, 1]}]": "conv2d.bias: found 1; allowed: True or False",
    "layers: [{conv3d: 3}]": "network.0.layers.0: unknown layer 'conv3d'; allowed: linear, conv2d, flatten, lstm, gru.",
    "layers: [linear]": "network.0.layers.0: found 'linear'; allowed: a number of units, flatten",
    "layers: [{flatten: {start_dim: 0}}]": "flatten.start_dim: found 0; allowed: an axis after the batch",
    "layers: [64, 0]": "network.0.layers.1: found 0; allowed: a whole number from 1 to 1,000,000",
    "layers: [64, {linear: {}}]": "network.0.layers.1.linear.out_features: required, but not given",
    "layers: [64, {linear: [8, True, 9]}]": "linear: found [8, True, 9]; allowed: [out_features, bias]",
    "layers: 64": "models.policy.network.0.layers: found 64; allowed: list",
}


@pytest.mark.parametrize("layers", NETWORKS)
def test_networks_that_cannot_be_built_are_refused(layers: str, tmp_path: Path) -> None:
    text = edited("layers: [64, 64]", layers, base=CARTPOLE)
    assert NETWORKS[layers] in message_of(tmp_path, text)


def test_a_shared_role_cannot_use_containers_that_are_not_built(tmp_path: Path) -> None:
    head, _, tail = CARTPOLE.partition("  value:")
    head = head.replace("models:", "models:\n  separate: False")
    text = head + "  value:" + edited("{name: net", "{name: own", "output: ONE", "output: ONE + own", base=tail)
    message = message_of(tmp_path, text)
    assert "value.output: unknown name own; allowed: net, ACTIONS, ONE." in message
    assert "(separate: False: both read the network of policy)" in message and "pydantic" not in message


def test_inputs_of_containers_are_checked(tmp_path: Path) -> None:
    text = edited("input: OBSERVATIONS", "input: OBSERVATION", base=CARTPOLE)
    message = message_of(tmp_path, text)
    assert "network.0.input: unknown name OBSERVATION; allowed: OBSERVATIONS, STATES. Did you mean" in message
    text = edited("activations: tanh", "activations: swosh", base=CARTPOLE)
    assert "network.0.activations: unknown activation 'swosh'" in message_of(tmp_path, text)
    text = edited("- name: net", "- name: ONE", base=CARTPOLE)
    assert "network.0.name: found 'ONE'; allowed: a word of its own" in message_of(tmp_path, text)
