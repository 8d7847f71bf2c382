"""Machines that come and go, hang and differ: several raylets on this one, `pytest -m cluster`."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from launcher.ledger.ledger import Ledger
from tests.launcher.commands import said
from tests.launcher.faulty import RECORD, assert_whole, counts, wait_until, worker_pids, write_config
from tests.launcher.held import let
from tests.launcher.raylets import Cluster, parent_of, raylets

pytestmark = pytest.mark.cluster
FAST = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "2",
}
"""As in cluster/README.md."""
RECORDS, HARMED = 200, 100
"""How many there are of a trial, and at how many it is held until the harm is done."""
HELD = """
import signal, sys
from launcher.run import dispatch
from tests.launcher import held

def hurry(*_):
    dispatch.LEASE_SECONDS = 8.0

signal.signal(signal.SIGUSR1, hurry)
sys.exit(held.run(sys.argv[1:]))
"""
"""A launch whose workers are held; SIGUSR1 tells it that whoever does not answer has lost its trials soon."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with raylets() as made:
        yield made


def trained(directory: Path, least: int) -> Callable[[], bool]:
    """Whether every trial has so many records."""
    return lambda: bool(found := counts(directory)) and min(found.values()) >= least


def ended(process: subprocess.Popen[str]) -> Callable[[], str | None]:
    """What a launch said that is over."""
    return lambda: None if process.poll() is None else said(process)


def start(cluster: Cluster, tmp_path: Path, *flags: str) -> subprocess.Popen[str]:
    """A launch into `tmp_path / "run"` that is held by `tmp_path / "gate"`."""
    held = (str(tmp_path / "gate"), str(HARMED), "0")
    arguments = (str(write_config(tmp_path, RECORDS * RECORD)), "--out", str(tmp_path), "--name", "run", *flags)
    return cluster.launch(*held, *arguments, "--address", cluster.address, program=("-c", HELD))


def lose_machine(directory: Path) -> None:
    """End the raylet of the first attempt's worker, and with it all its workers."""
    raylet = parent_of(worker_pids(directory)[1])
    lost = {pid for pid in worker_pids(directory).values() if parent_of(pid) == raylet}
    os.kill(raylet, signal.SIGKILL)
    wait_until(lambda: not lost & set(worker_pids(directory).values()), "the end of its workers")


def lose_lease(process: subprocess.Popen[str], directory: Path) -> None:
    """Let others finish, whose machine is needed; then wait for the attempt that takes the place of a silent one."""
    wait_until(lambda: "finished" in outcomes(directory), "the end of another pack", failed=ended(process))
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: len(outcomes(directory)) == 3, "a new attempt", failed=ended(process))


def outcomes(directory: Path) -> list[str | None]:
    with Ledger(directory, writer=False) as ledger:
        return [row.outcome for row in ledger.attempts()]


@pytest.mark.parametrize("health", [{}, FAST], ids=["Ray's own health checks", "fast ones"])
def test_a_lost_machine_is_replaced_by_another_and_counts_for_nothing(tmp_path: Path, health: dict[str, str]) -> None:
    directory = tmp_path / "run"
    with raylets(**health) as cluster:
        cluster.add_node("a", cpus=2)
        cluster.add_node("b", cpus=2)
        process = start(cluster, tmp_path, "--seeds", "2", "--workers", "2", "--trials-per-pack", "1")
        try:
            wait_until(trained(directory, 12), "records", failed=ended(process))
            killed = time.monotonic()
            lose_machine(directory)
            wait_until(lambda: 3 in worker_pids(directory), "a new worker", failed=ended(process))
            print(f"raylet killed, its pack in another process {time.monotonic() - killed:.1f} s later")
            let(tmp_path / "gate")
            output = said(process)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert_whole(directory, RECORDS)
    assert "was lost, and the worker process with it" in output
    found = outcomes(directory)
    assert found.count("finished") == 2 and set(found) == {"node", "finished"}


