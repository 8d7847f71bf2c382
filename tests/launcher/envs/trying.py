"""Environments that do something odd while `launch check` tries them, for whose process nothing heavy is imported."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.point import DoingAtStep

HANGS = "SUNFLOWER_TEST_HANGS"
"""The variable that names the file which is there once an environment hangs."""


def doing(do: Callable[[], Any]) -> DoingAtStep:
    return DoingAtStep(do, seed=7)


def printing() -> DoingAtStep:
    return doing(partial(print, "here I am"))


def hang() -> None:
    Path(os.environ[HANGS]).touch()
    time.sleep(1000)


def hanging() -> DoingAtStep:
    return doing(hang)


def leaving() -> DoingAtStep:
    helper = subprocess.Popen(["sleep", "300"])
    print(helper.pid, flush=True)
    return doing(lambda: None)


def dying() -> DoingAtStep:
    return doing(os.abort)


def vanishing() -> DoingAtStep:
    return doing(partial(os._exit, 0))
