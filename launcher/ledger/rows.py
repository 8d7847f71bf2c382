"""Values that the ledger's callers give and get: rows of its tables, batches and checkpoints on their way, answers.

All of it travels between processes, so it is plain and compares equal after pickling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from runner.training.tracking import Record

State = Literal["pending", "running", "paused", "finished", "diverged", "failed", "interrupted"]
"""`paused`: a search has stopped it at a timestep, and may let it go on."""
LOST_STATES: Final[tuple[State, ...]] = ("failed", "diverged")
OVER_STATES: Final[tuple[State, ...]] = ("finished", *LOST_STATES)
"""States of trials that are not trained any more, unless somebody asks for that."""
SEARCH: Final = "search"
OVER: Final = "over"
"""Kinds of the first and the last event of a search."""
Stage = Literal["on", "over"]
"""Of a search: it has something left to train or decide; or not, and what is paused stays so."""
Kind = Literal["agent", "best"]
Order = Literal["go", "stop", "lost"]
"""The order of a trial to its worker: go on; save, publish and leave; drop it, since another attempt has it."""

TRAINING: Final = "training"
"""The note of an attempt whose environments and programs are made."""
LOST: Final = -1
"""The trial belongs to another attempt by now: stop working on it."""
BUSY: Final = "busy"
"""The disk is full, read-only or failing: nothing was stored, send the same again later."""
STORED: Final = "stored"
GAP: Final = "gap"
"""Records which the checkpoint covers are missing: push them first."""


@dataclass(frozen=True)
class TrialRow:
    """One trial: `timesteps` is the length it is to reach, `attempt` its owner, `error` why it failed."""

    id: str
    config: str
    seed: int
    num_envs: int
    timesteps: int
    state: State = "pending"
    attempt: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class AttemptRow:
    """One attempt: times in Unix seconds; `log` relative to the launch directory; `note` what it was last doing.

    `error` says why it ended early.
    """

    number: int
    opened_at: float
    closed_at: float | None
    outcome: str | None
    error: str | None
    log: str | None
    host: str | None
    pid: int | None
    note: str | None


@dataclass(frozen=True)
class Member:
    """A trial in an attempt, which trains or trained it from `timestep` on: 0, or that of a checkpoint."""

    attempt: int
    trial: str
    timestep: int


@dataclass(frozen=True)
class Checkpoint:
    """One file: `path` relative to the launch directory, `records` the number of records that it covers."""

    trial: str
    timestep: int
    kind: Kind
    path: str
    sha256: str
    bytes: int
    score: float | None
    attempt: int
    records: int


@dataclass(frozen=True)
class Event:
    """A step of a search: `kind` and `key` name it, and there is one of that name; `number` is the order of arrival."""

    number: int
    kind: str
    key: str
    data: dict[str, Any]


@dataclass(frozen=True)
class StoredRecord:
    """A record as it is in the ledger.

    Attributes:
        revision: its place in the order in which all records of all trials were stored.
        wall_time: when it was stored, in Unix seconds.
        previous_env_steps: of the trial's record before it; -1 if it is the first.
    """

    revision: int
    trial: str
    wall_time: float
    previous_env_steps: int
    record: Record


@dataclass(frozen=True)
class Progress:
    """The progress of a trial: the number of its records, what the last says (zero or None without); what it does."""

    trial: TrialRow
    records: int
    timestep: int
    env_steps: int
    value: float | None
    steps_per_second: float | None
    note: str | None = None

    @property
    def env_steps_total(self) -> int:
        """Env steps that the trial is to reach."""
        return self.trial.timesteps * self.trial.num_envs


@dataclass(frozen=True)
class Attempt:
    """A new life of some trials, and the checkpoint each goes on from (None: from the beginning)."""

    number: int
    resume: dict[str, Checkpoint | None]


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one trial; `first` is the index of the first one."""

    first: int
    records: Sequence[Record] = ()


@dataclass(frozen=True)
class Published:
    """A checkpoint and what becomes of its trial; with empty `data` only the state changes.

    `records` is how many records of the trial come before it; the states `finished` and `diverged` are final.
    """

    timestep: int
    data: bytes
    kind: Kind
    records: int
    state: Literal["running", "paused", "finished", "diverged", "interrupted"]
    score: float | None = None


def ended(search: Stage | None) -> set[State]:
    """States of trials that a resume leaves as they are; `search` is None of a launch that is no search."""
    return {*OVER_STATES, "paused"} if search == "over" else {*OVER_STATES}


def goes_on(states: Iterable[State], search: Stage | None) -> bool:
    """Something is left for a resume of a launch with trials in these states."""
    return search == "on" or not ended(search).issuperset(states)


def agent_path(trial: str, timestep: int) -> str:
    """The path of a checkpoint, relative to the launch directory."""
    return f"trials/{trial}/checkpoints/agent_{timestep}.safetensors"
