"""A launch directory as lines of text, there and back; what an address stands for; what jobs are sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from launcher.cli.main import main
from launcher.cluster.archive import Unpacker, bring, refuse_to_lose
from launcher.cluster.jobs import Jobs, dashboard_of
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import TrialRow
from launcher.plan.resources import Resources
from launcher.plan.resume import Request
from launcher.run import session
from runner.errors import UserError
from tests.launcher.builders import A, B, agent, batch


class Client:
    """Of the jobs API: connections that bring some pieces and then end or break."""

    def __init__(self, *connections: Sequence[str | Exception]) -> None:
        self.connections = list(connections)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for piece in self.connections.pop(0):
            await asyncio.sleep(0)
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def get_job_info(self, job: str) -> Any:
        return SimpleNamespace(status="RUNNING" if self.connections else "SUCCEEDED")


def watched(client: Client, take: Callable[[str], Any]) -> None:
    jobs = object.__new__(Jobs)
    jobs.url, jobs._client = "http://nowhere:8265", client
    jobs._watch("job", take)


def test_a_connection_that_breaks_is_made_again_and_nothing_is_shown_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.cluster.jobs.POLL_SECONDS", 0.0)
    shown: list[str] = []
    refused = aiohttp.ClientConnectionError("refused")
    watched(Client([refused], ["ab", "c", RuntimeError()], ["abcd"], ["a", "bcdef", "g"]), shown.append)
    assert "".join(shown) == "abcdefg"


def test_an_error_of_whoever_takes_the_text_is_not_taken_for_a_broken_connection() -> None:
    def full(_: str) -> None:
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        watched(Client(["a"], ["a"]), full)


@pytest.mark.parametrize("turns", range(4))
def test_ctrl_c_ends_the_watching_whenever_it_comes(turns: int) -> None:
    def interrupt(later: int) -> None:
        if later:
            asyncio.get_running_loop().call_soon(interrupt, later - 1)
        else:
            signal.raise_signal(signal.SIGINT)

    shown: list[str] = []

    def take(text: str) -> None:
        shown.append(text)
        if len(shown) == 3:
            interrupt(turns)

    with pytest.raises(KeyboardInterrupt):
        watched(Client(["a"] * 100), take)
    assert len(shown) < 20


def test_a_log_that_cannot_be_read_for_minutes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.cluster.jobs.POLL_SECONDS", 0.0)
    monkeypatch.setattr("launcher.cluster.jobs.GIVE_UP_SECONDS", 0.0)
    with pytest.raises(UserError, match="what job prints cannot be read: no websockets here"):
        watched(Client([RuntimeError("no websockets here")], ["a"]), print)


def carried(directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "launcher.cluster.archive", str(directory)], capture_output=True, text=True, check=True
    )
    return done.stdout


def unpacked(text: str, folder: Path) -> Path:
    with (folder / "archive").open("wb") as file:
        unpacker = Unpacker(file.write)
        with contextlib.suppress(ValueError):  # a line that was harmed
            for first in range(0, len(text), 7_001):  # as it comes: not in lines
                unpacker.take(text[first : first + 7_001])
        unpacker.check("http://nowhere:8265")
    with tarfile.open(folder / "archive") as tar:
        tar.extractall(folder / "out", filter="data")
    return folder / "out"


def test_what_is_brought_takes_the_place_of_what_was_brought_before_and_of_nothing_else(
    directory: Path, tmp_path: Path
) -> None:
    archive, here = tmp_path / "archive", tmp_path / "here"
    unpacked(carried(directory), tmp_path)
    for turn in range(2):
        bring(archive, here, {"time": turn})
        assert json.loads((here / "pulled.json").read_text())["time"] == turn
        shutil.rmtree(tmp_path / "old", ignore_errors=True)
    with Ledger(here) as ledger:
        ledger.add_trials([TrialRow("c-1", "c", 1, 4, 1000)])
    with pytest.raises(UserError, match="was trained or evaluated in since it was pulled"):
        refuse_to_lose(here)
    (here / "pulled.json").unlink()
    with pytest.raises(UserError, match="exists already, and was not pulled"):
        refuse_to_lose(here)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Of a launch whose ledger is being written, with what it said last still in SQLite's journal."""
    directory = tmp_path / "run"
    directory.mkdir()
    with Ledger(directory) as ledger:
        ledger.add_trials([A, B])
        attempt = ledger.open(["a-1"], "t").number
        ledger.push(attempt, {"a-1": batch(0, 50)})
        ledger.publish(attempt, {"a-1": agent(500, 50, bytes(range(256)) * 400)})
        (directory / "plan.json").write_text("{}")
        yield directory


