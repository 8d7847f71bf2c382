"""One attempt: a pack trained in a process of its own, which reports to the aggregator.

The training loop never waits for the aggregator: a thread carries records and checkpoints there in order. It also
renews the lease, and brings back what the launcher wants (stop) or what has become of a trial (lost).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from launcher.ledger.rows import BUSY, GAP, LOST, TRAINING, Batch, Order, Published
from launcher.run.account import Account, failure
from launcher.run.policy import leaves, obeyed
from launcher.run.process import (
    GPU_MEMORY,
    EvaluationJob,
    Job,
    Location,
    claim_cores,
    environment,
    log_here,
    redirected,
)
from runner.cores import stepping_threads, usable_cores
from runner.envs.named import imports
from runner.errors import FailedEnvironmentError, UserError
from runner.group import Group
from runner.training.tracking import Record

if TYPE_CHECKING:
    import ray.actor

    from runner.envs.base import VectorEnv
    from runner.training.evaluate import Episode

Outcome = Literal["running", "paused", "finished", "diverged", "interrupted"]

BEAT_SECONDS = 1.0
"""Between pushes; half of the lease's beat, so that one late push is no missed beat."""
BACKLOG = 20_000
"""Records that wait for the aggregator before training waits too."""
POOL_BYTES = 2 << 30
"""Memory that the environments of an evaluation may take in one worker: of some simulators each takes 60 MB."""
CALL_BYTES, CALLS = 64_000_000, 3
"""Bytes of checkpoints in one call, which Ray's store must hold; and calls that wait before training waits too."""


