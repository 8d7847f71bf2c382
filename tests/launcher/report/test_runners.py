"""The report of a directory that `run("train")` of a Runner wrote."""

from __future__ import annotations

from pathlib import Path

import envpool
import numpy as np
import pytest

from launcher.report import data, runners, write
from runner.torch import Runner
from runner.training.tracking import TensorBoard
from tests.runner.builders import plain_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members, and five records of each."""
    folder = tmp_path_factory.mktemp("runners")
    experiment = {"agent.experiment.directory": str(folder), "agent.experiment.experiment_name": "two"}
    config = plain_config(experiment | {"trainer.timesteps": 80, "agent.experiment.write_interval": 16})
    pool = envpool.make("Pendulum-v1", env_type="gymnasium", num_envs=2, max_episode_steps=5)
    Runner(pool, config, seeds=[3, 10]).run("train")
    return folder / "two"


def test_it_has_its_members_curves(trained: Path, tmp_path: Path) -> None:
    """All numbers of the event files, at the times at which they were written."""
    page = write([trained], tmp_path / "report.html")
    assert str(trained) in page.read_text()
    (launch,) = launches = data.find([trained], tmp_path / "ledgers")
    (found,) = data.read(launches).configurations
    assert (found.name, found.task) == ("two", "Pendulum-v1")
    assert [(seed.trial.seed, seed.trial.state) for seed in found.seeds] == [(3, "finished"), (10, "finished")]
    assert [len(curve) for seed in found.seeds for curve in seed.curves.values()].count(5) > 20
    assert all(seed.score is not None and np.isfinite(seed.score) for seed in found.seeds)
    (attempt,) = launch.standing.attempts.values()
    assert attempt.closed_at is not None and 0 < attempt.closed_at - attempt.opened_at < 300
    assert all(span.times[0] > attempt.opened_at - 1 for seed in found.seeds for span in seed.spans.values())


def test_what_was_trained_again_counts_once(trained: Path, tmp_path: Path) -> None:
    """A second training of that name begins at an earlier step; one that diverged says so with its last record."""
    again = tmp_path / "again"
    again.mkdir()
    (again / "config.yaml").write_text((trained / "seed_3" / "config.yaml").read_text())
    for steps, value in (((32, 64, 96), 1.0), ((64, 128), float("nan"))):
        board = TensorBoard(again)
        for step in steps:
            board.write(step, {"a": value}, 1e9 + step)
        board.close()
    (launch,) = data.find([again], tmp_path / "ledgers")
    (row,) = launch.standing.rows
    assert (row.trial.state, row.records, row.env_steps) == ("diverged", 3, 128)
    assert not runners.written(launch.standing.directory)
