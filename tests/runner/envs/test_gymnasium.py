"""gymnasium environments behind our interface."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector import VectorEnv as GymnasiumVectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import OrderEnforcing

from runner.envs.wrap import wrap_env
from runner.errors import FailedEnvironmentError, UserError
from runner.torch import Runner
from tests.probe_envs import PoisonReset, Truncation, TwoSteps, make_vector
from tests.runner.builders import fingerprint, make_config


class Counting(gymnasium.Env[Any, Any]):
    """A Dict observation that counts the steps of its episode and its episodes; four steps each."""

    observation_space = Dict({"b": Box(0, 99, (1,), np.float32), "a": Discrete(9)})
    action_space = Discrete(2, start=5)

    def __init__(self) -> None:
        self.episode, self.steps = -1, 0

    def _seen(self) -> dict[str, Any]:
        return {"a": self.steps, "b": np.array([self.episode], np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert action in (5, 6)
        self.steps += 1
        return self._seen(), 1.0, False, self.steps == 4, {}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_where_episodes_end_at_once_the_final_observation_comes_in_info(mode: AutoresetMode) -> None:
    env = wrap_env(SyncVectorEnv([Counting] * 3, autoreset_mode=mode))
    assert env.resets_at_once
    env.reset()
    for _ in range(2):
        env.env.envs[1].steps += 1  # type: ignore[attr-defined]  # its episodes end at other times
        for _ in range(2):
            *_, info = env.step(np.full(3, 5))
            assert "final_observations" not in info
        observations, _, _, truncated, info = env.step(np.full(3, 5))
        assert truncated.tolist() == [False, True, False]
        assert observations[:, 0].tolist() == [3, 0, 3]
        which, final = info["final_observations"]
        assert which.tolist() == [1] and final[0, 0] == 4 and final.shape == (1, 2)
        observations, *_, info = env.step(np.full(3, 5))
        which, final = info["final_observations"]
        assert which.tolist() == [0, 2] and final[:, 0].tolist() == [4, 4]
        assert observations[:, 0].tolist() == [0, 1, 0]
        env.reset()


def test_next_step_reset_rows_have_no_reward_and_the_next_episodes_observation() -> None:
    env = wrap_env(PoisonReset(2, length=3, stagger=1))
    env.reset()
    rewards = [env.step(np.ones(2, int))[1] for _ in range(12)]
    assert np.max(rewards) <= 1 and not np.any(rewards[3::4])
    waiting = wrap_env(SyncVectorEnv([Counting] * 2))
    waiting.reset()
    steps = [waiting.step(np.full(2, 5)) for _ in range(5)]
    assert [s[0][0, 0] for s in steps] == [1, 2, 3, 4, 0]
    assert [s[3][0] for s in steps] == [False, False, False, True, False]
    assert [s[1][0] for s in steps] == [1, 1, 1, 1, 0]


def test_a_reset_in_mid_episode_forgets_the_end() -> None:
    env = wrap_env(make_vector(TwoSteps, 2))
    env.reset()
    env.step(np.zeros(2, int))
    env.step(np.zeros(2, int))
    env.reset()
    env.step(np.zeros(2, int))
    assert env.step(np.zeros(2, int))[1].tolist() == [1, 1], "the reward of a true step was taken for a reset row's"


def test_a_single_environment_is_a_vector_of_one() -> None:
    env = wrap_env(Truncation(length=2))
    assert env.num_envs == 1 and env.reset()[0].shape == (1, 1)
    assert [env.step([0])[3].tolist() for _ in range(3)] == [[False], [True], [False]]


class Answering(Truncation):
    """Its steps have something else in one place."""

    def __init__(self, place: int, value: Any) -> None:
        super().__init__(length=2)
        self.place, self.value = place, value

    def step(self, action: Any) -> Any:
        answer: list[Any] = list(super().step(action))
        answer[self.place] = self.value
        if isinstance(self.value, Exception):
            raise self.value
        return tuple(answer)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, np.zeros(3), r"an observation, float64 of shape \(3,\), does not fit its observation_space"),
        (1, None, "step gives as reward NoneType None; allowed: one number"),
        (1, "1.0", "step gives as reward str '1.0'; allowed: one number"),
        (2, "False", "step gives as terminated str 'False'; allowed: one number"),
        (1, ZeroDivisionError("oh"), "raised in its step: ZeroDivisionError: oh"),
    ],
)
def test_a_single_environment_is_told_what_is_wrong_as_a_class_is(place: int, value: Any, words: str) -> None:
    for env in (wrap_env(Answering(place, value)), wrap_env(lambda: Answering(place, value))):
        env = env.seeded([7])
        env.reset()
        with pytest.raises((UserError, FailedEnvironmentError), match=f"the environment with seed 7:? {words}"):
            env.step([0])


def test_a_single_environment_may_give_what_a_class_may() -> None:
    for place, value in ((1, np.array([2.5])), (1, torch.tensor(2.5, requires_grad=True)), (4, None), (4, [3])):
        env = wrap_env(Answering(place, value))
        env.reset()
        assert env.step([0])[1].tolist() == [2.5 if place == 1 else 1.0]


def test_seeds_are_those_given_and_their_number_cannot_change() -> None:
    env = wrap_env(make_vector(lambda: gymnasium.make("Pendulum-v1").unwrapped, 3))  # type: ignore[arg-type,return-value]
    first = env.seeded([1, 2, 3]).reset()[0]
    np.testing.assert_array_equal(first, env.seeded([1, 2, 3]).reset()[0])
    assert not np.array_equal(first, env.seeded([1, 2, 4]).reset()[0])
    with pytest.raises(UserError, match="has 3 environments and cannot be rebuilt with 6; a pack of several"):
        env.seeded(range(6))


def test_a_vector_environment_must_say_how_it_resets() -> None:
    env = make_vector(TwoSteps, 2)
    env.metadata = {}
    with pytest.raises(UserError, match=r'metadata\["autoreset_mode"\] is None; allowed: AutoresetMode.NEXT_STEP'):
        wrap_env(env)


def test_a_same_step_environment_without_final_observations_is_refused_when_it_matters() -> None:
    env = PoisonReset(2, length=2, stagger=1)
    env.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    wrapped = wrap_env(env)
    wrapped.reset()
    wrapped.step(np.zeros(2, int))
    with pytest.raises(UserError, match="info has no 'final_obs', which AutoresetMode"):
        wrapped.step(np.zeros(2, int))


# ---------------------------------------------------------------------------------------------- seeds


def cart_poles() -> Any:
    return gymnasium.make_vec("CartPole-v1", num_envs=4)


def test_a_vector_environment_may_take_one_integer_as_its_seed() -> None:
    assert type(cart_poles()).__name__ == "CartPoleVectorEnv"
    runs, played = [], []
    for _ in range(2):
        runner = Runner(cart_poles(), make_config({"trainer.timesteps": 64}, "CategoricalMixin"))
        list(runner.reports())
        runs.append(fingerprint(runner.states()[0]))
        played.append(runner.evaluate())
    assert runs[0] == runs[1] and played[0] == played[1] == runner.evaluate()
    first = wrap_env(cart_poles()).seeded([7, 1, 2, 3])
    np.testing.assert_array_equal(first.reset()[0], wrap_env(cart_poles()).env.reset(seed=7)[0])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first.reset()[0], first.seeded([7, 9, 9, 9]).reset()[0])
    assert not np.array_equal(first.reset()[0], first.seeded([8, 1, 2, 3]).reset()[0])


def test_an_error_of_a_reset_is_not_taken_for_a_refusal_of_seeds() -> None:
    class Broken(TwoSteps):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            raise ValueError(f"of its own, with seed {seed}")

    envs = wrap_env(SyncVectorEnv([Broken] * 2)).seeded([5, 6])
    with pytest.raises(ValueError, match="of its own, with seed 5"):
        envs.reset()


# ---------------------------------------------------------------------------------------------- many in one


class Tensors:
    """Four environments in torch: episodes of five steps, observations count steps."""

    final, mode = "final_obs", AutoresetMode.SAME_STEP

    def __init__(self) -> None:
        self.num_envs = 4
        self.single_observation_space = Dict(a=Box(-9, 9, (3,)), b=Discrete(9))
        self.single_action_space = Box(-1, 1, (2,), np.float64)
        self.observation_space = batch_space(self.single_observation_space, 4)
        self.action_space = batch_space(self.single_action_space, 4)

    def _seen(self) -> Any:
        return {"a": self.steps[:, None].float().repeat(1, 3).requires_grad_(), "b": self.steps.clone()}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is None or isinstance(seed, int)
        self.steps = torch.arange(4)
        return self._seen(), {}

    def step(self, actions: Any) -> Any:
        assert isinstance(actions, torch.Tensor) and actions.dtype == torch.float64 and actions.shape == (4, 2)
        assert actions.abs().max() <= 1
        self.steps = self.steps + 1
        ended, info, seen = self.steps == 5, {}, self._seen()
        if ended.any():
            info[self.final] = seen
            self.steps[ended] = 0
            seen = self._seen()
        return seen, torch.ones(4, 1), torch.zeros(4, dtype=torch.bool), ended, info


class TensorVector(Tensors, GymnasiumVectorEnv[Any, Any, Any]):
    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP}


class TensorEnv(Tensors, gymnasium.Env[Any, Any]):
    final = "final_observation"


@pytest.mark.parametrize("make", [TensorVector, TensorEnv, lambda: OrderEnforcing(TensorEnv())])
def test_environments_of_torch_that_are_many_are_read_and_given_tensors(make: Any) -> None:
    env = wrap_env(make())
    assert env.num_envs == 4 and env.actions.shape == (2,) and env.resets_at_once
    env.seeded([1, 2, 3, 4]).reset()
    steps = [env.step(np.zeros((4, 2))) for _ in range(3)]
    assert [s[3].tolist() for s in steps] == [[False] * 4, [False] * 3 + [True], [False, False, True, False]]
    which, final = steps[1][4]["final_observations"]
    assert which.tolist() == [3] and final.tolist() == [[5, 5, 5, 5]] and steps[1][0][:, 3].tolist() == [2, 3, 4, 0]
    runner = Runner(make(), make_config({"models.policy.clip_actions": True}))
    *_, report = runner.reports()
    assert report.records[0] is not None
    assert [episode.length for episode in runner.evaluate()] == [5, 4, 3, 2]
    actions = runner.agent.act(make().reset()[0])
    assert isinstance(actions, torch.Tensor) and actions.dtype == torch.float64 and actions.shape == (4, 2)


def test_a_vector_environment_without_the_spaces_of_one_is_refused() -> None:
    bare = make_vector(TwoSteps, 2)
    del bare.single_action_space
    with pytest.raises(UserError, match="SyncVectorEnv: a vector environment without single_action_space"):
        wrap_env(bare)


def test_steps_that_do_not_fit_are_refused_by_name() -> None:
    class Odd(TensorVector):
        def step(self, actions: Any) -> Any:
            return self._seen(), torch.ones(3), torch.zeros(4), torch.zeros(4), {}

    env = wrap_env(Odd())
    env.reset()
    with pytest.raises(UserError, match=r"^Odd: step gives rewards of shape \(3,\); allowed: \(4,\)$"):
        env.step(np.zeros((4, 2)))
    env.env._seen = lambda: {"a": np.zeros((4, 3))}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^Odd: observations do not fit its single_observation_space .*'b'"):
        env.reset()


def test_bytes_that_are_none_are_refused() -> None:
    def seeing(number: float) -> Any:
        env = make_vector(TwoSteps, 2)
        env.single_observation_space, env.observation_space = (Box(0, 255, shape, np.uint8) for shape in ((3,), (2, 3)))
        env.reset = lambda **_: (np.full((2, 3), number), {})
        return wrap_env(env)

    assert seeing(255.0).reset()[0].tolist() == [[255] * 3] * 2
    for number in (0.7, 300.0):
        with pytest.raises(
            UserError, match="found numbers of type float64 that uint8 does not hold; allowed: 0 to 255"
        ):
            seeing(number).reset()


class Loose(gymnasium.Env[Any, Any]):
    """What it gives is legal, but not of the types that its spaces name."""

    action_space = Discrete(2)

    def __init__(self, space: gymnasium.Space[Any], observation: Any, reward: Any) -> None:
        self.observation_space, self._seen, self._reward = space, observation, reward
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self._seen, {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        return self._seen, self._reward, np.bool_(self._steps % 2 == 0), 0, {}


@pytest.mark.parametrize(
    ("space", "observation", "reward"),
    [
        (Box(-9, 9, (2,)), [1, 2], 2),
        (Box(-9, 9, (2,)), np.array([1.5, 2.5]), np.float64(2)),
        (Box(-9, 9, (2,)), (1.0, 2.0), np.int8(2)),
        (Box(-9, 9, (2,), np.float64), np.array([1, 2]), np.array(2.0)),
        (Box(-9, 9, ()), 3.5, True + 1),
        (Box(-9, 9, (1,)), [np.float64(3)], 2.0),
        (Box(-9, 9, (2,)), torch.tensor([1.0, 2.0]), torch.tensor(2.0)),
        (Discrete(9), np.array(3), 2),
        (Dict(a=Box(-9, 9, (2,)), b=Discrete(9)), {"b": np.int32(3), "a": [1, 2]}, 2),
    ],
)
def test_legal_values_of_other_types_are_read(space: gymnasium.Space[Any], observation: Any, reward: Any) -> None:
    env = wrap_env(Loose(space, observation, reward))
    expected, _ = env.reset()
    assert expected.dtype == np.float32 and expected.shape == (1, env.observation_size)
    observations, rewards, terminated, truncated, _ = env.step([1])
    assert rewards.tolist() == [2] and not terminated.any() and not truncated.any()
    np.testing.assert_array_equal(observations, expected)
    assert env.step([1])[2].tolist() == [True]


def test_bad_actions_are_refused_here_too() -> None:
    env = wrap_env(make_vector(TwoSteps, 2))
    env.reset()
    for actions in (np.zeros(3, int), np.array([0, 2]), np.zeros(2)):
        with pytest.raises(UserError):
            env.step(actions)


def test_wrap_env_may_be_called_as_skrl_calls_it() -> None:
    for env in (wrap_env(TwoSteps(), "gymnasium"), wrap_env(TwoSteps(), wrapper="auto", verbose=False)):
        assert env.num_envs == 1
    assert wrap_env(TwoSteps, 3, wrapper="gymnasium").num_envs == 3


def test_an_environment_of_ours_passes_through() -> None:
    env = wrap_env(make_vector(TwoSteps, 2))
    assert wrap_env(env) is env
