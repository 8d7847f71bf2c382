"""Rollouts and minibatches of a single row, or of none: what is learned stays finite, and something is learned."""

from __future__ import annotations

import numpy as np
import pytest

from runner.envs.envpool import EnvPoolTask
from runner.training.reporting import means_of, suspicion
from runner.training.tracking import EXPLAINED_VARIANCE
from tests.runner.builders import both, make_config, runner_class

CASES = [(1, 1, "rollout"), (1, 1, "minibatch"), (4, 4, "minibatch"), (4, 4, "rollout"), (5, 3, "minibatch")]


@pytest.mark.parametrize(("backend", "case"), both(CASES, jax=[CASES[0], CASES[4]]))
def test_a_policy_learns_from_single_rows(
    backend: str, case: tuple[int, int, str], caplog: pytest.LogCaptureFixture
) -> None:
    rollouts, mini_batches, normalization = case
    changes = {
        "models.separate": True,
        "agent.rollouts": rollouts,
        "agent.mini_batches": mini_batches,
        "agent.advantage_normalization": normalization,
        "agent.learning_rate_scheduler": "KLAdaptiveLR",
        "agent.experiment.write_interval": rollouts,
        "trainer.timesteps": 12 * rollouts,
    }
    # Episodes of five steps: where an environment is alone, a rollout of one step may hold nothing but a reset.
    task = EnvPoolTask("CartPole-v1", 1, {"max_episode_steps": 5})
    runner = runner_class(backend)(task, make_config(changes, "CategoricalMixin"), threads=1)
    before, of_value = runner.states()[0].parameters, runner._members.network.of_value()
    records = [report.records[0] for report in runner.reports()][1:]
    (after,) = runner.states()
    moved = after.parameters != before
    assert moved[~of_value].mean() > 0.9 and moved[of_value].mean() > 0.9
    assert not after.counters.diverged and np.isfinite(after.parameters).all()
    assert all(record is not None and np.isfinite(list(record.values.values())).all() for record in records)
    if rollouts == 1:
        assert after.counters.optimizer_steps == 2 * (12 - 2), "two of twelve steps were resets, which teach nothing"
        assert all(record is not None and EXPLAINED_VARIANCE not in record.values for record in records)
    assert ("a single row has no deviation" in caplog.text) == (case != (4, 4, "rollout"))


def test_a_mean_is_over_the_updates_in_which_a_number_is_defined() -> None:
    nan = np.nan
    updates = [
        (np.array([[1.0, nan], [nan, 2.0], [nan, nan]]), np.array([True, True, False])),
        (np.array([[2.0, 5.0], [nan, 4.0], [1.0, 1.0]]), np.array([True, True, True])),
    ]
    np.testing.assert_array_equal(means_of(updates), [[1.5, 5.0], [nan, 3.0], [nan, nan]])


def test_what_an_environment_gave_is_named_where_numbers_are_not_finite() -> None:
    rewards, valid, observations = np.ones((2, 1)), np.ones((2, 1)), np.zeros((3, 1, 2), np.float32)
    assert suspicion(rewards, valid, observations) == "a number of its update is not finite"
    observations[2, 0, 1] = np.nan
    assert "an observation that is not finite" in suspicion(rewards, valid, observations)
    rewards[1] = 1e30
    assert "a reward of size 1e+30" in suspicion(rewards, valid, observations)
    assert "reward" not in suspicion(rewards, np.array([[1], [0]]), observations), "a reset's reward is not experience"
