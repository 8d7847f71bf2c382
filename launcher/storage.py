"""Below the ledger: opening its file, who may write, and which errors only mean that the disk takes nothing now."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import sqlite3
from pathlib import Path
from typing import IO

from runner.errors import UserError

# BUSY: a reader has held the lock of a network file system for longer than the timeout.
_SQLITE_STORAGE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY}
_OS_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES}
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p")


def disk_refuses(error: sqlite3.OperationalError | OSError) -> bool:
    """Whether the storage is full, read-only or failing, rather than the program wrong."""
    if isinstance(error, OSError):
        return error.errno in _OS_STORAGE
    return error.sqlite_errorcode & 0xFF in _SQLITE_STORAGE


def on_network_file_system(directory: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether `directory` is on NFS, SMB, Lustre or the like; False where there is no table of `mounts`."""
    if not mounts.is_file():
        return False
    table = (line.split(" ") for line in mounts.read_text().splitlines())
    kinds = {Path(place.replace("\\040", " ")): kind for _, place, kind, *_ in table}
    resolved = directory.resolve()
    kind = next((kinds[place] for place in (resolved, *resolved.parents) if place in kinds), "")
    return kind.startswith(_NETWORK_FILE_SYSTEMS)


def connect(path: Path, writer: bool) -> sqlite3.Connection:
    """Open a database: to write, made if it is not there, every commit on disk when it returns; or only to read."""
    # The launcher may poll from a thread, though never from two at once.
    uri = f"{path.as_uri()}?mode={'rwc' if writer else 'ro'}"
    db = sqlite3.connect(uri, timeout=30, isolation_level=None, check_same_thread=False, uri=True)
    if writer:
        # WAL needs memory shared by all processes that open the file: not so on network file systems.
        mode = "TRUNCATE" if on_network_file_system(path.parent) else "WAL"
        try:
            for pragma in (f"journal_mode = {mode}", "synchronous = FULL", "foreign_keys = ON"):
                db.execute(f"PRAGMA {pragma}")
        except BaseException:
            db.close()
            raise
    return db


def lock(directory: Path) -> IO[bytes]:
    """Hold `DIR/lock` until the result is closed or the process is gone, however it went.

    Raises:
        UserError: another process holds it.
    """
    file = (directory / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"{directory} is in use by another launch. Wait until it ends, stop it with Ctrl-C, "
            "or start this one under another name."
        ) from None
    return file


def is_whole(path: Path, sha256: str) -> bool:
    """Whether the file is there and its bytes have this digest."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False
