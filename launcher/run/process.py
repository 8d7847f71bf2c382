"""The things that a worker's process is given: work; and before it imports anything cores, variables, a log."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.run.import_path import ROOT
from launcher.run.output import harmless

CLAIMS = "sunflower-core-"
"""The beginning of the names of claimed cores."""


@dataclass(frozen=True)
class Job:
    """A pack for a worker to train.

    Attributes:
        attempt: its number in the ledger.
        trials: ids, one per member.
        configs: resolved configurations as plain data, one per member.
        checkpoints: bytes to go on from, one per member, or None to begin.
        log: file for everything that the process prints; see `log_here`.
        threads: to step environments with, if there are so many cores.
        until: timestep at which training pauses; None: at the trials' length.
        copies: by member, the checkpoint or other member that it is a copy of, its Hyper numbers, and the factor of its
            learning rate.
    """

    attempt: int
    trials: tuple[str, ...]
    configs: tuple[dict[str, Any], ...]
    checkpoints: tuple[bytes, ...] | None
    log: Path
    threads: int
    until: int | None = None
    copies: Mapping[int, tuple[bytes | int, Mapping[str, float], float]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationJob:
    """Checkpoints for a worker to evaluate: each plays so many episodes, in `at_once` environments at a time.

    All have the policy of `config`, which is plain data. Environments are stepped with so many threads at most.
    """

    config: dict[str, Any]
    files: tuple[bytes, ...]
    episodes: int
    at_once: int
    seed: int
    deterministic: bool
    threads: int


@dataclass(frozen=True)
class Location:
    """The location of a process: Ray's id of the node, the machine's name, the process's number there."""

    node: str
    host: str
    pid: int


GPU_MEMORY = 0.9
"""The part of a GPU's memory that its workers have together."""


def environment(threads: int, sharing: int) -> dict[str, str]:
    """Variables that torch, XLA and their libraries read when they are imported; see `Worker`."""
    variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if not sharing:
        # XLA's CPU client takes its number of threads from NPROC, and MKL would take fewer where there are fewer cores.
        # Those of torch must not spin while they wait: the environments are stepped on the same cores.
        variables |= {"NPROC": str(threads), "MKL_DYNAMIC": "FALSE", "OMP_WAIT_POLICY": "PASSIVE"}
        return variables | {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    # JAX takes its part of the GPU at once, and refuses to start when the old name of this is set beside the new one.
    if not {"XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"} & os.environ.keys():
        variables["XLA_CLIENT_MEM_FRACTION"] = f"{GPU_MEMORY / sharing:.3f}"
    return variables


def of_program(threads: int = 1) -> dict[str, str]:
    """Variables of a process that runs a module of ours on the CPU, wherever our packages are."""
    paths = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
    return {**os.environ, **environment(threads, 0), "PYTHONPATH": paths}


def claim_cores(count: int) -> list[socket.socket]:
    """Pin this process to cores that no other worker on this machine has claimed, as many of `count` as there are.

    A claim is a socket's name, of which the system has one for all users, whatever their temporary folders are; it
    ends with the process however that ends, and holds across launches. There are none, and no pinning, where all cores
    are taken or the system cannot pin.
    """
    if sys.platform != "linux":  # neither affinity nor names without files
        return []
    claims: dict[int, socket.socket] = {}
    for core in sorted(os.sched_getaffinity(0)):
        if len(claims) == count:
            break
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0{CLAIMS}{core}")
        except OSError:
            claim.close()
            continue
        claims[core] = claim
    if claims:
        os.sched_setaffinity(0, claims)
    return list(claims.values())


def log_here(log: Path, pid: int) -> Path:
    """The file into which the process `pid` of this machine prints what belongs into `log` of the launch directory.

    That is the file itself on the launcher's machine and where the directory is shared; else one among the temporary
    files, which the launcher fetches.
    """
    if log.parent.is_dir():
        return log
    return Path(tempfile.gettempdir()) / f"sunflower-{os.getuid()}" / log.parent.parent.name / f"{log.stem}.{pid}.log"


@contextlib.contextmanager
def redirected(log: Path) -> Iterator[None]:
    """Send what this process prints, native aborts included, to a file of its own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab", buffering=0) as file:
        _flush()
        before, streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # On a full disk the log is cut short; that must not decide how the attempt ends.
    sys.stdout, sys.stderr = harmless(1), harmless(2)
    try:
        yield
    finally:
        _flush()
        sys.stdout, sys.stderr = streams
        for saved, target in zip(before, (1, 2), strict=True):
            os.dup2(saved, target)
            os.close(saved)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
