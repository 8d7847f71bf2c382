"""The ledger: every record once, whatever is sent twice, lost, cut off or refused."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import ledger as ledger_module
from launcher.ledger import (
    BUSY,
    GAP,
    LOST,
    STORED,
    Batch,
    Ledger,
    Published,
    TrialRow,
    on_network_file_system,
)
from runner.errors import UserError
from runner.tracking import RETURN_MEAN, STEPS_PER_SECOND, Record

A, B = TrialRow("a-1", "a", 1, 4, 1000), TrialRow("b-1", "b", 1, 8, 1000)


def records(first: int, end: int, shift: float = 0.0) -> list[Record]:
    return [
        Record(i, 10 * (i + 1), 40 * (i + 1), 0.5 * i, {RETURN_MEAN: i + shift, STEPS_PER_SECOND: 100.0})
        for i in range(first, end)
    ]


def batch(first: int, end: int, shift: float = 0.0) -> Batch:
    return Batch(first, records(first, end, shift))


def agent(timestep: int, covered: int, data: bytes = b"weights", **changes: object) -> Published:
    return dataclasses.replace(Published(timestep, data, "agent", covered, "running"), **changes)


def stored(ledger: Ledger, trial: str = "a-1") -> list[Record]:
    return [row.record for row in ledger.records(trial)]


def state(ledger: Ledger, trial: str = "a-1") -> str:
    return next(row.state for row in ledger.trials() if row.trial == trial)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as ledger:
        ledger.add_trials([A, B])
        yield ledger


# Trials


def test_trials_added_twice_are_there_once(ledger: Ledger) -> None:
    ledger.add_trials([A, B])
    ledger.add_trials([TrialRow("a-2", "a", 2, 4, 1000)])
    assert [row.trial for row in ledger.trials()] == ["a-1", "a-2", "b-1"]
    assert ledger.trials()[0] == A


@pytest.mark.parametrize(
    "row",
    [
        dataclasses.replace(A, timesteps=2000),
        dataclasses.replace(A, num_envs=5),
        dataclasses.replace(A, seed=9),
        dataclasses.replace(A, trial="other"),  # two trials would share one TensorBoard folder
    ],
)
def test_trial_that_conflicts_is_refused_and_nothing_is_added(ledger: Ledger, row: TrialRow) -> None:
    with pytest.raises(UserError, match=r"a-1.* differs from"):
        ledger.add_trials([TrialRow("c-1", "c", 1, 4, 1000), row])
    assert ledger.trials() == [A, B]


def test_adding_again_keeps_what_became_of_a_trial(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.add_trials([A])
    assert ledger.trials()[0] == dataclasses.replace(A, state="running", attempt=attempt)


# Exactly once


def test_duplicates_and_overlaps_are_stored_once(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    assert ledger.push(attempt, {"a-1": batch(0, 3)}) == {"a-1": 3}
    assert ledger.push(attempt, {"a-1": batch(0, 3, shift=0.5)}) == {"a-1": 3}
    assert ledger.push(attempt, {"a-1": batch(1, 5)}) == {"a-1": 5}
    assert ledger.push(attempt, {"a-1": batch(0, 2)}) == {"a-1": 5}
    assert stored(ledger) == records(0, 5)


def test_out_of_order_pushes_are_resent_from_the_gap(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1", "b-1"], "t").number
    # a has a gap and stores nothing, b goes on.
    assert ledger.push(attempt, {"a-1": batch(2, 4), "b-1": batch(0, 2)}) == {"a-1": 0, "b-1": 2}
    assert stored(ledger) == []
    assert ledger.push(attempt, {"a-1": batch(0, 2)}) == {"a-1": 2}
    assert ledger.push(attempt, {"a-1": batch(2, 4)}) == {"a-1": 4}
    assert stored(ledger) == records(0, 4)


def test_beat_tells_the_high_water(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1", "b-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 3)})
    assert ledger.push(attempt, {"a-1": Batch(3), "b-1": Batch(0)}) == {"a-1": 3, "b-1": 0}
    assert ledger.push(attempt, {}) == {}


def test_records_that_skip_an_index_are_a_bug_and_nothing_is_stored(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1", "b-1"], "t").number
    with pytest.raises(ValueError, match="record 2 was sent in the place of 1"):
        ledger.push(attempt, {"b-1": batch(0, 2), "a-1": Batch(0, [*records(0, 1), *records(2, 3)])})
    assert stored(ledger) == stored(ledger, "b-1") == []


def test_every_double_survives(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    values = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "-0": -0.0, "tiny": 5e-324, "third": 1 / 3}
    ledger.push(attempt, {"a-1": Batch(0, [Record(0, 1, 4, 0.0, values), Record(1, 2, 8, 0.0, {})])})
    first, second = stored(ledger)
    assert list(first.values) == list(values)
    assert [v.hex() for v in first.values.values()] == [v.hex() for v in values.values()]
    assert second.values == {}


def test_note_is_kept_with_the_attempt(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {}, note="Segmentation fault")
    ledger.push(attempt, {})
    assert ledger.attempts()[0].note == "Segmentation fault"


# Attempts


def test_second_attempt_takes_over_and_the_first_has_lost(ledger: Ledger) -> None:
    first = ledger.open(["a-1", "b-1"], "t1").number
    ledger.push(first, {"a-1": batch(0, 2), "b-1": batch(0, 2)})
    second = ledger.open(["a-1"], "t2")
    assert second.number != first and second.resume == {"a-1": None}
    assert ledger.push(first, {"a-1": batch(0, 2), "b-1": batch(2, 3)}) == {"a-1": LOST, "b-1": 3}
    assert ledger.publish(first, {"a-1": agent(10, 0), "b-1": agent(30, 3)}) == {"a-1": LOST, "b-1": STORED}
    assert stored(ledger) == [] and ledger.checkpoints("a-1") == []
    assert not (ledger.directory / "trials/a-1").exists()


def test_closed_attempt_and_unknown_trial_have_lost(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    assert ledger.push(attempt, {"none": Batch(0), "b-1": Batch(0)}) == {"none": LOST, "b-1": LOST}
    ledger.close(attempt, "killed")
    assert ledger.push(attempt, {"a-1": batch(0, 1)}) == {"a-1": LOST}
    assert ledger.publish(attempt, {"a-1": agent(0, 0)}) == {"a-1": LOST}
    ledger.close(attempt, "again")
    assert [(row.outcome, row.closed_at is not None) for row in ledger.attempts()] == [("killed", True)]


def test_rewind_forgets_what_the_checkpoint_does_not_cover(ledger: Ledger) -> None:
    first = ledger.open(["a-1"], "t1").number
    ledger.push(first, {"a-1": batch(0, 5)})
    ledger.publish(first, {"a-1": agent(30, 3)})
    second = ledger.open(["a-1"], "t2")
    assert second.resume["a-1"] == ledger.checkpoints("a-1")[0]
    assert stored(ledger) == records(0, 3)
    assert ledger.push(second.number, {"a-1": batch(3, 6, shift=0.5)}) == {"a-1": 6}
    assert stored(ledger) == records(0, 3) + records(3, 6, shift=0.5)


def test_open_repeated_with_its_token_is_the_same_attempt(ledger: Ledger) -> None:
    first = ledger.open(["a-1"], "t1").number
    ledger.push(first, {"a-1": batch(0, 3)})
    ledger.publish(first, {"a-1": agent(20, 2)})
    opened = ledger.open(["a-1", "b-1"], "t2")
    assert ledger.open(["a-1", "b-1"], "t2") == opened
    assert len(ledger.attempts()) == 2


@pytest.mark.parametrize("final", ["finished", "diverged"])
def test_final_states_stay(ledger: Ledger, final: str) -> None:
    attempt = ledger.open(["a-1", "b-1"], "t").number
    assert ledger.publish(attempt, {"a-1": agent(0, 0, state=final)}) == {"a-1": STORED}
    ledger.publish(attempt, {"a-1": agent(0, 0)})
    ledger.fail(attempt, ["a-1"], "too late")
    assert state(ledger) == final
    with pytest.raises(UserError, match=f"'a-1' cannot be trained: it is {final}"):
        ledger.open(["b-1", "a-1"], "t2")
    assert ledger.trials()[1].attempt == attempt and len(ledger.attempts()) == 1


def test_unknown_trial_cannot_be_opened(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="'nobody' cannot be trained: it is unknown"):
        ledger.open(["nobody"], "t")


def test_failed_trial_says_why_until_it_runs_again(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t1").number
    ledger.fail(attempt, ["a-1", "b-1"], "out of memory")  # b-1 is not this attempt's
    assert [(row.state, row.error) for row in ledger.trials()] == [
        ("failed", "out of memory"),
        ("pending", None),
    ]
    ledger.open(["a-1"], "t2")
    assert [(row.state, row.error) for row in ledger.trials()] == [("running", None), ("pending", None)]
    ledger.fail(attempt, ["a-1"], "from the first attempt")
    assert state(ledger) == "running"


def test_attempt_is_described(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.describe_attempt(attempt, "logs/attempt-1.log", "node-7", 4711)
    row = ledger.attempts()[0]
    assert (row.number, row.log, row.host, row.pid) == (attempt, "logs/attempt-1.log", "node-7", 4711)
    assert row.closed_at is None and row.outcome is None


def test_stop_request_is_in_the_file(ledger: Ledger, tmp_path: Path) -> None:
    assert not ledger.stop_requested()
    ledger.request_stop(True)
    ledger.disconnect()
    with Ledger(tmp_path) as again:
        assert again.stop_requested()
        again.request_stop(False)
        assert not again.stop_requested()


# Checkpoints


def test_checkpoint_waits_for_its_records(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 2)})
    assert ledger.publish(attempt, {"a-1": agent(30, 3, state="finished")}) == {"a-1": GAP}
    assert not (ledger.directory / "trials").exists()
    assert ledger.checkpoints("a-1") == [] and state(ledger) == "running"
    ledger.push(attempt, {"a-1": batch(2, 3)})
    assert ledger.publish(attempt, {"a-1": agent(30, 3, state="finished")}) == {"a-1": STORED}
    assert state(ledger) == "finished"


def test_published_file_and_row(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    for _ in range(2):  # the same again changes nothing
        ledger.publish(attempt, {"a-1": agent(10, 0, b"abc", score=1.5)})
    (row,) = ledger.checkpoints("a-1")
    assert row.path == "trials/a-1/checkpoints/agent_10.safetensors"
    assert (ledger.directory / row.path).read_bytes() == b"abc"
    assert row.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert (row.bytes, row.score, row.attempt, row.records, row.kind) == (3, 1.5, attempt, 0, "agent")


def test_there_is_one_best_agent_and_it_survives_a_rewind(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 5)})
    ledger.publish(attempt, {"a-1": agent(20, 2)})
    for timestep, score in ((10, 1.0), (50, math.nan)):
        ledger.publish(attempt, {"a-1": agent(timestep, 1, bytes([timestep]), kind="best", score=score)})
    opened = ledger.open(["a-1"], "t2")
    assert opened.resume["a-1"].timestep == 20
    best = [row for row in ledger.checkpoints("a-1") if row.kind == "best"]
    assert [(row.timestep, row.score, row.path) for row in best] == [(50, None, "trials/a-1/best_agent.safetensors")]
    assert (ledger.directory / best[0].path).read_bytes() == bytes([50])


def test_state_changes_without_a_file(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    assert ledger.publish(attempt, {"a-1": agent(0, 0, b"", state="interrupted")}) == {"a-1": STORED}
    assert state(ledger) == "interrupted" and ledger.checkpoints("a-1") == []


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_damaged_checkpoint_falls_back_to_the_one_before(ledger: Ledger, damage: str) -> None:
    attempt = ledger.open(["a-1"], "t1").number
    ledger.push(attempt, {"a-1": batch(0, 9)})
    for timestep in (20, 40, 100):  # as text, 100 sorts before 20
        ledger.publish(attempt, {"a-1": agent(timestep, timestep // 20, b"weights of %d" % timestep)})
    ledger.publish(attempt, {"a-1": agent(100, 5, kind="best")})
    path = ledger.directory / "trials/a-1/checkpoints/agent_100.safetensors"
    if damage == "changed":
        path.write_bytes(path.read_bytes().replace(b"w", b"W"))
    elif damage == "cut":
        path.write_bytes(b"")
    else:
        path.unlink()
    resume = ledger.open(["a-1"], "t2").resume["a-1"]
    assert resume.timestep == 40 and stored(ledger) == records(0, 2)
    kept = [(row.timestep, row.kind) for row in ledger.checkpoints("a-1")]
    assert kept == [(20, "agent"), (40, "agent"), (100, "best")]
    for row in ledger.checkpoints("a-1"):
        (ledger.directory / row.path).unlink()
    assert ledger.open(["a-1"], "t3").resume == {"a-1": None}
    assert stored(ledger) == []


def test_crash_between_the_file_and_its_row(tmp_path: Path) -> None:
    crash = """
        import os, sys
        from pathlib import Path
        from launcher import ledger as module
        from launcher.ledger import Ledger, Published, TrialRow

        ledger = Ledger(Path(sys.argv[1]))
        ledger.add_trials([TrialRow("a-1", "a", 1, 4, 1000)])
        attempt = ledger.open(["a-1"], "t").number
        whole = module._store
        ledger.publish(attempt, {"a-1": Published(10, b"first", "agent", 0, "running")})
        module._store = lambda *file: (whole(*file), os.kill(os.getpid(), 9))
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

    monkeypatch.setattr(ledger_module.os, "fsync", full)
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
        from launcher.ledger import Ledger

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
        from launcher.ledger import Batch, Ledger, TrialRow
        from runner.tracking import Record

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
    with pytest.raises(UserError, match="is not the directory of a launch"):
        Ledger(tmp_path, writer=False)
    assert os.listdir(tmp_path) == []


