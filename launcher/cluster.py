"""Ray: connect, give every pack a worker, follow them to the end.

The launcher keeps the ledger and decides; Ray schedules, places and isolates.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from launcher.aggregator import start_aggregator
from launcher.plan import Placement, Trial
from launcher.status import tail
from launcher.worker import Job, Worker
from runner.cores import usable_cores
from runner.errors import UserError

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 200_000_000
"""Checkpoints travel in calls; Ray's default of 30% of the machine's memory would be wasted."""
POLL_SECONDS = 0.5
LAST_WORDS = 20
"""Lines from the end of a log among which the last one that says something is looked for."""
STOP_SECONDS = 60.0
"""How long workers may take to save after a stop, before they are ended."""


def _set_environment(address: str | None) -> None:
    """Set what ray reads when it is imported."""
    # uv's hook would rebuild the driver's environment on every worker.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if address is None and "ray" not in sys.modules:
        # Otherwise ray switches authentication on or off by what it finds in the home directory.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def visible_gpus() -> int:
    """GPUs that Ray would find on this machine, CUDA_VISIBLE_DEVICES respected."""
    _set_environment(None)
    from ray._private.accelerators import NvidiaGPUAcceleratorManager as Nvidia

    visible = Nvidia.get_current_process_visible_accelerator_ids()
    return Nvidia.get_current_node_num_accelerators() if visible is None else len(visible)


def place(workers: int | None, gpus: int | None, logical: bool, address: str | None) -> Placement:
    """Decide how many workers run and on what.

    On this machine that needs no Ray; on a cluster (`address`) it needs to be connected.

    Raises:
        UserError: more GPUs than there are.
    """
    if address is None:
        cores = usable_cores()
        found, where = (gpus or 0) if logical else visible_gpus(), "on this machine"
    else:
        import ray

        resources = ray.cluster_resources()
        cores, found, where = int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), f"in the cluster {address}"
    if gpus and gpus > found:
        allowed = f"allowed: 0 to {found}" if found else "leave --gpus out"
        raise UserError(
            f"command line: --gpus {gpus}: Ray finds {found} {where}; {allowed}, or add --logical-gpus to only count "
            "them (nothing then runs on a GPU)"
        )
    use = found if gpus is None and not logical else (gpus or 0)
    if use:
        return Placement(workers or use, use, 0 if logical else max(1, cores // use), logical)
    return Placement(workers or max(1, cores), 0, 1)


@contextlib.contextmanager
def connected(address: str | None, placement: Placement | None = None) -> Iterator[None]:
    """Be connected to Ray: to the cluster at `address`, or to one of our own that ends with the block.

    A connection that this process already has is used and kept.

    Raises:
        UserError: the cluster cannot be reached.
    """
    _set_environment(address)
    import ray

    if ray.is_initialized():
        yield
        return
    on_terminate = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        assert placement is not None
        ray.init(
            address="local",
            num_cpus=max(placement.workers * max(placement.cpus, 1), 1),
            num_gpus=placement.gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
    else:
        _reachable(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"command line: --address {address}: cannot connect: {error}") from None
    try:
        if on_terminate is not None and threading.current_thread() is threading.main_thread():
            # Ray has put a handler in its place that aborts the process and leaves a native stack trace.
            signal.signal(signal.SIGTERM, on_terminate)
        yield
    finally:
        ray.shutdown()


def _reachable(address: str) -> None:
    """Ray retries a dead address for minutes; one TCP connection tells at once."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit():
        raise UserError(f"command line: --address {address!r}: allowed: auto or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"command line: --address {address}: nothing answers there: {error}") from None


def run(
    directory: Path,
    packs: Sequence[Sequence[Trial]],
    placement: Placement,
    watch: Callable[[], None],
) -> int:
    """Train every pack.

    Args:
        directory: the launch directory; its ledger knows all trials.
        packs: longest first.
        placement: how many at a time, on what.
        watch: called twice a second, for progress and exports.

    Returns:
        0, or the number of the signal (Ctrl-C or SIGTERM) that stopped it in good order.
    """
    import ray

    options = {"num_cpus": placement.cpus, "num_gpus": 1 if placement.gpus else 0}
    actor = ray.remote(max_restarts=0, max_task_retries=0, **options)(Worker)
    gpu = placement.on_gpus
    threads = max(1, placement.cpus)

    def start(pack: Sequence[Trial]) -> Any:
        return actor.remote(placement.backend(pack[0].config), threads, gpu)

    # Workers import their framework while the aggregator starts.
    early = {pack[0].id: start(pack) for pack in packs[: placement.workers]}
    aggregator = start_aggregator(directory)
    waiting = [list(pack) for pack in packs]
    running: dict[Any, _Running] = {}
    with _signals() as signals:
        told: float | None = None
        while running or (waiting and not signals):
            while waiting and len(running) < placement.workers and not signals:
                pack = waiting.pop(0)
                started = _open(directory, aggregator, pack)
                if isinstance(started, list):
                    waiting[:0] = started
                    continue
                attempt, checkpoints = started
                names = tuple(trial.id for trial in pack)
                job = Job(
                    attempt,
                    names,
                    tuple(trial.config.dump() for trial in pack),
                    checkpoints,
                    directory / _log_of(attempt),
                    threads,
                    gpu,
                )
                worker = early.pop(names[0], None) or start(pack)
                ready = worker.ready.remote()
                running[worker.train.remote(job, aggregator)] = _Running(worker, ready, attempt, names)
            if signals and told is None:
                told = time.monotonic()
                ray.get(aggregator.stop.remote())
                # Whoever still imports has nothing to save.
                for item in running.values():
                    if not ray.wait([item.ready], timeout=0)[0]:
                        ray.kill(item.worker)
            if told is not None and (len(signals) > 1 or time.monotonic() - told > STOP_SECONDS):
                for item in running.values():
                    ray.kill(item.worker)
            done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for future in done:
                item = running.pop(future)
                _settle(directory, aggregator, future, item, stopping=told is not None)
                # A fresh process for every pack: its memory, threads and log are its own.
                ray.kill(item.worker)
            watch()
        ray.kill(aggregator)
        return signals[0] if signals else 0


@dataclass(frozen=True)
class _Running:
    """A pack at work: its process, a future that is done once that has imported everything, and its attempt."""

    worker: Any
    ready: Any
    attempt: int
    names: tuple[str, ...]


def _open(
    directory: Path, aggregator: Any, pack: list[Trial]
) -> tuple[int, tuple[bytes, ...] | None] | list[list[Trial]]:
    """Open an attempt at a pack.

    Returns:
        Its number and the checkpoints to go on from; or smaller packs to open instead, where a damaged checkpoint fell
        back to an earlier one, so that members are no longer at the same timestep.
    """
    import ray

    names = [trial.id for trial in pack]
    attempt = ray.get(aggregator.open.remote(names, uuid.uuid4().hex))
    groups: dict[int | None, list[Trial]] = {}
    for trial in pack:
        file = attempt.resume[trial.id]
        groups.setdefault(file and file.timestep, []).append(trial)
    if len(groups) > 1:
        ray.get(aggregator.close.remote(attempt.number, "regrouped"))
        return list(groups.values())
    log_path = str(_log_of(attempt.number))
    ray.get(aggregator.describe_attempt.remote(attempt.number, log_path, socket.gethostname(), 0))
    files = [attempt.resume[name] for name in names]
    data = tuple((directory / file.path).read_bytes() for file in files if file is not None)
    return attempt.number, data or None


def _log_of(attempt: int) -> Path:
    return Path("logs") / f"attempt-{attempt}.log"


def _settle(directory: Path, aggregator: Any, future: Any, item: _Running, stopping: bool) -> None:
    """Close an attempt that ended, well or not."""
    import ray

    try:
        outcome = ray.get(future)
    except ray.exceptions.RayActorError as error:
        # Killed by us after a stop: what it had published is where a resume goes on.
        outcome = "interrupted" if stopping else "failed"
        words = None if stopping else reason(directory, error, item.attempt)
        ray.get(aggregator.fail.remote(item.attempt, item.names, words, outcome))
    except Exception as error:
        # Whatever ended it, the ledger keeps the reason and the log, and the other packs go on.
        outcome = "failed"
        ray.get(aggregator.fail.remote(item.attempt, item.names, reason(directory, error, item.attempt)))
    ray.get(aggregator.close.remote(item.attempt, outcome))


def reason(directory: Path, error: BaseException, attempt: int) -> str:
    """Why an attempt failed, in one paragraph: the error, or that the process died, and its last words."""
    import ray

    log_path = _log_of(attempt)
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause
        first = f"{type(cause).__name__}: {cause}" if not isinstance(cause, UserError) else str(cause)
    elif isinstance(error, ray.exceptions.RayActorError):
        first = "the worker process died (a crash in native code, or out of memory)"
    else:
        first = f"{type(error).__name__}: {error}"
    words = ""
    with contextlib.suppress(UserError):
        lines = "\n".join(tail(directory / log_path, LAST_WORDS)).strip().splitlines()
        if lines and not isinstance(error, ray.exceptions.RayTaskError):
            words = f". Its last line: {lines[-1][:300]}"
    return f"{first[:2000]}{words} (log: {log_path})"


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Note Ctrl-C and SIGTERM instead of dying of them; yields the growing list of their numbers."""
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():
        # Somebody else's program, which handles its signals.
        yield noted
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
