"""`launch status` and `launch logs`, on directories with a ledger and without Ray."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import main
from launcher.ledger import storage
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Batch, TrialRow
from launcher.plan import directory as folder
from launcher.plan.experiment import Placement
from launcher.plan.revision import revision as revision_of
from launcher.watch import standing, status
from launcher.watch.standing import Standing
from launcher.watch.tail import tail
from runner.errors import UserError
from runner.training.tracking import SCORE, STEPS_PER_SECOND, Record
from tests.launcher.boards import checkpoint, opened
from tests.launcher.builders import give_up, read_experiment
from tests.launcher.refusals import CARTPOLE, Refused

RATES = "agent.learning_rate=0.001,0.002"
PASSED, LOST, BUSY, LATE, ODD, WAITING = range(6)
"""Seeds of the first configuration in `launched`: what became of each."""


def note(ledger: Ledger, attempt: int, trial: str, scores: list[float]) -> None:
    """A record of 32 timesteps (1,024 env steps) for each score."""
    batch = [
        Record(i, 32 * (i + 1), 1024 * (i + 1), 0.5, {SCORE: score, STEPS_PER_SECOND: 2048.0})
        for i, score in enumerate(scores)
    ]
    assert ledger.push(attempt, {trial: Batch(0, batch)}, "training") == {trial: len(scores)}


def make(path: Path) -> list[str]:
    """A launch of two configurations and six seeds in every state, with its logs; the names of the first one's."""
    trials = read_experiment([CARTPOLE], ["trainer.timesteps=128", RATES], {}, "6").trials
    folder.create(path, trials)
    folder.add_revision(path, revision_of("launch a.yaml --seeds [6]", Placement(2, 0, 1), [trials]))
    names = [trial.id for trial in trials[:6]]
    with Ledger(path) as ledger:
        fill(ledger, names)
    (path / "logs").mkdir()
    (path / "logs" / "attempt-1.log").write_text("first\n")
    (path / "logs" / "attempt-3.log").write_text("".join(f"line {i}\n" for i in range(300)) + "[bold]boo\n")
    (path / "logs" / "attempt-4.log").touch()
    return names


def fill(ledger: Ledger, names: list[str]) -> None:
    for _ in range(2):  # attempts 1 and 2
        attempt = opened(ledger, names[PASSED])
        ledger.describe_attempt(attempt, f"logs/attempt-{attempt}.log", socket.gethostname(), 0)
        note(ledger, attempt, names[PASSED], [1.0, 10.0, 20.0, 30.5][: 2 * attempt])
        checkpoint(ledger, attempt, names[PASSED], 2 * attempt, "running" if attempt == 1 else "finished")
        ledger.close(attempt, "finished")
    for attempt, seed in ((3, LOST), (4, BUSY), (5, LATE), (6, ODD)):
        assert opened(ledger, names[seed]) == attempt
        if attempt != 5:
            host = "elsewhere" if attempt == 6 else socket.gethostname()
            ledger.describe_attempt(attempt, f"logs/attempt-{attempt}.log", host, 0)
    note(ledger, 4, names[BUSY], [math.nan, math.nan])
    checkpoint(ledger, 4, names[BUSY], 1, "running")
    give_up(ledger, 3, [names[LOST]], "out of memory (log: logs/attempt-3.log)")
    ledger.close(5, "interrupted", None, "interrupted")
    checkpoint(ledger, 6, names[ODD], 0, "diverged")
    ledger.close(6, "finished")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    path = tmp_path_factory.mktemp("runs") / "one"
    return path, make(path)


@pytest.fixture
def at_work(launched: tuple[Path, list[str]]) -> Iterator[Ledger]:
    """The launch goes on."""
    with folder.working(launched[0]), Ledger(launched[0]) as ledger:
        yield ledger


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def cells(text: str) -> dict[str, list[str]]:
    """Of the table, the cells after the configuration of every trial of the first one, by seed."""
    lines = (line.split() for line in text.splitlines())
    return {line[1]: line[2:] for line in lines if line[:1] == ["cartpole_learning_rate=0.001"] and len(line) > 6}


# Status for people


