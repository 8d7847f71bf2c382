"""The network language of skrl's YAML → one plan that both backends build: containers of layers, and an output.

Conventions are torch's in every backend: the batch is the first axis, images are `[batch, channels, height, width]`,
convolutions have no padding unless they name one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from runner.config.network.expressions import PARTED, TOKENS, Expression, Name, activation_name, names, parse
from runner.config.numbers import as_whole
from runner.errors import UserError, did_you_mean

LARGEST_LAYER, MOST_LAYERS = 1_000_000, 16
FEATURES = {"ACTIONS": "NUM_ACTIONS", "OBSERVATIONS": "NUM_OBSERVATIONS", "STATES": "NUM_STATES", "ONE": "ONE"}
"""Tokens that may stand for a number of units, and skrl 2.x's other name for each."""


@dataclass(frozen=True)
class Linear:
    """`units` is a number or a token of FEATURES; applied to the last axis."""

    units: int | str
    bias: bool = True


@dataclass(frozen=True)
class Conv2d:
    """A convolution over `[batch, channels, height, width]`; padding on both sides of each axis, or "same"."""

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (0, 0)
    bias: bool = True

    @property
    def edges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of zeros in front of and behind height and width."""
        if isinstance(self.padding, str):
            (height, width) = self.kernel
            return ((height - 1) // 2, height // 2), ((width - 1) // 2, width // 2)
        (height, width) = self.padding
        return (height, height), (width, width)


@dataclass(frozen=True)
class Flatten:
    """Axes `start` to `end` become one; 1 and -1 leave the batch and one axis."""

    start: int = 1
    end: int = -1


@dataclass(frozen=True)
class Recurrent:
    """torch's LSTM or GRU over the steps of an episode: `layers` of them, each of `units` hidden numbers."""

    cell: str
    units: int
    layers: int = 1

    @property
    def gates(self) -> int:
        """Rows of a weight per hidden number."""
        return {"lstm": 4, "gru": 3}[self.cell]

    @property
    def memory(self) -> int:
        """Numbers that it remembers from one step to the next: hidden ones of every layer, then an LSTM's cells."""
        return {"lstm": 2, "gru": 1}[self.cell] * self.layers * self.units


Layer = Linear | Conv2d | Flatten | Recurrent


@dataclass(frozen=True)
class Container:
    """One entry of a `network:` list: layers, each with its activation, on what `input` gives."""

    name: str
    input: Expression
    layers: tuple[tuple[Layer, str], ...]


@dataclass(frozen=True)
class Plan:
    """One role: containers in order, then the output, an expression of containers and a token.

    The token, ACTIONS or ONE, is a linear layer on the last container, or on the observations where there is none.
    """

    containers: tuple[Container, ...]
    output: Expression
    token: str | None


def plan(network: Sequence[Mapping[str, Any]], output: str) -> Plan:
    """Read a role's `network` list and `output`."""
    containers: list[Container] = []
    for position, item in enumerate(network):
        name, place = item["name"], f"network.{position}"
        known = [c.name for c in containers]
        if not name.isidentifier() or name in TOKENS or name in known:
            raise UserError(f"{place}.name: found {name!r}; allowed: a word of its own, not one of {', '.join(TOKENS)}")
        source = parse(item["input"], f"{place}.input")
        _check_names(source, [*known, "OBSERVATIONS", "STATES"], f"{place}.input")
        if not names(source):
            raise UserError(f"{place}.input: {item['input']!r} depends on nothing; allowed: observations or containers")
        layers = [layer(entry, f"{place}.layers.{i}") for i, entry in enumerate(item["layers"])]
        bare = [isinstance(entry, Flatten | Recurrent) for entry in layers]
        activations = activation_list(item["activations"], bare, f"{place}.activations")
        containers.append(Container(name, source, tuple(zip(layers, activations, strict=True))))
    place = "output"
    known = [c.name for c in containers]
    if not output.strip():
        if not known:
            raise UserError(f"{place}: found {output!r}; allowed: ACTIONS or ONE where there is no network")
        return Plan(tuple(containers), Name(known[-1]), None)
    expression = parse(output, place)
    _check_names(expression, [*known, "ACTIONS", "ONE"], place)
    tokens = {name.text for name in names(expression)} & {"ACTIONS", "ONE"}
    if len(tokens) > 1:
        raise UserError(f"{place}: {output!r} has both ACTIONS and ONE; allowed: one of them")
    if not names(expression):
        raise UserError(f"{place}: {output!r} depends on nothing; allowed: ACTIONS, ONE or containers in it")
    return Plan(tuple(containers), expression, next(iter(tokens), None))


