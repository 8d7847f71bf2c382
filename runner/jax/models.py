"""The policy and value networks of one member, as functions of its parameters: flax layers over the shared layout.

Axes: B row · O observation · A action. Arrays are `[B, …]`, images `[B, channels, height, width]` as in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import Array
from jaxtyping import Float

from runner.config.network import expressions
from runner.config.network.expressions import Name
from runner.config.network.layers import Conv2d, Flatten, Linear, Recurrent
from runner.envs.spaces import Layout
from runner.jax import distributions, recurrent
from runner.jax.recurrent import PRECISION, Memory
from runner.networks.blocks import Block, Role, Step, leaf
from runner.networks.parameters import LOG_STD, Network
from runner.training.pack import Rules

Parameters: TypeAlias = dict[str, Array]
"""Name → `[outputs, inputs, …]` for weights, as the checkpoint has them, `[outputs]` for biases and log_std."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": linen.elu,
    "gelu": lambda x: linen.gelu(x, approximate=False),
    "identity": lambda x: x,
    "leaky_relu": lambda x: jnp.where(x > 0, x, 0.01 * x),
    "mish": jax.nn.mish,
    "relu": linen.relu,
    "selu": linen.selu,
    "sigmoid": linen.sigmoid,
    "silu": linen.silu,
    "softmax": lambda x: linen.softmax(x, 1),  # features, or channels of an image as in torch
    "softplus": linen.softplus,
    "softsign": linen.soft_sign,
    "tanh": linen.tanh,
}


class _Operations:
    """`expressions.Operations` on JAX."""

    leading = 0

    def activation(self, name: str, x: Array) -> Array:
        return ACTIVATIONS[name](x)

    def concatenate(self, parts: list[Array], axis: int) -> Array:
        return jnp.concatenate(parts, axis)

    def permute(self, x: Array, axes: tuple[int, ...]) -> Array:
        return jnp.transpose(x, axes)


def cut(network: Network, flat: Float[Array, " n"]) -> Parameters:
    """The flat parameters, by name; log_std aside, in the type that layers compute in."""
    pieces = jnp.split(flat, np.cumsum([entry.size for entry in network.entries])[:-1])
    named = {entry.name: piece.reshape(entry.shape) for entry, piece in zip(network.entries, pieces, strict=True)}
    return {name: piece if name == LOG_STD else piece.astype(_dtype(network)) for name, piece in named.items()}


def policy(
    network: Network, parameters: Parameters, observations: Array, memory: Memory | None = None
) -> tuple[Float[Array, "B W"], Array | None]:
    """Means or logits from normalised observations `[B, O]`, and what the networks remember after every step."""
    values, states = _blocks(network, network.policy, parameters, observations, memory)
    outputs = _output(network, network.policy, parameters, values)
    return distributions.finished(network.distribution, outputs, observations), states


def value(
    network: Network, parameters: Parameters, observations: Array, memory: Memory | None = None
) -> tuple[Float[Array, " B"], Array | None]:
    """State values, in the value statistics' normalised units, from normalised observations, and memory as above."""
    values, states = _blocks(network, network.value, parameters, observations, memory)
    return _output(network, network.value, parameters, values)[:, 0], states


def acted(
    network: Network, parameters: Parameters, observations: Array, carry: Float[Array, "N M"] | None
) -> tuple[Float[Array, "N W"], Float[Array, "N M"] | None]:
    """Means or logits of one step, and the carry after: of both networks, or of the policy if it has only that."""
    outputs, states = policy(network, parameters, observations, None if carry is None else Memory(carry, None))
    if carry is not None and states is not None:
        carry = states[0]
        if carry.shape[1] > network.policy_memory:
            _, states = value(network, parameters, observations, Memory(carry, None))
            carry = None if states is None else states[0]
    return outputs, carry


def policy_and_value(
    network: Network, parameters: Parameters, observations: Array, memory: Memory | None = None
) -> tuple[Float[Array, "B W"], Float[Array, " B"]]:
    """Both, with shared blocks run once."""
    if network.separate:
        outputs, _ = policy(network, parameters, observations, memory)
        return outputs, value(network, parameters, observations, memory)[0]
    values, _ = _blocks(network, network.policy, parameters, observations, memory)
    outputs, found = (_output(network, role, parameters, values) for role in (network.policy, network.value))
    return distributions.finished(network.distribution, outputs, observations), found[:, 0]


def log_std(rules: Rules, parameters: Parameters) -> Float[Array, " A"] | None:
    """The Gaussian's log standard deviation, without gradient if it is fixed; None for a categorical policy."""
    raw = parameters.get(LOG_STD)
    if raw is None:
        return None
    policy = rules.config.models.policy
    clipped = distributions.clamped(raw, policy.min_log_std, policy.max_log_std) if policy.clip_log_std else raw
    return jax.lax.stop_gradient(clipped) if policy.fixed_log_std else clipped


