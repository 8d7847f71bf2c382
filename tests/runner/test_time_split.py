"""Where the seconds of training went, as records tell it."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from runner.envs.base import Step, VectorEnv
from runner.envs.wrap import wrap_env
from runner.training import tracking
from runner.training.tracking import (
    ACT_TIME,
    ENVIRONMENT_TIME,
    EVALUATION_TIME,
    REPORT_TIME,
    ROLLOUT_TIME,
    UPDATE_TIME,
    Record,
)
from tests.probe_envs import Truncation, make_vector
from tests.runner.builders import make_config, make_env, runner_class

STEPS, SLEEP = 8, 0.002
PYTHON, COMPILED = {ENVIRONMENT_TIME, ACT_TIME}, {ROLLOUT_TIME}


class Slow(VectorEnv):
    """Sleeps in every step."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env.num_envs, env.observation_space, env.action_space)
        self._env = env

    def seeded(self, seeds: Any, threads: int | None = None) -> Slow:
        return Slow(self._env.seeded(seeds, threads))

    def reset(self) -> Any:
        return self._env.reset()

    def step(self, actions: Any) -> Step:
        time.sleep(SLEEP)
        return self._env.step(actions)


def in_python() -> VectorEnv:
    return Slow(wrap_env(make_vector(Truncation, 2, length=5)))


def in_envpool() -> VectorEnv:
    return make_env("CartPole-v1", 2)


@pytest.mark.parametrize(
    ("backend", "make", "parts"),
    [
        ("torch", in_python, PYTHON),
        ("jax", in_python, PYTHON),
        ("torch", in_envpool, PYTHON),
        ("jax", in_envpool, COMPILED),
    ],
)
def test_parts_add_up_to_the_time_of_training(backend: str, make: Callable[[], VectorEnv], parts: set[str]) -> None:
    changes = {"trainer.timesteps": 4 * STEPS, "agent.rollouts": STEPS}
    if make is in_python:
        changes |= {"evaluation.interval": 2 * STEPS, "evaluation.episodes": 2}
    config = make_config({**changes, "agent.experiment.write_interval": STEPS}, "CategoricalMixin")
    records: list[Record] = []
    for report in runner_class(backend)(make(), config, threads=1).reports():
        records += [record for record in report.records if record is not None]
        time.sleep(SLEEP)
    assert [record.timestep for record in records] == [STEPS, 2 * STEPS, 3 * STEPS, 4 * STEPS]
    seconds = [0.0, *(record.seconds for record in records)]
    for record, (before, now) in zip(records, pairwise(seconds), strict=True):
        times = {tag: value for tag, value in record.values.items() if tag.startswith(tracking.TIME)}
        evaluated = make is in_python and record.timestep % (2 * STEPS) == 0
        assert times.keys() == parts | {UPDATE_TIME, REPORT_TIME} | ({EVALUATION_TIME} if evaluated else set())
        assert min(times.values()) >= 0
        assert sum(times[tag] for tag in parts | {UPDATE_TIME}) == pytest.approx(now - before)
        assert (times[REPORT_TIME] >= SLEEP) == (record is not records[0])
        if make is in_python:
            assert times[ENVIRONMENT_TIME] >= STEPS * SLEEP
            assert not evaluated or times[EVALUATION_TIME] >= 5 * SLEEP
