"""Proposals, results and the confirmation of a search, from its ledger alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from launcher import report
from launcher.cli.main import main
from launcher.ledger.ledger import Ledger, reading
from launcher.ledger.rows import Batch, Published
from launcher.plan import directory
from launcher.report import data
from launcher.report.panels.search import importance, panel, write_winner
from launcher.report.parts import Table, Words
from launcher.search import begin, results, tpe
from launcher.search.methods import advance, scheduler_of
from launcher.search.results import Results
from launcher.search.scheduler import Desk
from runner.config import load_config
from runner.errors import UserError
from runner.training.tracking import SCORE, Record
from tests.launcher.refusals import CARTPOLE

SETS = ["agent.learning_rate=log:1e-5..1e-2", "agent.ratio_clip=0.1,0.2", "trainer.timesteps=64"]


def begun(folder: Path, method: str, trials: int, confirm: int = 3) -> Path:
    flags: dict[Any, Any] = {("method",): method, ("trials",): trials, ("confirm",): confirm}
    experiment, search = begin.read([CARTPOLE], SETS, {}, "2", None, flags)
    assert search is not None
    return directory.create(folder / "launch", experiment.trials, True, search.events)


def finish(launch: Path, values: Sequence[float | None]) -> None:
    """End the trials that are pending, with these values setting by setting; None diverges."""
    with Ledger(launch) as ledger:
        pending = [row for row in ledger.trials() if row.state == "pending"]
        number = ledger.open([row.id for row in pending], str(len(ledger.attempts()))).number
        for place, row in enumerate(pending):
            value = values[place // 2 % len(values)]
            record = Record(0, 64, 2048, 1.0, {SCORE: 0.0 if value is None else value})
            ledger.push(number, {row.id: Batch(0, [record])})
            state = Published(64, b"x", "agent", 1, "diverged" if value is None else "finished")
            ledger.publish(number, {row.id: state})
        ledger.close(number, "finished")


def read(launch: Path) -> Results:
    with reading(launch) as ledger:
        found = results.read(ledger)
    assert found is not None
    return found


def test_random_search_is_confirmed_on_fresh_seeds_once(tmp_path: Path) -> None:
    launch = begun(tmp_path, "random", 3)
    advance(launch)
    assert len(read(launch).settings) == 3
    finish(launch, [1.0, 5.0, None])
    found = read(launch)
    assert found.winner is not None and found.winner.setting.number == 1
    assert [one.lost for one in found.settings] == [0, 0, 2]
    for _ in range(2):
        advance(launch)
        found = read(launch)
        assert [one.setting.role for one in found.settings] == ["search"] * 3 + ["winner", "own"]
        assert [[trial.seed for trial in one.trials] for one in found.settings[3:]] == [[2, 3, 4]] * 2
    finish(launch, [2.0])
    advance(launch)
    with reading(launch) as ledger:
        assert ledger.events()[-1].kind == "over"
        texts = ledger.configurations()
    winner, own = found.settings[3:]
    assert texts[winner.trials[0].id] == texts[found.settings[1].trials[0].id]
    assert texts[own.trials[0].id] == found.record.own


def words(launch: Path) -> list[str]:
    shown = panel(data.read(data.find([launch], launch)))
    assert shown is not None
    return [part.data for part in shown.parts if isinstance(part, Words)]


def test_report_says_what_is_confirmed_and_what_is_not(tmp_path: Path) -> None:
    launch = begun(tmp_path, "random", 4)
    finish(launch, [1.0, 5.0, None, 2.0])
    assert "Not confirmed: its score, 5.00, is that of the seeds that it was chosen by" in words(launch)[-1]
    advance(launch)
    finish(launch, [4.0, 4.0, 4.0, 2.0])
    assert "probability of improvement" in words(launch)[-1] and "its winner" not in words(launch)[-1]
    assert "the winner 4.00 (3 seeds, 95% interval 4.00 to 4.00, 0 lost), the file's own" in words(launch)[-1]
    write_winner(launch, tmp_path / "winner.yaml")
    winner = read(launch).winner
    assert winner is not None
    assert load_config(tmp_path / "winner.yaml")[0].agent.learning_rate == winner.setting.values["agent.learning_rate"]
    shown = panel(data.read(data.find([launch], launch)))
    assert shown is not None
    tried, important = (part for part in shown.parts if isinstance(part, Table))
    assert [row[1].text for row in tried.rows] == ["1", "3", "0", "2"]  # the lost one is the last
    assert all(0 <= (row[2].value or 0) <= 1 for row in important.rows)


@pytest.mark.parametrize(
    ("value", "why"), [(math.nan, "since no episode has ended"), (None, "to its end without being lost")]
)
def test_why_there_is_no_winner(tmp_path: Path, value: float | None, why: str) -> None:
    launch = begun(tmp_path, "random", 2, 0)
    finish(launch, [value])
    assert why in words(launch)[-1]


def test_a_report_names_the_winners_that_it_writes(tmp_path: Path) -> None:
    launches = [begun(tmp_path / name, "random", 2, 0) for name in ("a", "b")]
    for launch, values in zip(launches, ([1.0, 5.0], [5.0, 1.0]), strict=True):
        finish(launch, values)
    for given, names in ((launches[:1], ["winner"]), (launches, ["winner_a_launch", "winner_b_launch"])):
        page = report.write(given, tmp_path / "cmp.html")
        for name, launch in zip(names, given, strict=True):
            file, winner = tmp_path / "cmp" / f"{name}.yaml", read(launch).winner
            assert f"launch {file} --seeds 10" in page.read_text() and winner is not None
            assert load_config(file)[0].agent.learning_rate == winner.setting.values["agent.learning_rate"]


def test_importance_tells_what_orders_from_what_does_not(tmp_path: Path) -> None:
    launch = begun(tmp_path, "random", 8)
    rates = [one.setting.values["agent.learning_rate"] for one in read(launch).settings]
    finish(launch, rates)
    found = read(launch)
    rate, clip = (importance(one, found.of("search")) for one in found.record.dimensions)
    assert rate == pytest.approx(1.0)
    assert clip < 0.9


def test_nothing_is_confirmed_where_all_are_lost_or_nobody_wants_it(tmp_path: Path) -> None:
    for name, confirm, value in (("lost", 3, None), ("unwanted", 0, 1.0)):
        (tmp_path / name).mkdir()
        launch = begun(tmp_path / name, "random", 2, confirm)
        finish(launch, [value])
        advance(launch)
        assert len(read(launch).settings) == 2


def test_tpe_proposes_the_same_from_the_same_events_and_goes_on_to_the_end(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    launch = begun(tmp_path, "tpe", 12)
    finish(launch, [1.0, None, 3.0])
    with reading(launch) as ledger:
        events = ledger.events()
    record = read(launch).record
    assert tpe.propose(record, events, 10) == tpe.propose(record, events, 10) != tpe.propose(record, events, 11)
    advance(launch)
    found = read(launch)
    assert [len(found.settings), len(found.settings[11].trials)] == [12, 2]
    with reading(launch) as ledger:
        events = ledger.events()
    study = tpe.study_of(record, events)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 10 + ["RUNNING"] * 2
    assert study.best_value == 3.0
    assert study.trials[1].value == float("-inf")
    finish(launch, [9.0])
    advance(launch)
    winner = read(launch).winner
    assert winner is not None and winner.setting.number >= 10
    assert [one.setting.role for one in read(launch).settings[12:]] == ["winner", "own"]


def test_a_search_is_opened_in_optuna(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optuna = pytest.importorskip("optuna")
    launch = begun(tmp_path, "random", 4)
    finish(launch, [1.0, None, 3.0])
    assert main(["export", str(launch), "--to", "optuna"]) == 0
    path = capsys.readouterr().out.strip()
    study = optuna.load_study(study_name="cartpole", storage=f"sqlite:///{path}")
    assert [trial.value for trial in study.trials] == [1.0, -math.inf, 3.0, 1.0]
    assert study.best_trial.user_attrs["name"] == read(launch).winner.setting.name  # type: ignore[union-attr]
    assert study.trials[1].user_attrs["lost"] == 2
    assert main(["export", str(launch), "--to", "optuna"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["what?.db", "50%#1.db"])
def test_a_study_is_in_the_file_that_was_named(tmp_path: Path, name: str) -> None:
    pytest.importorskip("optuna")
    launch = begun(tmp_path, "random", 2)
    assert tpe.export(launch, tmp_path / "out" / name).read_bytes().startswith(b"SQLite format 3")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


@pytest.mark.parametrize("length", [255, 256])
def test_a_study_that_cannot_be_written_is_refused(tmp_path: Path, length: int) -> None:
    """A name has 255 characters at most, SQLite's journal beside it included."""
    pytest.importorskip("optuna")
    path = tmp_path / ("n" * length)
    with pytest.raises(UserError, match=f"^{path}: cannot be written: "):
        tpe.export(begun(tmp_path, "random", 2), path)


