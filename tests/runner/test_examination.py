"""Evaluation while training: it disturbs nothing, plays the same episodes each time, and chooses the best agent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runner.api import Runner
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from runner.training import tracking
from tests.probe_envs import Truncation, make_vector
from tests.runner.builders import TASKS, both, fingerprint, make_config, make_env, runner_class

EXAM = {"evaluation.interval": 16, "evaluation.episodes": 4}
LENGTH: dict[str, Any] = {
    "trainer.timesteps": 64,
    "agent.experiment.write_interval": 8,
    "agent.experiment.checkpoint_interval": 32,
}
VALUES = (tracking.EVALUATION_MEAN, tracking.EVALUATION_MAX, tracking.EVALUATION_MIN, tracking.EVALUATION_LENGTH)


def make_runner(backend: str, task: str, changes: list[dict[str, Any]]) -> Runner:
    policy, arguments = TASKS[task]
    configs = [make_config(change, policy) for change in changes]
    return runner_class(backend)(make_env(task, 3, arguments), configs[0], configs=configs, threads=1)


@pytest.mark.parametrize(("backend", "task"), both(["Pendulum-v1", "CartPole-v1"], jax=["Pendulum-v1"]))
@pytest.mark.parametrize("stochastic", [False, True])
def test_training_is_the_same_to_the_bit_with_and_without(backend: str, task: str, stochastic: bool) -> None:
    changes = {**LENGTH, "trainer.stochastic_evaluation": stochastic}
    plain, examined = (
        make_runner(backend, task, [{"seed": seed, **changes, **more} for seed in (1, 2)]) for more in ({}, EXAM)
    )
    list(plain.reports())
    reports = list(examined.reports())
    for one, other in zip(plain.states(), examined.states(), strict=True):
        assert fingerprint(one, but=("seconds", "records", "best")) == fingerprint(
            other, but=("seconds", "records", "best")
        )
    exams = [
        (record.timestep, *(record.values[tag] for tag in VALUES))
        for report in reports
        if (record := report.records[0]) is not None and tracking.EVALUATION_MEAN in record.values
    ]
    assert [timestep for timestep, *_ in exams] == [16, 32, 48, 64]
    assert all(least <= mean <= most and length >= 1 for _, mean, most, least, length in exams)
    if task == "Pendulum-v1":
        assert len({mean for _, mean, *_ in exams}) > 1, "the policy has changed"


def test_what_is_examined_is_saved_and_the_best_of_it_is_the_best_agent() -> None:
    runner = make_runner("torch", "CartPole-v1", [{"seed": 1, **LENGTH, **EXAM}])
    best, scores = [], []
    for report in runner.reports():
        record = report.records[0]
        if record is not None and tracking.EVALUATION_MEAN in record.values:
            assert report.checkpoint
            scores.append(record.values[tracking.EVALUATION_MEAN])
            best.append(bool(report.best))
            episodes = runner.evaluate(episodes=4, at_once=4)
            assert np.mean([episode.ret for episode in episodes]) == scores[-1], "the same episodes every time"
        else:
            assert not report.best
    assert best == [score > max([-np.inf, *scores[:i]]) for i, score in enumerate(scores)]


def test_an_environment_that_cannot_be_made_again_is_refused() -> None:
    config = make_config({**LENGTH, **EXAM}, "CategoricalMixin")
    runner = runner_class("torch")(wrap_env(make_vector(Truncation, 3)), config)
    with pytest.raises(UserError, match=r"evaluation\.interval: a second SyncVectorEnv cannot be made"):
        next(iter(runner.reports()))


@pytest.mark.parametrize("env", [Truncation, lambda: make_vector(Truncation, 2)])
def test_an_environment_that_is_trained_in_is_not_evaluated_in(env: Any) -> None:
    """Training would go on from observations that are no longer its own."""
    runner = runner_class("torch")(wrap_env(env()), make_config(LENGTH, "CategoricalMixin"))
    reports = runner.reports()
    next(reports)
    with pytest.raises(UserError, match="is in the middle of training, and a second one cannot be made; allowed: when"):
        runner.evaluate()
    reports.close()
    assert len(runner.evaluate()) == runner.env.num_envs
