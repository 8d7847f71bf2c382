"""Reasons why attempts ended early, read from Ray's error, the state of its machine, and the log of its process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.run.policy import Failure
from launcher.run.process import Location, log_here
from launcher.watch.tail import tail
from runner.errors import FailedEnvironmentError, UserError

LONGEST = 2000
"""Characters of an exception that are kept."""
LARGEST_LOG = 4_000_000
"""Bytes of a log that come from another machine, from its end."""
FETCH_SECONDS = 20.0
LAST_WORDS = 200
"""Lines from the end of a log among which the one that says why the process died is looked for."""
TELLING = (("Check failed", "what():", "ssert", "Error:"), ("terminate called", "Fatal", "SIG"))
"""Parts of lines that native code prints before it aborts, those that say why first; stack frames follow."""
MEMORY = ("MemoryError", "OutOfMemory", "RESOURCE_EXHAUSTED", "out of memory", "bad_alloc", "ALLOC_FAILED")


def failure_of(error: Exception, location: Location | None, log: Path) -> Failure:
    """Sort what a worker's future raised, by the location of its process, if it has begun, and its log."""
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        text = words_of(error.cause)
        if isinstance(error.cause, UserError):
            return Failure("refused", text)
        if isinstance(error.cause, FailedEnvironmentError):
            return Failure("error", text, error.cause.trial)
        # A smaller pack may fit where this one did not.
        large = any(word in text for word in MEMORY)
        return Failure("crash" if large else "error", text, too_large=large)
    gone = "its node has died" in str(error) or (location is not None and is_lost(location.node))
    if gone or getattr(error, "preempted", False):
        machine = location.host if location else "its machine"
        return Failure("node", f"{machine} was lost, and the worker process with it")
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(error):
        return Failure("crash", "the machine ran out of memory, and Ray ended the worker process")
    if isinstance(error, ray.exceptions.RayActorError):
        return Failure("crash", f"the worker process died{_last_words(log)}")
    return Failure("error", words_of(error))


def words_of(error: BaseException) -> str:
    """An error in a sentence: ours say all themselves, of others the type is needed."""
    ours = isinstance(error, UserError | FailedEnvironmentError)
    return (str(error) if ours else f"{type(error).__name__}: {error}")[:LONGEST]


def end_process(location: Location, worker: Any) -> None:
    """End a worker that does not answer: Ray asks the process itself, which would keep its core and its memory."""
    import ray

    ray.kill(worker)
    _beside(location, _kill).remote(location.pid)


def fetch_log(location: Location, log: Path) -> None:
    """Bring what a process on another machine printed into the launch directory, as far as that can be had."""
    import ray

    if log.exists() or location.node == ray.get_runtime_context().get_node_id() or is_lost(location.node):
        return
    read = _beside(location, _take_log).remote(log, location.pid)
    # The trial's fate does not depend on it, nor must other trials wait for it long.
    with contextlib.suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError, OSError):
        text = ray.get(read, timeout=FETCH_SECONDS)
        if text:
            log.write_bytes(text)


def _beside(location: Location, function: Callable[..., Any]) -> Any:
    """Ray's task of a function on the machine of a process, where it needs no core."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(location.node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(function)


def _take_log(log: Path, pid: int) -> bytes:
    """The end of a log on the machine where it was written, which is then removed."""
    path = log_here(log, pid)
    if path == log or not path.is_file():
        return b""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LARGEST_LOG))
        text = file.read()
    path.unlink()
    return text


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            os.kill(pid, signal.SIGKILL)


def _last_words(log: Path) -> str:
    """The last words of a process that died, as the end of a sentence; empty if nothing."""
    with contextlib.suppress(UserError):
        lines = [line.strip() for line in tail(log, LAST_WORDS) if line.strip()]
        telling = ([line for line in lines if any(word in line for word in words)] for words in TELLING)
        chosen = next((some for some in telling if some), lines)
        if chosen:
            return f"; it said last: {chosen[-1][:300]}"
    return ""


def is_lost(machine: str) -> bool:
    """Ray's node of this ID is gone; Ray takes up to 15 s to say so, its port says it at once."""
    import ray

    node = next((node for node in ray.nodes() if node["NodeID"] == machine), None)
    if node is None or not node["Alive"]:
        return True
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=3).close()
    except OSError:
        return True
    return False
