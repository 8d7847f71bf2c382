"""The launch directory's memory: who trains what, every metric record exactly once, every checkpoint.

All state is in one SQLite file, so any process may die at any instant. One process writes, any number read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from launcher.ledger.reader import Reader
from launcher.ledger.rows import (
    BUSY,
    GAP,
    LOST,
    STORED,
    Attempt,
    Batch,
    Checkpoint,
    Published,
    TrialRow,
    agent_path,
)
from launcher.ledger.storage import (
    LEDGER,
    REFUSED,
    disk_refuses,
    fold,
    is_whole,
    keep_log,
    lacking,
    lock,
    open_tables,
    plan_known,
    readable,
)
from runner.errors import UserError
from runner.files import write_whole


@contextlib.contextmanager
def reading(directory: Path) -> Iterator[Ledger]:
    """The ledger of a launch directory, to read; a damaged one is a `UserError`."""
    with readable(directory / LEDGER), Ledger(directory, writer=False) as ledger:
        yield ledger


class Ledger(Reader):
    """One launch directory's SQLite file. Every call that writes is one transaction: on disk, or not done.

    Those calls, other than `push` and `publish`, raise sqlite3.OperationalError when the disk is full.
    """

    def __init__(
        self, directory: Path, writer: bool = True, wait: float = 0.0, clock: Callable[[], float] | None = None
    ) -> None:
        """Open `DIR/ledger.sqlite`: to write, creating it and holding `DIR/ledger.lock`; else only to read.

        Whoever holds the lock has `wait` seconds to let go of it. `clock` tells the time of what is stored.
        """
        self.directory, self._clock = directory.resolve(), clock or time.time
        path = self.directory / LEDGER
        if not writer and not path.is_file():
            raise UserError(f"{directory}: not a launch directory: {lacking(directory)}")
        self._warned = False
        with contextlib.ExitStack() as held:
            if writer:
                held.enter_context(lock(self.directory, "ledger.lock", wait))
            self._db = held.enter_context(contextlib.closing(open_tables(path, writer)))
            if writer:
                keep_log(self._db, self.directory)
            self._knows_texts = plan_known(self._db, self.directory, writer)
            self._held = held.pop_all()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Close the file and let the next writer in."""
        self._held.close()

    def fold(self) -> None:
        """Leave one file that holds everything; for the end of a launch, when nobody else has it open."""
        fold(self._db)

    # Written by the launcher

    def add_trials(self, rows: Iterable[TrialRow], texts: Mapping[str, str] = MappingProxyType({})) -> None:
        """Add trials, all `pending`; those already there with the same values stay as they are.

        New configurations come last in the order of `trials()`; `texts` are those of `text_of`, by trial.
        """
        names = "trial, config, seed, num_envs, timesteps"
        with self._transaction():
            for row in rows:
                new = (row.id, row.config, row.seed, row.num_envs, row.timesteps)
                same = f"SELECT {names} FROM trials WHERE trial = ? OR (config = ? AND seed = ?)"
                for stored in self._db.execute(same, new[:3]).fetchall():
                    if stored != new:
                        raise UserError(
                            f"{self.directory} holds the trial ({names}) {stored}, which differs from {new}. "
                            "Resume with the settings it was started with, or start a launch of another name."
                        )
                number = self._configuration(row.config, texts.get(row.id, "{}"))
                insert = f"INSERT OR IGNORE INTO trials ({names}, state, configuration) VALUES (?, ?, ?, ?, ?, ?, ?)"
                self._db.execute(insert, (*new, "pending", number))

    def extend(self, lengths: Mapping[str, int], texts: Mapping[str, str] = MappingProxyType({})) -> None:
        """Let trials train to a greater length in timesteps; those that are finished go on. `texts` as above."""
        with self._transaction():
            state = "CASE state WHEN 'finished' THEN 'pending' ELSE state END"
            update = f"UPDATE trials SET timesteps = ?1, state = {state} WHERE trial = ?2 AND timesteps < ?1"
            self._db.executemany(update, [(length, trial) for trial, length in lengths.items()])
            names = dict(self._db.execute("SELECT trial, config FROM trials"))
            update = "UPDATE trials SET configuration = ? WHERE trial = ?"
            self._db.executemany(update, [(self._configuration(names[t], text), t) for t, text in texts.items()])

    def add_revision(self, revision: Mapping[str, Any]) -> None:
        """Note what a launch or resume was: a mapping that JSON takes."""
        self._write("INSERT INTO revisions (text) VALUES (?)", json.dumps(revision))

    def add_events(self, events: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Note steps of a search, each a kind, a key and what JSON takes; those that are there stay as they are."""
        insert = "INSERT OR IGNORE INTO events (kind, key, text) VALUES (?, ?, ?)"
        with self._transaction():
            self._db.executemany(insert, [(kind, key, json.dumps(data)) for kind, key, data in events])

    def open(self, trials: Sequence[str], token: str) -> Attempt:
        """Begin an attempt: it owns `trials`, each rewound to its last checkpoint that is whole on disk.

        Asked again with the same `token`, it answers the same attempt.
        """
        with self._transaction():
            known = self._db.execute("SELECT number FROM attempts WHERE token = ?", (token,)).fetchone()
            if known is None:
                insert = "INSERT INTO attempts (token, opened_at) VALUES (?, ?) RETURNING number"
                known = self._db.execute(insert, (token, self._clock())).fetchone()
                for place, trial in enumerate(trials):
                    self._take(known[0], place, trial)
            # The rewind has left the checkpoint to go on from as the last one, also for those who ask again.
            return Attempt(known[0], {trial: self._last_agent(trial) for trial in trials})

    def describe_attempt(self, attempt: int, log: str, host: str, pid: int) -> None:
        """Note where `attempt` runs and where its log is, relative to the launch directory."""
        self._write("UPDATE attempts SET log = ?, host = ?, pid = ? WHERE number = ?", log, host, pid, attempt)

    def close(
        self,
        attempt: int,
        outcome: str,
        error: str | None = None,
        state: Literal["pending", "interrupted"] = "pending",
    ) -> list[str]:
        """End `attempt`; whatever it still sends is LOST. The first outcome and `error`, which says why, stay.

        Returns its trials that are not finished, diverged or paused, nor another attempt's by now. Those that still ran
        have `state`, and the error with it.
        """
        with self._transaction():
            update = "UPDATE attempts SET closed_at = ?, outcome = ?, error = ? WHERE number = ? AND closed_at IS NULL"
            self._db.execute(update, (self._clock(), outcome, error, attempt))
            update = "UPDATE trials SET state = ?, error = ? WHERE attempt = ? AND state = 'running'"
            self._db.execute(update, (state, error, attempt))
            query = """SELECT trial FROM trials JOIN members USING (trial, attempt)
                WHERE attempt = ? AND state NOT IN ('finished', 'diverged', 'paused') ORDER BY place"""
            return [trial for (trial,) in self._db.execute(query, (attempt,))]

    def fail(self, trials: Iterable[str], error: str) -> None:
        """Give up `trials`; `error` says why. Those that are finished, diverged or being trained stay as they are."""
        with self._transaction():
            update = "UPDATE trials SET state = 'failed', error = ? WHERE trial = ?"
            where = "AND state NOT IN ('finished', 'diverged', 'running')"
            self._db.executemany(f"{update} {where}", [(error, trial) for trial in trials])

    def request_stop(self, requested: bool) -> None:
        """Set or clear the flag which asks all workers to save and leave."""
        self._write("UPDATE stop SET requested = ?", requested)

    # Sent by workers

    def push(
        self, attempt: int, batches: Mapping[str, Batch], note: str | None = None
    ) -> dict[str, int] | Literal["busy"]:
        """Store records, and `note` with the attempt if there is one; a batch without records only asks.

        Returns BUSY; or for each trial the number of its records on disk, which is the index to send next: lower than
        was sent if records in between are missing, higher if some came before; LOST if the trial is not the attempt's.
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
        except REFUSED as error:
            return self._busy(error)

    def publish(
        self, attempt: int, published: Mapping[str, Published]
    ) -> dict[str, Literal["stored", "gap", -1]] | Literal["busy"]:
        """Store one checkpoint or state change of each trial; the same again changes nothing.

        Returns BUSY; or for each trial STORED, GAP while records before the checkpoint are missing, LOST if it is not
        the attempt's. A crash between a best agent's file and its row leaves the old digest in the row, until the
        worker, which got no answer, sends it again.
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
        except REFUSED as error:
            return self._busy(error)

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

    def _write(self, statement: str, *values: object) -> None:
        """A transaction of one statement."""
        with self._transaction():
            self._db.execute(statement, values)

    def _configuration(self, name: str, text: str) -> int:
        """The number of a configuration, which is added if it is not there."""
        self._db.execute("INSERT OR IGNORE INTO configurations (name, text) VALUES (?, ?)", (name, text))
        query = "SELECT number FROM configurations WHERE name = ? AND text = ?"
        return int(self._db.execute(query, (name, text)).fetchone()[0])

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
            row = (trial, count, attempt, r.timestep, r.env_steps, r.seconds, self._clock(), numbers, tags)
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
            path = f"trials/{trial}/best_agent.safetensors" if best else agent_path(trial, new.timestep)
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

    def _take(self, attempt: int, place: int, trial: str) -> None:
        """Make a trial the attempt's, in its last whole state."""
        found = self._db.execute("SELECT state FROM trials WHERE trial = ?", (trial,)).fetchone()
        (state,) = found or ("unknown",)
        if state in ("unknown", "finished", "diverged"):
            raise UserError(f"{self.directory}: trial {trial!r} cannot be trained: it is {state}.")
        last = self._rewind(trial)
        update = "UPDATE trials SET state = 'running', attempt = ?, error = NULL WHERE trial = ?"
        self._db.execute(update, (attempt, trial))
        member = (attempt, trial, place, last.timestep if last else 0)
        self._db.execute("INSERT INTO members (attempt, trial, place, timestep) VALUES (?, ?, ?, ?)", member)

    def _rewind(self, trial: str) -> Checkpoint | None:
        """Forget what comes after the last checkpoint of `trial` whose file is whole, and say which that is.

        A best agent stays, since its file is still the best one seen.
        """
        while (last := self._last_agent(trial)) and not is_whole(self.directory / last.path, last.sha256):
            delete = "DELETE FROM checkpoints WHERE trial = ? AND timestep = ? AND kind = 'agent'"
            self._db.execute(delete, (trial, last.timestep))
        kept = last.records if last else 0
        self._db.execute("DELETE FROM records WHERE trial = ? AND position >= ?", (trial, kept))
        return last

    def _busy(self, error: Exception) -> Literal["busy"]:
        """BUSY if `error` says that storage fails, logged once; any other error is raised again."""
        if not disk_refuses(error):
            raise error
        if not self._warned:
            logging.getLogger(__name__).warning("%s cannot be written to: %s", self.directory, error)
            self._warned = True
        return BUSY
