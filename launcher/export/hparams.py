"""What TensorBoard's HParams tab shows of a launch: a row per trial, with settings, how it ended and its last metrics.

A trial's folder of event files is what the plugin calls a session. Its settings come first in it; how it ended is in a
file of its own, which goes when the trial is trained on, since readers keep the first word they find on that.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.ledger.rows import State, TrialRow
from launcher.report.settings import read_settings
from runner.training import tracking

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.api_pb2 import HParamInfo

METRICS = (
    tracking.SCORE,
    tracking.RETURN_MEAN,
    tracking.LENGTH_MEAN,
    tracking.EXPLAINED_VARIANCE,
    tracking.STEPS_PER_SECOND,
)
"""Columns of the tab; all metrics are in the other tabs."""
CONFIGURATION, SEED = "configuration", "seed"
STATUS: dict[State, str] = {"finished": "SUCCESS", "diverged": "FAILURE", "failed": "FAILURE"}
"""States in which a trial is over → the plugin's word."""
MOST_READ = 1_000
"""Configurations whose files are read, 2 ms each; of more than that only the names are shown."""


class HParams:
    """The columns of a launch's trials."""

    def __init__(self, directory: Path, trials: Sequence[TrialRow]) -> None:
        """Find the settings that differ between configurations, from one file each.

        Args:
            directory: of the launch.
            trials: all of them, at least one.
        """
        self._trials = trials
        one_each = {row.config: row.trial for row in reversed(trials)}
        read = {
            config: read_settings(directory, trial)[0]
            for config, trial in one_each.items()
            if len(one_each) <= MOST_READ
        }
        settings = {config: found for config, found in read.items() if found}
        self._columns: dict[str, dict[str, Any]] = {}  # setting → configuration → value
        for key in _shared(list(settings.values())):
            values = _alike([found[key] for found in settings.values()])
            if len(set(values)) > 1:
                self._columns[key] = dict(zip(settings, values, strict=True))

    def start(self, row: TrialRow, folder: str, wall_time: float) -> Summary:
        """What comes first in a trial's folder: its settings; in that of the first trial also which columns there are.

        Args:
            row: the trial.
            folder: its name, which the tab shows.
            wall_time: when it started, in Unix seconds.
        """
        from tensorboard.plugins.hparams import summary_v2

        summary = summary_v2.hparams_pb(self._values(row), folder, wall_time)
        if row.trial == self._trials[0].trial:
            summary.MergeFrom(self._experiment())
        return summary

    def _values(self, row: TrialRow) -> dict[str, Any]:
        swept = {key: values[row.config] for key, values in self._columns.items() if row.config in values}
        return {CONFIGURATION: row.config, **swept, SEED: row.seed}

    def _experiment(self) -> Summary:
        from tensorboard.plugins.hparams.api_pb2 import Experiment, MetricInfo, MetricName

        rows = [self._values(row) for row in self._trials]
        names = (CONFIGURATION, *self._columns, SEED)
        infos = [_info(name, list(dict.fromkeys(row[name] for row in rows if name in row))) for name in names]
        # Columns that differ come first, and the first five are shown: the settings say more than their name.
        infos[0].differs &= not self._columns
        metrics = [MetricInfo(name=MetricName(tag=tag)) for tag in METRICS]
        return _summary("experiment", Experiment(hparam_infos=infos, metric_infos=metrics))


def _shared(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings that every configuration has: others come and go with those."""
    return [key for key in (settings[0] if settings else ()) if all(key in found for found in settings)]


def _alike(values: Sequence[Any]) -> Sequence[Any]:
    """Values of one setting as the plugin takes them: truth values, numbers, or else texts."""
    if all(isinstance(value, bool) for value in values) or all(map(_is_number, values)):
        return values
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _info(name: str, values: Sequence[Any]) -> HParamInfo:
    """A column with these different values, and how it is filtered: numbers by limits, others by choice."""
    from tensorboard.plugins.hparams import api_pb2

    info = api_pb2.HParamInfo(name=name, differs=len(values) > 1, type=api_pb2.DATA_TYPE_STRING)
    if _is_number(values[0]):
        info.type = api_pb2.DATA_TYPE_FLOAT64
        info.domain_interval.min_value, info.domain_interval.max_value = min(values), max(values)
        return info
    if isinstance(values[0], bool):
        info.type = api_pb2.DATA_TYPE_BOOL
    if len(values) <= MOST_READ:
        info.domain_discrete.extend(values)
    return info


def _summary(kind: str, message: Any) -> Summary:
    """One message of the plugin's three kinds."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    described = metadata.create_summary_metadata(HParamsPluginData(**{kind: message}))
    return Summary(value=[Summary.Value(tag=f"_hparams_/{kind}", metadata=described, tensor=metadata.NULL_TENSOR)])


def end(folder: Path, state: State, wall_time: float) -> None:
    """Say in a folder, whose other files are closed, how its trial ended; once, however often it is said.

    Raises:
        OSError: it cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo
    from tensorboard.summary.writer.record_writer import RecordWriter

    status = STATUS[state]
    if any(folder.glob(f"*.~{status}")):
        return
    forget_end(folder)
    info = SessionEndInfo(status=api_pb2.Status.Value(f"STATUS_{status}"), end_time_secs=wall_time)
    # Readers take a folder's files in the order of their names: ~ puts this one after others of the same second.
    with (folder / f"events.out.tfevents.{int(time.time()):010d}.~{status}").open("xb") as file:
        writer = RecordWriter(file)
        for event in (Event(file_version="brain.Event:2"), Event(summary=_summary("session_end_info", info))):
            event.wall_time = wall_time
            writer.write(event.SerializeToString())
        writer.flush()


def forget_end(folder: Path) -> None:
    """The trial of a folder is trained on."""
    for status in set(STATUS.values()):
        for path in folder.glob(f"*.~{status}"):
            path.unlink()
