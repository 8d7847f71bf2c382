"""The worker's link against a real aggregator in this process, its core, and its log."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

import runner.torch
from launcher.ledger.aggregator import Aggregator, PushReply
from launcher.ledger.rows import BUSY, GAP, LOST
from launcher.run import worker as worker_module
from launcher.run.process import EvaluationJob, redirected
from launcher.run.worker import Link, Worker
from runner.envs.envpool import EnvPoolTask
from runner.envs.named import imports, measure
from runner.envs.named.measure import resident_bytes
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from runner.training.tracking import Record
from tests.launcher.builders import A, B, agent, records, state, stored
from tests.point import FailsForOne
from tests.runner.builders import plain_config


class Handle:
    """An aggregator as its Ray handle looks, in this process.

    Attributes:
        calls: name and arguments of every call, in order.
        answers: answers to give instead of the aggregator's, first come first served, by name of the call.
        hold: while cleared, calls wait.
        calling: held by a call; who touches the ledger's connection meanwhile, which no two threads may, takes it.
    """

    def __init__(self, aggregator: Aggregator) -> None:
        self.aggregator = aggregator
        self.calls: list[tuple[str, Any]] = []
        self.answers: dict[str, list[Any]] = {"push": [], "publish": []}
        self.hold = threading.Event()
        self.hold.set()
        self.calling = threading.Lock()
        self.push = SimpleNamespace(remote=lambda attempt, what, note: self._call("push", attempt, what, note))
        self.call = SimpleNamespace(remote=self._call)

    def _call(self, name: str, attempt: int, what: Any, *note: str) -> Any:
        assert self.hold.wait(20)
        self.calls.append((name, what))
        if self.answers[name]:
            answer = self.answers[name].pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        with self.calling:
            if name == "push":
                return self.aggregator.push(attempt, what, *note)
            return self.aggregator.call(name, attempt, what)

    def sent(self, trial: str = "a-1") -> list[tuple[str, Any]]:
        """Calls about a trial: ("push", indices of its records) if there were any, ("publish", timestep)."""
        found: list[tuple[str, Any]] = []
        for name, what in self.calls:
            if trial in what and name == "publish":
                found.append((name, what[trial].timestep))
            elif trial in what and what[trial].records:
                found.append((name, [r.index for r in what[trial].records]))
        return found


@pytest.fixture
def handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    import ray

    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(worker_module, "BEAT_SECONDS", 0.01)
    aggregator = Aggregator(tmp_path)
    aggregator._ledger.add_trials([A, B])
    yield Handle(aggregator)
    aggregator._ledger.disconnect()


@pytest.fixture
def link(handle: Handle) -> Iterator[Link]:
    attempt = handle.aggregator.call("open", ["a-1", "b-1"], "t").number
    link = Link(handle, attempt, ["a-1", "b-1"])
    yield link
    handle.hold.set()
    link.close()
    assert not link._thread.is_alive()


def record_all(link: Link, records: list[Record], trial: str = "a-1") -> None:
    for record in records:
        link.record({trial: record})


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# The link


def test_records_come_before_the_checkpoint_that_covers_them(handle: Handle, link: Link) -> None:
    handle.hold.clear()
    record_all(link, records(0, 3))
    link.publish({"a-1": agent(30, 3)})
    record_all(link, records(3, 5))
    link.publish({"a-1": agent(50, 5, state="finished")})
    handle.hold.set()
    link.flush()
    assert stored(handle.aggregator._ledger) == records(0, 5)
    assert [c.timestep for c in handle.aggregator._ledger.checkpoints("a-1")] == [30, 50]
    assert state(handle.aggregator._ledger) == "finished"
    covered = 0
    for name, what in handle.sent():
        if name == "push":
            covered = what[-1] + 1
        else:
            assert covered >= what // 10


def test_beats_ask_for_the_next_record(handle: Handle, link: Link) -> None:
    until(lambda: len(handle.calls) > 2)
    assert {batch.first for _, what in handle.calls for batch in what.values()} == {0}
    record_all(link, records(0, 4))
    link.flush()
    handle.calls.clear()
    until(lambda: len(handle.calls) > 2)
    assert [(what["a-1"].first, what["b-1"].first, what["a-1"].records) for _, what in handle.calls[-2:]] == [
        (4, 0, []),
        (4, 0, []),
    ]


def test_a_lower_answer_out_of_order_sends_nothing_again(handle: Handle, link: Link) -> None:
    record_all(link, records(0, 4))
    link.flush()
    handle.answers["push"].append(PushReply({"a-1": 2, "b-1": 0}, busy=False, orders={"a-1": "go", "b-1": "go"}))
    until(lambda: not handle.answers["push"])
    record_all(link, records(4, 6))
    link.flush()
    assert stored(handle.aggregator._ledger) == records(0, 6)
    assert [index for name, what in handle.sent() if name == "push" for index in what].count(5) == 1


def test_busy_keeps_everything_until_there_is_room(handle: Handle, link: Link) -> None:
    with handle.calling:
        handle.aggregator._ledger._db.execute("PRAGMA query_only = ON")  # a true SQLITE_READONLY
    record_all(link, records(0, 3))
    link.publish({"a-1": agent(30, 3)})
    record_all(link, records(3, 5))
    seen = len(handle.calls)
    until(lambda: len(handle.calls) > seen + 5)
    with handle.calling:
        assert stored(handle.aggregator._ledger) == []
        assert all(name == "push" for name, _ in handle.sent())
        handle.aggregator._ledger._db.execute("PRAGMA query_only = OFF")
    link.flush()
    assert stored(handle.aggregator._ledger) == records(0, 5)
    assert [c.timestep for c in handle.aggregator._ledger.checkpoints("a-1")] == [30]


def test_disk_without_room_for_a_checkpoint(handle: Handle, link: Link) -> None:
    handle.answers["publish"] += [BUSY, BUSY, BUSY]
    record_all(link, records(0, 1))
    link.publish({"a-1": agent(10, 1, state="finished")})
    link.flush()
    assert [call for call in handle.sent() if call[0] == "publish"] == [("publish", 10)] * 4
    assert state(handle.aggregator._ledger) == "finished"


def test_gap_is_pushed_and_published_again(handle: Handle, link: Link) -> None:
    handle.answers["publish"] += [{"a-1": GAP}]
    record_all(link, records(0, 2))
    link.publish({"a-1": agent(20, 2)})
    link.flush()
    assert [call for call in handle.sent() if call[0] == "publish"] == [("publish", 20)] * 2
    assert [c.timestep for c in handle.aggregator._ledger.checkpoints("a-1")] == [20]


def test_records_missing_in_between_are_sent_again(handle: Handle, link: Link) -> None:
    # The answer of an aggregator that died before it stored them, as Ray may replay it.
    handle.answers["push"] += [PushReply({"a-1": 0, "b-1": 0}, busy=False, orders={"a-1": "go", "b-1": "go"})] * 3
    record_all(link, records(0, 5))
    link.flush()
    assert stored(handle.aggregator._ledger) == records(0, 5)


def test_lost_trial_is_dropped_and_its_mate_goes_on(handle: Handle, link: Link) -> None:
    record_all(link, records(0, 2))
    link.flush()
    other = handle.aggregator.call("open", ["a-1"], "another").number
    record_all(link, records(2, 4))
    record_all(link, records(0, 3), "b-1")
    link.publish({"a-1": agent(40, 4)})
    link.publish({"b-1": agent(30, 3)})
    link.flush()
    assert link.lost == {"a-1"}
    ledger = handle.aggregator._ledger
    assert stored(ledger) == [] and stored(ledger, "b-1") == records(0, 3)
    assert ledger.checkpoints("a-1") == [] and len(ledger.checkpoints("b-1")) == 1
    record_all(link, records(4, 6))  # nobody hears it
    link.flush()
    handle.calls.clear()
    until(lambda: len(handle.calls) > 1)
    assert all("a-1" not in what for _, what in handle.calls)
    assert next(row.attempt for row in ledger.trials() if row.id == "a-1") == other


def test_checkpoints_of_a_pack_are_stored_together(handle: Handle, link: Link) -> None:
    link.publish({"a-1": agent(10, 0), "b-1": agent(10, 0)})
    link.flush()
    assert [set(what) for name, what in handle.calls if name == "publish"] == [{"a-1", "b-1"}]
    assert handle.aggregator._ledger.last_agents() == {"a-1": 10, "b-1": 10}


def test_checkpoints_larger_than_a_call_go_in_several(
    handle: Handle, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "CALL_BYTES", 100)
    link.publish({"a-1": agent(10, 0, b"x" * 200), "b-1": agent(10, 0, b"x")})
    link.flush()
    assert [list(what) for name, what in handle.calls if name == "publish"] == [["a-1"], ["b-1"]]
    assert handle.aggregator._ledger.last_agents() == {"a-1": 10, "b-1": 10}


def test_checkpoint_of_a_lost_trial(handle: Handle, link: Link) -> None:
    handle.answers["publish"].append({"a-1": LOST})
    link.publish({"a-1": agent(0, 0)})
    link.flush()
    assert link.lost == {"a-1"}


def test_stop_is_seen(handle: Handle, link: Link) -> None:
    until(lambda: len(handle.calls) > 2)
    assert set(link.orders.values()) == {"go"}
    handle.aggregator.call("open", ["b-1"], "another")
    handle.aggregator.stop()
    until(lambda: link.orders == {"a-1": "stop", "b-1": "lost"})
    handle.aggregator._stop = False  # as one that was started again on a full disk
    beats = len(handle.calls)
    until(lambda: len(handle.calls) > beats + 2)
    assert link.orders == {"a-1": "stop", "b-1": "lost"}


def test_training_waits_while_too_much_is_queued(handle: Handle, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "BACKLOG", 10)
    handle.hold.clear()
    recorded: list[int] = []

    def train() -> None:
        for record in records(0, 30):
            link.record({"a-1": record})
            recorded.append(record.index)

    trainer = threading.Thread(target=train)
    trainer.start()
    until(lambda: len(recorded) == 9)
    time.sleep(0.1)
    assert len(recorded) == 9
    handle.hold.set()
    trainer.join(200)
    link.flush()
    assert stored(handle.aggregator._ledger) == records(0, 30)


def test_waits_as_long_as_the_disk_is_full_and_beats_meanwhile(handle: Handle, link: Link) -> None:
    with handle.calling:
        handle.aggregator._ledger._db.execute("PRAGMA query_only = ON")
    record_all(link, records(0, 1))
    seen = len(handle.calls)
    until(lambda: len(handle.calls) > seen + 20)
    assert link._error is None
    waiting = threading.Thread(target=link.flush)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    with handle.calling:
        handle.aggregator._ledger._db.execute("PRAGMA query_only = OFF")
    waiting.join(200)
    assert not waiting.is_alive() and stored(handle.aggregator._ledger) == records(0, 1)


def test_dead_aggregator_ends_the_training(handle: Handle, link: Link) -> None:
    handle.answers["push"].append(ConnectionError("the driver is gone"))
    with pytest.raises(ConnectionError, match="gone"):
        while True:
            record_all(link, records(0, 1))
            time.sleep(0.01)


def test_close_sends_what_is_queued(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "BEAT_SECONDS", 60.0)
    link = Link(handle, handle.aggregator.call("open", ["a-1"], "t").number, ["a-1"])
    until(lambda: handle.calls)
    record_all(link, records(0, 5))
    began = time.monotonic()
    link.close()
    assert time.monotonic() - began < 20
    assert stored(handle.aggregator._ledger) == records(0, 5)


# The core


CLAIM = """
    import os, sys
    os.sched_setaffinity(0, set(map(int, sys.argv[1].split(","))))
    from launcher.run import process
    process.CLAIMS = sys.argv[2]  # others may train on this machine
    held = process.claim_cores(int(sys.argv[3]))
    print(len(held), *sorted(os.sched_getaffinity(0)), flush=True)
    input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="this system cannot pin processes")
