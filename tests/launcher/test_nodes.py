"""Machines that come and go: several raylets on this one, `pytest -m cluster`."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.ledger import Ledger
from tests.launcher.faulty import assert_whole, counts, wait_until, worker_pids, write_config

pytestmark = pytest.mark.cluster
RAY = Path(sys.executable).with_name("ray")


@dataclass
class Cluster:
    """A head without cores, and nodes with one core each.

    Attributes:
        address: of the head.
        environment: that reaches it.
        folder: of all files of its processes, in the command line of each.
    """

    address: str
    environment: dict[str, str]
    folder: Path

    def start(self, *flags: str) -> None:
        common = ("--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--disable-usage-stats")
        command = [str(RAY), "start", *flags, *common]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def add_node(self, name: str) -> None:
        flags = (f"--address={self.address}", "--num-cpus=1", "--num-gpus=0", "--include-log-monitor=false")
        self.start(*flags, f"--temp-dir={self.folder / name}")

    def end(self) -> None:
        """End the processes of this cluster, and no other."""
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if str(self.folder).encode() in (process / "cmdline").read_bytes():
                        os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Its sockets' paths may have 107 characters.
    folder = Path(f"/tmp/sf-{secrets.token_hex(4)}")
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    made = Cluster(f"127.0.0.1:{port}", {**os.environ, **token, "RAY_TMPDIR": str(folder)}, folder)
    try:
        head = ("--head", f"--port={port}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false")
        made.start(*head, f"--temp-dir={folder / 'h'}")
        made.add_node("a")
        made.add_node("b")
        yield made
    finally:
        made.end()
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_a_lost_machine_is_replaced_by_another_and_counts_for_nothing(cluster: Cluster, tmp_path: Path) -> None:
    config, directory = write_config(tmp_path, 12_800), tmp_path / "run"
    arguments = [str(config), "--seeds", "2", "--out", str(tmp_path), "--name", "run", "--address", cluster.address]
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher.cli", *arguments],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        ended = lambda: process.poll() is not None and process.communicate()[0]  # noqa: E731
        trained = lambda: bool(found := counts(directory)) and min(found.values()) >= 12  # noqa: E731
        wait_until(trained, "records", failed=ended)
        os.kill(parent_of(worker_pids(directory)[1]), signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: 3 in worker_pids(directory), "a new worker", failed=ended)
        print(f"raylet killed, its pack in another process {time.monotonic() - killed:.1f} s later")
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert_whole(directory, 400)
    assert "was lost, and the worker process with it" in output
    with Ledger(directory, writer=False) as ledger:
        assert [row.outcome for row in ledger.attempts()] == ["node", "finished", "finished"]
