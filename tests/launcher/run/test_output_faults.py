"""Output that goes away, and errors of the launcher, in the middle of training: `pytest -m cluster`.

Each launch saves at its end only, so whatever ends it otherwise would lose all.
"""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launcher.commands import assert_saved, command, launch, said, wait_for_records
from tests.launcher.faulty import PATIENCE, RECORD, assert_whole, counts, wait_until, write_config
from tests.launcher.held import held_launch, let

pytestmark = pytest.mark.cluster
RECORDS = 300


def words(tmp_path: Path) -> list[str]:
    """The arguments of a launch of one seed into `tmp_path / "run"`."""
    config = write_config(tmp_path, RECORDS * RECORD, backend="torch")
    last_only = ["--set", "agent.experiment.checkpoint_interval=1_000_000"]
    return [str(config), "--out", str(tmp_path), "--name", "run", "--workers", "1", *last_only]


def held(tmp_path: Path) -> list[str]:
    """The words that begin a launch which `tmp_path / "gate"` lets come to its end."""
    return held_launch(tmp_path / "gate", at=RECORDS - 100)


def shell(line: str, tmp_path: Path) -> subprocess.Popen[str]:
    """A line of a shell, in which LAUNCH is a launch that is held and SMALL an empty folder."""
    (tmp_path / "small").mkdir()
    launch = " ".join([*held(tmp_path), *words(tmp_path)])
    replaced = line.replace("LAUNCH", launch).replace("SMALL", str(tmp_path / "small"))
    return command(["sh", "-c", replaced], stderr=subprocess.PIPE)


def stop_reading(process: subprocess.Popen[str], _: Path) -> None:
    assert process.stdout is not None
    process.stdout.close()


def fill(process: subprocess.Popen[str], tmp_path: Path) -> None:
    disk = Path(f"/proc/{process.pid}/root{tmp_path}/small")  # as the launch sees it
    for name in ("filler", "log"):
        with pytest.raises(OSError, match="No space left"), (disk / name).open("ab", buffering=0) as file:
            while True:
                file.write(b"x")


def hang_up(process: subprocess.Popen[str], _: Path) -> None:
    os.killpg(process.pid, signal.SIGHUP)


def nothing(_: subprocess.Popen[str], __: Path) -> None:
    """The harm was there from the start."""


@pytest.mark.parametrize(
    ("line", "harm", "told"),
    [
        ("exec LAUNCH", stop_reading, "stdout cannot be written (Broken pipe); the launch does not need it: "),
        (
            "exec unshare -m sh -c 'mount -t tmpfs -o size=64k tmpfs SMALL; exec LAUNCH >>SMALL/log'",
            fill,
            "stdout cannot be written (No space left on device); the launch does not need it: ",
        ),
        ("exec LAUNCH <&- >&- 2>&-", nothing, ""),
        ("exec nohup LAUNCH", hang_up, ""),
    ],
    ids=["nobody reads", "full disk", "all closed", "hung up under nohup"],
)
def test_training_goes_on_to_its_end(
    tmp_path: Path, line: str, harm: Callable[[subprocess.Popen[str], Path], None], told: str
) -> None:
    if "unshare" in line and subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a file system of its own needs root")
    process = shell(line, tmp_path)
    wait_for_records(process, tmp_path / "run", 3)
    harm(process, tmp_path)
    let(tmp_path / "gate")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert errors.strip().startswith(told) and len(errors.splitlines()) == bool(told), errors
    assert_whole(tmp_path / "run", RECORDS)
    assert_saved(tmp_path / "run", "finished")


def test_a_terminal_that_goes_away_and_two_resumes_of_which_one_goes_on(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    process = command(["setsid", "--ctty", *held(tmp_path), *words(tmp_path)], start_new_session=False, **streams)
    os.close(theirs)
    shown = bytearray()

    def trained() -> bool:
        with contextlib.suppress(BlockingIOError):
            shown.extend(os.read(ours, 1 << 16))
        return max(counts(tmp_path / "run").values(), default=0) >= 3

    wait_until(trained, "records", failed=lambda: process.poll() is not None and bytes(shown))
    os.close(ours)
    assert process.wait(PATIENCE) == 129
    assert_saved(tmp_path / "run", "interrupted")

    resumes = [command([*held(tmp_path), "resume", tmp_path / "run"]) for _ in range(2)]
    wait_until(lambda: any(resume.poll() is not None for resume in resumes), "the end of the one that is refused")
    let(tmp_path / "gate")
    outputs = [said(resume) for resume in resumes]
    assert sorted(resume.returncode for resume in resumes) == [0, 2], outputs
    assert ["is in use by another launch" in output for output in outputs] == [r.returncode == 2 for r in resumes]
    assert_whole(tmp_path / "run", RECORDS)
    assert_saved(tmp_path / "run", "finished")


def test_an_error_of_the_launcher_lets_workers_save(tmp_path: Path) -> None:
    """One of what is shown ends nothing; any other ends the launch in good order."""
    code = """
        import sys
        from launcher.run.dispatch import _Dispatch
        from launcher.watch.progress import View
        from tests.launcher import held
        from tests.launcher.faulty import counts

        def refresh(*_):
            raise KeyError("refresh")

        def tend(self):
            whole(self)
            if min(counts(self.directory).values(), default=0) >= 12:
                raise RuntimeError("boo")

        View.refresh, whole, _Dispatch._tend = refresh, _Dispatch._tend, tend
        sys.exit(held.run(sys.argv[1:]))
    """
    _, _, _, *gate = held(tmp_path)
    process = command([sys.executable, "-c", textwrap.dedent(code), *gate, *words(tmp_path)])
    output = said(process)
    assert process.returncode == 1, output
    assert output.count("training goes on, but what is shown of it may be wrong") == 1
    assert output.splitlines()[-1] == "error: RuntimeError: boo (--debug shows where)"
    assert f"Continue:    launch resume {tmp_path}/run\n" in output
    assert_saved(tmp_path / "run", "interrupted")
    resume = launch("resume", tmp_path / "run")
    output = said(resume)
    assert resume.returncode == 0, output
    assert_whole(tmp_path / "run", RECORDS)
