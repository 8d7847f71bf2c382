"""Being connected to Ray: to one of our own, or to a cluster."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from launcher.cluster.temporary import ray_folder
from launcher.run.import_path import ROOT, job_config
from runner.envs.named import imports
from runner.errors import UserError

if TYPE_CHECKING:
    from launcher.plan.experiment import Placement

OBJECT_STORE_BYTES = 200_000_000
"""Checkpoints travel in calls; Ray's default of 30% of the machine's memory would be wasted."""
START_SECONDS = 300.0
"""The time that a process has to start and to import what it needs, from a slow network file system too."""
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray where it runs a program as a job."""
LOGS = "session_latest/logs"
"""Below Ray's folder."""
JOIN = "`ray start --address=HOST:PORT --num-cpus=0` makes it one, and --address http://HOST:8265 needs none"


def set_environment(address: str | None) -> None:
    """Set what ray reads when it is imported."""
    # uv's hook would rebuild the driver's environment on every worker.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if "ray" in sys.modules or JOB in os.environ:  # Ray gives a job what it needs
        return
    # Otherwise ray switches authentication on or off by what it finds in the home directory.
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    elif "RAY_AUTH_MODE" not in os.environ:
        if not is_loopback(address) and not _has_token():
            raise UserError(
                f"command line: --address {address}: no token: anyone who reaches a Ray port without one can run "
                "programs there. Set RAY_AUTH_TOKEN to the cluster's (or RAY_AUTH_MODE=disabled if it has none, behind "
                "a network that only you use); see cluster/README.md"
            )
        # Ray's jobs API, unlike ray.init, does not look for a token by itself; here it may lead through a tunnel.
        if _has_token() and ("://" in address or not is_loopback(address)):
            os.environ["RAY_AUTH_MODE"] = "token"


def is_loopback(address: str) -> bool:
    """An address is on this machine: `auto` is what runs here, or what RAY_ADDRESS names."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
        if address in ("", "auto", "local"):
            return True
    host = urlsplit(f"//{address.rpartition('://')[2]}").hostname
    return host in ("localhost", "127.0.0.1", "::1")


def _has_token() -> bool:
    own = Path(os.path.expanduser("~/.ray/auth_token"))
    return bool({"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()) or own.is_file()


@contextlib.contextmanager
def connected(address: str | None, placement: Placement | None = None) -> Iterator[None]:
    """Be connected to Ray: to the cluster at `address`, or to one of our own that ends with the block.

    A connection that this process already has is used and kept.
    """
    set_environment(address)
    import ray

    if ray.is_initialized():
        yield
        return
    on_terminate = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        assert placement is not None
        with _deaf_children():
            _start_own(placement, quiet)
    else:
        check_reachable(address)
        try:
            # A job was given our code when it was submitted.
            env = None if JOB in os.environ else code()
            ray.init(address=address, runtime_env=env, job_config=job_config(own=False), **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            # Ray has waited a minute for a raylet on this machine.
            hint = f"; this machine is no part of that cluster: {JOIN}" if "No node info" in str(error) else ""
            raise UserError(f"command line: --address {address}: cannot connect: {error}{hint}") from None
    try:
        if on_terminate is not None and threading.current_thread() is threading.main_thread():
            # Ray has put a handler in its place that aborts the process and leaves a native stack trace.
            signal.signal(signal.SIGTERM, on_terminate)
        yield
    finally:
        ray.shutdown()


def _start_own(placement: Placement, quiet: Mapping[str, Any]) -> None:
    import ray

    folder = ray_folder()
    try:
        ray.init(
            address="local",
            num_cpus=max(placement.workers * placement.devices * max(placement.cpus, 1), 1),
            num_gpus=placement.gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            job_config=job_config(own=True),
            _temp_dir=str(folder),
            **quiet,
        )
    except Exception as error:  # of any type, and it waits for nothing longer than a minute
        raise RuntimeError(f"Ray did not start: {error}; its logs are in {folder / LOGS}") from error
    for processes in ray._private.worker._global_node.all_processes.values():
        for one in processes:
            one.process.terminate = one.process.kill  # Ray would wait a second for each to hear SIGTERM


def is_own() -> bool:
    """This process has started the Ray that it is connected to, which then has room for all that is wanted."""
    import ray

    node = ray._private.worker._global_node
    return node is not None and bool(node.head)


def not_started(what: str) -> str:
    """A sentence about a process that did not start, and where to look for the reason."""
    import ray

    logs = ray._private.worker._global_node.get_logs_dir_path()
    machine = "" if is_own() else " on this machine and on that of the process"
    return f"{what} did not start within {START_SECONDS:.0f} s; Ray's logs are in {logs}{machine}"


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes that are started here, and theirs, do not hear what is meant for this one, which saves first.

    A terminal that closes tells its whole group, and so do `timeout`, systemd and Slurm when time is over.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def code() -> dict[str, Any]:
    """Our packages and those of a person's environments, for machines that have other versions of them, or none."""
    packages = [Path(ROOT) / name for name in ("launcher", "runner")]
    travelling = dict.fromkeys(map(str, [*packages, *imports.carried()]))
    return {
        "py_modules": list(travelling),
        "excludes": ["__pycache__"],
        "env_vars": {imports.VARIABLE: json.dumps(imports.allowed())},
    }


def check_reachable(address: str) -> None:
    """Connect once: Ray retries a dead address for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"command line: --address {address!r}: allowed: auto or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"command line: --address {address}: nothing answers there: {error}") from None
