"""Environments of Python in other processes: the same numbers, every failure told, no process left."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from runner.envs import processes
from runner.envs.base import VectorEnv
from runner.envs.named.recipe import Recipe
from runner.envs.processes import Processes
from runner.envs.python import InProcess, PythonTask
from runner.errors import FailedEnvironmentError, UserError
from runner.torch import Runner
from tests.point import DoingAtStep, Helped, Parts, Point, fail, hang, leave
from tests.runner.builders import fingerprint, make_config

SEEDS = [11, 22, 33, 44, 55]


def task(make: Any, **arguments: Any) -> PythonTask:
    return PythonTask(Recipe("Point", make, arguments), len(SEEDS))


def in_two(make: Any, **arguments: Any) -> Processes:
    found = task(make, **arguments).seeded(SEEDS, 2)
    assert isinstance(found, Processes)
    return found


def pids(env: Processes) -> list[int]:
    return [child._process.pid for child in env._children]


def alive(pid: int) -> bool:
    """It exists, and is not only a dead child that nobody has asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(numbers: list[int], seconds: float = 200.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, numbers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, numbers))


def played(env: VectorEnv, steps: int = 12) -> list[np.ndarray]:
    """Everything that an environment gives, some steps being of some environments only."""
    rng, found = np.random.default_rng(0), [env.reset()[0]]
    for step in range(steps):
        actions = np.stack([(rng.random(env.actions.shape) * 2) for _ in SEEDS]).astype(env.actions.dtype)
        chosen = np.flatnonzero(rng.random(len(SEEDS)) < 0.6) if step % 3 == 2 else np.arange(len(SEEDS))
        found += env.step_some(actions, chosen)[:4]
    return [*found, env.reset()[0]]


