"""Environments that are many in one: how they are known, read and told what to do."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode
from gymnasium.vector import VectorEnv as GymnasiumVectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import OrderEnforcing

from runner.envs.gymnasium import GymnasiumVector
from runner.envs.python import Single
from runner.envs.tensors import TensorEnv
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from tests.isaac_lab import INFINITE, DirectRLEnv, LabEnv, ManagerBasedRLEnv
from tests.probe_envs import TwoSteps, make_vector

OBSERVED = Box(**INFINITE, shape=(3,))
STATES = Box(**INFINITE, shape=(5,))


class Bare:
    """The least: no base class, no device, spaces of one; columns everywhere; the library is anyone's."""

    num_envs = 3
    observation_space: Any = Box(-9, 9, (2,))
    action_space: Any = Box(-1, 1, (2,))

    def __init__(self, library: Any) -> None:
        self.library, self.steps = library, 0

    def _seen(self) -> Any:
        return self.library.asarray([[float(self.steps), float(n)] for n in range(3)])

    def reset(self) -> Any:
        self.steps = 0
        return self._seen(), {}

    def step(self, actions: Any) -> Any:
        assert type(actions) is type(self._seen()) and tuple(actions.shape) == (3, *self.action_space.shape)
        self.steps += 1
        ends = self.library.asarray([[False], [self.steps == 2], [False]])
        return self._seen(), self.library.ones((3, 1)), ends, self.library.zeros((3, 1)), {}


@pytest.mark.parametrize("library", [np, jnp, torch])
def test_the_contract_is_what_it_has_in_any_library(library: Any) -> None:
    env = wrap_env(Bare(library))
    assert isinstance(env, TensorEnv) and env.num_envs == 3 and env.resets_at_once and not env.rebuilds
    first, _ = env.seeded([7, 8, 9]).reset()
    assert isinstance(first, np.ndarray) and first.tolist() == [[0, 0], [0, 1], [0, 2]]
    observations, rewards, terminated, truncated, _ = env.step(np.zeros((3, 2)))
    assert [x.dtype.name for x in (observations, rewards, terminated, truncated)] == ["float32"] * 2 + ["bool"] * 2
    assert rewards.tolist() == [1, 1, 1] and not terminated.any()
    *_, terminated, truncated, info = env.step(np.zeros((3, 2)))
    assert terminated.tolist() == [False, True, False] and not truncated.any()
    which, final = info["final_observations"]
    assert which.tolist() == [1] and final.tolist() == [[1, 1]]  # the last one that anybody saw
    with pytest.raises(UserError, match="not finite"):
        env.step(np.full((3, 2), np.nan))


@pytest.mark.parametrize("kind", [ManagerBasedRLEnv, DirectRLEnv, lambda *x: OrderEnforcing(ManagerBasedRLEnv(*x))])
def test_groups_are_observations_and_states(kind: Any) -> None:
    env = wrap_env(kind(OBSERVED, STATES))
    assert isinstance(env, TensorEnv) and env.num_envs == 4 and env.observation_size == 8
    assert env.layout.observed.shape == (3,) and env.layout.states.shape == (5,)
    seen, _ = env.seeded([3, 4, 5, 6]).reset()
    np.testing.assert_array_equal(seen[:, : env.layout.states.stop], seen[:, :5])
    parts = env.layout.observed, env.layout.states
    policy, critic = (seen[:, part.start : part.stop] for part in parts)
    np.testing.assert_array_equal(policy, critic[:, :3])
    np.testing.assert_array_equal(env.seeded([3, 0, 0, 0]).reset()[0], seen)
    alone = wrap_env(kind(OBSERVED))
    assert alone.layout.states is alone.layout.observed and alone.layout.observed.shape == (3,)


def test_what_is_given_is_nobody_elses_memory() -> None:
    inner = DirectRLEnv(OBSERVED)
    env = TensorEnv(inner)
    first = env.reset_arrays()
    before = first.clone()
    actions = torch.ones(4, 2)
    second = env.step_arrays(actions)
    kept = [x.clone() for x in second[:4]]
    env.step_arrays(actions)
    assert torch.equal(first, before) and all(map(torch.equal, second[:4], kept))
    assert torch.equal(actions, torch.ones(4, 2))  # though the environment has written into what it got
    assert not torch.equal(first, second.observations) and second.final is None


