"""`launch resume`: what is left to do, what may be added, and what is refused, without Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Published
from launcher.plan import directory
from launcher.plan import resume as continuing
from runner.errors import UserError
from tests.launcher.builders import read_experiment
from tests.launcher.faulty import write_config

STEPS = 640


@pytest.fixture
def launched(tmp_path: Path) -> Path:
    """Five seeds: finished, failed, diverged, interrupted half-way, not begun."""
    return make(tmp_path)


def make(tmp_path: Path, *settings: str) -> Path:
    constant = [] if any("scheduler" in setting for setting in settings) else ["agent.learning_rate_scheduler=null"]
    trials = read_experiment([write_config(tmp_path, STEPS)], [*settings, *constant], {}, "0-4").trials
    path = tmp_path / "run"
    directory.create(path, trials)
    directory.add_revision(
        path, {"git_commit": "a" * 40, "versions": {"torch": "2.12.0"}, "hardware": {"host": "here"}}
    )
    with Ledger(path) as ledger:
        names = [trial.id for trial in trials]
        attempt = ledger.open(names[:4], "token").number
        ledger.publish(attempt, {names[0]: Published(STEPS, b"x", "agent", 0, "finished")})
        ledger.publish(attempt, {names[2]: Published(320, b"x", "agent", 0, "diverged")})
        ledger.publish(attempt, {names[3]: Published(320, b"x", "agent", 0, "interrupted")})
        ledger.close(attempt, "stopped", state="interrupted")
        ledger.fail([names[1]], "boo")
    return path


def seeds(more: continuing.Continuation) -> list[tuple[int | None, int]]:
    return [(trial.config.seed, begin) for trial, begin in more.todo]


def test_what_is_missing_goes_on_and_what_failed_is_left(launched: Path) -> None:
    more = continuing.read(launched, None, [], retry_failed=False)
    assert seeds(more) == [(3, 320), (4, 0)]
    assert more.notes == ["Left as they are: 1 diverged, 1 failed (--retry-failed tries them again)"]
    assert not more.all_finished


def test_what_failed_is_tried_again_when_asked_for(launched: Path) -> None:
    more = continuing.read(launched, None, [], retry_failed=True)
    assert seeds(more) == [(1, 0), (3, 320), (4, 0)]
    assert more.notes == ["Left as they are: 1 diverged"]


def test_seeds_are_added_to_every_configuration(tmp_path: Path) -> None:
    path = make(tmp_path, "agent.learning_rate=1e-3,1e-4")
    more = continuing.read(path, "7", [], retry_failed=False)
    assert [(trial.name.rsplit("_", 1)[1], trial.config.seed) for trial in more.added] == [
        ("rate=0.001", 5),
        ("rate=0.001", 6),
        ("rate=0.0001", 5),
        ("rate=0.0001", 6),
    ]
    assert {trial.config.agent.learning_rate for trial in more.added} == {1e-3, 1e-4}
    continuing.write(path, more)
    again = read_experiment(
        [tmp_path / "cartpole.yaml"], ["agent.learning_rate=1e-3,1e-4", "agent.learning_rate_scheduler=null"], {}, "7"
    )  # as if all had been asked for at once
    with Ledger(path, writer=False) as ledger:
        assert {row.id for row in ledger.trials()} == {trial.id for trial in again.trials}
    assert {row["id"] for row in json.loads((path / "plan.json").read_text())["trials"]} == {t.id for t in again.trials}
    assert not continuing.read(path, "7", [], retry_failed=False).added


def test_seeds_count_from_the_first_one(launched: Path) -> None:
    assert [trial.config.seed for trial in continuing.read(launched, "0-3,9", [], False).added] == [9]
    assert [trial.config.seed for trial in continuing.read(launched, "6", [], False).added] == [5]
    assert not continuing.read(launched, "2", [], False).added


def test_a_greater_length_lets_finished_trials_train_on(launched: Path) -> None:
    more = continuing.read(launched, "6", ["trainer.timesteps=1280"], retry_failed=False)
    assert seeds(more) == [(0, 640), (3, 320), (4, 0), (5, 0)]
    assert {trial.config.trainer.timesteps for trial, _ in more.todo} == {1280}
    continuing.write(launched, more)
    with Ledger(launched, writer=False) as ledger:
        rows = {row.seed: (row.state, row.timesteps) for row in ledger.trials()}
    assert rows == {
        0: ("pending", 1280),
        1: ("failed", 1280),
        2: ("diverged", 640),
        3: ("interrupted", 1280),
        4: ("pending", 1280),
        5: ("pending", 1280),
    }
    later = continuing.read(launched, None, [], retry_failed=False)
    assert seeds(later) == seeds(more)
    assert [trial.id for trial, _ in later.todo] == [trial.id for trial, _ in more.todo]


def test_intervals_that_are_parts_of_the_length_stay_as_they_were(tmp_path: Path) -> None:
    path = make(tmp_path, "agent.experiment.write_interval=auto", "agent.experiment.checkpoint_interval=auto")
    before = continuing.read(path, None, [], False).todo[0][0].config
    after = continuing.read(path, None, ["trainer.timesteps=6400"], False).todo[0][0].config
    for name in ("write_interval", "checkpoint_interval"):
        assert after.interval(name) == before.interval(name)


def test_a_crash_between_files_and_ledger_is_made_good_by_the_same_command(
    launched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("power cut")

    more = continuing.read(launched, "6", ["trainer.timesteps=1280"], retry_failed=False)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add_trials", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            continuing.write(launched, more)
    again = continuing.read(launched, "6", ["trainer.timesteps=1280"], retry_failed=False)
    assert again.todo == more.todo
    continuing.write(launched, again)
    plan = json.loads((launched / "plan.json").read_text())
    assert len(plan["trials"]) == 6


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_training_whose_rates_depend_on_its_length_is_not_extended(tmp_path: Path, name: str) -> None:
    path = make(tmp_path, f"agent.learning_rate_scheduler={name}")
    with pytest.raises(UserError, match=r"_s0_\w+ has trained 640 timesteps with rates of learning_rate_scheduler"):
        continuing.read(path, None, ["trainer.timesteps=1280"], False)
    assert seeds(continuing.read(path, None, ["trainer.timesteps=640"], False)) == [(3, 320), (4, 0)]


def test_one_that_has_not_begun_may_get_any_length(tmp_path: Path) -> None:
    trials = read_experiment([write_config(tmp_path, STEPS)], ["agent.learning_rate_scheduler=linear"], {}, None).trials
    directory.create(tmp_path / "run", trials)
    more = continuing.read(tmp_path / "run", None, ["trainer.timesteps=1280"], False)
    assert more.todo[0][0].config.trainer.timesteps == 1280


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("agent.learning_rate=1e-3", "a launch keeps the settings that it was begun with"),
        ("trainer.timesteps=1280,2560", "give one number"),
        ("trainer.timesteps=320", "640 or more"),
        ("trainer.timesteps=many", "^command line: trainer.timesteps: found 'many'"),
        ("trainer.timesteps=[640]", "^command line: trainer.timesteps: found"),
        ("trainer.timesteps=", "found no number; allowed: timesteps"),
        ("trainer.timesteps", "write key=value"),
    ],
)
def test_other_settings_are_refused(launched: Path, setting: str, words: str) -> None:
    before = (launched / "plan.json").read_text()
    with pytest.raises(UserError, match=words):
        continuing.read(launched, None, [setting], False)
    assert (launched / "plan.json").read_text() == before


@pytest.mark.parametrize(
    ("seeds", "settings", "failed", "words"),
    [
        ("8", [], False, r"--seeds 8: .*/run is a search, .*: launch .*/run/report/winner.yaml --seeds 8$"),
        (None, ["trainer.timesteps=9000"], False, r"--set trainer.timesteps=9000: .*/run is a search"),
        (None, [], True, r"--retry-failed: .*/run is a search, in which what failed counts as the worst"),
    ],
)
def test_a_search_keeps_what_it_has_compared(
    launched: Path, seeds: str | None, settings: list[str], failed: bool, words: str
) -> None:
    with Ledger(launched) as ledger:
        ledger.add_events([("search", "", {})])
    with pytest.raises(UserError, match=words):
        continuing.read(launched, seeds, settings, failed)
    more = continuing.read(launched, None, [], False)
    assert more.search and more.notes == ["Left as they are: 1 diverged, 1 failed"]


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    trials = read_experiment([write_config(tmp_path, STEPS)], [], {}, None).trials
    directory.create(tmp_path / "run", trials)
    with Ledger(tmp_path / "run") as ledger:
        attempt = ledger.open([trials[0].id], "token").number
        ledger.publish(attempt, {trials[0].id: Published(STEPS, b"x", "agent", 0, "finished")})
    more = continuing.read(tmp_path / "run", None, [], False)
    assert (more.todo, more.all_finished) == ([], True)
    assert more.notes == [f"{tmp_path / 'run'}: 1 of 1 trials are finished; nothing to do"]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (["search"], "the search goes on; it decides what is next when it does"),
        (["search", "over"], "the search is over; nothing to do"),
    ],
)
def test_a_search_without_trials_to_train_says_whether_it_is_over(
    tmp_path: Path, events: list[str], words: str
) -> None:
    trials = read_experiment([write_config(tmp_path, STEPS)], [], {}, None).trials
    path = directory.create(tmp_path / "run", trials)
    with Ledger(path) as ledger:
        attempt = ledger.open([trials[0].id], "token").number
        ledger.publish(attempt, {trials[0].id: Published(STEPS, b"x", "agent", 0, "finished")})
        ledger.add_events([(kind, "", {}) for kind in events])
    assert continuing.read(path, None, [], False).notes == [f"{path}: {words}"]


def test_what_has_changed_since_is_said(launched: Path) -> None:
    now = {"git_commit": "b" * 40, "versions": {"torch": "2.13.0"}, "hardware": {"host": "here"}}
    (line,) = directory.add_revision(launched, now)
    assert line.startswith(f"Changed since the last time: code {'a' * 12} → {'b' * 12}, torch 2.12.0 → 2.13.0;")
    assert directory.add_revision(launched, now) == []
    assert directory.add_revision(launched, now | {"git_commit": None}) == []  # nobody knows whether it is another
    assert directory.add_revision(launched, now) == []
    (line,) = directory.add_revision(launched, now | {"git_commit": "b" * 40 + "+"})
    assert f"code {'b' * 12} → {'b' * 12}+;" in line
