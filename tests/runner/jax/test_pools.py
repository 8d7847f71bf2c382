"""EnvPool inside compiled programs gives what it gives from Python, bit for bit, and nothing is written past an end."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runner.draws import environment_seeds
from runner.envs.base import VectorEnv
from runner.envs.spaces import ActionSpace
from runner.jax import stepping
from runner.jax.rollout import Collector, env_actions
from runner.networks.policies import Distribution
from runner.torch.rollout import env_actions as torch_env_actions
from runner.training.episodes import Episodes
from tests.runner.builders import TASKS, make_env
from tests.runner.jax.collecting import ENVS, MEMBERS, collector, noise, policies

pytestmark = pytest.mark.usefixtures("optimised")

SEEDS = [seed for member in range(MEMBERS) for seed in environment_seeds(member, ENVS)]
STEPS = 11  # the end of Pendulum's second episode
POOLS: dict[str, dict[str, Any]] = {
    **{task: arguments for task, (_, arguments) in TASKS.items()},
    "CheetahRun-v1": {"max_episode_steps": 6},
    "MiniGrid-Empty-5x5-v0": {"max_episode_steps": 6},
    "MetaWorld/Reach-v3": {"max_episode_steps": 6},
}
BREAKOUT: dict[str, Any] = {
    "stack_num": 1, "img_height": 12, "img_width": 12, "episodic_life": True, "reward_clip": True,
    "max_episode_steps": 60,
}  # fmt: skip


def twins(task: str, arguments: dict[str, Any]) -> tuple[VectorEnv, VectorEnv]:
    """Two pools of the same seeds."""
    env = make_env(task, ENVS, arguments)
    return env.seeded(SEEDS, 1), env.seeded(SEEDS, 1)


@pytest.mark.parametrize("task", POOLS)
def test_a_compiled_rollout_is_bit_equal_to_stepping_a_second_pool_from_python(task: str) -> None:
    compiled, twin = twins(task, POOLS[task])
    under_test = collector(compiled)
    before = twin.reset()[0]
    ended_before = np.zeros(len(SEEDS), bool)
    ends = 0
    for number in range(3):
        rollout = under_test.collect(policies(), noise(compiled, STEPS, seed=number))
        if number == 0:
            assert all(leaf.dtype in (np.float32, np.int32, bool) for leaf in jax.tree.leaves(rollout))
        for t in range(STEPS):
            row = jax.tree.map(lambda x, t=t: np.asarray(x[t]).reshape(len(SEEDS), *x.shape[3:]), rollout)
            np.testing.assert_array_equal(row.observations, before)
            np.testing.assert_array_equal(row.valid, ~ended_before)
            actions = row.actions if compiled.actions.discrete else np.clip(row.actions, -1, 1)
            if task == "Pendulum-v1":
                actions = np.clip(row.actions, -2, 2)
            before, rewards, terminated, truncated, _ = twin.step(actions)
            np.testing.assert_array_equal(row.rewards, rewards)
            np.testing.assert_array_equal(row.terminated, terminated)
            np.testing.assert_array_equal(row.ended, terminated | truncated)
            ended_before = terminated | truncated
            ends += int(ended_before.sum())
        np.testing.assert_array_equal(np.asarray(rollout.observations[-1]).reshape(before.shape), before)
    assert ends >= 3 * len(SEEDS) and isinstance(under_test._standing.token, jax.Array)


def test_atari_scores_are_of_raw_rewards_and_whole_games() -> None:
    """Breakout with clipped rewards and lives as episodes; a game is cut at 60 steps."""
    env, twin = twins("Breakout-v5", BREAKOUT)
    under_test = collector(env)
    rollout = under_test.collect(policies(), noise(env, 130))
    expected = Episodes(MEMBERS, ENVS)
    twin.reset()
    ended = np.zeros(len(SEEDS), bool)
    lives = games = 0
    for actions in np.asarray(rollout.actions).reshape(130, -1):
        _, rewards, terminated, truncated, info = twin.step(actions)
        expected.add(rewards[None], (terminated | truncated)[None], ~ended[None], [info])
        ended = terminated | truncated
        lives, games = lives + int(ended.sum()), games + int(info["episode_ends"].sum())
    assert lives > games >= 2 * len(SEEDS)
    assert np.isfinite(expected.scores()).all()
    assert under_test.episodes.scores() == expected.scores()
    assert under_test.episodes.drain() == expected.drain()


def test_actions_mean_the_same_to_both_backends() -> None:
    """Clipped where asked, shifted where a space does not start at 0, and never anything but numbers."""
    import torch
    from gymnasium.spaces import Box, Discrete, MultiDiscrete

    box = ActionSpace.of(Box(np.array([-1, -2], np.float32), np.array([0.5, 3], np.float32)))
    free = np.array([[[0.1, -9], [np.nan, 2]], [[np.inf, -np.inf], [-0.2, 1e30]]], np.float32)

    def taken(actions: np.ndarray, space: ActionSpace, clip: bool, joint: bool = False) -> np.ndarray:
        distribution = Distribution(space.sizes, space.units, "sum", joint=joint)
        ours = np.asarray(env_actions(distribution, space, clip)(jnp.array(actions)))
        np.testing.assert_array_equal(ours, torch_env_actions(distribution, space, clip)(torch.tensor(actions)))
        return ours

    assert all(np.isfinite(taken(free, box, clip)).all() for clip in (True, False))
    assert taken(free, box, True).min() == -2
    far = ActionSpace.of(Box(np.array([[5], [-9]], np.float32), np.array([[6], [-8]], np.float32)))
    assert taken(free, far, True).shape == (4, 2, 1)
    assert taken(free, far, True)[1].tolist() == [[5], [-8]], "a number that is none became one that is out of bounds"
    assert taken(free[..., :1], ActionSpace.of(Box(-1, 1, ())), True).shape == (4,)
    for start in (0, 5):
        space = ActionSpace.of(Discrete(3, start=start))
        chosen = taken(np.array([[[0], [2]], [[1], [1]]]), space, True)
        assert chosen.tolist() == [start, start + 2, start + 1, start + 1]
    pair = ActionSpace.of(MultiDiscrete([2, 3], start=[0, 10]))
    assert taken(np.array([[[0, 2], [1, 0]]]), pair, False).tolist() == [[0, 12], [1, 10]]
    assert taken(np.array([[[2], [3]]]), pair, False, joint=True).tolist() == [[0, 12], [1, 10]]


@pytest.mark.parametrize(
    ("task", "shape"),
    [("HalfCheetah-v4", s) for s in [(3, 6), (5, 6), (4, 5), (4, 7), (24,), (6, 4), (0, 6)]]
    + [("CartPole-v1", s) for s in [(3,), (5,), (4, 2), (0,), ()]],
)
def test_actions_that_do_not_fit_the_pool_are_refused_before_anything_runs(task: str, shape: tuple[int, ...]) -> None:
    env = make_env(task, 4).seeded([1, 2, 3, 4], 1)
    env.reset()
    token, step, _ = stepping.stepper(env)
    dtype = jnp.int32 if env.actions.discrete else jnp.float32
    with pytest.raises((ValueError, IndexError, TypeError)):
        jax.eval_shape(step, token, jax.ShapeDtypeStruct(shape, dtype))
    right = jax.ShapeDtypeStruct((4, *env.actions.shape), dtype)
    _, out = jax.eval_shape(step, token, right)
    assert out.observations.shape == (4, env.observation_size) and out.observations.dtype == jnp.float32


@pytest.mark.parametrize("ahead_of_time", [True, False])
def test_a_pool_lives_as_long_as_the_program_that_holds_its_address_and_no_longer(ahead_of_time: bool) -> None:
    env = make_env("Pendulum-v1", ENVS).seeded(SEEDS, 1)
    pool = weakref.ref(env.pool)  # type: ignore[attr-defined]
    under_test = collector(env)
    some = noise(env, 2)
    if ahead_of_time:
        under_test.compile(policies(), some)
    del env
    for _ in range(2):
        gc.collect()
        assert pool() is not None
        assert np.isfinite(under_test.collect(policies(), some).observations).all()
    del under_test
    gc.collect()
    assert pool() is None, "every runner of a process would leave its environments behind"


def test_compiling_steps_no_environment() -> None:
    env, twin = twins("CartPole-v1", {})
    under_test = collector(env)
    some = noise(env, STEPS)
    shapes = under_test.compile(policies(), some)
    rollout = under_test.collect(policies(), some)
    np.testing.assert_array_equal(np.asarray(rollout.observations[0]).reshape(len(SEEDS), -1), twin.reset()[0])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), rollout)


@pytest.fixture(scope="module")
def without_xla() -> tuple[Collector, Collector]:
    """A collector over a pool that has no XLA functions, as on macOS, and one over a pool that has: 60 steps each."""
    env, twin = twins("Breakout-v5", {**BREAKOUT, "max_episode_steps": 40})
    native = collector(twin)

    def xla(_: Any) -> Any:
        raise RuntimeError("Xla is not available on this platform")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(env.pool), "xla", xla)  # type: ignore[attr-defined]
        python = collector(env)
    some = noise(env, 60)
    one, other = python.collect(policies(), some), native.collect(policies(), some)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    return python, native


def test_a_pool_without_xla_is_stepped_through_python_with_the_same_numbers(
    without_xla: tuple[Collector, Collector],
) -> None:
    python, native = without_xla
    assert np.isfinite(python.episodes.scores()).all() and np.isfinite(native.episodes.scores()).all()


def test_atari_scores_are_the_same_without_xla(without_xla: tuple[Collector, Collector]) -> None:
    python, native = without_xla
    assert python.episodes.drain() == native.episodes.drain()


def test_a_rollout_for_a_gpu_is_stepped_from_python_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where EnvPool's XLA functions are not asked for."""
    env, twin = twins("CartPole-v1", {"max_episode_steps": 9})
    native = collector(twin)
    with monkeypatch.context() as patch:
        patch.setattr(stepping.accelerate, "sees_gpu", lambda: True)
        patch.setattr(type(env.pool), "xla", None)  # type: ignore[attr-defined]
        walked = collector(env)
    some = noise(env, STEPS)
    ends, arrays = walked._ends, []
    walked._ends = lambda *given: (arrays.append(len(jax.tree.leaves(given))), ends(*given))[1]
    walked.compile(policies(), some)
    for _ in range(2):
        one, other = walked.collect(policies(), some), native.collect(policies(), some)
        for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert walked.episodes.drain() == native.episodes.drain()
    assert max(arrays) < STEPS, "a program of all steps' arrays takes minutes to compile"