def test_file_appears_with_its_tables(tmp_path: Path) -> None:
    crash = """
        import os, sqlite3, sys
        from pathlib import Path
        from launcher import ledger as module

        class Crashing(sqlite3.Connection):
            def executescript(self, script):
                super().executescript(script)
                os.kill(os.getpid(), 9)

        module.sqlite3.connect = lambda *a, **k: Crashing(*a, **k)
        module.Ledger(Path(sys.argv[1]))
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(crash), str(tmp_path)], check=False)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="is not the directory of a launch"):
        Ledger(tmp_path, writer=False)
    with Ledger(tmp_path) as ledger, Ledger(tmp_path, writer=False) as reader:
        ledger.add_trials([A])
        assert reader.trials() == [A] and not reader.stop_requested()
    assert sorted(os.listdir(tmp_path)) == ["ledger.sqlite", "lock"]


def test_progress(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 3)})
    a, b = ledger.progress()
    assert (a.trial.trial, a.trial.state) == ("a-1", "running")
    assert (a.records, a.timestep, a.env_steps, a.value, a.steps_per_second) == (3, 30, 120, 2.0, 100.0)
    assert (b.records, b.timestep, b.env_steps, b.value, b.steps_per_second) == (0, 0, 0, None, None)
    assert ledger.progress("unknown tag")[0].value is None


def test_changes_follow_a_rewind(ledger: Ledger) -> None:
    first = ledger.open(["a-1", "b-1"], "t1").number
    ledger.push(first, {"a-1": batch(0, 2)})
    ledger.push(first, {"b-1": batch(0, 1)})
    ledger.push(first, {"a-1": batch(2, 5)})
    ledger.publish(first, {"a-1": agent(20, 2)})
    before = ledger.changes(0, 100)
    assert [(row.trial, row.record.index) for row in before] == [
        *(("a-1", 0), ("a-1", 1), ("b-1", 0)),
        *(("a-1", 2), ("a-1", 3), ("a-1", 4)),
    ]
    assert [row.previous_env_steps for row in before] == [-1, 40, -1, 80, 120, 160]
    second = ledger.open(["a-1"], "t2").number
    assert ledger.changes(before[-1].revision, 100) == []
    ledger.push(second, {"a-1": batch(2, 4, shift=0.5)})
    after = ledger.changes(before[-1].revision, 100)
    # The numbers of deleted rows are not used again, or the cursor would miss these.
    assert [row.record for row in after] == records(2, 4, shift=0.5)
    assert [row.previous_env_steps for row in after] == [80, 120]
    assert [row.record.index for row in ledger.changes(0, 2)] == [0, 1]


def test_records_from_an_index(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 5)})
    assert [row.record.index for row in ledger.records("a-1", 3)] == [3, 4]
    assert [row.record.index for row in ledger.records("a-1", 1, 2)] == [1, 2]


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
    monkeypatch.setattr(ledger_module, "on_network_file_system", lambda directory: network)
    with Ledger(tmp_path) as ledger:
        assert ledger._db.execute("PRAGMA journal_mode").fetchone() == (mode,)
        assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        ledger.add_trials([A])
        attempt = ledger.open(["a-1"], "t").number
        ledger.push(attempt, {"a-1": batch(0, 3)})
        with Ledger(tmp_path, writer=False) as reader:
            assert stored(reader) == records(0, 3)
