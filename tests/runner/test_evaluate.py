"""Whole episodes with fixed policies; event files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner.draws import environment_seeds
from runner.envs.base import VectorEnv
from runner.envs.envpool import EnvPoolTask
from runner.envs.wrap import wrap_env
from runner.errors import FailedEnvironmentError, UserError
from runner.training.evaluate import EVALUATION_RESET, Episode, play
from runner.training.tracking import TensorBoard
from tests.parallel import Stay, Timetable
from tests.probe_envs import PoisonReset, Truncation, make_vector


def test_every_environment_plays_one_episode_however_short_it_is() -> None:
    env = wrap_env(PoisonReset(4, length=2, stagger=2))
    right = play(env.opened, lambda carry, rows, step: (carry, (rows[:, 0] > 0).astype(int)), [7, 7], 2, 2)
    first, second = environment_seeds(7, 2, EVALUATION_RESET)
    assert right == [
        Episode(0, 0, 2, 2, first),
        Episode(0, 1, 3, 3, second),
        Episode(1, 0, 2, 2, first),
        Episode(1, 1, 3, 3, second),
    ]
    wrong = play(env.opened, lambda carry, rows, step: (carry, (rows[:, 0] <= 0).astype(int)), [7], 4, 4)
    assert [(e.ret, e.length) for e in wrong] == [(0, 2), (0, 3), (0, 2), (0, 3)]


def test_the_same_episodes_are_played_however_many_at_once() -> None:
    made: list[list[int]] = []

    def opened(seeds: Sequence[int]) -> AbstractContextManager[VectorEnv]:
        made.append(list(seeds))
        return EnvPoolTask("Pendulum-v1", 1, {"max_episode_steps": 20}).opened(seeds, 1)

    def still(carry: Any, observations: np.ndarray, _: int) -> tuple[Any, np.ndarray]:
        return carry, np.zeros((len(observations), 1), np.float32)

    whole = play(opened, still, [1, 2], episodes=5, at_once=5)
    assert play(opened, still, [1, 2], episodes=5, at_once=2) == whole
    assert [len(seeds) for seeds in made] == [10, 4, 4, 4]
    assert [(e.member, e.number) for e in whole] == [(m, n) for m in range(2) for n in range(5)]
    assert len({e.ret for e in whole}) == len({e.seed for e in whole}) == 10
    assert play(opened, still, [1, 1], 5, 5)[:5] == whole[:5]


def test_a_step_that_only_begins_the_next_life_is_not_counted() -> None:
    task = EnvPoolTask("Breakout-v5", 2, {"episodic_life": True})

    def choose(carry: Any, observations: np.ndarray, step: int) -> tuple[Any, np.ndarray]:
        return carry, np.full(len(observations), step % 4)

    played = play(task.opened, choose, [3], episodes=2, at_once=2)
    for number, seed in enumerate(environment_seeds(3, 2, EVALUATION_RESET)):
        env = task.seeded([seed], 1)
        observations = env.reset()[0]
        length, lives, begins = 0, 0, False
        for step in itertools.count():
            observations, _, terminated, truncated, info = env.step(choose(None, observations, step)[1])
            length += not begins
            begins = bool(terminated[0] | truncated[0])
            lives += begins
            if info["episode_ends"][0]:
                break
        assert lives == 5
        assert played[number].length == length


def test_the_policy_is_told_the_number_of_the_step_and_what_it_remembers_of_the_episode() -> None:
    steps: list[int] = []
    remembered: list[Any] = []

    def choose(carry: Any, observations: np.ndarray, step: int) -> tuple[Any, np.ndarray]:
        steps.append(step)
        remembered.append(carry)
        return step, np.zeros(len(observations), int)

    play(wrap_env(make_vector(Truncation, 2, length=3)).opened, choose, [0], 4, 2, longest=10)
    assert steps == [0, 1, 2, 20, 21, 22]
    assert remembered == [None, 0, 1, None, 20, 21]


def test_an_agent_that_comes_late_begins_with_nothing_remembered() -> None:
    found: dict[int, set[tuple[int, int]]] = {0: set(), 1: set()}

    def choose(carry: Any, observations: np.ndarray, step: int) -> tuple[Any, np.ndarray]:
        carry = np.zeros((len(observations), 1)) if carry is None else carry
        for (_, _, time, agent), remembered in zip(observations, carry[:, 0], strict=True):
            if time == step < 5:
                found[int(agent)].add((step, int(remembered)))
        return carry + 1, np.zeros(len(observations), int)

    play(wrap_env(partial(Timetable, {"whole": Stay(0, 5), "late": Stay(2, 3)}), 1).opened, choose, [0], 1, 1)
    assert found == {0: {(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)}, 1: {(2, 0), (3, 1), (4, 2)}}


def test_an_episode_that_never_ends_is_an_error() -> None:
    env = wrap_env(make_vector(Truncation, 2, length=50))
    with pytest.raises(UserError, match="evaluation: 2 of 2 episodes did not end within 40 steps"):
        play(env.opened, lambda carry, rows, _: (carry, np.zeros(len(rows), int)), [0], 2, 2, longest=40)


def test_a_rewound_curve_shows_every_step_once(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "deep/folder")
    for x in (10, 20, 30):
        board.write(x, {"a": float(x), "b": 1.0}, 100.0 + x)
    board.restart(20, 131.0)
    for x in (20, 30):
        board.write(x, {"a": -float(x)}, 150.0 + x)
    board.close()
    events = EventAccumulator(str(tmp_path / "deep/folder"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("a")] == [(10, 10.0), (20, -20.0), (30, -30.0)]


@pytest.mark.parametrize(("at", "said"), [("reward", "a reward of nan"), ("observation", "an observation of inf")])
def test_numbers_that_are_not_finite_are_an_error(at: str, said: str) -> None:
    """As in training, whoever steps the environments; nothing is said of those whose episode is over."""
    env = wrap_env(PoisonReset(4, length=2, stagger=2))
    step = env.step_some

    def broken(actions: np.ndarray, indices: np.ndarray) -> Any:
        observations, rewards, *rest = step(actions, indices)
        if at == "reward":
            rewards[indices == 3] = np.nan
        else:
            observations[indices == 3] = np.inf
        return observations, rewards, *rest

    env.step_some = broken  # type: ignore[method-assign]
    seed = environment_seeds(7, 4, EVALUATION_RESET)[3]
    with pytest.raises(FailedEnvironmentError, match=f"environment with seed {seed} gave {said}") as caught:
        play(env.opened, lambda carry, rows, step: (carry, np.ones(len(rows), int)), [7], 4, 4)
    assert (caught.value.environment, caught.value.envs) == (3, 4)
