"""Recurrent layers of P members, torch's LSTM and GRU, over sequences in which episodes begin.

torch's own run one set of weights over sequences without an end. Axes: P member · T step · N sequence · H hidden
number · M remembered number. Rows `[T·N]` are steps of all sequences in the order of time, and come last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from runner.config.network.layers import Recurrent


class Memory(NamedTuple):
    """The memory of networks `[P, N, M]` before the first step, and where an episode begins with nothing remembered;
    None where there is but one step.
    """

    states: Float[Tensor, "P N M"]
    begins: Bool[Tensor, "P TN"] | None


def unrolled(
    layer: Recurrent, name: str, parameters: Mapping[str, Tensor], x: Float[Tensor, "P F TN"], memory: Memory
) -> tuple[Float[Tensor, "P H TN"], Float[Tensor, "P T N M"]]:
    """The outputs of a layer for every row, and what it remembers after every step; `memory` is its own."""
    envs, kind = memory.states.shape[1], x.dtype
    before = memory.states.transpose(1, 2).split(layer.units, 1)
    begins = None if memory.begins is None else memory.begins.unflatten(1, (-1, envs)).unsqueeze(1)
    after = []
    for k in range(layer.layers):
        inner, outer, inner_bias, outer_bias = (
            parameters[f"{name}.{part}_l{k}"] for part in ("weight_hh", "weight_ih", "bias_hh", "bias_ih")
        )
        # An LSTM adds its two biases; a GRU's reset gate comes between them.
        bias = outer_bias + inner_bias if layer.cell == "lstm" else outer_bias
        inputs = torch.baddbmm(bias, outer, x)
        steps = inputs.unsqueeze(2) if begins is None else inputs.unflatten(2, (-1, envs))
        cell, state, found = _lstm if layer.cell == "lstm" else _gru, before[k :: layer.layers], []
        for t, now in enumerate(steps.unbind(2)):
            if begins is not None:
                state = tuple(part.masked_fill(begins[:, :, t], 0) for part in state)
            state = cell(now, state, inner, inner_bias)
            found.append(state)
        after.append([torch.stack(parts, 2) for parts in zip(*found, strict=True)])
        x = after[-1][0].flatten(2).to(kind)
    states = torch.cat([parts[i] for i in range(len(after[0])) for parts in after], 1)
    return x, states.permute(0, 2, 3, 1)


def _lstm(inputs: Tensor, state: tuple[Tensor, ...], weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Hochreiter and Schmidhuber 1997 with a forget gate; gates in torch's order."""
    hidden, cell = state
    gates = torch.baddbmm(inputs, weight, hidden.to(weight.dtype)).float()
    enter, forget, new, leave = gates.chunk(4, 1)
    cell = torch.addcmul(forget.sigmoid() * cell, enter.sigmoid(), new.tanh())
    return leave.sigmoid() * cell.tanh(), cell


def _gru(inputs: Tensor, state: tuple[Tensor, ...], weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Cho et al. 2014 as torch has it: the reset gate is applied after the product."""
    (hidden,) = state
    own = torch.baddbmm(bias, weight, hidden.to(weight.dtype)).float()
    (reset, update, new), (own_reset, own_update, own_new) = inputs.float().chunk(3, 1), own.chunk(3, 1)
    new = torch.addcmul(new, (reset + own_reset).sigmoid(), own_new).tanh()
    return (torch.lerp(new, hidden, (update + own_update).sigmoid()),)
