"""The places where this program's processes look for modules: never in the folder where somebody happens to start it.

A file there called random.py or runner.py would be taken for the module of that name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).absolute().parents[2])
"""The folder of our packages."""


def forget_folder() -> None:
    """Take the current folder off this process's path, and off that of the processes that it starts.

    It is there through `python -m`, or an empty part of PYTHONPATH (`export PYTHONPATH=$PYTHONPATH:/lib`).
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:
        from runner.errors import UserError  # above, it might be the folder's own `runner`

        raise UserError("the folder in which this was started has been deleted; cd to one that is there") from None
    if _same(here, ROOT):
        return
    sys.path[:] = without(sys.path, here)
    if "PYTHONPATH" in os.environ:
        kept = without(os.environ["PYTHONPATH"].split(os.pathsep), here)
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, kept))


def without(path: Iterable[str], folder: str) -> list[str]:
    """The entries of a module search path that are not `folder`; an empty one is the current folder."""
    return [entry for entry in path if not _same(entry, folder)]


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def job_config(own: bool) -> Any:
    """Ray's settings of a driver whose workers find what is installed, and nothing that lies around the driver.

    Ray would have them look into the folders of the running script and of the shell first. To workers of our own Ray,
    on this machine, our packages do not travel.
    """
    from ray.job_config import JobConfig

    # Packages that are not installed, but run from where they are.
    found = [ROOT] if own and ROOT not in map(os.path.abspath, _installed()) else []
    config = JobConfig(_py_driver_sys_path=found)
    config._runtime_env_has_working_dir = lambda: True  # the one case in which Ray adds neither
    return config


def _installed() -> list[str]:
    import site

    return [*site.getsitepackages(), site.getusersitepackages()]
