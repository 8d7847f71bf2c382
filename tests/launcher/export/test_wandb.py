"""From the ledger to wandb: each record once in its trial's run, whatever happens; and no error reaches training."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from launcher.export import wandb as export_wandb
from launcher.export.wandb import WandbExport
from launcher.ledger.ledger import Ledger
from launcher.plan.experiment import Placement, Trial
from launcher.run import dispatch, session
from runner.config import Config
from tests.launcher.boards import TAG, TRIALS, Points, checkpoint, opened, push, steps
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
    """Trials of `a` ask for wandb, the one of `b` does not."""
    with Ledger(tmp_path) as ledger:
        ledger.add_trials(TRIALS)
        for row in TRIALS:
            experiment = {"wandb": row.config == "a", "wandb_kwargs": {"project": "sunflowers"}}
            config = make_config({"agent.experiment": experiment, "seed": row.seed})
            folder = tmp_path / "trials" / row.trial
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(yaml.safe_dump(config.dump()))
        yield ledger


class Service:
    """What arrives of each trial, by id and without the launch's ending; some of it may be made to fail."""

    def __init__(self) -> None:
        self.points: dict[str, Points] = defaultdict(list)
        self.first: dict[str, list[int | None]] = defaultdict(list)
        self.ended: list[tuple[str, bool]] = []
        self.endings: set[str] = set()
        self.fails: set[str] = set()
        self.error: Exception = RuntimeError("no network")
        self.hangs = threading.Event()
        self.hangs.set()

    def start(self, _: Path, config: Config, names: Mapping[str, Any], points: int | None) -> ServiceRun:
        self.hangs.wait()
        trial, _, ending = names["id"].rpartition("-")
        self.endings.add(ending)
        self.first[trial].append(points)
        run = ServiceRun(self, trial)
        run.check()
        return run


class ServiceRun:
    def __init__(self, service: Service, trial: str) -> None:
        self._service, self._trial = service, trial
        self.where = "https://"

    def check(self) -> None:
        if self._trial in self._service.fails:
            raise self._service.error

    def write(self, env_steps: int, values: Mapping[str, float], wall_time: float) -> None:
        self.check()
        self._service.points[self._trial].append((env_steps, values[TAG]))

    def close(self, failed: bool) -> None:
        self._service.ended.append((self._trial, failed))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """Stands in for wandb."""
    service = Service()
    monkeypatch.setattr(export_wandb, "WandbRun", service.start)
    return service


def until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_runs_of_a_launch_and_its_continuation(ledger: Ledger, tmp_path: Path) -> None:
    attempt = opened(ledger, "a-0", "a-1", "b-0")
    push(ledger, attempt, "a-0", 0, [1.0, math.inf, 3.0])
    push(ledger, attempt, "a-1", 0, [7.0])
    push(ledger, attempt, "b-0", 0, [9.0])
    checkpoint(ledger, attempt, "a-1", 1, state="finished")
    first = WandbExport(tmp_path)
    first.close()
    push(ledger, attempt, "a-0", 3, [4.0, math.nan])
    second = WandbExport(tmp_path)
    second.close()
    assert second.where == f"wandb sync {tmp_path}/wandb/offline-run-*"
    before, after, other = read_runs(tmp_path)
    assert [run.name for run in (before, after, other)] == ["a_seed_0", "a_seed_0", "a_seed_1"]
    assert before.id == after.id and before.id.startswith("a-0-") and other.id.startswith("a-1-")
    assert {(run.group, run.project) for run in (before, after, other)} == {("a", "sunflowers")}
    assert before.curve(TAG) == steps(1.0, math.inf, 3.0) and other.curve(TAG) == steps(7.0)
    assert str(after.curve(TAG)) == str(steps(0, 0, 0, 4.0, math.nan)[3:])
    assert before.steps == [0, 1, 2] and after.steps == [3, 4]
    assert (before.exit_code, other.exit_code) == (1, 0), "of trials that are not finished, and that are"
    assert other.config["seed"] == 1 and other.axes["*"] == "env_steps"
    assert [row["_timestamp"] for row in before.rows] == [row.wall_time for row in ledger.records("a-0", 0, 3)]