def _check_names(expression: Expression, allowed: Sequence[str], where: str) -> None:
    for name in names(expression):
        if name.text not in allowed or (name.keys and name.text not in PARTED):
            written = name.text + "".join(f"[{key!r}]" for key in name.keys)
            raise UserError(
                f"{where}: unknown name {written}; allowed: {', '.join(allowed)}.{did_you_mean(name.text, allowed)}"
            )


def layer(entry: Any, where: str) -> Layer:
    """Read one layer: `64`, `{linear: 64}`, `{conv2d: [32, 8, 4]}`, `flatten`, … in all of skrl's spellings."""
    if as_whole(entry) is not None:
        return Linear(_units(entry, where))
    if entry == "flatten":
        return Flatten()
    if isinstance(entry, str) and _feature(entry):
        return Linear(_units(entry, where))
    if isinstance(entry, Mapping) and len(entry) == 1:
        kind, value = next(iter(entry.items()))
        if kind in _READERS:
            return _READERS[kind](value, f"{where}.{kind}")
        raise UserError(
            f"{where}: unknown layer {kind!r}; allowed: {', '.join(_READERS)}.{did_you_mean(str(kind), _READERS)}"
        )
    raise UserError(f"{where}: found {entry!r}; allowed: a number of units, flatten, or one of {', '.join(_READERS)}")


def _arguments(value: Any, positional: Sequence[str], spellings: Mapping[str, str], where: str) -> dict[str, Any]:
    """A layer's arguments by canonical name, from a list, a block or a single value."""
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, argument in value.items():
            name = spellings.get(str(key), str(key))
            if name not in positional:
                allowed = [*positional, *spellings]
                raise UserError(
                    f"{where}.{key}: unknown argument; allowed: {', '.join(allowed)}.{did_you_mean(str(key), allowed)}"
                )
            if name in found:
                raise UserError(f"{where}.{key}: {name} is given twice")
            found[name] = argument
        return found
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) > len(positional):
        raise UserError(f"{where}: found {value!r}; allowed: at most {', '.join(positional)}")
    return dict(zip(positional, values, strict=False))


def _linear(value: Any, where: str) -> Linear:
    spellings = {"features": "out_features", "use_bias": "bias"}
    given = _arguments(value, ("out_features", "bias", "in_features"), spellings, where)
    if isinstance(value, list) and len(value) > 2:
        raise UserError(f"{where}: found {value!r}; allowed: [out_features, bias]")
    if "out_features" not in given:
        raise UserError(f"{where}.out_features: required, but not given")
    return Linear(_units(given["out_features"], where), _bias(given, where))


def _conv2d(value: Any, where: str) -> Conv2d:
    spellings = {"features": "out_channels", "strides": "stride", "use_bias": "bias"}
    given = _arguments(
        value, ("out_channels", "kernel_size", "stride", "padding", "bias", "in_channels"), spellings, where
    )
    for name in ("out_channels", "kernel_size"):
        if name not in given:
            raise UserError(f"{where}.{name}: required, but not given")
    channels = _whole(given["out_channels"], LARGEST_LAYER, f"{where}.out_channels")
    stride = _pair(given.get("stride", 1), 1, f"{where}.stride")
    padding = given.get("padding", 0)
    if isinstance(padding, str) and padding.casefold() in ("same", "valid"):
        padding = "same" if padding.casefold() == "same" else (0, 0)
        if padding == "same" and stride != (1, 1):
            raise UserError(f"{where}.padding: 'same' needs a stride of 1, found {given['stride']!r}")
    else:
        padding = _pair(padding, 0, f"{where}.padding")
    return Conv2d(
        channels, _pair(given["kernel_size"], 1, f"{where}.kernel_size"), stride, padding, _bias(given, where)
    )