class Worker:
    """A process for one pack; becomes a Ray actor in `launcher.run.dispatch`.

    It is called in this order: `where`, `ready`, then `train` once, or `evaluate` any number of times. Of a group the
    first trains, and the others `assist`.
    """

    def __init__(
        self, backend: str, cores: int, threads: int, sharing: int, modules: Mapping[str, str] | None = None
    ) -> None:
        """Nothing yet, so that Ray knows at once that the process has begun.

        Args:
            backend: torch or jax.
            cores: to be pinned to, without a GPU.
            threads: of the arithmetic.
            sharing: processes on its GPU; 0: none was reserved, none must be used.
            modules: that environments may import, see `runner.envs.named.imports`.
        """
        self._wanted = backend, cores, threads, sharing
        self._empty = 0
        self._group = Group()
        imports.allow(modules or {})
        self._unready: Exception | None = None

    def where(self) -> Location:
        """The location of this process."""
        import ray

        return Location(ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid())

    def meet(self) -> str:
        """An address at which this process can wait for the others of its group."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def ready(self, rank: int = 0, size: int = 1, address: str = "") -> None:
        """Claim cores and import what training needs, before there is anything to train; meet the group, if of one.

        Affinity, thread counts and devices are read when a backend is imported, so they come first.
        """
        self._group = Group(rank, size, address)
        try:
            self._prepare()
        except Exception as error:
            self._unready = error
            raise

    def _prepare(self) -> None:
        backend, cores, threads, sharing = self._wanted
        self._claims = [] if sharing else claim_cores(cores)
        os.environ |= environment(threads, sharing)
        framework = importlib.import_module(f"runner.{backend}")
        importlib.import_module("runner.envs.envpool")
        importlib.import_module("runner.envs.loop").watch()
        if self._group.size > 1:
            framework.join(self._group)
        if sharing and not framework.sees_gpu():
            name = framework.Runner.backend
            where = f"{socket.gethostname()} (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')})"
            raise UserError(
                f"a GPU was reserved on {where}, but {name} sees none there: install a CUDA build of {name} on that "
                "machine, or launch with --gpus 0"
            )
        if sharing > 1:
            # What is too large for its part is halved, and takes nothing from the pack beside it.
            framework.share(GPU_MEMORY / sharing)
        self._backend = framework

    def train(self, job: Job, aggregator: ray.actor.ActorHandle) -> str:
        """Train a pack to its end, a pause or a stop; returns "finished", "paused", "stopped" or "lost"."""
        with redirected(log_here(job.log, os.getpid())), _named(job):
            try:
                self._check_ready()
                return self._train(job, aggregator)
            except BaseException:
                print(failure(job.attempt), flush=True)
                traceback.print_exc()  # last, where people and the launcher look for the reason
                raise

    def assist(self, job: Job) -> None:
        """Train the same as one of the group's other processes, of which the first reports."""
        with redirected(log_here(job.log, os.getpid())), _named(job):
            self._check_ready()
            for _ in self._runner(job)[0].reports(until=job.until):
                pass

    def evaluate(self, job: EvaluationJob) -> list[list[Episode]]:
        """Let checkpoints, stacked as members of one pack, play the same episodes; returns those of each, in order."""
        self._check_ready()
        from runner.config import resolve
        from runner.envs.named.measure import resident, step_seconds
        from runner.envs.task import task

        self._empty = self._empty or resident()
        config = resolve(job.config)[0]
        env = task(config.env)
        at_once, threads = _at_once(job, env), min(job.threads, usable_cores())
        if threads > 1:
            step = 0.0  # where it cannot be measured, of which episodes will tell
            with contextlib.suppress(Exception):
                step = step_seconds(env)
            threads = stepping_threads(threads, len(job.files) * at_once, step, 0.0)
        runner = self._backend.Runner.of_checkpoints(env, config, job.files, threads, job.seed)
        episodes = runner.evaluate(job.deterministic, job.episodes, job.seed, at_once)
        found: list[list[Episode]] = [[] for _ in job.files]
        for episode in episodes:
            found[episode.member].append(episode)
        return found

    def full(self) -> bool:
        """Evaluations have left so much memory behind that another one needs a process of its own.

        Of some simulators EnvPool frees nothing, football's 50 MB each among them.
        """
        from runner.envs.named.measure import resident

        return resident() - self._empty > POOL_BYTES

    def _check_ready(self) -> None:
        """Fail as `ready` has failed: Ray calls what comes after it all the same."""
        if self._unready is not None:
            raise self._unready

    def _train(self, job: Job, aggregator: ray.actor.ActorHandle) -> str:
        link = Link(aggregator, job.attempt, job.trials)
        try:
            runner, threads = self._runner(job)
            if "stop" in link.orders.values():
                # Told so before anything was trained: the checkpoint to go on from is the one that came along.
                link.publish(dict.fromkeys(job.trials, Published(0, b"", "agent", 0, "interrupted")))
                link.flush()
                return "stopped"
            account = Account(job, runner, self._backend.device_name(), threads)
            account.begin()
            return account.end(self._follow(runner, link, job, account))
        finally:
            link.close()

    def _runner(self, job: Job) -> tuple[Any, int]:
        """The runner of a pack where it goes on, and how many threads step its environments."""
        from runner.config import resolve
        from runner.envs.task import task

        configs = [resolve(config)[0] for config in job.configs]
        threads, group = min(job.threads, usable_cores()), self._group
        runner = self._backend.Runner(task(configs[0].env), configs[0], configs=configs, threads=threads, group=group)
        if job.checkpoints is not None:
            runner.restore(job.checkpoints)
        if job.copies:
            runner.exploit(job.copies)
        return runner, threads

    def _follow(self, runner: Any, link: Link, job: Job, account: Account) -> str:
        """Pass on everything the runner reports."""
        trials = job.trials
        over: set[int] = set()

        def publish(members: Sequence[int], state: Outcome, best: Sequence[int] = ()) -> None:
            checkpoints = runner.checkpoints()
            agents = {}
            for member in members:
                counters, made = checkpoints[member]
                score = None if counters.score != counters.score else counters.score
                agents[member] = Published(counters.timestep, made(), "agent", counters.records, state, score)
            # The agents come last: their rows change the state and are what a resume goes on from.
            link.publish({trials[m]: replace(agents[m], kind="best", state="running") for m in best})
            link.publish({trials[m]: agents[m] for m in members})

        def leave() -> bool:
            return leaves(link.orders, {trials[m] for m in over})

        link.note = "compiling" if runner.compiles else "starting"
        for report in account.follow(runner.reports(leave, job.until)):
            link.note = TRAINING
            link.record({trials[m]: record for m, record in enumerate(report.records) if record is not None})
            if report.diverged:
                publish(report.diverged, "diverged")
                over.update(report.diverged)
            running = [m for m in range(len(trials)) if m not in over]
            if report.checkpoint and running:
                publish(running, "running", [m for m in report.best if m in running])
        running = [m for m in range(len(trials)) if m not in over]
        if running and link.lost >= {trials[m] for m in running}:
            return "lost"
        paused = job.until is not None and runner.timestep >= job.until
        publish(running, "finished" if runner.finished else "paused" if paused else "interrupted")
        link.flush()
        return "finished" if runner.finished or not running else "paused" if paused else "stopped"


def _at_once(job: EvaluationJob, env: VectorEnv) -> int:
    """Environments of a checkpoint that are stepped together: as many as are asked for and there is memory for.

    Where actions are drawn, which depends on their number, and where many are made in one, it is what is asked for.
    """
    from runner.envs.named.measure import FEW, resident_bytes

    members = len(job.files)
    if not job.deterministic or not env.splits or members * job.at_once <= 2 * FEW:  # that many are made to measure
        return job.at_once
    return max(1, min(job.at_once, int(POOL_BYTES / (members * max(1.0, resident_bytes(env))))))


