"""Fixtures of tests that must end before Ray starts, and of those that compare with what workers trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.launcher.refusals import Refused


@pytest.fixture(scope="module", autouse=True)
def _as_workers_compile(optimised: None) -> None:
    """Programs of a Runner here are those of the workers that it is compared with."""


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this file starts Ray; and there are no GPUs."""
    import envpool  # noqa: F401 - while it is imported for the first time, Ray starts
    import ray

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", started)
    monkeypatch.setattr("launcher.plan.resources.visible_gpus", lambda: 0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return Refused(capsys)
