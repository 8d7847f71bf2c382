"""Configurations as the ledger keeps them: resolved, as JSON, without the seed, so that all seeds share one text."""

from __future__ import annotations

import json

from runner.config import Config, resolve


def text_of(config: Config) -> str:
    """A configuration as text."""
    data = config.dump()
    del data["seed"]
    return json.dumps(data)


def config_of(text: str, seed: int) -> Config:
    """The configuration that has this text and seed."""
    return resolve({"seed": seed, **json.loads(text)})[0]