@contextlib.contextmanager
def _named(job: Job) -> Iterator[None]:
    """Say of an environment that fails whose it is."""
    try:
        yield
    except FailedEnvironmentError as error:
        error.trial = job.trials[error.member(len(job.trials))]
        raise


class Link:
    """The way to the aggregator: an ordered queue and the thread that empties it.

    Attributes:
        note: what the attempt is doing, in a word; TRAINING once all is made.
        orders: what to do with each trial.
    """

    def __init__(self, aggregator: ray.actor.ActorHandle, attempt: int, trials: Sequence[str]) -> None:
        self.note = "starting"
        self.orders: dict[str, Order] = dict.fromkeys(trials, "go")
        self._aggregator = aggregator
        self._attempt = attempt
        self._records: dict[str, deque[Record]] = {trial: deque() for trial in trials}
        self._next = dict.fromkeys(trials, 0)
        """Index of the record that each trial sends next when none is queued."""
        self._published: deque[dict[str, Published]] = deque()
        self._change = threading.Condition()
        self._closing = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._carry, name="link", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> set[str]:
        """Trials that belong to another attempt by now."""
        return {trial for trial, order in self.orders.items() if order == "lost"}

    def record(self, records: Mapping[str, Record]) -> None:
        """Queue records; waits while too many are queued, as they are when the disk is full."""
        with self._change:
            for trial, record in records.items():
                if self.orders[trial] != "lost":
                    self._records[trial].append(record)
            self._change.wait_for(lambda: self._error or sum(map(len, self._records.values())) < BACKLOG)
        self._check()

    def publish(self, published: Mapping[str, Published]) -> None:
        """Queue checkpoints, sent after the records that they cover and stored together, up to CALL_BYTES of them.

        A pack whose members were stored one by one could be left at different timesteps, and would have to be split.
        """
        for call in _calls(published):
            with self._change:
                self._published.append(call)
                self._change.notify_all()
                self._change.wait_for(lambda: self._error or len(self._published) < CALLS)
            self._check()

    def flush(self) -> None:
        """Wait until everything queued is stored."""
        with self._change:
            self._change.notify_all()
            self._change.wait_for(lambda: self._error or not (self._published or any(self._records.values())))
        self._check()

    def close(self) -> None:
        """End the thread, after a last try to send what is queued."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(timeout=30)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _carry(self) -> None:
        """The thread: push, publish, wait for the next beat or checkpoint."""
        try:
            while True:
                with self._change:
                    closing = self._closing
                done = self._push() and self._publish()
                with self._change:
                    if closing:
                        return
                    self._change.notify_all()
                    # A disk without room is asked again at the next beat, not at once.
                    self._change.wait_for(self._urgent if done else self._is_closing, BEAT_SECONDS)
        except BaseException as error:
            with self._change:
                self._error = error
                self._change.notify_all()

    def _urgent(self) -> bool:
        return self._closing or bool(self._published)

    def _is_closing(self) -> bool:
        return self._closing

    def _push(self) -> bool:
        """Send all queued records; True once they are stored."""
        import ray

        with self._change:
            batches = {
                trial: Batch(queue[0].index if queue else self._next[trial], list(queue))
                for trial, queue in self._records.items()
                if self.orders[trial] != "lost"
            }
        reply = ray.get(self._aggregator.push.remote(self._attempt, batches, self.note))
        with self._change:
            for trial, order in reply.orders.items():
                self._obey(trial, order)
            for trial, expected in reply.high_water.items():
                queue = self._records[trial]
                # An actor that was started again may answer calls in another order: the highest counts.
                self._next[trial] = max(self._next[trial], expected)
                while queue and queue[0].index < self._next[trial]:
                    queue.popleft()
        return not reply.busy

    def _obey(self, trial: str, order: Order) -> None:
        self.orders[trial] = obeyed(self.orders[trial], order)
        if order == "lost":
            self._records[trial].clear()

    def _publish(self) -> bool:
        """Send queued checkpoints in order; True once the queue is empty."""
        import ray

        while True:
            with self._change:
                if not self._published:
                    return True
                call = self._published[0]
                missing = any(r.index < new.records for trial, new in call.items() for r in self._records[trial])
            if missing and not self._push():
                return False
            answers = ray.get(self._aggregator.call.remote("publish", self._attempt, call))
            if answers == BUSY or GAP in answers.values():
                return False
            with self._change:
                for trial, answer in answers.items():
                    if answer == LOST:
                        self._obey(trial, "lost")
                self._published.popleft()
                self._change.notify_all()


def _calls(published: Mapping[str, Published]) -> Iterator[dict[str, Published]]:
    """As few calls as CALL_BYTES allows."""
    call: dict[str, Published] = {}
    for trial, new in published.items():
        if call and sum(len(other.data) for other in call.values()) + len(new.data) > CALL_BYTES:
            yield call
            call = {}
        call[trial] = new
    if call:
        yield call
