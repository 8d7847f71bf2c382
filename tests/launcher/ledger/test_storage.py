"""The ledger's files: crashes, disks that take nothing, one writer and many readers, network file systems."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.ledger import storage
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import BUSY, STORED, Batch, Published
from launcher.ledger.storage import on_network_file_system
from runner import files
from runner.errors import UserError
from tests.launcher.builders import A, B, agent, batch, records, state, stored


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as ledger:
        ledger.add_trials([A, B])
        yield ledger


# Crashes


def test_crash_between_the_file_and_its_row(tmp_path: Path) -> None:
    crash = """
        import os, sys
        from pathlib import Path
        from launcher.ledger import ledger as module
        from launcher.ledger.ledger import Ledger
        from launcher.ledger.rows import Published, TrialRow

        ledger = Ledger(Path(sys.argv[1]))
        ledger.add_trials([TrialRow("a-1", "a", 1, 4, 1000)])
        attempt = ledger.open(["a-1"], "t").number
        whole = module.write_whole
        ledger.publish(attempt, {"a-1": Published(10, b"first", "agent", 0, "running")})
        module.write_whole = lambda *file: (whole(*file), os.kill(os.getpid(), 9))
        ledger.publish(attempt, {"a-1": Published(20, b"second", "agent", 0, "finished")})
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(crash), str(tmp_path)], check=False)
    assert process.returncode == -signal.SIGKILL
    folder = tmp_path / "trials/a-1/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["agent_10.safetensors", "agent_20.safetensors"]
    with Ledger(tmp_path, writer=False) as reader:  # the dead writer's log is read without a writer
        assert [row.timestep for row in reader.checkpoints("a-1")] == [10] and state(reader) == "running"
    with Ledger(tmp_path) as ledger:
        again = Published(20, b"second", "agent", 0, "finished")
        assert ledger.publish(1, {"a-1": again}) == {"a-1": STORED}
        assert [row.timestep for row in ledger.checkpoints("a-1")] == [10, 20] and state(ledger) == "finished"


def test_file_is_never_half_written(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.publish(attempt, {"a-1": agent(10, 0, b"old", kind="best")})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    new = agent(20, 0, b"new", kind="best", state="finished")
    assert ledger.publish(attempt, {"a-1": new}) == BUSY
    folder = ledger.directory / "trials/a-1"
    assert [path.name for path in folder.iterdir()] == ["best_agent.safetensors"]
    assert (folder / "best_agent.safetensors").read_bytes() == b"old"
    assert ledger.checkpoints("a-1")[0].timestep == 10 and state(ledger) == "running"
    monkeypatch.undo()
    assert ledger.publish(attempt, {"a-1": new}) == {"a-1": STORED}
    assert (folder / "best_agent.safetensors").read_bytes() == b"new" and state(ledger) == "finished"


# Storage that fails


def test_full_database_answers_busy_and_goes_on_later(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 10)})
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count = {pages + 2}")  # a true SQLITE_FULL
    assert ledger.push(attempt, {"a-1": batch(10, 2000)}) == BUSY
    assert ledger.push(attempt, {"a-1": batch(10, 2000)}) == BUSY
    assert [record.message for record in caplog.records] == [
        f"{ledger.directory} cannot be written to: database or disk is full"
    ]
    assert stored(ledger) == records(0, 10)
    assert ledger.push(attempt, {"a-1": Batch(10)}) == {"a-1": 10}  # the lease is kept
    ledger._db.execute("PRAGMA max_page_count = 1000000")
    assert ledger.push(attempt, {"a-1": batch(10, 2000)}) == {"a-1": 2000}
    assert stored(ledger) == records(0, 2000)


