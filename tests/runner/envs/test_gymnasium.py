"""gymnasium environments behind our interface."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from runner.envs.base import wrap_env
from runner.errors import UserError
from tests.probe_envs import PoisonReset, Truncation, TwoSteps, make_vector


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


def test_seeds_are_those_given_and_their_number_cannot_change() -> None:
    env = wrap_env(make_vector(lambda: gymnasium.make("Pendulum-v1").unwrapped, 3))  # type: ignore[arg-type,return-value]
    first = env.seeded([1, 2, 3]).reset()[0]
    np.testing.assert_array_equal(first, env.seeded([1, 2, 3]).reset()[0])
    assert not np.array_equal(first, env.seeded([1, 2, 4]).reset()[0])
    with pytest.raises(UserError, match="has 3 environments and cannot be rebuilt with 6: only EnvPool"):
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


def test_bad_actions_are_refused_here_too() -> None:
    env = wrap_env(make_vector(TwoSteps, 2))
    env.reset()
    for actions in (np.zeros(3, int), np.array([0, 2]), np.zeros(2)):
        with pytest.raises(UserError):
            env.step(actions)


def test_an_environment_of_ours_passes_through() -> None:
    env = wrap_env(make_vector(TwoSteps, 2))
    assert wrap_env(env) is env