def test_other_groups_are_told_to_be_unread_and_a_flat_space_may_have_its_states_beside_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lab = ManagerBasedRLEnv(OBSERVED)
    lab.single_observation_space["teacher"] = OBSERVED
    with caplog.at_level(logging.WARNING):
        assert wrap_env(lab).observation_size == 3
    assert "the groups teacher are not read; policy and critic are" in caplog.text
    flat = ManagerBasedRLEnv(OBSERVED)
    flat.single_observation_space = OBSERVED  # type: ignore[assignment]
    flat._observe = lambda: flat.obs_buf.update(policy=flat.position[:, :3])  # type: ignore[method-assign]
    assert wrap_env(flat).reset()[0].shape == (4, 3)

    class Stated(Bare):
        state_space = Box(-9, 9, (1,))

        def state(self) -> Any:
            return torch.full((3, 1), 7.0)

    env = wrap_env(Stated(torch))
    assert env.layout.states.shape == (1,) and env.reset()[0].tolist() == [[7, 0, 0], [7, 0, 1], [7, 0, 2]]


@pytest.mark.parametrize(
    ("truncated", "terminated", "expected"),
    [
        (None, [True, False, False, False], ([False] * 4, [True, False, False, False])),
        ([False, True, False, False], [True, False, False, False], ([False] * 4, [True, True, False, False])),
        ([True, False, False, False], [True, False, True, False], ([True, False, True, False], [True] + [False] * 3)),
    ],
)
def test_time_outs_are_truncations(truncated: Any, terminated: Any, expected: Any) -> None:
    class Old(ManagerBasedRLEnv):
        def step(self, action: Any) -> Any:
            observations, rewards, *_ = super().step(action)
            extras = {"time_outs": torch.tensor([[1.0], [0.0], [0.0], [0.0]])}
            cut = torch.zeros(4) if truncated is None else torch.tensor(truncated)
            return observations, rewards, torch.tensor(terminated), cut, extras

    env = wrap_env(Old(OBSERVED))
    env.reset()
    found = env.step(np.zeros((4, 2)))[2:4]
    assert tuple(x.tolist() for x in found) == expected


