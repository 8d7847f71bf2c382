"""The base of a configuration's sections, and what reads their values."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A block of keys, of which none may be unknown; the text below a field is what people are told of it."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=True, use_attribute_docstrings=True)


def class_name(*names: str) -> BeforeValidator:
    """Class names are case-insensitive in skrl, and may come with their module in front."""
    table = {name.casefold(): name for name in names}

    def fold(value: Any) -> Any:
        if isinstance(value, str):
            return table.get(value.rsplit(".", 1)[-1].casefold(), value)
        return value

    return BeforeValidator(fold)


def null_to_empty(value: Any) -> Any:
    """A block that is left empty has its defaults."""
    return {} if value is None else value
