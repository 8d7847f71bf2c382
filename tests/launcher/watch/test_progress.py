"""What a person sees, from a small ledger: the plan, the live table, the lines of a pipe, and the result."""

from __future__ import annotations

import io
import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Batch, Progress, Published, TrialRow
from launcher.plan.experiment import Placement, form_packs
from launcher.watch import progress
from launcher.watch.layout import layout
from launcher.watch.progress import EvaluationView, View, progress_line, show_plan, time_left
from launcher.watch.standing import at_present
from launcher.watch.status import _busy_seconds, show_result, summary
from runner.training.tracking import SCORE, STEPS_PER_SECOND, Record
from tests.launcher.builders import give_up, read_experiment

CARTPOLE = Path(__file__).parents[3] / "configs" / "classic" / "cartpole.yaml"
SWEPT = "cartpole_learning_rate=0.001"
TRIALS = [TrialRow(f"{SWEPT}_s{seed}_0123abcd", SWEPT, seed, 8, 1000) for seed in range(4)]
OTHER = TrialRow("other_s0_0123abcd", "other", 0, 16, 1000)


class Screen:
    """A console of some width; `text` is what it shows."""

    def __init__(self, width: int) -> None:
        self._file = io.StringIO()
        self.console = Console(width=width, file=self._file, force_terminal=False)

    @property
    def text(self) -> str:
        return self._file.getvalue()

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.text.splitlines()]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as ledger:
        ledger.add_trials([*TRIALS, OTHER])
        yield ledger


def train(ledger: Ledger, trial: TrialRow, scores: Sequence[float], state: str | None = None) -> int:
    """Records of 100 timesteps and half a second each, then a state; the attempt."""
    attempt = ledger.open([trial.id], f"token {trial.id}").number
    ledger.describe_attempt(attempt, f"logs/attempt-{attempt}.log", "here", 0)
    batch = [
        Record(i, 100 * (i + 1), 100 * (i + 1) * trial.num_envs, 0.5 * (i + 1), {SCORE: s, STEPS_PER_SECOND: 1600.0})
        for i, s in enumerate(scores)
    ]
    ledger.push(attempt, {trial.id: Batch(0, batch)}, "training" if batch else None)
    if state:
        ledger.publish(attempt, {trial.id: Published(100 * len(scores), b"", "agent", len(scores), state)})
    return attempt


def table(rows: list[Progress], width: int) -> list[list[str]]:
    screen = Screen(width)
    screen.console.print(layout(rows, width))
    return [line.split() for line in screen.lines]


# The plan


def plan_of(*settings: str, seeds: str, workers: int, gpus: int = 0, width: int = 200, begin: int = 0) -> list[str]:
    trials = read_experiment([CARTPOLE], settings, {}, seeds).trials
    packs = form_packs([(trial, 0) for trial in trials], workers)
    screen = Screen(width)
    placement = Placement(workers, gpus, 0 if gpus else 1, bool(gpus))
    show_plan(screen.console, Path("/runs/x"), packs, placement, {trial.id: begin for trial in trials if begin})
    return screen.lines


def test_plan() -> None:
    lines = plan_of("agent.learning_rate=1e-3,3e-4", "trainer.timesteps=3200", seeds="3", workers=2)
    assert lines[0] == "6 trials in 2 packs on 2 CPU workers, one core each; 614,400 env steps in all"
    assert lines[1].split() == ["pack", "trials", "what", "they", "share", "env", "steps"]
    assert "cartpole_learning_rate=0.001 (seeds 0-2)   32 x CartPole-v1, jax, 100 updates of 32 steps" in lines[2]
    assert lines[2].endswith(" 307,200")
    assert lines[-1] == "Directory: /runs/x"


def test_plan_counts_what_is_left_to_train() -> None:
    lines = plan_of("trainer.timesteps=3200", seeds="3", workers=1, begin=3000)
    assert lines[0].endswith("; 19,200 env steps in all") and lines[2].endswith(" 19,200")


def test_plan_of_one_and_of_odd_seeds() -> None:
    lines = plan_of("trainer.timesteps=32", seeds="7-7", workers=4)
    assert lines[0] == "1 trial in 1 pack on 1 CPU worker; 1,024 env steps in all"
    assert "cartpole (seed 7)" in lines[2] and "1 update of 32 steps" in lines[2]
    assert "(seeds 1, 3-5, 9)" in plan_of(seeds="9,3,5,4,1", workers=1)[2]


def test_plan_of_many_configurations_stays_short() -> None:
    rates = ",".join(f"{n}e-4" for n in range(1, 21))
    lines = plan_of(f"agent.learning_rate={rates}", seeds="1", workers=1)
    assert len(lines) == 2 + progress.LONGEST_PACK_CELL + 2
    assert any("… 13 more" in line for line in lines)


def test_plan_says_that_gpus_are_only_counted() -> None:
    lines = plan_of(seeds="2", workers=2, gpus=2)
    assert "on 2 logical GPUs, one worker each" in lines[0]
    assert lines[1].startswith("LOGICAL GPUs: they are only counted")
    assert (
        "on 2 logical GPUs, 2 workers each"
        in plan_of("agent.learning_rate=1e-3,2e-3,3e-3", seeds="2", workers=4, gpus=2)[0]
    )


