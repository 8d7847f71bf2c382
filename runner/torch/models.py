"""The policy and value networks of P members, as functions of their stacked parameters.

Axes: P member · B row · O observation · A action. Arrays are `[P, B, …]`, but linear layers in a row work on
`[P, features, B]`: with rows last, the narrow products of heads and their gradients run 2 to 3 times faster in batched
matrix multiplication on a CPU than with features last. The transposition between the two copies nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from runner.config.network import expressions
from runner.config.network.expressions import Name
from runner.config.network.layers import Conv2d, Flatten, Linear, Recurrent
from runner.envs.spaces import Layout
from runner.networks.blocks import Block, Role, Step, leaf
from runner.networks.parameters import LOG_STD, Network
from runner.torch import distributions, recurrent
from runner.torch.recurrent import Memory
from runner.training.pack import Rules

Parameters: TypeAlias = dict[str, Tensor]
"""Name → `[P, outputs, inputs, …]` for weights, `[P, outputs, 1]` for biases and log_std."""

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
"""Name → function of `[P, features, B]`."""
LEAST_IMAGE = 4096
"""Numbers of a row of images from which `_by_hand` is faster: 84 x 84 pixels are, 7 x 7 are slower."""
LARGEST_PART = 2**20
"""Numbers of observations that are convolved at a time on a CPU: they and what becomes of them stay in its cache."""


class _Operations:
    """`expressions.Operations` on torch."""

    leading = 1

    def activation(self, name: str, x: Tensor) -> Tensor:
        # The axis after the batch: features, or channels of an image as in torch.
        return torch.softmax(x, 2) if name == "softmax" else ACTIVATIONS[name](x)

    def concatenate(self, parts: list[Tensor], axis: int) -> Tensor:
        return torch.cat(parts, axis)

    def permute(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return x.permute(axes)


def cut(network: Network, flat: Float[Tensor, "P n"]) -> Parameters:
    """Views of the flat parameters, by name; log_std aside, of a copy if layers compute in another type."""
    sizes = [entry.size for entry in network.entries]
    own = flat.split(sizes, 1)
    # A second split would cost as much as a layer outside a compiler.
    pieces = zip(network.entries, own, flat.bfloat16().split(sizes, 1) if network.bfloat16 else own, strict=True)
    return {
        entry.name: (exact if entry.name == LOG_STD else cast).unflatten(
            1, entry.shape if len(entry.shape) > 1 else (*entry.shape, 1)
        )
        for entry, exact, cast in pieces
    }


def policy(
    network: Network, parameters: Parameters, observations: Tensor, memory: Memory | None = None
) -> tuple[Float[Tensor, "P B W"], Tensor | None]:
    """Means or logits from normalised observations `[P, B, O]`, and what the networks remember after every step."""
    values, states = _blocks(network, network.policy, parameters, observations, memory)
    outputs = _output(network, network.policy, parameters, values)
    return distributions.finished(network.distribution, outputs, observations), states


def value(
    network: Network, parameters: Parameters, observations: Tensor, memory: Memory | None = None
) -> tuple[Float[Tensor, "P B"], Tensor | None]:
    """State values, in the value statistics' normalised units, from normalised observations, and memory as above."""
    values, states = _blocks(network, network.value, parameters, observations, memory)
    return _output(network, network.value, parameters, values).squeeze(2), states


def acted(
    network: Network, parameters: Parameters, observations: Tensor, carry: Float[Tensor, "P N M"] | None
) -> tuple[Float[Tensor, "P N W"], Float[Tensor, "P N M"] | None]:
    """Means or logits of one step, and the carry after: of both networks, or of the policy if it has only that."""
    outputs, states = policy(network, parameters, observations, None if carry is None else Memory(carry, None))
    if carry is not None and states is not None:
        carry = states[:, 0]
        if carry.shape[2] > network.policy_memory:
            _, states = value(network, parameters, observations, Memory(carry, None))
            carry = None if states is None else states[:, 0]
    return outputs, carry


def policy_and_value(
    network: Network, parameters: Parameters, observations: Tensor, memory: Memory | None = None
) -> tuple[Float[Tensor, "P B W"], Float[Tensor, "P B"]]:
    """Both, with shared blocks run once."""
    if network.separate:
        outputs, _ = policy(network, parameters, observations, memory)
        return outputs, value(network, parameters, observations, memory)[0]
    values, _ = _blocks(network, network.policy, parameters, observations, memory)
    roles = network.policy, network.value
    if all(role.head for role in roles):
        # Both heads in one product: an outer product of one column is the slowest shape of all.
        weight, bias = (
            torch.cat([parameters[f"{role.head}.{part}"] for role in roles], 1) for part in ("weight", "bias")
        )
        features = values[""].transpose(1, 2).to(_dtype(network))
        outputs = torch.baddbmm(bias, weight, features).transpose(1, 2)
        heads = outputs.split((weight.shape[1] - 1, 1), 2)
        outputs, found = (_expressed(role, values, head) for role, head in zip(roles, heads, strict=True))
    else:
        outputs, found = (_output(network, role, parameters, values) for role in roles)
    return distributions.finished(network.distribution, outputs, observations), found.squeeze(2)


