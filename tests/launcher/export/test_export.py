"""Event files as TensorBoard reads them: each point of the ledger once, after crashes and rewinds as well."""

from __future__ import annotations

import errno
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.summary.writer import event_file_writer

from launcher.export import tensorboard as export_module
from launcher.export.tensorboard import TensorBoardExport
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import TrialRow
from runner.training.tracking import TensorBoard
from tests.launcher.boards import (
    TAG,
    TRIALS,
    Points,
    checkpoint,
    opened,
    push,
    read_as_server,
    read_scalars,
    steps,
)
from tests.launcher.builders import give_up


@pytest.fixture(params=[read_scalars, read_as_server])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Points]:
    """The points of `tag` in a folder below `tensorboard/`."""
    return lambda folder, tag=TAG: request.param(tmp_path / "tensorboard" / folder, tag)


@pytest.fixture(autouse=True)
def same_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one second and process are read in the order of their number as text: no 9 before 10."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "RETRY_SECONDS", 0.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as ledger:
        ledger.add_trials(TRIALS)
        yield ledger


@pytest.fixture
def export(ledger: Ledger, tmp_path: Path) -> Iterator[TensorBoardExport]:
    export = TensorBoardExport(tmp_path)
    yield export
    export.close()


# Trials


def test_each_record_is_one_point_per_tag(
    ledger: Ledger, export: TensorBoardExport, read: Callable[..., Points]
) -> None:
    attempt = opened(ledger, "a-1", "b-0")
    push(ledger, attempt, "a-1", 0, [1.0, math.inf])
    export.poll()
    export.poll()
    push(ledger, attempt, "a-1", 2, [3.0])
    push(ledger, attempt, "b-0", 0, [7.0])
    export.poll()
    assert read("a/seed_1") == steps(1.0, math.inf, 3.0)
    assert read("a/seed_1", "index") == steps(0.0, 1.0, 2.0)
    assert read("b/seed_0") == steps(7.0)


def test_wall_time_is_that_of_the_ledger(ledger: Ledger, export: TensorBoardExport, tmp_path: Path) -> None:
    push(ledger, opened(ledger, "b-0"), "b-0", 0, [1.0, 2.0])
    export.poll()
    run = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard/b/seed_0")).Reload()
    assert [event.wall_time for event in run.Scalars(TAG)] == [row.wall_time for row in ledger.records("b-0")]


def test_more_records_than_are_read_at_once(
    ledger: Ledger,
    export: TensorBoardExport,
    read: Callable[..., Points],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_module, "CHUNK", 3)
    values = [float(i) for i in range(10)]
    attempt = opened(ledger, *(trial.id for trial in TRIALS[:4]))
    for trial in TRIALS[:4]:
        push(ledger, attempt, trial.id, 0, values)
    export.poll()
    assert read("a/seed_3") == read("a/mean") == read("a/iqm") == steps(*values)


# Rewinds


def test_rewind_replaces_what_was_shown(ledger: Ledger, export: TensorBoardExport, read: Callable[..., Points]) -> None:
    first = opened(ledger, "b-0")
    push(ledger, first, "b-0", 0, [0.0, 1.0])
    checkpoint(ledger, first, "b-0", 2)
    push(ledger, first, "b-0", 2, [2.0, 3.0, 4.0])
    export.poll()
    second = opened(ledger, "b-0")
    export.poll()
    assert read("b/seed_0") == steps(0.0, 1.0, 2.0, 3.0, 4.0)  # until there is something newer
    push(ledger, second, "b-0", 2, [22.0])
    export.poll()
    assert read("b/seed_0") == steps(0.0, 1.0, 22.0)
    push(ledger, second, "b-0", 3, [33.0, 44.0, 55.0])
    export.poll()
    assert read("b/seed_0") == steps(0.0, 1.0, 22.0, 33.0, 44.0, 55.0)


def test_rewind_between_two_polls_that_also_brings_unseen_old_records(
    ledger: Ledger, export: TensorBoardExport, read: Callable[..., Points]
) -> None:
    first = opened(ledger, "b-0")
    push(ledger, first, "b-0", 0, [0.0])
    export.poll()
    push(ledger, first, "b-0", 1, [1.0, 2.0, 3.0])
    checkpoint(ledger, first, "b-0", 3)
    second = opened(ledger, "b-0")
    push(ledger, second, "b-0", 3, [33.0])
    export.poll()
    assert read("b/seed_0") == steps(0.0, 1.0, 2.0, 33.0)


