"""Directories of version 0.1.0, which read plan.json and config.yaml: as they are, and brought to today's tables."""

from __future__ import annotations

import json
import re
import sqlite3
import tarfile
from pathlib import Path

import pytest

from launcher.ledger import layout2, storage
from launcher.ledger.ledger import Ledger
from launcher.plan.directory import add_trials
from runner.config import load_config
from runner.errors import UserError
from tests.launcher.builders import read_trials

FIXTURE = Path(__file__).parents[2] / "fixtures" / "launches" / "0.1.0.tar.gz"
SLOW, FAST = "tiny_learning_rate=0.0003", "tiny_learning_rate=0.001"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Two rates, not sorted, of two seeds each, finished."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "layout_1"


def everything(directory: Path) -> list[object]:
    with Ledger(directory, writer=False) as ledger:
        rows, texts = ledger.trials(), ledger.configurations()
        assert ledger.configurations([rows[2].id]) == {rows[2].id: texts[rows[2].id]}
        kept = [(one.trial, one.timestep, one.sha256) for row in rows for one in ledger.checkpoints(row.id)]
        return [rows, texts, ledger.revisions(), ledger.progress(), ledger.attempts(), ledger.members(), kept]


def layout(directory: Path) -> int:
    with Ledger(directory, writer=False) as ledger:
        return int(ledger._db.execute("PRAGMA user_version").fetchone()[0])


def test_readers_leave_it_and_the_first_writer_brings_it_to_todays_tables(old: Path) -> None:
    before = everything(old)
    trials = read_trials(old)
    assert layout(old) == layout2.LAYOUT
    assert [(trial.name, trial.config.seed) for trial in trials] == [(FAST, 0), (FAST, 1), (SLOW, 0), (SLOW, 1)]
    for trial in trials:
        assert trial.config == load_config(old / "trials" / trial.id / "config.yaml")[0]
    add_trials(old, [], [])
    assert layout(old) == storage.LAYOUT
    for copy in (old / "plan.json", *old.glob("trials/*/config.yaml")):
        copy.unlink()  # needed no more
    assert everything(old) == before
    assert read_trials(old) == trials


def test_a_death_while_tables_are_made_leaves_the_old_ones(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(old)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_PLANNED", storage._PLANNED + "SELECT * FROM nowhere;")
        with pytest.raises(sqlite3.OperationalError, match="no such table: nowhere"):
            Ledger(old)
    assert layout(old) == layout2.LAYOUT and everything(old) == before
    Ledger(old).disconnect()
    assert layout(old) == storage.LAYOUT and everything(old) == before


def test_a_launch_made_before_the_order_was_noted_there_or_after(old: Path) -> None:
    with Ledger(old) as ledger:
        ledger._db.execute("PRAGMA user_version = 2")
    db = sqlite3.connect(old / "ledger.sqlite")
    db.executescript(
        "DROP TABLE configurations; DROP TABLE revisions; DROP TABLE events;"
        "ALTER TABLE trials DROP COLUMN configuration;"
    )
    db.execute("CREATE TABLE configurations (config TEXT PRIMARY KEY, place INTEGER NOT NULL) WITHOUT ROWID")
    db.executemany("INSERT INTO configurations VALUES (?, ?)", [(FAST, 0), (SLOW, 1)])
    db.commit()
    db.close()
    before = everything(old)
    Ledger(old).disconnect()
    assert everything(old) == before


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("{", "plan.json: damaged: Expecting property name"),
        ("[]", "plan.json: damaged: list indices"),
        ("{}", "plan.json: damaged: it has no 'trials'"),
        ('{"trials": [{"id": "x"}], "revisions": []}', "plan.json: damaged: it has no 'name'"),
        ('{"trials": [], "revisions": {}}', "plan.json: damaged: revisions must be a list of blocks"),
        (None, "plan.json is missing, without which a directory of version 0.1.0 cannot be read"),
    ],
)
def test_damaged_plan(old: Path, plan: str | None, expected: str) -> None:
    (old / "plan.json").unlink()
    if plan is not None:
        (old / "plan.json").write_text(plan)
    for writer in (False, True):
        with pytest.raises(UserError, match=re.escape(expected)):
            Ledger(old, writer)


def test_damaged_configuration(old: Path) -> None:
    path = old / "trials" / read_trials(old)[3].id / "config.yaml"
    for damage in ("agent: [", "agent: {no_such: 1}", None):
        path.unlink(missing_ok=True)
        if damage is not None:
            path.write_text(damage)
        with pytest.raises(UserError, match=re.escape(str(path))):
            read_trials(old)
        with pytest.raises(UserError, match=re.escape(str(path))):
            Ledger(old)
        with Ledger(old, writer=False) as ledger:
            assert len(ledger.progress()) == 4, "status and curves do not need it"


def test_plan_and_seeds_of_edited_configurations_stay_apart(old: Path) -> None:
    path = old / "trials" / read_trials(old)[1].id / "config.yaml"
    path.write_text(path.read_text().replace("timesteps: 128", "timesteps: 256"))
    Ledger(old).disconnect()
    assert [trial.config.trainer.timesteps for trial in read_trials(old)] == [128, 256, 128, 128]
    assert json.loads((old / "plan.json").read_text())["trials"][1]["id"] in str(path)
