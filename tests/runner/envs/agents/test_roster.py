"""The mapping of rows to agents, and what it refuses."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runner.envs.agents.roster import Agents
from runner.envs.base import check_finite
from runner.errors import FailedEnvironmentError, UserError
from runner.training.evaluate import environments as numbers_of

NAMES = ("a", "b", "c")


@pytest.mark.parametrize("share", [False, True, [["a", "c"], ["b"]], [["c"], ["b", "a"]]])
def test_rows_and_agents_are_each_others_inverse(share: Any) -> None:
    agents, trials, environments = Agents.of(NAMES, share), 2, 3
    numbers = np.arange(trials * environments * 3 * 2).reshape(trials * environments, 3, 2)
    rows = agents.rows_of(numbers, environments)
    assert len(rows) == trials * environments * agents.rows
    assert np.array_equal(agents.of_rows(rows, environments), numbers)
    assert agents.fillers(trials, environments).sum() == trials * environments * (agents.rows - 3)


def test_rows_are_member_major() -> None:
    agents = Agents.of(NAMES, [["c"], ["a", "b"]])
    fillers = agents.fillers(2, 2)
    named = np.array([[f"{env}{name}" for name in NAMES] for env in range(4)])
    rows = [str(name) if real else "" for name, real in zip(agents.rows_of(named, 2), ~fillers, strict=True)]
    assert rows == ["0c", "", "1c", "", "0a", "0b", "1a", "1b", "2c", "", "3c", "", "2a", "2b", "3a", "3b"]


@pytest.mark.parametrize(
    ("share", "words"),
    [
        ([["a", "b"]], "c in no group"),
        ([["a", "b"], ["b", "c"]], "b is given twice"),
        ([["a", "b", "c"], []], "a group is empty"),
        ([["a"], ["b"], ["c", "agent"]], "has no agent 'agent'"),
    ],
)
def test_wrong_groups_are_refused(share: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Agents.of(NAMES, share)


def test_the_environment_of_a_row_that_is_not_finite_is_named() -> None:
    # Of two trials of three environments with two agents of their own each: rows are [(T, G), N].
    numbers = numbers_of(SimpleNamespace(agents=Agents.of(("left", "right")), num_envs=12), 3)  # type: ignore[arg-type]
    assert numbers.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    rewards = np.zeros(12)
    rewards[10] = math.nan
    seeds = [100 + number for number in numbers.tolist()]
    with pytest.raises(FailedEnvironmentError, match="environment with seed 104 gave a reward of nan") as caught:
        check_finite(np.zeros((12, 1)), rewards, seeds, numbers.tolist(), 6)
    assert (caught.value.environment, caught.value.envs) == (4, 6)