def test_rewind_to_records_that_are_further_apart(
    ledger: Ledger, export: TensorBoardExport, read: Callable[..., Points]
) -> None:
    first = opened(ledger, "b-0")
    push(ledger, first, "b-0", 0, [0.0])
    checkpoint(ledger, first, "b-0", 1)
    push(ledger, first, "b-0", 1, [1.0, 2.0])
    export.poll()
    push(ledger, opened(ledger, "b-0"), "b-0", 1, [11.0], every=100)  # resumed with another write interval
    export.poll()
    assert read("b/seed_0") == [(40, 0.0), (800, 11.0)]


# Restarts


def test_next_exporter_goes_on_where_this_one_stopped(
    ledger: Ledger, export: TensorBoardExport, read: Callable[..., Points], tmp_path: Path
) -> None:
    attempt = opened(ledger, *(trial.id for trial in TRIALS[:4]))
    for trial in TRIALS[:4]:
        push(ledger, attempt, trial.id, 0, [1.0, 2.0])
    export.close()
    written = sorted((tmp_path / "tensorboard").rglob("events*"))
    again = TensorBoardExport(tmp_path)
    again.poll()
    assert sorted((tmp_path / "tensorboard").rglob("events*")) == written  # nothing is new
    for trial in TRIALS[:4]:
        push(ledger, attempt, trial.id, 2, [3.0])
    again.close()
    assert read("a/seed_0") == read("a/mean") == read("a/iqm") == steps(1.0, 2.0, 3.0)
    new = set((tmp_path / "tensorboard").rglob("events*")) - set(written)
    for path in new:  # not what was there already
        scalars = event_accumulator.EventAccumulator(str(path)).Reload().Scalars(TAG)
        assert [event.step for event in scalars] == [120]
    assert len(new) == 6


def test_crash_before_the_cursor_is_written_repeats_nothing(
    ledger: Ledger, read: Callable[..., Points], tmp_path: Path
) -> None:
    attempt = opened(ledger, "a-0", "a-1", "a-2", "a-3")
    cursor = tmp_path / "tensorboard/cursor.json"
    export = TensorBoardExport(tmp_path)
    for trial in TRIALS[:4]:
        push(ledger, attempt, trial.id, 0, [1.0])
    export.poll()
    before = cursor.read_text()
    for trial in TRIALS[:4]:
        push(ledger, attempt, trial.id, 1, [2.0, 3.0])
    export.close()
    for lost in (before, "", None):  # one poll's work; a power cut; someone's broom
        if lost is None:
            cursor.unlink()
        else:
            cursor.write_text(lost)
        TensorBoardExport(tmp_path).close()
        assert read("a/seed_2") == read("a/mean") == read("a/iqm") == steps(1.0, 2.0, 3.0)
        assert json.loads(cursor.read_text()) == {"revision": 12, "averaged": {"a": 3}}


def test_rewind_while_no_exporter_ran(ledger: Ledger, read: Callable[..., Points], tmp_path: Path) -> None:
    first = opened(ledger, "a-0", "a-1", "a-2", "a-3")
    for trial in TRIALS[:4]:
        push(ledger, first, trial.id, 0, [1.0, 2.0, 3.0])
        checkpoint(ledger, first, trial.id, 1)
    TensorBoardExport(tmp_path).close()
    push(ledger, opened(ledger, "a-0"), "a-0", 1, [12.0])
    TensorBoardExport(tmp_path).close()
    assert read("a/seed_0") == steps(1.0, 12.0)
    assert read("a/mean") == steps(1.0, (12 + 3 * 2) / 4)


def test_everything_can_be_derived_again(ledger: Ledger, read: Callable[..., Points], tmp_path: Path) -> None:
    push(ledger, opened(ledger, "b-0"), "b-0", 0, [1.0, 2.0])
    TensorBoardExport(tmp_path).close()
    shutil.rmtree(tmp_path / "tensorboard")
    TensorBoardExport(tmp_path).close()
    assert read("b/seed_0") == steps(1.0, 2.0)