def test_proposals_whose_trials_were_not_added_yet_get_them(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    launch = begun(tmp_path, "tpe", 11)
    finish(launch, [1.0])
    with reading(launch) as ledger:
        events = ledger.events()
    with Ledger(launch) as ledger:  # a crash after the proposal
        ledger.add_events([tpe._setting(read(launch).record, events, 10).event])
    advance(launch)
    assert len(read(launch).settings) == 11
    assert [trial.state for trial in read(launch).settings[10].trials] == ["pending", "pending"]


def test_numbers_that_do_not_go_together_are_proposed_anew() -> None:
    sets = ["agent.rollouts=1,32", "agent.mini_batches=int:1..64", "env.num_envs=8"]
    flags: dict[Any, Any] = {("method",): "tpe", ("trials",): 1, ("seed",): 4}
    _, search = begin.read([CARTPOLE], sets, {}, "2", None, flags)
    assert search is not None
    found = [dict(tpe._possible(search.record, [], number)[0]) for number in range(1, 9)]
    assert all(one["agent", "mini_batches"] <= 8 * one["agent", "rollouts"] for one in found)
    assert {one["agent", "rollouts"] for one in found} == {1, 32}


def test_settings_of_which_no_episode_has_ended_go_on(tmp_path: Path) -> None:
    launch = begun(tmp_path, "asha", 3)
    scheduler = scheduler_of(launch, [])

    def written(call: str, *values: Any) -> Any:
        with Ledger(launch) as ledger:
            return getattr(ledger, call)(*values)

    desk = Desk(launch, written, 1, False)
    leg = scheduler.next(desk)
    assert leg is not None and leg.until == 32 and len(leg.pack) == 6
    number = written("open", [trial.id for trial in leg.pack], "0").number
    written("publish", number, {trial.id: Published(32, b"x", "agent", 0, "paused") for trial in leg.pack})
    written("close", number, "finished")
    leg = scheduler.next(desk)
    assert leg is not None and leg.until == 64 and len(leg.pack) == 2
