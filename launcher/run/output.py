"""stdout and stderr that may fail: nobody reads them any more, their disk is full, their terminal is gone.

Whoever prints sees no error, so nothing that is printed can end what is at work meanwhile. What cannot be written is
dropped, and what comes later is tried again: a disk may have room by then.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO


class _Harmless(io.FileIO):
    """A descriptor that takes everything; `error` is the first that it had."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # somebody has made the pipe non-blocking
                select.select([], [self], [])
            return written
        except OSError as error:
            self.error = self.error or error
            return memoryview(data).nbytes


_guarded: TextIO | None = None
_excused = False


def guard() -> None:
    """Make this process's stdout and stderr harmless, and open the standard descriptors that are closed.

    A closed one would be given to the next file that is opened, and what is printed would be written into that.
    """
    global _guarded
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
    sys.stdout, sys.stderr = _guarded, _ = harmless(1, sys.stdout), harmless(2, sys.stderr)


def harmless(number: int, like: TextIO | None = None) -> TextIO:
    """A stream that writes to the descriptor `number` as `like` does, but raises nothing."""
    encoding = getattr(like, "encoding", None) or "utf-8"
    # With PYTHONUNBUFFERED it is one that writes at once; ours has a buffer below, which a line empties.
    lines = getattr(like, "line_buffering", True) or getattr(like, "write_through", False)
    raw = io.BufferedWriter(_Harmless(number, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding, "replace", line_buffering=lines)


def lost() -> OSError | None:
    """The error by which something that was printed to stdout is lost; None if nothing is, or it is excused."""
    if _guarded is None or _excused:
        return None
    _guarded.flush()
    raw = getattr(_guarded.buffer, "raw", None)
    return raw.error if isinstance(raw, _Harmless) else None


def excuse() -> None:
    """Take what is lost for no failure: the person was told, and what was asked for is not what was printed."""
    global _excused
    _excused = True
