"""What a worker is given to do, and where it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """What a worker is to train.

    Attributes:
        attempt: its number in the ledger.
        trials: ids, one per member.
        configs: resolved configurations as plain data, one per member.
        checkpoints: bytes to go on from, one per member, or None to begin.
        log: file for everything that the process prints; see `process.log_here`.
        threads: to step environments with, if there are so many cores.
    """

    attempt: int
    trials: tuple[str, ...]
    configs: tuple[dict[str, Any], ...]
    checkpoints: tuple[bytes, ...] | None
    log: Path
    threads: int


@dataclass(frozen=True)
class Exam:
    """What a worker is to evaluate.

    Attributes:
        config: of one of the checkpoints, as plain data; all have its policy.
        files: the checkpoints.
        episodes: that each plays.
        at_once: environments of one checkpoint that are stepped together.
        seed: of the episodes.
        deterministic: the most probable actions, not samples.
        threads: to step environments with at most.
    """

    config: dict[str, Any]
    files: tuple[bytes, ...]
    episodes: int
    at_once: int
    seed: int
    deterministic: bool
    threads: int


@dataclass(frozen=True)
class Place:
    """Where a process is: Ray's id of the node, the machine's name, the process's number there."""

    node: str
    host: str
    pid: int
