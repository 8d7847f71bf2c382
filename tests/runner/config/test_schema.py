"""What the schema says of its own fields: a line on each, and its marks."""

from __future__ import annotations

import typing
from collections.abc import Iterator

from pydantic import BaseModel

from runner.config.marks import Mark, marked
from runner.config.schedules import KLAdaptiveLR
from runner.config.schema import Agent, Config
from runner.training.pack import Hyper


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section and all below it."""
    yield model
    for field in model.model_fields.values():
        for kind in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from sections(kind)


def test_every_field_says_in_one_line_what_it_is() -> None:
    found = {section: section.model_fields for section in sections(Config)}
    assert len(found) > 10
    for section, fields in found.items():
        for name, field in fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert "\n" not in field.description and field.description.endswith(".")


def test_numbers_that_are_marked_are_the_hyper_numbers() -> None:
    of_agent = {*marked(Agent, Mark.HYPER), "value_learning_rate"}
    of_schedule = {f"scheduler_{name}" for name in marked(KLAdaptiveLR, Mark.HYPER)}
    assert of_agent | of_schedule == set(Hyper._fields)