# Averages


def test_averages_wait_for_the_last_seed(
    ledger: Ledger, export: TensorBoardExport, read: Callable[..., Points], tmp_path: Path
) -> None:
    attempt = opened(ledger, "a-0", "a-1", "a-2", "a-3", "b-0")
    push(ledger, attempt, "a-0", 0, [0.0, 1.0, 2.0])
    push(ledger, attempt, "a-1", 0, [1.0, 2.0, 3.0])
    push(ledger, attempt, "a-2", 0, [2.0, 4.0])
    export.poll()
    assert not (tmp_path / "tensorboard/a/mean").exists()
    push(ledger, attempt, "a-3", 0, [101.0, 9.0, 9.0])
    push(ledger, attempt, "b-0", 0, [1.0])
    export.poll()
    # Of four, the middle two: (1 + 2) / 2 and (2 + 4) / 2.
    assert read("a/mean") == steps(26.0, 4.0)
    assert read("a/iqm") == steps(1.5, 3.0)
    push(ledger, attempt, "a-2", 2, [6.0])
    export.poll()
    assert read("a/mean") == steps(26.0, 4.0, 5.0)
    assert not (tmp_path / "tensorboard/b/mean").exists()  # one seed is no average


def test_nan_is_left_out_of_averages(ledger: Ledger, export: TensorBoardExport, read: Callable[..., Points]) -> None:
    attempt = opened(ledger, "a-0", "a-1", "a-2", "a-3")
    columns = [
        *([1.0, math.nan, math.inf], [2.0, math.nan, -math.inf]),
        *([math.nan, math.nan, 1.0], [6.0, math.nan, 2.0]),
    ]
    for trial, values in zip(TRIALS[:4], columns, strict=True):
        push(ledger, attempt, trial.id, 0, values)
    export.poll()
    (_, mean), (_, none), (_, infinite) = read("a/mean")
    assert mean == 3.0 and math.isnan(none) and math.isnan(infinite)
    assert read("a/iqm")[0][1] == 3.0 and read("a/iqm")[2][1] == 1.5


@pytest.mark.parametrize("looks_in_between", [False, True])
def test_failed_seeds_count_as_far_as_they_got(
    ledger: Ledger, export: TensorBoardExport, read: Callable[..., Points], looks_in_between: bool
) -> None:
    attempt = opened(ledger, "a-0", "a-1", "a-2", "a-3")
    for trial in ("a-0", "a-1"):
        push(ledger, attempt, trial, 0, [1.0, 2.0, 3.0])
    push(ledger, attempt, "a-2", 0, [4.0, 8.0])
    push(ledger, attempt, "a-3", 0, [6.0])
    if looks_in_between:
        export.poll()
        assert read("a/mean") == steps(3.0)
    checkpoint(ledger, attempt, "a-3", 1, state="diverged")
    give_up(ledger, attempt, ["a-2"], "killed")
    export.poll()
    assert read("a/mean") == steps(3.0, 4.0, 3.0)


def test_averages_of_trials_that_all_failed(
    ledger: Ledger, export: TensorBoardExport, read: Callable[..., Points]
) -> None:
    attempt = opened(ledger, "a-0", "a-1", "a-2", "a-3")
    push(ledger, attempt, "a-0", 0, [1.0, 5.0])
    push(ledger, attempt, "a-1", 0, [3.0])
    give_up(ledger, attempt, ["a-0", "a-1", "a-2", "a-3"], "killed")
    export.poll()
    assert read("a/mean") == steps(2.0, 5.0)


def test_averages_follow_a_rewind_and_a_failed_trial_that_runs_again(
    ledger: Ledger, export: TensorBoardExport, read: Callable[..., Points]
) -> None:
    first = opened(ledger, "a-0", "a-1", "a-2", "a-3")
    for trial in TRIALS[:4]:
        push(ledger, first, trial.id, 0, [1.0, 2.0, 3.0])
    checkpoint(ledger, first, "a-3", 1)
    export.poll()
    second = opened(ledger, "a-3")
    push(ledger, second, "a-3", 1, [10.0])
    export.poll()
    assert read("a/mean") == steps(1.0, 4.0)
    give_up(ledger, second, ["a-3"], "killed")
    export.poll()
    assert read("a/mean") == steps(1.0, 4.0, 3.0)
    third = opened(ledger, "a-3")
    export.poll()
    push(ledger, third, "a-3", 1, [6.0, 7.0])
    export.poll()
    assert read("a/mean") == steps(1.0, 3.0, 4.0)