def test_a_directory_arrives_as_it_is_while_it_is_written(directory: Path, tmp_path: Path) -> None:
    stop = threading.Event()

    def grow() -> None:
        with (directory / "grows.log").open("a") as log:
            while not stop.is_set():
                log.write("line\n" * 100)
                log.flush()

    writing = threading.Thread(target=grow)
    writing.start()
    try:
        text = carried(directory)
    finally:
        stop.set()
        writing.join()
    there = unpacked("some warning\n" + text, tmp_path)
    assert sorted(path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()) == [
        "grows.log",
        "ledger.sqlite",
        "plan.json",
        "trials/a-1/checkpoints/agent_500.safetensors",
    ]
    with Ledger(there, writer=False) as mine, Ledger(directory, writer=False) as theirs:
        assert mine.records("a-1") == theirs.records("a-1") and len(mine.records("a-1")) == 50
        assert mine.checkpoints("a-1") == theirs.checkpoints("a-1")
    name = "trials/a-1/checkpoints/agent_500.safetensors"
    assert (there / name).read_bytes() == (directory / name).read_bytes()


@pytest.mark.parametrize("harm", ["cut", "changed", "nothing"])
def test_what_does_not_arrive_whole_is_refused(directory: Path, tmp_path: Path, harm: str) -> None:
    lines = carried(directory).splitlines(keepends=True)
    texts = {
        "cut": "".join([*lines[:1], *lines[2:]]),
        "changed": "".join(lines).replace(lines[0][100:110], "AAAAAAAAAA"),
        "nothing": "Traceback\nFileNotFoundError: no such launch\n",
    }
    with pytest.raises(UserError, match=r"did not arrive whole") as refused:
        unpacked(texts[harm], tmp_path)
    assert ("no such launch" in str(refused.value)) == (harm == "nothing")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://head:8265/", "http://head:8265"),
        ("https://ray.example.org", "https://ray.example.org"),
        ("ray://head:10001", "http://head:8265"),
        ("ray://head", "http://head:8265"),
        ("head:6379", None),
        ("auto", None),
        (None, None),
    ],
)
def test_what_an_address_stands_for(address: str | None, url: str | None) -> None:
    assert dashboard_of(address) == url


class Submitted:
    """Takes jobs."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []

    def submit_job(self, **job: Any) -> None:
        if any(job["submission_id"] == other["submission_id"] for other in self.jobs):
            raise RuntimeError(f"Job with submission_id {job['submission_id']} already exists.")
        self.jobs.append(job)

    def list_jobs(self) -> list[Any]:
        return [SimpleNamespace(status="SUCCEEDED", start_time=at, **job) for at, job in enumerate(self.jobs)]


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> tuple[Jobs, Submitted]:
    jobs, client = object.__new__(Jobs), Submitted()
    jobs.url, jobs._client = "http://nowhere:8265", client
    return jobs, client


ASKED = Request(
    "launch 'my cfg.yaml' --set a='$(rm)'",
    Resources(workers=3, logical_gpus=True, address="http://nowhere:8265"),
    "0-3",
    ("trainer.timesteps=640",),
    retry_failed=True,
)


def run_on_head(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Request]:
    """What a launcher does on the head, by what was submitted."""
    got: list[Any] = []
    for name in ("proceed", "resume"):
        monkeypatch.setattr(session, name, lambda _, *given: got.append(given) or 0)
    command, *words = shlex.split(job["entrypoint"].replace("exec ", ""))
    assert [command, *words[:3]] == ["python", "-P", "-m", "launcher.cli.main"]
    assert main(words[3:]) == 0
    return got[0]


def test_a_directory_travels_and_goes_on_as_it_was_asked_for(
    submitted: tuple[Jobs, Submitted], directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, client = submitted
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert jobs.begin(directory, Path("our runs"), ASKED) == "$HOME/our runs/run"
    (job,) = client.jobs
    assert job["submission_id"] == "run" and job["metadata"] == {"launch": "run", "out": "$HOME/our runs"}
    monkeypatch.chdir(job["runtime_env"]["working_dir"])
    there, asked = run_on_head(job, monkeypatch)
    assert there == tmp_path / "home" / "our runs" / "run"
    assert asked == replace(ASKED, resources=replace(ASKED.resources, address="auto"))
    with pytest.raises(UserError, match="run: this cluster has had a launch of that name"):
        jobs.begin(directory, Path("our runs"), ASKED)


def test_a_launch_of_a_cluster_goes_on_in_another_job(
    submitted: tuple[Jobs, Submitted], directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, client = submitted
    jobs.begin(directory, tmp_path / "$(rm)", ASKED)
    assert jobs.resume("run", ASKED) == f"{tmp_path}/$(rm)/run"
    assert client.jobs[1]["submission_id"] == "run@2" and "working_dir" not in client.jobs[1]["runtime_env"]
    there, asked = run_on_head(client.jobs[1], monkeypatch)
    assert there == tmp_path / "$(rm)" / "run" and asked.seeds == "0-3"


def test_a_journal_of_a_ledger_is_not_carried_with_the_copy(directory: Path, tmp_path: Path) -> None:
    (directory / "ledger.sqlite-journal").write_bytes(bytes(512))
    there = unpacked(carried(directory), tmp_path)
    assert not list(there.glob("ledger.sqlite-*"))
