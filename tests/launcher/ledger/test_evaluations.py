"""Evaluations of several agents, which not every ledger has a table for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launcher.ledger import evaluations
from launcher.ledger.evaluations import Evaluation, agents_of
from tests.launcher import report_launches


def test_returns_of_each_agent_are_kept_beside_those_of_the_team(tmp_path: Path) -> None:
    (trial,) = report_launches.build(tmp_path / "run", seeds=1)
    before = evaluations.read(tmp_path / "run")
    assert all(one.each == {} for one in before)
    alone = Evaluation("alone", "{}", trial.id, 1, (1.0,), (1,), (0,))
    team = Evaluation("team", "{}", trial.id, 2, (5.0, 7.0), (1, 1), (0, 1), each={"b": (2.0, 3.0), "a": (3.0, 4.0)})
    for _ in range(2):  # the same again changes nothing
        evaluations.add(tmp_path / "run", [alone, team])
    found = {one.sha256: replace(one, made_at=0.0) for one in evaluations.read(tmp_path / "run")}
    assert len(found) == len(before) + 2 and found["alone"] == alone and found["team"] == team
    assert list(found["team"].each) == ["b", "a"]
    assert agents_of([team]) == ["b", "a"] and agents_of([team, alone]) == agents_of([]) == []
