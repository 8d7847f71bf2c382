"""The one process that writes the ledger: a Ray actor beside the driver, which all workers call.

Its clients may repeat any call, so Ray is allowed to: after a death it starts the actor again, which goes on
from the ledger file, and sends again what had no answer. It may do so in another order: of several answers to
one worker the highest counts.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher.ledger import Ledger
from launcher.rows import BUSY, Attempt, Batch, Published
from runner.errors import UserError

if TYPE_CHECKING:
    import ray.actor

RELEASE_SECONDS = 3.0
"""How long the lock of a launch that has just ended may linger: Ray kills actors without waiting for them."""


@dataclass(frozen=True)
class PushReply:
    """What a worker hears on each beat.

    Attributes:
        high_water: trial → the index of the record to send next, or LOST; empty when busy.
        busy: nothing was stored, the disk does not take it: keep the records and send them again.
        stop: save, publish and leave.
    """

    high_water: dict[str, int]
    busy: bool
    stop: bool


class Aggregator:
    """A ledger with a clock: when each attempt was last heard of, and whether all are to stop."""

    def __init__(self, directory: Path) -> None:
        """Open the ledger of `directory` to write.

        Raises:
            UserError: another process writes there.
        """
        self._ledger = writer(directory)
        self._stop = self._ledger.stop_requested()
        # After a restart every attempt gets a full lease: its beats were not lost through its own fault.
        now = time.monotonic()
        self._beats = {row.number: now for row in self._ledger.attempts() if row.closed_at is None}

    def open(self, trials: Sequence[str], token: str) -> Attempt:
        """See `Ledger.open`; the lease begins now."""
        attempt = self._ledger.open(trials, token)
        self._beats[attempt.number] = time.monotonic()
        return attempt

    def describe_attempt(self, attempt: int, log: str, host: str, pid: int) -> None:
        """See `Ledger.describe_attempt`."""
        self._ledger.describe_attempt(attempt, log, host, pid)

    def push(self, attempt: int, batches: Mapping[str, Batch], note: str | None = None) -> PushReply:
        """See `Ledger.push`; renews the lease, also when the disk is full."""
        if attempt in self._beats:
            self._beats[attempt] = time.monotonic()
        answer = self._ledger.push(attempt, batches, note)
        if answer == BUSY:
            return PushReply({}, busy=True, stop=self._stop)
        return PushReply(answer, busy=False, stop=self._stop)

    def publish(
        self, attempt: int, published: Mapping[str, Published]
    ) -> dict[str, Literal["stored", "gap", -1]] | Literal["busy"]:
        """See `Ledger.publish`."""
        return self._ledger.publish(attempt, published)

    def fail(
        self,
        attempt: int,
        trials: Iterable[str],
        error: str | None,
        state: Literal["failed", "interrupted"] = "failed",
    ) -> None:
        """See `Ledger.fail`."""
        self._ledger.fail(attempt, trials, error, state)

    def close(self, attempt: int, outcome: str) -> None:
        """See `Ledger.close`; the lease ends."""
        self._ledger.close(attempt, outcome)
        self._beats.pop(attempt, None)

    def beats(self) -> dict[int, float]:
        """Seconds since each attempt that is not closed was opened or last pushed."""
        now = time.monotonic()
        return {attempt: now - beat for attempt, beat in self._beats.items()}

    def stop(self) -> None:
        """Ask all workers, with their next reply, to save and leave."""
        self._stop = True
        # On a full disk the request lives as long as this process; the launcher can ask again.
        with contextlib.suppress(sqlite3.OperationalError):
            self._ledger.request_stop(True)


def writer(directory: Path) -> Ledger:
    """The ledger of `directory`, as soon as nothing holds its lock that is about to let go of it.

    That is the aggregator of a launch that has just ended, or a `launch status` that looks whether one is running.

    Raises:
        UserError: another launch is at work there.
    """
    last_try = time.monotonic() + RELEASE_SECONDS
    while True:
        try:
            return Ledger(directory)
        except UserError:
            if time.monotonic() > last_try:
                raise
            time.sleep(0.05)


def start_aggregator(directory: Path) -> ray.actor.ActorHandle:
    """Start the aggregator of `directory` on this node of the Ray cluster that this process is connected to.

    It ends with the handle or the driver. What an earlier launch was asked to stop goes on now.

    Raises:
        UserError: another process writes to the ledger there.
        ray.exceptions.RayActorError: the actor did not start.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class BesideDriver(Aggregator):
        def __init__(self, directory: Path) -> None:
            # Ray 2.60 shows all GPUs to an actor that asked for none (ray#62492).
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
            super().__init__(directory)

    # An error in an actor's start loses its type, so whether the lock is free is found out here.
    with writer(directory) as ledger:
        ledger.request_stop(False)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote = ray.remote(num_cpus=0, num_gpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(
        BesideDriver
    )
    actor = remote.remote(directory.resolve())
    ray.get(actor.beats.remote())
    return actor
