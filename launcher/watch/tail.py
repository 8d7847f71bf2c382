"""The ends of logs."""

from __future__ import annotations

from pathlib import Path

from runner.errors import UserError

LONGEST_TAIL = 1 << 24
"""Bytes of a log's end that are looked through at most."""


def tail(path: Path, lines: int) -> list[str]:
    """The last `lines` lines of a file, however long it is."""
    data = b""
    try:
        with path.open("rb") as file:
            start = file.seek(0, 2)
            last = max(start - LONGEST_TAIL, 0)
            while start > last and data.count(b"\n") <= lines:
                before = max(start - max(1 << 16, len(data)), last)
                file.seek(before)
                data = file.read(start - before) + data
                start = before
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    text = data.decode(errors="replace").rstrip("\n")
    return text.split("\n")[-lines:] if text else []
