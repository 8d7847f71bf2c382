"""Files are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner import files
from runner.errors import UserError
from runner.files import expanded, write_whole


def test_written_with_the_folders_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_whole(path, b"one")
    write_whole(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


def test_others_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_names_are_on_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").resolve())
        whole(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    write_whole(tmp_path / "a" / "b" / "file", b"one")
    assert set(synced[1:]) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_error_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write_whole(tmp_path / "file", b"old")

    def full(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(files.os, "fsync", full)
    for path in (tmp_path / "file", tmp_path / "new", tmp_path / "a" / "b" / "new"):
        with pytest.raises(type(error)):
            write_whole(path, b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_what_is_in_the_way_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "folder", b"new")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "file" / "below", b"new")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


# Paths


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("~/runs", "/home/me/runs"),
        ("~", "/home/me"),
        ("$SCRATCH/a", "/scratch/me/a"),
        ("${SCRATCH}/${NUMBER}_b", "/scratch/me/7_b"),
        ("$HOME$SCRATCH", "/home/me/scratch/me"),
        ("a~b/c", "a~b/c"),
        ("a$", "a$"),
        ("./x", "x"),
        ("$ROOTED/x", "/home/me/y/x"),
    ],
)
def test_home_and_variables(monkeypatch: pytest.MonkeyPatch, written: str, expected: str) -> None:
    for name, value in (("HOME", "/home/me"), ("SCRATCH", "/scratch/me"), ("NUMBER", "7"), ("ROOTED", "~/y")):
        monkeypatch.setenv(name, value)
    assert expanded(written) == expanded(Path(written)) == Path(expected)


def test_what_is_there_is_meant_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("~", "a$HOME", "$nobody_set_this"):
        Path(name).touch()
        assert expanded(name) == Path(name)


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ("$NOBODY_SET_THIS/x", r"\$NOBODY_SET_THIS/x: the environment variable NOBODY_SET_THIS is not set"),
        ("/a/${NOBODY_SET_THIS}", "the environment variable NOBODY_SET_THIS is not set"),
        ("~nobody_is_called_so/x", "no home folder is known for ~nobody_is_called_so; write the whole path"),
    ],
)
def test_paths_that_lead_nowhere(written: str, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        expanded(written)
