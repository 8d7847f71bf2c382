"""Spaces: what is flattened how, and which policy may act where."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from runner.config.models import PolicyModel
from runner.envs.observations import flatten_observations
from runner.envs.spaces import ActionSpace, Layout, layout
from runner.errors import UserError
from runner.networks.policies import Distribution, remark

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


REFUSED = [
    Dict(a=Discrete(2)), Tuple([Discrete(2), Box(-1, 1, (2,))]), Text(5),
    Box(0, 10**6, (2,), np.int32), Box(-(2**63), 2**63 - 1, (1,), np.int64), Box(0, 2**64 - 1, (), np.uint64),
    Discrete(3, start=2**31 - 2), Discrete(3, start=-(2**40)), Box(2**40, 2**40 + 1, (2,), np.int64),
    Box(-1, 1, (0,)), Box(-1, 1, (0,), np.int8), Box(-1, 1, (2, 0)), MultiDiscrete([]),
]  # fmt: skip


@pytest.mark.parametrize("space", REFUSED)
def test_action_spaces_that_no_policy_speaks_are_refused(space: gymnasium.Space[Any]) -> None:
    with pytest.raises(UserError) as caught:
        ActionSpace.of(space)
    allowed = "allowed: Discrete, MultiDiscrete, MultiBinary, and Box of real numbers or of whole numbers"
    assert f"{space} is not supported; {allowed}" in str(caught.value)


@pytest.mark.parametrize(
    "space",
    [
        MultiDiscrete([2, 5], start=[0, -1]),
        MultiDiscrete([[2, 5]], start=[[0, -1]]),
        Box(np.array([0, -1]), np.array([1, 3]), (2,), np.int32),
    ],
)
def test_several_discrete_actions_are_checked_each_within_its_own_range(space: gymnasium.Space[Any]) -> None:
    actions = ActionSpace.of(space)
    assert (actions.sizes, actions.units, actions.low.tolist()) == ((2, 5), 7, [0, -1])
    assert actions.policies == ("MultiCategoricalMixin",) and not actions.bounded
    fine = actions.checked(np.array([[1, 3], [0, -1]]), 2)
    assert fine.dtype == space.dtype and fine.shape == (2, *space.shape)
    assert all(space.contains(row) for row in fine)
    for row, wrong, allowed in (([2, 0], 2, "0 to 1"), ([0, 4], 4, "-1 to 3"), ([-1, 0], -1, "0 to 1")):
        with pytest.raises(UserError, match=rf"^action {wrong} of environment 1 is out of range; allowed: {allowed}$"):
            actions.checked(np.array([[1, 3], row]), 2)


CART, ARM = ActionSpace.of(Discrete(3)), ActionSpace.of(Box(-2, 2, (2,), np.float64))
FREE = ActionSpace.of(Box(-np.inf, np.inf, (2,)))
PAIR = ActionSpace.of(MultiDiscrete([2, 3]))
ODD = ActionSpace.of(Box(np.float64(2.2e-308), np.float64(1.7e308), (2,), np.float64))


def distribution(space: ActionSpace, policy: str, **options: Any) -> Distribution:
    return Distribution.of(PolicyModel.model_validate({"class": policy, **options}), space, Layout.vector(2))


CLIP: dict[str, Any] = {"clip_actions": True}


@pytest.mark.parametrize(
    ("space", "policy", "options", "message"),
    [
        (CART, "GaussianMixin", {}, "GaussianMixin cannot act in an action space Discrete(3); allowed here: Cat"),
        (CART, "MultiCategoricalMixin", {}, "space Discrete(3); allowed here: CategoricalMixin"),
        (PAIR, "CategoricalMixin", {}, "space MultiDiscrete([2 3]); allowed here: MultiCategoricalMixin"),
        (ARM, "CategoricalMixin", {}, "cannot act in an action space Box of 2 numbers; allowed here: GaussianMixin"),
        (FREE, "GaussianMixin", CLIP, "models.policy.clip_actions: True, but the action space has no finite bounds"),
        (ODD, "GaussianMixin", CLIP, "models.policy.clip_actions: True, but the action space has no finite bounds"),
        (FREE, "GaussianMixin", {"clip_mean_actions": True}, "models.policy.clip_mean_actions: True, but the action"),
        (ARM, "GaussianMixin", {"initial_log_std": [0.0] * 3}, "initial_log_std: 3 numbers for 2 action dimensions"),
        (ARM, "GaussianMixin", {"action_mask": True}, "action_mask: True, but actions are real numbers"),
        (
            CART,
            "CategoricalMixin",
            {"action_mask": True},
            "action_mask: True, but the environment's observation has",
        ),
    ],
)
def test_policies_that_cannot_act_here_are_refused(
    space: ActionSpace, policy: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        distribution(space, policy, **options)
    assert message in str(caught.value)


def test_policies_that_fit_pass() -> None:
    assert distribution(CART, "CategoricalMixin", clip_actions=True).sizes == (3,)
    assert distribution(PAIR, "MultiCategoricalMixin").sizes == (2, 3)
    assert distribution(ARM, "GaussianMixin", clip_actions=True).low == (-2, -2)
    assert distribution(ARM, "MultivariateGaussianMixin", reduction="mean").reduction == "sum"
    assert distribution(FREE, "GaussianMixin").low == ()
    assert (CART.bounded, ARM.bounded, FREE.bounded, ODD.bounded) == (False, True, False, False)


def test_a_mask_that_fits_no_action_is_said_to_mask_nothing() -> None:
    policy = PolicyModel.model_validate({"class": "CategoricalMixin"})
    fits, other = (layout(Dict(observation=Box(-1, 1, (2,)), action_mask=MultiBinary(n))) for n in (3, 4))
    said = "models.policy.action_mask: the environment's mask of shape (4,) fits neither each action nor their "
    assert remark(policy, CART, fits) is None
    assert remark(policy, CART, other) == f"{said}combinations (Discrete(3)); it is an observation, and masks nothing"
    assert remark(PolicyModel.model_validate({"action_mask": False}), CART, other) is None


def test_a_policy_of_skrl_1x_clips_to_the_bounds_that_there_are_and_the_rest_is_said() -> None:
    half = ActionSpace.of(Box(np.array([-1, -np.inf], np.float32), np.array([np.inf, 1], np.float32)))
    policy = PolicyModel.model_validate({"class": "GaussianMixin", "clip_actions": "bounded"})
    said = [remark(policy, space, Layout.vector(2)) for space in (ARM, CART, FREE, half)]
    nothing = "models.policy.clip_actions: the action space has no finite bounds; nothing is clipped, as in skrl 1.x"
    assert said == [None, None, nothing, None]
    assert distribution(FREE, "GaussianMixin", clip_actions="bounded").low == ()
    always = PolicyModel.model_validate({"clip_actions": True})
    assert policy.clips and remark(always, FREE, Layout.vector(2)) is None
    import jax.numpy
    import torch

    from runner.jax.rollout import env_actions as jax_env_actions
    from runner.torch.rollout import env_actions

    far = torch.tensor([[[5.0, 5.0], [-5.0, -5.0]]])
    law = distribution(half, "GaussianMixin", clip_actions="bounded")
    for taken in (
        env_actions(law, half, policy.clips)(far),
        jax_env_actions(law, half, policy.clips)(jax.numpy.asarray(far)),
    ):
        np.testing.assert_array_equal(taken, [[5, 1], [-1, -5]])


def test_a_discrete_space_that_does_not_start_at_zero_is_checked_from_its_start() -> None:
    space = ActionSpace.of(Discrete(3, start=-1))
    assert space.checked([-1, 0, 1], 3).tolist() == [-1, 0, 1]
    for action in (-2, 2):
        with pytest.raises(UserError, match=rf"action {action} of environment 1 is out of range; allowed: -1 to 1"):
            space.checked([0, action, 0], 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bounds_are_never_beyond_those_of_the_space(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    low = np.concatenate([-rng.uniform(0, 1, 50), [-1, -np.inf, 0, 0.1, 1e-4]]).astype(dtype)
    high = np.concatenate([rng.uniform(0.2, 1, 50), [1, 0.3, np.inf, 1 / 3, 2e-4]]).astype(dtype)
    space = ActionSpace.of(Box(low, high, dtype=dtype))
    for edge, given in ((space.low, low), (space.high, high)):
        assert edge.dtype == np.float32
        np.testing.assert_allclose(edge, given, rtol=2e-7, atol=0)
        taken = space.checked(np.where(np.isfinite(edge), edge, 0.25)[None], 1)
        assert taken.dtype == dtype and np.all(taken >= low) and np.all(taken <= high)
        if dtype is not np.float64:
            np.testing.assert_array_equal(edge, given)


def test_some_bounds_mean_that_there_is_none() -> None:
    for dtype in (np.float32, np.float64):
        limits = np.finfo(dtype)  # C++'s numeric_limits<T>::min() is not the lowest number
        odd = ActionSpace.of(Box(limits.tiny, limits.max, (2,), dtype))
        assert not odd.bounded and odd.low.tolist() == [-np.inf] * 2 and odd.high.tolist() == [np.inf] * 2
    half = ActionSpace.of(Box(np.array([0, -np.inf]), np.array([np.inf, 1]), dtype=np.float64))
    assert half.bounded and distribution(half, "GaussianMixin", clip_actions=True).low == (0, -np.inf)
    assert not distribution(half, "GaussianMixin").enclosed and distribution(ARM, "GaussianMixin").enclosed
    assert ActionSpace.of(Box(np.float32([-1, 5, -9]), np.float32([1, 6, -8]))).rest.tolist() == [0, 5, -8]


def test_actions_reach_the_environment_in_its_own_type() -> None:
    assert CART.checked(np.array([0, 1], np.uint8), 2).dtype == np.int64
    assert ARM.checked(np.zeros((2, 2), np.float32), 2).dtype == np.float64