def _blocks(
    network: Network, role: Role, parameters: Parameters, observations: Array, memory: Memory | None
) -> tuple[dict[str, Array], Float[Array, "T N M"] | None]:
    """The outputs of every block by name, the last one's also under ""; and what is remembered after each step."""
    values, states = {"": _columns(observations, network.observations.observed)}, {}

    def run(block: Block) -> Array:
        def named(name: Name, one_hot: bool) -> Array:
            if name.text in values:
                return values[name.text]
            return _observed(network, observations, name, one_hot, block.scaled)

        x = expressions.evaluate(block.input, named, _Operations()).astype(_dtype(network))
        for step in block.steps:
            if isinstance(step.layer, Recurrent):
                assert memory is not None
                own = Memory(memory.states[:, network.memories[step.name]], memory.begins)
                x, states[step.name] = recurrent.unrolled(step.layer, step.name, parameters, x, own)
            else:
                x = _layer(step, parameters, x)
            x = ACTIVATIONS[step.activation](x)
        return x

    for block in role.blocks:
        values[block.name] = values[""] = run(block)
    return values, None if memory is None else _remembered(network, memory, states)


def _remembered(network: Network, memory: Memory, states: dict[str, Array]) -> Float[Array, "T N M"]:
    """The carry after every step: what layers gave, and as it was for those that did not run."""
    envs, size = memory.states.shape
    steps = 1 if memory.begins is None else len(memory.begins) // envs
    before = jnp.broadcast_to(memory.states, (steps, envs, size))
    kept = {name: columns for name, columns in network.memories.items() if columns.stop <= size}
    return jnp.concatenate([states.get(name, before[:, :, columns]) for name, columns in kept.items()], 2)


def _observed(network: Network, observations: Array, name: Name, one_hot: bool, scaled: bool) -> Array:
    """A part of the observations in its own shape, `[B, …]` float32."""
    part = leaf(network.observations, name)
    columns = _columns(observations, part)
    if one_hot:
        ranges = [np.arange(o, o + n) for o, n in zip(part.offset, part.categories, strict=True)]
        codes = [(columns[:, i, None] == numbers).astype(jnp.float32) for i, numbers in enumerate(ranges)]
        return jnp.concatenate(codes, 1)
    columns = columns.reshape(-1, *part.shape).astype(jnp.float32)
    return columns / 255 if part.image and scaled else columns


def _columns(observations: Array, part: Layout) -> Array:
    """The columns of a part, as they are."""
    return observations[:, part.start : part.stop]


def _dtype(network: Network) -> Any:
    """The type that layers compute in."""
    return jnp.bfloat16 if network.bfloat16 else jnp.float32


def _layer(step: Step, parameters: Parameters, x: Array) -> Array:
    layer = step.layer
    if isinstance(layer, Flatten):
        start, end = (axis if axis > 0 else x.ndim + axis for axis in (layer.start, layer.end))
        return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])
    if isinstance(layer, Linear):
        return _dense(step.name, parameters, x)
    assert isinstance(layer, Conv2d)
    return _conv2d(layer, step.name, parameters, x)


def _output(network: Network, role: Role, parameters: Parameters, values: dict[str, Array]) -> Array:
    """The output expression in float32, its token standing for the head."""
    head = None if role.head is None else _dense(role.head, parameters, values[""].astype(_dtype(network)))

    def named(name: Name, one_hot: bool) -> Array:
        found = values.get(name.text, head)
        assert found is not None
        return found

    return expressions.evaluate(role.output, named, _Operations()).astype(jnp.float32)


def _dense(name: str, parameters: Parameters, x: Array) -> Array:
    weight = parameters[f"{name}.weight"]
    layer = linen.Dense(weight.shape[0], use_bias=f"{name}.bias" in parameters, dtype=x.dtype, precision=PRECISION)
    return _applied(layer, weight.T, name, parameters, x)


def _conv2d(layer: Conv2d, name: str, parameters: Parameters, x: Array) -> Array:
    weight, bias = parameters[f"{name}.weight"], parameters.get(f"{name}.bias")
    if jax.default_backend() == "cpu":
        out = _convolved(jnp.pad(x, [(0, 0), (0, 0), *layer.edges]), weight, layer.stride)
    else:
        shape = jax.lax.conv_dimension_numbers(x.shape, weight.shape, ("NCHW", "OIHW", "NCHW"))
        out = jax.lax.conv_general_dilated(
            x, weight, layer.stride, layer.edges, dimension_numbers=shape, precision=PRECISION
        )
    return out if bias is None else out + bias[:, None, None]


def _convolved(x: Float[Array, "B C H W"], weight: Float[Array, "K C h w"], stride: tuple[int, int]) -> Array:
    """A convolution as one matrix product of patches.

    In the loops of an update XLA's own convolution is 20 times slower on a CPU than outside, and with weights per
    member slower still; this one is as fast anywhere as XLA's outside.
    """
    outputs, _, *kernel = weight.shape
    patches = x.transpose(0, 2, 3, 1)
    for axis, (size, step) in enumerate(zip(kernel, stride, strict=True), 1):
        last = (patches.shape[axis] - size) // step * step + 1
        slices = [jax.lax.slice_in_dim(patches, i, i + last, step, axis) for i in range(size)]
        patches = jnp.concatenate(slices, -1)
    product = patches @ weight.transpose(3, 2, 1, 0).reshape(-1, outputs)
    return product.transpose(0, 3, 1, 2)


def _applied(layer: Any, kernel: Array, name: str, parameters: Parameters, x: Array) -> Array:
    own = {"kernel": kernel}
    if f"{name}.bias" in parameters:
        own["bias"] = parameters[f"{name}.bias"]
    out = layer.apply({"params": own}, x)
    assert isinstance(out, Array)
    return out