def log_std(rules: Rules, parameters: Parameters) -> Float[Tensor, "P 1 A"] | None:
    """The Gaussian's log standard deviation, without gradient if it is fixed; None for a categorical policy."""
    raw = parameters.get(LOG_STD)
    if raw is None:
        return None
    policy = rules.config.models.policy
    clipped = raw.clamp(policy.min_log_std, policy.max_log_std) if policy.clip_log_std else raw
    return (clipped.detach() if policy.fixed_log_std else clipped).transpose(1, 2)


def _blocks(
    network: Network, role: Role, parameters: Parameters, observations: Tensor, memory: Memory | None
) -> tuple[dict[str, Tensor], Float[Tensor, "P T N M"] | None]:
    """The outputs of every block by name, the last one's also under ""; and what is remembered after each step."""
    values, states = {"": _columns(observations, network.observations.observed)}, {}

    def run(block: Block) -> Tensor:
        x, steps = _convolved(network, block, parameters, observations, values)
        in_onednn, rows_last = len(steps) < len(block.steps) and _slow_products(), False
        for step in steps:
            if isinstance(step.layer, Linear | Recurrent) and not rows_last:
                x, rows_last = x.transpose(1, 2), True
            if isinstance(step.layer, Recurrent):
                assert memory is not None
                own = Memory(memory.states[:, :, network.memories[step.name]], memory.begins)
                x, states[step.name] = recurrent.unrolled(step.layer, step.name, parameters, x, own)
            else:
                x = _layer(step, parameters, x, in_onednn)
            x = ACTIVATIONS[step.activation](x) if rows_last else _Operations().activation(step.activation, x)
        return x.transpose(1, 2) if rows_last else x

    for block in role.blocks:
        values[block.name] = values[""] = run(block)
    return values, None if memory is None else _remembered(network, memory, states)


def _convolved(
    network: Network, block: Block, parameters: Parameters, observations: Tensor, values: dict[str, Tensor]
) -> tuple[Tensor, tuple[Step, ...]]:
    """Input of a block and its layers; on a CPU it is convolved already, and the layers are those that are left."""

    def read(observations: Tensor, values: dict[str, Tensor]) -> Tensor:
        def named(name: Name, one_hot: bool) -> Tensor:
            if name.text in values:
                return values[name.text]
            return _observed(network, observations, name, one_hot, block.scaled)

        return expressions.evaluate(block.input, named, _Operations()).to(_dtype(network))

    steps = tuple(takewhile(lambda step: isinstance(step.layer, Conv2d | Flatten), block.steps))
    convolves = any(isinstance(step.layer, Conv2d) for step in steps)
    if not convolves or network.bfloat16 or not _by_hand(observations):
        return read(observations, values), block.steps

    def part(member: slice, rows: slice) -> Tensor:
        x = read(observations[member, rows], {name: value[member, rows] for name, value in values.items()})
        own = {name: tensor[member] for name, tensor in parameters.items()}
        for step, after in zip_longest(steps, steps[1:]):
            x = _layer(step, own, x)
            if after is not None and isinstance(after.layer, Flatten):
                x = x.contiguous()  # which flattening would make it, but with slopes in another order than x
            x = _Operations().activation(step.activation, x)
        return x

    return _in_parts(part, observations), block.steps[len(steps) :]


def _remembered(network: Network, memory: Memory, states: dict[str, Tensor]) -> Float[Tensor, "P T N M"]:
    """The carry after every step: what layers gave, and as it was for those that did not run."""
    _, envs, size = memory.states.shape
    steps = 1 if memory.begins is None else memory.begins.shape[1] // envs
    before = memory.states.unsqueeze(1).expand(-1, steps, -1, -1)
    kept = {name: columns for name, columns in network.memories.items() if columns.stop <= size}
    return torch.cat([states.get(name, before[..., columns]) for name, columns in kept.items()], 3)


def _observed(network: Network, observations: Tensor, name: Name, one_hot: bool, scaled: bool) -> Tensor:
    """A part of the observations in its own shape, `[P, B, …]` float32."""
    part = leaf(network.observations, name)
    columns = _columns(observations, part)
    if one_hot:
        ranges = [
            torch.arange(o, o + n, device=columns.device) for o, n in zip(part.offset, part.categories, strict=True)
        ]
        return torch.cat([(columns[:, :, i, None] == numbers).float() for i, numbers in enumerate(ranges)], 2)
    columns = columns.unflatten(2, part.shape)
    if part.image and columns.shape[2] < columns.shape[-1] and _by_hand(columns):
        # Channels come first here, and bytes change places faster than floats.
        columns = torch.stack(columns.unbind(2), -1).movedim(-1, 2)
    columns = columns.float()
    return columns / 255 if part.image and scaled else columns