def test_status_after_its_end(launched: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    path, names = launched
    text = shown(capsys, "status", path)
    lines = text.splitlines()
    assert lines[0].startswith("Not running; last started 20") and lines[0].endswith(": launch a.yaml --seeds [6]")
    assert lines[1].startswith(f"With:        2 workers, {socket.gethostname()}, ") and ", jax " in lines[1]
    assert lines[2].startswith("1 finished, 1 failed, 2 interrupted, 1 diverged, 7 pending: 5,120 of 49,152 env steps")
    assert cells(text) == {
        str(PASSED): ["finished", "2", "4,096", "100%", "-", "30.50", "-"],
        str(LOST): ["failed", "1", "0", "0%", "-", "-", "-"],
        str(BUSY): ["interrupted", "1", "1,024", "25%", "-", "-", "-"],
        str(LATE): ["interrupted", "1", "0", "0%", "-", "-", "-"],
        str(ODD): ["diverged", "1", "0", "0%", "-", "-", "-"],
        str(WAITING): ["pending", "0", "0", "0%", "-", "-", "-"],
    }
    at = lines.index(f"{names[LOST]} failed: out of memory (log: logs/attempt-3.log)")
    log = [f"  | {line}" for line in ("line 296", "line 297", "line 298", "line 299", "[bold]boo")]
    assert lines[at + 1 : at + 7] == [f"  log: {path}/logs/attempt-3.log:", *log]
    assert f"{names[ODD]} diverged: a loss or parameter stopped being a finite number" in lines[at + 7]
    assert "attempt-6.log is not on this machine: attempt 6 ran on another one of the cluster (elsewhere)" in text
    assert "cartpole_learning_rate=0.001: 1 seed, final return mean 30.50" in text
    assert lines[-2:] == [f"Directory:   {path}", f"Continue:    launch resume {path}"]


@pytest.mark.usefixtures("at_work")
def test_status_while_it_runs(launched: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "status", launched[0])
    assert text.startswith("Running since 20")
    assert cells(text)[str(BUSY)] == ["running", "1", "2,048", "50%", "2,048", "-", "0:01"]
    assert (cells(text)[str(LATE)][0], cells(text)[str(WAITING)][0]) == ("waiting", "pending")
    assert "Continue" not in text and storage.at_work(launched[0]) is True


def test_status_sees_what_is_being_written_and_does_not_disturb(at_work: Ledger, launched: Any) -> None:
    path, names = launched
    change = "UPDATE trials SET error = ? WHERE trial = ?"
    with at_work._transaction():
        at_work._db.execute(change, ("not yet", names[WAITING]))
        assert standing.read(path).find(names[WAITING]).trial.error is None
    assert standing.read(path).find(names[WAITING]).trial.error == "not yet"
    at_work._db.execute(change, (None, names[WAITING]))
    with pytest.raises(UserError, match="in use by another launch"):
        Ledger(path)


def test_lock_that_cannot_be_asked(
    launched: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(storage.fcntl, "flock", refuse)
    text = shown(capsys, "status", launched[0])
    assert text.startswith("Whether it runs cannot be told; started 20")
    assert cells(text)[str(BUSY)][0] == "running" and "Continue:    launch resume" in text


def test_status_of_a_launch_that_has_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.create(tmp_path / "new", read_experiment([CARTPOLE], [], {}, "2").trials)
    lines = shown(capsys, "status", tmp_path / "new").splitlines()
    assert lines[0] == "Ended before it trained" and lines[1].startswith("2 pending: 0 of ")
    told = json.loads(shown(capsys, "status", tmp_path / "new", "--json"))
    assert (told["command"], told["started"], told["revisions"]) == (None, None, 0)
    folder.add_revision(tmp_path / "new", revision_of("launch", Placement(1, 0, 1), []))
    assert shown(capsys, "status", tmp_path / "new").startswith("Ended before it trained; started 20")
    with folder.working(tmp_path / "new"):
        assert shown(capsys, "status", tmp_path / "new").startswith("Starting since 20")


def test_revisions_that_name_little(tmp_path: Path) -> None:
    two: dict[str, Any] = {"command": "launch resume x"}
    told = Standing(tmp_path, None, [{"command": "launch a.yaml", "time": 1e9}, two], [], {}, {}, {})
    assert status._about(told) == ["Whether it runs cannot be told; started (resumed 1 time): launch resume x"]
    two |= {"placement": {"workers": 4, "gpus": 2, "logical": False}, "git_commit": "0123456789abcdef+"}
    assert status._about(told)[1:] == ["With:        4 workers on 2 GPUs, code 0123456789ab+"]


def test_failed_trials_alone_need_to_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = read_experiment([CARTPOLE], [], {}, "2").trials
    folder.create(tmp_path / "new", trials)
    with Ledger(tmp_path / "new") as ledger:
        names = [trial.id for trial in trials]
        give_up(ledger, opened(ledger, *names), names, "boo")
    assert shown(capsys, "status", tmp_path / "new").endswith(f"launch resume {tmp_path / 'new'} --retry-failed\n")


# Status for programs


def test_json(launched: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    path, names = launched
    text = shown(capsys, "status", path, "--json")
    told = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    trials = told.pop("trials")
    assert told.pop("started") > 1e9
    assert told == {
        "directory": str(path),
        "running": False,
        "command": "launch a.yaml --seeds [6]",
        "revisions": 1,
        "counts": {
            "pending": 7,
            "running": 0,
            "paused": 0,
            "finished": 1,
            "diverged": 1,
            "failed": 1,
            "interrupted": 2,
        },
        "env_steps": 5120,
        "env_steps_total": 49152,
    }
    assert len(trials) == 12
    assert trials[PASSED] == {
        "trial": names[PASSED],
        "config": "cartpole_learning_rate=0.001",
        "seed": 0,
        "state": "finished",
        "note": None,
        "env_steps": 4096,
        "env_steps_total": 4096,
        "records": 4,
        "score": 30.5,
        "attempts": [1, 2],
        "checkpoint_timestep": 40,
        "log": "logs/attempt-2.log",
        "error": None,
    }
    assert trials[LOST]["error"] == "out of memory (log: logs/attempt-3.log)"
    assert (trials[BUSY]["records"], trials[BUSY]["score"], trials[BUSY]["checkpoint_timestep"]) == (1, None, 10)
    assert (trials[WAITING]["attempts"], trials[WAITING]["log"]) == ([], None)


def test_json_while_it_runs(at_work: Ledger, launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(shown(capsys, "status", launched[0], "--json"))
    assert told["running"] is True and told["counts"]["running"] == 1
    assert (told["trials"][BUSY]["state"], told["trials"][BUSY]["note"]) == ("running", "training")


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["logs"]])
def test_nothing_heavy_is_imported(launched: tuple[Path, list[str]], arguments: list[str]) -> None:
    code = (
        "import sys; from launcher.cli.main import main; status = main(sys.argv[1:]);"
        "found = {'torch', 'jax', 'ray', 'envpool', 'pandas'} & set(sys.modules);"
        "sys.exit(str(found) if found else status)"
    )
    subprocess.run([sys.executable, "-c", code, arguments[0], str(launched[0]), *arguments[1:]], check=True)


# Many trials


def test_many_trials_make_a_short_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.add_trials(TrialRow(f"t{i}", f"c{i:03}", 0, 8, 1000) for i in range(300))
        for i in range(10):
            give_up(ledger, opened(ledger, f"t{i}"), [f"t{i}"], f"boo {i}")
        together = [f"t{i}" for i in range(20, 30)]
        give_up(ledger, opened(ledger, *together), together, "together")
    lines = shown(capsys, "status", tmp_path).splitlines()
    assert len(lines) < 100
    assert "… 261 more; --json has all" in [line.strip() for line in lines]
    assert "t0 failed: boo 0" in lines and "… and 15 trials more failed or diverged; --json has all" in lines
    assert "  attempt 1 has no log: it ended before it had a worker" in lines
    assert "… and 280 more configurations" in lines
    assert len(json.loads(shown(capsys, "status", tmp_path, "--json"))["trials"]) == 300


def test_trials_that_failed_together_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(tmp_path) as ledger:
        names = [f"t{i}" for i in range(3)]
        ledger.add_trials(TrialRow(name, "a", seed, 8, 1000) for seed, name in enumerate(names))
        give_up(ledger, opened(ledger, *names), names, "boo")
    assert "t0 and 2 more failed: boo" in shown(capsys, "status", tmp_path).splitlines()


# What cannot be read


def test_damaged_ledger(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("boo" * 1000)
    assert refused("status", tmp_path).endswith("ledger.sqlite: cannot be read: file is not a database")


# Logs


def test_list_of_logs(launched: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    path, names = launched
    lines = [line.split(maxsplit=2) for line in shown(capsys, "logs", path).splitlines()]
    assert len(lines) == 12
    assert lines[:6] == [
        [names[PASSED], "finished", "attempt 2     logs/attempt-2.log (missing)"],
        [names[LOST], "failed", f"attempt 3     {path}/logs/attempt-3.log"],
        [names[BUSY], "interrupted", f"attempt 4     {path}/logs/attempt-4.log"],
        [names[LATE], "interrupted", "attempt 5     no log"],
        [names[ODD], "diverged", "attempt 6     logs/attempt-6.log (not on this machine)"],
        [names[WAITING], "pending", "not begun"],
    ]
    moved = (path / "logs" / "attempt-4.log").rename(path / "logs" / "moved")
    assert "attempt 4     logs/attempt-4.log (not written yet)" in shown(capsys, "logs", path)
    moved.rename(path / "logs" / "attempt-4.log")


def test_log_of_a_trial(launched: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    path, names = launched
    beginning = names[LOST][:-4]
    for arguments, count in (([names[LOST]], 100), ([beginning, "--tail", "3"], 3), (["--attempt", "3"], 100)):
        assert main(["logs", str(path), *arguments]) == 0
        out, err = capsys.readouterr()
        assert out.splitlines() == [*(f"line {i}" for i in range(301 - count, 300)), "[bold]boo"]
        host = socket.gethostname()
        assert err == f"{path}/logs/attempt-3.log: attempt 3 on {host}, crash; last {count} lines\n"


def test_log_of_an_earlier_attempt(launched: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    path, names = launched
    assert shown(capsys, "logs", path, names[PASSED], "--attempt", "1") == "first\n"
    assert main(["logs", str(path), names[BUSY]]) == 0
    out, err = capsys.readouterr()
    assert not out and err.endswith("attempt 4 on " + socket.gethostname() + ", not closed; empty\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["cartpole_learnin_rate=0.001_s0"],
            "it has no trial 'cartpole_learnin_rate=0.001_s0'. Did you mean 'cartpole",
        ),
        (["zzz"], "it has no trial 'zzz'. `launch logs DIR` lists all."),
        (["cartpole"], "'cartpole' begins the names of 12 trials: cartpole_learning_rate=0.001_s0_"),
        (
            [PASSED],
            "attempt-2.log is missing: attempt 2 ran on this machine; it was moved or deleted, or",
        ),
        ([ODD], "attempt 6 ran on another one of the cluster (elsewhere), which keeps it under the same path"),
        ([LATE], "attempt 5 has no log: it ended before it had a worker"),
        ([WAITING], ": no attempt at it has begun, so it has no log yet"),
        ([PASSED, "--attempt", "3"], "--attempt 3: allowed: 1, 2, which had cartpole_learning_rate=0.001_s0_"),
        (["--attempt", "99"], "--attempt 99: allowed: 1 to 6"),
        ([LOST, "--tail", "0"], "--tail 0: allowed: 1 or more"),
    ],
)
def test_logs_that_there_are_not(
    launched: tuple[Path, list[str]], refused: Refused, arguments: list[Any], expected: str
) -> None:
    path, names = launched
    words = [names[word] if isinstance(word, int) else word for word in arguments]
    assert expected in refused("logs", path, *words)


@pytest.mark.parametrize("size", [0, 10, 100_000])
@pytest.mark.parametrize("end", ["", "\n"])
def test_tail_is_the_end_of_the_file(tmp_path: Path, size: int, end: str) -> None:
    lines = [f"{i} ünïcode" for i in range(size)]
    path = tmp_path / "log"
    path.write_text("\n".join(lines) + end * bool(lines))
    for count in (1, 7, 5000, 200_000):
        assert tail(path, count) == lines[-count:]


def test_tail_of_bytes_and_of_one_endless_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a\xff\nb\r50%\r100%\n")
    assert tail(path, 2) == ["a\ufffd", "b\r50%\r100%"]
    monkeypatch.setattr("launcher.watch.tail.LONGEST_TAIL", 1000)
    path.write_bytes(b"x" * 100_000)
    assert tail(path, 5) == ["x" * 1000]
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        tail(tmp_path, 1)
