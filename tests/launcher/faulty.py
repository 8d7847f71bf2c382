"""Faults for launches under test: workers that misbehave, harm at the right moment, and what is to be left then."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from launcher.ledger.ledger import Ledger
from launcher.run.worker import Worker
from runner.errors import UserError
from tests.launcher.held import let, recording

CARTPOLE = Path(__file__).parents[2] / "configs" / "classic" / "cartpole.yaml"
RECORD, CHECKPOINT = 32, 320
"""Timesteps between records, and between checkpoints."""
PATIENCE = 600.0
"""More seconds than anything takes that a test waits for, on a slow and busy machine too."""
ENDLESS = 10_000_000
"""Timesteps that no machine trains while a test looks on; `end_soon` makes fewer of them."""


def write_config(folder: Path, timesteps: int, **changes: Any) -> Path:
    """CartPole with a record per update and a checkpoint every ten."""
    data = yaml.safe_load(CARTPOLE.read_text())
    data["trainer"]["timesteps"] = timesteps
    data["agent"]["experiment"].update(write_interval=RECORD, checkpoint_interval=CHECKPOINT)
    data.update(changes)
    path = folder / "cartpole.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def worker_that(act: Callable[[], None], seed: int, at: int) -> type[Worker]:
    """A worker which does `act` whenever the trial of `seed` has made its record number `at`, or a later one."""

    def beside(_: Any, records: Any) -> None:
        if any(f"_s{seed}_" in trial and made.index >= at for trial, made in records.items()):
            act()

    return recording(beside)


def worker_pids(directory: Path) -> dict[int, int]:
    """Attempt → process whose output goes to its log."""
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                log = Path(os.readlink(process / "fd" / "1"))
            except OSError:
                continue
            if log.parent == directory.resolve() / "logs":
                found[int(log.stem.removeprefix("attempt-"))] = int(process.name)
    return found


def aggregator_pid(directory: Path) -> int | None:
    """The process that has the ledger's lock open and is no driver."""
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and b"BesideDriver" in (process / "cmdline").read_bytes():
                opened = {os.readlink(fd) for fd in (process / "fd").iterdir()}
                if str(directory.resolve() / "ledger.lock") in opened:
                    return int(process.name)
        except OSError:
            continue
    return None


def counts(directory: Path) -> dict[str, int]:
    """Trial → number of its records; empty before there is a ledger."""
    try:
        with Ledger(directory, writer=False) as ledger:
            return {row.trial.id: row.records for row in ledger.progress()}
    except UserError:
        return {}


def saved(directory: Path) -> int:
    """The timestep up to which every trial has a checkpoint, which comes after the records that it covers; 0: none."""
    with Ledger(directory, writer=False) as ledger:
        last = ledger.last_agents()
        return min(last.get(row.id, 0) for row in ledger.trials())


def wait_until(true: Callable[[], Any], what: str, seconds: float = PATIENCE, failed: Callable[[], Any] = bool) -> Any:
    """What `true` returns once it is something; it fails after so long, or as soon as `failed` is something."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"never came: {what}"
        assert not (why := failed()), f"{what}: {why}"
        time.sleep(0.05)
    return found


@contextmanager
def meanwhile(harm: Callable[[], None], gate: Path | None = None) -> Iterator[None]:
    """Do `harm` in a thread while the block runs, whose workers `gate` holds until then; its errors are the block's."""
    errors: list[BaseException] = []

    def act() -> None:
        try:
            harm()
        except BaseException as error:
            errors.append(error)
        if gate is not None:
            let(gate)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if errors:
        raise errors[0]


def end_soon(directory: Path) -> int:
    """Let the trials of a launch that was stopped end a little after the furthest of them; returns their timesteps."""
    with Ledger(directory) as ledger:
        length = max(row.timestep for row in ledger.progress()) + CHECKPOINT
        texts = {trial: json.loads(text) for trial, text in ledger.configurations().items()}
        for data in texts.values():
            data["trainer"]["timesteps"] = length
        ledger.extend({}, {trial: json.dumps(data) for trial, data in texts.items()})
    return length


def assert_whole(directory: Path, records: int) -> None:
    """Every trial is finished, and has each record exactly once."""
    with Ledger(directory, writer=False) as ledger:
        for row in ledger.trials():
            assert row.state == "finished", row
            indices = [stored.record.index for stored in ledger.records(row.id)]
            assert indices == list(range(records)), row.id
