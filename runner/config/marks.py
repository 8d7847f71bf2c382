"""Marks of a configuration's fields, where the schema declares them: what they are to a trial.

Keys of a configuration (its identity, the packs it may join, the program it compiles to) are its canonical text without
the fields of some marks, so that a new field says once what it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel


class Mark(Enum):
    """Role of a field besides being a part of the trial's identity and of its Static signature."""

    HYPER = "a number of its own for every member of a pack"
    CHANGES = "what becomes of such numbers: while it trains, or of some agents"
    SEED = "the seed, which members of a pack differ in"
    NAME = "what the output is called"
    OUTPUT = "how often something is written or evaluated, or how it is run, which changes nothing that is learned"
    LENGTH = "how long to train"
    ACTING = "part of the agent section that actions depend on"
    PLACE = "what it trains on, which changes results by rounding alone"
    LATER = (
        "younger than trials' ids: with its default it is no part of any key, so that those of before stay as they are"
    )


OF_MEMBERS = (Mark.HYPER, Mark.CHANGES, Mark.SEED)
"""Marks of fields in which members of a pack may differ."""


@dataclass(frozen=True)
class CountsAs:
    """A value of a field that is to a trial the same as another one: what differs is where it is refused."""

    value: Any
    other: Any


def dump_without(model: BaseModel, marks: Collection[Mark]) -> dict[str, Any]:
    """Plain data of a configuration, or of a section of one, without the fields that have any of these marks."""
    data = model.model_dump(by_alias=True)
    _prune(model, data, marks)
    return data


def _prune(model: BaseModel, data: dict[str, Any], marks: Collection[Mark]) -> None:
    for name, field in type(model).model_fields.items():
        value, key = getattr(model, name), field.alias or name
        later = Mark.LATER in field.metadata and value == field.get_default(call_default_factory=True)
        if later or any(mark in marks for mark in field.metadata):
            del data[key]
        elif isinstance(value, BaseModel):
            _prune(value, data[key], marks)
        for alike in (mark for mark in field.metadata if isinstance(mark, CountsAs) and mark.value == value):
            data[key] = alike.other


def marked(model: BaseModel | type[BaseModel], mark: Mark) -> list[str]:
    """Names of a section's own fields that have this mark."""
    fields = (model if isinstance(model, type) else type(model)).model_fields
    return [field.alias or name for name, field in fields.items() if mark in field.metadata]


def text(data: Any) -> str:
    """Canonical text of plain data."""
    return json.dumps(data, sort_keys=True)
