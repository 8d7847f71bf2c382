"""The mapping of rows to agents, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runner.envs.agents.roster import Agents
from runner.errors import UserError

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
