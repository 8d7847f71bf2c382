"""The way in which a value is not what its space says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from runner.envs.observations import as_array


def misfit(space: gymnasium.Space[Any], value: Any, where: str = "") -> str:
    """The fault of a value, in a few words; empty where there is none."""
    if isinstance(space, Dict):
        if not isinstance(value, Mapping):
            return f"{where}is {type(value).__name__}, not a dict"
        missing, more = space.spaces.keys() - value.keys(), value.keys() - space.spaces.keys()
        if missing or more:
            lacks, has = (", ".join(map(repr, sorted(keys, key=str))) for keys in (missing, more))
            return f"{where}lacks {lacks}" if missing else f"{where}has {has} beside what its space says"
        parts = [(f"[{key!r}] ", part, value[key]) for key, part in space.spaces.items()]
        return next(filter(None, (misfit(part, one, where + key) for key, part, one in parts)), "")
    if isinstance(space, Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            return f"{where}is no tuple of {len(space.spaces)}"
        both = enumerate(zip(space.spaces, value, strict=True))
        return next(filter(None, (misfit(part, one, f"{where}[{place}] ") for place, (part, one) in both)), "")
    return _of_numbers(space, value, where)


def _of_numbers(space: gymnasium.Space[Any], value: Any, where: str) -> str:
    try:
        array = as_array(value)
    except ValueError as error:  # of parts that differ in shape
        return f"{where}is not one array: {error}"
    if array.dtype.kind not in "biuf":
        return f"{where}is of type {array.dtype}, not of numbers"
    if array.shape != (space.shape or ()):
        return f"{where}has shape {array.shape}, its space {space.shape}"
    if isinstance(space, Box):
        low, high = space.low, space.high
    elif isinstance(space, Discrete | MultiDiscrete):
        low = np.asarray(space.start)
        high = low + (space.n if isinstance(space, Discrete) else space.nvec) - 1
    elif isinstance(space, MultiBinary):
        low, high = np.zeros(space.shape), np.ones(space.shape)
    else:
        return ""
    outside = np.argwhere((array < low) | (array > high))
    if len(outside):
        place = tuple(outside[0])
        number = f"number {', '.join(map(str, place))} " if place else ""
        return f"{where}{number}is {array[place]}, its space says {low[place]} to {high[place]}"
    if not np.can_cast(array.dtype, space.dtype or array.dtype, "same_kind"):
        return f"{where}is of type {array.dtype}, its space of {space.dtype}"
    return ""