def _columns(observations: Tensor, part: Layout) -> Tensor:
    """The columns of a part, as they are."""
    whole = part.stop - part.start == observations.shape[2]
    return observations if whole else observations[:, :, part.start : part.stop]


def _dtype(network: Network) -> torch.dtype:
    """The type that layers compute in."""
    return torch.bfloat16 if network.bfloat16 else torch.float32


def _layer(step: Step, parameters: Parameters, x: Tensor, in_onednn: bool = False) -> Tensor:
    layer = step.layer
    if isinstance(layer, Flatten):
        return x.flatten(*(axis + 1 if axis > 0 else axis for axis in (layer.start, layer.end)))
    weight, bias = parameters[f"{step.name}.weight"], parameters.get(f"{step.name}.bias")
    if isinstance(layer, Conv2d):
        (top, bottom), (left, right) = layer.edges
        if any((top, bottom, left, right)):
            x = functional.pad(x, (left, right, top, bottom))
        return _convolution(x, weight, bias, layer.stride)
    if in_onednn:
        pairs = zip(_members(x.transpose(1, 2)), _members(weight), strict=True)
        found = _stacked([_Product.apply(rows, own) for rows, own in pairs]).transpose(1, 2)
        return found if bias is None else found + bias
    return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias, weight, x)


def _output(network: Network, role: Role, parameters: Parameters, values: dict[str, Tensor]) -> Tensor:
    if role.head is None:
        return _expressed(role, values, None)
    hidden = values[""].transpose(1, 2).to(_dtype(network))
    head = torch.baddbmm(parameters[f"{role.head}.bias"], parameters[f"{role.head}.weight"], hidden)
    return _expressed(role, values, head.transpose(1, 2))


def _expressed(role: Role, values: dict[str, Tensor], head: Tensor | None) -> Tensor:
    """The output expression in float32, its token standing for the head."""

    def named(name: Name, one_hot: bool) -> Tensor:
        found = values.get(name.text, head)
        assert found is not None
        return found

    return expressions.evaluate(role.output, named, _Operations()).float()


def _by_hand(x: Tensor) -> bool:
    """Layers of large images run one by one on a CPU whose torch has oneDNN: how is for us to say, not a compiler."""
    return (
        math.prod(x.shape[2:]) >= LEAST_IMAGE
        and x.is_cpu
        and torch.backends.mkldnn.is_available()
        and not torch.compiler.is_compiling()
    )


@functools.cache
def _slow_products() -> bool:
    """torch's own products, MKL's, take twice as long as oneDNN's on this CPU: AMD's. On Intel's they take half."""
    described = Path("/proc/cpuinfo")
    return described.exists() and "AuthenticAMD" in described.read_text()


def _in_parts(function: Callable[[slice, slice], Tensor], observations: Tensor) -> Tensor:
    """The function's `[P, B, …]` of all observations, some rows of one member at a time."""
    members, rows, size = observations.shape
    most = max(1, LARGEST_PART // size)
    parts = [slice(row, row + most) for row in range(0, rows, most)]
    found = [[function(slice(p, p + 1), part) for part in parts] for p in range(members)]
    whole = [own[0] if len(own) == 1 else torch.cat(own, 1) for own in found]
    return whole[0] if members == 1 else torch.cat(whole)


def _convolution(x: Float[Tensor, "P B C H W"], weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
    """One convolution for each member: a grouped one over all is slower on a CPU.

    There channels come last in memory, which makes gradients 1.3 times as fast.
    """
    offsets = [None] * len(x) if bias is None else _members(bias.squeeze(2))
    last = _by_hand(x)
    found = []
    for rows, kernel, offset in zip(_members(x), _members(weight), offsets, strict=True):
        rows = rows.contiguous(memory_format=torch.channels_last) if last else rows
        found.append(functional.conv2d(rows, kernel, offset, stride))
    return _stacked(found)


class _Product(torch.autograd.Function):
    """Product a bᵀ of `[m, k]` and `[n, k]` by oneDNN."""

    @staticmethod
    def forward(context: Any, a: Tensor, b: Tensor) -> Tensor:
        context.save_for_backward(a, b)
        return _product(a, b)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (slope,), (a, b), (of_a, of_b) = slopes, context.saved_tensors, context.needs_input_grad
        return _product(slope, b.t()) if of_a else None, _product(slope.t(), a.t()) if of_b else None


def _product(a: Tensor, b: Tensor) -> Tensor:
    return functional.linear(a.contiguous().to_mkldnn(), b.contiguous()).to_dense()


def _members(x: Tensor) -> Sequence[Tensor]:
    """Each member's part; that of a single one without the copies of a stack on the way back."""
    return (x.squeeze(0),) if len(x) == 1 else x.unbind(0)


def _stacked(parts: list[Tensor]) -> Tensor:
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)
