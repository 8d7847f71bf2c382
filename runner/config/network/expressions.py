"""The expressions of skrl's YAML: `OBSERVATIONS["image"] / 255`, `concatenate([net, STATES[:, 3:]])`, `tanh(ACTIONS)`.

skrl puts them into Python that it runs, so that they may hold any of torch's or JAX's functions; here those that only
change a shape are read as well (`rearranging`).

Read with Python's `ast` against a whitelist into plain data, and evaluated by walking that data: nothing is executed.
An expression speaks of arrays with the batch as first axis, as in skrl's torch models, in every backend.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from runner.config.network import rearranging
from runner.errors import UserError, did_you_mean, shown

ACTIVATIONS = (
    "elu", "gelu", "identity", "leaky_relu", "mish", "relu", "selu", "sigmoid", "silu", "softmax", "softplus",
    "softsign", "tanh",
)  # fmt: skip
ALIASES = {"": "identity", "none": "identity", "linear": "identity", "swish": "silu"}
FUNCTIONS = ("concatenate", "permute", "one_hot_encoding")
LIBRARIES = ("torch", "jnp", "jax.numpy", "nn", "jax.nn", "nn.functional", "torch.nn.functional")
"""Modules that may stand in front of a function, as in `torch.flatten(x, 1)`."""
CONCATENATIONS = ("cat", "concat", "concatenate")
TOKENS = ("OBSERVATIONS", "STATES", "ACTIONS", "ONE")
PARTED = ("OBSERVATIONS", "STATES")
"""Tokens that keys, and numbers in place of keys, may follow."""
SPACES = {"OBSERVATION_SPACE": "OBSERVATIONS", "STATE_SPACE": "STATES"}
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_OPERATORS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
LARGEST_NUMBER = 1e30
LONGEST_TEXT = 1_000
DEEPEST = 30


@dataclass(frozen=True)
class Name:
    """A token or an earlier container; `keys` are those of a Dict or Tuple observation, `OBSERVATIONS["a"][1]`."""

    text: str
    keys: tuple[str | int, ...] = ()


@dataclass(frozen=True)
class Number:
    """A constant; arithmetic of constants alone is done when it is read."""

    value: float


@dataclass(frozen=True)
class Places:
    """Places on one axis, in this order."""

    numbers: tuple[int, ...]


Index = int | tuple[int | None, int | None, int | None] | Places


@dataclass(frozen=True)
class Part:
    """`base[:, 2:5]`: per axis after the batch a whole number, (start, stop, step), or chosen places `[0, 2]`."""

    base: Expression
    index: tuple[Index, ...]


@dataclass(frozen=True)
class Binary:
    """Arithmetic."""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Call:
    """An activation, one of FUNCTIONS, or a rearrangement.

    `numbers` are those of a rearrangement, or the axis of a concatenation where it is not the one after the batch.
    """

    function: str
    arguments: tuple[Expression, ...]
    numbers: tuple[int, ...] = ()


Expression = Name | Number | Part | Binary | Call


def activation_name(name: Any, where: str) -> str:
    """Canonical name of an activation; None and '' mean identity."""
    folded = "" if name is None else str(name).casefold()
    folded = ALIASES.get(folded, folded)
    if folded not in ACTIVATIONS:
        raise UserError(
            f"{where}: unknown activation {name!r}; allowed: {', '.join(ACTIVATIONS)}."
            f"{did_you_mean(folded, ACTIVATIONS)}"
        )
    return folded


def parse(text: str, where: str) -> Expression:
    """Read an expression; which of its names exist is for the caller to check (see `names`)."""
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_TEXT:
        raise UserError(f"{where}: found {shown(text)}; allowed: an expression of at most {LONGEST_TEXT:,} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"{where}: cannot read the expression {shown(text)}") from None
    return _Reader(text.strip(), where).read(tree, 0)


class _Reader:
    def __init__(self, text: str, where: str) -> None:
        self._text, self._where = text, where

    def refuse(self, tree: ast.AST, allowed: str) -> UserError:
        found = ast.get_source_segment(self._text, tree)
        return UserError(f"{self._where}: cannot use {shown(found)} in {shown(self._text)}; allowed: {allowed}")

    def read(self, tree: ast.expr, depth: int) -> Expression:
        if depth > DEEPEST:
            raise UserError(f"{self._where}: {shown(self._text)} is nested deeper than {DEEPEST}")
        number = _constant(tree)
        if number is not None:
            return Number(number)
        if isinstance(tree, ast.Name):
            return Name(tree.id)
        if isinstance(tree, ast.Attribute) and isinstance(tree.value, ast.Name) and tree.value.id == "Shape":
            return Name(tree.attr)
        if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
            left, right = self.read(tree.left, depth + 1), self.read(tree.right, depth + 1)
            return self._binary(tree, _OPERATORS[type(tree.op)], left, right)
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
            return self._binary(tree, "*", Number(-1.0), self.read(tree.operand, depth + 1))
        if isinstance(tree, ast.Subscript):
            return self._subscript(tree, depth)
        if isinstance(tree, ast.Call):
            return self._call(tree, depth)
        raise self.refuse(tree, "names, numbers, + - * /, [index], activations, " + ", ".join(FUNCTIONS))

    def _binary(self, tree: ast.expr, sign: str, left: Expression, right: Expression) -> Expression:
        if sign == "/" and right == Number(0.0):
            raise self.refuse(tree, "a divisor other than 0")
        if not (isinstance(left, Number) and isinstance(right, Number)):
            return Binary(sign, left, right)
        value = ARITHMETIC[sign](left.value, right.value)
        if not abs(value) < LARGEST_NUMBER:
            raise self.refuse(tree, f"numbers below {LARGEST_NUMBER:g}")
        return Number(value)

    def _array(self, tree: ast.expr, depth: int) -> Expression:
        """An expression whose value is an array in every backend: it has a name in it."""
        found = self.read(tree, depth + 1)
        if isinstance(found, Number):
            raise self.refuse(tree, "something with a name in it, such as OBSERVATIONS or ACTIONS")
        return found

    def _subscript(self, tree: ast.Subscript, depth: int) -> Expression:
        base = self._array(tree.value, depth)
        if isinstance(tree.slice, ast.Constant) and isinstance(tree.slice.value, str):
            if not isinstance(base, Name):
                raise self.refuse(tree, 'a key after a token, such as OBSERVATIONS["image"]')
            return Name(base.text, (*base.keys, tree.slice.value))
        if isinstance(base, Name) and base.text in (*PARTED, *SPACES) and _constant(tree.slice) is not None:
            return Name(base.text, (*base.keys, self._whole(tree.slice)))
        axes = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        whole = ast.Slice(None, None, None)
        if not axes or ast.dump(axes[0]) != ast.dump(whole):
            raise self.refuse(tree, "an index whose first axis, the batch, is ':', such as STATES[:, 0:3]")
        index = tuple(self._axis(axis) for axis in axes[1:])
        others = [axis for axis in index if not isinstance(axis, tuple)]
        if len(others) > 1 and any(isinstance(axis, Places) for axis in others):
            raise self.refuse(tree, "a list of places for one axis, and ranges for others")
        return Part(base, index)

    def _axis(self, tree: ast.expr) -> Index:
        if isinstance(tree, ast.List) and tree.elts:
            return Places(tuple(self._whole(number) for number in tree.elts))
        if isinstance(tree, ast.Slice):
            start, stop, step = (None if p is None else self._whole(p) for p in (tree.lower, tree.upper, tree.step))
            if step is not None and step < 1:
                raise self.refuse(tree, "a step of 1 or more")
            return start, stop, step
        return self._whole(tree)

    def _whole(self, tree: ast.expr) -> int:
        number = _constant(tree)
        if number is None or not number.is_integer() or abs(number) > 1e9:
            raise self.refuse(tree, "a whole number")
        return int(number)

    def _call(self, tree: ast.Call, depth: int) -> Expression:
        name, arguments = self._function(tree)
        if name in rearranging.NAMES:
            return self._rearrangement(tree, rearranging.canonical(name), arguments, depth)
        if name == "one_hot_encoding" and not tree.keywords:
            return self._one_hot_encoding(tree, arguments, depth)
        if name in CONCATENATIONS:
            return self._concatenate(tree, arguments, depth)
        try:
            activation = activation_name(name, self._where)
        except UserError:
            near = did_you_mean(name, [*ACTIVATIONS, *FUNCTIONS, *rearranging.NAMES])
            raise UserError(
                f"{self._where}: unknown function {name!r} in {self._text!r}; allowed: an activation "
                f"({', '.join(ACTIVATIONS)}), {', '.join(FUNCTIONS)}, or a method that changes the shape "
                f"({', '.join(rearranging.NAMES)}).{near}"
            ) from None
        if len(arguments) != 1 or tree.keywords:
            raise self.refuse(tree, f"{name}(x)")
        return Call(activation, (self._array(arguments[0], depth),))

    def _function(self, tree: ast.Call) -> tuple[str, list[ast.expr]]:
        """The name and arguments of a call; those of `x.view(-1)` and `torch.reshape(x, (-1,))` begin with x."""
        if isinstance(tree.func, ast.Name):
            if tree.func.id in FUNCTIONS or tree.func.id not in (*rearranging.NAMES, *CONCATENATIONS):
                return tree.func.id, tree.args
        elif isinstance(tree.func, ast.Attribute):
            if ast.get_source_segment(self._text, tree.func.value) in LIBRARIES:
                return tree.func.attr, tree.args
            if tree.func.attr in rearranging.NAMES:
                return tree.func.attr, [tree.func.value, *tree.args]
        what = f"an activation, {', '.join(FUNCTIONS)}, or x.method() with {', '.join(rearranging.NAMES)}"
        raise self.refuse(tree.func, what)

    def _concatenate(self, tree: ast.Call, arguments: Sequence[ast.expr], depth: int) -> Expression:
        """skrl's own along the axis after the batch, whatever axis it is told; a library's along the one it names."""
        ours = isinstance(tree.func, ast.Name)
        listed = arguments[:1] and isinstance(arguments[0], ast.List | ast.Tuple)
        parts = arguments[0].elts if listed and isinstance(arguments[0], ast.List | ast.Tuple) else arguments
        axes = [*(arguments[1:] if listed else []), *(key.value for key in tree.keywords if key.arg in ("dim", "axis"))]
        if not parts or len(axes) > 1 or len(tree.keywords) > len(axes) or (not ours and not (listed and axes)):
            raise self.refuse(tree, "concatenate([a, b]), or torch.cat([a, b], dim=1)")
        axis = 1 if ours else self._whole(axes[0])
        if axis == 0:
            raise self.refuse(tree, "an axis after the batch, such as dim=1")
        return Call("concatenate", tuple(self._array(part, depth) for part in parts), (axis,) if axis != 1 else ())

    def _rearrangement(self, tree: ast.Call, function: str, arguments: Sequence[ast.expr], depth: int) -> Expression:
        names, given = rearranging.KEYWORDS[function], list(arguments[1:])
        for keyword in tree.keywords:
            place = next((i for i, known in enumerate(names) if keyword.arg in known), None)
            if place != len(given):
                raise self.refuse(tree, f"{function} with {', '.join(known[0] for known in names) or 'no argument'}")
            given.append(keyword.value)
        listed = [axis.elts if isinstance(axis, ast.List | ast.Tuple) else [axis] for axis in given]
        numbers = [self._size(axis, depth) for axes in listed for axis in axes]
        try:
            found = rearranging.rearrangement(function, numbers)
        except ValueError as error:
            raise self.refuse(tree, f"{function} with {error}") from None
        if not arguments:
            raise self.refuse(tree, f"{function} of an array")
        base = self._array(arguments[0], depth)
        return base if function == "contiguous" else Call(found[0], (base,), found[1])

    def _size(self, tree: ast.expr, depth: int) -> int | None:
        """A whole number, or None for the size of the batch: `x.shape[0]`, `x.size(0)`, `len(x)`."""
        array: ast.expr | None = None
        match tree:
            case ast.Subscript(ast.Attribute(value, "shape"), ast.Constant(0)):
                array = value
            case ast.Call(ast.Attribute(value, "size"), [ast.Constant(0)], []):
                array = value
            case ast.Call(ast.Name("len"), [value], []):
                array = value
        if array is None:
            return self._whole(tree)
        self._array(array, depth)
        return None

    def _one_hot_encoding(self, tree: ast.Call, arguments: Sequence[ast.expr], depth: int) -> Expression:
        if len(arguments) == 2:
            space, value = (self.read(argument, depth + 1) for argument in arguments)
            if isinstance(space, Name) and value == Name(SPACES.get(space.text, ""), space.keys):
                return Call("one_hot_encoding", (value,))
        raise self.refuse(tree, "one_hot_encoding(OBSERVATION_SPACE, OBSERVATIONS)")


def _constant(tree: ast.expr) -> float | None:
    sign = 1.0
    while isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        sign, tree = -sign, tree.operand
    value = tree.value if isinstance(tree, ast.Constant) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST_NUMBER:
        return None
    return sign * float(value)


def nodes(expression: Expression) -> Iterator[Expression]:
    """The expression and everything in it."""
    yield expression
    children: tuple[Expression, ...] = ()
    if isinstance(expression, Part):
        children = (expression.base,)
    elif isinstance(expression, Binary):
        children = (expression.left, expression.right)
    elif isinstance(expression, Call):
        children = expression.arguments
    for child in children:
        yield from nodes(child)


def names(expression: Expression) -> list[Name]:
    """Every name in it, in order."""
    return [node for node in nodes(expression) if isinstance(node, Name)]


class Operations(Protocol):
    """Operations of an array library, for `evaluate`."""

    leading: int
    """Axes in front of the batch."""

    def activation(self, name: str, x: Any) -> Any:
        """One of ACTIVATIONS."""

    def concatenate(self, parts: list[Any], axis: int) -> Any:
        """Along an axis, counted with those in front of the batch, or from the last."""

    def permute(self, x: Any, axes: tuple[int, ...]) -> Any:
        """Axes in a new order, those in front of the batch included."""


def evaluate(expression: Expression, value: Callable[[Name, bool], Any], operations: Operations) -> Any:
    """The expression's value; `value` is (name, as one-hot) → array `[…, batch, …]`."""

    def walk(node: Expression) -> Any:
        if isinstance(node, Name):
            return value(node, False)
        if isinstance(node, Number):
            return node.value
        if isinstance(node, Part):
            return walk(node.base)[(slice(None),) * (operations.leading + 1) + tuple(map(_chosen, node.index))]
        if isinstance(node, Binary):
            return ARITHMETIC[node.operator](walk(node.left), walk(node.right))
        if node.function == "one_hot_encoding":
            (name,) = node.arguments
            assert isinstance(name, Name)
            return value(name, True)
        arguments = [walk(argument) for argument in node.arguments]
        if node.function == "concatenate":
            axis = node.numbers[0] if node.numbers else 1
            return operations.concatenate(arguments, axis + operations.leading if axis > 0 else axis)
        if node.function in rearranging.KEYWORDS:
            return _rearranged(node, arguments[0], operations)
        return operations.activation(node.function, arguments[0])

    return walk(expression)


def _chosen(axis: Index) -> Any:
    """An index of one axis as array libraries take it."""
    if isinstance(axis, Places):
        return np.array(axis.numbers)
    return axis if isinstance(axis, int) else slice(*axis)


def _rearranged(call: Call, x: Any, operations: Operations) -> Any:
    front, row = x.shape[: operations.leading + 1], tuple(x.shape[operations.leading + 1 :])
    axes = rearranging.order(call.function, call.numbers, row)
    if axes is None:
        return x.reshape((*front, *rearranging.reshaped(call.function, call.numbers, row)))
    leading = tuple(range(operations.leading))
    return operations.permute(x, leading + tuple(axis + operations.leading for axis in axes))
