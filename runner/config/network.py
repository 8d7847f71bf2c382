"""The network language of skrl's YAML → a plan that both backends build: layers, activations, output.

Read with Python's `ast` against a whitelist; nothing is evaluated.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from runner.errors import UserError, did_you_mean

ACTIVATIONS = (
    "elu", "gelu", "identity", "leaky_relu", "mish", "relu", "selu", "sigmoid", "silu", "softmax", "softplus",
    "softsign", "tanh",
)  # fmt: skip
ALIASES = {"": "identity", "none": "identity", "linear": "identity", "swish": "silu"}
LARGEST_FACTOR = 1e30
INPUTS = ("OBSERVATIONS", "STATES")
OUTPUTS = ("ACTIONS", "ONE")


@dataclass(frozen=True)
class Output:
    """`scale * activation(Linear(features → width of token))`."""

    token: str
    activation: str = "identity"
    scale: float = 1.0


def activation_name(name: Any, where: str) -> str:
    """Canonical name of an activation; None and '' mean identity.

    Raises:
        UserError: unknown name.
    """
    folded = "" if name is None else str(name).casefold()
    folded = ALIASES.get(folded, folded)
    if folded not in ACTIVATIONS:
        raise UserError(
            f"{where}: unknown activation {name!r}; allowed: {', '.join(ACTIVATIONS)}."
            f"{did_you_mean(folded, ACTIVATIONS)}"
        )
    return folded


def parse_output(text: str, where: str) -> Output:
    """Read an output expression: `ACTIONS`, `tanh(ACTIONS)`, `2 * tanh(ACTIONS)`, `ONE`.

    Raises:
        UserError: anything else.
    """
    problem = UserError(
        f"{where}: cannot read the output {text!r}; allowed: ACTIONS or ONE, an activation around it and a factor "
        "before it, such as '2 * tanh(ACTIONS)'"
    )
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise problem from None
    scale = 1.0
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Mult):
        number, tree = (tree.left, tree.right) if _number(tree.left) is not None else (tree.right, tree.left)
        value = _number(number)
        if value is None:
            raise problem
        scale = value
    activation = "identity"
    if isinstance(tree, ast.Call):
        if not isinstance(tree.func, ast.Name) or len(tree.args) != 1 or tree.keywords:
            raise problem
        activation = activation_name(tree.func.id, where)
        tree = tree.args[0]
    if not isinstance(tree, ast.Name) or tree.id not in OUTPUTS:
        raise problem
    return Output(tree.id, activation, scale)


def _number(tree: ast.expr) -> float | None:
    sign = 1.0
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        sign, tree = -1.0, tree.operand
    value = tree.value if isinstance(tree, ast.Constant) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST_FACTOR:
        return None
    return sign * float(value)


def layer_units(layer: Any, where: str) -> int:
    """Units of one linear layer: `64`, `{linear: 64}` or `{linear: {out_features: 64}}`.

    Raises:
        UserError: not a positive number, or a layer type that is not built yet.
    """
    if isinstance(layer, dict) and len(layer) == 1:
        kind, value = next(iter(layer.items()))
        if kind in ("conv2d", "flatten"):
            raise UserError(f"{where}: layer type {kind!r} is not supported yet; allowed: linear layers")
        if kind == "linear":
            if isinstance(value, dict):
                value = value.get("out_features", value.get("features"))
            elif isinstance(value, list) and len(value) == 1:
                value = value[0]
            return layer_units(value, where)
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 < layer <= 1_000_000:
        raise UserError(f"{where}: a layer is a positive number of units, found {layer!r}")
    return layer


def activation_list(activations: Any, layers: int, where: str) -> list[str]:
    """One activation per layer from a name, a list of one, or a list as long as the layers; none → identity.

    Raises:
        UserError: another length, or an unknown name.
    """
    names = [activations] if activations is None or isinstance(activations, str) else list(activations)
    if len(names) == 0:
        names = ["identity"]
    if len(names) == 1:
        names = names * layers
    if len(names) != layers:
        raise UserError(f"{where}: {len(names)} activations for {layers} layers; give one, or one per layer")
    return [activation_name(name, where) for name in names]