@pytest.mark.parametrize("make", [partial(Point, length=3), Parts])
def test_what_processes_step_is_what_this_process_steps(make: Any) -> None:
    own = task(make).seeded(SEEDS, 1)
    other = in_two(make)
    assert isinstance(own, InProcess)
    for mine, theirs in zip(played(own), played(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    other.close()
    assert gone(pids(other))


def test_how_many_processes_step_changes_nothing_that_is_trained() -> None:
    trained = []
    for threads in (1, 2):
        runner = Runner(task(Point, length=5), make_config({"trainer.timesteps": 16}), seeds=[1, 2], threads=threads)
        for _ in runner.reports():
            pass
        trained.append([fingerprint(state) for state in runner.states()])
    assert trained[0] == trained[1]


def test_the_row_after_an_episode_is_its_reset() -> None:
    env = in_two(Point, length=2)
    first, still = env.reset()[0], np.zeros((len(SEEDS), 1), np.float32)
    steps = [env.step(still) for _ in range(3)]
    assert [bool(truncated.all()) for _, _, _, truncated, _ in steps] == [False, True, False]
    assert steps[1][0][:, 1].tolist() == [2.0] * len(SEEDS)  # the last observation of the episode
    assert steps[2][0][:, 1].tolist() == [0.0] * len(SEEDS)
    assert not steps[2][1].any()
    assert not np.array_equal(steps[2][0], first)


def test_functions_that_no_module_has_are_sent_too() -> None:
    length = 7

    class Local(Point):
        def seen(self) -> Any:
            return np.full(3, length, np.float32)

    assert (in_two(lambda: Local()).reset()[0] == 7).all()
    lock = threading.Lock()
    with pytest.raises(UserError, match=r"cannot be sent to another process: TypeError: cannot pickle '_thread\.lock'"):
        in_two(lambda: Point(int(lock.locked()) + 3))


@pytest.mark.parametrize(
    ("do", "words", "note"),
    [
        (fail, r"raised in its step: ZeroDivisionError: the point fell off", "in fail"),
        (leave, r"raised in its step: SystemExit: 3", "SystemExit"),
        (partial(os._exit, 3), r"ended its process: exit status 3", None),
        (partial(signal.raise_signal, signal.SIGSEGV), r"ended its process: SIGSEGV", "point.py"),
        (hang, r"has not answered for 0 s", "in hang"),
    ],
)
def test_a_failure_is_told_with_its_environment(
    do: Any, words: str, note: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = in_two(DoingAtStep, do=do, seed=44)
    env.reset()
    still = np.zeros((len(SEEDS), 1), np.float32)
    for _ in range(2):
        env.step(still)
    if do is hang:
        for name, seconds in (("HUNG", 0.3), ("LOOK", 0.1), ("END", 0.5)):
            monkeypatch.setattr(processes, f"{name}_SECONDS", seconds)
    with pytest.raises(FailedEnvironmentError, match=f"the environment with seed 44 {words}") as raised:
        env.step(still)
    assert (raised.value.environment, raised.value.member(5), raised.value.member(2)) == (3, 3, 1)
    if note:
        assert note in "".join(raised.value.__notes__)
    assert gone(pids(env))
    with pytest.raises(UserError, match="these environments are closed"):
        env.step(still)


@pytest.mark.parametrize("at", ["constructor", "reset"])
def test_a_failure_at_the_beginning_is_told_alike_in_every_process(at: str) -> None:
    def make() -> gymnasium.Env[Any, Any]:
        return DoingAtStep(fail, SEEDS[0], at)

    like = task(Point)
    told = []
    for build in (partial(Processes, processes=2), InProcess):
        with pytest.raises(FailedEnvironmentError, match=f"raised in its {at}: ZeroDivisionError") as raised:
            build(like, make, SEEDS).reset()
        told.append(str(raised.value))
    assert told[0] == told[1]


def test_nobody_keeps_processes_that_nobody_has() -> None:
    env = in_two(Point)
    numbers = pids(env)
    assert all(map(alive, numbers))
    del env
    gc.collect()
    assert gone(numbers)


PROGRAM = """
import sys, time, threading
import numpy as np
from tests.point import DoingAtStep, hang
from runner.envs.python import PythonTask
from runner.envs.named.recipe import Recipe
env = PythonTask(Recipe("Point", DoingAtStep, {"do": hang, "seed": 11}), 5).seeded([11, 22, 33, 44, 55], 2)
env.reset()
print(*(child._process.pid for child in env._children), flush=True)
while True:
    env.step(np.zeros((5, 1), np.float32))
"""


def test_processes_end_with_one_that_is_killed_even_while_they_hang() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        numbers = [int(word) for word in program.stdout.readline().split()]
        assert len(numbers) == 2
        program.kill()
    assert gone(numbers)


def test_what_environments_have_started_ends_with_one_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = in_two(Helped, folder=tmp_path)
    env.reset()
    for name, seconds in (("HUNG", 0.3), ("LOOK", 0.1), ("END", 0.5)):
        monkeypatch.setattr(processes, f"{name}_SECONDS", seconds)
    with pytest.raises(FailedEnvironmentError, match="has not answered"):
        for _ in range(3):
            env.step(np.zeros((len(SEEDS), 1), np.float32))
    helpers = [int(file.name) for file in tmp_path.iterdir()]
    assert len(helpers) == len(SEEDS) + 1 and gone(helpers, 20.0)


def test_what_environments_have_started_ends_with_one_that_is_killed(tmp_path: Path) -> None:
    helped = PROGRAM.replace("DoingAtStep", "Helped").replace('{"do": hang, "seed": 11}', f'{{"folder": "{tmp_path}"}}')
    with subprocess.Popen([sys.executable, "-c", helped], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None and program.stdout.readline()
        program.kill()
    helpers = [int(file.name) for file in tmp_path.iterdir()]
    assert len(helpers) == len(SEEDS) + 1 and gone(helpers, 20.0)


def test_what_environments_print_and_ask_for_keeps_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    def ask() -> None:
        print("hello from the point")
        with pytest.raises(EOFError):
            input("how far? ")

    env = in_two(DoingAtStep, do=ask, seed=11)
    env.reset()
    for _ in range(4):
        env.step(np.zeros((len(SEEDS), 1), np.float32))
    env.close()
    assert "hello from the point" in capfd.readouterr().out


WATCHED = """
import numpy as np
from runner.envs.loop import watch
from runner.envs.named.recipe import Recipe
from runner.envs.python import PythonTask
from tests.point import DoingAtStep, hang
env = PythonTask(Recipe("Point", DoingAtStep, {"do": hang, "seed": 33}), 5).seeded([11, 22, 33, 44, 55], 1)
watch(0.4)
env.reset()
while True:
    env.step(np.zeros((5, 1), np.float32))
"""


def test_a_worker_that_steps_one_that_hangs_says_so_and_ends() -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == "FailedEnvironmentError: the environment with seed 33 has not answered for 0 s"
    )
    assert "in hang" in done.stderr
