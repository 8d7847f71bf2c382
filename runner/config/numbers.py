"""Numbers as people write them: those of YAML 1.2's core schema, with `_` between digits as in skrl's files.

So `010` is ten, `0o10` eight and `0x1F` thirty-one; `1:40` and `0b11` are text. Files, `--set`, ranges and texts in a
configuration from Python are all read by `number`.
"""

from __future__ import annotations

import math
import re
from operator import index
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from runner.errors import UserError, shown

_DIGITS = r"[0-9]+(?:_[0-9]+)*"
WHOLE = re.compile(rf"(?:[-+]?{_DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+)$")
REAL = re.compile(
    rf"(?:[-+]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
"""No text can be read in two ways, so that a long one that is no number is refused at once."""
FIRST = "-+.0123456789"
"""Characters that numbers begin with."""
LONGEST = 100
"""Characters of a number at most."""


def number(text: str) -> int | float | None:
    """The number that a text is; None for other text, and for what is longer than `LONGEST`."""
    if len(text) > LONGEST:
        return None
    if WHOLE.match(text):
        # Python's own base 0 refuses leading zeros.
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(re.sub(r"\.(?=[infaINFA])", "", text)) if REAL.match(text) else None


def _number(value: Any) -> Any:
    """Texts become the numbers that they look like: YAML 1.1 reads '3e-4' and '1e6' as text."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    if isinstance(value, str):
        found = number(value.strip())
        return value if found is None else found
    return value


def _integer(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, float) and value.is_integer() and math.isfinite(value):
        return int(value)
    return value


def as_whole(value: Any) -> int | None:
    """The whole number that a value of a file is: 64, 1e2 and '64' are; None where it is none."""
    found = None if isinstance(value, bool) else _integer(value)
    return found if isinstance(found, int) else None


Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Int = Annotated[int, BeforeValidator(_integer)]


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number that a Python program gave, of any library; a `UserError` where it is none, or less."""
    try:
        found = None if isinstance(value, bool) else index(value)
    except TypeError:
        found = None
    if found is None or found < least:
        raise UserError(f"{name}: found {shown(value, 60)}; allowed: a whole number of {least} or more")
    return found
