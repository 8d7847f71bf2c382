"""The scripts that start clusters, with real raylets on this machine: `pytest -m cluster`."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher.ledger.ledger import Ledger
from tests.launcher.faulty import ENDLESS, PATIENCE, RECORD, assert_whole, counts, end_soon, wait_until, write_config

pytestmark = pytest.mark.cluster
REPOSITORY = Path(__file__).parents[2]
JOB = "4711"
# As srun, which passes signals on to all processes of the step.
SRUN = """\
#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
set -m
"$@" &
trap 'kill -TERM -- -$!' TERM
wait; wait
"""
SCONTROL = """\
#!/usr/bin/env bash
echo "$@" >>"$ASKED"
"""


@dataclass
class Script:
    """What runs a script of `cluster/`.

    Attributes:
        folder: for whatever it makes.
        mark: in the environment of all processes that come of it.
        started: the scripts themselves.
    """

    folder: Path
    mark: str
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = os.pathsep.join((str(self.folder), str(Path(sys.executable).parent), os.environ["PATH"]))
        process = subprocess.Popen(
            [str(REPOSITORY / "cluster" / command[0]), *command[1:]],
            cwd=REPOSITORY,
            env={**ours, "PATH": path, "MARK": self.mark, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def slurm(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """A job of two nodes with a core each, both of which are this machine."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {
            "SLURM_JOB_ID": JOB,
            "SLURM_JOB_NAME": "run",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURMD_NODENAME": "one",
            "SLURM_CPUS_PER_TASK": "1",
        }
        here = {
            "HEAD_IP": "127.0.0.1",
            "RAY_PORT": str(port),
            "RAY_FOLDER": f"/tmp/sf-{self.mark}",
            "RAY_FLAGS": "--node-ip-address=127.0.0.1 --num-gpus=0 --object-store-memory=100000000",
            "OUT": str(self.folder),
            "ASKED": str(self.folder / "asked"),
            "WAIT": f"{PATIENCE / 2:.0f}",
        }
        return self.start("slurm.sbatch", *arguments, **job, **here, **environment)

    def processes(self) -> dict[int, str]:
        """Those that are left, with their command lines."""
        found = {}
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdigit() and f"MARK={self.mark}".encode() in (process / "environ").read_bytes():
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found


def ended(process: subprocess.Popen[str]) -> str:
    """What it has printed, once it has ended."""
    return process.communicate(timeout=PATIENCE)[0]


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    """Ends, whatever happens, what a script has left, which is an error of the script's."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    made = Script(tmp_path, secrets.token_hex(4))
    try:
        yield made
        # What a process of Ray's has started ends a moment after it.
        wait_until(lambda: not made.processes(), "the end of all processes", 60)
        assert not Path(f"/tmp/sf-{made.mark}").exists()
    finally:
        for pid in made.processes():
            os.kill(pid, signal.SIGKILL)
        for process in made.started:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def test_a_cluster_of_this_machine_lives_as_long_as_its_command(script: Script, tmp_path: Path) -> None:
    command = ["launch", "configs/classic/cartpole.yaml", "--seeds", "2", "--set", "trainer.timesteps=320"]
    where = ["--address", "auto", "--out", str(tmp_path), "--name", "run"]
    process = script.start("local.sh", *command, *where)
    output = ended(process)
    assert process.returncode == 0, output
    with Ledger(tmp_path / "run", writer=False) as ledger:
        assert [row.state for row in ledger.trials()] == ["finished"] * 2
    (folder,) = re.findall(r"^Starting .* in (/tmp/sf-\w+)$", output, re.MULTILINE)
    assert not Path(folder).exists()


def test_a_local_cluster_ends_with_a_signal(script: Script) -> None:
    process = script.start("local.sh")
    assert process.stdout is not None
    lines = iter(process.stdout)
    exports = next((line for line in lines if line.startswith("export ")), "")
    assert exports, process.wait(PATIENCE)
    environment = dict(word.split("=", 1) for word in exports.split()[1:])
    host, port = environment["RAY_ADDRESS"].split(":")
    socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    process.terminate()
    assert process.wait(PATIENCE) == 143, list(lines)


def test_a_slurm_job_trains_on_both_nodes(script: Script, tmp_path: Path) -> None:
    config = write_config(tmp_path, 640)
    process = script.slurm(str(config), "--seeds", "2")
    output = ended(process)
    assert process.returncode == 0, output
    assert_whole(tmp_path / f"run-{JOB}", 20)
    with Ledger(tmp_path / f"run-{JOB}", writer=False) as ledger:
        assert len(list(ledger.attempts())) == 2
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGUSR1], ids=["ended", "time_is_up"])
def test_a_slurm_job_saves_when_it_is_told_and_goes_on(script: Script, tmp_path: Path, told: signal.Signals) -> None:
    config, directory = write_config(tmp_path, ENDLESS), tmp_path / f"run-{JOB}"
    process = script.slurm(str(config), "--seeds", "2")
    try:
        trained = lambda: bool(found := counts(directory)) and min(found.values()) >= 12  # noqa: E731
        failed = lambda: process.poll() is not None and ended(process)  # noqa: E731
        wait_until(trained, "records", failed=failed)
        process.send_signal(told)
        output = ended(process)
    finally:
        process.kill()
    assert process.returncode == 143, output
    if told == signal.SIGUSR1:
        assert (tmp_path / "asked").read_text() == f"requeue {JOB}\n"
    records = end_soon(directory) // RECORD
    again = script.slurm(str(config), "--seeds", "2", SLURM_RESTART_COUNT="1")
    output = ended(again)
    assert again.returncode == 0, output
    assert_whole(directory, records)
    with Ledger(directory, writer=False) as ledger:
        assert len(list(ledger.attempts())) == 4
