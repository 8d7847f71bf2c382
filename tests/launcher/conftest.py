"""Fixtures of tests that must end before Ray starts, and of those that compare with what workers trained."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.local_ray import local_ray
from tests.launcher.refusals import Refused

HERE = Path(__file__).parent
SHARING: set[Path] = set()
"""Modules that use `two_cores`."""
RUNNING = contextlib.ExitStack()
"""The Ray that they share."""


@pytest.fixture(scope="module")
def two_cores() -> list[str]:
    """One Ray of two cores for all launches of a module, and of those that come next; the arguments that use it."""
    import ray

    if not ray.is_initialized():
        patch = RUNNING.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is left in the home folder
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        RUNNING.enter_context(local_ray(num_cpus=2))
    return ["--address", "auto"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let modules that share a Ray come one after the other, last of those here."""
    here = [item for item in items if item.path.is_relative_to(HERE)]
    SHARING.update(item.path for item in here if "two_cores" in getattr(item, "fixturenames", ()))
    ordered = iter(sorted(here, key=lambda item: item.path in SHARING))
    items[:] = [next(ordered) if item.path.is_relative_to(HERE) else item for item in items]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the shared Ray after the last module that uses it."""
    if nextitem is None or nextitem.path not in SHARING:
        RUNNING.close()


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
