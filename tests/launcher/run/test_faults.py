"""Faults of workers, the aggregator and the disk on a real Ray: `pytest -m cluster`."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import main
from launcher.ledger.ledger import Ledger
from launcher.run import dispatch
from launcher.run import pool as processes
from launcher.run.worker import Worker
from runner.draws import environment_seeds
from runner.envs.named import imports
from tests.launcher.faulty import (
    RECORD,
    aggregator_pid,
    assert_whole,
    counts,
    meanwhile,
    saved,
    wait_until,
    worker_pids,
    worker_that,
    write_config,
)
from tests.launcher.held import held, let
from tests.launcher.local_ray import local_ray

pytestmark = pytest.mark.cluster
Launch = Callable[..., int]
RECORDS, HARMED = 200, 100
"""How many there are of a trial, and at how many it is held until the harm is done."""
LONG = RECORDS * RECORD
SPARSE = ("--workers", "2", "--set", f"agent.experiment.checkpoint_interval={LONG // 2}")


@pytest.fixture(scope="module")
def ray_address() -> Iterator[list[str]]:
    """One Ray for all launches of this module, with a core more than they use; the arguments that use it."""
    with local_ray(num_cpus=3) as address:
        yield address


@pytest.fixture
def launch(ray_address: list[str], tmp_path: Path) -> Launch:
    """Train in this process; the launch directory is `tmp_path / "run"`."""

    def run(timesteps: int, *arguments: str, out: Path = tmp_path) -> int:
        config = write_config(tmp_path, timesteps)
        return main([str(config), "--out", str(out), "--name", "run", *arguments, *ray_address])

    return run


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What holds all workers until `let`."""
    gate = tmp_path / "gate"
    monkeypatch.setattr(processes, "Worker", held(gate, HARMED))
    return gate


def trained(directory: Path, least: int) -> Callable[[], bool]:
    """Whether every trial has `least` records."""
    return lambda: bool(found := counts(directory)) and min(found.values()) >= least


def attempts(directory: Path) -> list[tuple[str | None, list[int]]]:
    """Of each attempt its outcome and the seeds that it had."""
    with Ledger(directory, writer=False) as ledger:
        seeds = {row.id: row.seed for row in ledger.trials()}
        members = ledger.members()
        return [
            (row.outcome, [seeds[member.trial] for member in members if member.attempt == row.number])
            for row in ledger.attempts()
        ]