def test_read_only_database_answers_busy(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger._db.execute("PRAGMA query_only = ON")  # a true SQLITE_READONLY
    assert ledger.push(attempt, {"a-1": batch(0, 1)}) == BUSY
    assert ledger.publish(attempt, {"a-1": agent(10, 0)}) == BUSY
    ledger._db.execute("PRAGMA query_only = OFF")
    assert ledger.push(attempt, {"a-1": batch(0, 1)}) == {"a-1": 1}


def test_errors_that_are_no_storage_errors_are_raised(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger._db.execute("DROP TABLE tag_sets")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        ledger.push(attempt, {"a-1": batch(0, 1)})
    (ledger.directory / "trials").write_text("in the way")
    with pytest.raises(NotADirectoryError):
        ledger.publish(attempt, {"a-1": agent(10, 0)})


# One writer, many readers


def test_second_writer_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} is in use by another launch.*Ctrl-C"):
        Ledger(tmp_path)
    ledger.disconnect()
    Ledger(tmp_path).disconnect()


def test_lock_dies_with_its_process(tmp_path: Path) -> None:
    hold = """
        import sys
        from pathlib import Path
        from launcher.ledger.ledger import Ledger

        ledger = Ledger(Path(sys.argv[1]))
        print(flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(hold), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        with pytest.raises(UserError, match="in use"):
            Ledger(tmp_path)
        process.kill()
    Ledger(tmp_path).disconnect()


def test_reader_sees_whole_transactions_while_another_process_writes(tmp_path: Path) -> None:
    write = """
        import sys
        from pathlib import Path
        from launcher.ledger.ledger import Ledger
        from launcher.ledger.rows import Batch, TrialRow
        from runner.training.tracking import Record

        with Ledger(Path(sys.argv[1])) as ledger:
            ledger.add_trials([TrialRow("a-1", "a", 1, 4, 1000)])
            attempt = ledger.open(["a-1"], "t").number
            print(flush=True)
            for i in range(0, 600, 3):
                batch = [Record(j, j, 4 * j, 0.0, {"x": j}) for j in range(i, i + 3)]
                assert ledger.push(attempt, {"a-1": Batch(i, batch)}) == {"a-1": i + 3}
    """
    seen, revision = [], 0
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(write), str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with Ledger(tmp_path, writer=False) as reader:
            while len(seen) < 600 and (process.poll() is None or reader.changes(revision, 1)):
                changes = reader.changes(revision, 1000)
                assert len(changes) % 3 == 0
                seen += [row.record.index for row in changes]
                revision = changes[-1].revision if changes else revision
    assert process.returncode == 0
    assert seen == list(range(600))


def test_reader_does_not_write(ledger: Ledger, tmp_path: Path) -> None:
    with Ledger(tmp_path, writer=False) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.open(["a-1"], "t")


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a launch directory"):
        Ledger(tmp_path, writer=False)
    assert os.listdir(tmp_path) == []


def test_file_appears_with_its_tables(tmp_path: Path) -> None:
    crash = """
        import os, sqlite3, sys
        from pathlib import Path
        from launcher.ledger import ledger as module

        class Crashing(sqlite3.Connection):
            def executescript(self, script):
                super().executescript(script)
                os.kill(os.getpid(), 9)

        sqlite3.connect = lambda *a, **k: Crashing(*a, **k)
        module.Ledger(Path(sys.argv[1]))
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(crash), str(tmp_path)], check=False)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="not a launch directory"):
        Ledger(tmp_path, writer=False)
    with Ledger(tmp_path) as ledger, Ledger(tmp_path, writer=False) as reader:
        ledger.add_trials([A])
        assert reader.trials() == [A] and not reader.stop_requested()
    assert sorted(os.listdir(tmp_path)) == ["ledger.lock", "ledger.sqlite"]


@pytest.mark.parametrize("layout", [1, storage.LAYOUT + 1])
@pytest.mark.parametrize("writer", [True, False])
def test_tables_of_another_version_are_refused_and_kept(tmp_path: Path, layout: int, writer: bool) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.add_trials([A])
        ledger._db.execute(f"PRAGMA user_version = {layout}")
    before = (tmp_path / "ledger.sqlite").read_bytes()
    message = f"ledger.sqlite: its tables have layout {layout}, this version of sunflower reads {storage.LAYOUT}"
    for _ in range(2):  # the refusal lets go of the lock
        with pytest.raises(UserError, match=message):
            Ledger(tmp_path, writer)
    assert (tmp_path / "ledger.sqlite").read_bytes() == before


