"""The launch directory's memory: who trains what, every metric record exactly once, every checkpoint.

In come calls of the launcher (`add_trials`, `open`, `fail`, `close`) and of workers through the aggregator
(`push`, `publish`); out go rows for the progress view, the exporter, the report and the next attempt. All
state is in one SQLite file, so any process may die at any instant. One process writes, any number read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

from runner.errors import UserError
from runner.tracking import RETURN_MEAN, STEPS_PER_SECOND, Record

State = Literal["pending", "running", "finished", "diverged", "failed", "interrupted"]
Kind = Literal["agent", "best"]

# Answers travel between processes, so they are plain values that compare equal after pickling.
LOST: Final = -1
"""The trial belongs to another attempt by now: stop working on it."""
BUSY: Final = "busy"
"""The disk is full, read-only or failing: nothing was stored, send the same again later."""
STORED: Final = "stored"
GAP: Final = "gap"
"""Records which the checkpoint covers are missing: push them first."""

# BUSY: a reader has held the lock of a network file system for longer than the timeout.
_SQLITE_STORAGE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY}
_OS_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES}
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    number INTEGER PRIMARY KEY, opened_at REAL NOT NULL, closed_at REAL,
    outcome TEXT, log TEXT, host TEXT, pid INTEGER, note TEXT, token TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS trials (
    trial TEXT PRIMARY KEY, config TEXT NOT NULL, seed INTEGER NOT NULL,
    num_envs INTEGER NOT NULL, timesteps INTEGER NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('pending', 'running', 'finished', 'diverged', 'failed', 'interrupted')),
    attempt INTEGER REFERENCES attempts, error TEXT, UNIQUE (config, seed)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tag_sets (id INTEGER PRIMARY KEY, tags TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS records (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    trial TEXT NOT NULL REFERENCES trials, position INTEGER NOT NULL,
    attempt INTEGER NOT NULL REFERENCES attempts,
    timestep INTEGER NOT NULL, env_steps INTEGER NOT NULL, seconds REAL NOT NULL, wall_time REAL NOT NULL,
    tag_set INTEGER NOT NULL REFERENCES tag_sets, numbers BLOB NOT NULL, UNIQUE (trial, position)
);
CREATE TABLE IF NOT EXISTS checkpoints (
    trial TEXT NOT NULL REFERENCES trials, timestep INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('agent', 'best')),
    path TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, score REAL,
    attempt INTEGER NOT NULL REFERENCES attempts, records INTEGER NOT NULL,
    PRIMARY KEY (trial, timestep, kind)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stop (requested INTEGER NOT NULL);
INSERT INTO stop SELECT 0 WHERE NOT EXISTS (SELECT * FROM stop);
"""


@dataclass(frozen=True)
class TrialRow:
    """One trial: `timesteps` is the length it is to reach, `attempt` its owner, `error` why it failed."""

    trial: str
    config: str
    seed: int
    num_envs: int
    timesteps: int
    state: State = "pending"
    attempt: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class AttemptRow:
    """One attempt: times in Unix seconds, `log` relative to the launch directory, `note` its last words."""

    number: int
    opened_at: float
    closed_at: float | None
    outcome: str | None
    log: str | None
    host: str | None
    pid: int | None
    note: str | None


@dataclass(frozen=True)
class Checkpoint:
    """One file: `path` relative to the launch directory, `records` the number of records that it covers."""

    trial: str
    timestep: int
    kind: Kind
    path: str
    sha256: str
    bytes: int
    score: float | None
    attempt: int
    records: int


@dataclass(frozen=True)
class StoredRecord:
    """A record as it is in the ledger.

    Attributes:
        revision: its place in the order in which all records of all trials were stored.
        wall_time: when it was stored, in Unix seconds.
        previous_env_steps: of the trial's record before it; -1 if it is the first.
    """

    revision: int
    trial: str
    wall_time: float
    previous_env_steps: int
    record: Record


