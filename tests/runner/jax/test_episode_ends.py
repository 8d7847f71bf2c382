"""Episode ends on JAX: every auto-reset mode gives the same transitions, and advantages end where episodes do."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from runner.api import Runner as AnyRunner
from runner.envs.base import VectorEnv
from runner.envs.wrap import wrap_env
from runner.jax import Runner
from runner.jax import train as train_module
from runner.jax import update as update_module
from runner.jax.rollout import Rollout
from tests import oracle
from tests.probe_envs import TwoSteps
from tests.runner.builders import make_config, make_env, values
from tests.runner.jax.collecting import collector, policies

STEPS, ENVS = 40, 3
NOT_NORMALISED = {"agent.advantage_normalization": "none"}
ENVIRONMENTS: dict[str, Any] = {
    "pendulum, truncated": lambda: gymnasium.make("Pendulum-v1", max_episode_steps=5),
    "cart-pole, both ends": lambda: gymnasium.make("CartPole-v1", max_episode_steps=10),
    "probe, terminated": TwoSteps,
}


def vector(make: Any, mode: AutoresetMode, copy: bool = True) -> VectorEnv:
    return wrap_env(SyncVectorEnv([make] * ENVS, autoreset_mode=mode, copy=copy))


def experience(env: VectorEnv) -> tuple[Rollout, list[dict[str, float]]]:
    """One rollout, member's axis left out, in which actions depend on the observation alone; and what was counted."""
    env = env.seeded([11, 12, 13])
    under_test = collector(env, members=1)
    discrete = env.actions.discrete

    def act(policy: Any, carry: Any, observations: Any, noise: Any, random: Any) -> Any:
        lean = observations[:, -1:] * 7
        return carry, noise, (lean > 0).astype(int) if discrete else jax.numpy.sin(lean)

    under_test._act = act
    rollout = under_test.collect(policies(1), np.zeros((STEPS, 1, ENVS, env.actions.units), np.float32))
    return jax.tree.map(lambda x: np.asarray(x)[:, 0], rollout), under_test.episodes.drain()


