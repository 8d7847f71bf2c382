"""A checkpoint of one backend is one of the other: it acts, scores and trains on as it would have at home."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from runner.api import Runner
from runner.training.tracking import STEPS_PER_SECOND, Record
from tests.records import untimed
from tests.runner.builders import TASKS, assert_same, make_config, make_env, runner_class

pytestmark = pytest.mark.usefixtures("optimised")

BACKENDS = ("torch", "jax")
# Everything that a checkpoint carries matters: statistics, moments, the learning rate as the schedule left it.
SETTINGS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"agent.learning_rate_scheduler": "KLAdaptiveLR", "agent.entropy_loss_scale": 0.01},
    "CartPole-v1": {},
}


def make_runner(backend: str, task: str, timesteps: int = 16) -> Runner:
    policy, arguments = TASKS[task]
    seeds = (1, 2) if task == "Pendulum-v1" else (1,)
    changes = {"trainer.timesteps": timesteps, **SETTINGS[task]}
    configs = [make_config({"seed": seed, **changes}, policy) for seed in seeds]
    return runner_class(backend)(make_env(task, 3, arguments), configs[0], configs=configs, threads=1)


def checkpoints(runner: Runner) -> list[bytes]:
    return [runner.checkpoint(member, state) for member, state in enumerate(runner.states())]


@pytest.fixture(scope="module", params=list(SETTINGS))
def trained(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Runner], dict[str, list[Record]]]]:
    """(task, a runner of each backend after two updates, their records)."""
    task: str = request.param
    runners = {backend: make_runner(backend, task) for backend in BACKENDS}
    records = {}
    for backend, runner in runners.items():
        records[backend] = [record for report in runner.reports() for record in report.records if record]
    yield task, runners, records


def test_both_backends_report_the_same(
    trained: tuple[str, dict[str, Runner], dict[str, list[Record]]],
) -> None:
    _, runners, records = trained
    assert len(records["torch"]) == len(records["jax"]) == 2 * len(runners["jax"].states())
    for one, other in zip(records["torch"], records["jax"], strict=True):
        assert (one.index, one.timestep, one.env_steps) == (other.index, other.timestep, other.env_steps)
        assert list(untimed(one.values)) == list(untimed(other.values))
        assert other.values[STEPS_PER_SECOND] > 0 and other.seconds > 0
        for tag in untimed(one.values):
            assert other.values[tag] == pytest.approx(one.values[tag], rel=1e-3, abs=1e-4), tag
    for mine, theirs in zip(runners["torch"].states(), runners["jax"].states(), strict=True):
        assert_same(mine, theirs, rtol=1e-3)


@pytest.mark.parametrize("home", BACKENDS)
def test_a_checkpoint_of_one_backend_acts_scores_and_trains_on_in_the_other(
    home: str, trained: tuple[str, dict[str, Runner], dict[str, list[Record]]]
) -> None:
    task, runners, _ = trained
    files = checkpoints(runners[home])
    loaded = {backend: make_runner(backend, task, timesteps=24) for backend in BACKENDS}
    for runner in loaded.values():
        runner.restore(files)
        for mine, theirs in zip(runner.states(), runners[home].states(), strict=True):
            assert_same(mine, theirs)
            assert mine.counters == theirs.counters
    torch, jax = loaded["torch"], loaded["jax"]
    rows = np.random.default_rng(0).normal(size=(len(files) * 3, torch.env.observation_size)).astype(np.float32)
    for deterministic in (True, False):
        actions = [r._members.choose(None, rows, deterministic, 1)[1] for r in (torch, jax)]
        assert actions[0].shape == actions[1].shape
        np.testing.assert_allclose(*actions, rtol=1e-5, atol=1e-5)
        returns = [[(e.member, e.number, e.length, e.ret) for e in r.evaluate(deterministic)] for r in (torch, jax)]
        np.testing.assert_allclose(*returns, rtol=1e-5, atol=1e-5)

    for runner in (torch, jax):
        list(runner.reports())
    for mine, theirs, before in zip(torch.states(), jax.states(), runners[home].states(), strict=True):
        assert_same(theirs, mine, rtol=1e-5)
        assert theirs.counters.timestep == mine.counters.timestep == 24
        assert theirs.counters.optimizer_steps == before.counters.optimizer_steps + 4
        assert not np.array_equal(theirs.parameters, before.parameters)
