"""What tells configurations apart: the settings of a trial's configuration, by dotted key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.ledger.ledger import reading
from runner.config.load import dump

NOT_TRAINED_BY = ("agent.experiment.",)
"""Settings that make no other configuration."""


def read_settings(directory: Path, trial: str) -> tuple[dict[str, Any], str]:
    """Settings of a trial of the launch in `directory`, by dotted key, and its configuration as YAML."""
    with reading(directory) as ledger:
        data = json.loads(ledger.configurations([trial])[trial])
    return {key: value for key, value in flatten(data) if not key.startswith(NOT_TRAINED_BY)}, dump(data)


def flatten(data: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """`{a: {b: 1}}` → `a.b`, 1; lists and empty mappings stay whole."""
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
