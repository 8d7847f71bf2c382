"""Metric names, the record of one reporting interval, and where records can go.

Records come in from `runner.<backend>.train` once per `write_interval`; sinks carry them on: a TensorBoard
folder here, the launcher's ledger through a callback.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

RETURN_MEAN = "Reward / Total reward (mean)"
RETURN_MAX = "Reward / Total reward (max)"
RETURN_MIN = "Reward / Total reward (min)"
SCORE = "Reward / Total reward (last 100 episodes)"
LENGTH_MEAN = "Episode / Total timesteps (mean)"
LENGTH_MAX = "Episode / Total timesteps (max)"
LENGTH_MIN = "Episode / Total timesteps (min)"
REWARD_MEAN = "Reward / Instantaneous reward (mean)"
REWARD_MAX = "Reward / Instantaneous reward (max)"
REWARD_MIN = "Reward / Instantaneous reward (min)"
EVALUATION_MEAN = "Evaluation / Return (mean)"
EVALUATION_MAX = "Evaluation / Return (max)"
EVALUATION_MIN = "Evaluation / Return (min)"
EVALUATION_LENGTH = "Evaluation / Length (mean)"
POLICY_LOSS = "Loss / Policy loss"
VALUE_LOSS = "Loss / Value loss"
ENTROPY_LOSS = "Loss / Entropy loss"
STANDARD_DEVIATION = "Policy / Standard deviation"
LEARNING_RATE = "Learning / Learning rate"
APPROXIMATE_KL = "Learning / Approximate KL"
CLIP_FRACTION = "Learning / Clip fraction"
EXPLAINED_VARIANCE = "Learning / Explained variance"
GRADIENT_NORM = "Learning / Gradient norm"
STEPS_PER_SECOND = "Stats / Env steps per second"
TIME = "Time / "
"""Metrics that begin so are seconds that a part of the work took since the last record; all parts exclude another."""
ENVIRONMENT_TIME = f"{TIME}Environment"
ACT_TIME = f"{TIME}Act"
ROLLOUT_TIME = f"{TIME}Environment and act"
"""Where one compiled program does both."""
UPDATE_TIME = f"{TIME}Update"
EVALUATION_TIME = f"{TIME}Evaluation"
REPORT_TIME = f"{TIME}Report"
"""Of the record before: making and passing on records and checkpoints."""


def of(tag: str, agent: str) -> str:
    """The tag of one agent's number, as skrl has it; `agent` is empty where there is one."""
    return f"{tag} ({agent})" if agent else tag


@dataclass(frozen=True)
class Record:
    """The report of one trial for one interval.

    Attributes:
        index: 0, 1, 2, … without gaps for the life of a trial.
        timestep: steps of every environment of the trial so far.
        env_steps: timestep × num_envs, the x axis of every curve.
        seconds: wall-clock seconds this trial's pack has trained so far, start-up and compilation excluded.
        values: metric tag → number; may be NaN or infinite.
    """

    index: int
    timestep: int
    env_steps: int
    seconds: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """The report of a pack in training.

    Attributes:
        records: per trial; None for a trial that has nothing to report.
        checkpoint: a checkpoint of every trial is due.
        best: trials whose score is better than ever before.
        diverged: trials whose numbers stopped being finite since the last report; they train no further.
    """

    records: list[Record | None]
    checkpoint: bool
    best: list[int]
    diverged: list[int]


class TensorBoard:
    """Writes records of one trial to one TensorBoard folder: one event per record, env steps on the x axis.

    TensorBoard's own writer has a thread per folder, which dies of a full disk; here every call raises OSError then.
    """

    def __init__(self, directory: Path) -> None:
        """Open an event file in `directory`, creating the folder.

        Raises:
            OSError: the folder cannot be made or written to.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        number = sum(file.name.startswith(name) for file in directory.iterdir())
        self._writer = RecordWriter((directory / f"{name}.{number}").open("xb"))
        try:
            self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        except OSError:
            with contextlib.suppress(OSError):  # it flushes once more, and closes whatever comes of that
                self._writer.close()
            raise

    def write(self, env_steps: int, values: Mapping[str, float], wall_time: float) -> None:
        """Append one event with every value of `values` at x = `env_steps`; `wall_time` is Unix seconds."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._add(Event(wall_time=wall_time, step=env_steps, summary=summary))

    def add_summary(self, summary: Summary, wall_time: float) -> None:
        """Append what a plugin of TensorBoard reads, at x = 0."""
        from tensorboard.compat.proto.event_pb2 import Event

        self._add(Event(wall_time=wall_time, summary=summary))

    def restart(self, env_steps: int, wall_time: float) -> None:
        """Tell readers to drop what they hold from `env_steps` on: the trial was rewound."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._add(Event(wall_time=wall_time, step=env_steps, session_log=SessionLog(status=SessionLog.START)))

    def flush(self) -> None:
        """Force what was written to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close; the object is unusable afterwards."""
        self._writer.close()

    def _add(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
        # At once: a kill must not leave half an event, at which wandb's reader of the folder would stop for good.
        self._writer.flush()
