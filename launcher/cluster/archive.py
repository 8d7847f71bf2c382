"""A launch directory as lines of text, for whoever has only a job's output: `python -m launcher.cluster.archive DIR`
prints them, `Unpacker` and `bring` make a directory of them.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.ledger.storage import LEDGER, copy_tables, lock
from runner.errors import UserError
from runner.files import expanded

PIECE, END = "~", "~~ "
"""The beginnings of lines of the archive, and of the last one with its SHA-256: no character of base64."""
NOTE = "pulled.json"
"""A file in a directory that was pulled: from where, when, and the digest of its ledger."""
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


class Unpacker:
    """Writes the archive that is among the lines of a job's output to a file."""

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write = write
        self._digest, self._told, self._rest = hashlib.sha256(), "", ""
        self._said = ""
        """The last of the other lines."""

    def take(self, text: str) -> None:
        """Some more of the output, from wherever it was left off; a line that was harmed is a ValueError."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.startswith(END):
                self._told = line[len(END) :]
            elif line.startswith(PIECE):
                data = base64.b64decode(line[len(PIECE) :], validate=True)
                self._digest.update(data)
                self._write(data)
            elif line.strip():
                self._said = line

    def check(self, where: str) -> None:
        """Refuse an archive that has not come whole."""
        if self._told != self._digest.hexdigest():
            why = f": {self._said}" if self._said else ""
            raise UserError(f"{where}: the launch's directory did not arrive whole{why}")


def bring(archive: Path, directory: Path, note: dict[str, Any]) -> None:
    """Put what is in an archive in the place of a directory that was pulled before, or of nothing.

    The archive's folder must be on the directory's disk, and is used for the rest.
    """
    new, old = archive.with_name("new"), archive.with_name("old")
    with tarfile.open(archive) as tar:
        tar.extractall(new, filter="data")
    (new / NOTE).write_text(json.dumps(note | {"ledger": _digest(new)}) + "\n")
    refuse_to_lose(directory)
    try:
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
    except BaseException:
        if old.exists() and not directory.exists():
            old.rename(directory)
        raise


def refuse_to_lose(directory: Path) -> None:
    """Refuse a directory that holds anything but what was pulled into it; reports are made again."""
    if not os.path.lexists(directory):
        return
    note = directory / NOTE
    if not note.is_file():
        raise UserError(f"{directory}: exists already, and was not pulled; choose another --out")
    with contextlib.closing(lock(directory)):
        journal = directory / f"{LEDGER}-wal"
        written = journal.exists() and journal.stat().st_size > 0
        if written or json.loads(note.read_text()).get("ledger") != _digest(directory):
            raise UserError(
                f"{directory}: was trained or evaluated in since it was pulled, which another pull would undo; "
                "rename it, or choose another --out"
            )


def _digest(directory: Path) -> str:
    with (directory / LEDGER).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    write(expanded(sys.argv[1]))
