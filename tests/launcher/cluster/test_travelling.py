"""Somebody's own environment on a cluster, whose machines do not have it: `pytest -m cluster`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from launcher.ledger.ledger import Ledger
from tests.launcher.raylets import Cluster, raylets
from tests.runner.builders import plain_config

pytestmark = pytest.mark.cluster
POINT = Path(__file__).parents[2] / "fixtures" / "environments" / "point_world" / "__init__.py"
TELLING = "\nprint('imported from', __file__, flush=True)\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with raylets(dashboard=True) as made:
        made.add_node("a", cpus=2)
        yield made


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package and a module that say, in a worker's log, where they were found; and a configuration, in a folder."""
    package = tmp_path / "package_world"
    package.mkdir()
    (package / "__init__.py").write_text(POINT.read_text().replace("point_world", "package_world") + TELLING)
    (tmp_path / "file_world.py").write_text(POINT.read_text().replace("point_world", "file_world") + TELLING)
    data = plain_config({"trainer.timesteps": 32}) | {"backend": "torch", "env": {"num_envs": 3}}
    (tmp_path / "point.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.chdir(tmp_path)
    return "point.yaml"


def places(directory: Path) -> set[str]:
    """Where workers found what they imported."""
    lines = "\n".join(log.read_text() for log in directory.glob("logs/*.log")).splitlines()
    return {line.removeprefix("imported from ") for line in lines if line.startswith("imported from ")}


@pytest.mark.parametrize(("name", "joined"), [("package_world:PointEnv", True), ("file_world:MyPoint-v0", False)])
def test_it_travels(name: str, joined: bool, cluster: Cluster, config: str, tmp_path: Path) -> None:
    launch = f"{name.partition('_')[0]}-{joined}"
    address = cluster.address if joined else cluster.dashboard
    words = (config, "--env", name, "--seeds", "2", "--name", launch, "--out", str(tmp_path / "runs"))
    status, output = cluster.run(*words, "--address", address)
    assert status == 0, output
    with Ledger(tmp_path / "runs" / launch, writer=False) as ledger:
        assert [row.state for row in ledger.trials()] == ["finished", "finished"]
    found = places(tmp_path / "runs" / launch)
    assert found and not any(Path(place).is_relative_to(tmp_path) for place in found)
    if not joined:
        more = ("--set", "trainer.timesteps=64", "--address", address)
        status, output = cluster.run("resume", launch, *more)
        assert status == 0 and "2 finished" in output, output
