"""Streams that cannot be written, and the program whose stdout is one."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from launcher.cli.main import main
from launcher.ledger.ledger import Ledger
from launcher.run import dispatch, output, session, signals
from launcher.run.dispatch import Result
from launcher.run.session import say_how_to_continue
from tests.launcher.boards import checkpoint, opened
from tests.launcher.builders import give_up
from tests.launcher.refusals import small_launch


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Read and write ends."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def error_of(stream: Any) -> OSError | None:
    error: OSError | None = stream.buffer.raw.error
    return error


def test_nobody_reads(pipe: tuple[int, int]) -> None:
    stream = output.harmless(pipe[1])
    print("first", file=stream, flush=True)
    assert os.read(pipe[0], 100) == b"first\n" and error_of(stream) is None
    os.close(pipe[0])
    for _ in range(2000):  # more than any buffer holds
        print("nobody reads this", file=stream)
    stream.close()  # as the interpreter does at its end
    assert isinstance(error_of(stream), BrokenPipeError)


@pytest.mark.parametrize("like", [{"line_buffering": True}, {"write_through": True}])  # as with PYTHONUNBUFFERED=1
def test_lines_are_written_when_they_end(pipe: tuple[int, int], like: dict[str, bool]) -> None:
    print("now", file=output.harmless(pipe[1], io.TextIOWrapper(io.BytesIO(), **like)))  # type: ignore[arg-type]
    os.set_blocking(pipe[0], False)
    assert os.read(pipe[0], 100) == b"now\n"


def test_a_disk_that_has_room_again(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    stream = output.harmless(full)
    print("lost", file=stream, flush=True)
    assert "No space left" in str(error_of(stream))
    with (tmp_path / "log").open("wb") as file:
        os.dup2(file.fileno(), full)
    print("kept", file=stream, flush=True)
    os.close(full)
    assert (tmp_path / "log").read_text().endswith("kept\n")


def test_a_pipe_that_does_not_block(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    read: list[bytes] = []

    def reader() -> None:
        while data := os.read(pipe[0], 1 << 16):
            read.append(data)

    thread = threading.Thread(target=reader)
    thread.start()
    stream = output.harmless(pipe[1])
    stream.write("x" * 3_000_000)
    stream.flush()
    os.close(pipe[1])
    thread.join()
    assert sum(map(len, read)) == 3_000_000 and error_of(stream) is None


def test_characters_that_the_terminal_does_not_have(pipe: tuple[int, int]) -> None:
    ascii_ = SimpleNamespace(encoding="ascii", line_buffering=True, write_through=False)
    print("1 → 2", file=output.harmless(pipe[1], ascii_))  # type: ignore[arg-type]
    assert os.read(pipe[0], 100) == b"1 ? 2\n"


@pytest.mark.parametrize(
    ("verb", "redirection", "status", "said"),
    [
        ("status", ">/dev/full", 1, "error: stdout cannot be written: No space left on device\n"),
        ("logs", "", 0, ""),
        ("status --json", ">&-", 0, ""),
    ],
    ids=["full", "unread", "closed"],
)
def test_a_verb_whose_output_cannot_be_written(
    tmp_path: Path, pipe: tuple[int, int], verb: str, redirection: str, status: int, said: str
) -> None:
    os.close(pipe[0])
    command = f"exec {sys.executable} -m launcher.cli.main {verb} {small_launch(tmp_path)} {redirection}"
    done = subprocess.run(["sh", "-c", command], stdout=pipe[1], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, said)


def test_an_excused_loss_is_no_failure(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(pipe[0])
    monkeypatch.setattr(output, "_guarded", output.harmless(pipe[1]))
    monkeypatch.setattr(output, "_excused", False)
    assert output.lost() is None
    print("lost", file=output._guarded)
    assert isinstance(output.lost(), BrokenPipeError)
    output.excuse()
    assert output.lost() is None


def test_a_hangup_ends_in_good_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("launcher.cli.main._run", lambda tokens: os.kill(os.getpid(), signal.SIGHUP) or 0)
    before = signal.getsignal(signal.SIGHUP)
    assert main([]) == 129
    assert capsys.readouterr().err == "hung up\n"
    monkeypatch.setattr("launcher.cli.main._run", lambda tokens: os.kill(os.getpid(), signal.SIGHUP) or 7)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        assert main([]) == 7
        with signals.noted() as noted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert noted == []
    finally:
        signal.signal(signal.SIGHUP, before)
    with signals.noted() as noted:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted == [signal.SIGHUP]  # one request
    monkeypatch.setattr(signals, "ONE_REQUEST_SECONDS", -1.0)
    with signals.noted() as noted:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted == [signal.SIGHUP, signal.SIGTERM]


@pytest.mark.parametrize(
    ("signals", "since", "ended"),
    [([1], 0, False), ([1, 1, 1], 0, False), ([15, 1], 0, False), ([2, 2], 0, True), ([1], 61, True), ([], 61, True)],
)
def test_when_workers_that_are_to_save_are_ended(signals: list[int], since: float, ended: bool) -> None:
    state: Any = SimpleNamespace(signals=signals, told=time.monotonic() - since)
    assert dispatch._Dispatch._impatient(state) is ended


def test_what_watches_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    def draw(errors: list[Exception]) -> None:
        raise errors.pop()

    watch = dispatch._unharmed(draw)
    errors: list[Exception] = [ValueError("third"), KeyError("second"), KeyError("first")]
    with caplog.at_level(logging.ERROR):
        while errors:
            watch(errors)
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["'first'", "third"]


def test_the_command_that_continues_has_the_brackets_of_its_directory(tmp_path: Path) -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    say_how_to_continue(console, tmp_path / "a [bold] b", {"finished", "failed"})
    shown = console.export_text().strip()
    assert shown == f"Continue:    launch resume '{tmp_path}/a [bold] b' --retry-failed"


@pytest.mark.parametrize(
    ("states", "events", "result", "expected"),
    [
        ("finished finished", "", Result(), 0),
        ("finished failed", "", Result(), 1),
        ("finished diverged", "search over", Result(), 1),
        ("finished paused", "search over", Result(), 0),
        ("finished paused", "search", Result(), 1),
        ("finished finished", "search", Result(error="DIR: the disk is full"), 1),
        ("finished finished", "search over", Result(error="DIR: the disk is full"), 1),
    ],
)
def test_the_status_is_zero_only_where_all_is_well_and_nothing_is_left(
    tmp_path: Path, states: str, events: str, result: Result, expected: int
) -> None:
    path = small_launch(tmp_path)
    with Ledger(path) as ledger:
        ledger.add_events([(kind, "", {}) for kind in events.split()])
        for row, state in zip(ledger.trials(), states.split(), strict=True):
            attempt = opened(ledger, row.id)
            if state == "failed":
                give_up(ledger, attempt, [row.id], "broken")
            else:
                checkpoint(ledger, attempt, row.id, 0, state)
    console = Console(record=True, file=io.StringIO(), width=200)
    assert session._status(console, path, result) == expected
    assert ("Continue:    launch resume" in console.export_text()) == (events == "search" or "failed" in states)


def test_handlers_that_an_environment_sets_for_itself_are_put_back() -> None:
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    with pytest.raises(ZeroDivisionError), signals.kept():
        for number in signals.STOPPING:
            signal.signal(number, signal.SIG_IGN)
        _ = 1 / 0
    assert {number: signal.getsignal(number) for number in signals.STOPPING} == before
