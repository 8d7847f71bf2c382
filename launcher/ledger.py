"""The launch directory's memory: who trains what, every metric record exactly once, every checkpoint.

In come calls of the launcher (`add_trials`, `open`, `fail`, `close`) and of workers through the aggregator
(`push`, `publish`); out go rows for the progress view, the exporter, the report and the next attempt. All
state is in one SQLite file, so any process may die at any instant. One process writes, any number read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from launcher.rows import (
    BUSY,
    GAP,
    LOST,
    STORED,
    Attempt,
    AttemptRow,
    Batch,
    Checkpoint,
    Progress,
    Published,
    StoredRecord,
    TrialRow,
)
from launcher.storage import connect, disk_refuses, is_whole, lock
from runner.errors import UserError
from runner.files import write_whole
from runner.tracking import RETURN_MEAN, STEPS_PER_SECOND, Record

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


class Ledger:
    """One launch directory's SQLite file. Every call that writes is one transaction: on disk, or not done.

    Those calls, other than `push` and `publish`, raise sqlite3.OperationalError when the disk is full.
    """

    def __init__(self, directory: Path, writer: bool = True) -> None:
        """Open `DIR/ledger.sqlite`: to write, creating it and holding `DIR/lock`; else only to read.

        Raises:
            UserError: another process writes here; or there is nothing to read.
            sqlite3.Error: the file is damaged, or the disk is full.
        """
        self.directory = directory.resolve()
        path = self.directory / "ledger.sqlite"
        if not writer and not path.is_file():
            raise UserError(f"{path} does not exist: {directory} is not the directory of a launch.")
        self._lock = lock(self.directory) if writer else None
        self._warned = False
        try:
            if writer and not path.is_file():
                # Readers may come at any time, so the file appears with all its tables.
                partial = path.with_name("ledger.partial")
                with contextlib.closing(connect(partial, writer)) as db:
                    db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
                partial.replace(path)
            self._db = connect(path, writer)
        except BaseException:
            if self._lock:
                self._lock.close()
            raise

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

    def fail(
        self,
        attempt: int,
        trials: Iterable[str],
        error: str | None,
        state: Literal["failed", "interrupted"] = "failed",
    ) -> None:
        """Mark those of `trials` as ended early that `attempt` owns and that still run; `error` says why."""
        with self._transaction():
            update = "UPDATE trials SET state = ?, error = ?"
            where = "WHERE trial = ? AND attempt = ? AND state = 'running'"
            self._db.executemany(f"{update} {where}", [(state, error, trial, attempt) for trial in trials])

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

    def published(self) -> dict[str, dict[int, int]]:
        """Of each trial that has checkpoints, the attempts that made them: number → timestep of its last agent, or 0.

        An attempt that never got to one, and whose trial has gone on in another, has left nothing here.
        """
        agent = "MAX(CASE kind WHEN 'agent' THEN timestep ELSE 0 END)"
        found: dict[str, dict[int, int]] = {}
        for trial, attempt, timestep in self._db.execute(
            f"SELECT trial, attempt, {agent} FROM checkpoints GROUP BY trial, attempt ORDER BY attempt"
        ):
            found.setdefault(trial, {})[attempt] = timestep
        return found

    def progress(self, tag: str = RETURN_MEAN) -> list[Progress]:
        """How far each trial is, with the last value of `tag`, by configuration and seed."""
        rows = []
        notes = {row.number: row.note for row in self.attempts()}
        for trial in self.trials():
            last = self._stored("WHERE trial = ? ORDER BY position DESC LIMIT 1", (trial.trial,))
            r = last[0].record if last else Record(-1, 0, 0, 0.0, {})
            value, speed = r.values.get(tag), r.values.get(STEPS_PER_SECOND)
            note = notes.get(trial.attempt or 0)
            rows.append(Progress(trial, r.index + 1, r.timestep, r.env_steps, value, speed, note))
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
            write_whole(self.directory / path, new.data)
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
        while (last := self._last_agent(trial)) and not is_whole(self.directory / last.path, last.sha256):
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
        if not disk_refuses(error):
            raise error
        if not self._warned:
            logging.getLogger(__name__).warning("%s cannot be written to: %s", self.directory, error)
            self._warned = True
        return BUSY