@dataclass(frozen=True)
class Progress:
    """How far a trial is: the number of its records, and what the last one says (zero or None without)."""

    trial: TrialRow
    records: int
    timestep: int
    env_steps: int
    value: float | None
    steps_per_second: float | None


@dataclass(frozen=True)
class Attempt:
    """A new life of some trials, and the checkpoint each goes on from (None: from the beginning)."""

    number: int
    resume: dict[str, Checkpoint | None]


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one trial; `first` is the index of the first one."""

    first: int
    records: Sequence[Record] = ()


@dataclass(frozen=True)
class Published:
    """A checkpoint and what becomes of its trial; with empty `data` only the state changes.

    `records` is how many records of the trial come before it; the states `finished` and `diverged` are final.
    """

    timestep: int
    data: bytes
    kind: Kind
    records: int
    state: Literal["running", "finished", "diverged", "interrupted"]
    score: float | None = None


class Ledger:
    """One launch directory's SQLite file. Every call that writes is one transaction: on disk, or not done.

    Those calls, other than `push` and `publish`, raise sqlite3.OperationalError when the disk is full.
    """

    def __init__(self, directory: Path, writer: bool = True) -> None:
        """Open `DIR/ledger.sqlite`: to write, creating it and holding `DIR/lock`; else only to read.

        Raises:
            UserError: another process writes here; or there is nothing to read.
        """
        self.directory = directory.resolve()
        path = self.directory / "ledger.sqlite"
        if not writer and not path.is_file():
            raise UserError(f"{path} does not exist: {directory} is not the directory of a launch.")
        self._lock = _lock(self.directory) if writer else None
        self._warned = False
        if writer and not path.is_file():
            # Readers may come at any time, so the file appears with all its tables.
            partial = path.with_name("ledger.partial")
            with contextlib.closing(_connect(partial, writer)) as db:
                db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            partial.replace(path)
        self._db = _connect(path, writer)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Close the file and let the next writer in."""
        self._db.close()
        if self._lock:
            self._lock.close()

    # Written by the launcher

    def add_trials(self, rows: Iterable[TrialRow]) -> None:
        """Add trials, all `pending`; those already there with the same values stay as they are.

        Raises:
            UserError: a trial is there with other values, or its config and seed are another trial's.
        """
        names = "trial, config, seed, num_envs, timesteps"
        with self._transaction():
            for row in rows:
                new = (row.trial, row.config, row.seed, row.num_envs, row.timesteps)
                same = f"SELECT {names} FROM trials WHERE trial = ? OR (config = ? AND seed = ?)"
                for stored in self._db.execute(same, new[:3]).fetchall():
                    if stored != new:
                        raise UserError(
                            f"{self.directory} holds the trial ({names}) {stored}, which differs from {new}. "
                            "Resume with the settings it was started with, or start a launch of another name."
                        )
                insert = f"INSERT OR IGNORE INTO trials ({names}, state) VALUES (?, ?, ?, ?, ?, 'pending')"
                self._db.execute(insert, new)

    def open(self, trials: Sequence[str], token: str) -> Attempt:
        """Begin an attempt: it owns `trials`, each rewound to its last checkpoint that is whole on disk.

        Records beyond that checkpoint and later agents are forgotten; a best agent stays, since its file is
        still the best one seen. Asked again with the same `token`, it answers the same attempt.

        Raises:
            UserError: a trial is unknown, finished or diverged.
        """
        with self._transaction():
            known = self._db.execute("SELECT number FROM attempts WHERE token = ?", (token,)).fetchone()
            if known is None:
                insert = "INSERT INTO attempts (token, opened_at) VALUES (?, ?) RETURNING number"
                known = self._db.execute(insert, (token, time.time())).fetchone()
                states = {row.trial: row.state for row in self.trials()}
                for trial in trials:
                    state = states.get(trial, "unknown")
                    if state in ("unknown", "finished", "diverged"):
                        raise UserError(f"{self.directory}: trial {trial!r} cannot be trained: it is {state}.")
                    self._rewind(trial)
                    take = "UPDATE trials SET state = 'running', attempt = ?, error = NULL WHERE trial = ?"
                    self._db.execute(take, (*known, trial))
            # The rewind has left the checkpoint to go on from as the last one, also for those who ask again.
            return Attempt(known[0], {trial: self._last_agent(trial) for trial in trials})

    def describe_attempt(self, attempt: int, log: str, host: str, pid: int) -> None:
        """Note where `attempt` runs and where its log is, relative to the launch directory."""
        with self._transaction():
            update = "UPDATE attempts SET log = ?, host = ?, pid = ? WHERE number = ?"
            self._db.execute(update, (log, host, pid, attempt))

    def fail(self, attempt: int, trials: Iterable[str], error: str) -> None:
        """Mark those of `trials` as failed that `attempt` owns and that still run; `error` says why."""
        with self._transaction():
            update = "UPDATE trials SET state = 'failed', error = ?"
            where = "WHERE trial = ? AND attempt = ? AND state = 'running'"
            self._db.executemany(f"{update} {where}", [(error, trial, attempt) for trial in trials])

    def close(self, attempt: int, outcome: str) -> None:
        """End `attempt`; whatever it still sends is LOST. The first outcome stays."""
        with self._transaction():
            update = "UPDATE attempts SET closed_at = ?, outcome = ? WHERE number = ? AND closed_at IS NULL"
            self._db.execute(update, (time.time(), outcome, attempt))

    def request_stop(self, requested: bool) -> None:
        """Set or clear the flag which asks all workers to save and leave."""
        with self._transaction():
            self._db.execute("UPDATE stop SET requested = ?", (requested,))

    # Sent by workers

    def push(
        self, attempt: int, batches: Mapping[str, Batch], note: str | None = None
    ) -> dict[str, int] | Literal["busy"]:
        """Store records, and `note` with the attempt if there is one.

        Returns:
            BUSY; or for each trial the number of its records on disk, which is the index to send next: lower
            than was sent if records in between are missing, higher if some came before; LOST if the trial is
            not the attempt's. A batch without records only asks.
        """
        try:
            with self._transaction():
                if note is not None:
                    update = "UPDATE attempts SET note = ?1 WHERE number = ?2 AND note IS NOT ?1"
                    self._db.execute(update, (note, attempt))
                owned = self._owned(attempt)
                return {
                    trial: self._append(attempt, trial, batch) if trial in owned else LOST
                    for trial, batch in batches.items()
                }
        except (sqlite3.OperationalError, OSError) as error:
            return self._busy(error)

    def publish(
        self, attempt: int, published: Mapping[str, Published]
    ) -> dict[str, Literal["stored", "gap", -1]] | Literal["busy"]:
        """Store one checkpoint or state change of each trial; the same again changes nothing.

        Returns:
            BUSY; or for each trial STORED, GAP while records before the checkpoint are missing, LOST if it is
            not the attempt's. A crash between a best agent's file and its row leaves the old digest in the
            row, until the worker, which got no answer, sends it again.
        """
        try:
            with self._transaction():
                owned = self._owned(attempt)
                answers: dict[str, Literal["stored", "gap", -1]] = {}
                for trial, new in published.items():
                    if trial not in owned:
                        answers[trial] = LOST
                    elif self._count(trial) < new.records:
                        answers[trial] = GAP
                    else:
                        self._publish(attempt, trial, new)
                        answers[trial] = STORED
                return answers
        except (sqlite3.OperationalError, OSError) as error:
            return self._busy(error)

    # Read by anyone

    def trials(self) -> list[TrialRow]:
        """All trials, by configuration and seed."""
        return [TrialRow(*row) for row in self._db.execute("SELECT * FROM trials ORDER BY config, seed")]

    def attempts(self) -> list[AttemptRow]:
        """All attempts, in order."""
        rows = self._db.execute("SELECT * FROM attempts ORDER BY number")
        return [AttemptRow(*row) for *row, _token in rows]

    def checkpoints(self, trial: str) -> list[Checkpoint]:
        """The published checkpoints of `trial`, by timestep."""
        query = "SELECT * FROM checkpoints WHERE trial = ? ORDER BY timestep, kind"
        return [Checkpoint(*row) for row in self._db.execute(query, (trial,))]

    def progress(self, tag: str = RETURN_MEAN) -> list[Progress]:
        """How far each trial is, with the last value of `tag`, by configuration and seed."""
        rows = []
        for trial in self.trials():
            last = self._stored("WHERE trial = ? ORDER BY position DESC LIMIT 1", (trial.trial,))
            r = last[0].record if last else Record(-1, 0, 0, 0.0, {})
            value, speed = r.values.get(tag), r.values.get(STEPS_PER_SECOND)
            rows.append(Progress(trial, r.index + 1, r.timestep, r.env_steps, value, speed))
        return rows

    def records(self, trial: str, start: int = 0, limit: int = -1) -> list[StoredRecord]:
        """The records of `trial` from index `start` on, in order; at most `limit` of them if it is not -1."""
        clause = "WHERE trial = ? AND position >= ? ORDER BY position LIMIT ?"
        return self._stored(clause, (trial, start, limit))

    def changes(self, revision: int, limit: int) -> list[StoredRecord]:
        """At most `limit` records stored after `revision`, of all trials, in the order in which they were.

        Revisions only grow. So a reader that went up to `revision` misses nothing, and learns that a trial
        was rewound from a record with an index that it has passed already.
        """
        return self._stored("WHERE revision > ? ORDER BY revision LIMIT ?", (revision, limit))

    def stop_requested(self) -> bool:
        """Whether workers are asked to save and leave."""
        return bool(self._db.execute("SELECT requested FROM stop").fetchone()[0])

    # Inside a transaction

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # after some storage errors SQLite has rolled back by itself
                self._db.execute("ROLLBACK")
            raise

    def _owned(self, attempt: int) -> set[str]:
        query = "SELECT trial FROM trials JOIN attempts ON attempt = number"
        rows = self._db.execute(f"{query} WHERE number = ? AND closed_at IS NULL", (attempt,))
        return {trial for (trial,) in rows}

    def _count(self, trial: str) -> int:
        query = "SELECT COALESCE(MAX(position) + 1, 0) FROM records WHERE trial = ?"
        return int(self._db.execute(query, (trial,)).fetchone()[0])

    def _append(self, attempt: int, trial: str, batch: Batch) -> int:
        """Add what is new of `batch` if it joins the stored records; their number afterwards."""
        count = self._count(trial)
        if batch.first > count:
            return count
        for r in batch.records[count - batch.first :]:
            if r.index != count:
                raise ValueError(f"trial {trial!r}: record {r.index} was sent in the place of {count}")
            tags, numbers = json.dumps(list(r.values)), struct.pack(f"<{len(r.values)}d", *r.values.values())
            self._db.execute("INSERT OR IGNORE INTO tag_sets (tags) VALUES (?)", (tags,))
            row = (trial, count, attempt, r.timestep, r.env_steps, r.seconds, time.time(), numbers, tags)
            self._db.execute(
                """INSERT INTO records
                (trial, position, attempt, timestep, env_steps, seconds, wall_time, numbers, tag_set)
                SELECT ?, ?, ?, ?, ?, ?, ?, ?, id FROM tag_sets WHERE tags = ?""",
                row,
            )
            count += 1
        return count

    def _publish(self, attempt: int, trial: str, new: Published) -> None:
        """The file first, then its row: a row never names a file that is not there."""
        if new.data:
            best = new.kind == "best"
            name = "best_agent.safetensors" if best else f"checkpoints/agent_{new.timestep}.safetensors"
            path = f"trials/{trial}/{name}"
            _store(self.directory, path, new.data)
            if best:
                self._db.execute("DELETE FROM checkpoints WHERE trial = ? AND kind = 'best'", (trial,))
            file = (path, hashlib.sha256(new.data).hexdigest(), len(new.data))
            self._db.execute(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (trial, new.timestep, new.kind, *file, new.score, attempt, new.records),
            )
        update = "UPDATE trials SET state = ? WHERE trial = ? AND state NOT IN ('finished', 'diverged')"
        self._db.execute(update, (new.state, trial))

    def _last_agent(self, trial: str) -> Checkpoint | None:
        return next((c for c in reversed(self.checkpoints(trial)) if c.kind == "agent"), None)

    def _rewind(self, trial: str) -> None:
        """Forget what comes after the last checkpoint of `trial` whose file is whole."""
        while (last := self._last_agent(trial)) and not _is_whole(self.directory / last.path, last.sha256):
            delete = "DELETE FROM checkpoints WHERE trial = ? AND timestep = ? AND kind = 'agent'"
            self._db.execute(delete, (trial, last.timestep))
        kept = last.records if last else 0
        self._db.execute("DELETE FROM records WHERE trial = ? AND position >= ?", (trial, kept))

    def _stored(self, clause: str, arguments: tuple[object, ...]) -> list[StoredRecord]:
        query = f"""SELECT revision, trial, wall_time,
                COALESCE((SELECT env_steps FROM records AS previous
                    WHERE previous.trial = records.trial AND previous.position = records.position - 1), -1),
                position, timestep, env_steps, seconds, tags, numbers
            FROM records JOIN tag_sets ON tag_set = id {clause}"""
        stored = []
        for row in self._db.execute(query, arguments):
            revision, trial, wall_time, before, position, timestep, env_steps, seconds, tags, numbers = row
            doubles = struct.unpack(f"<{len(numbers) // 8}d", numbers)
            values = dict(zip(json.loads(tags), doubles, strict=True))
            record = Record(position, timestep, env_steps, seconds, values)
            stored.append(StoredRecord(revision, trial, wall_time, before, record))
        return stored

    def _busy(self, error: sqlite3.OperationalError | OSError) -> Literal["busy"]:
        """BUSY if `error` says that storage fails, logged once; any other error is raised again."""
        if isinstance(error, OSError):
            known = error.errno in _OS_STORAGE
        else:
            known = error.sqlite_errorcode & 0xFF in _SQLITE_STORAGE
        if not known:
            raise error
        if not self._warned:
            logging.getLogger(__name__).warning("%s cannot be written to: %s", self.directory, error)
            self._warned = True
        return BUSY


