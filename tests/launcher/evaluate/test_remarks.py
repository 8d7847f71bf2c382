"""What `launch eval` says of seeds that did not finish, and of checkpoints of different timesteps, without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.evaluate.batches import Terms, find
from launcher.evaluate.session import _remarks
from launcher.ledger.evaluations import Evaluation
from tests.launcher import report_launches


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four records to the end: one seed has got there, one diverged and one failed half-way, one has not begun."""
    path = tmp_path_factory.mktemp("eval") / "run"
    report_launches.build(path, points=4, fates={(0, 1): "diverged", (0, 2): "failed", (0, 3): "pending"})
    return path


def said(*paths: Path, whole: Path, by_timestep: bool = False) -> list[str]:
    candidates = find(paths, "last", Terms(1, 0, True, None, None))
    scores = {one.sha256: Evaluation(one.sha256, "", one.trial, one.timestep, (1.0,), (1,), (0,)) for one in candidates}
    return list(_remarks(candidates, scores, {whole}, by_timestep))


def test_of_a_launch(launched: Path) -> None:
    words = "counted too: 1 diverged, 1 failed of 4 seeds; not counted: 1 of 4 seeds without an evaluated checkpoint"
    assert said(launched, whole=launched) == [f"cartpole: {words}; checkpoints of timesteps 2 to 4"]
    assert said(launched, whole=launched, by_timestep=True) == [f"cartpole: {words}"]


def test_nothing_of_a_finished_launch(tmp_path: Path) -> None:
    report_launches.build(tmp_path / "run", points=4)
    assert said(tmp_path / "run", whole=tmp_path / "run") == []
