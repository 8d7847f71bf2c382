"""The launches of a folder: the latest one, `launch list`, `--version`, and the examples of each verb."""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from launcher.cli.main import main
from launcher.ledger import evaluations
from launcher.ledger.evaluations import Evaluation
from launcher.ledger.ledger import Ledger
from launcher.ledger.storage import lock
from launcher.plan import directory as folder
from launcher.plan import resume as continuing
from launcher.plan.experiment import Placement
from launcher.plan.revision import revision as revision_of
from launcher.watch import launches
from tests.launcher.boards import checkpoint, opened
from tests.launcher.builders import give_up, read_experiment, read_trials
from tests.launcher.refusals import CARTPOLE, Refused, small_launch

pytestmark = pytest.mark.usefixtures("no_ray")


def began(directory: Path, seconds: float) -> Path:
    """Let a launch have been resumed then."""
    folder.add_revision(directory, {"time": seconds})
    return directory


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Launches in `runs`, the one in the middle started last; and what is none."""
    made = [
        began(small_launch(tmp_path / "runs", name), seconds)
        for name, seconds in (("b_10", 2e9), ("b_9", 3e9), ("a", 1e9))
    ]
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "ledger.sqlite").touch()
    return made


def test_the_latest_is_the_one_that_was_started_or_resumed_last(three: list[Path], tmp_path: Path) -> None:
    assert [path.name for path in launches.find(tmp_path / "runs")] == ["b_9", "b_10", "a"]
    began(three[2], 4e9)
    assert launches.latest() == Path("runs/a")
    assert launches.find(tmp_path / "nowhere") == []


@pytest.mark.parametrize("words", ["status", "status --json", "logs", "resume --dry-run", "report"])
def test_without_a_directory_it_is_the_latest_and_said_so(
    three: list[Path], capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert main(words.split()) == 0
    shown, said = capsys.readouterr()
    assert said.splitlines()[0] == "runs/b_9, the latest launch"
    if words == "status --json":
        assert json.loads(shown)["directory"] == str(three[1])
    elif words == "logs":
        assert len(shown.splitlines()) == 2  # a line for each trial
    else:
        assert "runs/b_9" in shown


def test_another_folder_of_launches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = began(small_launch(tmp_path / "elsewhere"), 1e9)
    for verb in ("status", "logs", "resume"):
        dry = ["--dry-run"] if verb == "resume" else []
        assert main([verb, "--out", "elsewhere", *dry]) == 0
        assert capsys.readouterr().err.startswith("elsewhere/one, the latest launch\n")
        assert main([verb, str(elsewhere), "--out", "elsewhere", *dry]) == 2
        assert "--out elsewhere: give one" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["status", "logs", "resume", "report", "eval"])
def test_where_there_is_no_launch(refused: Refused, tmp_path: Path, verb: str) -> None:
    said = refused(verb)
    assert said == f"command line: there is no launch in {tmp_path / 'runs'}; give the directory of one"


@pytest.mark.parametrize("verb", ["status", "resume", "report", "eval"])
def test_a_name_is_told_the_directory(three: list[Path], refused: Refused, verb: str) -> None:
    assert "a: not a launch directory: there is no such folder. Did you mean runs/a?" in refused(verb, "a")


def test_eval_of_the_latest(three: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "runs/b_9, the latest launch" and "runs/b_9" in second


def test_one_word_after_logs_is_a_trial_of_the_latest(three: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "cartpole_s1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("runs/b_9, the latest launch\n") and "no attempt at it has begun" in said
    assert main(["logs", "cartpole_s7"]) == 2
    assert "it has no trial 'cartpole_s7'" in capsys.readouterr().err
    assert main(["logs", "runs/nothing"]) == 2
    assert "runs/nothing: not a launch directory" in capsys.readouterr().err


# launch list


def over(directory: Path, *states: str) -> None:
    """Let the trials of a launch be over."""
    with Ledger(directory) as ledger:
        for row, state in zip(ledger.trials(), states, strict=False):
            attempt = opened(ledger, row.id)
            if state == "failed":
                give_up(ledger, attempt, [row.id], "broken")
            else:
                checkpoint(ledger, attempt, row.id, 0, state)
                ledger.close(attempt, "finished")


def test_list(three: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    over(three[0], "finished", "finished")
    over(three[1], "finished", "failed")
    broken = small_launch(three[0].parent, "broken") / "ledger.sqlite"
    broken.write_text("not a ledger " * 100)
    os.utime(broken, (0, 0))
    assert main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["launch", "state", "started", "trials", "env", "steps", "done"]
    rest = [(line[0], line[1], line[4:-2]) for line in lines[1:]]
    assert rest == [
        ("runs/b_9", "failed", ["1", "of", "2"]),
        ("runs/b_10", "finished", ["2"]),
        ("runs/a", "interrupted", ["0", "of", "2"]),
        ("runs/broken", "damaged", ["-"]),
    ]
    assert main(["list", "--out", str(three[0].parent), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["directory"] for one in found] == [str(three[0].parent / n) for n in ("b_9", "b_10", "a", "broken")]
    assert [one["state"] for one in found] == ["failed", "finished", "interrupted", "damaged"]
    assert found[1]["trials"] == found[1]["finished"] == 2 and found[1]["started"] == 2e9
    assert "ledger.sqlite" in found[3]["error"] and found[0]["error"] is None


def test_a_narrow_list_leaves_out_columns_and_breaks_no_state(three: list[Path]) -> None:
    found = list(launches.describe(launches.FOLDER))
    for width, headings in (60, "launch state started trials done"), (40, "launch state trials done"):
        shown = Console(width=width, file=StringIO(), record=True)
        launches.show(shown, found)
        lines = shown.export_text().splitlines()
        assert lines[0].split() == headings.split()
        assert len(lines) == 1 + len(found) and all("interrupted" in line for line in lines[1:])


def test_list_while_a_launch_is_at_work(three: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with lock(three[2]):
        assert main(["list", "runs", "--json"]) == 0
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["interrupted", "interrupted", "running"]


@pytest.mark.parametrize(
    ("states", "events", "flag", "listed"),
    [
        (("finished", "failed"), (), " --retry-failed", ["failed", "1", "of", "2"]),
        (("finished", "failed"), ("search", "over"), None, ["failed", "1", "of", "2"]),
        (("finished", "paused"), ("search", "over"), None, ["finished", "1", "of", "2"]),
        (("finished", "paused"), ("search",), "", ["interrupted", "1", "of", "2"]),
        (("finished", "finished"), ("search",), "", ["interrupted", "2"]),
        (("finished", "finished"), ("search", "over"), None, ["finished", "2"]),
    ],
)
def test_a_search_is_told_to_go_on_where_it_can(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    states: tuple[str, ...],
    events: tuple[str, ...],
    flag: str | None,
    listed: list[str],
) -> None:
    path = began(small_launch(tmp_path / "runs"), 1e9)
    over(path, *states)
    with Ledger(path) as ledger:
        ledger.add_events([(kind, "", {}) for kind in events])
    assert main(["status", str(path)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Continue")]
    assert said == ([] if flag is None else [f"Continue:    launch resume {path}{flag}"])
    assert main(["list"]) == 0
    words = capsys.readouterr().out.splitlines()[1].split()
    assert [words[1], *words[4:-2]] == listed


def test_list_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert capsys.readouterr().out == f"There is no launch in {tmp_path / 'runs'}\n"
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


# One order


def asked_for(tmp_path: Path) -> tuple[Path, list[tuple[str, int]]]:
    """A launch of three rates and three seeds, none sorted; and its configurations and seeds in the one order."""
    trials = read_experiment([CARTPOLE], ["agent.learning_rate=3e-4,1e-4,1e-3"], {}, "10,2,0").trials
    path = tmp_path / "runs" / "one"
    folder.create(path, trials)
    folder.add_revision(path, revision_of("launch", Placement(2, 0, 1), [trials]))
    names = [f"cartpole_learning_rate={rate}" for rate in ("0.0003", "0.0001", "0.001")]
    return path, [(name, seed) for name in names for seed in (0, 2, 10)]


def test_all_listings_have_the_order_that_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, expected = asked_for(tmp_path)
    with Ledger(path) as ledger:
        first = {row.id: (row.config, row.seed) for row in ledger.trials()}
        assert list(first.values()) == [(row.trial.config, row.trial.seed) for row in ledger.progress()] == expected
        kept = [Evaluation("ab" * 31 + f"{i:02}", "{}", trial, 1, (1.0,), (1,), (0,)) for i, trial in enumerate(first)]
    assert [trial.id for trial in read_trials(path)] == list(first)
    evaluations.add(path, reversed(kept))
    assert [one.trial for one in evaluations.read(path)] == list(first)
    assert main(["status", "--json"]) == 0
    assert [(t["config"], t["seed"]) for t in json.loads(capsys.readouterr().out)["trials"]] == expected
    assert main(["logs"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(first)
    more = continuing.read(path, "0-2,10", [], False)
    continuing.write(path, more)
    with Ledger(path, writer=False) as ledger:
        assert [(row.config, row.seed) for row in ledger.trials()] == [
            (name, seed) for name in dict.fromkeys(name for name, _ in expected) for seed in (0, 1, 2, 10)
        ]
        assert [trial.id for trial in read_trials(path)] == [row.id for row in ledger.trials()]