def test_records_are_sent_while_training_and_runs_end_with_their_trials(
    ledger: Ledger, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_wandb, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(export_wandb, "CHUNK", 2)
    attempt = opened(ledger, "a-0", "a-1", "a-2")
    export = WandbExport(tmp_path)
    for first in range(0, 9, 3):
        push(ledger, attempt, "a-0", first, [first + 0.0, first + 1.0, first + 2.0])
        until(lambda end=first + 3: len(service.points["a-0"]) == end)
    push(ledger, attempt, "a-1", 0, [1.0])
    push(ledger, attempt, "a-2", 0, [1.0])
    checkpoint(ledger, attempt, "a-0", 9, state="finished")
    give_up(ledger, attempt, ["a-1"], "killed")
    until(lambda: len(service.ended) == 2)
    export.close()
    assert service.points["a-0"] == steps(*map(float, range(9)))
    assert service.ended == [("a-0", False), ("a-1", True), ("a-2", True)]
    assert service.first == {"a-0": [0], "a-1": [0], "a-2": [0]}


def test_a_rewound_trial_goes_on_where_it_had_been(ledger: Ledger, tmp_path: Path, service: Service) -> None:
    first = opened(ledger, "a-0")
    push(ledger, first, "a-0", 0, [0.0, 1.0])
    checkpoint(ledger, first, "a-0", 2)
    push(ledger, first, "a-0", 2, [2.0, 3.0])
    WandbExport(tmp_path).close()
    second = opened(ledger, "a-0")
    push(ledger, second, "a-0", 2, [22.0])
    WandbExport(tmp_path).close()
    push(ledger, second, "a-0", 3, [33.0, 44.0])
    WandbExport(tmp_path).close()
    assert service.points["a-0"] == steps(0.0, 1.0, 2.0, 3.0, 44.0)
    assert service.first["a-0"] == [0, 4] and len(service.endings) == 1


def test_after_a_crash_the_same_steps_are_sent_again(ledger: Ledger, tmp_path: Path, service: Service) -> None:
    attempt = opened(ledger, "a-0")
    push(ledger, attempt, "a-0", 0, [0.0])
    WandbExport(tmp_path).close()
    cursor = (tmp_path / "wandb/cursor.json").read_text()
    push(ledger, attempt, "a-0", 1, [1.0, 2.0])
    WandbExport(tmp_path).close()
    (tmp_path / "wandb/cursor.json").write_text(cursor)
    WandbExport(tmp_path).close()
    assert service.points["a-0"] == steps(0.0, 1.0, 2.0) + steps(0.0, 1.0, 2.0)[1:]
    assert service.first["a-0"] == [0, 1, 1] and len(service.endings) == 1
    (tmp_path / "wandb/cursor.json").unlink()  # everything is derived again, in other runs
    WandbExport(tmp_path).close()
    assert service.first["a-0"][-1] == 0 and len(service.endings) == 2


def test_errors_are_logged_once_made_up_for_and_keep_back_no_other_trial(
    ledger: Ledger, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(export_wandb, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(export_wandb, "RETRY_SECONDS", 0.01)
    attempt = opened(ledger, "a-0", "a-1")
    service.fails = {"a-0"}
    export = WandbExport(tmp_path)
    push(ledger, attempt, "a-0", 0, [0.0])
    push(ledger, attempt, "a-1", 0, [1.0])
    until(lambda: len(service.first["a-0"]) > 2 and service.points["a-1"])
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == [f"{tmp_path}: wandb is not up to date"]
    service.fails = set()
    until(lambda: service.points["a-0"])
    service.fails = {"a-0"}
    push(ledger, attempt, "a-0", 1, [2.0])
    until(lambda: ("a-0", True) in service.ended)
    service.fails = set()
    export.close()
    assert service.points == {"a-0": steps(0.0, 2.0), "a-1": steps(1.0)}


def test_wandbs_process_dies(ledger: Ledger, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs are gone with it, and what was sent last has perhaps not arrived."""
    restarts: list[None] = []

    def restart() -> None:
        service.fails = set()
        restarts.append(None)

    monkeypatch.setattr(export_wandb, "restart", restart)
    monkeypatch.setattr(export_wandb, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(export_wandb, "RETRY_SECONDS", 0.01)
    service.error = ConnectionResetError("Connection lost")
    attempt = opened(ledger, "a-0", "a-1")
    for trial in ("a-0", "a-1"):
        push(ledger, attempt, trial, 0, [0.0])
    export = WandbExport(tmp_path)
    until(lambda: service.points["a-1"])
    service.fails = {"a-1"}
    push(ledger, attempt, "a-1", 1, [1.0])
    until(lambda: len(service.points["a-1"]) > 1)
    export.close()
    assert len(restarts) == 1 and service.points["a-1"][-1:] == steps(0.0, 1.0)[1:]
    assert service.ended.count(("a-1", True)) == len(service.first["a-1"]) == 2 and len(service.endings) == 1


def test_a_network_that_hangs_holds_up_the_end_for_a_while_only(
    ledger: Ledger, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(export_wandb, "CLOSE_SECONDS", 0.1)
    service.hangs.clear()
    push(ledger, opened(ledger, "a-0"), "a-0", 0, [0.0])
    export = WandbExport(tmp_path)
    export.close()
    assert caplog.messages == [f"{tmp_path}/wandb: gave up waiting for wandb"]
    service.hangs.set()
    export._thread.join(10)
    assert service.points["a-0"] == steps(0.0) and service.ended == [("a-0", True)]


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
    session._train(console, tmp_path, [[trial]], Placement(1, 0, 1), None)
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
