"""What TensorBoard's HParams tab shows of a launch: a row per trial, with settings, how it ended and its last metrics.

TensorBoard finds the columns itself in the folders of trials, each of which is a session to it. Its settings come first
in a folder; how it ended is in a file of its own, which goes when the trial is trained on, since readers keep the first
word they find on that.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.ledger.rows import State, TrialRow
from launcher.report.settings import read_settings

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

STATUS: dict[State, str] = {"finished": "SUCCESS", "diverged": "FAILURE", "failed": "FAILURE"}
"""States in which a trial is over → the plugin's word."""
MOST_READ = 1_000
"""Configurations whose settings are read; of more than that only the names are shown."""


class HParams:
    """Settings that differ between the configurations of a launch, from one trial each."""

    def __init__(self, directory: Path, trials: Sequence[TrialRow]) -> None:
        """Of all `trials` of the launch in `directory`."""
        one_each = {row.config: row.id for row in reversed(trials)}
        if len(one_each) > MOST_READ:
            one_each = {}
        read = {config: read_settings(directory, trial)[0] for config, trial in one_each.items()}
        shared = set.intersection(*map(set, read.values())) if read else set()
        differing = {key for key in shared if len({_shown(settings[key]) for settings in read.values()}) > 1}
        self._settings = {
            config: {key: _shown(value) for key, value in settings.items() if key in differing}
            for config, settings in read.items()
        }

    def start(self, row: TrialRow, folder: str, wall_time: float) -> Summary:
        """What comes first in a trial's folder; the tab shows its name. `wall_time` of the start is in Unix seconds."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        settings = {"configuration": row.config, **self._settings.get(row.config, {}), "seed": row.seed}
        return hparams_pb(settings, folder, wall_time)


def _shown(value: Any) -> bool | int | float | str:
    """A setting as the plugin takes it: truth values, finite numbers, or else texts."""
    plain = isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else json.dumps(value)


def end(folder: Path, state: State, wall_time: float) -> None:
    """Say in a folder, whose other files are closed, how its trial ended; once, however often it is said.

    Raises:
        OSError: it cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
    from tensorboard.summary.writer.record_writer import RecordWriter

    status = STATUS[state]
    if any(folder.glob(f"*.~{status}")):
        return
    forget_end(folder)
    info = SessionEndInfo(status=api_pb2.Status.Value(f"STATUS_{status}"), end_time_secs=wall_time)
    described = metadata.create_summary_metadata(HParamsPluginData(session_end_info=info))
    tag = metadata.SESSION_END_INFO_TAG
    summary = Summary(value=[Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)])
    # Readers take a folder's files in the order of their names: ~ puts this one after others of the same second.
    with (folder / f"events.out.tfevents.{int(time.time()):010d}.~{status}").open("xb") as file:
        writer = RecordWriter(file)
        for event in (Event(file_version="brain.Event:2"), Event(summary=summary)):
            event.wall_time = wall_time
            writer.write(event.SerializeToString())
        writer.flush()


def forget_end(folder: Path) -> None:
    """The trial of a folder is trained on."""
    for status in set(STATUS.values()):
        for path in folder.glob(f"*.~{status}"):
            path.unlink()
