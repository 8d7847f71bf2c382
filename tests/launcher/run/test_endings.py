"""Why an attempt ended early, from errors as Ray raises them and logs as native code leaves them, without Ray."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from launcher.run.failures import LAST_WORDS, LONGEST, failure_of
from launcher.run.policy import Failure
from launcher.run.process import Location
from runner.errors import FailedEnvironmentError, UserError

PLACE = Location("node-1", "spruce", 4711)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "attempt-1.log"


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The machine of PLACE as Ray lists it, whose port somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        row = {
            "NodeID": "node-1",
            "Alive": True,
            "NodeManagerAddress": "127.0.0.1",
            "NodeManagerPort": server.getsockname()[1],
        }
        monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "node-0", "Alive": True}, row])
        yield row


def raised(cause: Exception) -> Exception:
    """As `ray.get` raises what a method of an actor did."""
    return RayTaskError("train", "Traceback (most recent call last): …", cause).as_instanceof_cause()


# Python exceptions


def test_a_user_error_is_refused_in_its_own_words(log: Path) -> None:
    assert failure_of(raised(UserError("no GPU there")), PLACE, log) == Failure("refused", "no GPU there")


def test_an_exception_is_an_error_with_its_name(log: Path) -> None:
    assert failure_of(raised(ValueError("boo")), PLACE, log) == Failure("error", "ValueError: boo")


def test_a_failed_environment_is_told_in_its_own_words_with_its_trial(log: Path) -> None:
    error = FailedEnvironmentError("the environment with seed 7 raised", environment=3, envs=4)
    error.trial = "a-2"
    sent = RayTaskError.from_bytes(RayTaskError("train", "Traceback …", error).to_bytes())
    assert failure_of(sent.as_instanceof_cause(), PLACE, log) == Failure("error", str(error), "a-2")


def test_an_exception_of_a_final_class_is_an_error_too(log: Path) -> None:
    error = RayTaskError("train", "Traceback …", KeyError("x"))
    assert failure_of(error, None, log) == Failure("error", "KeyError: 'x'")


@pytest.mark.parametrize(
    "cause",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1073741824 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA"),
    ],
)
def test_too_little_memory_is_a_death_that_a_smaller_pack_may_survive(log: Path, cause: Exception) -> None:
    ending = failure_of(raised(cause), PLACE, log)
    assert ending.kind == "crash" and ending.too_large and ending.words == f"{type(cause).__name__}: {cause}"


@pytest.mark.parametrize("kind", [UserError, ValueError])
def test_endless_exceptions_are_cut(log: Path, kind: type[Exception]) -> None:
    assert len(failure_of(raised(kind("x" * 100_000)), PLACE, log).words) == LONGEST


def test_other_errors_keep_their_name(log: Path) -> None:
    assert failure_of(OSError("boo"), None, log) == Failure("error", "OSError: boo")
    assert failure_of(WorkerCrashedError(), None, log).words.startswith("WorkerCrashedError: The worker died")


# Deaths


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("error", [ActorDiedError(), RayActorError(), ActorUnavailableError("no answer", None)])
def test_a_dead_process_without_words(log: Path, error: Exception) -> None:
    assert failure_of(error, PLACE, log) == Failure("crash", "the worker process died")
    log.write_text("\n \n")
    assert failure_of(error, PLACE, log) == Failure("crash", "the worker process died")


@pytest.mark.parametrize("error", [OutOfMemoryError("boo"), RayActorError(error_msg="… node running low on memory …")])
def test_a_machine_without_memory(log: Path, error: Exception) -> None:
    words = "the machine ran out of memory, and Ray ended the worker process"
    assert failure_of(error, None, log) == Failure("crash", words)


# Machines


LOST = Failure("node", "spruce was lost, and the worker process with it")


def test_a_machine_that_ray_says_is_dead(node: dict[str, Any], log: Path) -> None:
    node["Alive"] = False
    assert failure_of(ActorDiedError(), PLACE, log) == LOST


def test_a_machine_that_ray_does_not_know(node: dict[str, Any], log: Path) -> None:
    node["NodeID"] = "another"
    assert failure_of(ActorDiedError(), PLACE, log) == LOST


def test_a_machine_that_does_not_answer_before_ray_says_so(node: dict[str, Any], log: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        node["NodeManagerPort"] = server.getsockname()[1]
    assert failure_of(ActorDiedError(), PLACE, log) == LOST


def test_a_machine_that_was_taken_away(log: Path) -> None:
    words = "its machine was lost, and the worker process with it"
    assert failure_of(RayActorError(preempted=True), None, log) == Failure("node", words)


def test_an_exception_is_one_though_the_machine_is_lost_by_now(node: dict[str, Any], log: Path) -> None:
    node["Alive"] = False
    assert failure_of(raised(ValueError("boo")), PLACE, log).kind == "error"


def test_a_process_that_never_had_a_place_is_not_looked_for(log: Path) -> None:
    assert failure_of(ActorDiedError(), None, log) == Failure("crash", "the worker process died")


# Last words

FRAMES = "\n".join(f"    @     0x7f3c{i:08x}  (unknown)  (unknown)" for i in range(20))
PYTHON = "\n".join(f'  File "/lib/python3.11/threading.py", line {i} in run' for i in range(20))
SIGABRT = "[2026-11-23 05:00:00,123 E 4711 4711] logging.cc:474: *** SIGABRT received at time=1795410935 on cpu 1 ***"
CHECK = "F0000 00:00:1795410935.10 4711 executable.cc:12] Check failed: buffers.size() == 3 (2 vs. 3)"
LOGS = {
    f"{CHECK}\n*** Check failure stack trace: ***\n{FRAMES}\n": CHECK,
    f"{CHECK}\n{SIGABRT}\n{FRAMES}\nFatal Python error: Aborted\n\nStack (most recent call first):\n{PYTHON}\n": CHECK,
    f"starting\n{SIGABRT}\nPC: @     0x7f3c  (unknown)  raise\n{FRAMES}\n": SIGABRT,
    f"Fatal Python error: Segmentation fault\n\nCurrent thread 0x00007f (most recent call first):\n{PYTHON}\n": (
        "Fatal Python error: Segmentation fault"
    ),
    f"terminate called after throwing an instance of 'std::runtime_error'\n  what():  no such ROM\n{FRAMES}\n": (
        "what():  no such ROM"
    ),
    "python: envpool.cc:12: void Reset(): Assertion `id < n' failed.\nAborted (core dumped)\n": (
        "python: envpool.cc:12: void Reset(): Assertion `id < n' failed."
    ),
    "Error: of long ago\n" + "going well\n" * (LAST_WORDS + 1): "going well",
    "compiling\n\nKilled\n\n\n": "Killed",
    "y" * 5000: "y" * 300,
}


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("text", LOGS, ids=range(len(LOGS)))
def test_the_line_that_says_why_is_told(log: Path, text: str) -> None:
    log.write_text(text)
    assert failure_of(ActorDiedError(), PLACE, log) == Failure(
        "crash", f"the worker process died; it said last: {LOGS[text]}"
    )


@pytest.mark.usefixtures("node")
def test_a_process_that_really_aborts_is_quoted(log: Path) -> None:
    code = "import faulthandler, os; faulthandler.enable(); print('training', flush=True); os.abort()"
    with log.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, stderr=file, check=False)
    assert failure_of(ActorDiedError(), PLACE, log).words.endswith("it said last: Fatal Python error: Aborted")


@pytest.mark.usefixtures("node")
def test_a_log_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert failure_of(ActorDiedError(), PLACE, tmp_path) == Failure("crash", "the worker process died")