class Known(GymnasiumVectorEnv[Any, Any, Any]):
    """A vector environment on a device (ManiSkill) that knows what episodes ended with."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP}
    num_envs, device = 4, torch.device("cpu")
    single_observation_space, single_action_space = Dict(a=Box(-9, 9, (2,)), b=Discrete(9)), Discrete(3)
    observation_space, action_space = batch_space(single_observation_space, 4), batch_space(single_action_space, 4)

    def _seen(self) -> Any:
        return {"a": self.steps[:, None].double().repeat(1, 2).requires_grad_(), "b": self.steps}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.steps = torch.arange(4)
        return self._seen(), {}

    def step(self, actions: Any) -> Any:
        assert actions.shape == (4,) and actions.dtype == torch.int64
        self.steps = self.steps + 1
        ended, final = self.steps == 5, self._seen()
        self.steps = torch.where(ended, 0, self.steps)
        info = {"final_observation": final} if ended.any() else {}
        return self._seen(), torch.ones(4), torch.zeros(4, dtype=torch.bool), ended, info


def test_final_observations_that_are_known_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    env = wrap_env(Known())
    assert isinstance(env, TensorEnv)
    env.reset()
    with caplog.at_level(logging.WARNING):
        steps = [env.step(np.zeros(4, int)) for _ in range(2)]
    which, final = steps[1][4]["final_observations"]
    assert which.tolist() == [3] and final.tolist() == [[5, 5, 5]] and steps[1][0][3].tolist() == [0, 0, 0]
    assert caplog.text == ""


@pytest.mark.parametrize(("state", "words"), [({}, "no state"), ({"state": np.zeros((3, 1))}, "as state ndarray")])
def test_a_space_of_states_without_a_method_is_refused(state: dict[str, Any], words: str) -> None:
    env = wrap_env(type("Stated", (Bare,), {"state_space": Box(-9, 9, (1,)), **state})(np))
    with pytest.raises(UserError, match=rf"^Stated: has a state_space, and {words}; allowed: a method state\(\) that"):
        env.reset()


@pytest.mark.parametrize("kind", [list, np.asarray])
def test_states_beside_final_observations_are_those_before_the_reset(kind: Any) -> None:
    class Stated(Bare):
        state_space = Box(-9, 9, (1,))

        def state(self) -> Any:
            return np.full((3, 1), 5.0 + self.steps)

        def step(self, actions: Any) -> Any:
            observations, rewards, ends, cut, _ = super().step(actions)
            final = observations.copy()
            if ends.any():
                self.steps = 0
            each = [row if end else None for row, end in zip(final, ends, strict=True)] if kind is list else final
            return self._seen(), rewards, ends, cut, {"final_obs": each} if ends.any() else {}

    env = wrap_env(Stated(np))
    env.reset()
    env.step(np.zeros((3, 2)))
    observations, *_, info = env.step(np.zeros((3, 2)))
    which, final = info["final_observations"]
    assert observations.tolist() == [[5, 0, 0], [5, 0, 1], [5, 0, 2]]
    assert which.tolist() == [1] and final.tolist() == [[6, 2, 1]]


def test_what_resets_in_the_next_step_has_reset_rows() -> None:
    class Late(Bare):
        metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    env = wrap_env(Late(torch))
    assert not env.resets_at_once
    env.reset()
    rewards = [env.step(np.zeros((3, 2)))[1].tolist() for _ in range(3)]
    assert rewards == [[1, 1, 1], [1, 1, 1], [1, 0, 1]]


def test_what_does_not_reset_by_itself_is_refused() -> None:
    kind = type("Never", (Bare,), {"metadata": {"autoreset_mode": AutoresetMode.DISABLED}})
    with pytest.raises(UserError, match=r'^Never: metadata\["autoreset_mode"\] is .*DISABLED.*; allowed: .*SAME_STEP'):
        wrap_env(kind(torch))


@pytest.mark.parametrize("kind", [ManagerBasedRLEnv, DirectRLEnv])
@pytest.mark.parametrize("action", [Discrete(3), MultiDiscrete([3, 2]), Box(-1, 1, (2,), np.float64)])
def test_actions_are_columns(kind: type[LabEnv], action: Any) -> None:
    env = wrap_env(kind(OBSERVED, None, action))
    env.reset()
    env.step(np.zeros((4, *env.actions.shape), env.actions.dtype))


def test_it_is_told_what_does_not_fit() -> None:
    def broken(**changes: Any) -> TensorEnv:
        env = TensorEnv(type("Broken", (Bare,), changes)(torch))
        env.reset()
        return env

    for answer, words in (
        (lambda self: self._seen(), r"^Broken: reset gives Tensor; allowed: \(observations, info\)$"),
        (lambda self: (self._seen()[:2], {}), r"^Broken: observations do not fit 3 of its observation space"),
        (lambda self: ({"a": 1}, {}), r"^Broken: observations do not fit 3 .*'policy'"),
    ):
        with pytest.raises(UserError, match=words):
            broken(reset=answer)
    with pytest.raises(UserError, match=r"^Broken: step gives 4 things; allowed: \(observations, rewards, term"):
        broken(step=lambda self, actions: (1, 2, 3, 4)).step(np.zeros((3, 2)))
    odd = broken(step=lambda self, actions: (self._seen(), torch.ones(3, 2), 1, 1, {}))
    with pytest.raises(UserError, match=r"^Broken: step gives rewards of shape \(3, 2\); allowed: \(3,\) or \(3, 1\)$"):
        odd.step(np.zeros((3, 2)))
    with pytest.raises(UserError, match="Broken has 3 environments and cannot be rebuilt with 6"):
        odd.seeded(range(6))


@pytest.mark.parametrize("library", [np, jnp, torch])
def test_arrays_of_another_shape_or_kind_are_refused(library: Any) -> None:
    """They would be taken for other numbers: rows for columns, fractions for bytes."""
    env = wrap_env(type("Turned", (Bare,), {"_seen": lambda self: self.library.ones((2, 3))})(library))
    with pytest.raises(
        UserError, match=r"Turned: observations do not fit 3 .*: found shape \[2, 3\]; allowed: \[3, 2\]"
    ):
        env.reset()
    image = Box(0, 255, (2, 1, 1), np.uint8)
    seen = {"observation_space": image, "_seen": lambda self: self.library.ones((3, 2, 1, 1)) / 2}
    with pytest.raises(UserError, match=r"Grey: observations .*: found numbers of type .*float(32|64); allowed: uint8"):
        wrap_env(type("Grey", (Bare,), seen)(library)).reset()
    nothing = wrap_env(type("Silent", (Bare,), {"step": lambda self, actions: (self._seen(), None, 0, 0, {})})(library))
    nothing.reset()
    with pytest.raises(
        UserError, match=r"Silent: step gives (as rewards NoneType, which is no array|rewards of shape)"
    ):
        nothing.step(np.zeros((3, 2)))


def test_what_is_one_or_numpys_is_none() -> None:
    one = TwoSteps()
    one.num_envs = 1  # type: ignore[attr-defined]
    for env, kind in ((TwoSteps(), Single), (one, Single), (make_vector(TwoSteps, 2), GymnasiumVector)):
        assert isinstance(wrap_env(env), kind)
    for bad in (object(), type("No", (), {"num_envs": 3})(), gymnasium):
        with pytest.raises(UserError, match="wrap_env: cannot use a"):
            wrap_env(bad)
