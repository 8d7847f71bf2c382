"""Spaces: what is flattened how, and which policy may act where."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from runner.errors import UserError
from runner.spaces import ActionSpace, flatten_observations, layout

NESTED = Dict(
    {
        "z": Box(-1, 1, (2,), np.float64),
        "a": Dict({"y": Discrete(5), "x": Box(0, 255, (2, 2), np.uint8)}),
        "m": MultiBinary(3),
    }
)


def test_nested_dicts_are_flattened_in_sorted_order_at_every_depth() -> None:
    assert layout(NESTED).stop == 4 + 1 + 3 + 2
    batch = {
        "z": np.array([[8.5, 9.5], [-8.5, -9.5]]),
        "a": {"x": np.arange(8, dtype=np.uint8).reshape(2, 2, 2), "y": np.array([3, 4])},
        "m": np.array([[1, 0, 1], [0, 1, 0]], np.int8),
    }
    out = np.empty((2, 10), np.float32)
    flatten_observations(layout(NESTED), batch, out)
    expected = [[0, 1, 2, 3, 3, 1, 0, 1, 8.5, 9.5], [4, 5, 6, 7, 4, 0, 1, 0, -8.5, -9.5]]
    np.testing.assert_array_equal(out, np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("space", "width"),
    [
        (Box(-1, 1, ()), 1), (Box(-1, 1, (3, 2)), 6), (Discrete(7), 1), (Box(0, 255, (36, 36, 3), np.uint8), 3888),
        (MultiDiscrete([2, 3]), 2), (Tuple([Discrete(2), Box(-1, 1, (3,))]), 4), (MultiBinary((2, 2)), 4),
    ],
)  # fmt: skip
def test_width_of_an_observation(space: gymnasium.Space[Any], width: int) -> None:
    assert layout(space).stop == width


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Text(5), "observation space: Text is not supported; allowed: Box, Discrete, MultiDiscrete of one axis, "),
        (Dict({"a": Tuple([Text(5)])}), "observation space['a']['0']: Text is not supported"),
        (MultiDiscrete([[2, 3]]), "observation space: MultiDiscrete is not supported; allowed: Box, Discrete, Mult"),
    ],
)
def test_observations_that_have_no_flat_form_are_refused(space: gymnasium.Space[Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        layout(space)
    assert message in str(caught.value)


def test_a_tuple_is_flattened_in_order_and_bytes_stay_bytes() -> None:
    pair = Tuple([Box(0, 255, (2, 2, 1), np.uint8), Box(0, 255, (2,), np.uint8)])
    out = np.empty((1, 6), layout(pair).dtype)
    flatten_observations(layout(pair), (np.array([[[[1], [2]], [[3], [4]]]]), np.array([[5, 6]])), out)
    assert out.dtype == np.uint8 and out.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert layout(NESTED).dtype == np.float32


@pytest.mark.parametrize("space", [MultiDiscrete([2, 3]), MultiBinary(3), Box(0, 5, (2,), np.int32)])
def test_action_spaces_that_no_policy_speaks_are_refused(space: gymnasium.Space[Any]) -> None:
    with pytest.raises(UserError, match="is not supported yet; allowed: Discrete and Box of real numbers"):
        ActionSpace.of(space)


CART, ARM = ActionSpace.of(Discrete(3)), ActionSpace.of(Box(-2, 2, (2,), np.float64))
FREE = ActionSpace.of(Box(-np.inf, np.inf, (2,)))
ODD = ActionSpace.of(Box(np.float64(2.2e-308), np.float64(1.7e308), (2,), np.float64))


@pytest.mark.parametrize(
    ("space", "policy", "clip", "message"),
    [
        (CART, "GaussianMixin", False, "GaussianMixin cannot act in an action space Discrete(3); allowed here: Cat"),
        (ARM, "CategoricalMixin", False, "cannot act in an action space Box of 2 numbers; allowed here: GaussianMixin"),
        (FREE, "GaussianMixin", True, "models.policy.clip_actions: True, but the action space has no finite bounds"),
        (ODD, "GaussianMixin", True, "models.policy.clip_actions: True, but the action space has no finite bounds"),
    ],
)
def test_policies_that_cannot_act_here_are_refused(space: ActionSpace, policy: str, clip: bool, message: str) -> None:
    with pytest.raises(UserError) as caught:
        space.check_policy(policy, clip)
    assert message in str(caught.value)


def test_policies_that_fit_pass() -> None:
    CART.check_policy("CategoricalMixin", True)
    ARM.check_policy("GaussianMixin", True)
    FREE.check_policy("GaussianMixin", False)
    assert (CART.bounded, ARM.bounded, FREE.bounded, ODD.bounded) == (False, True, False, False)


def test_a_discrete_space_that_does_not_start_at_zero_is_checked_from_its_start() -> None:
    space = ActionSpace.of(Discrete(3, start=-1))
    assert space.checked([-1, 0, 1], 3).tolist() == [-1, 0, 1]
    for action in (-2, 2):
        with pytest.raises(UserError, match=rf"action {action} is out of range; allowed: -1 to 1"):
            space.checked([0, action, 0], 3)


def test_actions_reach_the_environment_in_its_own_type() -> None:
    assert CART.checked(np.array([0, 1], np.uint8), 2).dtype == np.int64
    assert ARM.checked(np.zeros((2, 2), np.float32), 2).dtype == np.float64
