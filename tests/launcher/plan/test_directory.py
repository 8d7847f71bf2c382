"""Directories that cannot be written, are taken or damaged: exit status 2, one paragraph, nothing changed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import main
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Published
from launcher.plan import directory as folder
from launcher.plan import revision
from runner.errors import UserError
from tests.launcher.builders import read_experiment
from tests.launcher.refusals import CARTPOLE, Refused, small_launch

pytestmark = pytest.mark.usefixtures("no_ray")


# Directories


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_existing_directory_stays_as_it_is(tmp_path: Path, refused: Refused) -> None:
    small_launch(tmp_path)
    before = contents(tmp_path)
    said = refused(CARTPOLE, "--out", tmp_path, "--name", "one")
    assert "exists already and is never overwritten" in said and f"launch resume {tmp_path}/one" in said
    assert contents(tmp_path) == before
    (tmp_path / "file").write_text("mine")
    assert "exists already" in refused(CARTPOLE, "--out", tmp_path, "--name", "file")
    (tmp_path / "link").symlink_to("nowhere")
    assert "exists already" in refused(CARTPOLE, "--out", tmp_path, "--name", "link")


def test_launches_of_one_second_have_directories_of_their_own(tmp_path: Path) -> None:
    trials = read_experiment([CARTPOLE], [], {}, None).trials
    made = [folder.create(tmp_path / "now", trials, named=False) for _ in range(3)]
    assert [path.name for path in made] == ["now", "now_2", "now_3"]
    assert all((path / "plan.json").is_file() for path in made)


@pytest.mark.parametrize("begun", [True, False])
def test_a_directory_in_which_nothing_was_begun_is_taken_back_with_what_was_made_for_it(
    tmp_path: Path, begun: bool
) -> None:
    trials = read_experiment([CARTPOLE], [], {}, None).trials
    (tmp_path / "mine").mkdir()
    with (
        contextlib.suppress(KeyboardInterrupt),
        folder.beginning(tmp_path / "mine" / "runs" / "one", lambda path: folder.create(path, trials)) as made,
    ):
        with pytest.raises(UserError, match="is in use by another launch"):
            folder.refuse_running(made)
        if begun:
            folder.add_revision(made, {"command": "launch"})
        raise KeyboardInterrupt
    assert made.exists() == begun and (tmp_path / "mine" / "runs").exists() == begun
    assert (tmp_path / "mine").is_dir()


def test_what_has_travelled_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    sent, there = small_launch(tmp_path, "sent"), tmp_path / "there" / "one"
    assert folder.adopt(sent, there) == there
    assert contents(there) == {name.replace(str(sent), str(there)): data for name, data in contents(sent).items()}
    with pytest.raises(UserError, match="exists already and is never overwritten"):
        folder.adopt(sent, there)
    with pytest.raises(UserError, match=r"two: cannot be written"):
        folder.adopt(tmp_path / "nowhere", tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_directory_of_a_launch_as_file(tmp_path: Path, refused: Refused) -> None:
    path = small_launch(tmp_path)
    assert refused(path).endswith(f"the directory of a launch. Did you mean `launch resume {path}`?")


def test_checkpoint_as_file(tmp_path: Path, refused: Refused) -> None:
    launch = small_launch(tmp_path)
    inside, outside, old = launch / "trials/a_s0/best_agent.safetensors", tmp_path / "b.safetensors", tmp_path / "b.pt"
    inside.parent.mkdir(parents=True, exist_ok=True)
    for path in (inside, outside, old):
        path.write_bytes(b"weights")
    for path in (inside, outside):
        said = refused(CARTPOLE, path)
        assert f"{path}: a checkpoint, no configuration. `launch eval {path}` lets it play" in said
        assert f"`launch export {path}` makes a policy" in said
        assert (f"`launch resume {launch}` trains on" in said) == (path == inside)
    assert "A Runner's `agent.load` reads it" in refused(old)


def test_out_below_a_file(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file/x/one: cannot be written: Not a directory" in refused(
        CARTPOLE, "--out", tmp_path / "file" / "x", "--name", "one"
    )
    assert "file/one: cannot be written: " in refused(CARTPOLE, "--out", tmp_path / "file", "--name", "one")
    long = tmp_path / ("x" * 300)
    assert "cannot be written: File name too long" in refused(CARTPOLE, "--out", long, "--name", "one")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a file system needs root")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk(mounted: Path, refused: Refused) -> None:
    said = refused(CARTPOLE, "--seeds", "8", "--out", mounted, "--name", "one")
    assert said.startswith(f"{mounted}/one: cannot be written: ")
    assert "No space left" in said or "full" in said
    assert list(mounted.iterdir()) == []
    said = refused(CARTPOLE, "--out", mounted, "--name", "one")  # small enough but for the ledger
    assert said == f"{mounted}/one: cannot be written: database or disk is full"
    assert list(mounted.iterdir()) == []


def test_read_only_disk(mounted: Path, refused: Refused) -> None:
    (mounted / "one").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    said = refused(CARTPOLE, "--out", mounted, "--name", "two")
    assert said == f"{mounted}/two: cannot be written: Read-only file system"


def test_folder_that_cannot_be_written(tmp_path: Path, refused: Refused) -> None:
    place = Path("/proc/self") if os.geteuid() == 0 else tmp_path / "closed"
    if os.geteuid():
        place.mkdir(mode=0o500)
    assert "/one: cannot be written: " in refused(CARTPOLE, "--out", place, "--name", "one")


def test_nothing_is_left_where_ray_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("launcher.cluster.connect.connected", cannot)
    assert main([str(CARTPOLE), "--out", str(tmp_path), "--name", "one"]) == 1
    assert list(tmp_path.iterdir()) == []


# resume


def test_copies_for_people_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_launch(tmp_path)
    shutil.rmtree(path / "trials")
    (path / "plan.json").write_text("{")
    assert main(["resume", str(path), "--dry-run", "--workers", "1"]) == 0
    assert "2 trials in 1 pack" in capsys.readouterr().out
    folder.add_revision(path, {"command": "resume"})
    plan = json.loads((path / "plan.json").read_text())
    assert [row["seed"] for row in plan["trials"]] == [0, 1] and len(plan["revisions"]) == 2


def test_damaged_directory(tmp_path: Path, refused: Refused) -> None:
    path = small_launch(tmp_path)
    (path / "ledger.sqlite").write_bytes(b"no database, but long enough to be looked at" * 100)
    for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
        (path / name).unlink(missing_ok=True)
    assert "ledger.sqlite: cannot be read: file is not a database" in refused("resume", path)
    (path / "ledger.sqlite").unlink()
    assert "not a launch directory: it has no ledger.sqlite" in refused("resume", path)


def test_resume_where_another_launch_is_at_work(tmp_path: Path, refused: Refused) -> None:
    path = small_launch(tmp_path)
    with folder.working(path):
        before = contents(path)
        for more in ([], ["--workers", "1"], ["--seeds", "8"], ["--dry-run"]):
            assert "is in use by another launch" in refused("resume", path, *more)
        assert contents(path) == before


def test_resume_while_the_ledger_of_a_dead_launch_is_still_held(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.ledger.aggregator.RELEASE_SECONDS", 0.0)
    path = small_launch(tmp_path)
    with Ledger(path):
        assert "is in use by another launch" in refused("resume", path, "--workers", "1")
    assert len(json.loads((path / "plan.json").read_text())["revisions"]) == 1


def test_resume_writes_only_into_launches(tmp_path: Path, refused: Refused) -> None:
    assert "not a launch directory" in refused("resume", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_commit_of_code_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    code = tmp_path / "venv" / "launcher" / "directory.py"
    code.parent.mkdir(parents=True)
    code.touch()
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "somebody's project")
    monkeypatch.delenv(revision.COMMIT, raising=False)
    monkeypatch.setattr(revision, "__file__", str(code))
    assert revision.git_commit() is None  # installed inside another repository
    git("add", "-A")
    git("commit", "-q", "-m", "ours")
    assert revision.git_commit() == git("rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    code.write_text("changed")
    assert str(revision.git_commit()).endswith("+")
    monkeypatch.setenv(revision.COMMIT, "abc+")  # on a cluster's head
    assert revision.git_commit() == "abc+"
    monkeypatch.setenv(revision.COMMIT, "")
    assert revision.git_commit() is None


def test_resume_refuses_bad_flags(tmp_path: Path, refused: Refused) -> None:
    path = small_launch(tmp_path)
    assert "--workers 0: allowed: 1 or more" in refused("resume", path, "--workers", "0")
    assert "--gpus 4: Ray finds 0" in refused("resume", path, "--gpus", "4")
    assert "nothing answers there" in refused("resume", path, "--address", "127.0.0.1:1")
    lengths = ("--set", "trainer.timesteps=6400", "--set", "trainer.timesteps=9600")
    assert "trainer.timesteps=9600: given twice, 6400 before" in refused("resume", path, *lengths)
    assert len(json.loads((path / "plan.json").read_text())["revisions"]) == 1


@pytest.mark.parametrize(("final", "status"), [("finished", 0), ("diverged", 1)])
def test_resume_of_what_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], final: Any, status: int) -> None:
    path = small_launch(tmp_path)
    with Ledger(path) as ledger:
        names = [row.id for row in ledger.trials()]
        attempt = ledger.open(names, "t").number
        ledger.publish(attempt, {name: Published(0, b"", "agent", 0, final) for name in names})
    assert main(["resume", str(path)]) == status
    finished = 2 if final == "finished" else 0
    said = capsys.readouterr().out
    assert f"{finished} of 2 trials are finished; nothing to do" in said
    assert ("Left as they are: 2 diverged" in said) == (not finished)
