"""The reading side of a ledger, for anyone, while a launch is at work on it too."""

from __future__ import annotations

import functools
import json
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.ledger import layout2
from launcher.ledger.rows import (
    OVER,
    SEARCH,
    AttemptRow,
    Checkpoint,
    Event,
    Member,
    Progress,
    Stage,
    State,
    StoredRecord,
    TrialRow,
)
from runner.training.tracking import RETURN_MEAN, STEPS_PER_SECOND, Record


class Reader:
    """Rows for views, exporters, reports and the next attempt."""

    directory: Path
    _db: sqlite3.Connection
    _knows_texts: bool

    def trials(self) -> list[TrialRow]:
        """All trials: configurations as they were asked for, seeds by number."""
        query = """SELECT trial, config, seed, num_envs, timesteps, state, attempt, error FROM trials
            LEFT JOIN (SELECT name AS config, MIN(number) AS place FROM configurations GROUP BY name) USING (config)
            ORDER BY place IS NULL, place, config, seed"""
        return [TrialRow(*row) for row in self._db.execute(query)]

    def configurations(self, trials: Sequence[str] | None = None) -> dict[str, str]:
        """Trial → its resolved configuration, as `text_of` has it; of all trials, or of these."""
        if not self._knows_texts:
            names = [row.id for row in self.trials()] if trials is None else trials
            return layout2.configurations(self.directory, names)
        if trials is None:
            texts = dict(self._db.execute("SELECT number, text FROM configurations"))
            numbers = self._db.execute("SELECT trial, configuration FROM trials")
            return {trial: texts[number] for trial, number in numbers}
        query = "SELECT text FROM trials JOIN configurations ON configuration = number WHERE trial = ?"
        return {trial: self._db.execute(query, (trial,)).fetchone()[0] for trial in trials}

    def revisions(self) -> list[dict[str, Any]]:
        """Revisions: what the launch and each resume was, in order."""
        return [json.loads(text) for (text,) in self._db.execute("SELECT text FROM revisions ORDER BY number")]

    def events(self) -> list[Event]:
        """The steps of the launch's search, in order of arrival; none of a launch that is no search."""
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
            return []  # it was made before there were searches
        rows = self._db.execute("SELECT number, kind, key, text FROM events ORDER BY number")
        return [Event(number, kind, key, json.loads(text)) for number, kind, key, text in rows]

    def search(self) -> Stage | None:
        """The stage of the launch's search; None of a launch that is no search."""
        kinds = {event.kind for event in self.events()}
        return None if SEARCH not in kinds else "over" if OVER in kinds else "on"

    def attempts(self) -> list[AttemptRow]:
        """All attempts, in order."""
        rows = self._db.execute("SELECT * FROM attempts ORDER BY number")
        return [AttemptRow(*row) for *row, _token in rows]

    def checkpoints(self, trial: str) -> list[Checkpoint]:
        """The published checkpoints of `trial`, by timestep."""
        query = "SELECT * FROM checkpoints WHERE trial = ? ORDER BY timestep, kind"
        return [Checkpoint(*row) for row in self._db.execute(query, (trial,))]

    def members(self) -> list[Member]:
        """The trials of every attempt and where each began, by attempt and place in the pack."""
        query = "SELECT attempt, trial, timestep FROM members ORDER BY attempt, place"
        return [Member(*row) for row in self._db.execute(query)]

    def rows(self, trials: Sequence[str]) -> list[TrialRow]:
        """These trials."""
        query = "SELECT trial, config, seed, num_envs, timesteps, state, attempt, error FROM trials WHERE trial = ?"
        return [TrialRow(*self._db.execute(query, (trial,)).fetchone()) for trial in trials]

    def states(self) -> dict[str, State]:
        """The state of every trial."""
        return dict(self._db.execute("SELECT trial, state FROM trials").fetchall())

    def last_agents(self) -> dict[str, int]:
        """The timestep of the last agent of each trial that has published one."""
        query = "SELECT trial, MAX(timestep) FROM checkpoints WHERE kind = 'agent' GROUP BY trial"
        return dict(self._db.execute(query).fetchall())

    def last_records(self, saved: bool = False) -> dict[str, StoredRecord]:
        """The last record of each trial that has one.

        With `saved`, of a trial that a resume would go on with, the last one that its checkpoint covers: those after it
        will be forgotten, and made again. So it is once no launch is at work.
        """
        newest = "(SELECT MAX(position) FROM records WHERE records.trial = trials.trial)"
        if saved:
            covered = """(SELECT records - 1 FROM checkpoints WHERE checkpoints.trial = trials.trial AND kind = 'agent'
                ORDER BY timestep DESC LIMIT 1)"""
            newest = f"CASE WHEN state IN ('finished', 'diverged') THEN {newest} ELSE {covered} END"
        where = f"WHERE (trial, position) IN (SELECT trial, {newest} FROM trials)"
        return {stored.trial: stored for stored in self._stored(where, ())}

    def progress(self, tag: str = RETURN_MEAN, saved: bool = False) -> list[Progress]:
        """The progress of each trial, with the last value of `tag`, in the order of `trials()`; `saved` as above."""
        rows = []
        notes = {row.number: row.note for row in self.attempts()}
        last = self.last_records(saved)
        for trial in self.trials():
            r = last[trial.id].record if trial.id in last else Record(-1, 0, 0, 0.0, {})
            value, speed = r.values.get(tag), r.values.get(STEPS_PER_SECOND)
            note = notes.get(trial.attempt or 0)
            rows.append(Progress(trial, r.index + 1, r.timestep, r.env_steps, value, speed, note))
        return rows

    def records(self, trial: str, start: int = 0, limit: int = -1) -> list[StoredRecord]:
        """The records of `trial` from index `start` on, in order; at most `limit` of them if it is not -1."""
        clause = "WHERE trial = ? AND position >= ? ORDER BY position LIMIT ?"
        return self._stored(clause, (trial, start, limit))

    def latest(self, trial: str, tag: str, timestep: int | None = None) -> float | None:
        """The last value of `tag` that `trial` has, up to `timestep` if one is given; None without any."""
        clause = """WHERE trial = ?1 AND (?2 IS NULL OR timestep <= ?2)
            AND tag_set IN (SELECT sets.id FROM tag_sets AS sets, json_each(sets.tags) AS tag WHERE tag.value = ?3)
            ORDER BY position DESC LIMIT 1"""
        last = self._stored(clause, (trial, timestep, tag))
        return last[0].record.values[tag] if last else None

    def changes(self, revision: int, limit: int) -> list[StoredRecord]:
        """At most `limit` records stored after `revision`, of all trials, in the order in which they were.

        Revisions only grow: who has read up to `revision` misses nothing, and sees by a record's index that its trial
        was rewound.
        """
        return self._stored("WHERE revision > ? ORDER BY revision LIMIT ?", (revision, limit))

    def stop_requested(self) -> bool:
        """Workers are asked to save and leave."""
        return bool(self._db.execute("SELECT requested FROM stop").fetchone()[0])

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
            values = dict(zip(_tags(tags), doubles, strict=True))
            record = Record(position, timestep, env_steps, seconds, values)
            stored.append(StoredRecord(revision, trial, wall_time, before, record))
        return stored


@functools.lru_cache
def _tags(text: str) -> tuple[str, ...]:
    """The names of a tag set; the same few are asked for again and again."""
    return tuple(json.loads(text))
