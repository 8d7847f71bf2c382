"""Several agents from the command line on a real Ray, `pytest -m cluster`: every verb that touches a launch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.cli.main import main
from launcher.ledger import evaluations
from launcher.ledger.ledger import Ledger
from runner.checkpoints import checkpoint
from runner.config import load_config
from runner.envs.named import imports
from runner.envs.task import task
from runner.training.tracking import EVALUATION_MEAN, RETURN_MEAN
from tests.launcher.local_ray import local_ray
from tests.runner.builders import runner_class

pytestmark = pytest.mark.cluster
TASK, NAMES = "tests.parallel:Drawn", ("agent_0", "agent_1")


def configuration(folder: Path) -> Path:
    def network(read: str) -> list[dict[str, Any]]:
        return [{"name": "net", "input": read, "layers": [8], "activations": "tanh"}]

    path = folder / "team.yaml"
    path.write_text(
        json.dumps(
            {
                "models": {
                    "policy": {
                        "class": "CategoricalMixin",
                        "network": network("OBSERVATIONS"),
                        "output": "ACTIONS",
                    },
                    "value": {"network": network("STATES"), "output": "ONE"},
                },
                "agent": {
                    "class": "MAPPO",
                    "rollouts": 8,
                    "learning_epochs": 2,
                    "learning_rate": {"agent_0": 1e-2, "agent_1": 1e-3},
                    "learning_rate_scheduler": "KLAdaptiveLR",
                    "observation_preprocessor": "RunningStandardScaler",
                    "experiment": {"checkpoint_interval": 16, "write_interval": 8},
                },
                "trainer": {"timesteps": 32},
                "evaluation": {"interval": 32, "episodes": 2},
            }
        )
    )
    return path


@pytest.fixture(scope="module")
def ray_address() -> Iterator[list[str]]:
    with local_ray(num_cpus=2) as address:
        yield address


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, ray_address: list[str]) -> Path:
    """Three seeds of two agents in one pack."""
    folder = tmp_path_factory.mktemp("agents")
    words = [str(configuration(folder)), "--env", TASK, "--num-envs", "2", "--seeds", "3", "--workers", "1"]
    assert main([*words, "--out", str(folder), "--name", "run", *ray_address]) == 0
    return folder / "run"


def test_records_are_of_the_team_and_of_each_agent(launched: Path) -> None:
    with Ledger(launched, writer=False) as ledger:
        trials = ledger.trials()
        found = {row.id: ledger.records(row.id) for row in trials}
    assert [row.state for row in trials] == ["finished"] * 3
    for records in found.values():
        assert [one.record.index for one in records] == [0, 1, 2, 3]
        for one in records:
            team, *each = (one.record.values[tag] for tag in (RETURN_MEAN, *(f"{RETURN_MEAN} ({n})" for n in NAMES)))
            assert team == pytest.approx(sum(each))
        assert f"{EVALUATION_MEAN} (agent_1)" in records[-1].record.values


def test_evaluation_films_and_report(
    launched: Path, ray_address: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["eval", str(launched), "--episodes", "4", "--video", "1", *ray_address]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown if line.startswith(("team", "  agent"))] == ["team", *NAMES]
    assert len(list((launched / "videos").iterdir())) == 1
    found = evaluations.read(launched)
    assert len(found) == 3 and all(list(one.each) == list(NAMES) for one in found)
    for one in found:
        np.testing.assert_allclose(np.sum(list(one.each.values()), 0), one.returns)
    assert main(["eval", str(launched), "--episodes", "4", *ray_address]) == 0
    assert "3 of them known" in capsys.readouterr().out and evaluations.read(launched) == found
    page = tmp_path / "report.html"
    assert main(["report", str(launched), "--out", str(page)]) == 0
    assert "agent_1" in page.read_text()
    (table,) = page.parent.rglob("evaluations_of_agents.csv")
    with table.open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 4 * 2


def test_a_file_is_exported_for_each_agent(launched: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (file, *_) = sorted(launched.rglob("agent_32.safetensors"))
    assert main(["export", str(file), "--out", str(tmp_path / "policy.pt2")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"policy_{name}.pt2") for name in NAMES]


def test_l3_a_resumed_launch_is_one_that_resets_its_environments_there(
    launched: Path, ray_address: list[str], tmp_path: Path
) -> None:
    """Also with more seeds, which are another pack."""
    with Ledger(launched, writer=False) as ledger:
        trial = ledger.trials()[1].id
    before = (launched / "trials" / trial / "checkpoints" / "agent_32.safetensors").read_bytes()
    words = ["--seeds", "4", "--set", "trainer.timesteps=48"]
    assert main(["resume", str(launched), *words, *ray_address]) == 0
    config, _ = load_config(launched / "trials" / trial / "config.yaml")
    config = config.model_copy(update={"trainer": config.trainer.model_copy(update={"timesteps": 48})})
    with imports.scope():
        imports.allow(["tests"])
        alone = runner_class("jax")(task(config.env), config, threads=1)  # as a worker on a CPU has it
    alone.restore([before])
    list(alone.reports())
    after = (launched / "trials" / trial / "checkpoints" / "agent_48.safetensors").read_bytes()
    network = alone._members.network
    for found, wanted in zip(checkpoint.trial_from(after, NAMES, network), alone.states(), strict=True):
        assert found.counters.timestep == 48
        np.testing.assert_allclose(found.parameters, wanted.parameters, rtol=1e-5, atol=1e-6)
    with Ledger(launched, writer=False) as ledger:
        assert [row.state for row in ledger.trials()] == ["finished"] * 4
