"""Episode ends: every auto-reset mode teaches the same, and a truncation bootstraps from the true final observation."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from runner.envs.base import VectorEnv
from runner.envs.wrap import wrap_env
from runner.torch import Runner, accelerate
from runner.torch import train as train_module
from runner.torch import update as update_module
from runner.torch.rollout import Collector, Rollout
from runner.training.members import Members
from tests import oracle
from tests.probe_envs import TwoSteps
from tests.runner.builders import make_config, make_env
from tests.runner.torch.problem import Problem

STEPS, ENVS = 40, 3
NOT_NORMALISED = {"agent.advantage_normalization": "none"}
ENVIRONMENTS: dict[str, tuple[Any, str]] = {
    "pendulum, truncated": (lambda: gymnasium.make("Pendulum-v1", max_episode_steps=5), "GaussianMixin"),
    "cart-pole, both ends": (lambda: gymnasium.make("CartPole-v1", max_episode_steps=10), "CategoricalMixin"),
    "probe, terminated": (TwoSteps, "CategoricalMixin"),
}


def vector(make: Any, mode: AutoresetMode, copy: bool = True) -> VectorEnv:
    return wrap_env(SyncVectorEnv([make] * ENVS, autoreset_mode=mode, copy=copy))


def experience(env: VectorEnv, policy: str) -> tuple[Rollout, Problem]:
    """One rollout in which actions are a function of the observation alone, and who would learn from it."""
    config = make_config({"agent.rollouts": STEPS, "trainer.timesteps": STEPS, **NOT_NORMALISED}, policy)
    members = Members(Runner.numerics, _pack(config), env.layout, env.actions)
    rules, learner = members.rules, members.learner

    def act(policy: Any, carry: Any, observations: Any, noise: Any, random: Any) -> Any:
        outputs = train_module.act(rules, policy, carry, observations, noise)[1]
        return carry, outputs, train_module.mode(rules, policy, carry, observations)[1]

    collector = Collector(env.seeded([11, 12, 13]), 1, members.env_actions, act)
    with torch.no_grad():
        noise = np.zeros((STEPS, 1, ENVS, env.actions.units), np.float32)
        rollout = collector.collect(train_module.policy(rules, learner), noise)
    numbers = {name: tuple(column.flatten().tolist()) for name, column in learner.hyper._asdict().items()}
    problem = Problem(config, numbers, rules, learner, rollout, np.zeros((1, ENVS), bool), None)
    return rollout, problem


def _pack(config: Any) -> Any:
    from runner.training.pack import Pack

    return Pack.of([config.model_copy(update={"env": config.env.model_copy(update={"num_envs": ENVS})})])


def transitions(rollout: Rollout, problem: Problem) -> list[np.ndarray]:
    """Per environment the rows (observation, reward, advantage, return) of its finished episodes."""
    _, batch, _ = update_module.prepare(problem.learner, rollout, problem.rules)
    columns = [rollout.observations[0, :-1], rollout.rewards[0, ..., None]]
    columns += [x.reshape(1, STEPS, ENVS, 1)[0] for x in (batch.advantages, batch.returns)]
    rows = torch.cat(columns, -1).numpy()
    out = []
    for n in range(ENVS):
        last = int(np.flatnonzero(rollout.ended[0, :, n])[-1])
        valid = rollout.valid[0, : last + 1, n].numpy().astype(bool)
        out.append(rows[: last + 1, n][valid])
    return out


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_auto_reset_mode_gives_the_same_transitions_and_advantages(name: str) -> None:
    make, policy = ENVIRONMENTS[name]
    no_statistics = {m: experience(vector(make, m), policy) for m in AutoresetMode}
    rows = {mode: transitions(*one) for mode, one in no_statistics.items()}
    waiting, at_once = rows[AutoresetMode.NEXT_STEP], rows[AutoresetMode.SAME_STEP]
    for n in range(ENVS):
        length = len(waiting[n])
        assert 20 < length <= len(at_once[n]), "reset rows take time"
        # Returns are normalised by statistics of the whole rollout, which differ: compare the rest.
        columns = list(range(waiting[n].shape[1] - 1))
        for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            np.testing.assert_allclose(rows[mode][n][:length, columns], waiting[n][:, columns], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(at_once[n], rows[AutoresetMode.DISABLED][n])
    for mode, (rollout, _) in no_statistics.items():
        assert (rollout.final_rows is None) == (mode is AutoresetMode.NEXT_STEP)
        assert bool(rollout.valid.all()) == (mode is not AutoresetMode.NEXT_STEP)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_an_environment_that_reuses_its_observation_buffer_is_read_in_time(mode: AutoresetMode) -> None:
    make, policy = ENVIRONMENTS["pendulum, truncated"]
    reused, _ = experience(vector(make, mode, copy=False), policy)
    fresh, _ = experience(vector(make, mode), policy)
    assert torch.equal(reused.observations, fresh.observations)
    assert torch.equal(reused.final_observations, fresh.final_observations)


def captured(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """The arguments of the second update of a run on EnvPool's Pendulum, five steps an episode."""
    calls: list[tuple[Any, ...]] = []
    original = train_module.update

    def recording(*arguments: Any) -> Any:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(train_module, "update", recording)
    env = make_env("Pendulum-v1", ENVS, {"max_episode_steps": 5})
    config = make_config({"agent.rollouts": STEPS, "trainer.timesteps": 2 * STEPS, **NOT_NORMALISED, **changes})
    list(Runner(env, config, threads=1).reports())
    return calls[1]