def test_a_killed_worker_is_replaced(
    launch: Launch, gate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    seconds: list[float] = []

    def kill() -> None:
        wait_until(trained(directory, 12), "records")
        wait_until(lambda: saved(directory), "checkpoints")
        os.kill(worker_pids(directory)[1], signal.SIGKILL)
        began = time.monotonic()
        with Ledger(directory, writer=False) as ledger:
            new = lambda: any(row.number > 2 and row.note == "training" for row in ledger.attempts())  # noqa: E731
            wait_until(new, "a new attempt")
        seconds.append(time.monotonic() - began)

    with meanwhile(kill, gate):
        assert launch(LONG, "--seeds", "4", "--workers", "2") == 0
    assert_whole(directory, RECORDS)
    assert attempts(directory) == [("crash", [0, 1]), ("finished", [2, 3]), ("finished", [0, 1])]
    with Ledger(directory, writer=False) as ledger:
        assert max(member.timestep for member in ledger.members()) > 0
    shown = capsys.readouterr().out
    assert "the worker process died" in shown
    assert "logs/attempt-1.log); tried again in 1 s" in shown
    print(f"killed, and training again {seconds[0]:.1f} s later")


def test_a_worker_that_never_starts_is_given_up(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stuck(Worker):
        def __init__(self, *_: Any) -> None:
            time.sleep(600)

    monkeypatch.setattr(processes, "Worker", Stuck)
    monkeypatch.setattr(dispatch, "START_SECONDS", 1.0)
    assert launch(64, "--seeds", "1", "--workers", "1") == 1
    assert "the worker process did not start within" in capsys.readouterr().out
    assert attempts(tmp_path / "run") == [("crash", [0])] * 4


def test_a_poisonous_trial_fails_alone_and_its_mates_finish(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process aborts in native code whenever seed 2 is in the pack: two deaths, then halves."""
    monkeypatch.setattr(processes, "Worker", worker_that(os.abort, seed=2, at=3))
    assert launch(640, "--seeds", "4", "--workers", "1") == 1
    directory = tmp_path / "run"
    assert attempts(directory) == [
        ("crash", [0, 1, 2, 3]),
        ("crash", [0, 1, 2, 3]),
        ("finished", [0, 1]),
        ("crash", [2, 3]),
        ("crash", [2]),
        ("finished", [3]),
    ]
    with Ledger(directory, writer=False) as ledger:
        rows = {row.seed: row for row in ledger.trials()}
    assert {seed: row.state for seed, row in rows.items()} == {0: "finished", 1: "finished", 2: "failed", 3: "finished"}
    assert rows[2].error is not None
    assert "Abort" in rows[2].error
    assert "logs/attempt-5.log" in rows[2].error
    shown = capsys.readouterr().out
    assert "tried again in 2 packs" in shown
    assert rows[2].error in shown
    assert "not in these numbers: 1 of 4 seeds failed or diverged" in shown


def test_an_exception_that_repeats_is_not_tried_again(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boo() -> None:
        raise RuntimeError("boo")

    monkeypatch.setattr(processes, "Worker", worker_that(boo, seed=1, at=3))
    assert launch(640, "--seeds", "2", "--workers", "1") == 1
    assert attempts(tmp_path / "run") == [("error", [0, 1]), ("error", [0, 1])]
    with Ledger(tmp_path / "run", writer=False) as ledger:
        for row in ledger.trials():
            assert (row.state, row.error) == ("failed", "RuntimeError: boo (log: logs/attempt-2.log)")
    assert "in boo" in (tmp_path / "run" / "logs" / "attempt-2.log").read_text()


def test_a_pack_that_is_too_big_for_the_memory_is_halved(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise MemoryError("Unable to allocate 1.2 TiB")

    monkeypatch.setattr(processes, "Worker", worker_that(full, seed=0, at=3))
    assert launch(640, "--seeds", "2", "--workers", "1") == 1
    together, *halves = attempts(tmp_path / "run")
    assert together == ("crash", [0, 1])
    assert halves == [("crash", [0]), ("finished", [1]), *[("crash", [0])] * 3]


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Wait until who does not answer has lost its trials; before and after, a machine may be as busy as it likes."""

    def expire() -> None:
        with pytest.MonkeyPatch.context() as patch, Ledger(tmp_path / "run", writer=False) as ledger:
            patch.setattr(dispatch, "LEASE_SECONDS", 8.0)
            wait_until(lambda: ledger.attempts()[0].outcome, "the end of the lease")

    return expire


def test_a_hung_worker_loses_its_lease(
    launch: Launch, gate: Path, tmp_path: Path, short_lease: Callable[[], None]
) -> None:
    directory = tmp_path / "run"
    hung: list[int] = []

    def stop() -> None:
        wait_until(trained(directory, 12), "records")
        hung.append(worker_pids(directory)[1])
        os.kill(hung[0], signal.SIGSTOP)
        short_lease()

    with meanwhile(stop, gate):
        assert launch(LONG, "--seeds", "2", "--workers", "2") == 0
    assert_whole(directory, RECORDS)
    assert attempts(directory) == [("crash", [0]), ("finished", [1]), ("finished", [0])]
    with Ledger(directory, writer=False) as ledger:
        assert "did not answer for 8 s" in str(ledger.attempts()[0].error)
    assert not Path(f"/proc/{hung[0]}").exists()


def test_a_worker_that_makes_its_environments_in_one_long_call_keeps_its_lease(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"

    class Slow(Worker):
        def _runner(self, job: Any) -> Any:
            time.sleep(3)  # a beat says that it is starting
            begun.touch()
            ctypes.PyDLL(None).sleep(12)  # which keeps Python's lock, as EnvPool's constructor does
            return super()._runner(job)

    def wait() -> None:
        wait_until(begun.exists, "the call")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dispatch, "LEASE_SECONDS", 2.0)
            time.sleep(9)

    monkeypatch.setattr(processes, "Worker", Slow)
    with meanwhile(wait):
        assert launch(640, "--seeds", "2", "--workers", "1") == 0
    assert attempts(tmp_path / "run") == [("finished", [0, 1])]


def test_a_ghost_that_wakes_is_fenced(
    launch: Launch, gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_lease: Callable[[], None]
) -> None:
    """As where the machine of a hung worker cannot be reached to end it: it wakes while another has its trial."""
    import ray

    kept: list[Any] = []
    kill = ray.kill
    monkeypatch.setattr(dispatch, "end_process", lambda place, worker: kept.append(worker))
    monkeypatch.setattr(ray, "kill", lambda actor, **more: None if actor in kept else kill(actor, **more))
    directory = tmp_path / "run"

    def stop() -> None:
        wait_until(trained(directory, 12), "records")
        ghost = worker_pids(directory)[1]
        os.kill(ghost, signal.SIGSTOP)
        short_lease()
        wait_until(lambda: 3 in worker_pids(directory), "a new worker")
        os.kill(ghost, signal.SIGCONT)
        wait_until(lambda: 1 not in worker_pids(directory), "the ghost gives up")

    with meanwhile(stop, gate):
        assert launch(LONG, "--seeds", "2", "--workers", "2") == 0
    assert_whole(directory, RECORDS)
    assert attempts(directory) == [("crash", [0]), ("finished", [1]), ("finished", [0])]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_an_aggregator_that_dies_is_started_again(launch: Launch, gate: Path, tmp_path: Path, number: int) -> None:
    directory = tmp_path / "run"

    def harm() -> None:
        for least in (12, HARMED):
            wait_until(trained(directory, least), "records")
            harmed = wait_until(lambda: aggregator_pid(directory), "an aggregator")
            os.kill(harmed, number)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(dispatch, "HUNG_SECONDS", 4.0)
                wait_until(lambda: aggregator_pid(directory) != harmed, "its end")  # noqa: B023

    with meanwhile(harm, gate):
        assert launch(LONG, "--seeds", "2", "--workers", "2") == 0
    assert_whole(directory, RECORDS)
    assert [outcome for outcome, _ in attempts(directory)] == ["finished", "finished"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB; whoever calls `fill` leaves it without room."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=False)
    if mounted.returncode:
        pytest.skip("a file system of its own needs root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def starve(disk: Path) -> None:
    """Leave no byte free once the launch there has records."""
    wait_until(trained(disk / "run", 12), "records")
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (65_536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_training_waits_for_room_on_the_disk(
    launch: Launch,
    gate: Path,
    small_disk: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("launcher.watch.progress.LINES_EVERY", 1.0)
    directory = small_disk / "run"
    shown = ""

    def told() -> bool:
        nonlocal shown
        shown += capsys.readouterr().out
        return "DISK FULL" in shown

    def starve_until_it_is_told() -> None:
        starve(small_disk)
        let(gate)
        wait_until(told, "what is wrong")
        (small_disk / "filler").unlink()

    with meanwhile(starve_until_it_is_told):
        assert launch(LONG, "--seeds", "2", *SPARSE, out=small_disk) == 0
    assert_whole(directory, RECORDS)


def test_a_disk_that_stays_full_ends_the_launch_which_goes_on_later(
    launch: Launch,
    gate: Path,
    ray_address: list[str],
    small_disk: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "GIVE_UP_SECONDS", 4.0)
    directory = small_disk / "run"

    with meanwhile(lambda: starve(small_disk), gate):
        assert launch(LONG, "--seeds", "2", *SPARSE, out=small_disk) == 1
    shown = capsys.readouterr().out
    assert "the disk is full or read-only" in shown
    assert f"launch resume {directory}" in shown
    (small_disk / "filler").unlink()
    assert main(["resume", str(directory), *ray_address]) == 0
    assert_whole(directory, RECORDS)


def test_a_failed_environment_fails_its_own_trial_and_its_mates_finish(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(imports.VARIABLE, "{}")
    chosen = environment_seeds(1, 8)[5]
    environment = ("--env", "tests.point:FailsForOne", "--set", f"env.chosen={chosen}", "--set", "env.num_envs=8")
    policy = ("--set", "models.policy.class=GaussianMixin", "--backend", "torch", "--set", "compile=False")
    assert launch(64, "--seeds", "3", "--workers", "1", *environment, *policy) == 1
    assert attempts(tmp_path / "run") == [("error", [0, 1, 2]), ("finished", [0, 2]), ("error", [1])]
    words = f"the environment with seed {chosen} raised in its step: ZeroDivisionError: the point fell off"
    assert words in capsys.readouterr().out