# While it runs


def test_table(ledger: Ledger) -> None:
    train(ledger, TRIALS[0], [math.nan, 12.5])
    train(ledger, TRIALS[1], [1.0] * 10, "finished")
    train(ledger, TRIALS[2], [])
    rows = table(ledger.progress(SCORE), 200)
    assert rows == [
        ["config", "seed", "state", "env", "steps", "done", "steps/s", "return", "time", "left"],
        [SWEPT, "0", "running", "1,600", "20%", "1,600", "12.50", "0:04"],
        [SWEPT, "1", "finished", "8,000", "100%", "-", "1.00", "-"],
        [SWEPT, "2", "starting", "0", "0%", "-", "-", "-"],
        [SWEPT, "3", "pending", "0", "0%", "-", "-", "-"],
        ["other", "0", "pending", "0", "0%", "-", "-", "-"],
        ["5", "trials", "1", "finished", "9,600", "20%", "1,600", "-", "0:24"],
    ]


def test_a_trial_that_does_not_train_yet_shows_what_it_waits_for(ledger: Ledger) -> None:
    attempt = train(ledger, TRIALS[0], [1.0])
    shown = {}
    for note in ("starting", "compiling", "training"):
        ledger.push(attempt, {}, note)
        rows = ledger.progress(SCORE)
        shown[note] = table(rows, 200)[1][2]
        assert f"1 {shown[note]}, 4 pending" in progress_line(rows, 1.0)
    assert shown == {"starting": "starting", "compiling": "compiling", "training": "running"}
    ledger.close(attempt, "crash", "out of memory")
    assert table(ledger.progress(SCORE), 200)[1][2] == "retrying"
    assert "1 retrying, 4 pending" in progress_line(ledger.progress(SCORE), 1.0)
    ledger.fail([TRIALS[0].id], "out of memory")
    assert table(ledger.progress(SCORE), 200)[1][2] == "failed"


def test_a_trial_of_a_launch_before_waits_for_a_worker(ledger: Ledger) -> None:
    attempt = train(ledger, TRIALS[0], [1.0])
    ledger.close(attempt, "interrupted", None, "interrupted")
    rows = ledger.progress(SCORE)
    shown = {
        (running, stopping): table(at_present(rows, running, stopping), 200)[1][2]
        for running, stopping in ((True, False), (True, True), (False, False), (None, False))
    }
    assert list(shown.values()) == ["waiting", "interrupted", "interrupted", "interrupted"]
    assert [row.trial.state for row in at_present(rows, True, False)] == ["pending"] * 5


def test_line(ledger: Ledger) -> None:
    train(ledger, TRIALS[0], [math.nan])
    rows = ledger.progress(SCORE)
    assert progress_line(rows, 61.2) == (
        "[   61 s] 1 running, 4 pending: 800 of 48,000 env steps (1%), 1,600 steps/s, mean return -, time left 0:30"
    )
    assert "mean return -" in progress_line([], 0.0)


def test_view_of_a_pipe_prints_a_line_now_and_then(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(80)
    with View(screen.console, tmp_path) as view:
        for _ in range(3):
            view.refresh()
        assert len(screen.lines) == 1 and screen.lines[0].endswith("time left -")
        monkeypatch.setattr(view, "_due", 0.0)
        view.refresh()
        assert len(screen.lines) == 2


def test_view_outlives_a_ledger_that_cannot_be_read(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def progress(self, tag: str) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        def disconnect(self) -> None:
            pass

    screen = Screen(80)
    view = View(screen.console, tmp_path)
    view._ledger.disconnect()
    view._ledger = Broken()
    with view:
        view.refresh()
        assert screen.lines == []
        monkeypatch.setattr(view, "_due", 0.0)
        view.refresh(75.0)
    assert screen.lines == [f"DISK FULL for 1:15: training waits for room in {tmp_path}"]


@pytest.mark.parametrize("terminal", [False, True])
def test_view_tells_of_a_full_disk_as_long_as_it_is_full(ledger: Ledger, tmp_path: Path, terminal: bool) -> None:
    file = io.StringIO()
    with View(Console(width=300, file=file, force_terminal=terminal), tmp_path) as view:
        for refusing in (0.0, 75.0, 0.0):
            before = len(file.getvalue())
            view._due = 0.0
            view.refresh(refusing)
            if terminal:
                before = len(file.getvalue())  # its thread may have shown what was before
                view._live.refresh()
            shown = file.getvalue()[before:]
            assert (f"DISK FULL for 1:15: training waits for room in {tmp_path}" in shown) == (refusing > 0)
            assert "5 trials" in shown if terminal else "5 pending" in shown


def test_sentences_are_printed_as_they_are(ledger: Ledger, tmp_path: Path) -> None:
    screen = Screen(80)
    with View(screen.console, tmp_path) as view:
        view.say("a-1 ended early: [bold]boo " + "x" * 100)
    assert screen.lines == ["a-1 ended early: [bold]boo " + "x" * 100]


def test_terminal_shows_a_live_table(ledger: Ledger, tmp_path: Path) -> None:
    file = io.StringIO()
    with View(Console(width=120, file=file, force_terminal=True), tmp_path) as view:
        view.refresh()
        view._live.refresh()
    assert "pending" in file.getvalue()


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3601, "1:00:01")])
def test_duration(seconds: float, shown: str) -> None:
    assert progress.duration(seconds) == shown


