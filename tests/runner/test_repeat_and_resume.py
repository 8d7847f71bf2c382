"""L2: the same run twice is the same, bit for bit. L3: a resumed run is the uninterrupted one."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from runner.api import Runner
from runner.config import Config
from runner.draws import environment_seeds
from runner.training.evaluate import EVALUATION_RESET
from runner.training.state import MemberState
from runner.training.tracking import SCORE
from tests.runner.builders import (
    TASKS,
    assert_same,
    both,
    fingerprint,
    make_config,
    make_env,
    numbers,
    plain_config,
    runner_class,
    told,
    until,
)

pytestmark = pytest.mark.usefixtures("optimised")

SCHEDULER = "agent.learning_rate_scheduler"
ENTROPY = {"agent.entropy_loss_scale": 0.01}


def make_runner(backend: str, task: str, configs: list[Config], arguments: dict[str, Any] | None = None) -> Runner:
    env = make_env(task, 3, TASKS[task][1] if arguments is None else arguments)
    return runner_class(backend)(env, configs[0], configs=configs, threads=1)


# ---------------------------------------------------------------------------------------------- L2


@pytest.mark.parametrize(("backend", "task"), both(TASKS, jax=["Pendulum-v1"]))
def test_two_runs_are_bit_equal(backend: str, task: str) -> None:
    changes = {"trainer.timesteps": 32, SCHEDULER: "KLAdaptiveLR", **ENTROPY}
    configs = [make_config({"seed": seed, **changes}, TASKS[task][0]) for seed in (1, 2)]
    runs = [make_runner(backend, task, configs) for _ in range(2)]
    reports = [[told(r) for r in run.reports()] for run in runs]
    assert reports[0] == reports[1]
    for one, other in zip(runs[0].states(), runs[1].states(), strict=True):
        assert fingerprint(one) == fingerprint(other)
    others = make_runner(backend, task, [make_config({"seed": seed, **changes}, TASKS[task][0]) for seed in (1, 3)])
    list(others.reports())
    prints = {fingerprint(state) for run in (runs[0], others) for state in run.states()}
    assert len(prints) == 3, "the seed changes nothing, or that of another member something"


@pytest.mark.parametrize(("backend", "task"), [("torch", "HalfCheetah-v4"), ("jax", "Pendulum-v1")])
def test_the_number_of_stepping_threads_changes_nothing(backend: str, task: str) -> None:
    config = make_config({"trainer.timesteps": 24})
    env = make_env(task, 3, TASKS[task][1])
    prints = set()
    for threads in (1, 3):
        runner = runner_class(backend)(env, config, threads=threads)
        list(runner.reports())
        prints.add(fingerprint(runner.states()[0]))
    assert len(prints) == 1


def test_evaluating_and_acting_between_does_not_change_training(backend: str) -> None:
    config = make_config({"trainer.timesteps": 24, "trainer.stochastic_evaluation": True})
    plain, busy = (make_runner(backend, "Pendulum-v1", [config]) for _ in range(2))
    list(plain.reports())
    for _ in busy.reports():
        torch.manual_seed(int(np.random.default_rng().integers(2**31)))
        busy.evaluate()
        busy.agent.act(np.zeros((4, 3), np.float32))
    assert fingerprint(plain.states()[0]) == fingerprint(busy.states()[0])


# ---------------------------------------------------------------------------------------------- L3

RESUMED: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("Pendulum-v1", {SCHEDULER: "linear"}),
    "cosine, first epoch": ("Pendulum-v1", {SCHEDULER: "cosine"}),
    "adaptive": ("Pendulum-v1", {SCHEDULER: "KLAdaptiveLR", **ENTROPY}),
    "frozen": ("Pendulum-v1", {"agent.observation_statistics": "frozen", SCHEDULER: "KLAdaptiveLR"}),
    "no statistics": ("Pendulum-v1", {"agent.observation_preprocessor": None, "agent.value_preprocessor": None}),
    "categorical, one minibatch": ("CartPole-v1", {SCHEDULER: "KLAdaptiveLR", "agent.mini_batches": 1}),
    "episodes longer than a rollout": ("HalfCheetah-v4", {SCHEDULER: "KLAdaptiveLR"}),
}
LENGTH, STOP = 48, 24


@pytest.mark.parametrize(("backend", "case"), both(RESUMED, jax=["linear", "adaptive"]))
def test_a_resumed_run_equals_the_uninterrupted_one(backend: str, case: str) -> None:
    task, changes = RESUMED[case]
    changes = {"trainer.timesteps": LENGTH, "agent.experiment.checkpoint_interval": 8, **changes}
    configs = [make_config({"seed": seed, **changes}, TASKS[task][0]) for seed in (1, 2)]
    arguments = {"max_episode_steps": 11} if "longer" in case else None
    first = make_runner(backend, task, configs, arguments)
    before = [told(r) for r in until(first, STOP)]
    assert all(fingerprint(s) for s in first.states()) and first.states()[0].counters.timestep == STOP
    files = [first.checkpoint(member, state) for member, state in enumerate(first.states())]

    resumed = make_runner(backend, task, configs, arguments)
    resumed.restore(files)
    for mine, theirs in zip(resumed.states(), first.states(), strict=True):
        assert fingerprint(mine, but=()) == fingerprint(theirs, but=()), "a checkpoint loses something"
    rest = [told(r) for r in resumed.reports()]

    # The uninterrupted run: the same process and memory, its environments reset at this timestep.
    straight = [told(r) for r in first.reports()]
    assert rest == straight
    for mine, theirs in zip(resumed.states(), first.states(), strict=True):
        assert fingerprint(mine) == fingerprint(theirs)
        assert mine.counters.timestep == LENGTH and mine.counters.env_steps == 3 * LENGTH
    indices = [report[0][0][0] for report in [*before[1:], *rest[1:]]]
    assert indices == list(range(LENGTH // 8)), "records are numbered without gap or repetition"


def test_environments_are_seeded_by_the_timestep_of_their_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [make_config({"seed": seed, "trainer.timesteps": LENGTH}) for seed in (1, 2)]
    runner = make_runner("torch", "Pendulum-v1", configs)
    used: list[list[int]] = []
    seeded = runner.env.seeded

    def recording(seeds: Any, threads: int | None = None) -> Any:
        used.append(list(seeds))
        return seeded(seeds, threads)

    monkeypatch.setattr(runner.env, "seeded", recording)
    list(until(runner, STOP))
    list(runner.reports())
    runner.evaluate()
    for seeds, timestep in zip(used, (0, STOP, EVALUATION_RESET), strict=True):
        assert seeds == environment_seeds(1, 3, timestep) + environment_seeds(2, 3, timestep)


def test_a_run_to_the_end_in_one_go_counts_as_the_resumed_one() -> None:
    """Only the environments' reset tells the two apart: counters, schedules and the number of steps agree."""
    config = make_config({"trainer.timesteps": LENGTH, SCHEDULER: "linear", "agent.experiment.checkpoint_interval": 8})
    whole, resumed = make_runner("torch", "Pendulum-v1", [config]), make_runner("torch", "Pendulum-v1", [config])
    list(whole.reports())
    list(until(resumed, STOP))
    data = resumed.checkpoint(0, resumed.states()[0])
    resumed = make_runner("torch", "Pendulum-v1", [config])
    resumed.restore([data])
    list(resumed.reports())
    mine, theirs = (dataclasses.asdict(run.states()[0].counters) for run in (resumed, whole))
    for name in ("update", "timestep", "env_steps", "records", "optimizer_steps", "learning_rate", "diverged"):
        assert mine[name] == theirs[name], name


