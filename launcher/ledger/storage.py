"""Below the ledger: opening its file, who may write, and which errors only mean that the disk takes nothing now."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

from launcher.ledger import layout2
from runner.errors import UserError

LAYOUT = 3
"""Version of the tables, kept in the file: one of another version is not misread."""
LEDGER = "ledger.sqlite"
FOLDER = Path("runs")
"""The folder of launches, unless somebody says otherwise."""
REFUSED = (OSError, sqlite3.OperationalError)
"""Types of errors with which a disk refuses something, now or for ever."""
_PLANNED = """
CREATE TABLE configurations (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (name, text)
);
CREATE TABLE revisions (number INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE events (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (kind, key)
);
"""
_SCHEMA = """
CREATE TABLE attempts (
    number INTEGER PRIMARY KEY, opened_at REAL NOT NULL, closed_at REAL,
    outcome TEXT, error TEXT, log TEXT, host TEXT, pid INTEGER, note TEXT, token TEXT NOT NULL UNIQUE
);
CREATE TABLE members (
    attempt INTEGER NOT NULL REFERENCES attempts, trial TEXT NOT NULL REFERENCES trials,
    place INTEGER NOT NULL, timestep INTEGER NOT NULL, PRIMARY KEY (trial, attempt)
) WITHOUT ROWID;
CREATE TABLE trials (
    trial TEXT PRIMARY KEY, config TEXT NOT NULL, seed INTEGER NOT NULL,
    num_envs INTEGER NOT NULL, timesteps INTEGER NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('pending', 'running', 'paused', 'finished', 'diverged', 'failed', 'interrupted')),
    attempt INTEGER REFERENCES attempts, error TEXT, configuration INTEGER REFERENCES configurations,
    UNIQUE (config, seed)
) WITHOUT ROWID;
CREATE TABLE tag_sets (id INTEGER PRIMARY KEY, tags TEXT NOT NULL UNIQUE);
CREATE TABLE records (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    trial TEXT NOT NULL REFERENCES trials, position INTEGER NOT NULL,
    attempt INTEGER NOT NULL REFERENCES attempts,
    timestep INTEGER NOT NULL, env_steps INTEGER NOT NULL, seconds REAL NOT NULL, wall_time REAL NOT NULL,
    tag_set INTEGER NOT NULL REFERENCES tag_sets, numbers BLOB NOT NULL, UNIQUE (trial, position)
);
CREATE TABLE checkpoints (
    trial TEXT NOT NULL REFERENCES trials, timestep INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('agent', 'best')),
    path TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, score REAL,
    attempt INTEGER NOT NULL REFERENCES attempts, records INTEGER NOT NULL,
    PRIMARY KEY (trial, timestep, kind)
) WITHOUT ROWID;
CREATE TABLE evaluations (
    sha256 TEXT NOT NULL, settings TEXT NOT NULL,
    trial TEXT NOT NULL, timestep INTEGER NOT NULL, made_at REAL NOT NULL,
    returns BLOB NOT NULL, lengths BLOB NOT NULL, seeds BLOB NOT NULL, PRIMARY KEY (sha256, settings)
) WITHOUT ROWID;
CREATE TABLE stop (requested INTEGER NOT NULL);
INSERT INTO stop VALUES (0);
"""
# BUSY: a reader has held the lock of a network file system for longer than the timeout.
_SQLITE_STORAGE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY}
_MAY_NOT_WRITE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
_OS_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.ESTALE}
FOLD_SECONDS = 2.0
"""The time that a fold waits for those who read just now."""
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the disk, while one writes there, as a message about `path`."""
    try:
        yield
    except (OSError, sqlite3.Error, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Errors of a ledger that is damaged as a message about its file."""
    try:
        yield
    except sqlite3.Error as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def disk_refuses(error: Exception) -> bool:
    """The storage is full, read-only or failing, rather than the program wrong; `error` is one of REFUSED."""
    if isinstance(error, OSError):
        return error.errno in _OS_STORAGE
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _SQLITE_STORAGE


def on_network_file_system(directory: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """`directory` is on NFS, SMB, Lustre or the like; False where there is no table of `mounts`."""
    if not mounts.is_file():
        return False
    table = (line.split(" ") for line in mounts.read_text().splitlines())
    kinds = {Path(place.replace("\\040", " ")): kind for _, place, kind, *_ in table}
    resolved = directory.resolve()
    kind = next((kinds[place] for place in (resolved, *resolved.parents) if place in kinds), "")
    return kind.startswith(_NETWORK_FILE_SYSTEMS)


def open_tables(path: Path, writer: bool) -> sqlite3.Connection:
    """Open the ledger's file: to write, made if it is not there; or only to read, also where nothing may be written."""
    if writer and not path.is_file():
        # Readers may come at any time, so the file appears with all its tables.
        partial = path.with_name("ledger.partial")
        partial.unlink(missing_ok=True)
        with closing(_connect(partial, writer)) as db:
            db.executescript(f"BEGIN IMMEDIATE; {_PLANNED} {_SCHEMA} PRAGMA user_version = {LAYOUT}; COMMIT;")
        partial.replace(path)
    with contextlib.ExitStack() as held:
        db = held.enter_context(closing(_connect(path, writer)))
        try:
            (layout,) = db.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError as error:
            if writer or error.sqlite_errorcode & 0xFF not in _MAY_NOT_WRITE:
                raise
            held.close()
            db = held.enter_context(closing(_connect_unwritable(path)))
            (layout,) = db.execute("PRAGMA user_version").fetchone()
        if layout == 0:
            raise UserError(f"{path}: it has no tables of a launch: the file is empty, or of another program")
        if layout not in (layout2.LAYOUT, LAYOUT):
            raise UserError(
                f"{path}: its tables have layout {layout}, this version of sunflower reads {LAYOUT}: use the version "
                "that made it (plan.json names it)"
            )
        held.pop_all()
    return db


def copy_tables(path: Path, copy: Path) -> None:
    """A ledger's file as it is now, whole while a launch is at work on it: by SQLite's own backup."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # which a copy of a running one has not


def is_launch(directory: Path) -> bool:
    """A folder is the directory of a launch: one with a ledger."""
    return os.path.isfile(directory / LEDGER)  # False in a folder that others keep to themselves


def lacking(directory: Path) -> str:
    """Why a path is not the directory of a launch, and which may be meant."""
    if directory.is_dir():
        return f"it has no {LEDGER}"
    near = FOLDER / directory.name
    return "there is no such folder" + (f". Did you mean {near}?" if is_launch(near) else "")


def plan_known(db: sqlite3.Connection, directory: Path, writer: bool) -> bool:
    """Have tables of configurations and launches in an open ledger; True if the configurations' texts are there too."""
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout == LAYOUT:
        return True
    if writer:
        layout2.upgrade(db, directory, _PLANNED, LAYOUT)
    else:
        layout2.attach(db, directory)
    return writer


def _connect(path: Path, writer: bool) -> sqlite3.Connection:
    """Open a database: to write, made if it is not there, every commit on disk when it returns; or only to read."""
    with contextlib.ExitStack() as held:
        db = held.enter_context(closing(_open(path, f"mode={'rwc' if writer else 'ro'}")))
        for pragma in ("synchronous = FULL", "foreign_keys = ON") if writer else ():
            db.execute(f"PRAGMA {pragma}")
        held.pop_all()
    return db


def _open(path: Path, options: str) -> sqlite3.Connection:
    # The launcher may poll from a thread, though never from two at once.
    uri = f"{path.as_uri()}?{options}"
    return sqlite3.connect(uri, timeout=30, isolation_level=None, check_same_thread=False, uri=True)


def _connect_unwritable(path: Path) -> sqlite3.Connection:
    """Open a database in a folder where nothing may be written: its file as it is, if that holds everything."""
    logs = (path.with_name(f"{path.name}-{kind}") for kind in ("wal", "journal"))
    for log in logs:
        if log.is_file() and log.stat().st_size:
            raise UserError(
                f"{path}: cannot be read where nothing may be written: the launch is running, or did not end in order, "
                f"and what it wrote last is in {log.name}. Copy the directory, with that file, to where you may write, "
                "and name the copy"
            )
    return _open(path, "mode=ro&immutable=1")


def keep_log(db: sqlite3.Connection, directory: Path) -> None:
    """From now on write as a launch does: many small commits, while others read."""
    # WAL needs memory shared by all processes that open the file: not so on network file systems.
    db.execute(f"PRAGMA journal_mode = {'TRUNCATE' if on_network_file_system(directory) else 'WAL'}")


def fold(db: sqlite3.Connection) -> None:
    """Bring everything into the one file, which is then read without any other; an error while others have it open."""
    last_try = time.monotonic() + FOLD_SECONDS
    db.execute("PRAGMA busy_timeout = 100")
    while True:
        try:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.execute("PRAGMA journal_mode = DELETE")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > last_try:
                raise
            time.sleep(0.05)


def lock(directory: Path, name: str = "lock", wait: float = 0.0) -> IO[bytes]:
    """Hold a lock of a launch directory until the result is closed or the process is gone, however it went.

    `name` is `lock` for a launch or resume as a whole, `ledger.lock` for the one process that writes the ledger.
    """
    file = (directory / name).open("ab")
    last_try = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= last_try:
                file.close()
                raise in_use(directory) from None
            time.sleep(0.02)


def in_use(directory: Path) -> UserError:
    """The error where another launch is at work."""
    return UserError(
        f"{directory} is in use by another launch. Wait until it ends (launch status {directory}), stop it with "
        "Ctrl-C, or start this one under another name."
    )


def at_work(directory: Path) -> bool | None:
    """A launch holds the lock of `directory`; None where that cannot be told."""
    try:
        with (directory / "lock").open("rb") as file:
            # Shared, and let go at once: two that ask do not see each other, and a launch that begins tries again.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


def is_whole(path: Path, sha256: str) -> bool:
    """The file is there and its bytes have this digest; an OSError where it cannot be read just now."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except FileNotFoundError:
        return False
