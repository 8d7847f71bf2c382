"""Launches that run on a cluster by themselves: `pytest -m cluster`."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.ledger.ledger import Ledger
from tests.launcher.commands import said
from tests.launcher.faulty import ENDLESS, RECORD, assert_whole, counts, end_soon, wait_until, write_config
from tests.launcher.raylets import Cluster, raylets

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with raylets(dashboard=True) as made:
        made.add_node("a", cpus=2)
        yield made


def on_head(cluster: Cluster, name: str, out: str = "runs") -> Path:
    """Where a launch is that named no folder, or a relative one."""
    return cluster.folder / "home" / out / name


def test_a_launch_is_submitted_followed_and_brought_back(cluster: Cluster, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, 640))
    other = tmp_path / "again" / "cartpole.yaml"
    other.parent.mkdir()
    other.write_text(Path(config).read_text().replace("ratio_clip: 0.2", "ratio_clip: 0.3"))
    at = ("--address", cluster.dashboard)
    swept = ("--set", "agent.learning_rate=1e-4,3e-4", "--zip", "agent.rollouts=32,64", "agent.learning_epochs=4,8")
    arguments = (config, str(other), "--seeds", "2", *swept, "--name", "whole", "--out", "our runs")
    status, output = cluster.run(*arguments, *at)
    assert status == 0, output
    assert "16 trials" in output and f"launch pull whole --address {cluster.dashboard}" in output
    assert "INFO" not in output.replace("INFO job_manager", "")
    with Ledger(on_head(cluster, "whole", "our runs"), writer=False) as ledger:
        assert [row.state for row in ledger.trials()] == ["finished"] * 16
        assert [row["command"] for row in ledger.revisions()] == [shlex.join(["launch", *arguments, *at])]

    status, output = cluster.run("pull", "whole", "--out", str(tmp_path / "here"), *at)
    assert status == 0, output
    with Ledger(tmp_path / "here" / "whole", writer=False) as mine:
        with Ledger(on_head(cluster, "whole", "our runs"), writer=False) as theirs:
            assert mine.progress() == theirs.progress()
        for row in mine.trials():
            for file in mine.checkpoints(row.id):
                assert (tmp_path / "here" / "whole" / file.path).stat().st_size == file.bytes
    status, output = cluster.run("pull", "whole", "--out", str(tmp_path / "here"), *at)
    assert status == 0, "what was pulled may be pulled again: " + output
    (tmp_path / "here" / "whole" / "pulled.json").unlink()
    status, output = cluster.run("pull", "whole", "--out", str(tmp_path / "here"), *at)
    assert status == 2 and "exists already, and was not pulled" in output

    status, output = cluster.run(*arguments, *at)
    assert status == 2 and "whole: this cluster has had a launch of that name" in output
    status, output = cluster.run("follow", "hole", *at)
    assert status == 2 and "hole: no launch of" in output and "there are: whole" in output
    status, output = cluster.run(config, "--workers", "0", "--name", "none", *at)
    assert status == 2 and "--workers 0" in output and "no launch of" in cluster.run("follow", "none", *at)[1]
    status, output = cluster.run("eval", str(tmp_path / "here" / "whole"), *at)
    assert status == 2 and "launch eval runs here" in output
    status, output = cluster.run(config, "--set", "agent.ratio_clip=x", "--name", "bad", *at)
    assert status == 2 and "ratio_clip" in output and "no launch of" in cluster.run("follow", "bad", *at)[1]


def test_what_is_wrong_on_the_cluster_is_said_here(cluster: Cluster, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, 640))
    at = ("--address", cluster.dashboard)
    status, output = cluster.run(config, "--env", "CartPol-v1", "--name", "typo", *at)
    assert status == 2 and "Did you mean 'CartPole-v1'" in output
    cluster.environment, mine = cluster.environment | {"RAY_AUTH_TOKEN": "0" * 64}, cluster.environment
    try:
        status, output = cluster.run("follow", "whole", *at)
    finally:
        cluster.environment = mine
    assert status == 2 and "token" in output.lower()
    status, output = cluster.run("follow", "whole", "--address", "http://127.0.0.1:9")
    assert status == 2 and "nothing answers there" in output


def test_closing_the_terminal_stops_nothing_and_stop_saves(cluster: Cluster, tmp_path: Path) -> None:
    config, directory = str(write_config(tmp_path, ENDLESS)), on_head(cluster, "long")
    at = ("--address", cluster.dashboard)
    process = cluster.launch(config, "--seeds", "2", "--name", "long", *at)
    try:
        wait_until(lambda: min(counts(directory).values(), default=0) > 12, "records")
        process.send_signal(signal.SIGINT)
        output = said(process)
    finally:
        process.kill()
    assert process.returncode == 130 and "long goes on" in output
    before = min(counts(directory).values())
    wait_until(lambda: min(counts(directory).values()) > before, "more records")

    status, output = cluster.run("pull", "long", "--out", str(tmp_path), *at)
    assert status == 0, output
    assert min(counts(tmp_path / "long").values()) > before

    status, output = cluster.run("resume", "long", *at)
    assert status == 2 and "still at work" in output
    began = time.monotonic()
    status, output = cluster.run("stop", "long", *at)
    print(f"stopped within {time.monotonic() - began:.1f} s")
    assert status == 0 and "long: stopped; launch resume long" in output
    with Ledger(directory, writer=False) as ledger:
        assert [row.state for row in ledger.trials()] == ["interrupted"] * 2
        last = ledger.last_agents()
        assert all(row.timestep == last[row.trial.id] for row in ledger.progress())
    assert cluster.run("stop", "long", *at)[1].startswith("long: was over already")
    records = end_soon(directory) // RECORD
    status, output = cluster.run("pull", "long", "--out", str(tmp_path), *at)
    assert status == 0, output
    status, output = cluster.run("resume", str(tmp_path / "long"))  # on this machine, from the copy
    assert status == 0, output
    assert_whole(tmp_path / "long", records)
    status, output = cluster.run("pull", "long", "--out", str(tmp_path), *at)
    assert status == 2 and "was trained or evaluated in since it was pulled" in output
    assert_whole(tmp_path / "long", records)
    assert cluster.run("follow", "long", *at)[0] == 143

    status, output = cluster.run("resume", "long", *at)
    assert status == 0, output
    assert_whole(directory, records)
    assert cluster.run("follow", "long", *at)[0] == 0
