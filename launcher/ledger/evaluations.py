"""Scores of checkpoints: every episode of every evaluation, in the launch directory's ledger.

A checkpoint is known by the digest of its file: one that was evaluated with the same settings is not evaluated again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from launcher.ledger.ledger import reading
from launcher.ledger.storage import LEDGER, open_tables, readable


@dataclass(frozen=True)
class Evaluation:
    """The episodes of one checkpoint, by the digest of its file: raw returns, lengths, and seeds of the environments.

    `settings` is the canonical text of everything else that decides which episodes they are.
    """

    sha256: str
    settings: str
    trial: str
    timestep: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    made_at: float = 0.0
    each: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Returns of each of several agents, by name, of which `returns` are the team's."""


_OF_AGENTS = "evaluations_of_agents"
_TABLE = f"""
CREATE TABLE IF NOT EXISTS {_OF_AGENTS} (
    sha256 TEXT NOT NULL, settings TEXT NOT NULL, place INTEGER NOT NULL, agent TEXT NOT NULL, returns BLOB NOT NULL,
    PRIMARY KEY (sha256, settings, place)
) WITHOUT ROWID
"""
"""Made where there is something to put into it: most ledgers, and those of older versions, do not have it."""


def read(directory: Path) -> list[Evaluation]:
    """All evaluations of a launch, by trial (in the order of all listings), timestep and settings."""
    with reading(directory) as ledger:
        places = {row.id: place for place, row in enumerate(ledger.trials())}
    columns = "sha256, settings, trial, timestep, returns, lengths, seeds, made_at"
    path = directory.resolve() / LEDGER
    with readable(path), contextlib.closing(open_tables(path, writer=False)) as db:
        rows = db.execute(f"SELECT {columns} FROM evaluations ORDER BY timestep, settings").fetchall()
        each = _of_agents(db)
    rows.sort(key=lambda row: (places.get(row[2], len(places)), row[2]))
    return [
        Evaluation(
            sha256,
            settings,
            trial,
            timestep,
            _numbers(returns),
            tuple(np.frombuffer(lengths, "<i8").tolist()),
            tuple(np.frombuffer(seeds, "<i8").tolist()),
            made_at,
            each.get((sha256, settings), {}),
        )
        for sha256, settings, trial, timestep, returns, lengths, seeds, made_at in rows
    ]


def _of_agents(db: sqlite3.Connection) -> dict[tuple[str, str], dict[str, tuple[float, ...]]]:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_OF_AGENTS,)).fetchone():
        return {}
    found: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {}
    rows = db.execute(f"SELECT sha256, settings, agent, returns FROM {_OF_AGENTS} ORDER BY sha256, settings, place")
    for sha256, settings, agent, returns in rows:
        found.setdefault((sha256, settings), {})[agent] = _numbers(returns)
    return found


def _numbers(blob: bytes) -> tuple[float, ...]:
    return tuple(np.frombuffer(blob, "<f8").tolist())


def agents_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """The agents whose returns all of these have."""
    return [name for name in (evaluations[0].each if evaluations else ()) if all(name in e.each for e in evaluations)]


def can_keep(directory: Path) -> bool:
    """Evaluations may be stored in a launch."""
    return all(os.access(path, os.W_OK) for path in (directory, directory / LEDGER))


def add(directory: Path, evaluations: Iterable[Evaluation]) -> None:
    """Store evaluations in one transaction; the same again changes nothing.

    A launch may be at work in the directory: this table is not its own, and SQLite lets one writer in at a time.
    """
    evaluations = list(evaluations)
    each = [
        (one.sha256, one.settings, place, agent, np.asarray(returns, "<f8").tobytes())
        for one in evaluations
        for place, (agent, returns) in enumerate(one.each.items())
    ]
    with contextlib.closing(open_tables(directory.resolve() / LEDGER, writer=True)) as db:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _rows(evaluations))
        if each:
            db.execute(_TABLE)
            db.executemany(f"INSERT OR IGNORE INTO {_OF_AGENTS} VALUES (?, ?, ?, ?, ?)", each)
        db.execute("COMMIT")


def _rows(evaluations: Iterable[Evaluation]) -> Iterator[tuple[object, ...]]:
    for one in evaluations:
        numbers = (one.returns, "<f8"), (one.lengths, "<i8"), (one.seeds, "<i8")
        blobs = (np.asarray(values, kind).tobytes() for values, kind in numbers)
        yield (one.sha256, one.settings, one.trial, one.timestep, time.time(), *blobs)
