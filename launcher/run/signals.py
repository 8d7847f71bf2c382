"""Signals that a launch notes, to save and leave in good order, instead of dying of them."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

ONE_REQUEST_SECONDS = 1.0
"""Signals this close together are one request: `timeout` tells its child and then its group, `uv run` passes all on."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def noted() -> Iterator[list[int]]:
    """The growing list of the numbers of signals of `STOPPING`.

    A terminal that goes away (SIGHUP) ends what runs in it, as everywhere; whoever wants it to go on says so with
    `nohup`, under which the signal stays ignored.
    """
    numbers: list[int] = []
    requested = -math.inf

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal requested
        if time.monotonic() - requested > ONE_REQUEST_SECONDS:
            numbers.append(number)
            requested = time.monotonic()

    if threading.current_thread() is not threading.main_thread():
        # Somebody else's program, which handles its signals.
        yield numbers
        return
    handled = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in handled}
    try:
        yield numbers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Handlers of `STOPPING` that something sets for itself here, such as an environment, are put back afterwards."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