# The result


@pytest.mark.parametrize("width", [80, 200])
def test_result(ledger: Ledger, tmp_path: Path, width: int) -> None:
    for trial, score in zip(TRIALS[:2], (10.0, 20.0), strict=True):
        train(ledger, trial, [math.nan, score], "finished")
    train(ledger, TRIALS[2], [5.0], "diverged")
    attempt = train(ledger, TRIALS[3], [6.0])
    give_up(ledger, attempt, [TRIALS[3].id], "out of memory (log: logs/attempt-4.log)")
    train(ledger, OTHER, [math.nan, math.nan], "finished")
    screen = Screen(width)
    show_result(screen.console, tmp_path, 12.34, 0)
    lines = screen.lines
    assert f"{TRIALS[2].id} diverged: a loss or parameter stopped being a finite number" in screen.text
    assert f"  {tmp_path}/logs/attempt-{attempt - 1}.log is not on this machine" in screen.text
    assert f"{TRIALS[3].id} failed: out of memory (log: logs/attempt-4.log)" in lines
    assert (
        f"{SWEPT}: 2 seeds, final return mean 15.00, IQM 15.00, fewer than 3 seeds: no interval; "
        "not in these numbers: 2 of 4 seeds failed or diverged"
    ) in lines
    assert "other: no final return: 1 of 1 seed never ended an episode" in lines
    assert lines[-4].startswith("7,200 env steps in 12.3 s, start-up included, ")
    tensorboard = f"TensorBoard: tensorboard --logdir {tmp_path}/tensorboard"
    assert lines[-3:-1] == [f"Directory:   {tmp_path}", tensorboard]
    assert lines[-1].startswith(f"Next:        launch report {tmp_path}")
    assert "nan" not in screen.text


def test_result_of_nothing(ledger: Ledger, tmp_path: Path) -> None:
    screen = Screen(100)
    show_result(screen.console, tmp_path, 1.0, 0)
    assert "0 env steps in 1.0 s, start-up included" in screen.lines
    assert "other: no final return: 1 of 1 seed did not finish" in screen.lines


def test_what_a_search_has_paused_is_not_said_to_have_failed(ledger: Ledger) -> None:
    train(ledger, OTHER, [1.0], "paused")
    (row,) = (row for row in ledger.progress(SCORE) if row.trial.id == OTHER.id)
    assert summary("other", [row]) == "[bold]other[/]: no final return: 1 of 1 seed paused by the search"


def test_interval_of_three_seeds_and_more(ledger: Ledger) -> None:
    for trial, score in zip(TRIALS, (1.0, 2.0, 3.0, 10.0), strict=True):
        train(ledger, trial, [score], "finished")
    text = summary(SWEPT, ledger.progress(SCORE)[:4])
    assert text.startswith(f"[bold]{SWEPT}[/]: 4 seeds, final return mean 4.00, IQM 2.50, 95% bootstrap interval")
    assert "not in these numbers" not in text


def test_speed_counts_time_in_which_something_trained(ledger: Ledger) -> None:
    now = time.time()
    for trial in TRIALS[:2]:
        train(ledger, trial, [1.0] * 10, "finished")  # both say: 5 s of training, until now
    last = [ledger.records(trial.id, 9)[0] for trial in TRIALS[:2]]
    assert _busy_seconds(last, now - 100) == pytest.approx(5, abs=0.5)
    assert _busy_seconds(last, now - 2) == pytest.approx(2, abs=0.5)  # the rest was before this launch
    assert _busy_seconds([], now) == 0


def test_time_left_of_an_evaluation() -> None:
    assert [time_left(done, 12 - done, 10.0) for done in (0, 3, 12)] == ["", "0:30 left", "0:00 left"]


def test_an_evaluation_in_a_pipe_says_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 10.0, 12.0, 21.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    screen = Screen(80)
    with EvaluationView(screen.console, 12, 2) as view:
        for scored in (3, 4, 5, 12):
            view.show(scored)
    assert screen.text.splitlines() == [
        "[   10 s] 4 of 12 checkpoints evaluated, 0:40 left",
        "[   21 s] 12 of 12 checkpoints evaluated, 0:00 left",
    ]


def test_an_evaluation_on_a_terminal_has_a_bar() -> None:
    file = io.StringIO()
    console = Console(width=80, file=file, force_terminal=True, color_system=None)
    with EvaluationView(console, 12, 2) as view:
        view.show(7)
        view._bar.refresh()
    assert " 7/12 checkpoints in 0:00:00 · 0:00 left" in file.getvalue()
