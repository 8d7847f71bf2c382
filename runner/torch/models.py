"""The policy and value networks of P members, as functions of their stacked parameters.

Axes: P member · B row · O observation · A action. Inside, layers work on `[P, features, B]`: with rows last, the narrow
products of heads and their gradients run 2 to 3 times faster in batched matrix multiplication on a CPU than with
features last. What goes in and comes out is `[P, B, ·]`, transposed without a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from runner.config.network import Output
from runner.parameters import LOG_STD, Network

Parameters: TypeAlias = dict[str, Tensor]
"""Name → `[P, outputs, inputs]` for weights, `[P, outputs, 1]` for biases and log_std."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": functional.elu,
    "gelu": functional.gelu,
    "identity": lambda x: x,
    "leaky_relu": functional.leaky_relu,
    "mish": functional.mish,
    "relu": torch.relu,
    "selu": functional.selu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softmax": lambda x: torch.softmax(x, 1),
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "tanh": torch.tanh,
}


def cut(network: Network, flat: Float[Tensor, "P n"]) -> Parameters:
    """Views of the flat parameters, by name."""
    pieces = flat.split([entry.size for entry in network.entries], 1)
    return {
        entry.name: piece.unflatten(1, entry.shape if len(entry.shape) == 2 else (*entry.shape, 1))
        for entry, piece in zip(network.entries, pieces, strict=True)
    }


def policy(network: Network, parameters: Parameters, observations: Float[Tensor, "P B O"]) -> Float[Tensor, "P B A"]:
    """Means or logits from normalised observations."""
    hidden = _layers(network.policy, "policy.net", parameters, observations)
    return _head(network.policy_output, "policy.head", parameters, hidden).transpose(1, 2)


def value(network: Network, parameters: Parameters, observations: Float[Tensor, "P B O"]) -> Float[Tensor, "P B"]:
    """State values, in the value statistics' normalised units, from normalised observations."""
    layers, name = (network.value, "value.net") if network.separate else (network.policy, "policy.net")
    hidden = _layers(layers, name, parameters, observations)
    return _head(network.value_output, "value.head", parameters, hidden).squeeze(1)


def policy_and_value(
    network: Network, parameters: Parameters, observations: Float[Tensor, "P B O"]
) -> tuple[Float[Tensor, "P B A"], Float[Tensor, "P B"]]:
    """Both, with shared hidden layers run once."""
    if network.separate:
        return policy(network, parameters, observations), value(network, parameters, observations)
    hidden = _layers(network.policy, "policy.net", parameters, observations)
    # Both heads in one product: an outer product of one column is the slowest shape of all.
    weight, bias = (
        torch.cat((parameters[f"policy.head.{part}"], parameters[f"value.head.{part}"]), 1)
        for part in ("weight", "bias")
    )
    outputs, values = torch.baddbmm(bias, weight, hidden).split((weight.shape[1] - 1, 1), 1)
    return (
        _shaped(network.policy_output, outputs).transpose(1, 2),
        _shaped(network.value_output, values).squeeze(1),
    )


def log_std(parameters: Parameters, low: float, high: float, clip: bool) -> Float[Tensor, "P 1 A"] | None:
    """The Gaussian's log standard deviation, None for a categorical policy."""
    raw = parameters.get(LOG_STD)
    if raw is None:
        return None
    return (raw.clamp(low, high) if clip else raw).transpose(1, 2)


def _layers(
    layers: tuple[tuple[int, str], ...], name: str, parameters: Parameters, observations: Float[Tensor, "P B O"]
) -> Float[Tensor, "P H B"]:
    x = observations.transpose(1, 2)
    for index, (_, activation) in enumerate(layers):
        x = ACTIVATIONS[activation](_dense(f"{name}.{index}", parameters, x))
    return x


def _head(output: Output, name: str, parameters: Parameters, x: Tensor) -> Tensor:
    return _shaped(output, _dense(name, parameters, x))


def _shaped(output: Output, x: Tensor) -> Tensor:
    x = ACTIVATIONS[output.activation](x)
    return x if output.scale == 1.0 else output.scale * x


def _dense(name: str, parameters: Parameters, x: Tensor) -> Tensor:
    return torch.baddbmm(parameters[f"{name}.bias"], parameters[f"{name}.weight"], x)
