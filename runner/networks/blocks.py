"""The blocks of layers that networks are built of, and the parameters of each.

They follow from the configuration's plan and the spaces: shapes are found by running the plan on numpy zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runner.config.network import expressions, rearranging
from runner.config.network.expressions import Binary, Expression, Name
from runner.config.network.layers import Container, Conv2d, Flatten, Layer, Linear, Plan, Recurrent
from runner.envs.spaces import Layout
from runner.errors import UserError
from runner.networks.scaling import Scaling

LARGEST_FLAT_IMAGE = 4096
"""Numbers of an image that a linear layer may still read without convolutions in front of it."""
LARGEST_ROW, LARGEST_NETWORK = 16_000_000, 500_000_000
"""Numbers that a layer may give for one observation, and parameters of one member: more is a mistake, not a network."""


@dataclass(frozen=True)
class Entry:
    """One parameter: `[outputs, inputs]` or `[outputs, inputs, height, width]` for a weight, as torch has it,
    `[outputs]` for a bias; `hidden` is the size of the recurrent layer that it is of.
    """

    name: str
    shape: tuple[int, ...]
    hidden: int | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def of_value(self) -> bool:
        """It is the value's alone."""
        return self.name.startswith("value.")


@dataclass(frozen=True)
class Step:
    """One layer whose parameters are `name.weight` and `name.bias`, and what follows it."""

    name: str
    layer: Layer
    activation: str


@dataclass(frozen=True)
class Block:
    """One container: steps on what `input` gives.

    Attributes:
        name: as later containers and the output call it.
        input: an expression of observations and earlier blocks.
        scaled: uint8 images in it are divided by 255: they come raw, and the expression does no arithmetic of its own.
        steps: its layers.
    """

    name: str
    input: Expression
    scaled: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Role:
    """Policy or value.

    Attributes:
        blocks: in order; the last one feeds the head.
        output: an expression of the head's token and of blocks.
        head: name of the linear layer that the token stands for, None for an output of blocks alone.
    """

    blocks: tuple[Block, ...]
    output: Expression
    head: str | None


def leaf(observations: Layout, name: Name, where: str = "network") -> Layout:
    """The part of the observation that a name stands for."""
    observed, states = observations.observed, observations.states
    if name.text == "STATES" and (not name.keys or (states.children and states is not observed)):
        return states.at(name.keys, where)
    if not name.keys or isinstance(name.keys[0], int) or observations.grouped:
        return observed.at(name.keys, where)
    return observations.at(name.keys, where)


class _Numpy:
    """`expressions.Operations` on numpy, for shapes."""

    leading = 0

    def activation(self, name: str, x: Any) -> Any:
        return x

    def concatenate(self, parts: list[Any], axis: int) -> Any:
        size = sum(part.size for part in parts)
        if size > LARGEST_ROW:
            raise ValueError(f"{size:,} numbers; allowed: {LARGEST_ROW:,}")
        return np.concatenate(parts, axis)

    def permute(self, x: Any, axes: tuple[int, ...]) -> Any:
        return np.transpose(x, axes)


