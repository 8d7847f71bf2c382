"""Somebody's own environment, from the command line to all that a launch does; the record lets no file import it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from launcher.cli.main import main
from launcher.ledger import evaluations
from launcher.ledger.ledger import Ledger
from runner.config import load_config
from runner.envs.named import imports
from runner.envs.task import task
from runner.torch import Runner
from tests.launcher.local_ray import local_ray
from tests.launcher.refusals import Refused
from tests.records import untimed
from tests.runner.builders import fingerprint, plain_config

FOLDER = Path(__file__).parents[2] / "fixtures" / "environments"
POINT = ("--env", "point_world:PointEnv", "--num-envs", "3")


@pytest.fixture(autouse=True)
def _nothing_is_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """This user has a home of the tests' own, and begins in the folder of the package."""
    monkeypatch.setenv(imports.VARIABLE, "{}")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
    monkeypatch.chdir(FOLDER)


@pytest.fixture(scope="module")
def ray_address() -> Iterator[list[str]]:
    """One Ray for all launches of this module; the arguments that use it."""
    with local_ray(num_cpus=2) as address:
        yield address


def write(folder: Path, **env: object) -> Path:
    """A configuration whose file names no environment, but its arguments."""
    data = plain_config({"trainer.timesteps": 32}) | {"backend": "torch", "env": env}
    path = folder / "point.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def launched(ray_address: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A launch of two seeds."""
    folder = tmp_path_factory.mktemp("own")
    config = write(folder, length=6, wrappers=["point_world:Clip"])
    with pytest.MonkeyPatch.context() as only:
        only.setenv(imports.VARIABLE, "{}")
        only.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
        only.chdir(FOLDER)
        words = [str(config), *POINT, "--seeds", "2", "--out", str(folder), "--name", "one", *ray_address]
        assert main(words) == 0
    return folder / "one"


def copied(launched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(launched, tmp_path / "copy"))


def test_trials_are_those_of_a_runner_of_their_own(launched: Path) -> None:
    """Trained in a pack or not, by a worker: the numbers of a Runner with this environment."""
    imports.allow(["point_world"])
    with Ledger(launched, writer=False) as ledger:
        assert [row.state for row in ledger.trials()] == ["finished", "finished"]
        last = {row.id: launched / ledger.checkpoints(row.id)[-1].path for row in ledger.trials()}
    for trial, file in last.items():
        config, _ = load_config(launched / "trials" / trial / "config.yaml")
        assert (config.env.id, config.env.arguments) == ("point_world:PointEnv", {"length": 6})
        trained, loaded = (Runner(task(config.env), config, threads=1) for _ in range(2))
        list(trained.reports())
        loaded.agent.load(file)
        assert fingerprint(trained.states()[0]) == fingerprint(loaded.states()[0])


def test_what_was_imported_is_on_record(launched: Path) -> None:
    (revision,) = json.loads((launched / "plan.json").read_text())["revisions"]
    (entry,) = revision["imports"].values()
    assert entry["folder"] == str(FOLDER) and entry["version"] is None
    assert entry["git_commit"] is None or len(entry["git_commit"]) >= 40


def test_all_verbs_work_from_the_directory_alone(
    launched: Path, ray_address: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copied(launched, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["resume", str(directory), "--set", "trainer.timesteps=64", *ray_address]) == 0
    assert main(["eval", str(directory), "--episodes", "4", *ray_address]) == 0
    found = evaluations.read(directory)
    assert [one.lengths for one in found] == [(6,) * 4] * 2
    assert all(np.greater_equal(one.returns, -6).all() for one in found)  # of clipped rewards
    file = next(directory.glob("trials/*/checkpoints/agent_64.safetensors"))
    assert main(["export", str(file)]) == 0
    assert file.with_suffix(".pt2").is_file()
    assert main(["report", str(directory), "--out", str(tmp_path / "report.html")]) == 0


@pytest.mark.cluster
def test_it_is_filmed(launched: Path, ray_address: list[str], tmp_path: Path) -> None:
    directory = copied(launched, tmp_path)
    file = next(directory.glob("trials/*/best_agent.safetensors"))
    assert main(["eval", str(file), "--episodes", "2", "--video", "2", *ray_address]) == 0
    assert [path.stat().st_size > 1_000 for path in directory.rglob("videos/*")] == [True]


def test_on_another_machine_the_flag_is_named(
    launched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, ray_address: list[str]
) -> None:
    """Without this user's key, which no directory brings along, nothing is imported until somebody types it."""
    directory = copied(launched, tmp_path)
    file = next(directory.glob("trials/*/best_agent.safetensors"))
    alone = tmp_path / "agent.safetensors"
    shutil.copy(file, alone)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delitem(sys.modules, "point_world")
    for words in (
        ["resume", directory, "--set", "trainer.timesteps=64", *ray_address],
        ["eval", directory, *ray_address],
        ["eval", alone, *ray_address],
        ["export", file],
    ):
        said = refused(*words)
        assert "point_world: imported only where the command line says so" in said
        assert said.endswith(f"--import point_world: launch {' '.join(map(str, words))} --import point_world")
    assert "point_world" not in sys.modules


def test_a_file_needs_the_flag(tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path, id="point_world:PointEnv", num_envs=3)
    assert "point: env.id: point_world: imported only where" in refused(config, "--dry-run")
    assert main([str(config), "--dry-run", "--import", "point_world"]) == 0
    assert main([str(config), "--dry-run", "--set", "env.id=point_world:make_vec,point_world:MyPoint-v0"]) == 0
    assert "3 x point_world:make_vec" in capsys.readouterr().out
    assert "no module point_wold" in refused(config, "--env", "point_wold:PointEnv", "--dry-run")
    said = refused(config, "--import", "point_world", "--set", "env.lenght=3", "--dry-run")
    assert "env.lenght: point_world:PointEnv has no such argument. Did you mean 'length'?" in said


SLOW = """
import os, time
from pathlib import Path
from point_world import PointEnv

class Slow(PointEnv):
    def __init__(self, notes):
        super().__init__()
        self.notes = Path(notes)

    def reset(self, *, seed=None, options=None):
        if seed is not None and seed > 1000:  # no measurement's
            (self.notes / f"{seed}_{os.getpid()}").touch()
        return super().reset(seed=seed, options=options)

    def step(self, action):
        time.sleep(0.002)
        return super().step(action)
"""


@pytest.mark.cluster
def test_idle_cores_step_a_slow_one_in_processes(
    ray_address: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seed on two cores, as a person types it: two processes with half the environments each, the same numbers."""
    (tmp_path / "slow_world.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    imports.allow({"point_world": str(FOLDER)})
    steppers, found = [], []
    for name, more in (("free", ()), ("one", ("--cores-per-worker", "1"))):
        notes = tmp_path / f"notes of {name}"
        notes.mkdir()
        config = write(tmp_path, notes=str(notes))
        words = [str(config), "--env", "slow_world:Slow", "--num-envs", "8", "--seeds", "1", *more]
        assert main([*words, "--out", str(tmp_path), "--name", name, *ray_address]) == 0
        steppers.append({note.name.partition("_")[2] for note in notes.iterdir()})
        with Ledger(tmp_path / name, writer=False) as ledger:
            (row,) = ledger.trials()
            found.append([untimed(stored.record.values) for stored in ledger.records(row.id)])
    assert [len(processes) for processes in steppers] == [2, 1]
    assert found[0] == found[1] and found[0]
