"""From folders of event files to wandb: each trial's whole folder in its run; and no error reaches training."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launcher.cli.main import main
from launcher.export import wandb as export_wandb
from launcher.export.tensorboard import TensorBoardExport
from launcher.export.wandb import WandbExport
from launcher.ledger.ledger import Ledger
from launcher.plan.experiment import Placement, Trial
from launcher.plan.resources import Resources
from launcher.run import dispatch, session
from runner.config import Config
from runner.training import wandb as weights_and_biases
from tests.launcher.boards import TAG, TRIALS, Points, checkpoint, opened, push, read_scalars, steps
from tests.launcher.builders import give_up
from tests.launcher.refusals import CARTPOLE, Refused
from tests.runner.builders import make_config
from tests.wandb_files import alone, read_runs


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with alone(monkeypatch, tmp_path_factory.mktemp("user") / "home"):
        yield


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as ledger:
        ledger.add_trials(TRIALS)
        yield ledger


class Export:
    """Of a launch whose trials of `a` ask for wandb, the one of `b` does not: event files, and runs that show them."""

    def __init__(self, directory: Path) -> None:
        experiment = {"wandb": True, "wandb_kwargs": {"project": "sunflowers"}}
        configs = {
            row.id: make_config({"agent.experiment": experiment, "seed": row.seed})
            for row in TRIALS
            if row.config == "a"
        }
        self.wandb = WandbExport(directory, configs)
        self.boards = TensorBoardExport(directory, self.wandb)
        self.poll = self.boards.poll

    def settle(self) -> None:
        """Wait until wandb has been told all."""
        done = threading.Event()
        self.wandb._tasks.put((lambda *_: done.set(), TRIALS[0], Path()))
        assert done.wait(60)

    def close(self) -> None:
        self.boards.close()
        self.wandb.close()


class Service:
    """What runs of trials showed as they ended, by id without the launch's ending; some of it may be made to fail."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.points: dict[str, Points] = {}
        self.ended: dict[str, list[int]] = defaultdict(list)
        self.endings: set[str] = set()
        self.fails: set[str] = set()
        self.error: Exception = RuntimeError("no network")
        self.hangs = threading.Event()
        self.hangs.set()

    def start(self, _: Config, folder: Path, __: Path, names: Mapping[str, Any], whole: bool) -> ServiceRun:
        self.hangs.wait()
        trial, _, ending = names["id"].rpartition("-")
        self.endings.add(ending)
        self.started.append(trial)
        run = ServiceRun(self, trial, folder)
        run.check()
        assert whole
        return run


class ServiceRun:
    offline, disabled, project_url = False, False, "https://"

    def __init__(self, service: Service, trial: str, folder: Path) -> None:
        self._service, self._trial, self._folder = service, trial, folder

    def check(self) -> None:
        if self._trial in self._service.fails:
            raise self._service.error

    def finish(self, exit_code: int) -> None:
        self.check()
        self._service.points[self._trial] = read_scalars(self._folder, TAG)
        self._service.ended[self._trial].append(exit_code)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """Stands in for wandb."""
    service = Service()
    monkeypatch.setattr(weights_and_biases, "start", service.start)
    return service


def test_runs_of_a_launch_and_its_continuation(ledger: Ledger, tmp_path: Path) -> None:
    attempt = opened(ledger, "a-0", "a-1", "b-0")
    push(ledger, attempt, "a-0", 0, [1.0, math.inf, 3.0])
    push(ledger, attempt, "a-1", 0, [7.0])
    push(ledger, attempt, "b-0", 0, [9.0])
    checkpoint(ledger, attempt, "a-1", 1, state="finished")
    Export(tmp_path).close()
    push(ledger, attempt, "a-0", 3, [4.0, math.nan])
    second = Export(tmp_path)
    second.close()
    assert second.wandb.where == f"wandb sync {tmp_path}/wandb/offline-run-*"
    before, after, other = sorted(read_runs(tmp_path), key=lambda run: (run.name, len(run.rows)))
    assert [run.name for run in (before, after, other)] == ["a_seed_0", "a_seed_0", "a_seed_1"]
    assert before.id == after.id and before.id.startswith("a-0-") and other.id.startswith("a-1-")
    assert {(run.group, run.project) for run in (before, after, other)} == {("a", "sunflowers")}
    assert before.curve(TAG) == steps(1.0, math.inf, 3.0) and other.curve(TAG) == steps(7.0)
    assert str(after.curve(TAG)) == str(steps(1.0, math.inf, 3.0, 4.0, math.nan)), "not the whole run"
    assert before.steps == [0, 1, 2] and after.steps == [0, 1, 2, 3, 4]
    assert (before.exit_code, other.exit_code) == (1, 0), "of trials that are not finished, and that are"
    assert other.config["seed"] == 1 and other.axes["*"] == "global_step"
    assert [row["_timestamp"] for row in before.rows] == [row.wall_time for row in ledger.records("a-0", 0, 3)]