def transitions(rollout: Rollout) -> list[np.ndarray]:
    """Per environment the rows (observation, reward, ends, observation after) of its finished episodes."""
    after = rollout.observations[1:]
    if rollout.final_observations is not None:
        assert not rollout.final_observations[~rollout.ended].any()
        after = np.where(rollout.ended[..., None], rollout.final_observations, after)
    numbers = [x[..., None] for x in (rollout.rewards, rollout.terminated, rollout.ended)]
    rows = np.concatenate([rollout.observations[:-1], *numbers, after], -1)
    out = []
    for n in range(ENVS):
        last = int(np.flatnonzero(rollout.ended[:, n])[-1])
        out.append(rows[: last + 1, n][rollout.valid[: last + 1, n]])
    return out


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_auto_reset_mode_gives_the_same_transitions(name: str) -> None:
    make = ENVIRONMENTS[name]
    found = {mode: experience(vector(make, mode)) for mode in AutoresetMode}
    rows = {mode: transitions(rollout) for mode, (rollout, _) in found.items()}
    waiting, at_once = rows[AutoresetMode.NEXT_STEP], rows[AutoresetMode.SAME_STEP]
    for n in range(ENVS):
        length = len(waiting[n])
        assert 20 < length <= len(at_once[n]), "reset rows take time"
        np.testing.assert_allclose(at_once[n][:length], waiting[n], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(at_once[n], rows[AutoresetMode.DISABLED][n])
    for mode, (rollout, _) in found.items():
        assert (rollout.final_observations is None) == (mode is AutoresetMode.NEXT_STEP)
        assert bool(rollout.valid.all()) == (mode is not AutoresetMode.NEXT_STEP)
    for (counted,) in (counts for _, counts in found.values()):
        longest = {"pendulum, truncated": 5, "cart-pole, both ends": 10, "probe, terminated": 2}[name]
        assert 2 <= counted["Episode / Total timesteps (max)"] <= longest


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_an_environment_that_reuses_its_observation_buffer_is_read_in_time(mode: AutoresetMode) -> None:
    make = ENVIRONMENTS["pendulum, truncated"]
    reused, fresh = (experience(vector(make, mode, copy))[0] for copy in (False, True))
    for one, other in zip(jax.tree.leaves(reused), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_array_equal(one, other)


def prepared(env: Any, changes: dict[str, Any]) -> tuple[AnyRunner, Rollout, np.ndarray]:
    """A fresh runner, its second rollout (member's axis left out), and the advantages that it would learn from."""
    config = make_config({"agent.rollouts": STEPS, "trainer.timesteps": STEPS, **NOT_NORMALISED, **changes})
    runner = Runner(env, config, threads=1)
    members: Any = runner._members
    rules, learner = members.rules, members.learner
    under_test = collector(runner.env.seeded(runner._seeds(0)), members=1)
    under_test._act = lambda *now: train_module.act(rules, *now)
    for number in range(2):
        members.counters.update[:] = number
        rollout = under_test.collect(train_module.policy(rules, learner), members.draw().noise)
    solo = jax.tree.map(lambda x: x[:, 0], rollout)
    member = jax.tree.map(lambda x: x[0], learner)
    batch = jax.jit(update_module.prepare, static_argnums=2)(member, solo, rules)[1]
    return runner, jax.tree.map(np.asarray, solo), np.asarray(batch.advantages).reshape(STEPS, ENVS)


@pytest.mark.parametrize(
    ("mode", "bootstrap"),
    [(AutoresetMode.NEXT_STEP, True), (AutoresetMode.NEXT_STEP, False), (AutoresetMode.SAME_STEP, True)],
)
def test_advantages_are_the_sums_over_truncated_episodes(mode: AutoresetMode, bootstrap: bool) -> None:
    waits = mode is AutoresetMode.NEXT_STEP
    pool = make_env("Pendulum-v1", ENVS, {"max_episode_steps": 5})
    env = pool if waits else vector(ENVIRONMENTS["pendulum, truncated"], mode)
    runner, rollout, advantages = prepared(env, {"agent.time_limit_bootstrap": bootstrap})
    ended, rewards = rollout.ended, rollout.rewards
    assert ended.sum() >= 2 * ENVS * STEPS // 14 and not rollout.terminated.any()
    observations = rollout.observations
    if waits:
        ended_before = ~rollout.valid[0]
        judged = values(runner, observations.reshape(-1, 3)).reshape(STEPS + 1, ENVS)
        expected = oracle.brute_force_advantages(
            rewards=rewards,
            values=judged,
            terminated=np.zeros_like(ended),
            truncated=ended,
            discount_factor=0.99,
            gae_lambda=0.95,
            time_limit_bootstrap=bootstrap,
        )
        valid = oracle.valid_rows(ended, ended_before)
        np.testing.assert_array_equal(rollout.valid, valid)
        assert not valid.all()
        np.testing.assert_allclose(advantages[valid], expected[valid], rtol=1e-4, atol=1e-4)
        return
    assert rollout.valid.all() and rollout.final_observations is not None
    after = np.where(ended[..., None], rollout.final_observations, observations[1:])
    now, then = (values(runner, x.reshape(-1, 3)).reshape(STEPS, ENVS) for x in (observations[:-1], after))
    following = np.zeros(ENVS)
    for t in reversed(range(STEPS)):
        following = rewards[t] + 0.99 * then[t] - now[t] + 0.99 * 0.95 * ~ended[t] * following
        np.testing.assert_allclose(advantages[t], following, rtol=1e-4, atol=1e-4)


def test_the_observation_after_a_truncation_is_what_physics_says_and_the_reset_row_is_not() -> None:
    """gymnasium's pendulum: θ̈ = 15 sin θ + 3 u, u within ±2, dt = 0.05, speed within ±8."""
    _, rollout, _ = prepared(make_env("Pendulum-v1", ENVS, {"max_episode_steps": 5}), {})
    seen = rollout.observations.astype(np.float64)
    torque = np.clip(rollout.actions[..., 0].astype(np.float64), -2, 2)
    speed = np.clip(seen[:-1, :, 2] + (15 * seen[:-1, :, 1] + 3 * torque) * 0.05, -8, 8)
    np.testing.assert_array_equal(np.abs(speed - seen[1:, :, 2]) < 1e-4, rollout.valid)
