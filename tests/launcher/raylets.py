"""Several raylets on this machine, each with files of its own, on loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.launcher.faulty import PATIENCE

RAY = Path(sys.executable).with_name("ray")


@dataclass
class Cluster:
    """A head without cores, and nodes.

    Attributes:
        address: of the head.
        dashboard: URL of its jobs API, if it has one.
        environment: that reaches it.
        folder: of all files of its processes, in the command line of each.
    """

    address: str
    dashboard: str
    environment: dict[str, str]
    folder: Path

    def start(self, *flags: str, ip: str | None = None, inside: Sequence[str] = ()) -> None:
        """`ray start` with what all of them need, as an argument of the command `inside`."""
        host = ip or self.address.partition(":")[0]
        common = (f"--node-ip-address={host}", "--object-store-memory=100000000", "--disable-usage-stats")
        # Machines have one port each for an agent, without which a head takes no jobs; these share a machine.
        command = [*inside, str(RAY), "start", *flags, *common, "--dashboard-agent-listen-port=0"]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def add_node(
        self, name: str, cpus: int = 1, gpus: int = 0, ip: str | None = None, inside: Sequence[str] = ()
    ) -> None:
        """A machine, as Ray sees it."""
        flags = (f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--include-log-monitor=false")
        self.start(*flags, f"--temp-dir={self.folder / name}", ip=ip, inside=inside)

    def launch(self, *arguments: str, program: Sequence[str] = ("-m", "launcher.cli.main")) -> subprocess.Popen[str]:
        """The command in a process that reaches the cluster."""
        command = [sys.executable, *program, *arguments]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *arguments: str, seconds: float = PATIENCE) -> tuple[int, str]:
        """The same to its end: exit status and output."""
        process = self.launch(*arguments)
        try:
            output, _ = process.communicate(timeout=seconds)
        finally:
            process.kill()
        return process.returncode, output

    def processes(self) -> list[int]:
        """Those whose environment names the folder; of Ray's agents the command line does not."""
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if str(self.folder).encode() in (process / "environ").read_bytes():
                        found.append(int(process.name))
        return found


@contextlib.contextmanager
def raylets(dashboard: bool = False, ip: str = "127.0.0.1", **variables: str) -> Iterator[Cluster]:
    """A head; afterwards its processes and those of nodes that were added are ended, and no others."""
    # Its sockets' paths may have 107 characters.
    folder = Path(f"/tmp/sf-{secrets.token_hex(4)}")
    folder.mkdir()
    ports = []
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            free = stack.enter_context(socket.socket())
            free.bind((ip, 0))
            ports.append(free.getsockname()[1])
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # The head's jobs find python, and look for HOME, there.
    own = {"RAY_TMPDIR": str(folder), "PATH": f"{RAY.parent}:{os.environ['PATH']}", "HOME": str(folder / "home")}
    (folder / "home").mkdir()
    made = Cluster(f"{ip}:{ports[0]}", f"http://127.0.0.1:{ports[1]}", os.environ | token | own | variables, folder)
    flags = ["--head", f"--port={ports[0]}", "--num-cpus=0", "--num-gpus=0", f"--temp-dir={folder / 'h'}"]
    flags += [f"--include-dashboard={str(dashboard).lower()}", "--dashboard-host=127.0.0.1"]
    try:
        made.start(*flags, f"--dashboard-port={ports[1]}")
        yield made
    finally:
        for pid in made.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def parent_of(pid: int) -> int:
    """The raylet of a worker."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