def test_runs_start_and_end_with_their_trials(ledger: Ledger, tmp_path: Path, service: Service) -> None:
    attempt = opened(ledger, "a-0", "a-1", "a-2", "b-0")
    export = Export(tmp_path)
    for first in range(0, 9, 3):
        push(ledger, attempt, "a-0", first, [first + 0.0, first + 1.0, first + 2.0])
        export.poll()
    push(ledger, attempt, "a-1", 0, [1.0])
    push(ledger, attempt, "a-2", 0, [1.0])
    push(ledger, attempt, "b-0", 0, [1.0])
    checkpoint(ledger, attempt, "a-0", 9, state="finished")
    give_up(ledger, attempt, ["a-1"], "killed")
    export.poll()
    export.settle()
    assert service.ended == {"a-0": [0], "a-1": [1]} and service.points["a-0"] == steps(*map(float, range(9)))
    export.close()
    assert service.ended == {"a-0": [0], "a-1": [1], "a-2": [1]} and sorted(service.started) == ["a-0", "a-1", "a-2"]


def test_resumed_launches_write_the_same_runs(ledger: Ledger, tmp_path: Path, service: Service) -> None:
    first = opened(ledger, "a-0")
    push(ledger, first, "a-0", 0, [0.0, 1.0])
    killed = Export(tmp_path)
    killed.boards.close()
    killed.settle()
    push(ledger, first, "a-0", 2, [2.0])
    Export(tmp_path).close()
    assert service.points["a-0"] == steps(0.0, 1.0, 2.0)
    assert service.started == ["a-0", "a-0"] and len(service.endings) == 1


def test_errors_are_logged_once_made_up_for_and_keep_back_no_other_trial(
    ledger: Ledger, tmp_path: Path, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    attempt = opened(ledger, "a-0", "a-1", "a-2")
    service.fails = {"a-0", "a-1"}
    for trial in ("a-0", "a-1", "a-2"):
        push(ledger, attempt, trial, 0, [1.0])
    export = Export(tmp_path)
    export.poll()
    export.settle()
    checkpoint(ledger, attempt, "a-1", 1, state="finished")
    export.poll()
    export.settle()
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors[0] == f"{tmp_path}: wandb is not up to date" and len(errors) == 2, "once, and again after a success"
    service.fails = set()
    export.close()
    assert service.points == dict.fromkeys(("a-0", "a-1", "a-2"), steps(1.0))
    assert service.ended == {"a-0": [1], "a-1": [0], "a-2": [1]}


def test_wandbs_process_dies(ledger: Ledger, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs are gone with it, and what they kept has not arrived; they are written again, whole."""
    ends: list[None] = []

    def end() -> None:
        service.fails = set()
        ends.append(None)

    monkeypatch.setattr(weights_and_biases, "end", end)
    attempt = opened(ledger, "a-0", "a-1", "a-2")
    for trial in ("a-0", "a-1", "a-2"):
        push(ledger, attempt, trial, 0, [0.0])
    export = Export(tmp_path)
    export.poll()
    export.settle()
    service.error, service.fails = ConnectionResetError("Connection lost"), {"a-0"}
    push(ledger, attempt, "a-1", 1, [1.0])
    checkpoint(ledger, attempt, "a-0", 1, state="finished")
    export.poll()
    export.close()
    assert service.points == {"a-0": steps(0.0), "a-1": steps(0.0, 1.0), "a-2": steps(0.0)}
    assert service.ended == {"a-0": [0], "a-1": [1], "a-2": [1]} and len(ends) == 2
    assert [service.started.count(trial) for trial in ("a-0", "a-1", "a-2")] == [2, 2, 2]


def test_a_network_that_hangs_holds_up_the_end_for_a_while_only(
    ledger: Ledger, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(export_wandb, "CLOSE_SECONDS", 0.1)
    service.hangs.clear()
    push(ledger, opened(ledger, "a-0"), "a-0", 0, [0.0])
    export = Export(tmp_path)
    export.close()
    assert caplog.messages == [f"{tmp_path}/wandb: gave up waiting for wandb"]
    service.hangs.set()
    export.wandb._thread.join(10)
    assert service.ended == {"a-0": [1]}


@pytest.mark.parametrize("wanted", [True, False])
def test_a_launch_tells_where_its_runs_are(
    wanted: bool, ledger: Ledger, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any) -> dispatch.Result:
        push(ledger, opened(ledger, "a-0"), "a-0", 0, [5.0])
        return dispatch.Result()

    monkeypatch.setattr(dispatch, "run", run)
    console = Console(width=200, record=True)
    trial = Trial("a-0", "a", make_config({"agent.experiment": {"wandb": wanted}}))
    launch = session.Session(console, tmp_path, [(trial, 0)], Resources(), search=False)
    launch._train([[trial]], Placement(1, 0, 1))
    assert service.points == ({"a-0": steps(5.0)} if wanted else {})
    assert ("wandb:       https://" in console.export_text()) == wanted


@pytest.mark.usefixtures("no_ray")
def test_a_launch_without_wandb_or_with_wrong_arguments_is_refused(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [CARTPOLE, "--set", "agent.experiment.wandb=True"]
    id_given = "agent.experiment.wandb_kwargs={id: x}"
    assert "cartpole: agent.experiment.wandb_kwargs.id: leave it out" in refused(*wanted, "--set", id_given)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install wandb" in refused(*wanted, "--seeds", "2")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_ray")
def test_a_dry_run_needs_no_login(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [CARTPOLE, "--set", "agent.experiment.wandb=True"]
    monkeypatch.delenv("WANDB_MODE")
    assert "WANDB_MODE=offline" in refused(*wanted)
    capsys.readouterr()
    assert main([*map(str, wanted), "--dry-run"]) == 0
    assert "cartpole: agent.experiment.wandb: True, but wandb has no API key" in capsys.readouterr().out
