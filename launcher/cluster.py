"""Being connected to Ray: to one of our own, or to a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from launcher.plan import Placement
from runner.errors import UserError

OBJECT_STORE_BYTES = 200_000_000
"""Checkpoints travel in calls; Ray's default of 30% of the machine's memory would be wasted."""


def set_environment(address: str | None) -> None:
    """Set what ray reads when it is imported."""
    # uv's hook would rebuild the driver's environment on every worker.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if address is None and "ray" not in sys.modules:
        # Otherwise ray switches authentication on or off by what it finds in the home directory.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextlib.contextmanager
def connected(address: str | None, placement: Placement | None = None) -> Iterator[None]:
    """Be connected to Ray: to the cluster at `address`, or to one of our own that ends with the block.

    A connection that this process already has is used and kept.

    Raises:
        UserError: the cluster cannot be reached.
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
