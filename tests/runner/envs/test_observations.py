"""Observations of any structure become flat rows."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector.utils import batch_space, iterate

from runner.envs.observations import flatten_batch, flatten_observations, flatten_some
from runner.envs.spaces import layout

IMAGE = Box(0, 255, (2, 3, 1), np.uint8)
SPACES: dict[str, gymnasium.Space[Any]] = {
    "Box": Box(-1, 1, (2, 2), np.float64),
    "number": Box(-1, 1, ()),
    "image": IMAGE,
    "Discrete": Discrete(4, start=-1),
    "MultiDiscrete": MultiDiscrete([3, 2]),
    "MultiBinary": MultiBinary([2, 2]),
    "Tuple": Tuple((Discrete(3), Box(-9, 9, (2,)))),
    "even Tuple": Tuple((Box(-9, 9, (2,)), Box(-9, 9, (2,)))),
    "Dict": Dict(b=Box(-1, 1, (2,)), a=Discrete(3)),
    "Dict of Tuple": Dict(b=Tuple((Box(-1, 1, (2,)), MultiBinary(2))), a=MultiDiscrete([2, 2])),
    "Tuple of Dict": Tuple((Dict(z=Discrete(2), y=Box(-1, 1, (3,))), Box(-1, 1, ()))),
    "deep": Dict(c=Dict(e=Dict(f=Tuple((Discrete(2), Tuple((Discrete(3),))))), d=IMAGE)),
}


def one_by_one(space: gymnasium.Space[Any], batch: Any, count: int) -> np.ndarray:
    """Each observation flattened alone."""
    rows = np.empty((count, layout(space).stop), layout(space).dtype)
    for row, observation in zip(rows, iterate(batch_space(space, count), batch), strict=True):
        flatten_observations(layout(space), observation, row[None])
    return rows


def tensors(batch: Any) -> Any:
    """The same in torch."""
    if isinstance(batch, dict):
        return {key: tensors(part) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(map(tensors, batch))
    tensor = torch.tensor(batch)
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("name", SPACES)
def test_a_batch_is_its_observations_one_by_one(name: str) -> None:
    space = SPACES[name]
    for count in (1, 2, 3):  # as many as some of the Tuples have parts, among others
        batch = batch_space(space, count).sample()
        expected = one_by_one(space, batch, count)
        for given in (batch, tensors(batch), expected, expected.tolist() if not layout(space).children else expected):
            found = flatten_batch(space, layout(space), given)
            assert found.dtype == layout(space).dtype
            np.testing.assert_array_equal(found, expected)


PAIR = SPACES["Dict of Tuple"]
TUPLE = Tuple((Discrete(3), Box(-9, 9, (2,)), Box(-9, 9, (1,))))


@pytest.mark.parametrize(
    ("space", "observations", "message"),
    [
        (Box(-1, 1, (3,)), np.zeros(3), r"they: found shape \[3\] \(one observation without the axis N\); allowed: \["),
        (Box(-1, 1, (2, 2)), np.zeros((2, 2)), r"they: found shape \[2, 2\] \(one observation without the axis N\)"),
        (Box(-1, 1, (2, 3)), np.zeros((4, 3, 2)), r"they: found shape \[4, 3, 2\]; allowed: \[N, 2, 3\]"),
        (Discrete(3), 1, r"they: found shape \[\] \(one observation without the axis N\); allowed: \[N\]"),
        (Discrete(3), np.array(["a"]), r"they: found type <U1; allowed: numbers \[N\]"),
        (Box(-1, 1, (2,)), [[1.0, None]], "they: found type object; allowed: numbers"),
        (Box(-1, 1, (1,)), [[1j]], "they: found type complex128; allowed: numbers"),
        (IMAGE, np.full((1, 2, 3, 1), 0.5), "they: found numbers of type float64; allowed: uint8, 0 to 255"),
        (IMAGE, np.full((1, 2, 3, 1), -1), "they: found numbers of type int64; allowed: uint8, 0 to 255"),
        (PAIR, {"a": np.zeros((2, 2))}, "they: found no 'b'; allowed: a mapping of a, b"),
        (PAIR, (np.zeros((2, 2)),), "they: found tuple; allowed: a mapping of a, b"),
        (PAIR, {"a": np.zeros((2, 2)), "b": np.zeros((2, 4))}, r"\['b'\]: found ndarray; allowed: 2 parts"),
        (
            PAIR,
            {"a": np.zeros((2, 2)), "b": (np.zeros((2, 2)), np.zeros((3, 2)))},
            r"different numbers of rows: .*\"\['b'\]\['1'\]\": 3",
        ),
        (TUPLE, (np.zeros(2), np.zeros((2, 2))), "they: found 2 tuple; allowed: 3 parts"),
        (TUPLE, (1, np.zeros(2), np.zeros(1)), r"\['0'\]: found shape \[\] \(one observation without the axis N\)"),
        (TUPLE, np.zeros((2, 5)), r"they: found shape \[2, 5\]; allowed: \[N, 4\]"),
        (Box(-1, 1, (2,)), [[0, 0], [0, np.nan]], "they: found nan in row 1; allowed: finite numbers in float32"),
        (Box(-1, 1, (2,)), [[-np.inf, 0]], "they: found -inf in row 0; allowed: finite"),
        (Box(-1, 1, (2,), np.float64), [[0, 1e39]], r"they: found 1e\+39 in row 0; allowed: finite numbers in float32"),
        (PAIR, {"a": np.zeros((1, 2)), "b": ([[0, 0]], [[np.nan, 0]])}, r"\['b'\]\['1'\]: found nan in row 0"),
    ],
)
def test_what_is_no_batch_of_the_space_is_named(space: gymnasium.Space[Any], observations: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flatten_batch(space, layout(space), observations)


def objects(observations: Any, count: int, only: set[int]) -> np.ndarray:
    """As gymnasium's vector environments gather them in an info."""
    array = np.full(count, None, object)
    for index, observation in enumerate(observations):
        if index in only:
            array[index] = observation
    return array


def gathered(batch: Any, count: int) -> Any:
    """As `_add_info` of gymnasium gathers Dicts under other names than `final_obs`: with masks, Tuples as objects."""
    if isinstance(batch, dict):
        whole = {key: gathered(part, count) for key, part in batch.items()}
        return whole | {f"_{key}": np.ones(count, bool) for key in batch}
    return objects(zip(*batch, strict=True), count, set(range(count))) if isinstance(batch, tuple) else batch


@pytest.mark.parametrize("name", SPACES)
def test_some_observations_are_found_in_every_form_of_an_info(name: str) -> None:
    space, count, which = SPACES[name], 3, np.array([0, 2])
    batch = batch_space(space, count).sample()
    expected = one_by_one(space, batch, count)[which]
    each = list(iterate(batch_space(space, count), batch))
    some = objects(each, count, {0, 2})
    nested = gathered(batch, count) if name in ("Dict", "Dict of Tuple") else batch
    for given in (batch, tensors(batch), objects(each, count, {0, 1, 2}), some, list(some), nested):
        found = np.zeros_like(expected)
        flatten_some(layout(space), given, which, found)
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="there is none of environment 1"):
        flatten_some(layout(space), some, np.array([0, 1]), np.zeros_like(expected))
