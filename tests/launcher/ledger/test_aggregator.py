"""The aggregator: replies and leases in one process, then as a Ray actor that is killed during pushes."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.ledger import aggregator as aggregator_module
from launcher.ledger.aggregator import Aggregator, Pulse, PushReply, start_aggregator
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import BUSY, STORED, TRAINING, Batch, Published, TrialRow
from runner.errors import UserError
from runner.training.tracking import Record
from tests.launcher.local_ray import local_ray

TRIALS = [TrialRow(f"a-{seed}", "a", seed, 4, 1000) for seed in (1, 2)]


def record(index: int) -> Record:
    return Record(index, index + 1, 4 * (index + 1), 0.1 * index, {"index": index, "half": index / 2})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with Ledger(tmp_path) as ledger:
        ledger.add_trials(TRIALS)
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time as the aggregator sees it: `clock.now`, in seconds."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(aggregator_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def aggregator(directory: Path) -> Iterator[Aggregator]:
    aggregator = Aggregator(directory)
    yield aggregator
    aggregator._ledger.disconnect()


def restart(aggregator: Aggregator) -> None:
    directory = aggregator._ledger.directory
    aggregator._ledger.disconnect()
    aggregator.__init__(directory)


def refuse(aggregator: Aggregator, wanted: bool) -> None:
    """Let the disk take nothing: a true SQLITE_READONLY."""
    aggregator._ledger._db.execute(f"PRAGMA query_only = {'ON' if wanted else 'OFF'}")


def rows(aggregator: Aggregator) -> tuple[object, ...]:
    ledger = aggregator._ledger
    return ledger.trials(), ledger.attempts(), ledger.members()


# In one process


def test_push_reply(aggregator: Aggregator) -> None:
    attempt = aggregator.call("open", ["a-1"], "t").number
    batches = {"a-1": Batch(0, [record(0)]), "a-2": Batch(0)}
    assert aggregator.push(attempt, batches) == PushReply({"a-1": 1}, busy=False, orders={"a-1": "go", "a-2": "lost"})


def test_stop_reaches_all_and_survives_a_restart(aggregator: Aggregator) -> None:
    attempt = aggregator.call("open", ["a-1"], "t").number
    aggregator.stop()
    told = PushReply({"a-1": 0}, busy=False, orders={"a-1": "stop", "a-2": "lost"})
    assert aggregator.push(attempt, {"a-1": Batch(0), "a-2": Batch(0)}) == told
    restart(aggregator)
    assert aggregator.push(attempt, {"a-1": Batch(0), "a-2": Batch(0)}) == told


def test_full_disk_keeps_the_lease_and_carries_the_stop(aggregator: Aggregator, clock: SimpleNamespace) -> None:
    attempt = aggregator.call("open", ["a-1"], "t").number
    aggregator._ledger._db.execute("PRAGMA query_only = ON")
    clock.now += 5
    batches = {"a-1": Batch(0, [record(0)])}
    assert aggregator.push(attempt, batches) == PushReply({}, busy=True, orders={"a-1": "go"})
    assert aggregator.pulse().silent == {attempt: 0.0}
    aggregator.stop()
    assert aggregator.push(attempt, batches) == PushReply({}, busy=True, orders={"a-1": "stop"})


def test_a_lease_begins_with_the_first_push_and_ends_with_the_attempt(
    aggregator: Aggregator, clock: SimpleNamespace
) -> None:
    first, second = (aggregator.call("open", [trial.id], trial.id).number for trial in TRIALS)
    clock.now += 3
    assert aggregator.pulse() == Pulse({}, 0.0)
    aggregator.push(second, {})
    clock.now += 1
    aggregator.push(first, {"a-1": Batch(0)})
    clock.now += 2
    assert aggregator.pulse().silent == {first: 2.0, second: 3.0}
    aggregator.call("close", first, "killed")
    aggregator.push(first, {})
    aggregator.push(99, {})  # of no attempt that it knows
    assert aggregator.pulse().silent == {second: 3.0}


def test_who_does_not_train_yet_is_told(aggregator: Aggregator) -> None:
    first, second = (aggregator.call("open", [trial.id], trial.id).number for trial in TRIALS)
    for attempt in (first, second):
        aggregator.push(attempt, {}, "compiling")
    assert aggregator.pulse().starting == {first, second}
    aggregator.push(first, {}, TRAINING)
    aggregator.push(99, {}, "starting")  # of no attempt that it knows
    assert aggregator.pulse().starting == {second}
    aggregator.call("close", second, "killed")
    assert not aggregator.pulse().starting


def test_every_open_attempt_gets_a_full_lease_after_a_restart(aggregator: Aggregator, clock: SimpleNamespace) -> None:
    first, second = (aggregator.call("open", [trial.id], trial.id).number for trial in TRIALS)
    aggregator.push(first, {})
    clock.now += 3
    restart(aggregator)
    assert aggregator.pulse().silent == {first: 0.0, second: 0.0}
    clock.now += 2
    aggregator.call("close", first, "killed")
    assert aggregator.pulse().silent == {second: 2.0}


def test_no_lease_runs_while_the_aggregator_does_not(aggregator: Aggregator, clock: SimpleNamespace) -> None:
    first, second = (aggregator.call("open", [trial.id], trial.id).number for trial in TRIALS)
    aggregator.push(first, {})
    aggregator.push(second, {})
    clock.now += 2
    assert aggregator.pulse().silent == {first: 2.0, second: 2.0}
    clock.now += 100  # stopped, then woken by the question of the launcher
    assert aggregator.pulse().silent == {first: 2.0, second: 2.0}
    clock.now += 100  # stopped again, then woken by a worker
    aggregator.push(second, {})
    assert aggregator.pulse().silent == {first: 2.0, second: 0.0}
    for _ in range(40):  # asked every second, a lease runs
        clock.now += 1
        aggregator.push(second, {})
    assert aggregator.pulse().silent == {first: 42.0, second: 0.0}


def test_full_disk_answers_busy_and_nothing_is_done(aggregator: Aggregator) -> None:
    attempt = aggregator.call("open", ["a-1"], "t").number
    aggregator.call("close", aggregator.call("open", ["a-2"], "t2").number, "crash")
    before = rows(aggregator)
    refuse(aggregator, True)
    assert aggregator.call("open", ["a-2"], "t3") == BUSY
    assert aggregator.call("describe_attempt", attempt, "log", "here", 1) == BUSY
    assert aggregator.call("fail", ["a-2"], "boo") == BUSY
    assert aggregator.call("close", attempt, "crash", "boo") == BUSY
    assert rows(aggregator) == before
    refuse(aggregator, False)
    assert aggregator.push(attempt, {"a-1": Batch(0)}).high_water == {"a-1": 0}, "it is not closed"
    assert aggregator.call("fail", ["a-2"], "boo") is None
    assert aggregator.call("close", attempt, "crash", "boo") == ["a-1"]
    assert [row.state for row in aggregator._ledger.trials()] == ["pending", "failed"]


def test_an_attempt_that_could_not_be_closed_keeps_its_lease(aggregator: Aggregator, clock: SimpleNamespace) -> None:
    attempt = aggregator.call("open", ["a-1"], "t").number
    aggregator.push(attempt, {})
    refuse(aggregator, True)
    clock.now += 2
    aggregator.call("close", attempt, "crash")
    assert aggregator.pulse().silent == {attempt: 2.0}


def test_only_what_is_meant_to_be_called_is(aggregator: Aggregator) -> None:
    for name in ("disconnect", "add_revision", "_rewind"):
        with pytest.raises(ValueError, match=f"^{name}: not one of "):
            aggregator.call(name)


def test_errors_that_are_not_the_disks_are_raised(aggregator: Aggregator) -> None:
    aggregator._ledger._db.execute("DROP TABLE members")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        aggregator.call("open", ["a-1"], "t")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        aggregator.call("close", 1, "crash")
    assert aggregator.pulse().refusing == 0.0


CALLS: dict[str, Callable[[Aggregator], object]] = {
    "open": lambda aggregator: aggregator.call("open", ["a-2"], "another"),
    "close": lambda aggregator: aggregator.call("close", 1, "crash"),
    "fail": lambda aggregator: aggregator.call("fail", ["a-2"], "boo"),
    "describe_attempt": lambda aggregator: aggregator.call("describe_attempt", 1, "log", "here", 1),
    "push": lambda aggregator: aggregator.push(1, {"a-1": Batch(0, [record(0)])}),
    "publish": lambda aggregator: aggregator.call(
        "publish", 1, {"a-1": Published(1, b"weights", "agent", 0, "running")}
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_write_tells_whether_the_disk_takes_it(aggregator: Aggregator, clock: SimpleNamespace, call: str) -> None:
    assert aggregator.call("open", ["a-1"], "t").number == 1
    refuse(aggregator, True)
    CALLS[call](aggregator)
    clock.now += 3
    CALLS[call](aggregator)  # again: since when counts, not when last
    clock.now += 1
    assert aggregator.pulse().refusing == 4.0
    refuse(aggregator, False)
    CALLS[call](aggregator)
    assert aggregator.pulse().refusing == 0.0


def test_a_beat_alone_does_not_tell_that_the_disk_has_room(aggregator: Aggregator, clock: SimpleNamespace) -> None:
    attempt = aggregator.call("open", ["a-1"], "t").number
    refuse(aggregator, True)
    aggregator.push(attempt, {"a-1": Batch(0, [record(0)])})
    refuse(aggregator, False)
    clock.now += 2
    for beat in ({}, {"a-1": Batch(0)}):
        assert not aggregator.push(attempt, beat).busy
        assert aggregator.pulse().refusing == 2.0
    aggregator.push(attempt, {"a-1": Batch(0, [record(0)])})
    assert aggregator.pulse().refusing == 0.0


# As a Ray actor


@pytest.fixture(scope="module")
def ray_local() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is left in the home folder
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        with local_ray(num_cpus=2):
            yield


@pytest.fixture
def actor(ray_local: None, directory: Path) -> Iterator[object]:
    import ray

    actor = start_aggregator(directory)
    yield actor
    ray.kill(actor)


def inside(actor: object, function: object) -> object:
    """What `function` of the aggregator returns in the actor's process."""
    import ray

    return ray.get(actor.__ray_call__.remote(function))


