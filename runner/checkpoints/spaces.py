"""gymnasium spaces as plain data, for the header of a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple


def to_data(space: Space[Any]) -> dict[str, Any]:
    """A space as data, of which `from_data` makes it again; bounds that are all the same are one number."""
    if isinstance(space, Dict):
        return {"Dict": [[name, to_data(part)] for name, part in space.items()]}
    if isinstance(space, Tuple):
        return {"Tuple": [to_data(part) for part in space]}
    if isinstance(space, Discrete):
        return {"Discrete": [int(space.n), int(space.start)]}
    if isinstance(space, MultiDiscrete):
        return {"MultiDiscrete": [space.nvec.tolist(), space.start.tolist(), str(space.dtype)]}
    if isinstance(space, MultiBinary):
        return {"MultiBinary": int(space.n) if isinstance(space.n, int | np.integer) else list(space.shape)}
    assert isinstance(space, Box)
    return {"Box": [_bounds(space.low), _bounds(space.high), list(space.shape), str(space.dtype)]}


def _bounds(numbers: np.ndarray) -> Any:
    same = numbers.size and (numbers == numbers.flat[0]).all()
    return numbers.flat[0].item() if same else numbers.ravel().tolist()


def from_data(data: dict[str, Any]) -> Space[Any]:
    """The space of what `to_data` gives.

    Raises:
        ValueError: it is something else.
    """
    ((kind, what),) = data.items()
    if kind == "Dict":
        return Dict({name: from_data(part) for name, part in what})
    if kind == "Tuple":
        return Tuple([from_data(part) for part in what])
    if kind == "Discrete":
        return Discrete(what[0], start=what[1])
    if kind == "MultiDiscrete":
        return MultiDiscrete(np.array(what[0]), np.dtype(what[2]).type, start=np.array(what[1]))
    if kind == "MultiBinary":
        return MultiBinary(what)
    if kind == "Box":
        shape, dtype = tuple(what[2]), np.dtype(what[3])
        low, high = (np.broadcast_to(np.array(x, dtype).reshape(shape if np.ndim(x) else ()), shape) for x in what[:2])
        return Box(low, high, shape, dtype.type)
    raise ValueError(f"unknown kind of space {kind!r}")
