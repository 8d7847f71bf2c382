"""Which modules the processes of a launch find."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.run import import_path
from tests.launcher.faulty import PATIENCE, write_config

ROOT = import_path.ROOT
SHOW = (
    "import sys, os, launcher.run.import_path as p; p.forget_folder(); print(*sys.path, os.environ.get('PYTHONPATH'))"
)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (":{other}", "{other}"),
        ("{other}:", "{other}"),
        (".:{other}:{here}", "{other}"),
        ("{here}/../here:{other}", "{other}"),
        ("{link}", ""),
        ("sub:{other}", "{here}/sub:{other}"),
    ],
)
def test_the_folder_of_the_start_is_on_no_path(tmp_path: Path, given: str, kept: str) -> None:
    here, other, link = tmp_path / "here", tmp_path / "other", tmp_path / "link"
    for folder in (here, other):
        folder.mkdir()
    link.symlink_to(here)
    names = {"here": here, "other": other, "link": link}
    # Where python -c, like python -m, has the folder; our packages come last.
    variables = os.environ | {"PYTHONPATH": f"{given.format(**names)}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", SHOW], cwd=here, env=variables, capture_output=True, text=True)
    *path, variable = done.stdout.split()
    assert variable == ":".join(filter(None, (kept.format(**names), ROOT))), done.stderr
    assert not {"", ".", str(here), str(link)} & set(path)
    assert {str(other)} & set(path) == ({str(other)} if "{other}" in given else set())


def test_a_folder_that_has_been_deleted_is_told(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    start = f"import os; os.rmdir({str(there)!r}); import sys; sys.argv[1:] = ['list']; "
    command = [sys.executable, "-c", f"{start}from launcher.cli.main import main; sys.exit(main())"]
    done = subprocess.run(command, cwd=there, env=os.environ | {"PYTHONPATH": ROOT}, capture_output=True, text=True)
    assert done.stderr == "error: the folder in which this was started has been deleted; cd to one that is there\n"
    assert done.returncode == 2


def test_packages_that_are_started_where_they_are_stay_on_the_path() -> None:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", SHOW], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.stdout.startswith((" ", ROOT)), done.stderr


MAIN = "import sys; from launcher.cli.main import main; sys.exit(main())"


@pytest.mark.cluster
@pytest.mark.parametrize("program", [["-m", "launcher.cli.main"], ["-c", MAIN]])
def test_no_file_beside_the_configuration_matters_and_no_length_of_tmpdir(tmp_path: Path, program: list[str]) -> None:
    config = write_config(tmp_path, 64)
    for name in ("runner", "torch", "jax", "ray", "numpy", "yaml", "envpool", "grpc", "pydantic", "psutil"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the folder of the start')")
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    arguments = [config.name, "--workers", "1", "--backend", "torch", "--name", "run"]
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(folder), "PYTHONPATH": f":{ROOT}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(folder.iterdir()) == []
