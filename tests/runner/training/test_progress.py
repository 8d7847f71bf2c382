"""What `run("train")` shows while it trains."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from runner.training import progress
from runner.training.progress import Progress, say
from runner.training.tracking import SCORE, STEPS_PER_SECOND, Record

RECORD = Record(0, 50, 100, 1.0, {STEPS_PER_SECOND: 1234.4, SCORE: 20.0})


class Clock:
    """A quarter of a second passes with every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 0.25
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def train(shown: bool = True, length: int = 100, each: int = 1) -> Iterator[int]:
    """A training of `length` timesteps that reports once, in the middle."""
    now = 0
    with Progress(lambda: now, length, shown) as shows:
        for _ in range(length // each):
            now += each
            assert shows.advance() is False
            if now == length // 2:
                shows.report([RECORD, None, RECORD])
            yield now


def test_without_a_terminal_there_are_few_lines_and_a_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    list(train())
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "timestep 100 of 100 (3,703 env steps/s, return 20)"
    assert [line.partition(" of")[0] for line in lines] == ["timestep 41", "timestep 82", "timestep 100"]


def test_lines_are_at_least_a_tenth_of_the_training_apart(capsys: pytest.CaptureFixture[str]) -> None:
    list(train(length=10_000))
    assert len(capsys.readouterr().err.splitlines()) <= 11


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    list(train())
    shown = capsys.readouterr().err
    assert "━" in shown and "timestep 100 of 100" in shown and "3,703 env steps/s, return 20" in shown


def test_nothing_is_shown_if_the_configuration_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    list(train(shown=False))
    assert capsys.readouterr() == ("", "")


class Gone:
    """A pipe whose reader has left."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError

    def isatty(self) -> bool:
        return False


class Sink:
    """A stream of somebody's own that has only what it must."""

    def write(self, text: str) -> int:
        return len(text)


@pytest.mark.parametrize("terminal", ["0", "1"])
@pytest.mark.parametrize("stderr", [Gone(), None, Sink()], ids=["broken", "none", "sink"])
def test_an_output_that_cannot_be_written_does_not_end_training(
    terminal: str, stderr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    assert list(train())[-1] == 100


def test_a_line_is_said_in_what_the_output_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, words in (("utf-8", "wölfe 5 ± 1"), ("ascii", "w?lfe 5 +/- 1")):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
        say("wölfe 5 ± 1")
        sys.stdout.flush()
        assert raw.getvalue().decode() == f"{words}\n"
    for stdout in (Gone(), None, io.StringIO()):
        if isinstance(stdout, io.StringIO):
            stdout.close()
        monkeypatch.setattr(sys, "stdout", stdout)
        say("5 ± 1")