def test_every_process_gets_cores_of_its_own_until_none_is_left(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    command = [sys.executable, "-c", textwrap.dedent(CLAIM), ",".join(map(str, cores)), f"test-{os.getpid()}-core-"]
    folders = (tmp_path / str(number) for number in itertools.count())

    def claim(count: int) -> tuple[subprocess.Popen[str], list[int]]:
        folder = next(folders)  # each has its own, as jobs of a cluster do
        folder.mkdir()
        process = subprocess.Popen(
            [*command, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        assert process.stdout is not None
        return process, list(map(int, process.stdout.readline().split()))

    processes = [claim(1) for _ in cores]
    assert [answer for _, answer in processes] == [[1, core] for core in cores]
    processes.append(claim(1))
    assert processes[-1][1] == [0, *cores]
    processes[0][0].kill()  # the claim ends with the process
    processes[0][0].wait()
    processes.append(claim(2))
    assert processes[-1][1] == [1, cores[0]], "of two wanted there is one"
    for process, _ in processes:
        process.kill()
        process.wait()
    processes.append(claim(2))
    assert processes[-1][1] == [len(cores), *cores]
    for process, _ in processes:
        process.kill()
        process.communicate()


# Its environment


@pytest.mark.parametrize("threads", [1, 3])
def test_a_worker_on_a_cpu_sees_no_gpu_and_computes_with_its_threads(threads: int) -> None:
    variables = worker_module.environment(threads, sharing=0)
    program = """
        import os, torch, jax
        print(torch.get_num_threads(), torch.cuda.is_available(), jax.default_backend())
        jax.block_until_ready(jax.numpy.ones((9, 9)) @ jax.numpy.ones((9, 9)))
        names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
        print(sum("tf_XLAEigen" in name for name in names) if names else None)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(threads), "False", "cpu", str(threads)]


@pytest.mark.parametrize(("sharing", "part"), [(1, "0.900"), (2, "0.450"), (3, "0.300")])
def test_workers_share_most_of_the_memory_of_a_gpu_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, sharing: int, part: str
) -> None:
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    variables = worker_module.environment(1, sharing)
    assert variables["XLA_CLIENT_MEM_FRACTION"] == part
    assert not {"CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"} & variables.keys()
    for name in names:
        monkeypatch.setenv(name, "0.4")
        assert not set(names) & worker_module.environment(1, sharing).keys()
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("cores", "threads", "sharing", "claims"),
    [(1, 1, 0, [1]), (4, 2, 0, [4]), (1, 1, 1, []), (1, 1, 2, []), (2, 2, 3, [])],
)
def test_a_worker_is_ready_with_cores_or_the_gpu_that_was_reserved(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, sharing: int, claims: list[int]
) -> None:
    seen: list[object] = []
    module = SimpleNamespace(
        sees_gpu=lambda: sharing < 3,
        share=seen.append,
        Runner=SimpleNamespace(backend="jax"),
        watch=lambda: seen.append("watched"),
    )
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(worker_module, "claim_cores", seen.append)
    monkeypatch.setattr(worker_module.importlib, "import_module", lambda name: seen.append(name) or module)
    worker = Worker("jax", cores, threads, sharing)
    assert seen == []
    with pytest.raises(UserError, match="jax sees none there") if sharing == 3 else contextlib.nullcontext():
        worker.ready()
    if sharing == 3:
        with pytest.raises(UserError, match="jax sees none there"):  # what Ray calls next fails for the same reason
            worker.evaluate(EvaluationJob({}, (), 1, 1, 0, True, 1))
    assert seen == [
        *claims,
        *("runner.jax", "runner.envs.envpool", "runner.envs.loop", "watched"),
        *([0.45] if sharing == 2 else []),
    ]
    assert os.environ["OMP_NUM_THREADS"] == str(threads)


# The log


def test_log_gets_what_any_code_prints(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "logs" / "attempt-1.log"
    library = ctypes.CDLL(None)
    same = [os.fstat(descriptor).st_ino for descriptor in (1, 2)]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), redirected(log):
            library.write(2, b"from C\n", 7)
            subprocess.run(["sh", "-c", "echo from a child"], check=True)
            raise ZeroDivisionError
    assert log.read_text() == "from C\nfrom a child\n" * 2
    assert [os.fstat(descriptor).st_ino for descriptor in (1, 2)] == same
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"


def test_log_that_cannot_be_made_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(3):
        with pytest.raises(OSError), redirected(tmp_path / "logs" / "attempt-1.log"):
            pass
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


class Heavy(gymnasium.Env[Any, Any]):
    """An environment of 40 MB, more than the C library ever keeps for a next one."""

    observation_space, action_space = Box(-1, 1, (1,), np.float32), Box(-1, 1, (1,), np.float32)

    def __init__(self) -> None:
        self.ballast = np.ones(5_000_000)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}


def test_the_memory_of_an_environment() -> None:
    assert 36e6 < resident_bytes(wrap_env(Heavy, 9)) < 44e6


@pytest.mark.parametrize("deterministic", [True, False])
def test_environments_of_an_evaluation_have_limited_memory(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = plain_config({"env": {"id": "CartPole-v1", "num_envs": 4}}, "CategoricalMixin")
    trained = runner.torch.Runner(EnvPoolTask("CartPole-v1", 4), config, threads=1)
    worker = Worker("torch", 1, 1, 0)
    monkeypatch.setattr(worker, "_backend", runner.torch, raising=False)
    files = (trained.checkpoint(0, *trained.states()),) * 2
    job = EvaluationJob(trained.cfg, files, 9, 9, 0, deterministic, 1)
    played: list[int] = []
    real = EnvPoolTask.of_each

    def of_each(self: EnvPoolTask, count: int) -> Any:
        played.append(count)
        return real(self, count)

    monkeypatch.setattr(EnvPoolTask, "of_each", of_each)
    monkeypatch.setattr(measure, "resident", itertools.count(1, 2).__next__)  # more at every look
    found = []
    for room in (2**30, 1):
        monkeypatch.setattr(worker_module, "POOL_BYTES", room)
        found.append(worker.evaluate(job))
        assert worker.full() == (room == 1)
    assert found[0] == found[1]
    assert played[-1] == (1 if deterministic else 9)  # of fewer, other actions would be drawn


def test_an_environment_that_cannot_be_measured_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**plain_config(), "env": {"id": "tests.point:FailsForOne", "chosen": 0, "num_envs": 4}}
    worker = Worker("torch", 1, 1, 0)
    monkeypatch.setattr(worker, "_backend", runner.torch, raising=False)
    monkeypatch.setattr(worker_module, "usable_cores", lambda: 2)
    trained = runner.torch.Runner(wrap_env(partial(FailsForOne, 0), 4), plain_config(), threads=1)
    with imports.scope():
        imports.allow({"tests": os.getcwd()})
        found = worker.evaluate(EvaluationJob(config, (trained.checkpoint(0, *trained.states()),), 2, 2, 5, True, 2))
    assert len(found[0]) == 2
