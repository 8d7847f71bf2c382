"""The aggregator: replies and leases in one process, then as a Ray actor that is killed during pushes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher import aggregator as aggregator_module
from launcher.aggregator import Aggregator, PushReply, start_aggregator
from launcher.ledger import Ledger
from launcher.rows import LOST, STORED, Batch, Published, TrialRow
from runner.errors import UserError
from runner.tracking import Record

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


# In one process


def test_push_reply(aggregator: Aggregator) -> None:
    attempt = aggregator.open(["a-1"], "t").number
    batches = {"a-1": Batch(0, [record(0)]), "a-2": Batch(0)}
    assert aggregator.push(attempt, batches) == PushReply({"a-1": 1, "a-2": LOST}, busy=False, stop=False)


def test_stop_reaches_all_and_survives_a_restart(aggregator: Aggregator) -> None:
    attempt = aggregator.open(["a-1"], "t").number
    aggregator.stop()
    assert aggregator.push(attempt, {}).stop
    restart(aggregator)
    assert aggregator.push(attempt, {"a-1": Batch(0)}) == PushReply({"a-1": 0}, busy=False, stop=True)


def test_full_disk_keeps_the_lease_and_carries_the_stop(aggregator: Aggregator, clock: SimpleNamespace) -> None:
    attempt = aggregator.open(["a-1"], "t").number
    aggregator._ledger._db.execute("PRAGMA query_only = ON")
    clock.now += 5
    batches = {"a-1": Batch(0, [record(0)])}
    assert aggregator.push(attempt, batches) == PushReply({}, busy=True, stop=False)
    assert aggregator.beats() == {attempt: 0.0}
    aggregator.stop()
    assert aggregator.push(attempt, batches) == PushReply({}, busy=True, stop=True)


def test_beats(aggregator: Aggregator, clock: SimpleNamespace) -> None:
    first, second = (aggregator.open([trial.trial], trial.trial).number for trial in TRIALS)
    clock.now += 3
    aggregator.push(second, {})
    clock.now += 1
    assert aggregator.beats() == {first: 4.0, second: 1.0}  # an attempt that never pushes grows old as well
    aggregator.close(first, "killed")
    aggregator.push(first, {})
    assert aggregator.beats() == {second: 1.0}
    restart(aggregator)
    clock.now += 2
    assert aggregator.beats() == {second: 2.0}


# As a Ray actor


@pytest.fixture(scope="module")
def ray_local() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is left in the home folder
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        import ray

        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100_000_000,
            log_to_driver=False,
        )
        yield
        ray.shutdown()


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

    attempt = ray.get(actor.open.remote(["a-1", "a-2"], "t"))
    assert ray.get(actor.open.remote(["a-1", "a-2"], "t")) == attempt
    ray.get(actor.describe_attempt.remote(attempt.number, "logs/attempt-1.log", "here", 1))
    reply = ray.get(actor.push.remote(attempt.number, {"a-1": Batch(0, [record(0)])}, "hello"))
    assert reply == PushReply({"a-1": 1}, busy=False, stop=False)
    published = {"a-1": Published(1, b"weights", "agent", 1, "finished")}
    assert ray.get(actor.publish.remote(attempt.number, published)) == {"a-1": STORED}
    ray.get(actor.fail.remote(attempt.number, ["a-1", "a-2"], "killed"))
    assert list(ray.get(actor.beats.remote())) == [attempt.number]
    ray.get(actor.close.remote(attempt.number, "done"))
    with Ledger(directory, writer=False) as ledger:
        assert [row.state for row in ledger.trials()] == ["finished", "failed"]
        (row,) = ledger.attempts()
        assert (row.log, row.note, row.outcome) == ("logs/attempt-1.log", "hello", "done")


def test_user_error_comes_through(actor: object) -> None:
    import ray

    with pytest.raises(UserError, match="'nobody' cannot be trained"):
        ray.get(actor.open.remote(["nobody"], "t"))


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


def test_actor_is_light_and_sees_no_gpu(actor: object) -> None:
    assert inside(actor, lambda _: os.environ["CUDA_VISIBLE_DEVICES"]) == ""
    assert inside(actor, lambda _: {"torch", "jax", "envpool"} & set(sys.modules)) == set()


def test_new_launch_forgets_the_stop_of_the_one_before(ray_local: None, directory: Path) -> None:
    import ray

    with Ledger(directory) as ledger:
        ledger.request_stop(True)
    actor = start_aggregator(directory)
    assert not ray.get(actor.push.remote(1, {})).stop
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
            stop = any(reply.stop for reply in replies)
        return high

    attempt = ray.get(actor.open.remote(["a-1", "a-2"], "t")).number
    push = ray.remote(num_cpus=1, max_retries=0)(push_until_stopped)
    workers = {trial.trial: push.remote(actor, attempt, trial.trial) for trial in TRIALS}
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
