"""Give every pack a worker, follow the attempts to their end, try again what died.

Ray schedules, places and isolates; who trains what, and for how long its word counts, is decided here: Ray does not
retry an actor's work while it merely cannot reach its machine, and knows nothing of a process that hangs.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launcher.cluster.connect import START_SECONDS, is_own, not_started
from launcher.ledger.aggregator import Pulse, start_aggregator
from launcher.ledger.rows import BUSY, Attempt
from launcher.plan.experiment import Placement, Trial
from launcher.run import signals
from launcher.run.attempts import GRAVEST, Running, Waiting, answered, begun, ended, log_of
from launcher.run.failures import end_process, failure_of, fetch_log
from launcher.run.policy import Failure, FailurePolicy, together
from launcher.run.pool import Processes
from launcher.search.scheduler import Desk, Fixed, Leg, Scheduler

POLL_SECONDS = 0.5
LOOK_SECONDS = 5.0
"""Between two looks at how many machines there are."""
PULSE_SECONDS = 1.0
"""Between two questions to the aggregator how its attempts are."""
LEASE_SECONDS = 60.0
"""A worker that has not pushed for so long, sixty beats, is taken for dead and its trials are given to another."""
HUNG_SECONDS = 60.0
"""An aggregator that has not answered for so long is started again."""
GIVE_UP_SECONDS = 600.0
"""A disk that has taken nothing for so long ends the launch."""
STOP_SECONDS = 60.0
"""The time that workers have to save after a stop, before they are ended."""


@dataclass(frozen=True)
class Result:
    """The end of a launch: the number of the signal that stopped it, or 0; or why it could not go on."""

    stopped_by: int = 0
    error: str | None = None


class _DiskRefusesError(Exception):
    """The launch directory has taken nothing for ten minutes, or while everything is to stop."""


def run(
    directory: Path,
    packs: Sequence[Sequence[Trial]],
    placement: Placement,
    watch: Callable[[float], None],
    say: Callable[[str], None],
    room: Callable[[], int] | None = None,
    scheduler: Scheduler | None = None,
) -> Result:
    """Train every pack, on the Ray that this process is connected to; an error comes after all workers have saved.

    Args:
        directory: the launch directory; its ledger knows all trials.
        packs: longest first; of a search those that it may begin with.
        placement: how many at a time, on what.
        watch: called twice a second, for progress and exports, with the seconds for which the disk has taken nothing.
        say: called with a sentence whenever an attempt ends early.
        room: how many workers there may be now, where machines come and go; None: as many as `placement` says.
        scheduler: of a search; None: the packs are all there is to train.
    """
    with signals.noted() as noted:
        dispatch = _Dispatch(
            directory, packs, placement, _unharmed(watch), _unharmed(say), room, noted, scheduler or Fixed(packs)
        )
        try:
            dispatch.run()
        except _DiskRefusesError:
            if not noted:
                minutes = f"{GIVE_UP_SECONDS / 60:.0f} minutes"
                return Result(error=f"{directory}: the disk is full or read-only and took nothing for {minutes}")
        except Exception:
            dispatch.save()
            raise
        finally:
            dispatch.end()
        return Result(noted[0] if noted else 0)


def _unharmed(tell: Callable[..., None]) -> Callable[..., None]:
    """`tell` without its exceptions, which are logged, each type once: what watches a training must not end it."""
    known: set[type[Exception]] = set()

    def told(*arguments: Any) -> None:
        try:
            tell(*arguments)
        except Exception as error:
            if type(error) not in known:
                logging.getLogger(__name__).exception("training goes on, but what is shown of it may be wrong")
            known.add(type(error))

    return told


@dataclass
class _Dispatch:
    directory: Path
    packs: Sequence[Sequence[Trial]]
    placement: Placement
    watch: Callable[[float], None]
    say: Callable[[str], None]
    room: Callable[[], int] | None
    signals: Sequence[int]
    scheduler: Scheduler
    waiting: list[Waiting] = field(default_factory=list)
    exhausted: bool = False
    """The scheduler has nothing to train until something settles."""
    running: list[Running] = field(default_factory=list)
    policy: FailurePolicy = field(default_factory=FailurePolicy)
    pulse: Pulse = field(default_factory=lambda: Pulse({}, 0.0))
    heard: float = 0.0
    """When the question was asked that `pulse` answers."""
    asked: tuple[Any, float] | None = None
    """The question to the aggregator that is under way, and since when."""
    aggregator: Any = None
    next_look: float = 0.0
    told: float | None = None
    """When the workers were asked to stop."""

    def __post_init__(self) -> None:
        self.processes = Processes(self.placement, min(len(self.packs), self.placement.workers))
        self.workers = self.placement.workers
        # A worker's machine that has this folder has the launch directory.
        (self.directory / log_of(0)).parent.mkdir(exist_ok=True)

    def run(self) -> None:
        """Train until nothing runs, and nothing waits or everything is to stop."""
        import ray

        # Workers import their framework while the aggregator starts.
        for pack in self.packs[: self.placement.workers]:
            self.processes.prepare(self.placement.backend(pack[0].config))
        self.aggregator = start_aggregator(self.directory, lambda: bool(self.signals))
        while True:
            self._make_room()
            self._begin()
            if not self.running and (self.signals or not self.waiting):
                return
            self._stop()
            futures = [future for item in self.running for future in (item.done, *item.mates)]
            if futures:
                ray.wait(futures, timeout=POLL_SECONDS)
            else:
                time.sleep(POLL_SECONDS)
            self._tend()
            for item in list(self.running):
                if item.look():
                    self._settle(item)
            self.watch(self.pulse.refusing)

    def save(self) -> None:
        """After an error of the launcher's own: let all workers save and leave, as after a signal.

        Errors here are logged: the first one is what is to be told.
        """
        import ray

        try:
            self._ask_to_stop()
            futures = [item.done for item in self.running]
            while futures and not self._impatient():
                _, futures = ray.wait(futures, num_returns=len(futures), timeout=POLL_SECONDS)
            for item in list(self.running):
                self._settle(item, Failure("crash", "did not save in time") if item.done in futures else None)
        except Exception:
            logging.getLogger(__name__).exception("workers may have been ended before they had saved")

    def end(self) -> None:
        """End every process of the launch."""
        import ray

        self.processes.end()
        for item in self.running:
            item.process.end()
        if self.aggregator is not None:
            ray.kill(self.aggregator)

    # Beginning

    def _make_room(self) -> None:
        """See now and then how many workers there may be."""
        if self.room is not None and time.monotonic() >= self.next_look:
            self.workers, self.next_look = max(1, self.room()), time.monotonic() + LOOK_SECONDS

    def _begin(self) -> None:
        """Open attempts at packs that may have a worker, while there is room."""
        while len(self.running) < self.workers and not self.signals:
            item = self._due()
            if item is None:
                return
            leg = item.leg
            attempt = self._ask("open", [trial.id for trial in leg.pack], uuid.uuid4().hex)
            self.waiting.remove(item)
            begins = {trial: file.timestep if file else 0 for trial, file in attempt.resume.items()}
            groups = together(leg.pack, begins)
            if len(groups) > 1:
                self._ask("close", attempt.number, "regrouped")
                self.waiting[:0] = [Waiting(replace(leg, pack=group)) for group in groups]
                continue
            self.policy.opened(begins)
            self.running.append(self._train(attempt, leg))

    def _due(self) -> Waiting | None:
        """The leg to begin now, among those that wait: one that is tried again, or else the scheduler's next."""
        found = next((item for item in self.waiting if item.due <= time.monotonic()), None)
        if found is None and not self.exhausted:
            busy = bool(self.running or self.waiting)
            leg = self.scheduler.next(Desk(self.directory, self._ask, self.workers, busy))
            self.exhausted = leg is None
            if leg is not None:
                found = Waiting(leg)
                self.waiting.append(found)
        return found

    def _train(self, attempt: Attempt, leg: Leg) -> Running:
        process = self.processes.take(self.placement.backend(leg.pack[0].config), self.workers - len(self.running))
        return begun(attempt, leg, process, self.aggregator, self.directory, self.placement.threads_of(leg.pack))

    # Following

    def _tend(self) -> None:
        """See whether all that should answer does."""
        self._hear()
        if self.pulse.refusing > GIVE_UP_SECONDS:
            raise _DiskRefusesError
        for item in list(self.running):
            silence = self._silence(item)
            if silence is not None:
                if item.location is not None:
                    end_process(item.location, item.process.worker)
                self._settle(item, Failure("crash", silence))

    def _hear(self) -> None:
        """Ask the aggregator how the attempts are, without waiting for the answer; start it again if it hangs."""
        import ray

        now = time.monotonic()
        if self.asked is None:
            if self.aggregator is not None and now - self.heard >= PULSE_SECONDS:
                self.asked = (self.aggregator.pulse.remote(), now)
            return
        future, since = self.asked
        if answered(future):
            self.pulse, self.asked, self.heard = ray.get(future), None, since
        elif now - since > HUNG_SECONDS:
            ray.kill(self.aggregator, no_restart=False)
            self.asked = (future, now)

    def _silence(self, item: Running) -> str | None:
        """The fault of a worker that does not answer; None if all is well with it."""
        if item.location is None:
            return self._find(item)
        now = time.monotonic()
        if not item.imported and answered(item.process.ready):
            item.imported, item.since = True, now
        # One that never pushed was silent from its start to the last pulse; not longer, that may be late itself.
        silent = self.pulse.silent.get(item.attempt, self.heard - item.since)
        if not item.imported and now - item.since > START_SECONDS:
            return not_started("the worker process")
        # While a library makes many environments in one call, as EnvPool does of football, no other thread runs there.
        patience = START_SECONDS if item.attempt in self.pulse.starting else LEASE_SECONDS
        if item.imported and silent > patience:
            return f"the worker process hung: it did not answer for {patience:.0f} s"
        return None

    def _find(self, item: Running) -> str | None:
        """See whether a worker has begun, and where; what is wrong if it should have long ago."""
        import ray

        now = time.monotonic()
        if answered(item.process.where):
            with contextlib.suppress(ray.exceptions.RayError):  # `done` tells of its death too
                found = item.location = ray.get(item.process.where)
                item.since = now
                self._ask("describe_attempt", item.attempt, str(log_of(item.attempt)), found.host, found.pid)
        elif now - item.since > START_SECONDS:
            if is_own():
                return not_started("the worker process")
            # On a cluster it waits for a machine with room, which may take as long as it likes.
            item.since = now
            self.say(f"{_who(item.pack)}: no machine of the cluster had room within {START_SECONDS:.0f} s; waits on")
        return None

    def _stop(self) -> None:
        """Once asked to, have all workers save and leave; end those that do not."""
        if not self.signals:
            return
        self._ask_to_stop()
        if self._impatient():
            for item in self.running:
                item.process.end()

    def _ask_to_stop(self) -> None:
        """Ask all workers, once, to save and leave."""
        import ray

        if self.told is not None:
            return
        self.told = time.monotonic()
        if self.aggregator is not None:
            ray.get(self.aggregator.stop.remote(), timeout=STOP_SECONDS)
        # Whoever still imports has nothing to save.
        for item in self.running:
            if not item.imported:
                item.process.end()

    def _impatient(self) -> bool:
        """Workers that are to leave have had their time, or the person asks a second time.

        A terminal that closes hangs up more than once, and a service manager hangs up after its SIGTERM.
        """
        asked = sum(number != signal.SIGHUP for number in self.signals)
        return asked > 1 or (self.told is not None and time.monotonic() - self.told > STOP_SECONDS)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Let the aggregator call the ledger, until it has done what it is asked for or the disk is given up."""
        import ray

        while True:
            future = self.aggregator.call.remote(method, *arguments)
            while not ray.wait([future], timeout=POLL_SECONDS)[0]:
                self._hear()
            answer = ray.get(future)
            if not (isinstance(answer, str) and answer == BUSY):
                return answer
            self._hear()
            if self.signals or self.pulse.refusing > GIVE_UP_SECONDS:
                raise _DiskRefusesError
            self.watch(self.pulse.refusing)
            time.sleep(POLL_SECONDS)

    # Ending

    def _settle(self, item: Running, failure: Failure | None = None) -> None:
        """Close an attempt that ended, well or not, and see to its unfinished trials."""
        self.running.remove(item)
        self.exhausted = False
        outcome, path = "lost", log_of(item.attempt)
        if item.location is not None:
            fetch_log(item.location, self.directory / path)
        if failure is None:
            outcome, raised = ended(item)
            if raised:
                found = [failure_of(error, item.location, self.directory / path) for error in raised]
                failure = min(found, key=lambda one: GRAVEST.index(one.kind))
                if failure.kind == "node" and item.location is not None:
                    self.processes.avoid(item.location.node)
        if outcome in ("paused", "finished") and item.leg.until is not None and self.told is None:
            # The next leg needs the same programs, which this process has compiled.
            self.processes.give(self.placement.backend(item.pack[0].config), item.process)
        else:
            # A fresh process for every other pack: its memory, threads and log are its own.
            if failure:
                item.process.end_mates()
            item.process.end()
        if self.told is not None:
            # Ended by us after the stop: what it had published is where a resume goes on.
            self._ask("close", item.attempt, "interrupted" if failure else outcome, None, "interrupted")
            return
        error = f"{failure.words} (log: {path})" if failure else None
        unfinished = set(self._ask("close", item.attempt, failure.kind if failure else outcome, error))
        trials = [trial for trial in item.pack if trial.id in unfinished]
        if trials:
            unknown = Failure("crash", "the worker process left its trials unfinished")
            self._retry(replace(item.leg, pack=trials), failure or unknown, path)

    def _retry(self, leg: Leg, failure: Failure, log: Path) -> None:
        """Let the trials of an attempt that failed wait for another one, or give them up."""
        trials = leg.pack
        decision = self.policy.decide(trials, failure)
        for pack in decision.packs:
            # What would be next anyway imports while it waits.
            if not self.waiting and len(self.running) + len(self.processes) < self.workers:
                self.processes.prepare(self.placement.backend(pack[0].config))
            self.waiting.append(Waiting(replace(leg, pack=pack), time.monotonic() + decision.wait))
        words = f"{failure.words} (log: {log})"
        if decision.failed:
            self._ask("fail", [trial.id for trial in decision.failed], words)
        self.say(f"{_who(trials)} ended early: {words}; {_then(decision.packs, decision.wait)}")


def _who(trials: Sequence[Trial]) -> str:
    return trials[0].id + (f" and {len(trials) - 1:,} more" if len(trials) > 1 else "")


def _then(packs: Sequence[Sequence[Trial]], wait: float) -> str:
    if not packs:
        return "not tried again"
    parts = f" in {len(packs)} packs" if len(packs) > 1 else ""
    return f"tried again{parts}" + (f" in {wait:.0f} s" if wait else "")
