"""Weights & Biases: real runs in offline mode, read back; what is refused before anything starts."""

from __future__ import annotations

import contextlib
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
from runner.training.tracking import TensorBoard
from runner.training.wandb import check, check_login
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
    assert run.axes["*"] == "global_step"
    assert [step for step, _ in run.curve(TAG)] == [24, 48, 72] and run.steps == [0, 1, 2] and run.exit_code == 0
    tags = {tag for tag in run.rows[0] if not tag.startswith("_")} - {"global_step"}
    assert len(tags) > 15
    for tag in tags:
        assert_close(run.curve(tag), curve(offline / "out/name", tag))
    assert not (offline / "wandb").exists()


def test_members_have_runs_of_their_own_and_those_of_diverged_ones_fail(offline: Path) -> None:
    config = plain_config({**FILES, "agent.learning_rate": 1e30, "agent.grad_norm_clip": 0.0})
    runner = Runner(make_env("Pendulum-v1", 3, {"max_episode_steps": 5}), config, [11, 12], threads=1)
    runner.run("train")
    for seed in (11, 12):
        (run,) = read_runs(offline / f"out/name/seed_{seed}")
        assert (run.name, run.group, run.config["seed"]) == (f"name_seed_{seed}", "name", seed)
        assert_close(run.curve(TAG), curve(offline / f"out/name/seed_{seed}", TAG))
        assert run.exit_code == 1


def test_training_again_in_a_directory_makes_a_run_of_what_is_new(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as past:
        past.setattr("time.time", lambda: 1e9)
        with contextlib.closing(TensorBoard(offline / "out/name")) as board:
            board.write(24, {TAG: 5.0}, 1e9)
    make_runner().run("train")
    (run,) = read_runs(offline / "out/name")
    assert run.curve(TAG)[0][0] == 24 and run.curve(TAG)[0][1] != 5.0 and len(run.rows) == 3


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
    monkeypatch.setattr("runner.training.wandb.check_login", lambda _: None)
    with pytest.raises(UserError, match=r"agent\.experiment\.wandb: the run cannot be started: no network"):
        runner.run("train")
    assert not runner._members.timestep
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
        ({"id": "x"}, True, "wandb_kwargs.id: leave it out: it is about one run, and every trial"),
        ({"resume": "must"}, True, "wandb_kwargs.resume: leave it out: it is about one run"),
        ({"settings": "x"}, False, r"wandb_kwargs\.settings: found 'x'; allowed: a mapping"),
        ({"config": "file.yaml"}, False, r"wandb_kwargs\.config: found 'file.yaml'; allowed: a mapping"),
    ],
)
def test_arguments_that_cannot_work_are_refused(kwargs: dict[str, Any], several: bool, message: str) -> None:
    with pytest.raises(UserError, match=r"^agent\.experiment\." + message):
        check(kwargs, several)


def test_arguments_that_work_are_accepted() -> None:
    check({"id": "x", "resume": "must", "tags": ["a"], "settings": {"console": "wrap"}}, False)
    check({"id": None, "project": "x", "entity": None, "group": "g", "mode": "disabled"}, True)


def test_what_files_of_skrl_say_of_tensorboard_changes_nothing(offline: Path) -> None:
    make_runner(sync_tensorboard=True, tensorboard=True).run("train")
    (run,) = read_runs(offline / "out/name")
    assert len(run.rows) == 3


def test_a_disabled_run_is_no_trouble(offline: Path) -> None:
    make_runner(mode="disabled").run("train")
    assert read_runs(offline / "out/name") == [] and len(curve(offline / "out/name", TAG)) == 3


def test_nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(UserError, match=r"wandb has no API key; log in with `wandb login`.*WANDB_MODE=offline"):
        check_login({})
    with pytest.raises(UserError, match="WANDB_MODE=offline"):
        make_runner().run("train")
    check_login({"mode": "offline"})
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    check_login({})
