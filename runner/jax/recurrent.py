"""Recurrent layers of one member, torch's LSTM and GRU, over sequences in which episodes begin.

Axes: T step · N sequence · H hidden number · M remembered number. Rows `[T·N]` are steps of all sequences in the order
of time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from runner.config.network.layers import Recurrent

# GPUs would round the factors of a product to 10 bits by default, which torch does not do.
PRECISION = jax.lax.Precision.HIGHEST


class Memory(NamedTuple):
    """The memory of networks `[N, M]` before the first step, and where an episode begins with nothing remembered;
    None where there is but one step.
    """

    states: Float[Array, "N M"]
    begins: Bool[Array, " TN"] | None


def unrolled(
    layer: Recurrent, name: str, parameters: Mapping[str, Array], x: Float[Array, "TN F"], memory: Memory
) -> tuple[Float[Array, "TN H"], Float[Array, "T N M"]]:
    """The outputs of a layer for every row, and what it remembers after every step; `memory` is its own."""
    envs, kind = len(memory.states), x.dtype
    before = jnp.split(memory.states, layer.memory // layer.units, 1)
    begins = None if memory.begins is None else memory.begins.reshape(-1, envs, 1)
    after: list[list[Array]] = []
    for k in range(layer.layers):
        inner, outer, inner_bias, outer_bias = (
            parameters[f"{name}.{part}_l{k}"] for part in ("weight_hh", "weight_ih", "bias_hh", "bias_ih")
        )
        # An LSTM adds its two biases; a GRU's reset gate comes between them.
        bias = outer_bias + inner_bias if layer.cell == "lstm" else outer_bias
        inputs = (jnp.matmul(x, outer.T, precision=PRECISION) + bias).reshape(-1, envs, len(bias))
        cell = _lstm if layer.cell == "lstm" else _gru
        state = tuple(before[k :: layer.layers])
        states = _scanned(cell, inner, inner_bias, state, inputs.astype(jnp.float32), begins)
        after.append(states)
        x = states[0].reshape(-1, layer.units).astype(kind)
    return x, jnp.concatenate([states[i] for i in range(len(after[0])) for states in after], 2)


def _scanned(
    cell: Callable[..., tuple[Array, ...]],
    weight: Array,
    bias: Array,
    state: tuple[Array, ...],
    inputs: Float[Array, "T N G"],
    begins: Bool[Array, "T N 1"] | None,
) -> list[Array]:
    """The parts of the state after every step, `[T, N, H]` each."""

    def step(state: tuple[Array, ...], now: tuple[Array, Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        inputs, begins = now
        state = cell(inputs, tuple(jnp.where(begins, 0, part) for part in state), weight, bias)
        return state, state

    if begins is None:
        return [part[None] for part in cell(inputs[0], state, weight, bias)]
    return list(jax.lax.scan(step, state, (inputs, begins))[1])


def _lstm(inputs: Array, state: tuple[Array, ...], weight: Array, bias: Array) -> tuple[Array, ...]:
    """Hochreiter and Schmidhuber 1997 with a forget gate; gates in torch's order."""
    hidden, cell = state
    gates = inputs + jnp.matmul(hidden.astype(weight.dtype), weight.T, precision=PRECISION)
    enter, forget, new, leave = jnp.split(gates, 4, -1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


def _gru(inputs: Array, state: tuple[Array, ...], weight: Array, bias: Array) -> tuple[Array, ...]:
    """Cho et al. 2014 as torch has it: the reset gate is applied after the product."""
    (hidden,) = state
    own = jnp.matmul(hidden.astype(weight.dtype), weight.T, precision=PRECISION) + bias
    (reset, update, new), (own_reset, own_update, own_new) = jnp.split(inputs, 3, -1), jnp.split(own, 3, -1)
    update = jax.nn.sigmoid(update + own_update)
    new = jnp.tanh(new + jax.nn.sigmoid(reset + own_reset) * own_new)
    return ((1 - update) * new + update * hidden,)