def test_sixteen_trials_on_logical_gpus_outlive_a_machine(cluster: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    cluster.add_node("a", cpus=2, gpus=2)
    cluster.add_node("b", cpus=2, gpus=2)
    process = start(cluster, tmp_path, "--seeds", "16", "--gpus", "4", "--logical-gpus")
    try:
        wait_until(trained(directory, HARMED), "half of the records", failed=ended(process))
        lose_machine(directory)
        let(tmp_path / "gate")
        output = said(process)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert_whole(directory, RECORDS)
    with closing(sqlite3.connect(directory / "ledger.sqlite")) as db:
        assert db.execute("SELECT COUNT(*) FROM records").fetchone() == (16 * RECORDS,)
    assert sorted(map(str, outcomes(directory))) == ["finished"] * 4 + ["node"] * 2


def test_packs_run_on_a_machine_that_joins_later(cluster: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    cluster.add_node("a")
    process = start(cluster, tmp_path, "--seeds", "3", "--trials-per-pack", "1")
    try:
        wait_until(lambda: worker_pids(directory), "a worker", failed=ended(process))
        assert len(worker_pids(directory)) == 1
        cluster.add_node("b")
        wait_until(lambda: len(worker_pids(directory)) == 2, "a second worker", failed=ended(process))
        let(tmp_path / "gate")
        output = said(process)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert_whole(directory, RECORDS)


def test_a_pack_of_many_cores_goes_on_with_fewer_when_the_large_machine_is_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    cluster.add_node("a", cpus=2)
    cluster.add_node("b", cpus=1)
    process = start(cluster, tmp_path, "--cores-per-worker", "2")
    try:
        wait_until(trained(directory, 12), "records", failed=ended(process))
        lose_machine(directory)
        let(tmp_path / "gate")
        output = said(process)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "1 CPU worker, 2 cores" in output
    assert_whole(directory, RECORDS)
    assert outcomes(directory) == ["node", "finished"]


def test_a_hung_machine_is_replaced_and_its_ghost_fenced(cluster: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    cluster.add_node("a")
    cluster.add_node("b")
    process = start(cluster, tmp_path, "--seeds", "2")
    try:
        wait_until(trained(directory, 12), "records", failed=ended(process))
        worker = worker_pids(directory)[1]
        stopped = [parent_of(worker), worker]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        let(tmp_path / "gate")
        lose_lease(process, directory)
        for pid in reversed(stopped):  # the machine wakes up: the worker first, so that it can still do harm
            os.kill(pid, signal.SIGCONT)
        output = said(process)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert_whole(directory, RECORDS)
    assert "hung" in output or "was lost" in output
    assert outcomes(directory)[1:] == ["finished", "finished"]


@pytest.fixture
def cable() -> Iterator[tuple[str, str, str, list[str]]]:
    """A virtual cable: our end's name and address, the other end's address, and the command that runs things there."""
    name = f"sf{secrets.token_hex(3)}"
    mine, theirs = "10.231.77.1", "10.231.77.2"
    there = ["ip", "netns", "exec", name]
    setup = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b"],
        ["ip", "link", "set", f"{name}b", "netns", name],
        ["ip", "address", "add", f"{mine}/24", "dev", f"{name}a"],
        ["ip", "link", "set", f"{name}a", "up"],
        [*there, "ip", "address", "add", f"{theirs}/24", "dev", f"{name}b"],
        [*there, "ip", "link", "set", f"{name}b", "up"],
        [*there, "ip", "link", "set", "lo", "up"],
    ]
    try:
        for command in setup:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"a network of its own needs root and ip(8): {' '.join(command)}: {done.stderr.strip()}")
        yield f"{name}a", mine, theirs, there
    except FileNotFoundError as error:
        pytest.skip(f"a network of its own needs ip(8): {error}")
    finally:
        if shutil.which("ip"):
            subprocess.run(["ip", "link", "del", f"{name}a"], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_a_machine_that_is_cut_off_is_replaced_and_refused_when_it_is_back(
    cable: tuple[str, str, str, list[str]], tmp_path: Path
) -> None:
    link, mine, theirs, there = cable
    directory = tmp_path / "run"
    with raylets(ip=mine) as cluster:
        cluster.add_node("a", cpus=1)
        cluster.add_node("b", cpus=1, ip=theirs, inside=there)
        process = start(cluster, tmp_path, "--seeds", "2", "--trials-per-pack", "1")
        try:
            wait_until(trained(directory, 12), "records", failed=ended(process))
            subprocess.run(["ip", "link", "set", link, "down"], check=True)
            let(tmp_path / "gate")
            lose_lease(process, directory)
            subprocess.run(["ip", "link", "set", link, "up"], check=True)
            output = said(process)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert_whole(directory, RECORDS)
    assert sorted(map(str, outcomes(directory)))[1:] == ["finished", "finished"]


def test_a_machine_with_another_version_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other" / "envpool-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: envpool\nVersion: 0.0.1\n")
    cluster.add_node("a")
    mine = dict(cluster.environment)
    cluster.environment["PYTHONPATH"] = str(other.parent)
    cluster.add_node("b")
    cluster.environment = mine
    config = write_config(tmp_path, 64)
    status, output = cluster.run(str(config), "--out", str(tmp_path), "--name", "run", "--address", cluster.address)
    assert status == 2
    assert "envpool 0.0.1, here 1." in output and "wrong" in output
    assert not (tmp_path / "run").exists()


def test_a_wrong_token_and_a_dead_address_are_said_at_once(cluster: Cluster, tmp_path: Path) -> None:
    config = str(write_config(tmp_path, 64))
    began = time.monotonic()
    status, output = cluster.run(config, "--out", str(tmp_path), "--name", "run", "--address", "127.0.0.1:9")
    assert status == 2 and "nothing answers there" in output
    cluster.environment = cluster.environment | {"RAY_AUTH_TOKEN": "0" * 64}
    status, output = cluster.run(config, "--out", str(tmp_path), "--name", "run", "--address", cluster.address)
    print(f"both refused within {time.monotonic() - began:.0f} s")
    assert status == 2 and "token" in output.lower(), output
    assert not (tmp_path / "run").exists()