def test_actor_serves_a_launch(actor: object, directory: Path) -> None:
    import ray

    attempt = ray.get(actor.call.remote("open", ["a-1", "a-2"], "t"))
    assert ray.get(actor.call.remote("open", ["a-1", "a-2"], "t")) == attempt
    ray.get(actor.call.remote("describe_attempt", attempt.number, "logs/attempt-1.log", "here", 1))
    reply = ray.get(actor.push.remote(attempt.number, {"a-1": Batch(0, [record(0)])}, "hello"))
    assert reply == PushReply({"a-1": 1}, busy=False, orders={"a-1": "go"})
    published = {"a-1": Published(1, b"weights", "agent", 1, "finished")}
    assert ray.get(actor.call.remote("publish", attempt.number, published)) == {"a-1": STORED}
    assert list(ray.get(actor.pulse.remote()).silent) == [attempt.number]
    assert ray.get(actor.call.remote("close", attempt.number, "crash", "killed")) == ["a-2"]
    ray.get(actor.call.remote("fail", ["a-1", "a-2"], "killed"))
    assert ray.get(actor.pulse.remote()) == Pulse({}, 0.0)
    with Ledger(directory, writer=False) as ledger:
        assert [row.state for row in ledger.trials()] == ["finished", "failed"]
        (row,) = ledger.attempts()
        assert (row.log, row.note, row.outcome) == ("logs/attempt-1.log", "hello", "crash")


