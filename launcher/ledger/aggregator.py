"""The one process that writes the ledger: a Ray actor beside the driver, which all workers call.

Its clients may repeat any call, so Ray is allowed to: after a death it starts the actor again, which goes on
from the ledger file, and sends again what had no answer. It may do so in another order: of several answers to
one worker the highest counts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cluster.connect import START_SECONDS, not_started
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import BUSY, LOST, STORED, TRAINING, Batch, Order
from launcher.ledger.storage import REFUSED, disk_refuses

if TYPE_CHECKING:
    import ray.actor

RELEASE_SECONDS = 3.0
"""The time that the lock of a launch which has just ended may linger: Ray kills actors without waiting for them."""


@dataclass(frozen=True)
class PushReply:
    """The answer to a worker's beat: what to do with each trial that it asked about.

    `high_water` is, by trial that is not lost, the index of the record to send next. When `busy` the disk has taken
    nothing: keep the records and send them again.
    """

    high_water: dict[str, int]
    busy: bool
    orders: dict[str, Order]


@dataclass(frozen=True)
class Pulse:
    """The answer to the launcher's question how the attempts are.

    `silent` is, by attempt that is not closed and has pushed before, the seconds since it last did; `starting` are
    those that do not train yet; `refusing` is for how many seconds the disk has taken nothing, 0 when it takes
    everything.
    """

    silent: dict[int, float]
    refusing: float
    starting: frozenset[int] = frozenset()


class Aggregator:
    """A ledger with a clock: when each attempt was last heard of, and whether all are to stop."""

    CALLS = frozenset({"open", "describe_attempt", "publish", "close", "fail", "add_trials", "add_events"})
    """Methods of the ledger that others may call."""
    STALL_SECONDS = 5.0
    """Without any call for so long it was itself not running: the launcher asks every second."""

    def __init__(self, directory: Path) -> None:
        """Open the ledger of `directory` to write."""
        self._ledger = writer(directory)
        self._stop = self._ledger.stop_requested()
        self._heard = time.monotonic()
        self._refusing_since: float | None = None
        # After a restart every attempt gets a full lease: its beats were not lost through its own fault.
        open_ones = [row.number for row in self._ledger.attempts() if row.closed_at is None]
        self._beats = dict.fromkeys(open_ones, self._heard)
        self._open = set(open_ones)
        self._starting: set[int] = set()

    def call(self, name: str, *arguments: Any) -> Any:
        """The answer of one of `CALLS`; or BUSY, with nothing done, where the disk takes nothing."""
        if name not in self.CALLS:
            raise ValueError(f"{name}: not one of {sorted(self.CALLS)}")
        try:
            result = getattr(self._ledger, name)(*arguments)
        except REFUSED as error:
            if not disk_refuses(error):
                raise
            result = BUSY
        if result == BUSY:
            self._takes(False)
            return BUSY
        if name != "publish" or STORED in result.values():  # else nothing was written
            self._takes(True)
        if name == "open":
            self._open.add(result.number)
        elif name == "close":  # the lease ends
            self._open.discard(arguments[0])
            self._starting.discard(arguments[0])
            self._beats.pop(arguments[0], None)
        return result

    def push(self, attempt: int, batches: Mapping[str, Batch], note: str | None = None) -> PushReply:
        """See `Ledger.push`; begins or renews the lease, also when the disk is full."""
        now = self._now()
        if attempt in self._open:
            self._beats[attempt] = now
            if note in (None, TRAINING):
                self._starting.discard(attempt)
            else:
                self._starting.add(attempt)
        answer = self._ledger.push(attempt, batches, note)
        wanted: Order = "stop" if self._stop else "go"
        if answer == BUSY:
            self._takes(False)
            return PushReply({}, busy=True, orders=dict.fromkeys(batches, wanted))
        if any(batch.records for batch in batches.values()):  # a beat alone writes nothing
            self._takes(True)
        orders: dict[str, Order] = {trial: "lost" if count == LOST else wanted for trial, count in answer.items()}
        return PushReply({t: count for t, count in answer.items() if count != LOST}, busy=False, orders=orders)

    def pulse(self) -> Pulse:
        """The silence of each attempt, and the time for which the disk has taken nothing."""
        now = self._now()
        refusing = 0.0 if self._refusing_since is None else now - self._refusing_since
        return Pulse(
            {attempt: now - beat for attempt, beat in self._beats.items()}, refusing, frozenset(self._starting)
        )

    def _now(self) -> float:
        """The time; while this process did not run (stopped, swapped out), no lease ran either."""
        now = time.monotonic()
        stalled = now - self._heard
        if stalled > self.STALL_SECONDS:
            self._beats = {attempt: beat + stalled for attempt, beat in self._beats.items()}
        self._heard = now
        return now

    def _takes(self, all_is_well: bool) -> None:
        if all_is_well:
            self._refusing_since = None
        elif self._refusing_since is None:
            self._refusing_since = time.monotonic()

    def stop(self) -> None:
        """Ask all workers, with their next reply, to save and leave."""
        self._stop = True
        # On a full disk the request lives as long as this process; the launcher can ask again.
        with contextlib.suppress(*REFUSED):
            self._ledger.request_stop(True)


def writer(directory: Path) -> Ledger:
    """The ledger of `directory`, as soon as nothing holds its lock that is about to let go of it.

    That is the aggregator of a launch that has just ended, or a `launch status` that looks whether one is running.
    """
    return Ledger(directory, wait=RELEASE_SECONDS)


def start_aggregator(directory: Path, interrupted: Callable[[], bool] = lambda: False) -> ray.actor.ActorHandle:
    """Start the aggregator of `directory` on this node of the Ray cluster that this process is connected to.

    It ends with the handle or the driver. What an earlier launch was asked to stop goes on now. Once `interrupted`,
    nobody waits until it has started.
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
    answer, due = actor.pulse.remote(), time.monotonic() + START_SECONDS
    while not ray.wait([answer], timeout=0.5)[0]:
        if interrupted():
            return actor
        if time.monotonic() > due:
            ray.kill(actor)
            raise TimeoutError(not_started("the process that writes the ledger"))
    ray.get(answer)
    return actor
