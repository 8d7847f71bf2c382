"""Numbers as people write them in YAML."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_WHOLE = re.compile(r"^\s*[-+]?\d+(_\d+)*\s*$")
_NUMBER = re.compile(r"^\s*[-+]?(\d+(_\d+)*(\.(\d+(_\d+)*)?)?|\.\d+(_\d+)*)([eE][-+]?\d+)?\s*$")
"""No text can be read in two ways, so that a long one that is no number is refused at once."""
LONGEST_WHOLE = 100


def _number(value: Any) -> Any:
    """Numbers that YAML 1.1 reads as text ('3e-4', '1e6') become the numbers they look like."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    if isinstance(value, str) and _NUMBER.match(value):
        value = float(value)
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= LONGEST_WHOLE and _WHOLE.match(value):
        return int(value)  # a float would round what has more than 15 digits
    value = _number(value)
    if isinstance(value, float) and value.is_integer() and math.isfinite(value):
        return int(value)
    return value


Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Int = Annotated[int, BeforeValidator(_integer)]
