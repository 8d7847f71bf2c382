"""Configurations as the ledger keeps them: resolved, as JSON, without the seed, so that all seeds share one text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runner.config import Config, resolve


def text_of(config: Config) -> str:
    """A configuration as text."""
    data = config.dump()
    del data["seed"]
    return json.dumps(data)


def config_of(text: str, seed: int) -> Config:
    """The configuration that has this text and seed."""
    return resolve({"seed": seed, **json.loads(text)})[0]


def settings_of(text: str) -> dict[str, Any]:
    """Dotted key → value of a configuration's text, without the logging; lists and empty mappings stay whole."""

    def flat(data: dict[str, Any], above: str) -> Iterator[tuple[str, Any]]:
        for key, value in data.items():
            if isinstance(value, dict) and value:
                yield from flat(value, f"{above}{key}.")
            else:
                yield f"{above}{key}", value

    return {key: value for key, value in flat(json.loads(text), "") if not key.startswith("agent.experiment.")}