def test_seed_added_later_joins_the_averages(
    ledger: Ledger, export: TensorBoardExport, read: Callable[..., Points]
) -> None:
    attempt = opened(ledger, "a-0", "a-1", "a-2", "a-3")
    for trial in TRIALS[:4]:
        push(ledger, attempt, trial.id, 0, [1.0, 2.0])
    export.poll()
    ledger.add_trials([TrialRow("a-4", "a", 4, 4, 1000)])
    export.poll()
    push(ledger, opened(ledger, "a-4"), "a-4", 0, [6.0, 7.0, 8.0])
    export.poll()
    assert read("a/mean") == steps(2.0, 3.0)


# Errors


def test_errors_are_logged_once_and_made_up_for(
    ledger: Ledger,
    export: TensorBoardExport,
    read: Callable[..., Points],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempt = opened(ledger, "b-0")
    push(ledger, attempt, "b-0", 0, [1.0])
    export.poll()
    (tmp_path / "tensorboard/a").write_text("in the way")
    push(ledger, attempt, "b-0", 1, [2.0])
    push(ledger, opened(ledger, "a-0"), "a-0", 0, [1.0])
    for _ in range(3):
        export.poll()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    (message,) = (record.message for record in errors)
    assert message.startswith(f"{tmp_path}/tensorboard is not up to date: [Errno 20] Not a directory")
    (tmp_path / "tensorboard/a").unlink()
    push(ledger, attempt, "b-0", 2, [3.0])
    export.poll()
    assert read("b/seed_0") == steps(1.0, 2.0, 3.0) and read("a/seed_0") == steps(1.0)
    assert json.loads((tmp_path / "tensorboard/cursor.json").read_text())["revision"] == 4


def test_points_that_a_full_disk_swallowed_are_written_later(
    ledger: Ledger,
    export: TensorBoardExport,
    read: Callable[..., Points],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(board: TensorBoard) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    attempt = opened(ledger, "b-0")
    push(ledger, attempt, "b-0", 0, [1.0])
    export.poll()
    with monkeypatch.context() as disk:
        disk.setattr(TensorBoard, "write", lambda *event: None)
        disk.setattr(TensorBoard, "flush", full)
        push(ledger, attempt, "b-0", 1, [2.0])
        export.poll()
    push(ledger, attempt, "b-0", 2, [3.0])
    export.poll()
    assert read("b/seed_0") == steps(1.0, 2.0, 3.0)


def test_pause_after_an_error(
    ledger: Ledger, export: TensorBoardExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "RETRY_SECONDS", math.inf)
    (tmp_path / "tensorboard").write_text("in the way")
    export.poll()
    (tmp_path / "tensorboard").unlink()
    export.poll()
    assert not (tmp_path / "tensorboard").exists()
    export.close()  # the last chance is taken at once
    assert (tmp_path / "tensorboard").is_dir()


def test_folder_of_a_trial_that_ended_is_closed(ledger: Ledger, export: TensorBoardExport) -> None:
    attempt = opened(ledger, "a-0", "b-0")
    push(ledger, attempt, "a-0", 0, [1.0])
    push(ledger, attempt, "b-0", 0, [1.0])
    checkpoint(ledger, attempt, "b-0", 1, state="finished")
    export.poll()
    assert list(export._tail._runs) == ["a/seed_0"]


def test_a_file_that_cannot_be_begun_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[IO[bytes]] = []

    def full(*_: object) -> IO[bytes]:
        opened.append(open("/dev/full", "wb"))  # noqa: SIM115 - whoever asked for it has to close it
        return opened[-1]

    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left"):
            TensorBoard(tmp_path / "board")
    assert [file.closed for file in opened] == [True]
