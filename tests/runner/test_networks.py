"""The network language means the same network in torch and JAX, and networks that do not fit are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from runner.config.network.expressions import Name
from runner.envs.envpool import EnvPoolTask
from runner.envs.spaces import layout
from runner.errors import UserError
from runner.networks.blocks import leaf
from runner.networks.parameters import Network
from tests.runner.builders import make_config, make_env, make_network, runner_class

A, P, B = 3, 2, 5
VECTOR, IMAGE = Box(-1, 1, (4,)), Box(0, 255, (4, 84, 84), np.uint8)
CAMERA = Dict({"arm": Box(-1, 1, (5,)), "gripper": Discrete(4), "camera": Box(0, 255, (9, 7, 3), np.uint8)})
TUPLE = Tuple([VECTOR, Dict(a=Tuple([Discrete(3), VECTOR]))])
NATURE = [
    {
        "name": "cnn",
        "input": "OBSERVATIONS",
        "layers": [
            {"conv2d": [32, 8, 4]},
            {"conv2d": {"features": 64, "kernel_size": 4, "strides": 2}},
            {"conv2d": [64, 3, 1]},
            "flatten",
            {"linear": 512},
        ],
        "activations": "relu",
    }
]
MIXED = [
    {
        "name": "cnn",
        "input": "permute(OBSERVATIONS['camera'], (0, 3, 1, 2)) / 255",
        "layers": [{"conv2d": {"out_channels": 8, "kernel_size": [3, 2], "padding": "same"}}, {"flatten": None}],
        "activations": ["elu", "relu"],
    },
    {
        "name": "net",
        "input": "concatenate([cnn, OBSERVATIONS['arm'][:, 1:], OBSERVATIONS['gripper']])",
        "layers": [16, {"linear": {"out_features": 8, "bias": False}}],
        "activations": ["silu", "softmax"],
    },
]
BORDER = [{"name": "cnn", "input": "STATES", "layers": [{"conv2d": [4, 5, 3, [2, 1], False]}, "flatten"]}]
ONE_HOT = [{"name": "net", "input": "one_hot_encoding(OBSERVATION_SPACE, OBSERVATIONS)", "layers": [8]}]


def of(space: gymnasium.Space[Any], network: list[dict[str, Any]] | None, **changes: Any) -> Network:
    """The network of a configuration whose policy and value have the same containers."""
    keys = {"models.policy.network": network, "models.value.network": network} if network is not None else {}
    keys["agent.observation_preprocessor"] = None
    config = make_config({**keys, **{f"models.{key.replace('__', '.')}": value for key, value in changes.items()}})
    return make_network(config, layout(space), A)


CASES: dict[str, tuple[gymnasium.Space[Any], list[dict[str, Any]] | None, dict[str, Any], str]] = {
    "vector": (VECTOR, None, {}, "policy.net.0.weight [8, 4]"),
    "Nature CNN": (IMAGE, NATURE, {}, "policy.cnn.4.weight [512, 3136]"),
    "image and vector": (CAMERA, MIXED, {"separate": True}, "value.net.0.weight [16, 509]"),
    "padding": (IMAGE, BORDER, {}, "policy.cnn.0.weight [4, 4, 5, 5]"),
    "one-hot": (MultiDiscrete([3, 4], start=[0, -1]), ONE_HOT, {}, "policy.net.0.weight [8, 7]"),
    "output of arithmetic": (VECTOR, None, {"policy__output": "2 * tanh(ACTIONS) + 0.5"}, "policy.head.weight [3, 8]"),
    "output of two containers": (
        VECTOR,
        [
            {"name": n, "input": i, "layers": [3], "activations": "tanh"}
            for n, i in (("a", "STATES"), ("b", "a[:, :2]"))
        ],
        {"separate": True, "policy__output": "a - softmax(b)", "value__output": "ONE * 0.1"},
        "policy.b.0.weight [3, 2]",
    ),
    "no hidden layers": (MultiBinary(6), [], {"separate": True}, "policy.head.weight [3, 6]"),
    "tuple": (Tuple([VECTOR, Discrete(3)]), [{**ONE_HOT[0], "input": "OBSERVATIONS['0']"}], {}, "net.0.weight [8, 4]"),
    "tuple by number": (
        TUPLE,
        [{"name": "net", "input": "concatenate([STATES[-1]['a'][1][:, 1:], OBSERVATIONS[0]])", "layers": [8]}],
        {},
        "net.0.weight [8, 7]",
    ),
    "rearranged": (
        Box(-1, 1, (2, 9, 8)),
        [
            {
                "name": "cnn",
                "input": "OBSERVATIONS.transpose(2, 3).reshape(len(OBSERVATIONS), 2, 12, -1)",
                "layers": [{"conv2d": [4, 3]}],
            },
            {"name": "net", "input": "torch.flatten(cnn, 1).unsqueeze(2).squeeze()", "layers": [8]},
        ],
        {"policy__output": "(2 * ACTIONS.view(-1, 3, 1)).flatten(1)"},
        "net.0.weight [8, 160]",
    ),
    "units by token": (VECTOR, [{"name": "net", "layers": ["ACTIONS", {"linear": "NUM_OBSERVATIONS"}]}], {}, "[4, 3]"),
    "matrix": (Box(-1, 1, (5, 5)), None, {}, "policy.net.0.weight [8, 25]"),
}


def observations_of(space: gymnasium.Space[Any]) -> np.ndarray:
    """Flat rows `[P, B, O]` as an environment would give them."""
    parts, rng = layout(space), np.random.default_rng(0)
    rows = rng.normal(size=(P, B, parts.stop)).astype(np.float32)
    for part in [child for _, child in parts.children] or [parts]:
        columns = rows[:, :, part.start : part.stop]
        if part.byte or isinstance(space, MultiBinary):
            columns[:] = rng.integers(0, 256 if part.byte else 2, columns.shape)
        for i, (least, number) in enumerate(zip(part.offset, part.categories, strict=True)):
            columns[:, :, i] = rng.integers(least, least + number, (P, B))
    return rows.astype(parts.dtype)


@pytest.mark.parametrize("name", CASES)
def test_a_network_is_the_same_in_both_backends(name: str) -> None:
    import jax
    import torch

    from runner.jax import models as jax_models
    from runner.torch import models as torch_models

    space, containers, changes, expected = CASES[name]
    network = of(space, containers, **changes)
    assert expected in " ".join(f"{entry.name} {list(entry.shape)}" for entry in network.entries)
    rows = observations_of(space)
    parameters = np.stack([network.initial(seed) for seed in range(P)])
    weights = np.random.default_rng(1).normal(size=(P, B, A + 1)).astype(np.float32)

    def mine(row: jax.Array, rows: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs, values = jax_models.policy_and_value(network, jax_models.cut(network, row), rows)
        found = jax.numpy.concatenate((outputs, values[:, None]), 1)
        return (found * weights).sum(), found

    slopes, found = jax.jit(jax.vmap(jax.grad(mine, has_aux=True)))(parameters, rows, weights)
    leaf, tensor = torch.tensor(parameters, requires_grad=True), torch.from_numpy(rows)
    outputs, values = torch_models.policy_and_value(network, torch_models.cut(network, leaf), tensor)
    theirs = torch.cat((outputs, values.unsqueeze(2)), 2)
    (slope,) = torch.autograd.grad((theirs * torch.from_numpy(weights)).sum(), leaf)
    np.testing.assert_allclose(found, theirs.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slopes, slope, rtol=1e-4, atol=1e-5 * float(slope.abs().max()))
    named = torch_models.cut(network, leaf)
    torch.testing.assert_close(torch_models.policy(network, named, tensor)[0], outputs)
    torch.testing.assert_close(torch_models.value(network, named, tensor)[0], values)


def test_layers_in_bfloat16_are_near_those_in_float32_and_alike_in_both_backends() -> None:
    import jax
    import torch

    from runner.jax import models as jax_models
    from runner.torch import models as torch_models

    exact = of(CAMERA, MIXED)
    network = replace(exact, bfloat16=True)
    rows, row = observations_of(CAMERA), exact.initial(0)
    leaf = torch.tensor(np.stack([row] * P), requires_grad=True)

    def found(network: Network) -> tuple[torch.Tensor, torch.Tensor]:
        return torch_models.policy_and_value(network, torch_models.cut(network, leaf), torch.from_numpy(rows))

    outputs, values = found(network)
    assert outputs.dtype == values.dtype == torch.float32
    spread = float(found(exact)[0].detach().std())
    difference = (outputs - found(exact)[0]).abs().max()
    assert 1e-5 * spread < difference < 0.1 * spread
    (slope,) = torch.autograd.grad(outputs.sum() + values.sum(), leaf)
    assert slope.isfinite().all() and slope.dtype == torch.float32

    @jax.jit
    def both(row: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax_models.policy_and_value(network, jax_models.cut(network, row), rows)

    mine, of_jax = both(row, rows[0])
    assert mine.dtype == of_jax.dtype == jax.numpy.float32
    np.testing.assert_allclose(mine, outputs[0].detach(), atol=0.05 * spread)


def test_where_there_is_no_bfloat16_float32_is_used_and_said(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    env, config = make_env("Pendulum-v1"), make_config({"agent.mixed_precision": True})
    network = runner_class(backend)(env, config, threads=1)._members.network
    assert not network.bfloat16
    assert "agent.mixed_precision: this device has no bfloat16 arithmetic; float32 is used" in caplog.text


def test_an_image_is_divided_by_255_unless_the_file_does_arithmetic_or_it_comes_normalised() -> None:
    def scaled(source: str, normalized: bool = False) -> bool:
        containers = [{**NATURE[0], "input": source}]
        preprocessor = {"agent.observation_preprocessor": "RunningStandardScaler" if normalized else None}
        config = make_config({"models.policy.network": containers, "models.value.network": containers, **preprocessor})
        return make_network(config, layout(IMAGE), A).policy.blocks[0].scaled

    assert scaled("OBSERVATIONS") and scaled("permute(OBSERVATIONS, (0, 1, 3, 2))")
    assert not scaled("OBSERVATIONS / 128 - 1") and not scaled("OBSERVATIONS", normalized=True)


def test_a_shared_value_reads_the_policys_containers() -> None:
    other = [{"name": "other", "layers": [99]}]
    network = of(VECTOR, None, value__network=other)
    assert network.value.blocks == network.policy.blocks
    assert not any("other" in entry.name for entry in network.entries)


def single(source: str = "OBSERVATIONS", *layers: Any) -> list[dict[str, Any]]:
    """One container."""
    return [{"name": "net", "input": source, "layers": list(layers)}]


SMALL = Box(0, 255, (3, 5, 5), np.uint8)
REFUSALS: dict[str, tuple[gymnasium.Space[Any], list[dict[str, Any]], str]] = {
    "an image without convolutions": (IMAGE, single("STATES", 8), "put conv2d layers and flatten in front of it"),
    "a vector into a convolution": (VECTOR, NATURE, "network.0.layers.0: conv2d reads 4; needed: channels x"),
    "a kernel larger than the image": (SMALL, NATURE, "kernel (8, 8) and stride (4, 4) is too large for 3 x 5 x 5"),
    "more numbers than a machine holds": (
        IMAGE,
        single("STATES", {"conv2d": [1_000_000, 1]}, "flatten"),
        "network.0.layers.0: gives 1000000 x 84 x 84 = 7,056,000,000 numbers; allowed: 16,000,000",
    ),
    "more parameters than a machine holds": (
        VECTOR,
        single("STATES", 1_000_000, 1_000_000),
        "network.0.layers.1: 1,000,005,000,000 parameters up to here; allowed: 500,000,000",
    ),
    "more columns than a machine holds": (
        VECTOR,
        [*single("STATES", 400_000), {"name": "more", "input": f"concatenate([{', '.join(['net'] * 60)}])"}],
        "network.1.input: does not fit the observations: 24,000,000 numbers; allowed: 16,000,000",
    ),
    "a linear layer behind a convolution": (
        IMAGE,
        single("STATES", {"conv2d": [2, 3]}, 8),
        "network.0.layers.1: a linear layer reads 2 x 82 x 82; put flatten in front of it",
    ),
    "a key that is not there": (CAMERA, single("STATES['arms']"), "has no 'arms'; allowed: 'arm', 'camera', 'gripper'"),
    "a key of an array": (VECTOR, single("STATES['a']"), "allowed: no key, it is one array"),
    "a number for a row of the batch": (
        VECTOR,
        single("STATES[0]"),
        "allowed: [:, 0] for a number of every row; [0] is",
    ),
    "a part that is not there": (TUPLE, single("OBSERVATIONS[-3]"), "the observation has no -3; allowed: 0, 1."),
    "a number per row without an axis": (
        VECTOR,
        single("STATES[:, 0]"),
        "network.0.input: gives a number per row that",
    ),
    "rows that would mix": (
        VECTOR,
        single("STATES.view(-1, 3)"),
        "does not fit the observations: 4 numbers cannot have",
    ),
    "an index past the end": (VECTOR, single("STATES[:, 4]"), "models.policy.network.0.input: does not fit"),
    "nothing left": (VECTOR, single("STATES[:, 4:]"), "gives no number of a row; an observation has 4"),
    "nothing to see": (Box(-1, 1, (0,)), single("STATES"), "gives no number of a row; an observation has 0"),
    "one-hot of real numbers": (VECTOR, ONE_HOT, "one_hot_encoding is for Discrete and MultiDiscrete observations"),
}


def test_numbers_stand_for_parts_of_the_observed_and_of_the_privileged_tuple() -> None:
    parts = layout(Dict(observation=TUPLE, privileged_state=Tuple([Box(-1, 1, (7,)), VECTOR])))
    assert (
        leaf(parts, Name("OBSERVATIONS", (0,)))
        == parts.observed.at(("0",), "")
        == leaf(parts, Name("OBSERVATIONS", (-2,)))
    )
    assert leaf(parts, Name("OBSERVATIONS", ("observation", 0))) == leaf(parts, Name("OBSERVATIONS", (0,)))
    assert leaf(parts, Name("STATES", (0,))).shape == (7,)
    assert leaf(layout(TUPLE), Name("STATES", (1, "a", 1))).shape == (4,)


@pytest.mark.parametrize("name", REFUSALS)
def test_networks_that_do_not_fit_are_refused(name: str) -> None:
    space, containers, message = REFUSALS[name]
    with pytest.raises(UserError) as caught:
        of(space, containers)
    assert message in str(caught.value)


def test_an_output_of_another_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"models\.policy\.output: gives 8 per row; needed: 3"):
        of(VECTOR, single("STATES", 8), policy__output="net")


def test_images_train_alike_in_both_backends() -> None:
    containers = [
        {
            "name": "cnn",
            "input": "OBSERVATIONS",
            "layers": [{"conv2d": [4, 4, 2]}, {"conv2d": [4, 3, 2]}, "flatten", 16],
            "activations": "relu",
        }
    ]
    changes: dict[str, Any] = {"models.policy.network": containers, "models.value.network": containers}
    config = make_config({**changes, "agent.observation_preprocessor": None}, "CategoricalMixin")
    arguments = {"img_height": 24, "img_width": 24, "stack_num": 2, "episodic_life": True}
    states = {}
    for backend in ("torch", "jax"):
        runner = runner_class(backend)(EnvPoolTask("Breakout-v5", 3, arguments), config, seeds=[1, 2], threads=1)
        list(runner.reports())
        states[backend] = runner.states()
    for mine, theirs in zip(states["jax"], states["torch"], strict=True):
        np.testing.assert_allclose(mine.parameters, theirs.parameters, rtol=1e-4, atol=1e-5)
        assert np.abs(theirs.first_moment).max() > 0
