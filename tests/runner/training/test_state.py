"""The state of a member: stacked and taken apart without a change, and with the Hyper numbers that it was made with."""

from __future__ import annotations

from typing import Any

import pytest

from runner.training.pack import Hyper, changes_of
from runner.training.state import members, stacked
from tests.runner.builders import assert_same, fingerprint, make_config, make_env, runner_class

LENGTH: dict[str, Any] = {"trainer.timesteps": 32, "agent.learning_rate_scheduler": "LinearLR", "agent.class": "RPO"}
NUMBERS: list[dict[str, Any]] = [
    {"agent.learning_rate": 1e-3, "agent.entropy_loss_scale": 0.0, "agent.alpha": 0.5},
    {"agent.learning_rate": 5e-3, "agent.entropy_loss_scale": 0.1, "agent.alpha": 0.1},
]


def make_runner(backend: str, numbers: list[dict[str, Any]]) -> Any:
    configs = [make_config({**LENGTH, **some}) for some in numbers]
    return runner_class(backend)(make_env("Pendulum-v1"), configs[0], configs=configs, threads=1)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_copied_member_takes_its_numbers_along(backend: str) -> None:
    runner, copies = make_runner(backend, NUMBERS), make_runner(backend, NUMBERS)
    halfway = iter([False, False, True])
    list(runner.reports(lambda: next(halfway, False)))
    first, second = runner.states()
    assert (first.counters.update, second.hyper.alpha) == (3, pytest.approx(0.1))
    copies.agent.restore([second, second])
    list(runner.reports())
    list(copies.reports())
    one, other = copies.states()
    assert one.counters.update == 4 and one.hyper == other.hyper == second.hyper
    # Both have one seed, so that they are the same member by now.
    assert fingerprint(one, but=("seconds", "best", "score")) == fingerprint(other, but=("seconds", "best", "score"))
    assert_same(one, runner.states()[1], rtol=1e-5)


def assert_states(runner: Any, other: Any) -> None:
    """The same members, bit for bit, but for how long they took."""
    for one, two in zip(runner.states(), other.states(), strict=True):
        assert fingerprint(one, but=("seconds",)) == fingerprint(two, but=("seconds",))
        assert one.hyper == two.hyper


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_numbers_change_while_it_trains_as_a_copy_would_get_them(backend: str) -> None:
    changes = [{"at": 16, "learning_rate": 5e-3, "entropy_loss_scale": 0.2}, {"at": 20, "alpha": 0.2}]
    changing = [NUMBERS[0], {**NUMBERS[1], "agent.changes": changes}]
    runner, plain = make_runner(backend, changing), make_runner(backend, NUMBERS)
    for one in (runner, plain):
        list(one.reports(until=16))
    files = [[one.checkpoint(member, state) for member, state in enumerate(one.states())] for one in (runner, plain)]
    # Nothing has changed before; then it has, also for who goes on from a checkpoint of that moment.
    assert_states(runner, plain)
    resumed, copied = make_runner(backend, changing), make_runner(backend, NUMBERS)
    resumed.restore(files[0])
    copied.restore(files[1])
    (first, numbers), (second, later) = changes_of(resumed.configs[1])
    assert (first, second, numbers["alpha"], later["alpha"]) == (16, 20, 0.1, 0.2)
    copied.exploit({1: (files[1][1], numbers, 1.0)})
    inside = make_runner(backend, NUMBERS)
    inside.restore(files[1])
    inside.exploit({1: (1, numbers, 1.0)})
    assert_states(inside, copied)
    swapped = make_runner(backend, NUMBERS)
    swapped.restore(files[1])
    swapped.exploit({0: (1, numbers, 0.5), 1: (0, numbers, 1.0)})
    assert [one.parameters.tobytes() for one in swapped.states()] == [
        one.parameters.tobytes() for one in plain.states()
    ][::-1]
    for one, at in ((resumed, 32), (copied, 24)):
        list(one.reports(until=at))
    assert resumed.states()[1].hyper == Hyper(**later)
    half = make_runner(backend, changing)
    half.restore(files[0])
    list(half.reports(until=24))
    for one, other in zip(half.states(), copied.states(), strict=True):
        assert fingerprint(one, but=("seconds", "best", "score")) == fingerprint(
            other, but=("seconds", "best", "score")
        )
    # A checkpoint of a moment between two changes goes on with the first and takes up the second.
    again = make_runner(backend, changing)
    again.restore([half.checkpoint(member, state) for member, state in enumerate(half.states())])
    assert again.states()[1].hyper == Hyper(**numbers)
    list(again.reports())
    assert again.states()[1].hyper == Hyper(**later) and again.states()[0].hyper == runner.states()[0].hyper


def test_stacked_states_come_apart_as_they_were() -> None:
    states = make_runner("torch", NUMBERS).states()
    assert isinstance(states[0].hyper, Hyper) and states[0].observation_statistics is not None
    for before, after in zip(states, members(stacked(states)), strict=True):
        assert fingerprint(before, but=()) == fingerprint(after, but=())
        assert before.hyper == after.hyper
