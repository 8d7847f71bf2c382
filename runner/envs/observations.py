"""Observations of any structure and array library → flat rows `[N, O]`, as `runner.envs.spaces` lays them out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple

from runner.envs.spaces import Layout, named_parts


def child(observations: Any, key: str) -> Any:
    """The part of a Dict or Tuple observation, batched or not."""
    return observations[key] if isinstance(observations, Mapping) else observations[int(key)]


def as_array(values: Any) -> np.ndarray:
    """Numbers of any array library as numpy's; tensors of torch may require gradients and be on a GPU."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def flatten_observations(parts: Layout, observations: Any, out: np.ndarray) -> None:
    """Write a batch of observations, structured as the space of `parts`, into `out` `[N, O]`.

    One observation without a batch axis fits an `out` of one row.

    Raises:
        ValueError: an array of another shape, or numbers that its type does not hold, naming the part.
    """
    if not parts.children:
        array = _rows(parts, as_array(observations), len(out))
        if out.dtype == np.uint8 and array.dtype != np.uint8 and not np.array_equal(array.astype(np.uint8), array):
            raise ValueError(f"found numbers of type {array.dtype} that uint8 does not hold; allowed: 0 to 255")
        out[:, parts.start : parts.stop] = array
        return
    for key, part in parts.children:
        try:
            flatten_observations(part, child(observations, key), out)
        except ValueError as error:
            raise ValueError(f"[{key!r}]: {error}") from None


def _rows(parts: Layout, array: np.ndarray, rows: int) -> np.ndarray:
    """An array of one part as `[N, columns]`."""
    check_shape(parts, array.shape, rows)
    return array.reshape(rows, parts.stop - parts.start)


def check_shape(parts: Layout, shape: tuple[int, ...], rows: int) -> None:
    """Refuse the shape of an array of one part; it may be flat, and lack an axis of length 1.

    Raises:
        ValueError: naming the shape and what is allowed.
    """
    if shape == (rows, *parts.shape):
        return
    width = parts.stop - parts.start
    shapes = [(rows, width), *([(rows,)] if width == 1 else [])]
    if rows == 1:
        shapes += [parts.shape, (width,), *([()] if width == 1 else [])]
    if shape not in shapes:
        one = parts.shape if rows == 1 else (rows, *parts.shape)
        raise ValueError(f"found shape {list(shape)}; allowed: {list(one)}")


def flatten_some(parts: Layout, observations: Any, indices: np.ndarray, out: np.ndarray) -> None:
    """Write the observations of some environments into `out` `[K, O]`.

    Args:
        parts: of the space.
        observations: of all environments. At any depth they are either one object per environment, in a list or an
            array of objects, where those that are not asked for may be None; or a batch.
        indices: which environments, `[K]`.
        out: their rows.

    Raises:
        ValueError: an environment that is asked for has none.
    """
    if isinstance(observations, list) or (isinstance(observations, np.ndarray) and observations.dtype.hasobject):
        for row, index in enumerate(indices):
            if observations[index] is None:
                raise ValueError(f"there is none of environment {index}")
            flatten_observations(parts, observations[index], out[row : row + 1])
    elif parts.children:
        for key, part in parts.children:
            flatten_some(part, child(observations, key), indices, out)
    else:
        out[:, parts.start : parts.stop] = _rows(parts, as_array(observations)[indices], len(out))


def flatten_batch(space: gymnasium.Space[Any], parts: Layout, observations: Any, name: str = "") -> np.ndarray:
    """A batch of any number of observations → `[N, O]`.

    Args:
        space: of one observation.
        parts: its layout.
        observations: structured as the space, or flat rows already; of any array library.
        name: of whose they are, for messages.

    Raises:
        ValueError: they are something else, or not finite, naming the part that is.
    """
    if parts.children and not isinstance(observations, Mapping | tuple | list):
        space, parts = Box(-np.inf, np.inf, (parts.stop,)), Layout(0, parts.stop, (parts.stop,), byte=parts.byte)
    leaves = list(_leaves(space, parts, observations, name))
    counts = {where: len(columns) for where, _, columns in leaves}
    if len(set(counts.values())) > 1:
        raise ValueError(f"its parts have different numbers of rows: {counts}")
    out = np.empty((len(leaves[0][2]), parts.stop), parts.dtype)
    for where, part, columns in leaves:
        with np.errstate(invalid="ignore", over="ignore"):
            out[:, part.start : part.stop] = columns
        if parts.byte and not np.array_equal(out[:, part.start : part.stop], columns):
            raise ValueError(f"{where or 'they'}: found numbers of type {columns.dtype}; allowed: uint8, 0 to 255")
        if not (finite := np.isfinite(out[:, part.start : part.stop])).all():
            row, column = np.argwhere(~finite)[0]
            raise ValueError(
                f"{where or 'they'}: found {columns[row, column]} in row {row}; allowed: finite numbers in float32"
            )
    return out


def _leaves(
    space: gymnasium.Space[Any], parts: Layout, observations: Any, where: str
) -> Iterator[tuple[str, Layout, np.ndarray]]:
    """(name, layout, columns `[N, …]`) of every array in a batch of observations."""
    if isinstance(space, Dict | Tuple):
        keys = [key for key, _ in parts.children]
        if isinstance(space, Dict):
            if not isinstance(observations, Mapping) or (missing := set(keys) - set(observations)):
                found = f"no {min(missing)!r}" if isinstance(observations, Mapping) else type(observations).__name__
                raise ValueError(f"{where or 'they'}: found {found}; allowed: a mapping of {', '.join(keys)}")
        elif not isinstance(observations, tuple | list) or len(observations) != len(keys):
            found = f"{len(observations)} " if isinstance(observations, tuple | list) else ""
            raise ValueError(
                f"{where or 'they'}: found {found}{type(observations).__name__}; allowed: {len(keys)} parts"
            )
        named = dict(named_parts(space))
        for key, part in parts.children:
            yield from _leaves(named[key], part, child(observations, key), f"{where}[{key!r}]")
        return
    array, width = as_array(observations), parts.stop - parts.start
    shapes = {space.shape, (width,)} | ({()} if width == 1 else set())
    allowed = f"[{', '.join(map(str, ('N', *(space.shape or ()))))}]"
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where or 'they'}: found type {array.dtype}; allowed: numbers {allowed}")
    if not array.ndim or array.shape[1:] not in shapes:
        one = " (one observation without the axis N)" if array.shape == space.shape else ""
        raise ValueError(f"{where or 'they'}: found shape {list(array.shape)}{one}; allowed: {allowed}")
    yield where, parts, array.reshape(len(array), width)


def tensor_in(observations: Any) -> Any:
    """The first tensor of torch in observations of any structure; None where there is none."""
    if isinstance(observations, Mapping | tuple | list):
        parts = observations.values() if isinstance(observations, Mapping) else observations
        return next((found for part in parts if (found := tensor_in(part)) is not None), None)
    return observations if type(observations).__module__.partition(".")[0] == "torch" else None


def like(tensor: Any, array: np.ndarray) -> Any:
    """The array as a tensor of torch, of its own type, where another tensor is."""
    return sys.modules["torch"].as_tensor(array, device=tensor.device)


def library_of(array: Any) -> Any:
    """The module of functions for arrays like this one, by the names of the array API."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    return sys.modules["torch"] if type(array).__module__.partition(".")[0] == "torch" else np
