"""The policy and value networks of one member, as functions of its parameters: flax layers over the shared layout.

Axes: B row · O observation · A action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import Array
from jaxtyping import Float

from runner.config.network import Output
from runner.parameters import LOG_STD, Network

Parameters: TypeAlias = dict[str, Array]
"""Name → `[outputs, inputs]` for weights, as the checkpoint has them, `[outputs]` for biases and log_std."""

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
    "softmax": linen.softmax,
    "softplus": linen.softplus,
    "softsign": linen.soft_sign,
    "tanh": linen.tanh,
}


def cut(network: Network, flat: Float[Array, " n"]) -> Parameters:
    """The flat parameters, by name."""
    pieces = jnp.split(flat, np.cumsum([entry.size for entry in network.entries])[:-1])
    return {entry.name: piece.reshape(entry.shape) for entry, piece in zip(network.entries, pieces, strict=True)}


def policy(network: Network, parameters: Parameters, observations: Float[Array, "B O"]) -> Float[Array, "B A"]:
    """Means or logits from normalised observations."""
    hidden = _layers(network.policy, "policy.net", parameters, observations)
    return _head(network.policy_output, "policy.head", parameters, hidden)


def value(network: Network, parameters: Parameters, observations: Float[Array, "B O"]) -> Float[Array, " B"]:
    """State values, in the value statistics' normalised units, from normalised observations."""
    layers, name = (network.value, "value.net") if network.separate else (network.policy, "policy.net")
    hidden = _layers(layers, name, parameters, observations)
    return _head(network.value_output, "value.head", parameters, hidden)[:, 0]


def policy_and_value(
    network: Network, parameters: Parameters, observations: Float[Array, "B O"]
) -> tuple[Float[Array, "B A"], Float[Array, " B"]]:
    """Both, with shared hidden layers run once."""
    if network.separate:
        return policy(network, parameters, observations), value(network, parameters, observations)
    hidden = _layers(network.policy, "policy.net", parameters, observations)
    outputs = _head(network.policy_output, "policy.head", parameters, hidden)
    return outputs, _head(network.value_output, "value.head", parameters, hidden)[:, 0]


def log_std(parameters: Parameters, low: float, high: float, clip: bool) -> Float[Array, " A"] | None:
    """The Gaussian's log standard deviation, None for a categorical policy."""
    raw = parameters.get(LOG_STD)
    if raw is None:
        return None
    # Unlike jnp.clip, this has its whole gradient at a bound, where a run may begin.
    return jnp.where(raw < low, low, jnp.where(raw > high, high, raw)) if clip else raw


def _layers(
    layers: tuple[tuple[int, str], ...], name: str, parameters: Parameters, x: Float[Array, "B O"]
) -> Float[Array, "B H"]:
    for index, (_, activation) in enumerate(layers):
        x = ACTIVATIONS[activation](_dense(f"{name}.{index}", parameters, x))
    return x


def _head(output: Output, name: str, parameters: Parameters, x: Array) -> Array:
    x = ACTIVATIONS[output.activation](_dense(name, parameters, x))
    return x if output.scale == 1.0 else output.scale * x


def _dense(name: str, parameters: Parameters, x: Array) -> Array:
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    # GPUs would round the factors of a product to 10 bits by default, which torch does not do.
    layer = linen.Dense(weight.shape[0], precision=jax.lax.Precision.HIGHEST)
    out = layer.apply({"params": {"kernel": weight.T, "bias": bias}}, x)
    assert isinstance(out, Array)
    return out
