"""Environments by name: which of them makes what, and how environments of Python are stepped."""

from __future__ import annotations

import gymnasium
import numpy as np

from runner.config.schema import EnvConfig
from runner.envs.envpool import EnvPoolTask
from runner.envs.python import PythonTask
from runner.envs.task import task


def config(name: str, num_envs: int = 3, **arguments: object) -> EnvConfig:
    return EnvConfig.model_validate({"id": name, "num_envs": num_envs, **arguments})


def test_the_id_chooses() -> None:
    pool, python = task(config("Pendulum-v1")), task(config("gymnasium:Pendulum-v1"))
    assert isinstance(pool, EnvPoolTask) and isinstance(python, PythonTask)
    assert python.num_envs == 3 and python.layout == pool.layout
    python.close()


def test_each_environment_is_what_it_is_alone() -> None:
    """Seeds, ends, reset rows and rewards, against gymnasium's own environments stepped by hand."""
    seeds, rng = [5, 6, 5], np.random.default_rng(0)
    env = task(config("gymnasium:CartPole-v1")).seeded(seeds)
    alone = [gymnasium.make("CartPole-v1") for _ in seeds]
    observations, _ = env.reset()
    np.testing.assert_array_equal(observations, [e.reset(seed=s)[0] for e, s in zip(alone, seeds, strict=True)])
    np.testing.assert_array_equal(observations[0], observations[2])
    ended, resets = np.zeros(3, bool), 0
    for _ in range(60):
        actions = rng.integers(2, size=3)
        observations, rewards, terminated, truncated, _ = env.step(actions)
        for i, one in enumerate(alone):
            if ended[i]:
                expected = (one.reset()[0], 0.0, False, False)
                resets += 1
            else:
                expected = one.step(actions[i])[:4]
            np.testing.assert_array_equal(observations[i], expected[0])
            assert (rewards[i], terminated[i], truncated[i]) == expected[1:]
            ended[i] = expected[2] or expected[3]
    assert resets > 3
    env.close()


def test_some_are_stepped_and_others_wait() -> None:
    env = task(config("gymnasium:Pendulum-v1")).seeded([1, 2, 3])
    all_of_them = task(config("gymnasium:Pendulum-v1")).seeded([1, 2, 3])
    first, _ = env.reset()
    all_of_them.reset()
    actions = np.array([[0.5], [1.0], [-1.0]], np.float32)
    whole = all_of_them.step(actions)
    some = env.step_some(actions, np.array([0, 2]))
    for column, part in zip(whole[:4], some[:4], strict=True):
        np.testing.assert_array_equal(column[[0, 2]], part)
    # The one that waited stands where it stood.
    np.testing.assert_array_equal(env.step(actions)[0][1], whole[0][1])
    assert not np.array_equal(first[1], whole[0][1])
