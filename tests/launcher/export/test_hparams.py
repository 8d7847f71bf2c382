"""The HParams tab's data: settings that differ and seeds, through rewinds and resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.plugins.hparams import metadata

from launcher.export import hparams
from launcher.export.hparams import HParams
from launcher.export.tensorboard import TensorBoardExport
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import TrialRow
from tests.launcher.boards import TAG, TRIALS, checkpoint, opened, push, read_scalars, steps
from tests.launcher.builders import give_up


def write_settings(ledger: Ledger, settings: dict[str, dict[str, Any]]) -> None:
    ledger.extend({}, {trial: json.dumps(data) for trial, data in settings.items()})


def content(folder: Path, tag: str) -> Any:
    """What the plugin reads in a run."""
    run = plugin_event_accumulator.EventAccumulator(str(folder)).Reload()
    return metadata.parse_session_start_info_plugin_data(run.SummaryMetadata(tag).plugin_data.content)


def settings_of(folder: Path) -> dict[str, Any]:
    values = content(folder, metadata.SESSION_START_INFO_TAG).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger(tmp_path) as ledger:
        ledger.add_trials(TRIALS)
        yield ledger


def export(directory: Path) -> None:
    TensorBoardExport(directory).close()


# ---------------------------------------------------------------------------------------------- settings


def test_columns_are_the_settings_that_differ(ledger: Ledger, tmp_path: Path) -> None:
    common = {"experiment": {"directory": "x"}, "gamma": 0.9}
    of_a = {"rate": 1e-3, "clip": True, "layers": [32], "scheduler": None, **common}
    of_b = {"rate": 2, "clip": False, "layers": [8, 8], "scheduler": "linear", "kwargs": {"power": 1}, **common}
    of_b["experiment"] = {"directory": "y"}
    write_settings(ledger, {"a-0": {"agent": of_a}, "b-0": {"agent": of_b}})
    attempt = opened(ledger, "a-0", "a-1", "b-0")
    for trial in ("a-0", "a-1", "b-0"):
        push(ledger, attempt, trial, 0, [1.0])
    export(tmp_path)
    boards = tmp_path / "tensorboard"
    swept = {"agent.rate": 1e-3, "agent.clip": True, "agent.layers": "[32]", "agent.scheduler": "null"}
    assert settings_of(boards / "a/seed_1") == {"configuration": "a", "seed": 1, **swept}
    swept = {"agent.rate": 2, "agent.clip": False, "agent.layers": "[8, 8]", "agent.scheduler": "linear"}
    assert settings_of(boards / "b/seed_0") == {"configuration": "b", "seed": 0, **swept}
    assert content(boards / "a/seed_1", metadata.SESSION_START_INFO_TAG).group_name == "a/seed_1"


def test_of_too_many_configurations_there_are_names_and_seeds(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings(ledger, {"a-0": {"rate": 1}, "b-0": {"rate": 2}})
    rows = ledger.trials()
    assert HParams(ledger)._settings == {"a": {"rate": 1}, "b": {"rate": 2}}
    monkeypatch.setattr(hparams, "MOST_READ", 1)
    started = HParams(ledger).start(rows[-1], "b/seed_0", 1.0).value[0].metadata.plugin_data.content
    assert set(metadata.parse_session_start_info_plugin_data(started).hparams) == {"configuration", "seed"}


def test_a_trial_that_failed_before_its_first_record_has_its_row(ledger: Ledger, tmp_path: Path) -> None:
    give_up(ledger, opened(ledger, "a-3"), ["a-3"], "killed")
    export(tmp_path)
    boards = tmp_path / "tensorboard"
    assert settings_of(boards / "a/seed_3") == {"configuration": "a", "seed": 3}  # which has no point
    assert not (boards / "b").exists()
    written = sorted(boards.rglob("events*"))
    export(tmp_path)
    assert sorted(boards.rglob("events*")) == written


@pytest.mark.parametrize("same_exporter", [True, False])
def test_a_trial_that_is_trained_on_goes_on_in_its_folder(ledger: Ledger, tmp_path: Path, same_exporter: bool) -> None:
    exporter = TensorBoardExport(tmp_path)
    attempt = opened(ledger, "b-0")
    push(ledger, attempt, "b-0", 0, [1.0])
    give_up(ledger, attempt, ["b-0"], "killed")
    exporter.poll()
    for covered, state in ((1, "finished"), (2, "diverged")):
        if not same_exporter:
            exporter.close()
            exporter = TensorBoardExport(tmp_path)
        ledger.extend({"b-0": 1000 * covered})
        attempt = opened(ledger, "b-0")
        push(ledger, attempt, "b-0", covered - 1, [2.0, 3.0])
        checkpoint(ledger, attempt, "b-0", covered + 1, state=state)
        exporter.poll()
    assert read_scalars(tmp_path / "tensorboard/b/seed_0", TAG) == steps(2.0, 3.0, 3.0)
    exporter.close()


def test_a_seed_that_is_added_later_has_its_row(ledger: Ledger, tmp_path: Path) -> None:
    exporter = TensorBoardExport(tmp_path)
    exporter.poll()
    ledger.add_trials([TrialRow("a-9", "a", 9, 4, 1000)])
    push(ledger, opened(ledger, "a-9"), "a-9", 0, [1.0])
    exporter.close()
    assert settings_of(tmp_path / "tensorboard/a/seed_9") == {"configuration": "a", "seed": 9}