@pytest.mark.parametrize("writer", [True, False])
def test_a_file_without_tables_is_told_from_that_of_another_version(tmp_path: Path, writer: bool) -> None:
    (tmp_path / "ledger.sqlite").touch()
    with pytest.raises(UserError, match=r"ledger\.sqlite: it has no tables of a launch: the file is empty"):
        Ledger(tmp_path, writer)
    assert not (tmp_path / "ledger.sqlite").stat().st_size


# File systems


@pytest.mark.parametrize(
    ("directory", "expected"),
    [("/home/me/runs", False), ("/net/my runs/x", True), ("/net/local/x", False), ("/lustre2/x", False)],
)
def test_network_file_systems(tmp_path: Path, directory: str, expected: bool) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\n"
        "auto /net autofs rw 0 0\n"
        "server:/runs /net/my\\040runs nfs4 rw 0 0\n"
        "server:/all /net nfs4 rw 0 0\n"
        "/dev/vdb /net/local xfs rw 0 0\n"
        "fs /lustre lustre rw 0 0\n"
    )
    assert on_network_file_system(Path(directory), mounts) is expected
    assert on_network_file_system(Path(directory), tmp_path / "none") is False


@pytest.mark.parametrize(("network", "mode"), [(False, "wal"), (True, "truncate")])
def test_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool, mode: str) -> None:
    monkeypatch.setattr(storage, "on_network_file_system", lambda directory: network)
    with Ledger(tmp_path) as ledger:
        assert ledger._db.execute("PRAGMA journal_mode").fetchone() == (mode,)
        assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        ledger.add_trials([A])
        attempt = ledger.open(["a-1"], "t").number
        ledger.push(attempt, {"a-1": batch(0, 3)})
        with Ledger(tmp_path, writer=False) as reader:
            assert stored(reader) == records(0, 3)


# One file at the end, and folders that may only be read


def test_a_folded_ledger_is_one_file(ledger: Ledger, tmp_path: Path) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 3)})
    ledger.fold()
    assert sorted(os.listdir(tmp_path)) == ["ledger.lock", "ledger.sqlite"]
    ledger.push(attempt, {"a-1": batch(3, 5)})
    ledger.disconnect()
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "ledger.sqlite", tmp_path / "copy")
    with Ledger(tmp_path / "copy", writer=False) as reader:
        assert stored(reader) == records(0, 5)
    assert os.listdir(tmp_path / "copy") == ["ledger.sqlite"]


def test_a_fold_while_others_read_leaves_the_log_empty(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "FOLD_SECONDS", 0.0)
    ledger.push(ledger.open(["a-1"], "t").number, {"a-1": batch(0, 3)})
    with Ledger(tmp_path, writer=False) as reader:
        assert stored(reader) == records(0, 3)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            ledger.fold()
    assert (tmp_path / "ledger.sqlite-wal").stat().st_size == 0


def test_a_ledger_where_nothing_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SQLite itself answers in such a folder, which tests that run as root cannot make."""
    with Ledger(tmp_path) as ledger:
        ledger.add_trials([A])

    class Refusing:
        def execute(self, _: str) -> None:
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise error

        def close(self) -> None:
            pass

    monkeypatch.setattr(storage, "_connect", lambda path, writer: Refusing())
    with Ledger(tmp_path, writer=False) as reader:
        assert [row.id for row in reader.trials()] == ["a-1"]
    assert sorted(os.listdir(tmp_path)) == ["ledger.lock", "ledger.sqlite"]
    (tmp_path / "ledger.sqlite-wal").touch()
    Ledger(tmp_path, writer=False).disconnect()
    (tmp_path / "ledger.sqlite-wal").write_bytes(b"x")
    with pytest.raises(UserError, match=r"what it wrote last is in ledger.sqlite-wal\. Copy the directory"):
        Ledger(tmp_path, writer=False)