def test_the_linear_schedule_ends_near_zero_and_starts_at_the_whole_rate() -> None:
    config = make_config({"trainer.timesteps": 32, SCHEDULER: "linear"})
    runner = make_runner("torch", "Pendulum-v1", [config])
    rates = [r.records[0].values["Learning / Learning rate"] for r in runner.reports() if r.records[0]]
    np.testing.assert_allclose(rates, [1e-3, 7.5e-4, 5e-4, 2.5e-4], rtol=1e-6)


def test_the_best_score_survives_and_only_a_better_one_replaces_it() -> None:
    changes = {"trainer.timesteps": LENGTH, "agent.experiment.checkpoint_interval": 8}
    runner = make_runner("torch", "Pendulum-v1", [make_config(changes)])
    assert runner.states()[0].counters.best == -math.inf
    list(until(runner, STOP))
    state = runner.states()[0]
    assert math.isfinite(state.counters.best) and state.counters.best >= state.counters.score
    unbeatable = dataclasses.replace(state, counters=dataclasses.replace(state.counters, best=1e9))
    resumed = make_runner("torch", "Pendulum-v1", [make_config(changes)])
    resumed.restore([runner.checkpoint(0, unbeatable)])
    assert not any(report.best for report in resumed.reports())
    assert resumed.states()[0].counters.best == 1e9
    beatable = dataclasses.replace(state, counters=dataclasses.replace(state.counters, best=-1e9))
    resumed = make_runner("torch", "Pendulum-v1", [make_config(changes)])
    resumed.restore([runner.checkpoint(0, beatable)])
    assert any(report.best for report in resumed.reports())


