"""Presets: found by task or name, printed, planned, installed; and the scores that are told of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.commands import app
from launcher.cli.main import main
from launcher.ledger import evaluations
from launcher.ledger.configurations import settings_of, text_of
from launcher.presets import index, scores
from launcher.presets.index import presets
from launcher.presets.scores import Reference, Row
from runner.config import resolve
from runner.config.load import read_yaml
from runner.envs.named import imports
from runner.errors import UserError
from tests.benchmarks.ablations import CHANGES, changed
from tests.benchmarks.scores import EPISODES, covered, rows, trial_now
from tests.launcher import report_launches
from tests.launcher.refusals import CARTPOLE, Refused

pytestmark = pytest.mark.usefixtures("no_ray")
REPOSITORY = Path(__file__).parents[3]


def test_names_are_unique_and_no_verbs() -> None:
    names = [preset.name for preset in presets()]
    words = [*names, *{preset.task for preset in presets()}]
    assert len(set(words)) == len(words) > 20
    assert not set(words) & set(app)


def test_every_preset_plans(capsys: pytest.CaptureFixture[str]) -> None:
    names = [preset.name for preset in presets() if not imports.module_of(preset.task)]
    assert main([*names, "--dry-run"]) == 0
    assert f"{len(names)} trials" in capsys.readouterr().out


def test_presets_of_other_packages_are_read_and_say_what_is_missing(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [preset for preset in presets() if imports.module_of(preset.task)]
    assert len(others) > 1 and [trial_now(preset).config.env.id for preset in others] == [one.task for one in others]
    monkeypatch.setitem(sys.modules, "mpe2", None)
    monkeypatch.setitem(sys.modules, "mpe2.simple_spread_v3", None)
    for word in ("mpe2.simple_spread_v3:parallel_env", "simple_spread"):  # typed, so that it may be imported
        with imports.scope():
            said = refused(word, "--dry-run")
        assert "there is no module mpe2" in said and "pip install 'sunflower[agents]' installs mpe2" in said
    assert "imported only where the command line says so" in refused(str(others[0].path), "--dry-run")


def test_tasks_are_swept_as_files_are(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["CartPole-v1", "pendulum", "--seeds", "4", "--set", "agent.learning_rate=1e-4,3e-4", "--dry-run"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "16 trials" in shown and "pendulum_learning_rate=0.0003 (seeds 0-3)" in shown
    assert "runs/cartpole_" in shown  # the launch is named as one of the file would be


@pytest.mark.parametrize("word", ["CartPole-v1", "cartpole"])
def test_a_file_comes_before_a_preset(word: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / word).write_text("agent: {class: SAC}")
    assert f"{word}:1: agent.class" in refused(word)
    (tmp_path / word).unlink()
    (tmp_path / word).mkdir()  # a folder is none
    assert main([word, "--dry-run"]) == 0


def test_a_preset_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("CartPole-v1", "cartpole"):
        assert main(["presets", word]) == 0
        assert capsys.readouterr().out == CARTPOLE.read_text()


def test_a_task_without_preset_is_told_what_to_try(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused("Pendulum-v0")
    assert "Pendulum-v0 has no preset. The nearest of its family (classic_control) is that of Pendulum-v1" in said
    _, command, _ = said.split("`")
    assert command == "launch Pendulum-v1 --env Pendulum-v0 --seeds 8"
    assert main([*command.split()[1:], "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("word", "said"),
    {
        "BipedalWalkerHardcore-v3": "`launch BipedalWalker-v3 --env BipedalWalkerHardcore-v3 --seeds 8` tries it",
        # All presets of the family have linear layers in front, or read other keys.
        "CarRacing-v3": "CarRacing-v3 has no preset, and none of box2d fits its observations and actions; `launch",
        "Game2048-v1": "Game2048-v1 has no preset, and none of jumanji fits its observations and actions; `launch",
        "Parking-v0": "Parking-v0 has no preset, and none of highway fits its observations and actions; `launch",
        "Hopper-v40": "'Hopper-v40' is no file and names no preset. Did you mean 'Hopper-v4'",
        "mine:Point": "'mine:Point' is no file and names no preset; what it names is trained with a conf",
        "tests/nothing": "'tests/nothing' is no file and names no preset. `launch presets` lists them",
        "gymnasium:CartPole-v1": "`launch CartPole-v1 --env gymnasium:CartPole-v1 --seeds 8` tries it",
        "Chess-v1": "Chess-v1 has no preset, and none could train it here: is a game of several players",
    }.items(),
)
def test_words_that_are_no_preset(word: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        index.required(word)
    assert said in str(caught.value)


# Scores


def test_scores_are_of_the_presets_as_they_are() -> None:
    """After a change of a preset it is measured again: tests/benchmarks/scores.py."""
    known = {preset.name: preset for preset in presets()}
    measured = json.loads(scores.SCORES.read_text())
    now = {name: trial_now(known[name]) for name in measured}
    assert {name: (row["task"], row["trial"], row["env_steps"]) for name, row in measured.items()} == {
        name: (known[name].task, trial.id, trial.config.env_steps) for name, trial in now.items()
    }
    assert set(json.loads(scores.REFERENCES.read_text())) <= set(known)
    assert {one.protocol for row in scores.rows() for one in row.references} <= set(scores.PROTOCOLS)


def test_the_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    shown = capsys.readouterr().out
    assert all(preset.name in shown for preset in presets())
    assert main(["presets", "--json"]) == 0
    every = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in every] == [preset.name for preset in presets()]
    assert main(["presets", "CartPole-v1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [one for one in every if one["name"] == "cartpole"]


def test_numbers_of_one_protocol_are_compared() -> None:
    measured: dict[str, Any] = {"training": {"scores": [1.0, 3.0]}, "evaluation": {"scores": [5.0, 9.0]}, "diverged": 1}
    row = Row(presets()[0], measured, ())
    other = [Reference(protocol, 0.0, 1, 1, "", "") for protocol in scores.PROTOCOLS]
    assert [row.same_as(one) for one in other] == [2.0, 5.0]
    assert row.seeds == "2 (1 diverged)"


def played(directory: Path, trials: list[Any], length: int) -> None:
    """Evaluations of last agents, in which seed s has scored s."""
    settings = report_launches.SETTINGS.replace('"episodes": 20', f'"episodes": {EPISODES}')
    numbers = (tuple(range(EPISODES)), tuple(range(EPISODES)))
    evaluations.add(
        directory,
        [
            evaluations.Evaluation(f"{seed}", settings, trial.id, length, (float(seed),) * EPISODES, *numbers)
            for seed, trial in enumerate(trials)
        ],
    )


def test_few_seeds_have_no_interval() -> None:
    measured = {"training": {"iqm": 17.2, "interval": None}, "evaluation": {"iqm": 2.0, "interval": [1.0, 1500.0]}}
    row = Row(presets()[0], measured, ())
    assert (row.statistic("training"), row.statistic("evaluation")) == ("17.2", "2.000 [1.000, 1,500]")


def test_scores_are_read_from_a_launch(tmp_path: Path) -> None:
    trials = report_launches.build(tmp_path / "run", seeds=4)
    with pytest.raises(UserError, match=r"cartpole_s0_\w+, .*: not evaluated; launch eval DIR --episodes 100"):
        list(rows(tmp_path / "run"))
    played(tmp_path / "run", trials, 20)
    ((name, row),) = rows(tmp_path / "run")
    assert (name, row["task"], row["seeds"], row["diverged"]) == ("cartpole", "CartPole-v1", [0, 1, 2, 3], 0)
    assert row["evaluation"] == {
        "episodes": EPISODES,
        "stochastic": False,
        "iqm": 1.5,
        "interval": [0.0, 3.0],
        "scores": [0, 1, 2, 3],
    }
    assert len(row["training"]["scores"]) == 4 and row["seconds"] > 0 and row["commit"]
    assert 15 < row["random"] < 30


def test_the_time_of_a_training_leaves_out_pauses() -> None:
    assert covered([(0, 2), (1, 4), (3, 3), (10, 11), (10, 12)]) == 6


def test_scores_of_another_configuration_are_refused(tmp_path: Path) -> None:
    report_launches.build(tmp_path / "run", ["agent.gae_lambda=0.9"], seeds=1)
    with pytest.raises(UserError, match=r"not the preset as it is now: agent\.gae_lambda: 0\.9 → 0\.95"):
        list(rows(tmp_path / "run"))


@pytest.mark.parametrize("task", ["LunarLanderContinuous-v3", "CartPole-v1"])
def test_an_ablation_changes_one_thing(task: str) -> None:
    config, _ = read_yaml(index.required(task).path)
    before = settings_of(text_of(resolve(config)[0]))
    for change in CHANGES.values():
        if "initial_log_std" in change and "Gaussian" not in config["models"]["policy"]["class"]:
            continue
        after = settings_of(text_of(resolve(changed(config, change))[0]))
        other = {key for key in before | after if before.get(key) != after.get(key) and "_kwargs" not in key}
        wanted = {*change, "num_envs", "timesteps"} if "rollouts" in change else {*change}
        assert {key.rpartition(".")[2] for key in other} == wanted


def test_a_clip_falls_to_a_tenth_over_the_training() -> None:
    config, _ = read_yaml(CARTPOLE)
    falling = next(change for change in CHANGES.values() if "changes" in change)
    config["trainer"]["timesteps"] = 200
    changes = changed(config, falling)["agent"]["changes"]
    assert [one["at"] for one in changes] == [20, 40, 60, 80, 100, 120, 140, 160, 180]
    assert [one["ratio_clip"] for one in changes[::4]] == [0.18, 0.1, 0.02]


@pytest.mark.cluster
def test_presets_are_in_the_wheel(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    for name in ("runner", "launcher", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(site), str(source)], check=True)
    shutil.rmtree(source)
    names = {str(path.relative_to(REPOSITORY / "configs")) for path in (REPOSITORY / "configs").rglob("*.*")}
    here = site / "launcher" / "presets" / "configs"
    assert {str(path.relative_to(here)) for path in here.rglob("*.*")} == names
    for words in (["CartPole-v1", "--seeds", "8", "--dry-run"], ["presets", "CartPole-v1"]):
        command = [sys.executable, "-m", "launcher", *words]
        path = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"]}
        done = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True, check=True)
        assert "8 trials" in done.stdout or done.stdout == CARTPOLE.read_text()
