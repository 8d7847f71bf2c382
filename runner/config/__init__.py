"""YAML and overrides of any skrl era in, one strict canonical `Config` out."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from runner.config import overrides as _overrides
from runner.config.eras import era_of
from runner.config.load import Key, Source, plain_copy, read_yaml
from runner.config.schedules import arguments_of
from runner.config.schema import Config
from runner.config.skrl import LEGACY_MODEL, canonical, canonical_override
from runner.errors import UserError, did_you_mean

__all__ = ["Config", "load_config", "resolve"]

MAX_REPORTED = 8


def load_config(path: str | Path, overrides: Iterable[tuple[Key, Any]] = ()) -> tuple[Config, list[str]]:
    """Read a YAML file strictly and apply overrides.

    Returns:
        The configuration and notes for the user (which era was read).

    Raises:
        UserError: anything wrong, with file, line, key, what was found and what is allowed.
    """
    data, source = read_yaml(path)
    return resolve(data, source, overrides)


def resolve(
    data: Mapping[str, Any], source: Source | None = None, overrides: Iterable[tuple[Key, Any]] = ()
) -> tuple[Config, list[str]]:
    """As `load_config`, for a mapping that is already in memory.

    Keys below `models` are overridden before translation, since a legacy model is translated as a whole; all others
    after it, under their canonical names, so that the command line also beats a file that uses an older name.
    """
    source = source or Source("configuration")
    overrides = list(overrides)
    raw = {str(k): v for k, v in data.items()}
    if overrides:
        raw = plain_copy(raw)
    for key, value in overrides:
        if key[0] == "models":
            _overrides.apply(raw, key, value)
    era = era_of(raw)
    given = {canonical_override(key, value, era)[0] for key, value in overrides if key[0] != "models"}
    source = replace(source, overridden=frozenset(given | {key for key, _ in overrides}))
    translated, notes = canonical(raw, source)
    for key, value in overrides:
        if key[0] != "models":
            _overrides.apply(translated, *canonical_override(key, value, era))
    try:
        return Config.model_validate(translated), notes
    except ValidationError as error:
        lines = _merged(_explain(detail, source, translated) for detail in error.errors())
        if len(lines) > MAX_REPORTED:
            lines = [*lines[:MAX_REPORTED], f"… and {len(lines) - MAX_REPORTED} more"]
        raise UserError("\n".join(lines)) from None


def _merged(sentences: Iterable[str]) -> list[str]:
    """The sentences, each once; what one value may be in several ways is said in one."""
    found: dict[str, list[str]] = {}
    for sentence in dict.fromkeys(sentences):
        start, separator, allowed = sentence.partition("; allowed: ")
        found.setdefault(start + separator, []).append(allowed)
    return [
        start + " or ".join(way.rstrip(".") if len(ways) > 1 else way for way in ways) for start, ways in found.items()
    ]


def _explain(detail: ErrorDetails, source: Source, data: Mapping[str, Any]) -> str:
    """One pydantic error as a sentence: where, what, what is allowed, nearest."""
    fields, key = _walk(detail["loc"], data)
    where = source.where(key)
    found, kind, context = detail["input"], detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        older = LEGACY_MODEL if key[0] == "models" and "network" in fields else set()
        near = did_you_mean(key[-1], sorted({*fields, *older}))
        return f"{where}: unknown key.{near or f' Allowed here: {_join(fields)}.'}"
    if kind == "missing":
        return f"{where}: required, but not given"
    if kind == "value_error":
        return f"{where}: {context['error']}" if key else f"{source.name}: {context['error']}"
    if kind == "literal_error":
        names = [name.strip("' ") for name in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"{where}: found {found!r}; allowed: {context['expected']}.{did_you_mean(found, names)}"
    if kind in ("model_type", "dict_type"):
        return f"{where}: found {found!r}; allowed: a block of keys"
    message = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{where}: found {found!r}; allowed: {message}"


def _join(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _walk(location: tuple[int | str, ...], data: Mapping[str, Any]) -> tuple[list[str], Key]:
    """Field names at the parent of an error's location, and the location without pydantic's own markers."""
    model: type[BaseModel] | None = Config
    fields: list[str] = _names(Config)
    key: list[int | str] = []
    for part in location:
        if isinstance(part, str) and (("[" in part) or part in ("bool", "int", "float", "str", "list", "dict")):
            continue
        key.append(part)
        if model is not None:
            fields = _names(model)
            field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
            model = _model_in(field.annotation) if field is not None else None
        if part == "learning_rate_scheduler_kwargs":
            model = arguments_of(data["agent"].get("learning_rate_scheduler"))
    return fields, tuple(key)


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType, list):
        return next(filter(None, map(_model_in, typing.get_args(annotation))), None)
    return None