def test_user_error_comes_through(actor: object) -> None:
    import ray

    with pytest.raises(UserError, match="'nobody' cannot be trained"):
        ray.get(actor.call.remote("open", ["nobody"], "t"))


def test_second_launch_on_the_directory_is_refused(
    actor: object, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregator_module, "RELEASE_SECONDS", 0.0)
    with pytest.raises(UserError, match="in use by another launch"):
        start_aggregator(directory)


def test_launch_waits_for_the_end_of_the_one_before(ray_local: None, directory: Path) -> None:
    import ray

    before = start_aggregator(directory)
    process = inside(before, lambda _: os.getpid())
    ray.kill(before)
    after = start_aggregator(directory)
    assert inside(after, lambda _: os.getpid()) != process
    ray.kill(after)


def test_an_aggregator_that_does_not_start_is_not_waited_for_for_ever(
    ray_local: None, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck(Aggregator):
        def __init__(self, directory: Path) -> None:
            time.sleep(600)

    import ray

    monkeypatch.setattr(aggregator_module, "Aggregator", Stuck)
    ray.kill(start_aggregator(directory, interrupted=lambda: True))
    monkeypatch.setattr(aggregator_module, "START_SECONDS", 0.1)
    with pytest.raises(TimeoutError, match=r"did not start within .*Ray's logs are in /.*/logs$"):
        start_aggregator(directory)


def test_actor_is_light_and_sees_no_gpu(actor: object) -> None:
    assert inside(actor, lambda _: os.environ["CUDA_VISIBLE_DEVICES"]) == ""
    assert inside(actor, lambda _: {"torch", "jax", "envpool"} & set(sys.modules)) == set()


def test_new_launch_forgets_the_stop_of_the_one_before(ray_local: None, directory: Path) -> None:
    import ray

    with Ledger(directory) as ledger:
        ledger.request_stop(True)
    actor = start_aggregator(directory)
    attempt = ray.get(actor.call.remote("open", ["a-1"], "t")).number
    assert ray.get(actor.push.remote(attempt, {"a-1": Batch(0)})).orders == {"a-1": "go"}
    ray.kill(actor)


def test_every_record_once_though_the_actor_is_killed(actor: object, directory: Path) -> None:
    import ray

    def push_until_stopped(actor: object, attempt: int, trial: str) -> int:
        sent, high, stop = 0, 0, False
        while not stop:
            sent += 3
            # Two pushes on their way at once, the second with records of the first.
            one = actor.push.remote(attempt, {trial: Batch(high, [record(i) for i in range(high, sent)])})
            two = actor.push.remote(attempt, {trial: Batch(sent - 1, [record(sent - 1)])})
            replies = ray.get([one, two])
            # A restarted actor may have got them in the other order, so the last answer is not the highest.
            high = max(reply.high_water[trial] for reply in replies)
            stop = any(reply.orders[trial] == "stop" for reply in replies)
        return high

    attempt = ray.get(actor.call.remote("open", ["a-1", "a-2"], "t")).number
    push = ray.remote(num_cpus=1, max_retries=0)(push_until_stopped)
    workers = {trial.id: push.remote(actor, attempt, trial.id) for trial in TRIALS}
    processes = set()
    with Ledger(directory, writer=False) as reader:
        for kill in range(3):
            while min(row.records for row in reader.progress()) < 50 * (kill + 1):
                time.sleep(0.01)
            process = inside(actor, lambda _: os.getpid())
            processes.add(process)
            os.kill(process, signal.SIGKILL)
        ray.get(actor.stop.remote())
        for trial, worker in workers.items():
            count = ray.get(worker)
            assert count >= 150
            assert [row.record for row in reader.records(trial)] == [record(i) for i in range(count)]
        assert reader._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(processes) == 3
