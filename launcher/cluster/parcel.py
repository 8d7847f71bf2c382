"""`python -m launcher.cluster.parcel DIR`: a launch directory as lines of text, for whoever has only a job's output."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import os
import sys
import tarfile
import tempfile
from pathlib import Path

from launcher.ledger.storage import LEDGER, copy_tables
from runner.files import expanded

PIECE, END = "~", "~~ "
"""The beginnings of lines of the archive, and of the last one with its SHA-256: no character of base64."""
PIECE_BYTES = 9_000
"""Bytes of the archive in a line: Ray hands on up to 20,000 characters at once."""
NOT_CARRIED = {
    LEDGER,
    *(f"{LEDGER}-{part}" for part in ("wal", "shm", "journal")),
    "ledger.partial",
    "ledger.lock",
    "lock",
}
"""Files of the ledger and its locks, which belong to it and not to a copy."""


def write(directory: Path) -> None:
    """Print the directory."""
    lines = _Lines()
    with (
        gzip.GzipFile(fileobj=lines, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        # The ledger as it is now, and only then the files that its rows speak of.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / LEDGER
            copy_tables(directory / LEDGER, copy)
            _add(tar, copy, LEDGER)
        for path in sorted(directory.rglob("*")):
            if path.is_file() and path.name not in NOT_CARRIED:
                # A temporary file may have got its name by now.
                with contextlib.suppress(FileNotFoundError):
                    _add(tar, path, path.relative_to(directory).as_posix())
    lines.finish()


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """A file as long as it is now: some grow meanwhile."""
    with path.open("rb") as file:
        entry = tarfile.TarInfo(name)
        entry.size = os.fstat(file.fileno()).st_size
        tar.addfile(entry, file)


class _Lines(io.RawIOBase):
    """Prints what is written to it in pieces."""

    def __init__(self) -> None:
        self._rest, self._digest = bytearray(), hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self._rest += memoryview(data)  # type: ignore[arg-type]
        while len(self._rest) >= PIECE_BYTES:
            self._print(bytes(self._rest[:PIECE_BYTES]))
            del self._rest[:PIECE_BYTES]
        return memoryview(data).nbytes  # type: ignore[arg-type]

    def finish(self) -> None:
        self._print(bytes(self._rest))
        print(f"{END}{self._digest.hexdigest()}", flush=True)

    def _print(self, piece: bytes) -> None:
        self._digest.update(piece)
        print(f"{PIECE}{base64.b64encode(piece).decode()}")


if __name__ == "__main__":
    write(expanded(sys.argv[1]))
