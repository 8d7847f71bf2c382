"""Launch directories of version 0.1.0, whose ledger does not know its configurations and launches: plan.json and
trials/*/config.yaml do. They are read as they are, and brought to today's tables by the first who writes there.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runner.errors import UserError

LAYOUT = 2


def attach(db: sqlite3.Connection, directory: Path) -> None:
    """Give a reader what plan.json says, in tables of its own that look like today's."""
    names, revisions = _plan(directory)
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute("CREATE TEMP TABLE configurations (number INTEGER PRIMARY KEY, name TEXT)")
    db.executemany("INSERT INTO temp.configurations (name) VALUES (?)", [(name,) for name in names])
    db.execute("CREATE TEMP TABLE revisions (number INTEGER PRIMARY KEY, text TEXT)")
    db.executemany("INSERT INTO temp.revisions (text) VALUES (?)", [(json.dumps(one),) for one in revisions])


def configurations(directory: Path, trials: Iterable[str]) -> dict[str, str]:
    """Trial → its configuration, as in the ledgers of today; what is the same but for the seed is read once."""
    # Here, since the schema takes a while to import and few directories are that old.
    from launcher.ledger.configurations import text_of
    from runner.config import load_config

    known: dict[str, str] = {}
    found = {}
    for trial in trials:
        path = directory / "trials" / trial / "config.yaml"
        try:
            rest = re.sub(r"\Aseed: \d+\n", "", path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            rest = str(path)  # the reader below says what is wrong with it
        if rest not in known:
            known[rest] = text_of(load_config(path)[0])
        found[trial] = known[rest]
    return found


def upgrade(db: sqlite3.Connection, directory: Path, tables: str, layout: int) -> None:
    """Bring a ledger to today's `layout`, whose new tables this SQL makes; all at once or not at all."""
    names, revisions = _plan(directory)
    trials = db.execute("SELECT trial, config FROM trials ORDER BY config, seed").fetchall()
    places = {name: place for place, name in enumerate(names)}
    trials.sort(key=lambda row: places.get(row[1], len(places)))
    texts = configurations(directory, [trial for trial, _ in trials])
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("DROP TABLE IF EXISTS configurations")
        for statement in tables.split(";"):
            db.execute(statement)
        db.execute("ALTER TABLE trials ADD COLUMN configuration INTEGER REFERENCES configurations")
        for trial, name in trials:
            row = (name, texts[trial])
            db.execute("INSERT OR IGNORE INTO configurations (name, text) VALUES (?, ?)", row)
            number = "(SELECT number FROM configurations WHERE name = ? AND text = ?)"
            db.execute(f"UPDATE trials SET configuration = {number} WHERE trial = ?", (*row, trial))
        db.executemany("INSERT INTO revisions (text) VALUES (?)", [(json.dumps(one),) for one in revisions])
        db.execute(f"PRAGMA user_version = {layout}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _plan(directory: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of configurations as they were asked for, and what each launch and resume was."""
    path = directory / "plan.json"
    try:
        plan = json.loads(path.read_text())
        names, revisions = list(dict.fromkeys(row["name"] for row in plan["trials"])), plan["revisions"]
        if not isinstance(revisions, list) or not all(isinstance(revision, dict) for revision in revisions):
            raise TypeError("revisions must be a list of blocks")
    except KeyError as error:
        raise UserError(f"{path}: damaged: it has no {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing, without which a directory of version 0.1.0 cannot be read") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    return names, revisions