def _flatten(value: Any, where: str) -> Flatten:
    given = _arguments({} if value is None else value, ("start_dim", "end_dim"), {}, where)
    axes = {name: as_whole(number) for name, number in given.items()}
    for name, axis in axes.items():
        if not axis:
            raise UserError(f"{where}.{name}: found {given[name]!r}; allowed: an axis after the batch, such as 1 or -1")
    return Flatten(axes.get("start_dim") or 1, axes.get("end_dim") or -1)


def _recurrent(cell: str, value: Any, where: str) -> Recurrent:
    given = {"num_layers": 1, **_arguments(value, ("hidden_size", "num_layers"), {"features": "hidden_size"}, where)}
    if "hidden_size" not in given:
        raise UserError(f"{where}.hidden_size: required, but not given")
    units = _whole(given["hidden_size"], LARGEST_LAYER, f"{where}.hidden_size")
    return Recurrent(cell, units, _whole(given["num_layers"], MOST_LAYERS, f"{where}.num_layers"))


_READERS: dict[str, Callable[[Any, str], Layer]] = {
    "linear": _linear,
    "conv2d": _conv2d,
    "flatten": _flatten,
    "lstm": partial(_recurrent, "lstm"),
    "gru": partial(_recurrent, "gru"),
}


def _feature(text: str) -> str | None:
    """The token that stands for a number of units."""
    text = text.removeprefix("Shape.")
    return next((token for token, other in FEATURES.items() if text in (token, other)), None)


def _units(value: Any, where: str) -> int | str:
    token = _feature(value) if isinstance(value, str) else None
    if token is not None:
        return token
    return _whole(value, LARGEST_LAYER, where)


def _whole(value: Any, most: int, where: str) -> int:
    """A whole number from 1."""
    number = as_whole(value)
    if number is None or not 0 < number <= most:
        raise UserError(f"{where}: found {value!r}; allowed: a whole number from 1 to {most:,}")
    return number


def _bias(given: Mapping[str, Any], where: str) -> bool:
    bias = given.get("bias", True)
    if not isinstance(bias, bool):
        raise UserError(f"{where}.bias: found {bias!r}; allowed: True or False")
    return bias


def _pair(value: Any, least: int, where: str) -> tuple[int, int]:
    """A whole number for both axes, or one for each."""
    given = list(value) if isinstance(value, list | tuple) else [value, value]
    numbers = [number for number in map(as_whole, given) if number is not None and least <= number <= 10_000]
    if not len(given) == len(numbers) == 2:
        raise UserError(f"{where}: found {value!r}; allowed: a whole number of {least} or more, or two of them")
    return numbers[0], numbers[1]


def activation_list(activations: Any, bare: Sequence[bool], where: str) -> list[str]:
    """One activation per layer from a name, a list of one, or a list as long as the layers; none → identity.

    `bare` says which layers what is given for all leaves out: flatten, as in skrl, and recurrent ones.
    """
    listed = [activations] if activations is None or isinstance(activations, str) else list(activations)
    if len(listed) <= 1:
        name = activation_name(listed[0] if listed else None, where)
        return ["identity" if is_bare else name for is_bare in bare]
    found = [activation_name(name, where) for name in listed]
    if len(listed) != len(bare):
        raise UserError(f"{where}: {len(listed)} activations for {len(bare)} layers; give one, or one per layer")
    return ["identity" if is_bare else name for name, is_bare in zip(found, bare, strict=True)]
