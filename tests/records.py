"""What of a record is the same in every run."""

from __future__ import annotations

from collections.abc import Mapping

from runner.training.tracking import STEPS_PER_SECOND, TIME


def untimed(values: Mapping[str, float]) -> dict[str, float]:
    """A record's values without those of the clock."""
    return {tag: value for tag, value in values.items() if tag != STEPS_PER_SECOND and not tag.startswith(TIME)}