def test_the_score_survives_until_another_episode_ends(backend: str) -> None:
    config = make_config({"trainer.timesteps": 24, "agent.experiment.write_interval": 8})
    arguments = {"max_episode_steps": 12}
    runner = make_runner(backend, "Pendulum-v1", [config], arguments)
    list(until(runner, 16))
    state = runner.states()[0]
    resumed = make_runner(backend, "Pendulum-v1", [config], arguments)
    resumed.restore([runner.checkpoint(0, state)])
    (record,) = [record for report in resumed.reports() for record in report.records if record]
    assert "Episode / Total timesteps (max)" not in record.values, "an episode of 12 steps ends in 8"
    assert record.values[SCORE] == state.counters.score == resumed.states()[0].counters.score


def test_a_diverged_member_stays_frozen_after_a_resume(backend: str) -> None:
    changes = {"trainer.timesteps": 24, **RESUMED["adaptive"][1]}
    sick = make_config({"agent.learning_rate": 1e30, "agent.value_clip": 0.0, **changes})
    configs = [make_config(changes), sick]
    runner = make_runner(backend, "Pendulum-v1", configs)
    list(until(runner, 16))
    states = runner.states()
    assert [s.counters.diverged for s in states] == [False, True]
    resumed = make_runner(backend, "Pendulum-v1", configs)
    resumed.restore([runner.checkpoint(m, s) for m, s in enumerate(states)])
    reports = list(resumed.reports())
    after = resumed.states()
    assert [s.counters.diverged for s in after] == [False, True]
    assert all(report.records[1] is None for report in reports)
    np.testing.assert_array_equal(after[1].parameters, states[1].parameters)
    assert not np.array_equal(after[0].parameters, states[0].parameters)


def went_on(backend: str) -> tuple[MemberState, MemberState]:
    """A member before and after two updates of its pack: one of healthy numbers, but marked as diverged."""
    changes = {"trainer.timesteps": 16, **RESUMED["adaptive"][1]}
    configs = [make_config({"seed": seed, **changes}) for seed in (1, 2)]
    runner = make_runner(backend, "Pendulum-v1", configs)
    healthy, frozen = runner.states()
    frozen = dataclasses.replace(frozen, counters=dataclasses.replace(frozen.counters, diverged=True))
    runner.restore([runner.checkpoint(member, state) for member, state in enumerate((healthy, frozen))])
    list(runner.reports())
    after = runner.states()
    assert [state.counters.diverged for state in after] == [False, True]
    assert not np.array_equal(after[0].parameters, healthy.parameters)
    return frozen, after[1]


def test_a_diverged_member_learns_nothing_even_if_its_numbers_would_let_it(backend: str) -> None:
    before, after = (numbers(state) for state in went_on(backend))
    for name in ("parameters", "first_moment", "second_moment", "optimizer_steps", "learning_rate"):
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_a_diverged_members_statistics_stay_those_that_it_learned_with(backend: str) -> None:
    before, after = went_on(backend)
    assert_same(after, before)


def test_a_longer_run_goes_on_where_the_shorter_one_ended(backend: str) -> None:
    short, long = (make_config({"trainer.timesteps": length}) for length in (16, 32))
    runner = make_runner(backend, "Pendulum-v1", [short])
    list(runner.reports())
    data = runner.checkpoint(0, runner.states()[0])
    extended = make_runner(backend, "Pendulum-v1", [long])
    extended.restore([data])
    records = [r.records[0] for r in extended.reports() if r.records[0]]
    assert [(r.index, r.timestep) for r in records] == [(2, 24), (3, 32)]
    finished = make_runner(backend, "Pendulum-v1", [long])
    finished.restore([extended.checkpoint(0, extended.states()[0])])
    assert len(list(finished.reports())) == 1, "a finished run trains no further"
    assert fingerprint(finished.states()[0]) == fingerprint(extended.states()[0])


def test_the_plain_configuration_means_what_the_typed_one_means() -> None:
    plain = runner_class("torch")(make_env("Pendulum-v1", 3), plain_config({"trainer.timesteps": 16}), threads=1)
    typed = runner_class("torch")(make_env("Pendulum-v1", 3), make_config({"trainer.timesteps": 16}), threads=1)
    for runner in (plain, typed):
        list(runner.reports())
    assert fingerprint(plain.states()[0]) == fingerprint(typed.states()[0])


def test_a_stop_ends_with_the_next_update_in_a_record_and_a_checkpoint_to_go_on_from(backend: str) -> None:
    never = {"agent.experiment.write_interval": 800, "agent.experiment.checkpoint_interval": 800}
    config = make_config({"trainer.timesteps": 800, **never}, TASKS["CartPole-v1"][0])
    runner = make_runner(backend, "CartPole-v1", [config])
    answers = iter([False, False, True])
    ready, last = runner.reports(lambda: next(answers))
    assert ready.records == [None]
    assert last.checkpoint and last.records[0] is not None
    assert last.records[0].timestep == 24
    assert not runner.finished
    (state,) = runner.states()
    assert (state.counters.timestep, state.counters.records) == (24, 1)
