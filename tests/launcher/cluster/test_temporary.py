"""The folder that Ray's files go to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.cluster.temporary import LONGEST, ray_folder
from launcher.run.import_path import ROOT
from runner.errors import UserError
from tests.launcher.faulty import PATIENCE, write_config

NOBODY = 12345
LONG = "net_tdfcarhc_people_poebhkiwa_scratch/slurm_jobdir/1355700/tmp.t0016"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="sf") as folder:
        yield Path(folder)


def test_the_persons_choice_holds_where_ray_can_work(short: Path) -> None:
    mine, other = short / "a", short / "b"
    for variables in ({"RAY_TMPDIR": str(mine)}, {"TMPDIR": str(mine)}, {"RAY_TMPDIR": str(mine), "TMPDIR": "/x"}):
        assert ray_folder(variables, [str(other)]) == mine / "ray"
    for variables in ({}, {"TMPDIR": ""}, {"RAY_TMPDIR": "", "TMPDIR": ""}):
        assert ray_folder(variables, [str(other)]) == other / "ray"


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
@pytest.mark.parametrize("kind", ["long", "no folder", "impossible"])
def test_a_folder_that_ray_cannot_use_is_replaced_by_a_short_one(short: Path, name: str, kind: str) -> None:
    (short / "file").touch()
    folder = {"long": short / LONG, "no folder": short / "file", "impossible": Path("/proc/none")}[kind]
    others = [str(short / "file"), str(short)]
    assert ray_folder({name: str(folder)}, others) == short / f"ray-{os.getuid()}"


def test_names_are_counted_in_bytes(short: Path) -> None:
    room = LONGEST - len(os.fsencode(short)) - len("//ray")
    assert ray_folder({"TMPDIR": str(short / ("x" * room))}, [str(short)]).name == "ray"
    for longer in ("x" * (room + 1), "é" * (room // 2 + 1)):
        assert ray_folder({"TMPDIR": str(short / longer)}, [str(short)]) == short / f"ray-{os.getuid()}"


def test_a_full_disk_is_none(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = short / "full"
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6 if full in path.parents else 10**9)
    )
    assert ray_folder({"TMPDIR": str(full)}, [str(short)]) == short / f"ray-{os.getuid()}"
    with pytest.raises(UserError, match="1 MB free, 50 MB needed"):
        ray_folder({"TMPDIR": str(full)}, [str(full)])


def test_a_folder_of_somebody_else_is_none(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: short / "theirs" not in Path(path).parents)
    assert ray_folder({"TMPDIR": str(short / "theirs")}, [str(short)]) == short / f"ray-{os.getuid()}"


def test_without_any_folder_every_reason_is_told(short: Path) -> None:
    with pytest.raises(UserError) as caught:
        ray_folder({"TMPDIR": str(short / LONG)}, ["/proc/none"])
    text = str(caught.value)
    assert "set RAY_TMPDIR to a short one" in text
    assert f"bytes long, at most {LONGEST} are possible" in text
    assert f"/proc/none/ray-{os.getuid()}: No such file" in text


@pytest.mark.cluster
@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root, to be somebody else")
@pytest.mark.parametrize("home", [{}, {"HOME": "/nonexistent"}])
def test_a_user_without_name_and_home_trains(short: Path, home: dict[str, str]) -> None:
    os.chown(short, NOBODY, NOBODY)
    config = write_config(short, 64)
    # Reads what root may, since the interpreter can be in a home folder; writes only what is its own.
    rights = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *rights, sys.executable]
    arguments = ["-m", "launcher.cli.main", config.name, "--workers", "1", "--backend", "jax", "--name", "run"]
    variables = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ROOT} | home
    done = subprocess.run(
        [*command, *arguments], cwd=short, env=variables, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PermissionError" not in "".join(log.read_text() for log in (short / "runs" / "run" / "logs").iterdir())
