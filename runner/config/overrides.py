"""`a.b.c=value` from the command line: parsed as YAML, applied over the file, always winning."""

from __future__ import annotations

from typing import Any

from runner.config.load import Key, parse_scalar
from runner.errors import UserError


def parse_override(text: str) -> tuple[Key, list[Any]]:
    """Read one `a.b=value`.

    Only a comma outside brackets and quotes makes a list of alternatives: `a=1,2` is two values, `a=[64,64]` one.

    Returns:
        The key path and its one or more values.

    Raises:
        UserError: no `=`, an empty key, or a value that is not YAML.
    """
    name, equals, value = text.partition("=")
    key = tuple(int(part) if part.isdecimal() else part for part in name.strip().split("."))
    if not equals or not all(part != "" for part in key):
        raise UserError(f"command line: --set {text!r}: write key=value, such as agent.learning_rate=3e-4")
    try:
        return key, [parse_scalar(part) for part in split_top_level(value)]
    except UserError as error:
        what = str(error).removeprefix("command line:1: ").removeprefix("command line: ")
        raise UserError(f"command line: --set {text!r}: {what}") from None


def split_top_level(text: str) -> list[str]:
    """Split at commas that are outside brackets, braces and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for position, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "[{(":
            depth += 1
        elif char in "]})":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def apply(data: dict[str, Any], key: Key, value: Any) -> None:
    """Set `value` at `key` in place, making the mappings on the way.

    Raises:
        UserError: the path runs through something that has no keys, or past the end of a list.
    """
    node: Any = data
    for depth, part in enumerate(key):
        last = depth == len(key) - 1
        path = ".".join(str(p) for p in key[: depth + 1])
        if isinstance(node, list):
            if not isinstance(part, int) or part >= len(node):
                raise UserError(f"command line: {path}: the list has {len(node)} entries, 0 to {len(node) - 1}")
            if last:
                node[part] = value
            else:
                node = node[part]
            continue
        if not isinstance(node, dict):
            raise UserError(f"command line: {path}: {path.rpartition('.')[0]} is a single value without keys")
        if last:
            node[str(part)] = value
        else:
            if node.get(str(part)) is None:
                node[str(part)] = {}
            node = node[str(part)]
