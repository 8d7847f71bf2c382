"""Python environments inside compiled programs: steps in order, errors as they were raised, no deadlock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runner.errors import UserError
from runner.jax import Runner
from tests.runner.builders import fingerprint, plain_config
from tests.runner.jax.collecting import LENGTH, Counting, collector, noise, policies

ROOT = Path(__file__).parents[3]


def test_steps_happen_once_each_and_in_order() -> None:
    env = Counting(4)
    under_test = collector(env)
    seen, steps = [], 7
    for number in range(3):
        some = noise(env, steps, seed=number)
        rollout = under_test.collect(policies(), some)
        observations = np.asarray(rollout.observations).reshape(steps + 1, 4, 3)
        assert observations[:, 0, 0].tolist() == list(range(number * steps, (number + 1) * steps + 1))
        np.testing.assert_array_equal(observations[1:, :, 1], np.clip(some.reshape(steps, 4), -9, 9))
        np.testing.assert_array_equal(observations[:, :, 2], np.tile(np.arange(4), (steps + 1, 1)))
        seen += np.asarray(rollout.valid)[:, 0, 0].tolist()
    assert env.steps == 21
    assert seen == [t % (LENGTH + 1) != LENGTH for t in range(21)]


@pytest.mark.parametrize("error", [UserError("step 3: a gripper fell off"), ValueError("odd"), KeyboardInterrupt()])
def test_what_an_environment_raises_reaches_the_caller_as_itself(error: BaseException) -> None:
    under_test = collector(Counting(4, error, fails_at=3))
    with pytest.raises(type(error)) as caught:
        under_test.collect(policies(), noise(under_test.env, 7))
    assert caught.value is error
    healthy = collector(Counting(4))
    assert healthy.collect(policies(), noise(healthy.env, 7)).observations[-1, 0, 0, 0] == 7


def test_a_run_whose_environment_fails_says_so_and_keeps_what_it_has_learned() -> None:
    config = plain_config({"trainer.timesteps": 32})
    error = UserError("step 19: a gripper fell off")
    runner = Runner(Counting(error=error, fails_at=19), config)
    reports = runner.reports()
    _ready, _, second = (next(reports) for _ in range(3))
    before = fingerprint(runner.states()[0])
    with pytest.raises(UserError, match="step 19: a gripper fell off") as caught:
        next(reports)
    assert caught.value is error
    assert second.records[0] is not None and second.records[0].timestep == 16 == runner.states()[0].counters.timestep
    assert fingerprint(runner.states()[0]) == before
    again = Runner(Counting(), config)
    list(again.reports())
    assert again.finished


PROGRAM = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import jax, jax.numpy as jnp
import numpy as np
from runner.errors import UserError
from tests.runner.jax.collecting import MEMBERS, Counting, collector, noise, policies

env = Counting(4096)
under_test = collector(env)
for number in range(8):
    rollout = under_test.collect(policies(), noise(env, 16, seed=number))
    np.asarray(rollout.observations).sum()
assert env.steps == 128
print("done", flush=True)

@jax.jit
def unready(x):
    return jax.lax.fori_loop(0, 20, lambda _, y: jnp.sin(y @ y), x)[0, :MEMBERS]

numbers = jnp.ones((1000, 1000))
unready(numbers).block_until_ready()
for error in (UserError("one"), ValueError("two"), UserError("three")):
    try:
        failing = collector(Counting(4, error, fails_at=3))
        failing.collect(unready(numbers), noise(failing.env, 8))
    except Exception as caught:
        print("itself" if caught is error else type(caught).__name__, flush=True)
healthy = collector(Counting(4))
healthy.collect(unready(numbers), noise(healthy.env, 8))
print("healthy")
"""


@pytest.fixture(scope="module")
def beside() -> list[str]:
    """What a process on one core prints whose compiled programs run beside the thread that started them.

    XLA runs a program there when its arguments are large, or are themselves still being computed, as the policies
    after an update are.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout.split()


def test_thousands_of_environments_on_one_core_do_not_deadlock(beside: list[str]) -> None:
    assert beside[:1] == ["done"]


def test_errors_of_programs_that_run_beside_the_caller_reach_it_as_themselves(beside: list[str]) -> None:
    assert beside[1:] == ["itself", "itself", "itself", "healthy"]