class Builder:
    """Runs plans on a batch of one row of zeros, noting the parameters of every layer that it meets."""

    def __init__(self, observations: Layout, units: dict[str, int], scalings: tuple[Scaling, ...]) -> None:
        self.entries: list[Entry] = []
        self._observations = observations
        self._scalings = scalings
        sizes = {"OBSERVATIONS": observations.observed, "STATES": observations.states}
        self._units = units | {token: part.stop - part.start for token, part in sizes.items()}

    def blocks(self, role: str, plan: Plan) -> tuple[tuple[Block, ...], dict[str, np.ndarray]]:
        """The blocks of a role, and what each gives."""
        values: dict[str, np.ndarray] = {}
        blocks = []
        for index, container in enumerate(plan.containers):
            where = f"models.{role}.network.{index}"
            x = self._evaluate(container.input, values, f"{where}.input")
            steps: list[Step] = []
            layers = list(container.layers)
            if x.ndim > 2 and layers and isinstance(layers[0][0], Linear | Recurrent):
                self._check_flat(container, x, where)
                layers.insert(0, (Flatten(), "identity"))
            for number, (layer, activation) in enumerate(layers):
                shift = number - (len(layers) - len(container.layers))
                step = Step(f"{role}.{container.name}.{shift}", self._sized(layer), activation)
                x = self._apply(step, x, f"{where}.layers.{shift}")
                steps.append(step)
            arithmetic = any(isinstance(node, Binary) for node in expressions.nodes(container.input))
            scaled = not arithmetic and not self._normalized(container)
            blocks.append(Block(container.name, container.input, scaled, tuple(steps)))
            values[container.name] = x
        return tuple(blocks), values

    def output(
        self, role: str, plan: Plan, blocks: tuple[Block, ...], values: dict[str, np.ndarray], width: int
    ) -> Role:
        """The output of a role on given blocks."""
        where = f"models.{role}.output"
        head = None
        values = dict(values)
        if plan.token is not None:
            features = values[blocks[-1].name] if blocks else np.zeros((1, self._units["OBSERVATIONS"]))
            head = f"{role}.head"
            token = Step(head, Linear(self._units[plan.token]), "identity")
            values[plan.token] = self._apply(token, features, where)
        found = self._evaluate(plan.output, values, where)
        if found.shape != (1, width):
            raise UserError(f"{where}: gives {_text(found)} per row; needed: {width}")
        return Role(blocks, plan.output, head)

    def _evaluate(self, expression: Expression, values: dict[str, np.ndarray], where: str) -> np.ndarray:
        def value(name: Name, one_hot: bool) -> np.ndarray:
            if name.text in values:
                return values[name.text]
            part = leaf(self._observations, name, where)
            if one_hot:
                if not part.categories:
                    raise UserError(f"{where}: one_hot_encoding is for Discrete and MultiDiscrete observations")
                return np.zeros((1, sum(part.categories)), np.float32)
            return np.zeros((1, *part.shape), np.float32)

        try:
            with np.errstate(all="ignore"):  # of zeros; only shapes matter
                found = expressions.evaluate(expression, value, _Numpy())
        except UserError:
            raise
        except (IndexError, ValueError, TypeError, MemoryError) as error:
            raise UserError(f"{where}: does not fit the observations: {error}") from None
        if not isinstance(found, np.ndarray) or found.ndim < 1 or found.shape[0] != 1:
            raise UserError(f"{where}: gives no array of rows")
        if 0 in found.shape:
            raise UserError(f"{where}: gives no number of a row; an observation has {self._units['OBSERVATIONS']}")
        if found.ndim == 1:
            raise UserError(f"{where}: gives a number per row that has no axis; write [:, 0:1] in place of [:, 0]")
        return found

    def _sized(self, layer: Layer) -> Layer:
        """With numbers for tokens."""
        if isinstance(layer, Linear) and isinstance(layer.units, str):
            return replace(layer, units=self._units[layer.units])
        return layer

    def _apply(self, step: Step, x: np.ndarray, where: str) -> np.ndarray:
        """The layer's output for one row, its parameters noted."""
        layer = step.layer
        if isinstance(layer, Flatten):
            try:
                return x.reshape(1, *rearranging.reshaped("flatten", (layer.start, layer.end), x.shape[1:]))
            except ValueError:
                axes = f"axes {layer.start} to {layer.end}"
                raise UserError(f"{where}: cannot flatten {axes} of {_text(x)}") from None
        if isinstance(layer, Linear | Recurrent):
            if x.ndim != 2:
                kind = layer.cell if isinstance(layer, Recurrent) else "linear"
                raise UserError(f"{where}: a {kind} layer reads {_text(x)}; put flatten in front of it")
            assert isinstance(layer.units, int)
            if isinstance(layer, Linear):
                self._note(step.name, (layer.units, x.shape[1]), layer.bias, where)
            else:
                self._note_recurrent(step.name, layer, x.shape[1], where)
            return np.zeros((1, layer.units), np.float32)
        if x.ndim != 4:
            raise UserError(
                f"{where}: conv2d reads {_text(x)}; needed: channels x height x width (use permute for height x width "
                "x channels)"
            )
        size = [_convolved(x.shape[2 + axis], layer, axis) for axis in (0, 1)]
        if min(size) < 1:
            raise UserError(
                f"{where}: conv2d with kernel {layer.kernel} and stride {layer.stride} is too large for {_text(x)}"
            )
        self._note(step.name, (layer.channels, x.shape[1], *layer.kernel), layer.bias, where)
        shape = (layer.channels, *size)
        if math.prod(shape) > LARGEST_ROW:
            text = " x ".join(map(str, shape))
            raise UserError(f"{where}: gives {text} = {math.prod(shape):,} numbers; allowed: {LARGEST_ROW:,}")
        return np.zeros((1, *shape), np.float32)

    def _note(self, name: str, weight: tuple[int, ...], bias: bool, where: str) -> None:
        self._check_number(math.prod(weight), where)
        self.entries.append(Entry(f"{name}.weight", weight))
        if bias:
            self.entries.append(Entry(f"{name}.bias", weight[:1]))

    def _note_recurrent(self, name: str, layer: Recurrent, inputs: int, where: str) -> None:
        """torch's names and shapes."""
        rows, units = layer.gates * layer.units, layer.units
        for k in range(layer.layers):
            self._check_number(rows * (inputs + units), where)
            shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, units), "bias_ih": (rows,), "bias_hh": (rows,)}
            self.entries += [Entry(f"{name}.{part}_l{k}", shape, units) for part, shape in shapes.items()]
            inputs = units

    def _check_number(self, more: int, where: str) -> None:
        count = more + sum(entry.size for entry in self.entries)
        if count > LARGEST_NETWORK:
            raise UserError(f"{where}: {count:,} parameters up to here; allowed: {LARGEST_NETWORK:,}")

    def _parts(self, container: Container) -> list[Layout]:
        """Parts of the observation that a container reads."""
        names = expressions.names(container.input)
        return [leaf(self._observations, name) for name in names if name.text in ("OBSERVATIONS", "STATES")]

    def _normalized(self, container: Container) -> bool:
        """A part of the observation that it reads comes normalised."""
        parts = self._parts(container)
        return any(s.start < part.stop and part.start < s.stop for part in parts for s in self._scalings)

    def _check_flat(self, container: Container, x: np.ndarray, where: str) -> None:
        images = [part for part in self._parts(container) if part.has_image]
        if images and x[0].size > LARGEST_FLAT_IMAGE:
            raise UserError(
                f"{where}: a linear layer would read an image of {_text(x)} ({x[0].size:,} numbers); put conv2d layers "
                "and flatten in front of it"
            )


def _text(x: np.ndarray) -> str:
    return " x ".join(map(str, x.shape[1:]))


def _convolved(size: int, layer: Conv2d, axis: int) -> int:
    return (size + sum(layer.edges[axis]) - layer.kernel[axis]) // layer.stride[axis] + 1