def on_network_file_system(directory: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether `directory` is on NFS, SMB, Lustre or the like; False where there is no table of `mounts`."""
    if not mounts.is_file():
        return False
    table = (line.split(" ") for line in mounts.read_text().splitlines())
    kinds = {Path(place.replace("\\040", " ")): kind for _, place, kind, *_ in table}
    resolved = directory.resolve()
    kind = next((kinds[place] for place in (resolved, *resolved.parents) if place in kinds), "")
    return kind.startswith(_NETWORK_FILE_SYSTEMS)


def _connect(path: Path, writer: bool) -> sqlite3.Connection:
    # The launcher may poll from a thread, though never from two at once.
    uri = f"{path.as_uri()}?mode={'rwc' if writer else 'ro'}"
    db = sqlite3.connect(uri, timeout=30, isolation_level=None, check_same_thread=False, uri=True)
    if writer:
        # WAL needs memory shared by all processes that open the file: not so on network file systems.
        mode = "TRUNCATE" if on_network_file_system(path.parent) else "WAL"
        for pragma in (f"journal_mode = {mode}", "synchronous = FULL", "foreign_keys = ON"):
            db.execute(f"PRAGMA {pragma}")
    return db


def _lock(directory: Path) -> IO[bytes]:
    """Hold `DIR/lock` until the result is closed or the process is gone, however it went."""
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


def _store(root: Path, path: str, data: bytes) -> None:
    """Write `root/path` so that after a power cut there is the old file or the new one, whole."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    # A name is on disk when its folder is, and so are the names of folders that were made just now.
    for folder in target.parents[: len(Path(path).parts)]:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False
