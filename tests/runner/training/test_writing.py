"""`run("train")` a second time, and what it shows meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runner.builders import fingerprint
from tests.runner.test_runner import FILES, make_runner, tree


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_where_nothing_is_left_to_train_a_warning_says_so_and_nothing_is_written(
    ending: str, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(changes=FILES)
    runner.run("train")
    files, trained = tree(elsewhere), fingerprint(runner.states()[0], but=())
    runner.run("train")
    runner.agent.save(f"done.{ending}")
    again = make_runner(
        changes={**FILES, "agent.experiment": {**FILES["agent.experiment"], "experiment_name": "again"}}
    )
    again.agent.load(f"done.{ending}")
    assert fingerprint(again.states()[0], but=()) == trained
    again.run("train")
    sentence = "nothing is left to train, and nothing was written: timestep 40 is the end of trainer.timesteps 40"
    assert [sentence in record.message for record in caplog.records] == [True, True]
    assert "make a Runner with a greater trainer.timesteps and agent.load" in caplog.text
    assert tree(elsewhere) == sorted([*files, f"done.{ending}"])
    longer = make_runner(changes={**FILES, "trainer.timesteps": 48})
    longer.agent.load(f"done.{ending}")
    longer.run("train")
    assert longer.states()[0].counters.timestep == 48


def test_where_all_members_have_diverged_training_again_says_so(
    elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(changes={**FILES, "agent.learning_rate": 1e30, "agent.value_clip": 0.0})
    runner.run("train")
    runner.run("train")
    assert caplog.records[-1].message.endswith("every member has diverged")


def test_progress_is_shown_unless_the_configuration_says_no(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_runner(changes=FILES).run("train")
    assert capsys.readouterr().err.startswith("timestep 40 of 40 (")
    make_runner(changes={**FILES, "trainer.disable_progressbar": True}).run("train")
    assert capsys.readouterr() == ("", "")
