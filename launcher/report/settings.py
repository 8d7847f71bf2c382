"""What tells configurations apart: the settings in a trial's config.yaml, by dotted key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

NOT_TRAINED_BY = ("seed", "agent.experiment.")
"""Settings that make no other configuration."""


def read_settings(directory: Path, trial: str) -> tuple[dict[str, Any], str]:
    """Of a trial of the launch in `directory`: dotted keys, and the file's text; empty if it is gone or damaged."""
    with contextlib.suppress(OSError, yaml.YAMLError, UnicodeDecodeError):
        text = (directory / "trials" / trial / "config.yaml").read_text()
        data = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if isinstance(data, dict):
            return {key: value for key, value in flatten(data) if not key.startswith(NOT_TRAINED_BY)}, text
    return {}, ""


def flatten(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """`{a: {b: 1}}` → `a.b`, 1; lists and empty mappings stay whole."""
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
