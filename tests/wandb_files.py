"""What wandb wrote in offline mode, read back; wandb itself has no reader in Python any more."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner.training.wandb import end

BLOCK = 32768


@dataclass
class Offline:
    """One file of one run: the arguments it began with, its rows in order, what its x axis is, how it ended."""

    name: str = ""
    id: str = ""
    group: str = ""
    project: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None

    def curve(self, tag: str) -> list[tuple[int, float]]:
        return [(row["global_step"], float(row[tag])) for row in self.rows if tag in row]

    @property
    def steps(self) -> list[int]:
        return [row["_step"] for row in self.rows]


def frames(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, with wandb's header of 7 bytes."""
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        _checksum, size, kind = struct.unpack("<IHB", data[at : at + 7])
        part = data[at + 7 : at + 7 + size]
        at += 7 + size
        whole = part if kind in (1, 2) else whole + part  # 1 whole, 2 first, 3 middle, 4 last
        if kind in (1, 4):
            yield whole


def read_run(path: Path) -> Offline:
    from wandb.proto.wandb_internal_pb2 import Record

    found = Offline()
    for data in frames(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                found.name, found.id, found.group = run.display_name, run.run_id, run.run_group
                found.project, found.tags = run.project, tuple(run.tags)
                found.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
            case "metric":
                found.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
            case "history":
                items = record.history.item
                found.rows.append({i.key or i.nested_key[0]: json.loads(i.value_json) for i in items})
            case "exit":
                found.exit_code = record.exit.exit_code
    return found


def read_runs(directory: Path) -> list[Offline]:
    """Of all runs that were kept in a folder, in the order of their names and times.

    wandb's process writes the last block of a file (32 KiB, for short runs all of it) after `finish` has returned, so
    it is brought to its end first.
    """
    end()
    found = [read_run(path) for path in sorted(directory.glob("wandb/offline-run-*/*.wandb"))]
    return sorted(found, key=lambda run: (run.name, run.steps))


@contextmanager
def alone(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    """wandb without an account and offline; its process is gone afterwards."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")  # else it asks a server for the user's name, for 5 seconds
    try:
        yield
    finally:
        end()
