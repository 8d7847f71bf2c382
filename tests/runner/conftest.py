"""Tests that both backends must pass ask for `backend`, or name the cases of each by `tests.runner.builders.both`."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["torch", "jax"])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend."""
    name: str = request.param
    return name
