"""`a.b.c=value` from the command line: parsed as YAML, applied over the file, always winning; ranges of numbers."""

from __future__ import annotations

import decimal
import math
from decimal import Decimal
from typing import Any

from runner.config.load import Key, dotted, parse_scalar
from runner.config.numbers import LONGEST, number
from runner.errors import UserError

LONGEST_RANGE = 100_000
"""Values of one range."""


def parse_key(name: str) -> Key | None:
    """`a.b.0` → `('a', 'b', 0)`; None where a part is empty."""
    key = tuple(int(part) if part.isdecimal() else part for part in name.strip().split("."))
    return key if all(part != "" for part in key) else None


def parse_override(text: str, flag: str = "--set") -> tuple[Key, list[Any]]:
    """The key path and the one or more values of `a.b=value`; the flag that it was typed after is for errors.

    Only a comma outside brackets and quotes makes a list of alternatives: `a=1,2` is two values, `a=[64,64]` one.
    A range makes as many as it counts: see `expand_range`.
    """
    name, equals, value = text.partition("=")
    key = parse_key(name)
    if not equals or key is None:
        raise UserError(f"command line: {flag} {text!r}: write key=value, such as agent.learning_rate=3e-4")
    values: list[Any] = []
    try:
        for part in split_top_level(value):
            values += expand_range(part) or [parse_scalar(part)]
    except UserError as error:
        what = str(error).removeprefix("command line:1: ").removeprefix("command line: ")
        raise UserError(f"command line: {flag} {text!r}: {what}") from None
    return key, values


def expand_range(text: str) -> list[int | float] | None:
    """The values of `first..last/count`, both ends included; None where the text is no range.

    A text that begins with a number and two dots is a range. Where an end is written with an exponent, its values have
    equal ratios (`1e-5..1e-2/4`: 1e-5, 1e-4, 1e-3, 1e-2), else equal steps (`0..1/5`: 0, 0.25, 0.5, 0.75, 1). They
    are whole numbers where ends and steps are. The last may be the smaller one.
    """
    text = text.strip()
    first, dots, rest = text.partition("..")
    if not dots or number(first[:LONGEST]) is None:
        return None
    last, _, steps = rest.partition("/")
    ends = [end for end in map(number, (first, last)) if end is not None and math.isfinite(end)]
    wanted = number(steps)
    count = wanted if isinstance(wanted, int) and 2 <= wanted <= LONGEST_RANGE else 0
    whole = all(isinstance(end, int) for end in ends)
    logarithmic = not whole and "e" in (first + last).casefold()
    wrong = None
    if len(ends) < 2 or len(text) > LONGEST:
        wrong = "a range needs a number at both ends"
    elif not count:
        wrong = f"a range needs a count, from 2 to {LONGEST_RANGE:,}"
    elif ends[0] == ends[1]:
        wrong = "the ends of a range must differ"
    elif logarithmic and min(ends) <= 0:
        wrong = "with an exponent a range has equal ratios, and its ends must be above 0"
    if wrong is not None:
        raise UserError(
            f"found {text[:LONGEST]!r}; {wrong}; allowed: first..last/count, such as 0..1/5 (equal steps) "
            "or 1e-5..1e-2/4 (an exponent: equal ratios)"
        )
    # Decimal, so that the values are those that a person would write: 0.3 and 1e-4, not 0.30000000000000004.
    with decimal.localcontext(prec=50):
        low, high = (
            Decimal(end if isinstance(end, int) else word) for end, word in zip(ends, (first, last), strict=True)
        )
        if logarithmic:
            return [float(low * (high / low) ** (Decimal(i) / (count - 1))) for i in range(count)]
        values = [low + (high - low) * i / (count - 1) for i in range(count)]
        whole = whole and (high - low) % (count - 1) == 0
        return [int(value) if whole else float(value) for value in values]


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


def apply(data: dict[str, Any], key: Key, value: Any, where: str = "command line") -> None:
    """Set `value` at `key` in place, making the mappings on the way; `where` it is written, for errors."""
    node: Any = data
    for depth, part in enumerate(key, 1):
        path = dotted(key[:depth])
        if isinstance(node, list):
            if not isinstance(part, int) or part >= len(node):
                raise UserError(f"{where}: {path}: the list has {len(node)} entries, 0 to {len(node) - 1}")
        elif isinstance(node, dict):
            part = str(part)
        else:
            raise UserError(f"{where}: {path}: {path.rpartition('.')[0]} is a single value without keys")
        if depth == len(key):
            node[part] = value
            return
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = node[part]
