"""Processes that train one pack together, and their results: `python -m tests.runner.together JOB` is one of them."""

from __future__ import annotations

import json
import pickle
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from launcher.run.process import of_program
from runner.group import Group
from runner.training.state import MemberState
from tests.runner.builders import TASKS, make_config, make_env, runner_class, told


def trained(
    folder: Path,
    backend: str,
    processes: int,
    task: str,
    envs: int,
    seeds: list[int],
    apart: bool = False,
    **changes: Any,
) -> tuple[list[MemberState], list[Any]]:
    """States after 10 updates, and what was reported, of so many processes: of one, in this.

    Processes that are `apart` share no memory, as on several machines.
    """
    if processes == 1:
        return train(backend, task, envs, seeds, changes, Group())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    out = folder / f"{backend}-{processes}.pickle"
    jobs = [
        [backend, rank, processes, address, str(out), apart, task, envs, seeds, changes] for rank in range(processes)
    ]
    command = [sys.executable, "-m", "tests.runner.together"]
    running = [subprocess.Popen([*command, json.dumps(job)], env=of_program()) for job in jobs]
    try:
        assert [one.wait(1200) for one in running] == [0] * processes
    finally:
        for one in running:
            one.kill()
    states, reports = pickle.loads(out.read_bytes())
    return states, reports


def train(
    backend: str, task: str, envs: int, seeds: list[int], changes: dict[str, Any], group: Group
) -> tuple[list[MemberState], list[Any]]:
    """Train as one of a group."""
    policy, arguments = TASKS[task]
    config = make_config({"trainer.timesteps": 80, **changes}, policy)
    runner = runner_class(backend)(make_env(task, envs, arguments), config, seeds, threads=1, group=group)
    reports = [told(report) for report in runner.reports()]
    return runner.states(), reports


def main(job: list[Any]) -> None:
    """Train as a process of its own."""
    backend, rank, processes, address, out, apart, *task = job
    if apart:
        accelerate: Any = import_module(f"runner.{backend}.accelerate")
        accelerate.meet = lambda group, gather: None
    found = train(backend, *task, Group(rank, processes, address))
    if rank == 0:
        Path(out).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
