"""Weights & Biases: real runs in offline mode, read back; what is refused before anything starts."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner import api as base
from runner.errors import UserError
from runner.torch import Runner
from runner.training.wandb import WandbRun, check
from tests.runner.builders import make_env, plain_config
from tests.wandb_files import alone, read_runs

TAG = "Loss / Policy loss"
FILES = {
    "trainer.timesteps": 24,
    "agent.experiment": {"directory": "out", "experiment_name": "name", "write_interval": 8, "wandb": True},
}


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory."""
    folder = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(folder)
    with alone(monkeypatch, tmp_path_factory.mktemp("user") / "home"):
        yield folder


def make_runner(seeds: list[int] | None = None, **kwargs: Any) -> base.Runner:
    config = plain_config({**FILES, "agent.experiment": {**FILES["agent.experiment"], "wandb_kwargs": kwargs}})
    return Runner(make_env("Pendulum-v1", 3, {"max_episode_steps": 5}), config, seeds, threads=1)


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def assert_close(sent: list[tuple[int, float]], written: list[tuple[int, float]]) -> None:
    """Event files hold float32."""
    assert [step for step, _ in sent] == [step for step, _ in written]
    assert [value for _, value in sent] == pytest.approx([value for _, value in written], nan_ok=True)


def test_training_sends_to_wandb_what_it_writes_for_tensorboard(offline: Path) -> None:
    runner = make_runner(project="sunflowers", tags=["a", "b"], config={"mine": 1}, notes=None)
    runner.run("train")
    (run,) = read_runs(offline / "out/name")
    assert (run.name, run.group, run.project, run.tags) == ("name", "", "sunflowers", ("a", "b"))
    assert run.config == {**run.config, **runner.cfg, "mine": 1} and run.config["seed"] == 1
    assert run.axes["*"] == "env_steps"
    assert [step for step, _ in run.curve(TAG)] == [24, 48, 72] and run.steps == [0, 1, 2] and run.exit_code == 0
    tags = {tag for tag in run.rows[0] if not tag.startswith("_")} - {"env_steps"}
    assert len(tags) > 15
    for tag in tags:
        assert_close(run.curve(tag), curve(offline / "out/name", tag))
    assert not (offline / "wandb").exists()


def test_members_have_runs_of_their_own_and_errors_do_not_stop_them(
    offline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = WandbRun.write

    def broken(run: WandbRun, env_steps: int, *more: Any) -> None:
        if env_steps == 48 and run._run.name.endswith("11"):
            raise BrokenPipeError
        write(run, env_steps, *more)

    monkeypatch.setattr(WandbRun, "write", broken)
    make_runner([11, 12]).run("train")
    first, second = (read_runs(offline / f"out/name/seed_{seed}")[0] for seed in (11, 12))
    assert [(r.name, r.group, r.config["seed"]) for r in (first, second)] == [
        ("name_seed_11", "name", 11),
        ("name_seed_12", "name", 12),
    ]
    assert [step for step, _ in first.curve(TAG)] == [24]
    assert_close(second.curve(TAG), curve(offline / "out/name/seed_12", TAG))
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["wandb gets no more of member 0"]


def test_a_run_that_cannot_start_is_a_users_error(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    real, started = wandb.init, []

    def refuse(**arguments: Any) -> Any:
        if started:
            raise wandb.errors.CommError("no network")
        started.append(real(**arguments))
        return started[0]

    runner = make_runner([1, 2])
    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setattr("runner.training.wandb.check", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"agent\.experiment\.wandb: the run cannot be started: no network"):
        runner.run("train")
    assert not runner._learning.timestep
    (run,) = read_runs(offline / "out/name/seed_1")
    assert run.exit_code == 1, "the first member's run was left open"


@pytest.mark.parametrize("found", [None, types.ModuleType("wandb")], ids=["nothing", "a folder of that name"])
def test_wandb_is_not_installed(found: Any, offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner()
    with monkeypatch.context() as imports:
        imports.setitem(sys.modules, "wandb", found)
        with pytest.raises(UserError, match=r"pip install wandb.*--set agent\.experiment\.wandb=False"):
            runner.run("train")
    assert list(offline.iterdir()) == []


@pytest.mark.parametrize(
    ("kwargs", "several", "message"),
    [
        ({"projct": "x"}, False, r"wandb_kwargs\.projct: wandb.init has no such argument. Did you mean 'project'"),
        ({"sync_tensorboard": True}, False, "wandb_kwargs.sync_tensorboard: leave it out: every value is sent"),
        ({"monitor_gym": True}, False, "wandb_kwargs.monitor_gym: leave it out: EnvPool's environments make no videos"),
        ({"id": "x"}, True, "wandb_kwargs.id: leave it out: it is about one run, and every trial"),
        ({"resume": "must"}, True, "wandb_kwargs.resume: leave it out: it is about one run"),
        ({"mode": "offlin"}, False, r"wandb_kwargs\.mode: found 'offlin'; Input should be 'online', 'offline'"),
        ({"project": 5}, False, r"wandb_kwargs\.project: found 5; Input should be a valid string"),
        ({"tags": "x"}, False, r"wandb_kwargs\.tags: found 'x'; allowed: a list of texts"),
        ({"tags": 3}, False, r"wandb_kwargs\.tags: found 3; allowed: a list of texts"),
        ({"id": "a/b"}, False, r"wandb_kwargs\.id: found 'a/b'; .*cannot contain the characters"),
        ({"config": "file.yaml"}, False, r"wandb_kwargs\.config: found 'file.yaml'; allowed: a mapping"),
        ({"settings": {"consle": "off"}}, False, r"wandb_kwargs\.settings\.consle: found 'off'; no such setting. Did "),
        ({"settings": {"init_timeout": "long"}}, False, r"wandb_kwargs\.settings\.init_timeout: found 'long'; "),
    ],
)
def test_arguments_that_cannot_work_are_refused(kwargs: dict[str, Any], several: bool, message: str) -> None:
    with pytest.raises(UserError, match=r"^agent\.experiment\." + message):
        check(kwargs, several)


def test_arguments_that_work_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    check(
        {"id": "x", "resume": "must", "tags": ["a"], "sync_tensorboard": False, "settings": {"console": "wrap"}}, False
    )
    check({"id": None, "project": "x", "entity": None, "group": "g", "mode": "disabled"}, True)


def test_nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(UserError, match=r"wandb has no API key; log in with `wandb login`.*WANDB_MODE=offline"):
        check({}, False)
    check({"mode": "offline"}, False)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    check({}, False)
