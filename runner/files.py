"""Paths as people write them, and files that are whole, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from runner.errors import UserError

_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


def expanded(path: str | Path) -> Path:
    """A path in which `~` and `$VARIABLES` are what a shell makes of them; one that exists as it is written stays."""
    text = os.fspath(path)
    if "\0" in text or not ("$" in text or text.startswith("~")) or os.path.lexists(text):
        return Path(path)

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise UserError(f"{text}: the environment variable {name} is not set")
        return os.environ[name]

    whole = os.path.expanduser(_VARIABLE.sub(value, text))
    if whole.startswith("~"):
        raise UserError(f"{text}: no home folder is known for {text.partition('/')[0]}; write the whole path")
    return Path(whole)


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file, and the folders it needs, so that even after a power cut there is the old file or the new one.

    Raises:
        OSError: the folder cannot be made or written to, or the disk is full; nothing is left behind then.
    """
    path = Path(path)
    made = [folder for folder in path.parents if not folder.exists()]
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    # A name is on disk when its folder is, and so are the names of the folders that were made just now.
    for folder in (path.parent, *(folder.parent for folder in made)):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_all(files: Iterable[tuple[Path, bytes]]) -> None:
    """Write many files, each as `write_whole` does, with one flush to disk for all instead of several for each.

    Raises:
        OSError: a folder cannot be made or written to, or the disk is full; none of the files has changed then.
    """
    partials: list[tuple[Path, Path]] = []
    try:
        for path, data in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            partials.append((path.with_name(f".{path.name}.{os.getpid()}.partial"), path))
            partials[-1][0].write_bytes(data)
        os.sync()
    except BaseException:
        for partial, _ in partials:
            with contextlib.suppress(OSError):
                partial.unlink()
        raise
    for partial, path in partials:
        partial.replace(path)
    os.sync()
