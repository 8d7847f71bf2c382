"""Memory through which the processes of a group on one machine hand each other arrays.

A message between processes of one machine goes through its network stack, where a gradient that is copied in 40 µs
waits for milliseconds: as long as a minibatch step takes to compute.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from runner.group import PATIENCE_SECONDS, Group

PIECE = 1 << 20
"""Bytes of an array that are handed over at once."""
LINE = 64
"""Bytes of a line of the processor's cache."""
SPINS = 2_000
"""Looks at whether the others have come, before a process sleeps between them: about 1 ms."""
LOOK_SECONDS = 1.0
"""Between two looks at whether the others live."""
_FOLDER, _NAME = "/dev/shm", 4096
"""Where files are memory, and the bytes of the longest path."""


class Exchange:
    """The memory of a group's processes: for each a count of what it has written, and two places for a piece.

    Whoever has written a piece waits until all others have written theirs, and reads them. The next piece goes to the
    other place, so that nothing is overwritten that a slower process has still to read.

    Attributes:
        rank: the number of this process.
        size: how many there are.
    """

    def __init__(self, rank: int, size: int, file: IO[bytes]) -> None:
        """Use the memory of a file of `bytes_of(size)` bytes."""
        self.rank, self.size, self._file = rank, size, file
        memory = mmap.mmap(file.fileno(), self.bytes_of(size))
        counts = np.frombuffer(memory, np.int64, size * LINE // 8)
        self._written = counts[:: LINE // 8]
        self._places = np.frombuffer(memory, np.uint8, offset=size * LINE).reshape(2, size, PIECE)
        self._number = 0
        # The system takes the lock of a process that has ended, however that ended.
        fcntl.lockf(file, fcntl.LOCK_EX, 1, rank)

    @staticmethod
    def bytes_of(size: int) -> int:
        """The memory that so many processes need."""
        return size * (LINE + 2 * PIECE)

    def gather(self, array: np.ndarray) -> np.ndarray:
        """The arrays that the processes call this with, all of one shape, in order on a new axis in front.

        Raises:
            ConnectionError: another process has ended, or does not come.
        """
        every = np.empty((self.size, array.size), array.dtype)
        for part, pieces in self._pieces(array):
            every[:, part] = pieces
        return every.reshape(self.size, *array.shape)

    def total(self, numbers: np.ndarray) -> np.ndarray:
        """The sum over the processes, the same bits in all of them; errors as of `gather`."""
        total = np.empty(numbers.size, numbers.dtype)
        for part, pieces in self._pieces(numbers):
            pieces.sum(0, numbers.dtype, total[part])
        return total.reshape(numbers.shape)

    def close(self) -> None:
        """Let go of the file; the memory goes with the arrays."""
        self._file.close()

    def _pieces(self, array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """The parts of a flat array, and what the processes have of each, which holds until the next is asked for."""
        sent, each = np.ascontiguousarray(array).reshape(-1), PIECE // array.itemsize
        for start in range(0, sent.size, each):
            part = slice(start, min(start + each, sent.size))
            self._number += 1
            place = self._places[self._number % 2, :, : sent[part].nbytes].view(array.dtype)
            place[self.rank] = sent[part]
            self._written[self.rank] = self._number
            self._wait()
            yield part, place

    def _wait(self) -> None:
        """Return when all have written as many pieces as this process."""
        for _ in range(SPINS):
            if self._written.min() >= self._number:
                return
            os.sched_yield()
        began = looked = time.monotonic()
        while self._written.min() < self._number:
            time.sleep(5e-5)
            now = time.monotonic()
            if now - looked > LOOK_SECONDS:
                looked = now
                self._look(now - began)

    def _look(self, waited: float) -> None:
        """Raise if another process will not come."""
        for rank in np.flatnonzero(self._written < self._number):
            which = f"process {rank} of the {self.size} that train together"
            if waited > PATIENCE_SECONDS:
                raise ConnectionError(f"{which} has not come for {waited:.0f} s")
            with contextlib.suppress(BlockingIOError, PermissionError):
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(rank))
                raise ConnectionError(f"{which} has ended")


def meet(group: Group, gather: Callable[[np.ndarray], np.ndarray]) -> Exchange | None:
    """The exchange of a group, or None where its processes are not on one machine, or that has no memory for it.

    Args:
        group: whose processes all call this.
        gather: as `Exchange.gather` does, over the network.
    """
    # Linux alone can say beforehand that there is memory for a file; on x86 a piece is seen before its count is.
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    own = Path(_FOLDER if os.access(_FOLDER, os.W_OK) else tempfile.gettempdir()) / f"sunflower-{secrets.token_hex(16)}"
    exchange = _opened(str(own), group) if group.rank == 0 else None
    try:
        names = gather(np.frombuffer(bytearray(str(own).encode().ljust(_NAME)), np.uint8))
        if group.rank:
            exchange = _opened(names[0].tobytes().decode().rstrip(), group)
        everywhere = gather(np.array([exchange is not None])).all()
    finally:
        own.unlink(missing_ok=True)
    if exchange is not None and not everywhere:
        exchange.close()
    return exchange if everywhere else None


def _opened(path: str, group: Group) -> Exchange | None:
    """The exchange in the memory of a file, which the group's first process makes."""
    try:
        # It stays open, since its locks say who lives.
        file = open(  # noqa: SIM115
            path, "r+b" if group.rank else "x+b", buffering=0, opener=partial(os.open, mode=0o600)
        )
        if group.rank == 0:
            os.posix_fallocate(file.fileno(), 0, Exchange.bytes_of(group.size))
        return Exchange(group.rank, group.size, file)
    except OSError:
        return None