@pytest.mark.parametrize("bootstrap", [True, False])
def test_advantages_of_a_real_rollout_are_the_sums_over_its_truncated_episodes(
    bootstrap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"agent.time_limit_bootstrap": bootstrap}
    learner, rollout, _, _, rules, *_ = captured(changes, monkeypatch)
    ended_before = ~rollout.valid[0, 0].numpy().astype(bool)
    problem = Problem(rules.config, {}, rules, learner, rollout, ended_before[None], None)
    _, batch, _ = update_module.prepare(learner, rollout, rules)
    judge = problem.scaler(0, learner.value_statistics)
    assert judge is not None
    values = judge.inverse(problem.oracle_forward(0, rollout.observations[0].numpy())[1][..., None])[..., 0]
    ended = rollout.ended[0].numpy()
    assert ended.sum() >= 2 * ENVS * STEPS // 14 and not rollout.terminated.any()
    expected = oracle.brute_force_advantages(
        rewards=rollout.rewards[0].numpy(),
        values=values,
        terminated=np.zeros_like(ended),
        truncated=ended,
        discount_factor=0.99,
        gae_lambda=0.95,
        time_limit_bootstrap=bootstrap,
    )
    valid = oracle.valid_rows(ended, ended_before)
    np.testing.assert_array_equal(rollout.valid[0].numpy().astype(bool), valid)
    actual = batch.advantages[0].reshape(ended.shape).numpy()
    np.testing.assert_allclose(actual[valid], expected[valid], rtol=1e-4, atol=1e-4)


def test_the_observation_after_a_truncation_is_what_physics_says_and_the_reset_row_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gymnasium's pendulum: θ̈ = 15 sin θ + 3 u, u within ±2, dt = 0.05, speed within ±8."""
    rollout = captured({}, monkeypatch)[1]
    seen = rollout.observations[0].double().numpy()
    torque = np.clip(rollout.actions[0, ..., 0].double().numpy(), -2, 2)
    speed = np.clip(seen[:-1, :, 2] + (15 * seen[:-1, :, 1] + 3 * torque) * 0.05, -8, 8)
    follows = np.abs(speed - seen[1:, :, 2]) < 1e-4
    np.testing.assert_array_equal(follows, rollout.valid[0].numpy().astype(bool))


def test_a_whole_iteration_on_a_real_environment_equals_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the YAML's numbers to parameters: what training hands to the update is what the configuration says."""
    changes: dict[str, Any] = {
        "agent.advantage_normalization": "rollout",
        "agent.learning_rate_scheduler": "KLAdaptiveLR",
        "agent.value_clip": 0.0,
        "agent.grad_norm_clip": 0.1,
        "agent.kl_threshold": 0.5,
        "agent.entropy_loss_scale": 0.01,
        "agent.rewards_shaper_scale": 0.1,
    }
    learner, rollout, _, alive, rules, *_ = captured(changes, monkeypatch)
    orders = torch.stack([torch.stack([torch.randperm(STEPS * ENVS)]) for _ in range(2)])
    with torch.no_grad():
        after, _, _ = update_module.update(learner, rollout, orders, alive, rules)
    before = ~rollout.valid[0, 0].numpy().astype(bool)
    problem = Problem(rules.config, {}, rules, learner, rollout, before[None], orders)
    for name, value in changes.items():
        if isinstance(value, float):
            assert problem.number(name.removeprefix("agent."), 0) == pytest.approx(value), name
    assert accelerate.device().type != "cpu" or learner.optimizer.steps.item() > 0
    expected = problem.oracle_update(0)
    for name, value in problem.named(0, after.optimizer.parameters).items():
        np.testing.assert_allclose(value, expected.parameters[name], rtol=2e-5, atol=2e-5, err_msg=name)
    assert float(after.optimizer.learning_rate) == pytest.approx(expected.learning_rate, rel=1e-5)
